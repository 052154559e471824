"""Readings of a metrics server on the axis of the load: what each query said of each arm, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluator.curves.base import MOST_POINTS, round_all
from evaluator.curves.timeline import Axis
from evaluator.metrics.reading_base import ReadingMetric
from evaluator.records import PARTS, Query, QueryKind, ReadingCells

__all__ = ["trace_readings"]

FloatArray = npt.NDArray[np.float64]

MOST_QUERIES = 8


def trace_readings(
    readings: ReadingCells, axis: Axis | None, metrics: Mapping[str, tuple[ReadingMetric, str]]
) -> list[dict[str, Any]]:
    """One entry a query: gauges by their mean over instances, counters per second, histograms by their mean.

    `axis` is that of the load; without one the readings have their own, from their first bucket. `metrics`: a metric
    that asks a query, with its name, by the text of the query; gauges and histograms are in its unit.
    """
    if not readings.bucket.size:
        return []
    out = []
    for code, query in enumerate(readings.queries[:MOST_QUERIES]):
        metric, name = metrics.get(query.text, (None, ""))
        counted = query.kind is QueryKind.COUNTER
        scale = metric.scale if metric and not counted else 1.0
        arms = [_trace_arm(readings, axis, code, query, arm, scale) for arm in range(len(readings.arms))]
        out.append(
            {
                "name": query.text.partition("{")[0].strip() or query.text,
                "metric": name,
                "query": query.text,
                "unit": metric.scaled_unit.replace("fraction", "") if metric and not counted else "",
                "shows": "per_s" if counted else "mean",
                "arms": [arm for arm in arms if arm["seconds"]],
            }
        )
    return [one for one in out if one["arms"]]


def _trace_arm(
    readings: ReadingCells, axis: Axis | None, code: int, query: Query, arm: int, scale: float
) -> dict[str, Any]:
    seconds, values = _series(readings, code, query, arm)
    values = values * scale
    load_s = np.array([_place(axis, moment, float(readings.bucket.min() * readings.bucket_s)) for moment in seconds])
    inside = np.isfinite(load_s)
    load_s, values = load_s[inside], values[inside]
    step = max(1, -(-load_s.size // MOST_POINTS))
    return {"name": readings.arms[arm], "seconds": round_all(load_s[::step]), "values": round_all(values[::step])}


def _series(readings: ReadingCells, code: int, query: Query, arm: int) -> tuple[FloatArray, FloatArray]:
    """Moments (s since the epoch) and values of one query and arm."""
    mine = (readings.query == code) & (readings.arm == arm)
    part = readings.part
    if query.kind is QueryKind.HISTOGRAM:
        above, below = mine & (part == PARTS.index("sum")), mine & (part == PARTS.index("count"))
    else:
        above = below = mine & (part == PARTS.index("value"))
    buckets = np.unique(readings.bucket[above])
    total = _summed(readings, above, buckets, readings.total)
    if query.kind is QueryKind.HISTOGRAM:
        count = _summed(readings, below, buckets, readings.total)
    elif query.kind is QueryKind.GAUGE:
        count = _summed(readings, below, buckets, readings.n.astype(float))
    else:
        count = np.full(buckets.size, float(readings.bucket_s))
    with np.errstate(divide="ignore", invalid="ignore"):
        return buckets * float(readings.bucket_s), total / count


def _summed(
    readings: ReadingCells, keep: npt.NDArray[np.bool_], buckets: npt.NDArray[np.int64], values: FloatArray
) -> FloatArray:
    if not buckets.size:
        return np.zeros(0)
    keep = keep & np.isin(readings.bucket, buckets)
    place = np.searchsorted(buckets, readings.bucket[keep])
    return np.asarray(np.bincount(place, weights=values[keep], minlength=buckets.size), float)


def _place(axis: Axis | None, epoch_s: float, first_s: float) -> float:
    """Load time of a moment; NaN outside of every run."""
    if axis is None:
        return epoch_s - first_s
    ends = [*list(axis.first_slot.values())[1:], axis.slots]
    for (run, slot), end in zip(axis.first_slot.items(), ends, strict=True):
        at = axis.at(run, epoch_s)
        if slot * axis.slot_s <= at < end * axis.slot_s:
            return at
    return float("nan")
