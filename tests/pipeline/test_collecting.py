"""Readings of a real Prometheus that scrapes a small service: collected, followed, interrupted, killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import metrics_servers
import numpy as np
import pytest
import requests
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from evaluator.errors import SourceError, UnknownName, UsageError
from evaluator.pipeline.collecting import (
    CollectionInterval,
    collect_load,
    collect_release,
    collect_windows,
    find_load_interval,
    follow_release,
)
from evaluator.pipeline.judging import judge_release
from evaluator.pipeline.landing import land_release
from evaluator.policy import Policy, load_policy
from evaluator.records import Level, Release, Run, RunState, VerdictWord
from evaluator.sources.load import free_port
from evaluator.store import Store

SCRAPE = "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"


class Service:
    """One instance an arm that counts by itself, ten requests a second."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self.stop = threading.Event()
        self.servers = []

    def start(self) -> None:
        for arm in ("baseline", "canary"):
            registry, port = CollectorRegistry(), free_port()
            requests = Counter("http_requests", "Requests.", ("code",), registry=registry)
            memory = Gauge("memory_bytes", "Memory.", registry=registry)
            self.servers.append(start_http_server(port, "127.0.0.1", registry))
            self.ports[arm] = port
            threading.Thread(target=self._count, args=(requests, memory), daemon=True).start()

    def _count(self, requests: Counter, memory: Gauge) -> None:
        while not self.stop.wait(0.1):
            requests.labels("200").inc()
            memory.set(1e6)

    def close(self) -> None:
        self.stop.set()
        for server, thread in self.servers:
            server.shutdown()
            server.server_close()
            thread.join(5)

    def config(self) -> str:
        jobs = "".join(
            f"  - {{targets: ['127.0.0.1:{port}'], labels: {{version: {arm}}}}}\n" for arm, port in self.ports.items()
        )
        return f"{SCRAPE}scrape_configs:\n- job_name: svc\n  static_configs:\n{jobs}"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    running = Service()
    running.start()
    yield running
    running.close()


@pytest.fixture(scope="module")
def server(service, tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    with metrics_servers.prometheus(folder, folder / "data", service.config()) as url:
        wait_for_scrapes(url)
        time.sleep(6)
        yield url


def wait_for_scrapes(url: str) -> None:
    """A Prometheus takes about five seconds until it knows its targets."""
    deadline = time.monotonic() + 30
    while not requests.get(f"{url}/api/v1/query", params={"query": "memory_bytes"}, timeout=5).json()["data"]["result"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def make_policy(folder: Path, url: str, **changes: str) -> Policy:
    selectors = changes.get("selectors", "{baseline: 'version=\"baseline\"', canary: 'version=\"canary\"'}")
    path = folder / "evaluator.yaml"
    path.write_text(
        f"""sources: {{prometheus: {{url: '{url}', step: 1s, selectors: {selectors}}}}}
metrics:
  - name: failures
    type: counter_ratio
    failures: http_requests_total{{$selector,code="500"}}
    requests: http_requests_total{{$selector}}
    margin: 1pp
  - {{name: memory, type: gauge_mean, query: "memory_bytes{{$selector}}", margin: 5%}}
  - {{name: twice, type: gauge_mean, query: "2 * memory_bytes{{$selector}}", role: watch}}
"""
    )
    return load_policy(path)


@pytest.fixture
def policy(server, tmp_path) -> Policy:
    return make_policy(tmp_path, server)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "evaluator.duckdb", create=True)


def last(seconds: float) -> CollectionInterval:
    now = datetime.now(UTC)
    return CollectionInterval(now - timedelta(seconds=seconds), now)


def samples(store: Store, run: Run, what: str = "memory%") -> list[datetime]:
    """Times of one arm's samples of a query."""
    table = store.data.query(
        "SELECT ts FROM readings WHERE run = ? AND arm = 'canary' AND query LIKE ? ORDER BY ts", [run.id, what]
    )
    return [row["ts"] for row in table.to_pylist()]


def assert_no_hole_no_double(times: list[datetime]) -> None:
    steps = np.diff([moment.timestamp() for moment in times])
    assert steps.size
    assert steps.min() > 0.5, steps
    assert steps.max() < 1.5, steps


def test_a_window_is_collected_and_judged(store, policy):
    time.sleep(6)
    run, rows = collect_release(store, Release("cart@2"), policy, last(12))
    assert rows >= 2 * 2 * 10
    assert [(run.source, run.state) for run in store.data.runs("cart@2")] == [("prometheus", RunState.COMPLETE)]
    assert_no_hole_no_double(samples(store, run))
    verdict = judge_release(store, "cart@2", policy, judged_at=datetime.now(UTC))
    by_rule = {comparison.rule.name: comparison for comparison in verdict.evidence.comparisons}
    assert set(by_rule) == {"failures", "memory", "twice"}
    assert by_rule["memory"].baseline.value == pytest.approx(1e6)
    assert verdict.word.value == "inconclusive"  # twelve seconds are not enough
    assert {one["arm"] for one in verdict.queries} == {"baseline", "canary"}
    assert 'http_requests_total{version="canary"}' in [text for one in verdict.queries for text in one["sent"]]


def test_what_was_queried_is_what_the_server_has(store, policy, server):
    run, _ = collect_release(store, Release("cart@2"), policy, last(5))
    cells = store.data.read_readings(run)
    arm = cells.arms.index("canary")
    counters = [code for code, query in enumerate(cells.queries) if query.text == "http_requests_total{$selector}"]
    grown = cells.total[(cells.arm == arm) & np.isin(cells.query, counters)].sum()
    steps = cells.seconds[(cells.arm == arm) & np.isin(cells.query, counters)].sum()
    assert grown == pytest.approx(10 * steps, abs=12)
    assert cells.sources["url"] == server


@pytest.mark.parametrize("other", ["baseline", "8"])
def test_an_arm_that_never_answered_has_a_verdict_that_is_kept(store, server, tmp_path, other):
    """The worst canaries have no series; neither has a selector that selects nothing."""
    arms = f"{{baseline: 'version=\"{other}\"', canary: 'version=\"9\"'}}"
    silent, messages = make_policy(tmp_path, server, selectors=arms), []
    _, rows = collect_release(store, Release("cart@2"), silent, last(5), say=messages.append)
    assert bool(rows) == (other == "baseline")
    assert any("canary has no readings: the server has no series for http_requests_total" in line for line in messages)
    assert store.data.runs("cart@2")[0].state is RunState.COMPLETE
    verdict = judge_release(store, "cart@2", silent, judged_at=datetime.now(UTC))
    assert verdict.word.value == "inconclusive"
    finding = next(finding for finding in verdict.evidence.findings if "series of canary" in finding.text)
    assert finding.level.value == "fail"
    assert "version is baseline, canary" in finding.text
    assert "sources.prometheus.selectors" in finding.remedy
    assert len(store.control.verdicts("cart@2")) == 1
    assert {query["arm"]: query["samples"]["read"] for query in verdict.queries}["canary"] == 0


def test_a_window_that_is_too_short_or_too_late(store, policy):
    with pytest.raises(UsageError, match="shorter than the step"):
        collect_release(store, Release("cart@2"), policy, last(0.5))
    now = datetime.now(UTC)
    with pytest.raises(UsageError, match="from now"):
        collect_release(store, Release("cart@2"), policy, CollectionInterval(now, now + timedelta(hours=1)))


def test_the_window_of_a_load_is_taken_with_a_scrape_around_it(store, policy):
    started = datetime.now(UTC) - timedelta(seconds=4)
    load = Run("l-1", "cart@2", "l-1", "locust", started=started, ended=started + timedelta(seconds=3))
    store.data.register_run(Release("cart@2"), load)
    assert find_load_interval(store, "cart@2") == CollectionInterval(started, started + timedelta(seconds=3))
    run, _ = collect_load(store, Release("cart@2"), policy)
    assert run.started <= started
    times = samples(store, run)
    assert times[0] <= started + timedelta(seconds=1)
    assert times[-1] >= started + timedelta(seconds=2)


def test_readings_are_followed_as_they_come(store, policy):
    messages: list[str] = []
    run, rows = follow_release(store, Release("cart@2"), policy, seconds=6, say=messages.append)
    assert store.data.runs("cart@2")[0].state is RunState.COMPLETE
    assert len([line for line in messages if "readings until" in line]) >= 3
    assert rows == store.data.query("SELECT count(*) AS n FROM readings").to_pylist()[0]["n"]
    assert_no_hole_no_double(samples(store, run))
    assert len(samples(store, run)) >= 5
    # Values at each step: one lies on the border of two polls.
    assert_no_hole_no_double(samples(store, run, "2 *%"))


def test_a_server_that_stops_for_a_while_causes_no_gap_and_no_duplicate(store, service, tmp_path):
    """It is stopped during the collection and started again; only its own scrapes are readings."""
    folder = tmp_path / "server"
    folder.mkdir()
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(service.config())
    command = [
        metrics_servers.program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    messages: list[str] = []
    policy = make_policy(tmp_path, f"http://127.0.0.1:{port}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(metrics_servers.running(command, port, "/-/ready"))
        wait_for_scrapes(f"http://127.0.0.1:{port}")
        begun = datetime.now(UTC)
        follower = threading.Thread(
            target=follow_release,
            args=(store, Release("cart@2"), policy),
            kwargs={"seconds": 14, "say": messages.append},
        )
        follower.start()
        time.sleep(4)
        stack.close()
        away = datetime.now(UTC)
        time.sleep(2)
        with metrics_servers.running(command, port, "/-/ready"):
            follower.join(40)
    assert not follower.is_alive()
    assert any("trying again" in line for line in messages)
    assert any("answers again" in line for line in messages)
    (run,) = store.data.runs("cart@2")
    times = samples(store, run)
    steps = np.diff([moment.timestamp() for moment in times])
    assert run.state is RunState.COMPLETE
    assert times[0] < begun + timedelta(seconds=2)
    assert steps.min() > 0.5
    # The one hole is the time in which nobody scraped.
    assert (steps > 1.5).sum() == 1
    assert times[int(np.argmax(steps))] <= away


FOLLOW = """
import sys
from pathlib import Path
from evaluator.pipeline.collecting import follow_release
from evaluator.policy import load_policy
from evaluator.records import Release
from evaluator.store import Store
follow_release(Store.open(Path(sys.argv[1])), Release("cart@2"), load_policy(Path(sys.argv[2])), seconds=60,
    say=lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_was_collected_stays_when_the_collector_ends(store, policy, tmp_path, how):
    command = [sys.executable, "-c", FOLLOW, str(store.path), policy.origin]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        lines = 0
        for line in process.stdout:
            lines += "readings until" in line
            if lines == 2:
                break
        os.kill(process.pid, how)
    land_release(store, "cart@2")
    (run,) = store.data.runs("cart@2")
    assert run.state is RunState.INCOMPLETE
    assert run.facts.stopped_by == (
        "the collection was killed" if how == signal.SIGKILL else "the collection was interrupted"
    )
    assert_no_hole_no_double(samples(store, run))
    assert judge_release(store, "cart@2", policy, judged_at=datetime.now(UTC)).word.value == "inconclusive"


def test_a_policy_without_a_server_or_without_readings(store, tmp_path):
    with pytest.raises(UsageError, match="names no metrics server"):
        collect_release(store, Release("cart@2"), load_policy(), last(5))


def test_a_server_that_is_down(store, tmp_path):
    policy = make_policy(tmp_path, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(SourceError, match="cannot be reached: the connection was refused"):
        collect_release(store, Release("cart@2"), policy, last(5))
    assert store.releases() == ()


SAME_SELECTOR = "{baseline: 'version=\"baseline\"', canary: 'version=\"baseline\"'}"
"""One server that served the baseline first, and then the candidate."""


def windows_of(*orders: str, seconds: float = 3.0) -> dict[str, list[CollectionInterval]]:
    """Windows that follow each other and have just ended, for arms in this order of time."""
    end = datetime.now(UTC) - timedelta(seconds=1 + seconds * len(orders))
    windows: dict[str, list[CollectionInterval]] = {}
    for place, arm in enumerate(orders):
        start = end + timedelta(seconds=seconds * place)
        windows.setdefault(arm, []).append(CollectionInterval(start, start + timedelta(seconds=seconds)))
    return windows


def test_one_server_before_and_after_is_never_a_comparison_of_the_same_time(store, server, tmp_path):
    same_server = make_policy(tmp_path, server, selectors=SAME_SELECTOR)
    with pytest.raises(UsageError, match="one selector for two arms"):
        collect_release(store, Release("cart@2"), same_server, last(6))
    time.sleep(6)
    run, rows = collect_windows(store, Release("cart@2"), same_server, windows_of("baseline", "canary", seconds=5))
    assert rows
    assert_no_hole_no_double(samples(store, run))
    readings = store.data.read_readings(run)
    assert [len(readings.windows[arm]) for arm in readings.arms] == [1, 1]
    assert max(readings.bucket[readings.arm == 0]) <= min(readings.bucket[readings.arm == 1])
    verdict = judge_release(store, "cart@2", same_server, judged_at=datetime.now(UTC))
    assert verdict.word is VerdictWord.INCONCLUSIVE
    failed = {finding.check for finding in verdict.evidence.findings if finding.level is Level.FAIL}
    assert "overlap" in failed
    assert "selectors" not in failed
    judged = {query["arm"]: query["samples"]["judged"] for query in verdict.queries if "memory" in query["query"]}
    assert min(judged.values()) >= 3


def test_increases_between_two_windows_of_an_arm_do_not_count(store, server, tmp_path):
    """The counter goes on while the other version runs: what it counts then belongs to neither window of the arm."""
    same_server = make_policy(tmp_path, server, selectors=SAME_SELECTOR)
    order = windows_of("canary", "baseline", "baseline", "canary", seconds=3)
    run, _ = collect_windows(store, Release("cart@2"), same_server, order)
    readings = store.data.read_readings(run)
    counted = readings.total[(readings.arm == 1) & (readings.seconds > 0)]
    seconds = readings.seconds[(readings.arm == 1) & (readings.seconds > 0)]
    assert 2 <= seconds.sum() <= 6
    assert counted.sum() <= 12 * 6  # ten requests a second


def test_windows_that_cannot_be_compared_are_refused(store, server, tmp_path):
    policy = make_policy(tmp_path, server)
    together = last(6)
    for windows, message in [
        ({"baseline": [last(6)]}, "equally many windows: 1 of baseline, 0 of canary"),
        ({"baseline": [together], "canary": [together]}, "two windows overlap"),
        ({"baseline": [last(9), last(6)], "canary": windows_of("canary", "canary")["canary"]}, "two windows overlap"),
        (windows_of("baseline", "canary", seconds=0.2), "is shorter than the step"),
    ]:
        with pytest.raises(UsageError, match=message):
            collect_windows(store, Release("cart@2"), policy, windows)
    with pytest.raises(UnknownName, match="there is no arm 'b'"):
        collect_windows(store, Release("cart@2"), policy, windows_of("baseline", "b"))
    assert store.data.query("SELECT * FROM runs").num_rows == 0
