"""How much instances of one version differ, and how whole arms drift, learnt from stored runs.

Differences of instances are learnt from the instances of one arm of a run, and from the replicates of a group with one
instance a side (each replicate has other instances). The variance that time alone explains is subtracted from both.

A drift of whole arms that is slower than a run is not in the uncertainty of a single run. It is learnt where the truth
is known: both arms ran one version (no change at all), or the same release was run again (the same change). It is the
variance of such comparisons beyond their own.

Variances are pooled by their degrees of freedom (method B.3): s² = Σ ν s² / Σ ν.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

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
class _Variances:
    """Variances from one comparison; below 0 if time explains more than there was."""

    latency: float
    """Of the logarithm of the mean latency."""
    failures: float
    """Of the failure rate."""
    df: float
    """Degrees of freedom of both."""


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
    """Codes of the instances of both arms."""


def learn_instances(run_groups: Sequence[Cells], same_version: Sequence[bool] = ()) -> Learnt:
    """Learn how much instances of one version differ, and how much whole arms do, from the cells of run groups.

    Both as standard deviations, of the logarithm of the mean latency and of the failure rate; `None` without any
    comparison. `same_version`: for each group, whether both arms ran one version; groups beyond its end did not.
    """
    between_instances: list[_Variances] = []
    between_arms: list[_Variances] = []
    runs_of_instances = runs_of_arms = 0
    for group, cells in enumerate(run_groups):
        runs = [
            run for run in _read_runs(cells) if math.isfinite(run.latency.value) and math.isfinite(run.failures.value)
        ]
        of_instances = [variances for run in runs for variances in _learn_from_instances(run)]
        if not of_instances:
            # Arms with one instance show no differences of instances, but replicates of them do.
            of_instances = list(_learn_from_replicates(runs))
        between_instances += of_instances
        runs_of_instances += len(runs) if of_instances else 0
        is_same_version = group < len(same_version) and same_version[group]
        of_arms = list(_learn_from_arms(runs, same_version=is_same_version))
        between_arms += of_arms
        runs_of_arms += len(runs) if of_arms else 0
    return Learnt(
        sd_latency=_pool(between_instances, "latency"),
        sd_failures=_pool(between_instances, "failures"),
        comparisons=len(between_instances),
        runs=runs_of_instances,
        df=sum(variances.df for variances in between_instances),
        between_arms_latency=_pool(between_arms, "latency"),
        between_arms_failures=_pool(between_arms, "failures"),
        # Of k runs with the same unknown change, k - 1 are independent comparisons: as many as degrees of freedom.
        between_arms_comparisons=round(sum(variances.df for variances in between_arms)),
        between_arms_runs=runs_of_arms,
    )


def _pool(comparisons: Sequence[_Variances], name: Literal["latency", "failures"]) -> float | None:
    """Pool the variances of this name to a standard deviation, weighted by their degrees of freedom.

    Variances that are not finite are left out; `None` if there are no others.
    """
    variances_and_dfs = [(getattr(comparison, name), comparison.df) for comparison in comparisons]
    finite = [(variance, df) for variance, df in variances_and_dfs if math.isfinite(variance)]
    total_df = sum(df for _, df in finite)
    if not total_df:
        return None
    # A variance may be below 0 after that of time is subtracted, so only their mean is cut at 0.
    return math.sqrt(max(sum(variance * df for variance, df in finite) / total_df, 0.0))


# ------------------------------------------------------------------ runs are read


def _read_runs(cells: Cells) -> Iterator[_RunComparison]:
    """Yield the comparison of each run that has both arms and enough buckets."""
    for run_code in np.unique(cells.moments.run):
        cells_of_run = only_runs(cells, int(run_code))
        panel = build_panel(cells_of_run, cells.arms[1]) if len(cells.arms) > 1 else None
        if panel is None or panel.slots < MIN_BUCKETS:
            continue
        rows, times_ms = panel.rows, panel.totals["time_ms"]
        successes, all_requests = build_strata(panel, panel.ok), build_strata(panel, panel.n)
        yield _RunComparison(
            latency=_compare(successes, times_ms, rows.n - rows.failures, rows.totals["time_ms"], relative=True),
            failures=_compare(all_requests, panel.failures, rows.n, rows.failures, relative=False),
            instances=frozenset(np.unique(cells_of_run.moments.instance).tolist()),
        )


def _compare(
    strata: Strata, sums: FloatArray, exposure: FloatArray, observed: FloatArray, *, relative: bool
) -> _RunShift:
    """Compare baseline and candidate in a run: means as a log ratio (`relative`), or rates as a difference.

    Args:
        strata: The requests that are counted, of both arms.
        sums: What is averaged: times or failures, shape (2, endpoints, slots).
        exposure: Requests of each row of an instance.
        observed: The times or failures of each row of an instance.
        relative: Whether the change is a log ratio.
    """
    by_arm = [standardise_levels(strata, arm, sums[arm]) for arm in (0, 1)]
    estimands = [Estimand(of_arm.level, of_arm.influence) for of_arm in by_arm]
    if relative:
        estimands = [estimand.log() for estimand in estimands]
    baseline, candidate = estimands
    difference = candidate - baseline
    # The change (all endpoints are one group: the only element) is removed from the candidate's instances, so that only
    # their differences remain. An infinite or unknown change is not removed.
    shift = np.where(np.isfinite(difference.value).all(), difference.value, 0.0)
    frame = InstanceFrame(strata.panel.rows, exposure, strata.groups)
    instances = frame.variance(observed, np.exp(shift) if relative else shift, relative=relative)
    return _RunShift(float(difference.value[0]), time_variance(difference.influence), instances)


# ------------------------------------------------------------------ what is learnt from runs


def _learn_from_instances(run: _RunComparison) -> Iterator[_Variances]:
    """Learn from the instances of each arm that has several: the variance between instances beyond that by time."""
    for arm in (0, 1):  # baseline, candidate
        count = float(run.latency.instances.effective[arm, 0])  # effective number of instances
        if count > 1 and np.isfinite(run.latency.instances.variance[arm, 0]):
            # The variance of the arm's level is that of one instance divided by their number. `within` is the part of
            # it that the variation of each instance over time explains.
            latency, failures = (
                float((of_level.variance - of_level.within)[arm, 0]) * count
                for of_level in (run.latency.instances, run.failures.instances)
            )
            yield _Variances(latency, failures, df=count - 1)


def _learn_from_replicates(runs: Sequence[_RunComparison]) -> Iterator[_Variances]:
    """Learn from runs with one instance a side: the variance of their shifts beyond that by time.

    It is halved, because each shift is the difference of two instances.
    """
    if len(runs) >= 2:
        latency = _find_excess_variance([run.latency for run in runs], time_only=True)
        failures = _find_excess_variance([run.failures for run in runs], time_only=True)
        yield _Variances(latency / 2, failures / 2, df=float(len(runs) - 1))


def _find_excess_variance(shifts: Sequence[_RunShift], *, time_only: bool) -> float:
    """Return the variance between runs of their shifts, minus the mean of the variances that single runs show.

    `time_only`: of what a run shows, only the variance by time is subtracted, not that between instances.
    """
    own_variances = [float(shift.time.variance[0]) if time_only else shift.variance for shift in shifts]
    return float(np.var([shift.value for shift in shifts], ddof=1) - np.mean(own_variances))


def _learn_from_arms(runs: Sequence[_RunComparison], *, same_version: bool) -> Iterator[_Variances]:
    """Learn how whole arms drift, from the runs of a group that have several instances a side.

    Their true change is known to be 0 (`same_version`: both arms ran one version), or to be the same in all of them.
    """
    # The variance is NaN if an arm has one instance.
    several = [run for run in runs if math.isfinite(run.latency.variance) and math.isfinite(run.failures.variance)]
    if same_version:
        for run in several:
            latency = run.latency.value**2 - run.latency.variance
            failures = run.failures.value**2 - run.failures.variance
            yield _Variances(latency, failures, df=1.0)
    elif len(several) >= 2:
        # The same instances in every run have the same effect in every run, so only time makes these runs differ.
        same_instances = bool(frozenset.intersection(*(run.instances for run in several)))
        latency = _find_excess_variance([run.latency for run in several], time_only=same_instances)
        failures = _find_excess_variance([run.failures for run in several], time_only=same_instances)
        yield _Variances(latency, failures, df=float(len(several) - 1))
