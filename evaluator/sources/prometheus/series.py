"""Answers of the API, window by window, become series without holes or doubles at the seams."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluator.records import Part, Series
from evaluator.sources.prometheus.options import PrometheusOptions
from evaluator.sources.prometheus.samples import Lifted

__all__ = ["Collected", "unfold_native"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Key = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Samples:
    """What has come of one series."""

    ts_ms: list[IntArray] = field(default_factory=list)
    values: list[FloatArray] = field(default_factory=list)


@dataclass(slots=True)
class Collected:
    """Samples of one query of one arm, as they come."""

    part: Part
    options: PrometheusOptions
    samples: dict[tuple[Key, Part, float], _Samples] = field(default_factory=dict)
    labels: dict[Key, Mapping[str, str]] = field(default_factory=dict)
    nan: int = 0

    def add(self, result: Iterable[Mapping[str, Any]]) -> int:
        """Take over one window's result; returns how many series it had."""
        count = 0
        for one in result:
            count += 1
            labels = one["metric"]
            if one.get("histograms"):
                self._add_native(labels, one["histograms"])
            if len(one.get("values", ())):
                self._add(labels, self.part, _bound_of(labels, self.part), *_to_arrays(one["values"]))
        return count

    def _add(self, labels: Mapping[str, str], part: Part, le: float, ts_ms: IntArray, values: FloatArray) -> None:
        real = ~np.isnan(values)
        if not real.all():
            self.nan += int((~real).sum())
            ts_ms, values = ts_ms[real], values[real]
        key = tuple(sorted((name, value) for name, value in labels.items() if name not in ("le", "__name__")))
        self.labels.setdefault(key, labels)
        samples = self.samples.setdefault((key, part, le), _Samples())
        samples.ts_ms.append(ts_ms)
        samples.values.append(values)

    def _add_native(self, labels: Mapping[str, str], histograms: Iterable[Any]) -> None:
        """A native histogram says count, sum and its own buckets at once."""
        for part, le, ts_ms, values in unfold_native(list(histograms)):
            self._add(labels, part, le, ts_ms, values)

    def series(self) -> tuple[tuple[Series, ...], int]:
        """All series, each in the order of time, and how many were told twice by servers that run in pairs."""
        found: dict[tuple[Key, Part, float], Series] = {}
        doubles = 0
        for (key, part, le), samples in self.samples.items():
            series = self._to_series(self.labels[key], part, le, samples)
            own = tuple(item for item in key if item[0] not in self.options.replica_labels)
            known = found.get((own, part, le))
            if known is not None:
                doubles += 1
                # Of two that say the same the one that says more stays.
                if known.ts_ms.size >= series.ts_ms.size:
                    continue
            found[own, part, le] = series
        return tuple(found.values()), doubles

    def _to_series(self, labels: Mapping[str, str], part: Part, le: float, samples: _Samples) -> Series:
        ts_ms, first = np.unique(np.concatenate(samples.ts_ms), return_index=True)
        values = np.concatenate(samples.values)[first]
        shown = {name: value for name, value in labels.items() if name not in ("le", "__name__")}
        options = self.options
        endpoint = labels.get(options.endpoint_label, "") if options.endpoint_label else ""
        return Series(shown, labels.get(options.instance_label, ""), endpoint, part, le, ts_ms, values)


def unfold_native(samples: Sequence[Any]) -> list[tuple[Part, float, IntArray, FloatArray]]:
    """A native histogram as the series of a classic one: part, bound, times and values of each.

    A server sends only buckets with observations, and may join neighbours at any time. So a bound is taken only where
    at no moment a bucket lies across it; what was observed up to it is the sum of the buckets that end there or before.
    """
    ts_ms = np.array([round(float(moment) * 1000) for moment, _ in samples], dtype=np.int64)
    said = [histogram for _, histogram in samples]
    count, total = (np.array([float(one[key]) for one in said]) for key in ("count", "sum"))
    buckets = [_native_buckets(one) for one in said]
    found: list[tuple[Part, float, IntArray, FloatArray]] = [
        ("count", math.nan, ts_ms, count),
        ("sum", math.nan, ts_ms, total),
        ("bucket", math.inf, ts_ms, count),
    ]
    for bound in _common_bounds(buckets):
        below = np.array([rows[rows[:, 1] <= bound, 2].sum() for rows in buckets])
        found.append(("bucket", bound, ts_ms, below))
    return found


def _native_buckets(histogram: Mapping[str, Any]) -> FloatArray:
    """Lower bound, upper bound and count of each bucket: shape (buckets, 3)."""
    rows = [[float(number) for number in bucket[1:4]] for bucket in histogram.get("buckets") or ()]
    return np.array(rows, dtype=float).reshape(-1, 3)


def _common_bounds(buckets: Sequence[FloatArray]) -> list[float]:
    bounds = np.unique(np.concatenate([rows[:, :2].ravel() for rows in buckets]))
    bounds = bounds[np.isfinite(bounds)]
    crossed = np.zeros(bounds.size, dtype=bool)
    for rows in buckets:
        crossed |= ((rows[:, 0][:, None] < bounds) & (bounds < rows[:, 1][:, None])).any(axis=0)
    return [float(bound) for bound in bounds[~crossed]]


def _bound_of(labels: Mapping[str, str], part: Part) -> float:
    return float(labels.get("le", "nan").replace("+Inf", "inf")) if part == "bucket" else math.nan


def _to_arrays(values: list[Any] | Lifted) -> tuple[IntArray, FloatArray]:
    """Times (ms) and numbers, from pairs of a time (s) and a number in quotes where they have not been read yet."""
    if isinstance(values, tuple):
        ts, numbers = values
    else:
        ts = np.array([float(pair[0]) for pair in values])
        numbers = np.array([float(pair[1]) for pair in values])
    return np.round(ts * 1000).astype(np.int64), numbers
