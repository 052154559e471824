"""Readings of a metrics server on the axis of the load: the values of each query for each arm over time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluator.figure_data.base import MOST_POINTS, round_values
from evaluator.figure_data.timeline import Axis
from evaluator.metrics.reading_base import ReadingMetric
from evaluator.records import PARTS, Query, QueryKind, ReadingCells
from evaluator.records.arrays import BoolArray, FloatArray, IntArray

MOST_QUERIES = 8


def trace_readings(
    readings: ReadingCells, axis: Axis | None, metrics: Mapping[str, tuple[ReadingMetric, str]]
) -> list[dict[str, Any]]:
    """Compute the values of each query over time, by arm; queries without values on the axis are left out.

    Gauges and histograms show their mean, counters their increase per second.

    Args:
        readings: All readings that were collected.
        axis: Axis of the load; `None`: times count from the first bucket of the readings.
        metrics: By the text of a query, the metric that uses it and its name. Means are in the unit of that metric.

    Returns:
        An entry per query, with lists of `seconds` of load and `values` for each arm (at most `MOST_POINTS`).
    """
    traced_queries = []
    for query_code, query in enumerate(readings.queries[:MOST_QUERIES] if readings.bucket.size else ()):
        metric, metric_name = metrics.get(query.text, (None, ""))
        is_counter = query.kind is QueryKind.COUNTER
        arms = []
        for arm_code, arm in enumerate(readings.arms):
            buckets, values = _find_series(readings, query_code, query, arm_code)
            # Increases of counters per second are shown as they are, not in the unit of a metric.
            values = values * (metric.scale if metric and not is_counter else 1.0)
            epoch_s = buckets * float(readings.bucket_s)
            first_epoch_s = float(readings.bucket.min() * readings.bucket_s)
            load_s = np.array([axis.locate(time) if axis else time - first_epoch_s for time in epoch_s])
            on_axis = np.isfinite(load_s)  # NaN: outside of every run
            step = max(1, math.ceil(on_axis.sum() / MOST_POINTS))  # only every `step`-th point is kept
            seconds, kept_values = load_s[on_axis][::step], values[on_axis][::step]
            if seconds.size:
                arms.append({"name": arm, "seconds": round_values(seconds), "values": round_values(kept_values)})
        if arms:
            traced_queries.append(
                {
                    "name": query.text.partition("{")[0].strip() or query.text,  # without its labels in braces
                    "metric": metric_name,
                    "query": query.text,
                    "unit": metric.scaled_unit.replace("fraction", "") if metric and not is_counter else "",
                    "shows": "per_s" if is_counter else "mean",
                    "arms": arms,
                }
            )
    return traced_queries


def _find_series(readings: ReadingCells, query_code: int, query: Query, arm_code: int) -> tuple[IntArray, FloatArray]:
    """Compute the value of a query and an arm in each bucket that has readings, over all instances and endpoints.

    A gauge has the mean of its samples, a histogram its sum divided by its count, a counter its increase per second.
    Returns the buckets (since the epoch) and their values, both of shape (buckets,). A value is NaN if both its sum and
    its count are 0.
    """
    is_histogram = query.kind is QueryKind.HISTOGRAM
    in_series = (readings.query == query_code) & (readings.arm == arm_code)
    # Rows of what is divided, and of what it is divided by: a histogram has its sum and its count in separate rows.
    sum_rows = in_series & (readings.part == PARTS.index("sum" if is_histogram else "value"))
    count_rows = in_series & (readings.part == PARTS.index("count")) if is_histogram else sum_rows
    buckets = np.unique(readings.bucket[sum_rows])
    count_rows = count_rows & np.isin(readings.bucket, buckets)

    def add_up(rows: BoolArray, values: FloatArray) -> FloatArray:
        bucket_index = np.searchsorted(buckets, readings.bucket[rows])
        return np.asarray(np.bincount(bucket_index, weights=values[rows], minlength=buckets.size), float)

    if query.kind is QueryKind.COUNTER:
        divisor = np.full(buckets.size, float(readings.bucket_s))
    elif is_histogram:
        divisor = add_up(count_rows, readings.total)
    else:
        divisor = add_up(count_rows, readings.n.astype(float))
    with np.errstate(divide="ignore", invalid="ignore"):
        return buckets, add_up(sum_rows, readings.total) / divisor
