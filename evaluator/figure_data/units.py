"""A metric of each instance by itself (of each run, where replicates were compared): is it one pod?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from evaluator.assess.requests import RequestPairs
from evaluator.figure_data.base import MOST_UNITS, round_value
from evaluator.metrics.base import RequestMetric, UnitTotals
from evaluator.records import Comparison, FailureCount
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.estimators.distribution import Distribution, counts_below, distributions_by_set, find_limits_ms
from evaluator.stats.shaping.failures import count_kinds, rank_kinds
from evaluator.stats.shaping.histogram import SortedBins
from evaluator.stats.shaping.panel import Panel
from evaluator.wording import list_kinds


@dataclass(frozen=True, slots=True)
class _Units:
    """Instances or runs, each of one arm, with their sums and histograms. Units are numbered from 0."""

    names: tuple[str, ...]
    arm: IntArray
    """Arm of each unit, 0 for the baseline and 1 for the candidate, shape (units,)."""
    unit: IntArray
    """Unit of each row of the sums, shape (rows,)."""
    sums: Mapping[str, FloatArray]
    """`n`, `failures` and the totals of the panel, each of shape (rows,)."""
    histogram_unit: IntArray
    """Unit of each cell of the histograms, shape (cells,)."""
    bins: SortedBins

    def total(self, name: str) -> FloatArray:
        """Add up a sum over the rows of each unit, shape (units,)."""
        return np.asarray(np.bincount(self.unit, weights=self.sums[name], minlength=self.arm.size), float)


def trace_units(requests: RequestPairs, comparison: Comparison) -> dict[str, Any] | None:
    """Compute the metric of a comparison for each unit: for each run if runs are compared, else for each instance.

    Values are over the mix of endpoints that a unit served, not standardised. Of each arm, the busiest `MOST_UNITS` are
    returned; `hidden` counts the others. `None` for a metric that units do not have (throughput).
    """
    pair = requests.find_pair(comparison.arm, comparison.rule.slice.endpoint)
    metric = comparison.rule.metric
    if pair is None or not isinstance(metric, RequestMetric):
        return None
    by_run = pair.design.kind == "replicates"
    units = _take_runs(requests, pair.panel) if by_run else _take_instances(pair.panel)
    # Totals of each unit, shape (units,).
    n = units.total("n")
    failures, time_ms, size = (units.total(name) for name in ("failures", "time_ms", "bytes"))
    # A metric that needs quantiles, or counts of requests within a time, calls these functions.
    find_quantiles = partial(_find_quantiles, pair.panel, units, n)
    count_done = partial(_count_done, pair.panel, units)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = metric.of_units(UnitTotals(n, failures, time_ms, size, find_quantiles, count_done))
    if values is None:
        return None
    shown: list[int] = []
    for arm in (0, 1):  # baseline, candidate
        active = np.flatnonzero((units.arm == arm) & (n > 0))
        # The busiest first; those that are shown are then sorted by name.
        busiest = active[np.argsort(-n[active], kind="stable")][:MOST_UNITS]
        shown += sorted(busiest.tolist(), key=lambda unit: units.names[unit])
    kinds_of: dict[int, str] = {}
    if metric.is_failure_rate:
        runs = pair.panel.runs.tolist()
        for unit in shown:
            name = pair.name(int(units.arm[unit]))
            instance, run = (None, runs[unit % len(runs)]) if by_run else (units.names[unit], None)
            kinds_of[unit] = _list_kinds(requests, comparison, name, instance, run)
    return {
        "of": "run" if by_run else "instance",
        "hidden": int((n > 0).sum()) - len(shown),
        "units": [
            {
                "arm": pair.name(int(units.arm[unit])),
                "name": units.names[unit],
                "n": int(n[unit]),
                "value": round_value(values[unit]),
                # The quantile of a unit of which too many requests fail: beyond all times.
                **({"fails": True} if np.isposinf(values[unit]) else {}),
                **({"kinds": kinds} if (kinds := kinds_of.get(unit)) else {}),
            }
            for unit in shown
        ],
    }


def _list_kinds(
    requests: RequestPairs, comparison: Comparison, arm: str, instance: str | None = None, run: int | None = None
) -> str:
    """List the kinds of failures of an instance (or in a run, of which the code is given), as text.

    They are those of the endpoint of a comparison in whole runs. Empty if none is recorded.
    """
    cells, endpoint = requests.cells, comparison.rule.slice.endpoint
    counted = count_kinds(
        cells,
        cells.arms.index(arm),
        endpoints=None if endpoint is None else [cells.endpoints.index(endpoint)],
        instances=None if instance is None else [cells.instances.index(instance)],
        run=run,
    )
    failures = sum(counted.values())
    kinds, other_kinds, _ = rank_kinds(counted, failures)
    return list_kinds(FailureCount(arm, endpoint, instance, 0, failures, kinds, other_kinds))


def _take_instances(panel: Panel) -> _Units:
    """Take the instances of both arms as units."""
    rows = panel.rows  # a row per instance, time and endpoint
    # The panel has the cell of the histograms of each row; wanted is the instance of each cell.
    histogram_unit = np.zeros(rows.histogram_rows, dtype=np.int64)
    histogram_unit[rows.histogram] = rows.instance
    sums = {"n": rows.n, "failures": rows.failures, **rows.totals}
    return _Units(
        rows.names,
        arm=rows.instance_arm,
        unit=rows.instance,
        sums=sums,
        histogram_unit=histogram_unit,
        bins=panel.row_bins,
    )


def _take_runs(requests: RequestPairs, panel: Panel) -> _Units:
    """Take the runs of each arm as units: first all runs of the baseline, then the same runs of the candidate."""
    runs = panel.runs  # codes of the runs in the cells, sorted
    run_of_slot = np.searchsorted(runs, panel.run)  # each slot is a part of one run; its index in `runs`
    # Cells of the histograms have the shape (2 arms, endpoints, stride). Stride exceeds the number of slots only in a
    # panel of an earlier look; units are shown of all data, where nothing is padded.
    padding = np.zeros(panel.stride - run_of_slot.size, run_of_slot.dtype)
    run_of_cell = np.tile(np.append(run_of_slot, padding), len(panel.endpoints))
    sums = {"n": panel.n, "failures": panel.failures, **panel.totals}  # each of shape (2 arms, endpoints, slots)
    names = tuple(f"run {number} ({requests.cells.runs[code]})" for number, code in enumerate(runs.tolist(), start=1))
    # The unit of a run is its index for the baseline, and this index + the number of runs for the candidate.
    return _Units(
        names * 2,
        arm=np.repeat([0, 1], runs.size),
        unit=np.concatenate([run_of_slot, run_of_slot + runs.size]),
        # Over all endpoints: shape (2 arms × slots,).
        sums={name: values.sum(axis=1).ravel() for name, values in sums.items()},
        histogram_unit=np.concatenate([run_of_cell, run_of_cell + runs.size]),
        bins=panel.bins,
    )


def _find_quantiles(panel: Panel, units: _Units, n: FloatArray, probability: float) -> FloatArray:
    """Find a quantile of the time to success (ms) of each unit; `n` are its requests, both of shape (units,).

    Infinite if too many requests failed, NaN for a unit without any success.
    """
    limits_ms, unit_of_cell = find_limits_ms(panel), units.histogram_unit  # limits of the bins of a histogram
    quantiles = np.full(n.size, np.nan)
    # Successes of each unit up to each limit, shape (units, limits). Each cell has the weight 1: no standardisation.
    done = distributions_by_set(units.bins, np.ones(unit_of_cell.size), limits_ms, unit_of_cell, n.size)
    for unit in np.flatnonzero((done[:, -1] > 0) & (n > 0)):
        quantiles[unit] = Distribution(limits_ms, done[unit] / n[unit]).quantile(probability)
    return quantiles


def _count_done(panel: Panel, units: _Units, limit_ms: float) -> FloatArray:
    """Count the requests of each unit that succeeded within `limit_ms`, shape (units,)."""
    unit_of_cell = units.histogram_unit  # the requests of a unit are in several cells of the histograms
    # Of shape (1 limit, cells).
    done = counts_below(units.bins, find_limits_ms(panel), np.array([limit_ms]), unit_of_cell.size)
    return np.asarray(np.bincount(unit_of_cell, weights=done[0], minlength=units.arm.size), float)
