"""Builds series from the answers of all windows, without gaps or duplicates between windows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluator.records import Part, Series
from evaluator.sources.prometheus.options import PrometheusSource
from evaluator.sources.prometheus.samples import Lifted

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Key = tuple[tuple[str, str], ...]

LATEST_S = 1e11
"""No time of a sample is later than that (the year 5138)."""


@dataclass(frozen=True, slots=True)
class CollectedSeries:
    """The series of a query, and how much was left out."""

    series: tuple[Series, ...]
    duplicates: int
    """Series that a pair of servers sent twice."""
    repeated: int
    """Samples for a moment that already has one, including those of duplicate series."""
    outside: int
    """Samples outside of the window."""


@dataclass(slots=True)
class Collected:
    """Samples of one query of one arm, as they come."""

    part: Part
    options: PrometheusSource
    samples: dict[tuple[Key, Part, float], list[tuple[IntArray, FloatArray]]] = field(default_factory=dict)
    labels: dict[Key, Mapping[str, str]] = field(default_factory=dict)
    read: int = 0
    """Samples received."""
    nan: int = 0
    infinite: int = 0

    def add(self, result: Iterable[Mapping[str, Any]]) -> int:
        """Add the result of one window; returns how many series it had."""
        count = 0
        for series in result:
            count += 1
            labels = series["metric"]
            if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
                raise TypeError("labels must be texts")
            if series.get("histograms"):  # count, sum and its own buckets at once
                for unfolded in unfold_native(list(series["histograms"])):
                    self._add(labels, *unfolded)
            if len(series.get("values", ())):
                is_bucket = self.part == "bucket" and "le" in labels
                # The same NaN object for all series without a bound, because it is part of a key.
                le = float(labels["le"].replace("+Inf", "inf")) if is_bucket else math.nan
                self._add(labels, self.part, le, *_to_arrays(series["values"]))
        return count

    def _add(self, labels: Mapping[str, str], part: Part, le: float, ts_ms: IntArray, values: FloatArray) -> None:
        self.read += values.size
        real = np.isfinite(values)
        if not real.all():
            nan = int(np.isnan(values).sum())
            self.nan += nan
            self.infinite += int((~real).sum()) - nan
            ts_ms, values = ts_ms[real], values[real]
        key = tuple(sorted((name, value) for name, value in labels.items() if name not in ("le", "__name__")))
        self.labels.setdefault(key, labels)
        self.samples.setdefault((key, part, le), []).append((ts_ms, values))

    def series(self, window_ms: tuple[int, int]) -> CollectedSeries:
        """All series, each in the order of time, and how much was left out of them."""
        unique: dict[tuple[Key, Part, float], Series] = {}
        options, duplicates, repeated, outside = self.options, 0, 0, 0
        for (key, part, le), samples in self.samples.items():
            all_ms, all_values = (np.concatenate(column) for column in zip(*samples, strict=True))
            inside = (all_ms >= window_ms[0]) & (all_ms <= window_ms[1])
            ts_ms, first = np.unique(all_ms[inside], return_index=True)
            repeated += int(inside.sum()) - ts_ms.size
            outside += int((~inside).sum())
            if not ts_ms.size:
                continue
            labels, values = self.labels[key], all_values[inside][first]
            endpoint = labels.get(options.endpoint_label, "") if options.endpoint_label else ""
            shown = {name: value for name, value in labels.items() if name not in ("le", "__name__")}
            series = Series(shown, labels.get(options.instance_label, ""), endpoint, part, le, ts_ms, values)
            own = tuple(item for item in key if item[0] not in options.replica_labels)
            earlier = unique.get((own, part, le))
            if earlier is not None:
                duplicates += 1
                # Of two duplicates the one with more samples stays.
                fewer, series = sorted((earlier, series), key=lambda candidate: candidate.ts_ms.size)
                repeated += fewer.ts_ms.size
            unique[own, part, le] = series
        return CollectedSeries(tuple(unique.values()), duplicates, repeated, outside)


def unfold_native(samples: Sequence[Any]) -> list[tuple[Part, float, IntArray, FloatArray]]:
    """A native histogram as the series of a classic one: part, bound, times and values of each.

    A server sends only buckets with observations, and may join neighbours at any time. So a bound is used only where no
    bucket ever spans it; the count up to it is the sum of the buckets that end there or before.
    """
    ts_ms = np.array([round(float(moment) * 1000) for moment, _ in samples], dtype=np.int64)
    histograms = [histogram for _, histogram in samples]
    count, total = (np.array([float(histogram[key]) for histogram in histograms]) for key in ("count", "sum"))
    # Lower bound, upper bound and count of each bucket, for each moment.
    buckets = [
        np.array([bucket[1:4] for bucket in histogram.get("buckets") or ()], dtype=float).reshape(-1, 3)
        for histogram in histograms
    ]
    bounds = np.unique(np.concatenate([rows[:, :2].ravel() for rows in buckets]))
    bounds = bounds[np.isfinite(bounds)]
    crossed = np.zeros(bounds.size, dtype=bool)
    for rows in buckets:
        crossed |= ((rows[:, 0][:, None] < bounds) & (bounds < rows[:, 1][:, None])).any(axis=0)
    unfolded: list[tuple[Part, float, IntArray, FloatArray]] = [
        ("count", math.nan, ts_ms, count),
        ("sum", math.nan, ts_ms, total),
        ("bucket", math.inf, ts_ms, count),
    ]
    for bound in bounds[~crossed].tolist():
        below = np.array([rows[rows[:, 1] <= bound, 2].sum() for rows in buckets])
        unfolded.append(("bucket", bound, ts_ms, below))
    return unfolded


def _to_arrays(values: list[Any] | Lifted) -> tuple[IntArray, FloatArray]:
    """Times (ms) and numbers, from pairs of a time (s) and a number in quotes where they have not been read yet."""
    if isinstance(values, tuple):
        ts, numbers = values
    else:
        ts = np.array([float(pair[0]) for pair in values])
        numbers = np.array([float(pair[1]) for pair in values])
    if not (np.abs(ts) < LATEST_S).all():
        raise ValueError("a sample without a time")
    return np.round(ts * 1000).astype(np.int64), numbers
