"""Readings of a metrics server on the axis of the load: the values of each query for each arm over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluator.figure_data.base import MOST_POINTS, round_all
from evaluator.figure_data.timeline import Axis
from evaluator.metrics.reading_base import ReadingMetric
from evaluator.records import PARTS, Query, QueryKind, ReadingCells
from evaluator.records.arrays import BoolArray, FloatArray, IntArray

MOST_QUERIES = 8


def trace_readings(
    readings: ReadingCells, axis: Axis | None, metrics: Mapping[str, tuple[ReadingMetric, str]]
) -> list[dict[str, Any]]:
    """One entry per query: gauges by their mean over instances, counters per second, histograms by their mean.

    `axis` is that of the load; without one the readings have their own, from their first bucket. `metrics`: the metric
    that uses a query, with its name, by the text of the query; gauges and histograms are in its unit.
    """
    out = []
    for code, query in enumerate(readings.queries[:MOST_QUERIES] if readings.bucket.size else ()):
        metric, metric_name = metrics.get(query.text, (None, ""))
        counted = query.kind is QueryKind.COUNTER
        arms = []
        for arm, name in enumerate(readings.arms):
            buckets, values = _find_series(readings, code, query, arm)
            values = values * (metric.scale if metric and not counted else 1.0)
            moments = buckets * float(readings.bucket_s)
            first_s = float(readings.bucket.min() * readings.bucket_s)
            load_s = np.array([axis.locate(moment) if axis else moment - first_s for moment in moments])
            inside = np.isfinite(load_s)
            step = max(1, -(-int(inside.sum()) // MOST_POINTS))
            seconds, values = round_all(load_s[inside][::step]), values[inside][::step]
            if seconds:
                arms.append({"name": name, "seconds": seconds, "values": round_all(values)})
        if arms:
            out.append(
                {
                    "name": query.text.partition("{")[0].strip() or query.text,
                    "metric": metric_name,
                    "query": query.text,
                    "unit": metric.scaled_unit.replace("fraction", "") if metric and not counted else "",
                    "shows": "per_s" if counted else "mean",
                    "arms": arms,
                }
            )
    return out


def _find_series(readings: ReadingCells, code: int, query: Query, arm: int) -> tuple[IntArray, FloatArray]:
    """Buckets and values of one query and arm."""
    selected = (readings.query == code) & (readings.arm == arm)
    histogram = query.kind is QueryKind.HISTOGRAM
    above = selected & (readings.part == PARTS.index("sum" if histogram else "value"))
    below = selected & (readings.part == PARTS.index("count")) if histogram else above
    buckets = np.unique(readings.bucket[above])
    below &= np.isin(readings.bucket, buckets)

    def add_up(rows: BoolArray, values: FloatArray) -> FloatArray:
        slot = np.searchsorted(buckets, readings.bucket[rows])
        return np.asarray(np.bincount(slot, weights=values[rows], minlength=buckets.size), float)

    if query.kind is QueryKind.COUNTER:
        count = np.full(buckets.size, float(readings.bucket_s))
    else:
        count = add_up(below, readings.total if histogram else readings.n.astype(float))
    with np.errstate(divide="ignore", invalid="ignore"):
        return buckets, add_up(above, readings.total) / count
