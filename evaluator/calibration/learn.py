"""How much instances of one version differ, and how whole arms drift, learnt from stored runs.

Differences of instances are learnt from the instances of one arm of a run, and from the replicates of a group with one
instance a side (each replicate has other instances). The variance that time alone explains is subtracted from both.

A drift of whole arms that is slower than a run is not in the uncertainty of a single run. It is learnt where the truth
is known: both arms ran one version (no change at all), or the same release was run again (the same change). It is the
variance of such comparisons beyond their own.

Squares are pooled by their degrees of freedom (method B.3): s² = Σ ν s² / Σ ν.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evaluator.calibration.splits import only_runs
from evaluator.records import Cells, Learnt
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.contrast import Estimand
from evaluator.stats.estimators.strata import Strata, build_strata, standardise_levels
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.variance.instances import InstanceFrame, InstanceVariance
from evaluator.stats.variance.longrun import MIN_BUCKETS, TimeVariance, time_variance
from evaluator.stats.variance.uncertainty import combine


@dataclass(frozen=True, slots=True)
class _Squares:
    """One comparison: squared deviations of latency (log) and failures (rate), and their degrees of freedom."""

    latency: float
    failures: float
    df: float


@dataclass(frozen=True, slots=True)
class _RunShift:
    """Candidate against baseline in one run, with the uncertainty that this run shows."""

    value: float
    time: TimeVariance
    instances: InstanceVariance

    @property
    def variance(self) -> float:
        """Variance by time and instances; NaN if an arm has one instance."""
        if not np.isfinite(self.instances.variance).all():
            return math.nan
        return float(combine(self.time, self.instances, np.zeros((2, 1))).variance.max())


@dataclass(frozen=True, slots=True)
class _RunComparison:
    """The changes of latency and failures in one run."""

    latency: _RunShift
    failures: _RunShift
    instances: frozenset[int]


def learn_instances(stored: Sequence[Cells], same_version: Sequence[bool] = ()) -> Learnt:
    """Learn from the cells of run groups. An arm with one instance shows no differences, but replicates of it do.

    `same_version`: for each group, whether both arms ran one version; left out: no group.
    """
    squares: list[_Squares] = []
    drift: list[_Squares] = []
    runs = drift_runs = 0
    for k, cells in enumerate(stored):
        readable = [
            run for run in _read_runs(cells) if math.isfinite(run.latency.value) and math.isfinite(run.failures.value)
        ]
        of_instances = [item for run in readable for item in _from_instances(run)] or list(_from_replicates(readable))
        squares += of_instances
        runs += len(readable) if of_instances else 0
        of_arms = list(_from_arms(readable, same_version=k < len(same_version) and same_version[k]))
        drift += of_arms
        drift_runs += len(readable) if of_arms else 0
    return Learnt(
        sd_latency=_pool(squares, "latency"),
        sd_failures=_pool(squares, "failures"),
        comparisons=len(squares),
        runs=runs,
        df=sum(item.df for item in squares),
        between_arms_latency=_pool(drift, "latency"),
        between_arms_failures=_pool(drift, "failures"),
        between_arms_comparisons=round(sum(item.df for item in drift)),
        between_arms_runs=drift_runs,
    )


def _pool(squares: Sequence[_Squares], name: str) -> float | None:
    weighted = [(getattr(item, name), item.df) for item in squares if math.isfinite(getattr(item, name))]
    total = sum(df for _, df in weighted)
    if not total:
        return None
    # A part may be below 0 after the variance of time is subtracted, so only the sum is cut at 0.
    return math.sqrt(max(sum(value * df for value, df in weighted) / total, 0.0))


# ------------------------------------------------------------------ runs are read


def _read_runs(cells: Cells) -> Iterator[_RunComparison]:
    """Each run that has both arms and enough buckets."""
    for code in np.unique(cells.moments.run):
        own_cells = only_runs(cells, int(code))
        panel = build_panel(own_cells, cells.arms[1]) if len(cells.arms) > 1 else None
        if panel is None or panel.slots < MIN_BUCKETS:
            continue
        rows, times_ms = panel.rows, panel.totals["time_ms"]
        successes, all_requests = build_strata(panel, panel.ok), build_strata(panel, panel.n)
        yield _RunComparison(
            latency=_compare(successes, times_ms, rows.n - rows.failures, rows.totals["time_ms"], relative=True),
            failures=_compare(all_requests, panel.failures, rows.n, rows.failures, relative=False),
            instances=frozenset(np.unique(own_cells.moments.instance).tolist()),
        )


def _compare(
    strata: Strata, sums: FloatArray, exposure: FloatArray, observed: FloatArray, *, relative: bool
) -> _RunShift:
    """Mean latency as a log ratio, or failures as a difference of rates."""
    by_arm = [standardise_levels(strata, arm, sums[arm]) for arm in (0, 1)]
    estimands = [Estimand(arm.level, arm.influence) for arm in by_arm]
    baseline, candidate = [estimand.log() for estimand in estimands] if relative else estimands
    difference = candidate - baseline
    shift = np.where(np.isfinite(difference.value).all(), difference.value, 0.0)
    frame = InstanceFrame(strata.panel.rows, exposure, strata.groups)
    instances = frame.variance(observed, np.exp(shift) if relative else shift, relative=relative)
    return _RunShift(float(difference.value[0]), time_variance(difference.influence), instances)


# ------------------------------------------------------------------ what is learnt from runs


def _from_instances(run: _RunComparison) -> Iterator[_Squares]:
    slow, fail = run.latency.instances, run.failures.instances
    for arm in (0, 1):
        effective = float(slow.effective[arm, 0])
        if effective > 1 and np.isfinite(slow.variance[arm, 0]):
            own = [float((part.variance - part.within)[arm, 0]) * effective for part in (slow, fail)]
            yield _Squares(own[0], own[1], effective - 1)


def _from_replicates(runs: Sequence[_RunComparison]) -> Iterator[_Squares]:
    """Runs with one instance a side: variance of their shifts beyond time, halved, as each has two instances."""
    if len(runs) >= 2:
        latency, failures = _spread(runs, time_only=True)
        yield _Squares(latency / 2, failures / 2, float(len(runs) - 1))


def _spread(runs: Sequence[_RunComparison], *, time_only: bool) -> Iterator[float]:
    """Variance between runs of the shifts of latency, then of failures, minus their own (`time_only`: that by time)."""
    for shifts in ([run.latency for run in runs], [run.failures for run in runs]):
        own = [float(shift.time.variance[0]) if time_only else shift.variance for shift in shifts]
        yield float(np.var([shift.value for shift in shifts], ddof=1) - np.mean(own))


def _from_arms(runs: Sequence[_RunComparison], *, same_version: bool) -> Iterator[_Squares]:
    """Runs with several instances a side whose true change is nothing, or the same in all of them."""
    several = [run for run in runs if math.isfinite(run.latency.variance) and math.isfinite(run.failures.variance)]
    if same_version:
        for run in several:
            moved = [part.value**2 - part.variance for part in (run.latency, run.failures)]
            yield _Squares(moved[0], moved[1], 1.0)
    elif len(several) >= 2:
        # The same instances in every run have the same effect in every run, so only time makes these runs differ.
        same_instances = bool(frozenset.intersection(*(run.instances for run in several)))
        latency, failures = _spread(several, time_only=same_instances)
        yield _Squares(latency, failures, float(len(several) - 1))
