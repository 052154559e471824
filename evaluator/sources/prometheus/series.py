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
"""The labels of a series as sorted pairs of name and value, without `le` and the name of the metric."""

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
        """Add the result of one window, as the API gives it; returns how many series it had.

        Raises TypeError, ValueError or another built-in error for a result of another form.
        """
        series_count = 0
        for series in result:
            series_count += 1
            labels = series["metric"]
            if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
                raise TypeError("labels must be texts")
            if series.get("histograms"):  # native histograms: count, sum and all buckets in each sample
                for part, le, ts_ms, values in unfold_native(list(series["histograms"])):
                    self._add_samples(labels, part, le, ts_ms, values)
            if len(series.get("values", ())):
                is_bucket = self.part == "bucket" and "le" in labels
                # The upper bound of a bucket is part of a key, so all series without one have the same NaN object: no
                # other NaN is equal to it.
                le = float(labels["le"].replace("+Inf", "inf")) if is_bucket else math.nan
                ts_ms, values = _to_arrays(series["values"])
                self._add_samples(labels, self.part, le, ts_ms, values)
        return series_count

    def _add_samples(
        self, labels: Mapping[str, str], part: Part, le: float, ts_ms: IntArray, values: FloatArray
    ) -> None:
        """Add samples of one series; those that are NaN or infinite are only counted.

        `le`: upper bound of a bucket, NaN for any other part.
        """
        self.read += values.size
        is_finite = np.isfinite(values)
        if not is_finite.all():
            nan = int(np.isnan(values).sum())
            self.nan += nan
            self.infinite += int((~is_finite).sum()) - nan
            ts_ms, values = ts_ms[is_finite], values[is_finite]
        key = tuple(sorted((name, value) for name, value in labels.items() if name not in ("le", "__name__")))
        self.labels.setdefault(key, labels)
        self.samples.setdefault((key, part, le), []).append((ts_ms, values))

    def series(self, window_ms: tuple[int, int]) -> CollectedSeries:
        """Join the samples of all windows to series, each in the order of time, and count what is left out of them.

        `window_ms`: first and last time of the samples to keep. Series that differ only in the labels of a pair of
        servers are duplicates.
        """
        start_ms, end_ms = window_ms
        # Samples are collected by the labels, the part of the histogram and the upper bound (`le`) of the bucket.
        series_by_key: dict[tuple[Key, Part, float], Series] = {}
        duplicates = repeated = outside = 0
        for (key, part, le), pieces in self.samples.items():
            all_ts_ms = np.concatenate([piece_ts_ms for piece_ts_ms, _ in pieces])
            all_values = np.concatenate([piece_values for _, piece_values in pieces])
            is_inside = (all_ts_ms >= start_ms) & (all_ts_ms <= end_ms)
            # Of samples at the same time, the first stays.
            ts_ms, first_indices = np.unique(all_ts_ms[is_inside], return_index=True)
            repeated += int(is_inside.sum()) - ts_ms.size
            outside += int((~is_inside).sum())
            if not ts_ms.size:
                continue
            series = self._make_series(self.labels[key], part, le, ts_ms, all_values[is_inside][first_indices])
            # Both servers of a pair have this key.
            key_of_pair = tuple((name, value) for name, value in key if name not in self.options.replica_labels)
            duplicate = series_by_key.get((key_of_pair, part, le))
            if duplicate is not None:
                duplicates += 1
                # Of two duplicates the one with more samples stays; the later one if they have as many.
                dropped, series = sorted((duplicate, series), key=lambda candidate: candidate.ts_ms.size)
                repeated += dropped.ts_ms.size
            series_by_key[key_of_pair, part, le] = series
        return CollectedSeries(tuple(series_by_key.values()), duplicates, repeated, outside)

    def _make_series(
        self, labels: Mapping[str, str], part: Part, le: float, ts_ms: IntArray, values: FloatArray
    ) -> Series:
        """Make a series with the instance and the endpoint that its labels name; empty for a label that is missing.

        `le`: upper bound of a bucket, NaN for any other part. `ts_ms`, `values`: times and values of its samples.
        """
        options = self.options
        endpoint = labels.get(options.endpoint_label, "") if options.endpoint_label else ""
        shown_labels = {name: value for name, value in labels.items() if name not in ("le", "__name__")}
        return Series(shown_labels, labels.get(options.instance_label, ""), endpoint, part, le, ts_ms, values)


def unfold_native(samples: Sequence[Any]) -> list[tuple[Part, float, IntArray, FloatArray]]:
    """Turn the samples of a native histogram into the series of a classic one.

    `samples`: pairs of a time (s) and a histogram, as the API gives them. Returns part, upper bound (NaN for count and
    sum), times (ms) and values of each series.

    A server sends only buckets with observations, and may join neighbours at any time. So a bound is used only if no
    bucket ever spans it; the count up to a bound is the sum of the buckets that end there or before.
    """
    ts_ms = np.array([round(float(time_s) * 1000) for time_s, _ in samples], dtype=np.int64)
    histograms = [histogram for _, histogram in samples]
    counts = np.array([float(histogram["count"]) for histogram in histograms])
    sums = np.array([float(histogram["sum"]) for histogram in histograms])
    # For each time an array (buckets, 3): lower bound, upper bound and count of each bucket. The API has before them a
    # code for which of the bounds belong to the bucket.
    buckets_over_time = [
        np.array([bucket[1:4] for bucket in histogram.get("buckets") or ()], dtype=float).reshape(-1, 3)
        for histogram in histograms
    ]
    bounds = np.unique(np.concatenate([buckets[:, :2].ravel() for buckets in buckets_over_time]))
    bounds = bounds[np.isfinite(bounds)]
    is_spanned = np.zeros(bounds.size, dtype=bool)
    for buckets in buckets_over_time:
        lower, upper = buckets[:, 0][:, None], buckets[:, 1][:, None]  # (buckets, 1), against (bounds,)
        is_spanned |= ((lower < bounds) & (bounds < upper)).any(axis=0)
    unfolded: list[tuple[Part, float, IntArray, FloatArray]] = [
        ("count", math.nan, ts_ms, counts),
        ("sum", math.nan, ts_ms, sums),
        ("bucket", math.inf, ts_ms, counts),
    ]
    for bound in bounds[~is_spanned].tolist():
        counts_below = np.array([buckets[buckets[:, 1] <= bound, 2].sum() for buckets in buckets_over_time])
        unfolded.append(("bucket", bound, ts_ms, counts_below))
    return unfolded


def _to_arrays(samples: list[Any] | Lifted) -> tuple[IntArray, FloatArray]:
    """Times (ms) and values of the samples of a series. Raises ValueError for a time that is not possible.

    `samples`: arrays of times (s) and values, or, if they could not be read as such, pairs of a time and a text.
    """
    if isinstance(samples, tuple):
        times_s, values = samples
    else:
        times_s = np.array([float(pair[0]) for pair in samples])
        values = np.array([float(pair[1]) for pair in samples])
    if not (np.abs(times_s) < LATEST_S).all():
        raise ValueError("a sample without a time")
    return np.round(times_s * 1000).astype(np.int64), values
