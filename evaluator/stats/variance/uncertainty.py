"""Combine the variances of time and instances: how uncertain an estimate is (method B.3, B.3a).

The two overlap, because both include the drift of single instances. So neither their sum nor the larger one is right.

Some variances are estimated from few values (four replicates, a dozen cosines). Others are known well, but only as a
lower bound (independent requests, independent buckets). Each gives its own test, and a claim must pass all of them.
Then it is wrong no more often than with the right one of them. The alternative, the largest variance with the smallest
degrees of freedom, is too strict: on independent buckets with seven degrees of freedom it rejected at 1 % in 0.1 % of
cases, and detected less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from evaluator.records import InstancePrior, InstanceSpread
from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.stats.inference.student import t_below, t_quantile
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.history import InstanceHistory, add_between_arms, pool_instances
from evaluator.stats.variance.instances import InstanceVariance, find_replicating
from evaluator.stats.variance.longrun import TimeVariance

PRIOR_DF = 3.0
"""Degrees of freedom of an assumed variance between instances (method B.3a)."""

Replication = Literal["replicates", "instances", "single"]


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Several variances of an estimate and their degrees of freedom. A claim must pass the test of each variance."""

    variance: FloatArray
    """Shape (variances, groups)."""
    df: FloatArray
    """Degrees of freedom of each variance, shape (variances, groups)."""
    persistent: FloatArray
    """The part of the variance that more time does not shrink, shape (groups,)."""

    def p_values(self, distance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the one-sided p-values of "not above the bound" and "not below the bound", each of shape (groups,).

        They are the largest over all variances. `distance` (groups,) is how far the estimate is above the bound. With a
        variance of 0 its sign decides. An unknown variance gives NaN, and so does a negative one: the data contradict
        themselves, for example a histogram whose buckets grew by more than its count.
        """
        variance, df = self.variance, self.df
        is_negative = variance < -1e-12 - 1e-9 * distance**2  # by more than rounding errors
        # The statistic if the variance is 0; a distance from rounding errors alone counts as 0.
        exact = np.where(np.abs(distance) < 1e-12, 0.0, np.copysign(np.inf, distance))
        t_or_exact = np.where(variance > 0, distance / np.sqrt(np.where(variance > 0, variance, 1.0)), exact)
        t = np.where(np.isnan(variance) | is_negative, np.nan, t_or_exact)
        return t_below(-t, df).max(axis=0), t_below(t, df).max(axis=0)

    def half_width(self, alpha: float) -> FloatArray:
        """Return the half-width of the interval that leaves out `alpha` on each side, shape (groups,)."""
        return np.asarray((t_quantile(1 - alpha, self.df) * np.sqrt(self.variance)).max(axis=0))

    def find_widest(self, alpha: float) -> DecidingVariance:
        """Return, for each group, the variance with the widest interval at the one-sided level `alpha`.

        It decides at this level, because a claim must pass the test of each variance.
        """
        critical = t_quantile(1 - alpha, self.df)  # shape (variances, groups), as `variance` and `df`
        widest = np.argmax(critical * np.sqrt(self.variance), axis=0)
        # The index that picks the widest variance of each group.
        chosen = widest, np.arange(widest.size)
        variance = self.variance[chosen]
        # The persistent part cannot be larger than the whole variance.
        persistent = np.minimum(self.persistent, variance)
        return DecidingVariance(variance, self.df[chosen], critical[chosen], persistent)

    def also(self, variance: FloatArray, df: float = np.inf) -> Uncertainty:
        """Return this uncertainty with one more `variance` (groups,), which has `df` degrees of freedom."""
        return _stack_variances([*zip(self.variance, self.df, strict=True), (variance, df)], self.persistent)


@dataclass(frozen=True, slots=True)
class DecidingVariance:
    """The variance that decides at a level, for each group. Arrays have shape (groups,)."""

    variance: FloatArray
    df: FloatArray
    critical: FloatArray
    """Half-width of the interval in standard errors."""
    persistent: FloatArray
    """The part of the variance that more time does not shrink."""

    @property
    def se(self) -> FloatArray:
        """Standard error."""
        return np.sqrt(self.variance)

    @property
    def half_width(self) -> FloatArray:
        """Half-width of the interval at this level."""
        return self.critical * self.se


@dataclass(frozen=True, slots=True)
class Design:
    """What is replicated in this comparison: whole runs, instances within runs, or nothing."""

    kind: Replication
    runs: int
    instances: tuple[int, int]
    """Instances of baseline and candidate."""
    declared: tuple[int | None, int | None] = (None, None)
    """Instances behind one address of each arm, if the policy sets it."""
    latency: InstanceSpread | None = None
    """What earlier runs of the service showed for latency, if there are any."""
    failures: InstanceSpread | None = None
    """The same for failures."""

    def assume_variance(self, sd: FloatArray) -> FloatArray:
        """Return the variance to assume for the level of an arm whose requests name a single instance, (2, groups).

        `sd` (groups,) is the standard deviation of one instance. If the policy declares that several instances are
        behind this name, it is the variance of their mean.
        """
        return np.stack([sd**2 / (declared_count or 1) for declared_count in self.declared])

    @property
    def replicate_counts(self) -> tuple[int, int]:
        """Replicates, or instances (seen or declared), of baseline and candidate, to show with a metric."""
        if self.kind == "replicates":
            return self.runs, self.runs
        seen_baseline, seen_candidate = self.instances
        declared_baseline, declared_candidate = self.declared
        return max(seen_baseline, declared_baseline or 0), max(seen_candidate, declared_candidate or 0)


def choose_design(panel: Panel, prior: InstancePrior | None = None) -> Design:
    """Choose what is replicated: runs if they have at least as many degrees of freedom as instances, else instances.

    If the arms of the runs did not run at the same time, it is the runs (two or more): instances do not show how much
    the time itself matters. With one run and a single instance on an arm, the design is `single` (method B.3a).
    `prior`: what policy and earlier runs say of instances, which becomes a part of the design; `None`: the defaults.
    """
    prior = prior or InstancePrior()
    runs = int(panel.runs.size)
    # Requests of each instance; then the instances of each arm that have enough of them, at least 1.
    requests = np.bincount(panel.rows.instance, weights=panel.rows.n, minlength=panel.rows.instance_arm.size)
    instances = [max(int(find_replicating(requests[panel.rows.instance_arm == arm]).sum()), 1) for arm in (0, 1)]
    has_instances = min(instances) >= 2
    df_of_runs, df_of_instances = runs - 1, sum(instances) - 2
    ran_together = all(panel.paired.values())
    if runs >= 2 and (not has_instances or not ran_together or df_of_runs >= df_of_instances):
        kind: Replication = "replicates"
    else:
        kind = "instances" if has_instances else "single"
    return Design(
        kind,
        runs,
        instances=(instances[0], instances[1]),
        declared=(prior.baseline, prior.canary),
        latency=prior.latency,
        failures=prior.failures,
    )


VarianceWithDf: TypeAlias = "tuple[FloatArray, FloatArray | float]"
"""A variance (groups,) and its degrees of freedom: (groups,), or one number for all groups."""


def _stack_variances(variances: Sequence[VarianceWithDf], persistent: FloatArray) -> Uncertainty:
    """Build an uncertainty from several variances, and the persistent part (groups,)."""
    variance = np.empty((len(variances), persistent.size))
    df = np.empty_like(variance)
    for row, (row_variance, row_df) in enumerate(variances):
        variance[row], df[row] = row_variance, row_df
    return Uncertainty(variance, df, persistent)


def _list_time_variances(time: TimeVariance) -> list[VarianceWithDf]:
    """Return both variances of variation over time alone: with dependence in time, and of independent buckets."""
    return [(time.variance, time.df), (time.independent, time.buckets - 1.0)]


def time_only(time: TimeVariance) -> Uncertainty:
    """Return the uncertainty of an estimate if only its variation over time counts; no part of it is persistent."""
    return _stack_variances(_list_time_variances(time), np.zeros_like(time.variance))


def combine(
    time: TimeVariance,
    instance: InstanceVariance,
    prior: FloatArray,
    arms: tuple[int, ...] = (0, 1),
    history: InstanceHistory | None = None,
) -> Uncertainty:
    """Combine variation over time and between instances (method B.3, together; Satterthwaite 1946).

    The result is never less than the uncertainty from variation over time alone.

    Args:
        time: Variance over time of the estimate, shape (groups,): with dependence between buckets (`variance`), and as
            if buckets were independent (`independent`).
        instance: Variance of each arm's level due to its instances, shape (2, groups). A part of it (`within`) is drift
            of single instances over time, which `time` includes as well.
        prior: Variance assumed for the level of an arm with a single instance, shape (2, groups).
        arms: The arms that the estimate contains: both, or one.
        history: What earlier runs showed: it is pooled with the instances of this run, and the variance between whole
            arms that one run does not show is added.
    """
    in_estimate = slice(arms[0], arms[-1] + 1)  # the rows of these arms
    arm_variance, arm_within = instance.variance[in_estimate], instance.within[in_estimate]
    effective = instance.effective[in_estimate]
    # An arm with a single instance has no measured variance (NaN).
    measured = np.isfinite(arm_variance)
    by_arm = np.where(measured, arm_variance, prior[in_estimate])
    instance_df = find_instance_df(by_arm, measured, effective)
    # The assumption about a single instance is not pooled with history: it keeps its few degrees of freedom.
    if history is not None and history.weight:
        pooled = pool_instances(arm_variance, arm_within, effective, history)
        all_measured = measured.all(axis=0)  # shape (groups,): is the variance of each arm measured?
        by_arm = np.where(all_measured, pooled.variance, by_arm)
        instance_df = np.where(all_measured, pooled.df, instance_df)
    within = np.where(measured, arm_within, 0.0).sum(axis=0)
    return add_time(time, InstancePart(by_arm.sum(axis=0), within, instance_df), history, arms=len(arms))


@dataclass(frozen=True, slots=True)
class InstancePart:
    """Variance of an estimate due to the instances of all its arms. Arrays have shape (groups,)."""

    variance: FloatArray
    within: FloatArray
    """The part of it that is drift of single instances, which the variance over time includes as well."""
    df: FloatArray


def add_time(
    time: TimeVariance, instances: InstancePart, history: InstanceHistory | None = None, *, arms: int = 2
) -> Uncertainty:
    """Add variation over time to that between instances (Satterthwaite 1946).

    Args:
        time: As of `combine`.
        instances: What instances add.
        history: Of it, the variance between whole arms is added, which one run does not show.
        arms: How many arms the estimate has.
    """
    # The drift within instances is a part of both variances, and counts once.
    time_part = np.maximum(0.0, np.maximum(time.variance, time.independent) - instances.within)
    variance = instances.variance + time_part
    # Degrees of freedom of a sum of variances that are known with unequal precision (Satterthwaite's formula).
    denominator = instances.variance**2 / instances.df + time_part**2 / time.df
    df = np.divide(variance**2, denominator, out=np.full_like(variance, time.df), where=denominator > 0)
    # More time does not shrink differences between instances, except their drift.
    persistent = np.maximum(0.0, instances.variance - instances.within)
    if history is not None:
        variance, df, between_arms = add_between_arms(variance, df, history, arms=arms)
        persistent = persistent + between_arms
    return _stack_variances([(variance, df), *_list_time_variances(time)], persistent)


def find_instance_df(by_arm: FloatArray, measured: BoolArray, effective: FloatArray) -> FloatArray:
    """Return the degrees of freedom of the variance between instances, summed over arms, shape (groups,).

    They are added for arms of similar size. Welch's formula is used if sizes differ more than twofold, or if the
    variance of one arm is assumed. If that of all arms is assumed, they are `PRIOR_DF`.

    Args:
        by_arm: Variance of each arm's level due to its instances, shape (arms, groups).
        measured: Is it measured (else it is assumed)? Same shape.
        effective: Effective number of instances, same shape.
    """
    # Above 0, even if one instance answered nearly all requests.
    df_by_arm = np.where(measured, np.maximum(effective - 1, 0.05), PRIOR_DF)
    if by_arm.shape[0] == 1:
        return np.asarray(df_by_arm[0])
    total = by_arm.sum(axis=0)
    denominator = (by_arm**2 / df_by_arm).sum(axis=0)
    # Degrees of freedom of a sum of variances that are known with unequal precision.
    welch = np.divide(total**2, denominator, out=df_by_arm.min(axis=0), where=denominator > 0)
    similar_size = measured.all(axis=0) & (effective.max(axis=0) <= 2 * effective.min(axis=0))
    df = np.where(similar_size, df_by_arm.sum(axis=0), welch)
    return np.where(measured.any(axis=0), df, PRIOR_DF)


def centre(values: FloatArray) -> FloatArray:
    """Subtract the mean of the finite values over the last axis; values that are not finite become 0."""
    finite = np.isfinite(values)
    finite_or_0 = np.where(finite, values, 0.0)
    mean = finite_or_0.sum(axis=-1, keepdims=True) / np.maximum(finite.sum(axis=-1, keepdims=True), 1)
    return np.where(finite, finite_or_0 - mean, 0.0)


def replicate_uncertainty(values: FloatArray, time: TimeVariance) -> tuple[FloatArray, Uncertainty]:
    """Return the mean over replicates and its uncertainty: sd / √R with R - 1 degrees of freedom (method B.3).

    A claim must also pass the tests with `time`, the variance over time within the replicates. `values` has shape
    (groups, replicates); replicates without a finite value are left out. With fewer than two, the variance is NaN.
    """
    is_finite = np.isfinite(values)
    count = is_finite.sum(axis=-1)  # replicates that are used, by group
    mean = np.where(count > 0, np.where(is_finite, values, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)
    squares = (centre(values) ** 2).sum(axis=-1)  # `centre` makes values that are not finite 0
    variance = np.where(count >= 2, squares / np.maximum(count - 1, 1) / np.maximum(count, 1), np.nan)
    df = np.maximum(count - 1, 1).astype(float)
    # More time in the same replicates does not shrink the variance between them: all of it is persistent.
    return mean, _stack_variances([(variance, df), *_list_time_variances(time)], persistent=variance)
