"""Panels of readings, in the form that the statistics of requests need (method B.7).

In the place of requests, a panel counts the observations of a histogram, the seconds in which an instance with a
counter was seen, or the samples of a gauge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from evaluator.records import PARTS, Query, ReadingCells
from evaluator.records.arrays import BoolArray, FloatArray, IntArray
from evaluator.stats.shaping.counted import Counted
from evaluator.stats.shaping.index import group_rows, number_groups
from evaluator.stats.shaping.panel import Panel, build_counted_panel

MINUTE_S = 60
HOUR_S = 3600.0
VALUE, BUCKET, SUM, COUNT = (PARTS.index(part) for part in ("value", "bucket", "sum", "count"))
EVERYWHERE = ("",)
"""The only endpoint of values that are summed over endpoints, or that belong to the whole instance."""


@dataclass(frozen=True, slots=True)
class RunInterval:
    """An interval whose readings are judged, as one run. Times are seconds since the epoch."""

    run: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class ReadingView:
    """The readings that are judged, and the run of each row."""

    readings: ReadingCells
    runs: tuple[str, ...]
    run: IntArray
    """Code of the run of each row, shape (rows,)."""

    @property
    def span(self) -> tuple[int, int]:
        """First bucket with readings, and the bucket after the last; both 0 without readings."""
        bucket = self.readings.bucket
        return (int(bucket.min()), int(bucket.max()) + 1) if bucket.size else (0, 0)

    def find(self, query: Query, part: int, endpoint: str | None = None) -> IntArray:
        """Return the indices of the rows of one part of a query, of one endpoint or (`None`) of all."""
        readings = self.readings
        if query not in readings.queries or (endpoint is not None and endpoint not in readings.endpoints):
            return np.zeros(0, dtype=np.int64)
        chosen = (readings.query == readings.queries.index(query)) & (readings.part == part)
        if endpoint is not None:
            chosen &= readings.endpoint == readings.endpoints.index(endpoint)
        return np.flatnonzero(chosen)

    def before(self, bucket: int) -> ReadingView:
        """Return the readings before this bucket."""
        keep = self.readings.bucket < bucket
        return ReadingView(keep_rows(self.readings, keep), self.runs, self.run[keep])


def cut(readings: ReadingCells, intervals: Sequence[RunInterval] | None) -> ReadingView:
    """Keep the buckets that are completely within one of the intervals; `None`: keep everything, as one run."""
    if intervals is None:
        return ReadingView(readings, ("readings",), np.zeros(readings.bucket.size, dtype=np.int64))
    run = np.full(readings.bucket.size, -1)
    start = readings.bucket * readings.bucket_s
    for code, interval in enumerate(intervals):
        inside = (start >= interval.start_s) & (start + readings.bucket_s <= interval.end_s) & (run < 0)
        run[inside] = code
    keep = run >= 0
    return ReadingView(keep_rows(readings, keep), tuple(interval.run for interval in intervals), run[keep])


def keep_rows(readings: ReadingCells, keep: BoolArray) -> ReadingCells:
    """Keep the rows where `keep` (rows,) is true; names and facts stay."""
    columns: dict[str, Any] = {
        field.name: column[keep]
        for field in fields(readings)
        if isinstance(column := getattr(readings, field.name), np.ndarray)
    }
    return replace(readings, **columns)


def name_of(query: Query) -> str:
    """Return the name of the series in a query; the whole text if the query is not a plain selector."""
    match = re.match(r"\s*([a-zA-Z_:][\w:]*)\s*(\{|\[|$)", query.text)
    return match.group(1) if match else query.text.strip()


def measures_the_same(query: Query, reference: Query) -> bool:
    """Do two queries read series of the same name? Then a series missing in one of them counts as 0."""
    return name_of(query) == name_of(reference)


# ------------------------------------------------------------------ one panel for each kind of metric
#
# `arm` is the candidate; `scale` converts the unit of the query to that of the metric; `endpoint=None`: all endpoints.
# Each function returns `None` if baseline and candidate have no usable bucket in common.


def build_ratio_panel(
    view: ReadingView, arm: str, failures: Query, requests: Query, endpoint: str | None
) -> Panel | None:
    """Build the panel of a failure rate: requests are counted, and `failures` is the counter of those that failed."""
    total, below, above = view.readings.total, view.find(requests, VALUE), view.find(failures, VALUE)
    return build_panel(view, arm, (below, total[below]), failures=(above, total[above]), endpoint=endpoint)


def build_mean_panel(view: ReadingView, arm: str, query: Query, scale: float, endpoint: str | None) -> Panel | None:
    """Build the panel of a histogram's mean: observations are counted, and their values summed up."""
    total, counts, sums = view.readings.total, view.find(query, COUNT), view.find(query, SUM)
    return build_panel(view, arm, (counts, total[counts]), values=(sums, total[sums] * scale), endpoint=endpoint)


def build_share_panel(view: ReadingView, arm: str, query: Query, le: float, endpoint: str | None) -> Panel | None:
    """Build the panel of a share: observations are counted, and those above the bound `le` count as failures."""
    total, counts, buckets = view.readings.total, view.find(query, COUNT), view.find(query, BUCKET)
    buckets = buckets[view.readings.le[buckets] == le]
    above = np.append(counts, buckets), np.append(total[counts], -total[buckets])
    return build_panel(view, arm, (counts, total[counts]), failures=above, endpoint=endpoint)


def find_bounds(view: ReadingView, query: Query, arms: Sequence[int]) -> FloatArray:
    """Return the finite upper bounds that all series of the histogram have on these arms, in the unit of the query."""
    readings = view.readings
    rows = view.find(query, BUCKET)
    rows = rows[np.isin(readings.arm[rows], arms) & np.isfinite(readings.le[rows])]
    if not rows.size:
        return np.zeros(0)
    owner = (readings.arm[rows] * len(readings.instances) + readings.instance[rows]) * len(readings.endpoints)
    owner = owner + readings.endpoint[rows]
    pairs = np.unique(np.column_stack([readings.le[rows], owner]), axis=0)
    bounds, owners = np.unique(pairs[:, 0], return_counts=True)
    return np.asarray(bounds[owners == np.unique(owner).size], float)


def build_rate_panel(view: ReadingView, arm: str, query: Query, scale: float, endpoint: str | None) -> Panel | None:
    """Build the panel of a counter's rate: seconds of instances are counted, increases summed over endpoints."""
    readings, rows = view.readings, view.find(query, VALUE, endpoint)
    first, cell = group_by_instance(view, rows)
    seconds = np.zeros(first.size)
    np.maximum.at(seconds, cell, readings.seconds[rows])
    grown = rows, readings.total[rows] * scale
    return build_panel(view, arm, (first, seconds), values=grown, of_instance=True)


def build_gauge_panel(view: ReadingView, arm: str, query: Query, scale: float, endpoint: str | None) -> Panel | None:
    """Build the panel of a gauge's mean: samples are counted, and their values summed up."""
    readings, rows = view.readings, view.find(query, VALUE, endpoint)
    values = rows, readings.total[rows] * scale
    return build_panel(view, arm, (rows, readings.n[rows].astype(float)), values=values, of_instance=True)


def build_peak_panel(view: ReadingView, arm: str, query: Query, scale: float, endpoint: str | None) -> Panel | None:
    """Build the panel of peaks: the largest sample of each instance in each minute (or bucket, if that is longer)."""
    rows = view.find(query, VALUE, endpoint)
    buckets = -(-MINUTE_S // view.readings.bucket_s)
    first, cell = group_by_instance(view, rows, buckets)
    peaks = np.full(first.size, -np.inf)
    np.maximum.at(peaks, cell, view.readings.peak[rows] * scale)
    return build_panel(
        view, arm, (first, np.ones(first.size)), values=(first, peaks), of_instance=True, buckets=buckets
    )


def build_trend_panel(view: ReadingView, arm: str, query: Query, scale: float, endpoint: str | None) -> Panel | None:
    """Build the panel of a gauge's trend per hour: Σ(t - t̄)(y - ȳ) over Σ(t - t̄)², with means of each instance.

    The ratio of these sums, the level of an arm, is then its least-squares slope, and so are the influences.
    """
    readings, rows = view.readings, view.find(query, VALUE, endpoint)
    if not rows.size:
        return None
    first, cell = group_by_instance(view, rows)
    samples = np.bincount(cell, weights=readings.n[rows], minlength=first.size)
    total = np.bincount(cell, weights=readings.total[rows], minlength=first.size)
    bucket = readings.bucket[first]
    hours = (bucket - bucket.min()) * (readings.bucket_s / HOUR_S)
    owner = (view.run[first] * len(readings.arms) + readings.arm[first]) * len(readings.instances)
    _, instance = np.unique(owner + readings.instance[first], return_inverse=True)
    counts = np.maximum(np.bincount(instance), 1)
    centred, deviation = (
        column - (np.bincount(instance, weights=column) / counts)[instance]
        for column in (hours, total * scale / np.maximum(samples, 1))
    )
    return build_panel(
        view, arm, (first, centred**2), values=(first, centred * deviation), of_instance=True, whole_runs=True
    )


def group_by_instance(view: ReadingView, rows: IntArray, buckets: int = 1) -> tuple[IntArray, IntArray]:
    """Group rows by run × arm × instance × interval of `buckets` buckets.

    Returns the first row of each group, shape (groups,), and the group of each row.
    """
    readings = view.readings
    keys = (view.run, readings.arm, readings.instance, readings.bucket // buckets)
    order, starts = group_rows(np.stack([column[rows] for column in keys]))
    return rows[order[starts]], number_groups(order, starts)


Part = tuple[IntArray, FloatArray]
"""Rows of the readings, and the amount that each row adds; both shape (rows,)."""


def build_panel(
    view: ReadingView,
    arm: str,
    n: Part,
    *,
    failures: Part | None = None,
    values: Part | None = None,
    endpoint: str | None = None,
    of_instance: bool = False,
    buckets: int = 1,
    whole_runs: bool = False,
) -> Panel | None:
    """Build the panel of baseline and candidate `arm` from rows of the readings.

    Args:
        view: The readings that are judged.
        arm: The candidate.
        n: What is counted.
        failures: How much of it failed, or is above a bound.
        values: What is summed up over it, in the metric's unit.
        endpoint: Only this endpoint; `None`: all.
        of_instance: Whether the values belong to the instance, not to an endpoint.
        buckets: Buckets of the readings in one bucket of the panel.
        whole_runs: As in `build_counted_panel`.

    Returns:
        The panel; `None` if the arms have no usable bucket in common.
    """
    readings = view.readings
    parts = (n, failures, values)
    rows = np.concatenate([part[0] for part in parts if part])
    # What each part adds is 0 in the rows of the others.
    columns = [
        np.concatenate([part[1] if k == column else np.zeros(part[1].size) for k, part in enumerate(parts) if part])
        for column in range(len(parts))
    ]
    counted = Counted(
        runs=view.runs,
        arms=readings.arms,
        endpoints=EVERYWHERE if of_instance else readings.endpoints,
        instances=readings.instances,
        bucket_s=readings.bucket_s * buckets,
        run=view.run[rows],
        arm=readings.arm[rows],
        endpoint=np.zeros_like(rows) if of_instance else readings.endpoint[rows],
        instance=readings.instance[rows],
        bucket=readings.bucket[rows] // buckets,
        n=columns[0],
        failures=columns[1],
        totals={"value": columns[2]},
    )
    return build_counted_panel(counted, arm, endpoint=endpoint, whole_runs=whole_runs)
