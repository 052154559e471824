"""Readings with a known truth: what a metrics server would scrape while simulated requests are answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from evaluator.records import Answer, Part, Query, QueryKind, Series
from evaluator.records.arrays import BoolArray, FloatArray, IntArray
from evaluator.simulate.requests import Requests

REQUESTS = Query("http_requests_total{$selector}", QueryKind.COUNTER)
FAILURES = Query('http_requests_total{$selector,code=~"5.."}', QueryKind.COUNTER)
DURATION = Query("http_request_duration_seconds{$selector}", QueryKind.HISTOGRAM)

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Default bounds of histograms in the Python client of Prometheus."""


@dataclass(frozen=True, slots=True)
class Scrapes:
    """How the requests are scraped, and which defects the scrapes have."""

    step_s: int = 15
    bounds_s: tuple[float, ...] = BOUNDS_S
    restarts: int = 0
    """Number of instances whose counters start again from 0, once each, between two scrapes."""
    missing: float = 0.0
    """Share of scrapes that are missing, drawn for each instance separately."""
    arms: tuple[str, ...] = field(default=())
    """Arms that are scraped; empty: all."""


def scrape(requests: Requests, scrapes: Scrapes | None = None, seed: int = 0) -> tuple[Answer, ...]:
    """Return counters of requests and failures and a histogram of response times (s), by instance and endpoint.

    A request counts when it starts. Scrapes come at the end of each step, a millisecond before the next step begins, so
    that a bucket of readings holds the same requests as the same bucket of requests. `scrapes=None`: the defaults.
    """
    scrapes = scrapes or Scrapes()
    rng = np.random.default_rng(seed)
    step_ms = scrapes.step_s * 1000
    first, last = int(requests.ts_us.min()) // (step_ms * 1000), int(requests.ts_us.max()) // (step_ms * 1000) + 1
    at_ms = np.arange(first, last + 1) * step_ms - 1
    series: dict[tuple[Query, str], list[Series]] = {}
    pods = np.unique(np.column_stack([requests.arm, requests.instance]), axis=0).tolist()
    restarted = set(rng.permutation(len(pods))[: scrapes.restarts].tolist())
    for number, (arm, instance) in enumerate(pods):
        name = requests.arms[arm]
        if not scrapes.arms or name in scrapes.arms:
            reset = int(rng.integers(at_ms.size // 3, at_ms.size * 2 // 3)) if number in restarted else None
            scraped = rng.random(at_ms.size) >= scrapes.missing
            scraped[[0, -1]] = True
            for query, own in _scrape_instance(requests, arm, instance, scrapes, at_ms, reset, scraped):
                series.setdefault((query, name), []).append(own)
    start, end = (datetime.fromtimestamp(int(at) / 1000, UTC) for at in (at_ms[0], at_ms[-1]))
    return tuple(
        Answer(query, name, (query.text,), start, end, float(scrapes.step_s), tuple(instance_series))
        for (query, name), instance_series in series.items()
    )


def _scrape_instance(
    requests: Requests,
    arm: int,
    instance_code: int,
    scrapes: Scrapes,
    at_ms: IntArray,
    reset: int | None,
    scraped: BoolArray,
) -> Iterator[tuple[Query, Series]]:
    of_instance = (requests.arm == arm) & (requests.instance == instance_code)
    instance = requests.instances[instance_code] or requests.arms[arm]
    for code in np.unique(requests.endpoint[of_instance]).tolist():
        rows = np.flatnonzero(of_instance & (requests.endpoint == code))
        rows = rows[np.argsort(requests.ts_us[rows], kind="stable")]
        until = np.searchsorted(requests.ts_us[rows], at_ms * 1000, side="right")
        seconds = requests.response_us[rows] / 1e6
        labels = {"handler": requests.endpoints[code], "instance": instance}

        def count(weights: FloatArray, until: IntArray = until) -> FloatArray:
            total = np.append(0.0, np.cumsum(weights))[until]
            if reset is None:
                return total
            return np.where(np.arange(total.size) > reset, total - total[reset], total)

        for query, part, le, weights in _parts(requests.failed[rows], seconds, scrapes.bounds_s):
            own = labels | ({"le": f"{le:g}"} if part == "bucket" else {})
            values = count(weights)
            yield query, Series(own, instance, requests.endpoints[code], part, le, at_ms[scraped], values[scraped])


def _parts(
    failed: BoolArray, seconds: FloatArray, bounds_s: Sequence[float]
) -> Iterator[tuple[Query, Part, float, FloatArray]]:
    """What each counter adds for each request."""
    every = np.ones(seconds.size)
    nan = float("nan")
    yield REQUESTS, "value", nan, every
    yield FAILURES, "value", nan, failed.astype(float)
    yield DURATION, "count", nan, every
    yield DURATION, "sum", nan, seconds
    for le in (*bounds_s, float("inf")):
        yield DURATION, "bucket", le, (seconds <= le).astype(float)
