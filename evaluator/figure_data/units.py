"""A metric of each instance by itself (of each run, where replicates were compared): is it one pod?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from evaluator.assess.requests import RequestPairs
from evaluator.figure_data.base import MOST_UNITS, plain
from evaluator.metrics.base import RequestMetric, UnitTotals
from evaluator.records import Comparison
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.estimators.distribution import Distribution, counts_below, distributions_by_row, find_limits_ms
from evaluator.stats.shaping.histogram import SortedBins
from evaluator.stats.shaping.panel import Panel


@dataclass(frozen=True, slots=True)
class _Units:
    """Names and arms of instances or runs, and the unit of each row of their sums."""

    names: tuple[str, ...]
    arm: IntArray
    """Shape (units,)."""
    unit: IntArray
    """Unit of each row of the sums, shape (rows,)."""
    sums: Mapping[str, FloatArray]
    """`n`, `failures` and the totals of the panel, each of shape (rows,)."""
    histogram_unit: IntArray
    """Unit of each row of the histogram."""
    bins: SortedBins

    def total(self, name: str) -> FloatArray:
        """A sum of each unit, shape (units,)."""
        return np.asarray(np.bincount(self.unit, weights=self.sums[name], minlength=self.arm.size), float)


def trace_units(requests: RequestPairs, row: Comparison) -> dict[str, Any] | None:
    """The value of each unit, not standardised over endpoints and time; the busiest where there are many.

    `None` for a metric that instances do not have (throughput).
    """
    pair = requests.find_pair(row.arm, row.rule.slice.endpoint)
    metric = row.rule.metric
    if pair is None or not isinstance(metric, RequestMetric):
        return None
    by_run = pair.design.kind == "replicates"
    units = _take_runs(requests, pair.panel) if by_run else _take_instances(pair.panel)
    n = units.total("n")
    failures, time_ms, size = (units.total(name) for name in ("failures", "time_ms", "bytes"))
    quantiles, done = partial(_find_quantiles, pair.panel, units, n), partial(_count_done, pair.panel, units)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = metric.of_units(UnitTotals(n, failures, time_ms, size, quantiles, done))
    if values is None:
        return None
    shown: list[int] = []
    for arm in (0, 1):
        active = np.flatnonzero((units.arm == arm) & (n > 0))
        busiest = active[np.argsort(-n[active], kind="stable")][:MOST_UNITS]
        shown += sorted(busiest.tolist(), key=lambda unit: units.names[unit])
    return {
        "of": "run" if by_run else "instance",
        "hidden": int((n > 0).sum()) - len(shown),
        "units": [
            {
                "arm": pair.name(int(units.arm[unit])),
                "name": units.names[unit],
                "n": int(n[unit]),
                "value": plain(values[unit]),
            }
            for unit in shown
        ],
    }


def _take_instances(panel: Panel) -> _Units:
    rows = panel.rows
    owner = np.zeros(rows.histogram_rows, dtype=np.int64)
    owner[rows.histogram] = rows.instance
    sums = {"n": rows.n, "failures": rows.failures, **rows.totals}
    return _Units(rows.names, rows.instance_arm, rows.instance, sums, owner, panel.row_bins)


def _take_runs(requests: RequestPairs, panel: Panel) -> _Units:
    """Runs of the baseline first, then those of the candidate."""
    runs = panel.runs
    run = np.searchsorted(runs, panel.run)
    stride = np.append(run, np.zeros(panel.stride - run.size, run.dtype))
    owner = np.tile(stride, len(panel.endpoints))
    sums = {"n": panel.n, "failures": panel.failures, **panel.totals}
    names = tuple(f"run {number} ({requests.cells.runs[code]})" for number, code in enumerate(runs.tolist(), start=1))
    return _Units(
        names * 2,
        np.repeat([0, 1], runs.size),
        np.concatenate([run, run + runs.size]),
        {name: values.sum(axis=1).ravel() for name, values in sums.items()},
        np.concatenate([owner, owner + runs.size]),
        panel.bins,
    )


def _find_quantiles(panel: Panel, units: _Units, n: FloatArray, probability: float) -> FloatArray:
    limits, owner = find_limits_ms(panel), units.histogram_unit
    out = np.full(n.size, np.nan)
    curves = distributions_by_row(units.bins, np.ones(owner.size), limits, owner, n.size)
    for unit in np.flatnonzero((curves[:, -1] > 0) & (n > 0)):
        out[unit] = Distribution(limits, curves[unit] / n[unit]).quantile(probability)
    return out


def _count_done(panel: Panel, units: _Units, limit_ms: float) -> FloatArray:
    owner = units.histogram_unit
    below = counts_below(units.bins, find_limits_ms(panel), np.array([limit_ms]), owner.size)[0]
    return np.asarray(np.bincount(owner, weights=below, minlength=units.arm.size), float)
