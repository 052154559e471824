"""Reading cells laid out as the cells of requests are, so that the same statistics read them (method B.1).

What a request is to a load, an observation is to a histogram, a second of an instance's life to a counter, and a
sample to a gauge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from evaluator.records import PARTS, Bins, Cells, FailureKinds, InstanceBins, LoadLevels, Moments, Query, ReadingCells

__all__ = [
    "MINUTE_S",
    "ReadingView",
    "Stretch",
    "cut",
    "find_bounds",
    "keep_rows",
    "lay_gauge",
    "lay_mean",
    "lay_peaks",
    "lay_rate",
    "lay_ratio",
    "lay_share",
    "lay_trend",
    "measures_the_same",
    "name_of",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MINUTE_S = 60
HOUR_S = 3600.0
VALUE, BUCKET, SUM, COUNT = (PARTS.index(part) for part in ("value", "bucket", "sum", "count"))
EVERYWHERE = ("",)
"""The one endpoint of what adds up over endpoints, or belongs to the instance as a whole."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of time in which readings count, as a run of its own."""

    run: str
    start_s: float
    """Seconds since the epoch."""
    end_s: float


@dataclass(frozen=True, slots=True)
class ReadingView:
    """The readings that count, and the run of each row."""

    readings: ReadingCells
    runs: tuple[str, ...]
    run: IntArray

    @property
    def span(self) -> tuple[int, int]:
        """First bucket that counts and the bucket after the last; both 0 where there is none."""
        bucket = self.readings.bucket
        return (int(bucket.min()), int(bucket.max()) + 1) if bucket.size else (0, 0)

    def find(self, query: Query, part: int, endpoint: str | None = None) -> IntArray:
        """Rows of one part of a query, and of one endpoint."""
        readings = self.readings
        if query not in readings.queries or (endpoint is not None and endpoint not in readings.endpoints):
            return np.zeros(0, dtype=np.int64)
        chosen = (readings.query == readings.queries.index(query)) & (readings.part == part)
        if endpoint is not None:
            chosen &= readings.endpoint == readings.endpoints.index(endpoint)
        return np.flatnonzero(chosen)

    def before(self, bucket: int) -> ReadingView:
        """What there was before this bucket."""
        keep = self.readings.bucket < bucket
        return ReadingView(keep_rows(self.readings, keep), self.runs, self.run[keep])


def cut(readings: ReadingCells, stretches: Sequence[Stretch] | None) -> ReadingView:
    """Keep the buckets that lie wholly within one of the stretches; `None`: everything, as one run."""
    if stretches is None:
        return ReadingView(readings, ("readings",), np.zeros(readings.bucket.size, dtype=np.int64))
    run = np.full(readings.bucket.size, -1)
    start = readings.bucket * readings.bucket_s
    for code, stretch in enumerate(stretches):
        inside = (start >= stretch.start_s) & (start + readings.bucket_s <= stretch.end_s) & (run < 0)
        run[inside] = code
    keep = run >= 0
    return ReadingView(keep_rows(readings, keep), tuple(stretch.run for stretch in stretches), run[keep])


def keep_rows(readings: ReadingCells, keep: BoolArray) -> ReadingCells:
    """The rows that are chosen; names and facts stay."""
    columns: dict[str, Any] = {field.name: getattr(readings, field.name) for field in fields(readings)}
    kept: dict[str, Any] = {
        name: value[keep] if isinstance(value, np.ndarray) else value for name, value in columns.items()
    }
    return ReadingCells(**kept)


def name_of(query: Query) -> str:
    """The name of the series that a query asks for; its whole text where it is no plain selector."""
    found = re.match(r"\s*([a-zA-Z_:][\w:]*)\s*(\{|\[|$)", query.text)
    return found.group(1) if found else query.text.strip()


def measures_the_same(one: Query, other: Query) -> bool:
    """Do two queries ask for series of one name? Then those of the one that are not there never happened."""
    return name_of(one) == name_of(other)


# ------------------------------------------------------------------ one layout a metric


def lay_ratio(view: ReadingView, failures: Query, requests: Query) -> Cells:
    """Increase of the one counter per increase of the other."""
    below, above = view.find(requests, VALUE), view.find(failures, VALUE)
    total = view.readings.total
    rows = np.append(below, above)
    return _lay(
        view,
        rows,
        n=np.append(total[below], np.zeros(above.size)),
        failures=np.append(np.zeros(below.size), total[above]),
    )


def lay_mean(view: ReadingView, query: Query, scale: float) -> Cells:
    """Mean of a histogram's observations: their sum per observation."""
    counts, sums = view.find(query, COUNT), view.find(query, SUM)
    total = view.readings.total
    return _lay(
        view,
        np.append(counts, sums),
        n=np.append(total[counts], np.zeros(sums.size)),
        sums=np.append(np.zeros(counts.size), total[sums] * scale),
    )


def lay_share(view: ReadingView, query: Query, le: float) -> Cells:
    """Observations above a bound of the histogram count as failures."""
    counts, buckets = view.find(query, COUNT), view.find(query, BUCKET)
    buckets = buckets[view.readings.le[buckets] == le]
    total = view.readings.total
    return _lay(
        view,
        np.append(counts, buckets),
        n=np.append(total[counts], np.zeros(buckets.size)),
        failures=np.append(total[counts], -total[buckets]),
    )


def find_bounds(view: ReadingView, query: Query, arms: Sequence[int]) -> FloatArray:
    """Finite upper bounds that every series of the histogram has, on all of these arms, in the unit of the query."""
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


def lay_rate(view: ReadingView, query: Query, scale: float, endpoint: str | None = None) -> Cells:
    """Increase of a counter per second that an instance was seen for; over endpoints it adds up."""
    rows = view.find(query, VALUE, endpoint)
    readings = view.readings
    key = _key(view, rows)
    found, place = np.unique(key, return_inverse=True)
    seconds = np.zeros(found.size)
    np.maximum.at(seconds, place, readings.seconds[rows])
    first = np.zeros(found.size, dtype=np.int64)
    first[place[::-1]] = rows[::-1]
    return _lay(
        view,
        np.append(first, rows),
        n=np.append(seconds, np.zeros(rows.size)),
        sums=np.append(np.zeros(found.size), readings.total[rows] * scale),
        whole=True,
    )


def lay_gauge(view: ReadingView, query: Query, scale: float, endpoint: str | None = None) -> Cells:
    """Mean of a gauge's samples."""
    rows = view.find(query, VALUE, endpoint)
    readings = view.readings
    return _lay(view, rows, n=readings.n[rows].astype(float), sums=readings.total[rows] * scale, whole=True)


def lay_peaks(view: ReadingView, query: Query, scale: float, endpoint: str | None = None) -> Cells:
    """The largest sample of each instance in each minute (or bucket, where that is longer)."""
    rows = view.find(query, VALUE, endpoint)
    buckets = -(-MINUTE_S // view.readings.bucket_s)
    found, place = np.unique(_key(view, rows, buckets), return_inverse=True)
    peaks = np.full(found.size, -np.inf)
    np.maximum.at(peaks, place, view.readings.peak[rows] * scale)
    first = np.zeros(found.size, dtype=np.int64)
    first[place[::-1]] = rows[::-1]
    return _lay(view, first, n=np.ones(found.size), sums=peaks, whole=True, buckets=buckets)


def lay_trend(view: ReadingView, query: Query, scale: float, endpoint: str | None = None) -> Cells:
    """A gauge's trend per hour as a ratio of sums: Σ(t - t̄)(y - ȳ) per Σ(t - t̄)², each instance around its own mean.

    Then the level of an arm is its least-squares slope, and influences are those of that slope.
    """
    rows = view.find(query, VALUE, endpoint)
    readings = view.readings
    found, place = np.unique(_key(view, rows), return_inverse=True)
    samples = np.bincount(place, weights=readings.n[rows], minlength=found.size)
    total = np.bincount(place, weights=readings.total[rows], minlength=found.size)
    value = np.asarray(total * scale / np.maximum(samples, 1), float)
    first = np.zeros(found.size, dtype=np.int64)
    first[place[::-1]] = rows[::-1]
    bucket = readings.bucket[first]
    hours = np.asarray((bucket - (bucket.min() if bucket.size else 0)) * (readings.bucket_s / HOUR_S), float)
    codes = (view.run[first] * len(readings.arms) + readings.arm[first]) * len(readings.instances)
    _, instance = np.unique(codes + readings.instance[first], return_inverse=True)
    centred, deviation = (_less_mean(column, instance) for column in (hours, value))
    return _lay(view, first, n=centred**2, sums=centred * deviation, whole=True)


def _less_mean(values: FloatArray, group: IntArray) -> FloatArray:
    counts = np.bincount(group)
    return np.asarray(values - (np.bincount(group, weights=values) / np.maximum(counts, 1))[group])


def _key(view: ReadingView, rows: IntArray, buckets: int = 1) -> IntArray:
    """A number for each run × arm × instance × so many buckets."""
    readings = view.readings
    bucket = readings.bucket[rows] // buckets
    origin = int(bucket.min()) if bucket.size else 0
    span = (int(bucket.max()) - origin + 1) if bucket.size else 1
    owner = (view.run[rows] * len(readings.arms) + readings.arm[rows]) * len(readings.instances)
    return np.asarray((owner + readings.instance[rows]) * span + bucket - origin)


def _lay(
    view: ReadingView,
    rows: IntArray,
    *,
    n: FloatArray,
    failures: FloatArray | None = None,
    sums: FloatArray | None = None,
    whole: bool = False,
    buckets: int = 1,
) -> Cells:
    """Cells of these rows; rows of one key add up. `sums` in the metric's unit takes the place of milliseconds.

    Numbers are kept as they are: counters need not be whole.
    """
    readings = view.readings
    nothing: Any = np.zeros(rows.size)
    columns: dict[Literal["n", "failures"], Any] = {"n": n, "failures": nothing if failures is None else failures}
    none: Any = np.zeros(0, dtype=np.int64)
    return Cells(
        runs=view.runs,
        arms=readings.arms,
        endpoints=EVERYWHERE if whole else readings.endpoints,
        instances=readings.instances,
        bucket_s=readings.bucket_s * buckets,
        grid_us=1,
        moments=Moments(
            run=view.run[rows],
            arm=readings.arm[rows],
            endpoint=np.zeros_like(rows) if whole else readings.endpoint[rows],
            instance=readings.instance[rows],
            bucket=readings.bucket[rows] // buckets,
            n=columns["n"],
            failures=columns["failures"],
            sum_us=nothing if sums is None else sums * 1000,
            sum_sq_us=nothing,
            min_us=nothing,
            max_us=nothing,
            bytes=nothing,
            bytes_sq=nothing,
        ),
        bins=Bins(none, none, none, none, none, none),
        instance_bins=InstanceBins(none, none, none, none, none, none, none),
        loads=LoadLevels(none, none, none, none),
        failure_kinds=FailureKinds(none, none, none, none, (), none),
    )
