"""Two servers with the same history: what is expected of one is expected of the other."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import metrics_servers
import pytest
from metrics_servers import Line

START = datetime(2026, 10, 1, 12, tzinfo=UTC)
STEP_S = 5
LONG_S = 12_600
"""More than 11,000 points a series at a step of 1 s."""


def at(number: float, step_s: float = STEP_S) -> float:
    return START.timestamp() + number * step_s


def history() -> str:
    """Counters, a histogram and gauges of two arms; a restart, a gap, a pair of replicas, a NaN."""
    lines = []
    for arm, instances, rate in (("baseline", ("a:1", "a:2"), 10.0), ("canary", ("b:1",), 12.0)):
        for instance in instances:
            own = {"version": arm, "instance": instance}
            for n in range(121):
                restarted = n - 60 if arm == "canary" and n >= 60 else n
                ts = at(n) + (0.4 if instance == "a:2" else 0.0)  # targets are scraped at moments of their own
                gap = instance == "a:2" and 30 <= n < 40
                if not gap:
                    lines += [
                        Line("http_requests_total", {**own, "code": "200", "handler": "/a"}, rate * restarted, ts),
                        Line("seconds_bucket", {**own, "le": "0.1"}, rate * restarted * 0.5, ts),
                        Line("seconds_bucket", {**own, "le": "0.25"}, rate * restarted * 0.9, ts),
                        Line("seconds_bucket", {**own, "le": "+Inf"}, rate * restarted, ts),
                        Line("seconds_sum", own, rate * restarted * 0.1, ts),
                        Line("seconds_count", own, rate * restarted, ts),
                        Line("memory_bytes", own, float("nan") if n == 7 else 1e6 + n, ts),
                    ]
    results = {
        "jobs_total": {"baseline": ("done", "failed"), "canary": ("done",)},
        "tasks_total": {"baseline": ("done", "failed"), "canary": ("done", "error")},
    }
    lines += [
        Line(name, {"version": arm, "instance": f"{arm}:1", "result": result}, float(n), at(n))
        for name, arms in results.items()
        for arm, values in arms.items()
        for result in values
        for n in range(121)
    ]
    for replica in ("one", "two"):
        labels = {"version": "canary", "instance": "b:1", "replica": replica}
        lines += [Line("pairs", labels, float(n), at(n)) for n in range(20)]
    lines += [
        Line("long_gauge", {"version": "canary", "instance": "b:1"}, float(n % 97), at(n, 1)) for n in range(LONG_S)
    ]
    kinds = {
        "http_requests": "counter",
        "jobs": "counter",
        "tasks": "counter",
        "seconds": "histogram",
        "memory_bytes": "gauge",
        "pairs": "gauge",
        "long_gauge": "gauge",
    }
    lines.sort(key=lambda line: (line.name, sorted(line.labels.items()), line.ts))
    return metrics_servers.openmetrics(lines, kinds)


@pytest.fixture(scope="module", params=["prometheus", "victoria-metrics"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("server")
    if request.param == "prometheus":
        with metrics_servers.prometheus(folder, metrics_servers.backfill(folder, history())) as address:
            yield address
    else:
        with metrics_servers.victoria_metrics(folder, history()) as address:
            yield address
