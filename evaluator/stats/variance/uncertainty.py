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
from typing import Literal

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
    """Variances of an estimate and their degrees of freedom, shape (bounds, groups). A claim must hold for all."""

    variance: FloatArray
    df: FloatArray
    persistent: FloatArray
    """The part of the variance that more time does not shrink, shape (groups,)."""

    def p_values(self, distance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return p-values of "not above the bound" and "not below the bound", each of shape (groups,).

        `distance` (groups,) is how far the estimate is above the bound. With variance 0 its sign decides; an unknown
        variance gives NaN.
        """
        variance, df = self.variance, self.df
        exact = np.where(np.abs(distance) < 1e-12, 0.0, np.copysign(np.inf, distance))
        t = np.where(variance > 0, distance / np.sqrt(np.where(variance > 0, variance, 1.0)), exact)
        t = np.where(np.isnan(variance), np.nan, t)
        return t_below(-t, df).max(axis=0), t_below(t, df).max(axis=0)

    def reach(self, alpha: float) -> FloatArray:
        """Return the half-width of the interval that leaves out `alpha` on each side, shape (groups,)."""
        return np.asarray((t_quantile(1 - alpha, self.df) * np.sqrt(self.variance)).max(axis=0))

    def binding(self, alpha: float) -> Binding:
        """Return the bound with the widest interval at this level: it decides."""
        critical = t_quantile(1 - alpha, self.df)
        widest = np.argmax(critical * np.sqrt(self.variance), axis=0)
        at = widest, np.arange(widest.size)
        variance = self.variance[at]
        return Binding(variance, self.df[at], critical[at], np.minimum(self.persistent, variance))

    def also(self, variance: FloatArray, df: float = np.inf) -> Uncertainty:
        """Return the same with one more bound: `variance` (groups,) with `df` degrees of freedom."""
        return _stack_bounds([*zip(self.variance, self.df, strict=True), (variance, df)], self.persistent)


@dataclass(frozen=True, slots=True)
class Binding:
    """The bound that decides at a level, for each group. Arrays have shape (groups,)."""

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
    def reach(self) -> FloatArray:
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
        """Return the variance to assume for the level of an arm with a single label, shape (2, groups).

        `sd` (groups,) is the standard deviation of one instance. If the policy sets several instances behind a label,
        it is the variance of their mean.
        """
        return np.stack([sd**2 / (count or 1) for count in self.declared])

    @property
    def behind(self) -> tuple[int, int]:
        """Replicates, or instances, of baseline and candidate, to show with a metric."""
        if self.kind == "replicates":
            return self.runs, self.runs
        (baseline, candidate), (of_baseline, of_candidate) = self.instances, self.declared
        return max(baseline, of_baseline or 0), max(candidate, of_candidate or 0)


def choose_design(panel: Panel, prior: InstancePrior | None = None) -> Design:
    """Choose what is replicated: runs if they have at least as many degrees of freedom as instances, else instances.

    With one run and a single instance on an arm, the design is `single` (method B.3a). `prior=None`: the defaults.
    """
    prior = prior or InstancePrior()
    runs = int(panel.runs.size)
    requests = np.bincount(panel.rows.instance, weights=panel.rows.n, minlength=panel.rows.instance_arm.size)
    instances = [max(int(find_replicating(requests[panel.rows.instance_arm == arm]).sum()), 1) for arm in (0, 1)]
    fewest = min(instances)
    if runs >= 2 and (fewest < 2 or runs - 1 >= sum(instances) - 2):
        kind: Replication = "replicates"
    else:
        kind = "instances" if fewest >= 2 else "single"
    declared = prior.baseline, prior.canary
    return Design(kind, runs, (instances[0], instances[1]), declared, prior.latency, prior.failures)


def _stack_bounds(bounds: Sequence[tuple[FloatArray, FloatArray | float]], persistent: FloatArray) -> Uncertainty:
    """Stack variances and their degrees of freedom, each (groups,) or one for all groups."""
    variance, df = (np.empty((len(bounds), persistent.size)) for _ in range(2))
    for row, bound in enumerate(bounds):
        variance[row], df[row] = bound
    return Uncertainty(variance, df, persistent)


def _of_time(time: TimeVariance) -> list[tuple[FloatArray, FloatArray | float]]:
    """Variation over time alone, as two bounds."""
    return [(time.variance, time.df), (time.independent, time.buckets - 1.0)]


def time_only(time: TimeVariance) -> Uncertainty:
    """Return the uncertainty if only variation over time counts."""
    return _stack_bounds(_of_time(time), np.zeros_like(time.variance))


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
        time: Variation over time of the estimate, shape (groups,).
        instance: Variation between instances of each arm, shape (2, groups).
        prior: Variance assumed for the level of an arm with a single instance, shape (2, groups).
        arms: The arms that the estimate contains: both, or one.
        history: What earlier runs showed: it is pooled with the instances of this run, and the variance between whole
            arms that one run does not show is added.
    """
    chosen = slice(arms[0], arms[-1] + 1)
    measured = np.isfinite(instance.variance[chosen])
    effective = instance.effective[chosen]
    by_arm = np.where(measured, instance.variance[chosen], prior[chosen])
    instance_df = _instance_df(by_arm, measured, effective)
    # The assumption about a single instance is not pooled with history: it keeps its few degrees of freedom.
    if history is not None and history.weight:
        pooled = pool_instances(instance.variance[chosen], instance.within[chosen], effective, history)
        all_measured = measured.all(axis=0)
        by_arm, instance_df = (
            np.where(all_measured, pooled.variance, by_arm),
            np.where(all_measured, pooled.df, instance_df),
        )
    instance_part = by_arm.sum(axis=0)
    within = np.where(measured, instance.within[chosen], 0.0).sum(axis=0)
    time_part = np.maximum(0.0, np.maximum(time.variance, time.independent) - within)
    variance = instance_part + time_part
    spread = instance_part**2 / instance_df + time_part**2 / time.df
    df = np.divide(variance**2, spread, out=np.full_like(variance, time.df), where=spread > 0)
    persistent = np.maximum(0.0, instance_part - within)
    if history is not None:
        variance, df, slow = add_between_arms(variance, df, history, arms=len(arms))
        persistent = persistent + slow
    return _stack_bounds([(variance, df), *_of_time(time)], persistent)


def _instance_df(by_arm: FloatArray, measured: BoolArray, effective: FloatArray) -> FloatArray:
    """Degrees of freedom: pooled over arms of similar size; Welch's if sizes differ twofold or one arm is assumed."""
    df_by_arm = np.where(measured, np.maximum(effective - 1, 0.05), PRIOR_DF)
    if by_arm.shape[0] == 1:
        return np.asarray(df_by_arm[0])
    total = by_arm.sum(axis=0)
    spread = (by_arm**2 / df_by_arm).sum(axis=0)
    welch = np.divide(total**2, spread, out=df_by_arm.min(axis=0), where=spread > 0)
    like = measured.all(axis=0) & (effective.max(axis=0) <= 2 * effective.min(axis=0))
    pooled = np.where(like, df_by_arm.sum(axis=0), welch)
    return np.where(~measured.any(axis=0), PRIOR_DF, pooled)


def centre(values: FloatArray) -> FloatArray:
    """Subtract the mean over the last axis; values that are not finite become 0."""
    finite = np.isfinite(values)
    clean = np.where(finite, values, 0.0)
    mean = clean.sum(axis=-1, keepdims=True) / np.maximum(finite.sum(axis=-1, keepdims=True), 1)
    return np.where(finite, clean - mean, 0.0)


def replicate_uncertainty(values: FloatArray, time: TimeVariance) -> tuple[FloatArray, Uncertainty]:
    """Return the mean over replicates and its uncertainty: sd / √R with R - 1 degrees of freedom (method B.3).

    The uncertainty is never less than that from variation over time within the replicates. `values` has shape
    (groups, replicates); replicates without a finite value are left out.
    """
    finite = np.isfinite(values)
    count = finite.sum(axis=-1)
    mean = np.where(count > 0, np.where(finite, values, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)
    squares = (centre(values) ** 2).sum(axis=-1)
    variance = np.where(count >= 2, squares / np.maximum(count - 1, 1) / np.maximum(count, 1), np.nan)
    df = np.maximum(count - 1, 1).astype(float)
    return mean, _stack_bounds([(variance, df), *_of_time(time)], variance)
