"""Panels of readings, in the form that the statistics of requests need (method B.7).

In the place of requests, a panel counts the observations of a histogram, the seconds in which an instance with a
counter was seen, or the samples of a gauge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from evaluator.records import PARTS, Query, ReadingCells, Spans
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
        """The first bucket with readings, and the bucket after the last with readings; (0, 0) without readings."""
        bucket = self.readings.bucket
        return (int(bucket.min()), int(bucket.max()) + 1) if bucket.size else (0, 0)

    def find(self, query: Query, part: int, endpoint: str | None = None) -> IntArray:
        """Return the indices of the rows of a query's part (`VALUE`, `BUCKET`, `SUM`, `COUNT`).

        `endpoint`: only rows of this endpoint; `None`: of all endpoints. An unknown query or endpoint has no rows.
        """
        readings = self.readings
        if query not in readings.queries or (endpoint is not None and endpoint not in readings.endpoints):
            return np.zeros(0, dtype=np.int64)
        matches = (readings.query == readings.queries.index(query)) & (readings.part == part)
        if endpoint is not None:
            matches &= readings.endpoint == readings.endpoints.index(endpoint)
        return np.flatnonzero(matches)

    def before(self, bucket: int) -> ReadingView:
        """Return the readings before this bucket."""
        keep = self.readings.bucket < bucket
        return ReadingView(keep_rows(self.readings, keep), self.runs, self.run[keep])


def cut(readings: ReadingCells, intervals: Sequence[RunInterval] | None) -> ReadingView:
    """Keep the buckets that lie completely within an interval; each interval becomes a run.

    Where intervals overlap, a bucket belongs to the first of them. `None`: keep everything, as one run.
    """
    if intervals is None:
        return ReadingView(readings, ("readings",), np.zeros(readings.bucket.size, dtype=np.int64))
    in_no_run = -1
    run = np.full(readings.bucket.size, in_no_run)
    start_s = readings.bucket * readings.bucket_s
    for run_code, interval in enumerate(intervals):
        is_inside = (start_s >= interval.start_s) & (start_s + readings.bucket_s <= interval.end_s)
        run[is_inside & (run == in_no_run)] = run_code
    keep = run != in_no_run
    return ReadingView(keep_rows(readings, keep), tuple(interval.run for interval in intervals), run[keep])


def cut_windows(readings: ReadingCells, windows: Mapping[str, Spans]) -> ReadingView:
    """Keep the buckets that lie completely within a window of their arm.

    The first windows of all arms become one run, the second ones the next, …; the arms of such a run do not overlap in
    time. `windows`: arm → its windows, in the order of time.
    """
    in_no_run = -1
    run, bucket_ms = np.full(readings.bucket.size, in_no_run), readings.bucket_s * 1000
    for arm_code, arm in enumerate(readings.arms):
        for number, (start_ms, end_ms) in enumerate(windows.get(arm, ())):
            is_inside = (readings.bucket * bucket_ms >= start_ms) & ((readings.bucket + 1) * bucket_ms <= end_ms)
            run[(readings.arm == arm_code) & is_inside] = number
    keep = run != in_no_run
    runs = tuple(f"window-{number + 1}" for number in range(max(map(len, windows.values()), default=0)))
    return ReadingView(keep_rows(readings, keep), runs, run[keep])


def align_windows(view: ReadingView, arm_code: int) -> ReadingView:
    """Shift the windows of all arms in time, so that each begins when the window of one arm with its number does.

    Only for checks of how traffic develops within a window: it is no comparison of the same time. `arm_code`: the arm
    that is not shifted. A view of arms that ran together is returned unchanged.
    """
    readings = view.readings
    windows = readings.windows
    if not windows:
        return view
    bucket, bucket_ms = readings.bucket.copy(), readings.bucket_s * 1000
    for other_code, other in enumerate(readings.arms):
        starts = zip(windows.get(other, ()), windows.get(readings.arms[arm_code], ()), strict=False)
        for number, ((start_ms, _), (own_start_ms, _)) in enumerate(starts):
            shifted = (readings.arm == other_code) & (view.run == number)
            bucket[shifted] += own_start_ms // bucket_ms - start_ms // bucket_ms
    return replace(view, readings=replace(readings, bucket=bucket))


def keep_rows(readings: ReadingCells, keep: BoolArray) -> ReadingCells:
    """Keep the rows where `keep` (rows,) is true; names and facts (all that is not an array) do not change."""
    columns: dict[str, Any] = {
        field.name: column[keep]
        for field in fields(readings)
        if isinstance(column := getattr(readings, field.name), np.ndarray)
    }
    return replace(readings, **columns)


def name_of(query: Query) -> str:
    """Return the name of the series in a query; the whole text if the query is not a plain selector."""
    # A plain selector is a name alone, or a name before labels in {} or a range in [].
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
    """Build the panel of a failure rate from two counters: of all requests, and of those that failed.

    `arm` is the candidate; `endpoint=None`: all endpoints. `None` if the arms have no usable bucket in common.
    """
    increases = view.readings.total
    request_rows, failure_rows = view.find(requests, VALUE), view.find(failures, VALUE)
    return build_panel(
        view,
        arm,
        Contribution(request_rows, increases[request_rows]),
        failures=Contribution(failure_rows, increases[failure_rows]),
        endpoint=endpoint,
    )


def build_mean_panel(view: ReadingView, arm: str, query: Query, scale: float, endpoint: str | None) -> Panel | None:
    """Build the panel of a histogram's mean: observations are counted, and their values summed up.

    `arm` is the candidate; `scale` converts the unit of the query to that of the metric; `endpoint=None`: all
    endpoints. `None` if the arms have no usable bucket in common.
    """
    increases = view.readings.total
    count_rows, sum_rows = view.find(query, COUNT), view.find(query, SUM)
    return build_panel(
        view,
        arm,
        Contribution(count_rows, increases[count_rows]),
        values=Contribution(sum_rows, increases[sum_rows] * scale),
        endpoint=endpoint,
    )


def build_share_panel(view: ReadingView, arm: str, query: Query, le: float, endpoint: str | None) -> Panel | None:
    """Build the panel of a share of a histogram: observations are counted, and those above the bound `le` fail.

    A histogram counts the observations up to a bound: those above it are all observations less these. `arm` is the
    candidate; `endpoint=None`: all endpoints. `None` if the arms have no usable bucket in common.
    """
    increases = view.readings.total
    count_rows, bucket_rows = view.find(query, COUNT), view.find(query, BUCKET)
    bucket_rows = bucket_rows[view.readings.le[bucket_rows] == le]
    above = Contribution(np.append(count_rows, bucket_rows), np.append(increases[count_rows], -increases[bucket_rows]))
    return build_panel(view, arm, Contribution(count_rows, increases[count_rows]), failures=above, endpoint=endpoint)


def find_bounds(view: ReadingView, query: Query, arms: Sequence[int]) -> FloatArray:
    """Return the finite upper bounds that all series of the histogram have in common, in the unit of the query.

    Args:
        view: The readings that are judged.
        query: The query of the histogram.
        arms: Codes of the arms whose series count. There is a series for each arm, instance and endpoint.

    Returns:
        The bounds in rising order, shape (bounds,).
    """
    readings = view.readings
    bucket_rows = view.find(query, BUCKET)
    rows = bucket_rows[np.isin(readings.arm[bucket_rows], arms) & np.isfinite(readings.le[bucket_rows])]
    if not rows.size:
        return np.zeros(0)
    # One number for the arm, instance and endpoint of each row.
    arm_and_instance = readings.arm[rows] * len(readings.instances) + readings.instance[rows]
    series = arm_and_instance * len(readings.endpoints) + readings.endpoint[rows]
    distinct_pairs = np.unique(np.column_stack([readings.le[rows], series]), axis=0)
    bounds, series_with_bound = np.unique(distinct_pairs[:, 0], return_counts=True)
    return np.asarray(bounds[series_with_bound == np.unique(series).size], float)


def build_rate_panel(view: ReadingView, arm: str, query: Query, scale: float, endpoint: str | None) -> Panel | None:
    """Build the panel of a counter's rate: seconds of instances are counted, and increases summed up.

    The rate is the ratio of both sums. An instance has a series for each endpoint, and all cover the same seconds:
    these are counted once, but the increases of all series are added. `arm` is the candidate; `scale` converts the unit
    of the query to that of the metric; `endpoint=None`: all endpoints. `None` if the arms have no usable bucket in
    common.
    """
    readings, rows = view.readings, view.find(query, VALUE, endpoint)
    # One row of each run × arm × instance × bucket, and the number of this group for each row.
    representative_rows, group = group_by_instance(view, rows)
    seconds = np.zeros(representative_rows.size)
    np.maximum.at(seconds, group, readings.seconds[rows])  # counted once: the largest of the group
    return build_panel(
        view,
        arm,
        Contribution(representative_rows, seconds),
        values=Contribution(rows, readings.total[rows] * scale),
        of_instance=True,
    )


def build_gauge_panel(view: ReadingView, arm: str, query: Query, scale: float, endpoint: str | None) -> Panel | None:
    """Build the panel of a gauge's mean: samples are counted, and their values summed up.

    `arm` is the candidate; `scale` converts the unit of the query to that of the metric; `endpoint=None`: all
    endpoints. `None` if the arms have no usable bucket in common.
    """
    readings, rows = view.readings, view.find(query, VALUE, endpoint)
    return build_panel(
        view,
        arm,
        Contribution(rows, readings.n[rows].astype(float)),
        values=Contribution(rows, readings.total[rows] * scale),
        of_instance=True,
    )


def build_peak_panel(view: ReadingView, arm: str, query: Query, scale: float, endpoint: str | None) -> Panel | None:
    """Build the panel of a gauge's peaks: in each minute, the largest sample of each instance counts as one value.

    A minute is rounded up to whole buckets. `arm` is the candidate; `scale` converts the unit of the query to that of
    the metric; `endpoint=None`: all endpoints. `None` if the arms have no usable bucket in common.
    """
    rows = view.find(query, VALUE, endpoint)
    buckets_per_minute = math.ceil(MINUTE_S / view.readings.bucket_s)
    # One row of each run × arm × instance × minute, and the number of this group for each row.
    representative_rows, group = group_by_instance(view, rows, buckets_per_minute)
    peaks = np.full(representative_rows.size, -np.inf)
    np.maximum.at(peaks, group, view.readings.peak[rows] * scale)
    return build_panel(
        view,
        arm,
        Contribution(representative_rows, np.ones(representative_rows.size)),
        values=Contribution(representative_rows, peaks),
        of_instance=True,
        buckets=buckets_per_minute,
    )


def build_trend_panel(view: ReadingView, arm: str, query: Query, scale: float, endpoint: str | None) -> Panel | None:
    """Build the panel of a gauge's trend: the change per hour, in the unit of the metric.

    A panel compares the sum of its values, divided by its counts. With (t - t̄)(y - ȳ) as values and (t - t̄)² as counts,
    this ratio is the least-squares slope of the samples y over the time t. The means t̄, ȳ are those of each instance
    in each run. `arm` is the candidate; `scale` converts the unit of the query to that of the metric; `endpoint=None`:
    all endpoints. `None` if the arms have no usable bucket in common.
    """
    readings, rows = view.readings, view.find(query, VALUE, endpoint)
    if not rows.size:
        return None
    # An instance may have several series: the slope is that of their mean in each bucket. So rows are grouped by run ×
    # arm × instance × bucket; the arrays after these two lines have one element for each group.
    representative_rows, group = group_by_instance(view, rows)
    samples = np.bincount(group, weights=readings.n[rows], minlength=representative_rows.size)
    total = np.bincount(group, weights=readings.total[rows], minlength=representative_rows.size)
    mean = total * scale / np.maximum(samples, 1)  # y
    bucket = readings.bucket[representative_rows]
    hours = (bucket - bucket.min()) * (readings.bucket_s / HOUR_S)  # t
    # Number of the run × arm × instance of each group.
    run_and_arm = view.run[representative_rows] * len(readings.arms) + readings.arm[representative_rows]
    instance_key = run_and_arm * len(readings.instances) + readings.instance[representative_rows]
    _, instance = np.unique(instance_key, return_inverse=True)
    counts = np.maximum(np.bincount(instance), 1)  # groups of each instance

    def subtract_instance_mean(column: FloatArray) -> FloatArray:
        """Subtract from each element the mean over the buckets of its instance."""
        return np.asarray(column - (np.bincount(instance, weights=column) / counts)[instance], float)

    time_deviation, value_deviation = subtract_instance_mean(hours), subtract_instance_mean(mean)
    return build_panel(
        view,
        arm,
        Contribution(representative_rows, time_deviation**2),
        values=Contribution(representative_rows, time_deviation * value_deviation),
        of_instance=True,
        whole_runs=True,
    )


def group_by_instance(view: ReadingView, rows: IntArray, buckets: int = 1) -> tuple[IntArray, IntArray]:
    """Group rows (indices of readings) by run × arm × instance × interval of `buckets` buckets.

    Returns one of `rows` that represents each group, shape (groups,), and the number of the group of each row, (rows,).
    """
    readings = view.readings
    keys = (view.run, readings.arm, readings.instance, readings.bucket // buckets)
    order, starts = group_rows(np.stack([column[rows] for column in keys]))
    return rows[order[starts]], number_groups(order, starts)


class Contribution(NamedTuple):
    """What rows of the readings add to a panel; the arrays have the shape (rows,)."""

    rows: IntArray
    """Indices of the rows."""
    amounts: FloatArray
    """The amount that each of these rows adds."""


def build_panel(
    view: ReadingView,
    arm: str,
    n: Contribution,
    *,
    failures: Contribution | None = None,
    values: Contribution | None = None,
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
        of_instance: Whether the values belong to the instance as a whole: then the panel has a single endpoint.
        buckets: Buckets of the readings in one bucket of the panel.
        whole_runs: Whether the arms are compared over whole runs, and not in blocks of time.

    Returns:
        The panel; `None` if the arms have no usable bucket in common.
    """
    readings = view.readings
    # The rows of all parts, one part after the other: a reading that is in two parts has two rows, which are added up.
    parts = [part for part in (n, failures, values) if part is not None]
    rows = np.concatenate([part.rows for part in parts])

    def put_into_column(added: Contribution | None) -> FloatArray:
        """Return what each of `rows` adds to one column: rows of the other parts add 0."""
        return np.concatenate([part.amounts if part is added else np.zeros(part.rows.size) for part in parts])

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
        n=put_into_column(n),
        failures=put_into_column(failures),
        totals={"value": put_into_column(values)},
    )
    return build_counted_panel(counted, arm, endpoint=endpoint, whole_runs=whole_runs)
