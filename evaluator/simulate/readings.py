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
    """Scrape the counters that the instances would have kept while they answered the requests.

    These are counters of requests and failures, and a histogram of response times (s), by instance and endpoint.
    Returns an answer for each query and arm. `scrapes=None`: the defaults.

    A request counts when it starts. Scrapes come at the end of each step, a millisecond before the next step begins, so
    that a bucket of readings holds the same requests as the same bucket of requests.
    """
    scrapes = scrapes or Scrapes()
    rng = np.random.default_rng(seed)
    step_ms = scrapes.step_s * 1000
    first_step = int(requests.ts_us.min()) // (step_ms * 1000)
    last_step = int(requests.ts_us.max()) // (step_ms * 1000) + 1
    at_ms = np.arange(first_step, last_step + 1) * step_ms - 1  # times of the scrapes
    series: dict[tuple[Query, str], list[Series]] = {}
    instances = np.unique(np.column_stack([requests.arm, requests.instance]), axis=0).tolist()
    restarted_numbers = set(rng.permutation(len(instances))[: scrapes.restarts].tolist())
    for number, (arm_code, instance_code) in enumerate(instances):
        arm_name = requests.arms[arm_code]
        if scrapes.arms and arm_name not in scrapes.arms:
            continue
        # The scrape after which the counters restart, in the middle third of the run.
        reset = int(rng.integers(at_ms.size // 3, at_ms.size * 2 // 3)) if number in restarted_numbers else None
        is_scraped = rng.random(at_ms.size) >= scrapes.missing
        is_scraped[[0, -1]] = True  # never miss the first and the last scrape
        scraped = _scrape_instance(requests, arm_code, instance_code, scrapes, at_ms, reset, is_scraped)
        for query, instance_series in scraped:
            series.setdefault((query, arm_name), []).append(instance_series)
    start = datetime.fromtimestamp(int(at_ms[0]) / 1000, UTC)
    end = datetime.fromtimestamp(int(at_ms[-1]) / 1000, UTC)
    return tuple(
        Answer(query, arm_name, (query.text,), start, end, float(scrapes.step_s), tuple(arm_series))
        for (query, arm_name), arm_series in series.items()
    )


def _scrape_instance(
    requests: Requests,
    arm_code: int,
    instance_code: int,
    scrapes: Scrapes,
    at_ms: IntArray,
    reset: int | None,
    is_scraped: BoolArray,
) -> Iterator[tuple[Query, Series]]:
    """Yield each series of one instance of an arm, with its query.

    `at_ms`: times of the scrapes. `reset`: index of the scrape after which the counters start again from 0; None:
    never. `is_scraped`: which scrapes succeed.
    """
    of_instance = (requests.arm == arm_code) & (requests.instance == instance_code)
    # An instance without a name has that of its arm.
    instance = requests.instances[instance_code] or requests.arms[arm_code]
    for endpoint_code in np.unique(requests.endpoint[of_instance]).tolist():
        endpoint = requests.endpoints[endpoint_code]
        rows = np.flatnonzero(of_instance & (requests.endpoint == endpoint_code))
        rows = rows[np.argsort(requests.ts_us[rows], kind="stable")]
        counted = np.searchsorted(requests.ts_us[rows], at_ms * 1000, side="right")  # requests before each scrape
        seconds = requests.response_us[rows] / 1e6
        for query, part, le, increments in _list_increments(requests.failed[rows], seconds, scrapes.bounds_s):
            values = np.append(0.0, np.cumsum(increments))[counted]  # of the counter at each scrape
            if reset is not None:
                values = np.where(np.arange(values.size) > reset, values - values[reset], values)
            labels = {"handler": endpoint, "instance": instance} | ({"le": f"{le:g}"} if part == "bucket" else {})
            yield query, Series(labels, instance, endpoint, part, le, at_ms[is_scraped], values[is_scraped])


def _list_increments(
    failed: BoolArray, seconds: FloatArray, bounds_s: Sequence[float]
) -> Iterator[tuple[Query, Part, float, FloatArray]]:
    """List by how much each request increases each counter, from whether it failed and its response time.

    Yields query, part, upper bound of a bucket (s; NaN for other parts) and increments, shape (requests,).
    """
    ones = np.ones(seconds.size)
    nan = float("nan")
    yield REQUESTS, "value", nan, ones
    yield FAILURES, "value", nan, failed.astype(float)
    yield DURATION, "count", nan, ones
    yield DURATION, "sum", nan, seconds
    for le in (*bounds_s, float("inf")):
        yield DURATION, "bucket", le, (seconds <= le).astype(float)
