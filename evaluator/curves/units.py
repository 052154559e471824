"""A metric of each instance by itself (of each run, where replicates were compared): is it one pod?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluator.curves.base import MOST_UNITS, Scope, plain
from evaluator.metrics.base import Pair, RequestMetric, UnitTotals
from evaluator.records import Comparison
from evaluator.stats.distribution import Distribution, distributions_by_row
from evaluator.stats.histogram import SortedBins
from evaluator.stats.panel import Panel
from evaluator.stats.quantiles import find_limits_ms

__all__ = ["trace_units"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Units:
    """Sums of each unit: all arrays have shape (units,)."""

    names: tuple[str, ...]
    arm: IntArray
    n: FloatArray
    failures: FloatArray
    sum_ms: FloatArray
    sum_bytes: FloatArray
    rows: IntArray
    """Which unit each cell of the histogram belongs to."""
    bins: SortedBins


def trace_units(scope: Scope, row: Comparison) -> dict[str, Any] | None:
    """Values as each unit had them, not standardised over endpoints and time; the busiest where there are many."""
    pair = scope.whole(row.arm, row.rule.slice.endpoint)
    metric = row.rule.metric
    if pair is None or not isinstance(metric, RequestMetric):
        return None
    units = _of_runs(scope, pair) if pair.design.kind == "replicates" else _of_instances(pair.panel)
    totals = UnitTotals(
        units.n, units.failures, units.sum_ms, units.sum_bytes, lambda share: _quantiles(pair.panel, units, share)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        values = metric.of_units(totals)
    if values is None:
        return None
    shown = [unit for arm in (0, 1) for unit in _busiest(units, arm)]
    return {
        "of": "run" if pair.design.kind == "replicates" else "instance",
        "hidden": int((units.n > 0).sum()) - len(shown),
        "units": [
            {
                "arm": pair.name(int(units.arm[unit])),
                "name": units.names[unit],
                "n": int(units.n[unit]),
                "value": plain(values[unit]),
            }
            for unit in shown
        ],
    }


def _busiest(units: _Units, arm: int) -> list[int]:
    here = np.flatnonzero((units.arm == arm) & (units.n > 0))
    most = here[np.argsort(-units.n[here], kind="stable")][:MOST_UNITS]
    return sorted(most.tolist(), key=lambda unit: units.names[unit])


def _of_instances(panel: Panel) -> _Units:
    rows = panel.rows
    count = rows.instance_arm.size
    owner = np.zeros(rows.histogram_rows, dtype=np.int64)
    owner[rows.histogram] = rows.instance

    def by_instance(values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(rows.instance, weights=values, minlength=count), float)

    return _Units(
        rows.names,
        rows.instance_arm,
        by_instance(rows.n),
        by_instance(rows.failures),
        by_instance(rows.totals["time_ms"]),
        by_instance(rows.totals["bytes"]),
        owner,
        panel.row_bins,
    )


def _of_runs(scope: Scope, pair: Pair) -> _Units:
    """Runs of the baseline first, then those of the candidate."""
    panel, runs = pair.panel, pair.panel.runs
    run = np.searchsorted(runs, panel.run)
    stride = np.append(run, np.zeros(panel.stride - run.size, run.dtype))
    owner = np.tile(stride, len(panel.endpoints))

    def by_run(values: FloatArray) -> FloatArray:
        """Both arms' sums over the slots of each run, one after the other."""
        summed = values.sum(axis=1)
        return np.concatenate([np.bincount(run, weights=own, minlength=runs.size) for own in summed])

    order = scope.pairs.cells.runs
    names = tuple(f"run {place + 1} ({order[code]})" for place, code in enumerate(runs.tolist()))
    return _Units(
        names * 2,
        np.repeat([0, 1], runs.size),
        by_run(panel.n),
        by_run(panel.failures),
        by_run(panel.totals["time_ms"]),
        by_run(panel.totals["bytes"]),
        np.concatenate([owner, owner + runs.size]),
        panel.bins,
    )


def _quantiles(panel: Panel, units: _Units, probability: float) -> FloatArray:
    limits = find_limits_ms(panel)
    out = np.full(units.n.size, np.nan)
    curves = distributions_by_row(units.bins, np.ones(units.rows.size), limits, units.rows, units.n.size)
    for unit in np.flatnonzero((curves[:, -1] > 0) & (units.n > 0)):
        out[unit] = Distribution(limits, curves[unit] / units.n[unit]).quantile(probability)
    return out
