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
        """Variance of `value`: over time and between instances; NaN if an arm has only one instance."""
        if not np.isfinite(self.instances.variance).all():
            return math.nan
        # The prior would stand for the variance of an arm with one instance, and is not used: both arms have several.
        uncertainty = combine(self.time, self.instances, prior=np.zeros((2, 1)))
        # There are several estimates of the variance over time; the largest counts.
        return float(uncertainty.variance.max())


@dataclass(frozen=True, slots=True)
class _RunComparison:
    """The changes of latency and failures in one run."""

    latency: _RunShift
    failures: _RunShift
    instances: frozenset[int]
    """Codes of the instances of both arms."""


def learn_instances(run_groups: Sequence[Cells], same_version: Sequence[bool] = ()) -> Learnt:
    """Learn how much instances of one version differ, and how much whole arms drift, from the cells of run groups.

    Both are learnt as standard deviations, of the logarithm of the mean latency and of the failure rate; `None` without
    any comparison. `same_version`: for each group, whether both arms ran one version; groups beyond its end did not.
    """
    between_instances: list[_Variances] = []
    between_arms: list[_Variances] = []
    runs_of_instances = runs_of_arms = 0
    for group, cells in enumerate(run_groups):
        runs = [
            run for run in _read_runs(cells) if math.isfinite(run.latency.value) and math.isfinite(run.failures.value)
        ]
        instance_variances = [variances for run in runs for variances in _learn_from_instances(run)]
        if not instance_variances:
            # Arms with one instance show no differences of instances, but replicates of them do.
            instance_variances = list(_learn_from_replicates(runs))
        between_instances += instance_variances
        runs_of_instances += len(runs) if instance_variances else 0
        is_same_version = group < len(same_version) and same_version[group]
        arm_variances = list(_learn_from_arms(runs, same_version=is_same_version))
        between_arms += arm_variances
        runs_of_arms += len(runs) if arm_variances else 0
    return Learnt(
        sd_latency=_pool(between_instances, "latency"),
        sd_failures=_pool(between_instances, "failures"),
        comparisons=len(between_instances),
        runs=runs_of_instances,
        df=sum(variances.df for variances in between_instances),
        between_arms_latency=_pool(between_arms, "latency"),
        between_arms_failures=_pool(between_arms, "failures"),
        # Unlike those of instances, they are counted by degrees of freedom: k runs of the same unknown change give one
        # variance, but count for k - 1 comparisons.
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
        rows = panel.rows  # the counts of single instances
        latency = _compare(
            build_strata(panel, panel.ok),  # times are those of successes
            sums=panel.totals["time_ms"],
            row_requests=rows.n - rows.failures,
            row_sums=rows.totals["time_ms"],
            relative=True,
        )
        failures = _compare(
            build_strata(panel, panel.n),
            sums=panel.failures,
            row_requests=rows.n,
            row_sums=rows.failures,
            relative=False,
        )
        yield _RunComparison(
            latency=latency,
            failures=failures,
            instances=frozenset(np.unique(cells_of_run.moments.instance).tolist()),
        )


def _compare(
    strata: Strata, sums: FloatArray, row_requests: FloatArray, row_sums: FloatArray, *, relative: bool
) -> _RunShift:
    """Compare the mean of a value per request (time, or failures) in the baseline and the candidate of a run.

    Args:
        strata: Weights by which endpoints and blocks of time are standardised, with the requests that are counted.
        sums: Sum of the value (times or failures), shape (2 arms, endpoints, slots).
        row_requests: Requests that are counted in each row of single instances, shape (rows,).
        row_sums: Sum of the value in each of these rows, shape (rows,).
        relative: Whether the change is the logarithm of the ratio of the means; else it is their difference.
    """
    levels = [standardise_levels(strata, arm, sums[arm]) for arm in (0, 1)]
    # The level of each arm, with the influence of each slot on it: operations on them carry the influence along.
    estimands = [Estimand(level_of_arm.level, level_of_arm.influence) for level_of_arm in levels]
    if relative:
        estimands = [estimand.log() for estimand in estimands]
    baseline, candidate = estimands
    difference = candidate - baseline
    # The change (all endpoints are one group: the only element) is removed from the candidate's instances, so that only
    # their differences remain. An infinite or unknown change is not removed.
    shift = np.where(np.isfinite(difference.value).all(), difference.value, 0.0)
    frame = InstanceFrame(strata.panel.rows, row_requests, strata.groups)
    instances = frame.variance(row_sums, np.exp(shift) if relative else shift, relative=relative)
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
                float((of_value.variance - of_value.within)[arm, 0]) * count
                for of_value in (run.latency.instances, run.failures.instances)
            )
            yield _Variances(latency, failures, df=count - 1)


def _learn_from_replicates(runs: Sequence[_RunComparison]) -> Iterator[_Variances]:
    """Learn from runs with one instance a side: the variance of their shifts beyond that by time.

    A shift is the change from baseline to candidate. Its variance is halved, because it is the difference of two
    instances.
    """
    if len(runs) >= 2:
        latency = _find_excess_variance([run.latency for run in runs], time_only=True)
        failures = _find_excess_variance([run.failures for run in runs], time_only=True)
        yield _Variances(latency / 2, failures / 2, df=float(len(runs) - 1))


def _find_excess_variance(shifts: Sequence[_RunShift], *, time_only: bool) -> float:
    """Return the variance between runs of their shifts, minus the mean of the variances that single runs show.

    A shift is the change from baseline to candidate in one run. `time_only`: of what a run shows, only the variance by
    time is subtracted, not that between instances.
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
        # The true change is 0, so the square of the change estimates its variance: what the run shows, and the drift.
        for run in several:
            latency = run.latency.value**2 - run.latency.variance
            failures = run.failures.value**2 - run.failures.variance
            yield _Variances(latency, failures, df=1.0)
    elif len(several) >= 2:
        # Instances that are in every run have the same effect in every run, so only time makes these runs differ. If
        # one instance is in all runs, all are taken to be the same.
        same_instances = bool(frozenset.intersection(*(run.instances for run in several)))
        latency = _find_excess_variance([run.latency for run in several], time_only=same_instances)
        failures = _find_excess_variance([run.failures for run in several], time_only=same_instances)
        yield _Variances(latency, failures, df=float(len(several) - 1))
