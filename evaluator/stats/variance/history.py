"""What earlier runs of a service show: how much instances differ, and how much whole arms (method B.3, history).

A run shows the spread of a few instances, with few degrees of freedom. Earlier runs of the same service had other
instances; both are pooled. And if the level of an arm drifts more slowly than the run lasts, the run alone cannot
distinguish this drift from a change of the release. Only earlier runs of identical releases show how large it is.

The numbers come from `evaluator calibrate`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evaluator.records import InstanceSpread
from evaluator.records.arrays import FloatArray

LEAST_COMPARISONS = 5
"""With fewer stored comparisons, history is not used."""

MOST_WEIGHT = 10
"""Largest number of degrees of freedom of history: a service changes over time."""


@dataclass(frozen=True, slots=True)
class InstanceHistory:
    """History of one kind of metric, on the scale of the estimate. Arrays have shape (groups,)."""

    instance: FloatArray
    """s0²: variance of the persistent level of one instance."""
    count: int
    """Comparisons of instances that it is based on."""
    between_arms: FloatArray | None = None
    """σ²_arm: variance of candidate against baseline in identical releases, beyond what one run shows."""
    between_arms_count: int = 0
    """Comparisons of identical releases that it is based on."""

    def times(self, scale: FloatArray) -> InstanceHistory:
        """Return the history on another scale: values of the present scale are multiplied by `scale` (groups,)."""
        between_arms = None if self.between_arms is None else self.between_arms * scale**2
        return replace(self, instance=self.instance * scale**2, between_arms=between_arms)

    @property
    def weight(self) -> float:
        """ν0: degrees of freedom of history; 0 if there are too few comparisons."""
        return float(min(self.count, MOST_WEIGHT)) if self.count >= LEAST_COMPARISONS else 0.0


@dataclass(frozen=True, slots=True)
class Pooled:
    """Variance of each arm's level due to its instances, (arms, groups), and its degrees of freedom, (groups,).

    Without information from the run or history, the variance is NaN and the degrees of freedom are 0.
    """

    variance: FloatArray
    df: FloatArray


def convert_history(history: InstanceSpread | None, scale: FloatArray) -> InstanceHistory | None:
    """Multiply what earlier runs showed by `scale` (groups,), which converts it to the unit of the estimates.

    Standard deviations become variances. `None`, no history, stays `None`.
    """
    if history is None:
        return None
    return InstanceHistory(
        instance=(history.sd * scale) ** 2,
        count=history.comparisons,
        between_arms=(history.between_arms * scale) ** 2,
        between_arms_count=history.between_arms_comparisons,
    )


def pool_instances(variance: FloatArray, within: FloatArray, effective: FloatArray, history: InstanceHistory) -> Pooled:
    """Pool the instances of this run with those of earlier runs (method B.3, history).

    s² = (ν0·s0² + Σ(m_a - 1)·s_a²) / (ν0 + Σ(m_a - 1)). s_a² = `variance` · `effective` is the variance between single
    instances in this run, including their drift over time. History does not include this drift, because it depends on
    the length of a run; so this run's own drift is added to history.

    Args:
        variance: Variance of each arm's level due to its instances, shape (arms, groups); NaN for an arm with a single
            instance, which then gets the pooled variance of the others and history.
        within: The part of it that is drift within instances, same shape (see `InstanceVariance`).
        effective: Effective number of instances m_a of each arm, same shape.
        history: What earlier runs showed: s0² is its `instance`, ν0 its `weight`.

    Returns:
        Variance of each arm's level due to its instances, shape (arms, groups), and its degrees of freedom, (groups,).

    >>> import numpy as np
    >>> history = InstanceHistory(np.array([0.01]), count=12)
    >>> two = np.full((2, 1), 2.0)  # two instances on each arm with a variance of 0.04: 0.02 for each level
    >>> pooled = pool_instances(np.full((2, 1), 0.02), np.zeros((2, 1)), two, history)
    >>> pooled.variance.ravel().round(4).tolist(), pooled.df.tolist()  # (10 · 0.01 + 2 · 0.04) / 12 / 2
    ([0.0075, 0.0075], [12.0])
    """
    measured = np.isfinite(variance)
    # m_a - 1 of each arm; then the sums over arms of the formula, each of shape (groups,).
    arm_df = np.where(measured, np.maximum(effective - 1, 0.0), 0.0)
    run_df = arm_df.sum(axis=0)
    squares_of_run = (arm_df * np.where(measured, variance * effective, 0.0)).sum(axis=0)
    squares_within = (arm_df * np.where(measured, within * effective, 0.0)).sum(axis=0)
    variance_within = np.divide(squares_within, run_df, out=np.zeros_like(run_df), where=run_df > 0)
    df = run_df + history.weight
    squares = history.weight * (history.instance + variance_within) + squares_of_run
    instance_variance = np.divide(squares, df, out=np.full_like(df, np.nan), where=df > 0)
    return Pooled(instance_variance / np.maximum(effective, 1.0), df)


def add_between_arms(
    variance: FloatArray, df: FloatArray, history: InstanceHistory, *, arms: int = 2
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Add the variance between whole arms that one run does not show (method B.3, history; Satterthwaite 1946).

    Args:
        variance: What the run shows, shape (groups,).
        df: Its degrees of freedom, shape (groups,).
        history: What earlier runs showed; with too few comparisons nothing is added.
        arms: How many arms the estimate has: 2 for a comparison, 1 for a level against a limit.

    Returns:
        Variance, degrees of freedom, and the added part, each (groups,). The added part is persistent: more minutes of
        this run do not shrink it.
    """
    if history.between_arms is None or history.between_arms_count < LEAST_COMPARISONS:
        return variance, df, np.zeros_like(variance)
    # History has the variance of a difference of two arms; a single arm has half of it.
    added = np.broadcast_to(history.between_arms * arms / 2, variance.shape)
    total = variance + added
    # Degrees of freedom of a sum of variances that are known with unequal precision (Satterthwaite's formula).
    denominator = variance**2 / df + added**2 / history.between_arms_count
    total_df = np.divide(total**2, denominator, out=df + 0.0 * total, where=denominator > 0)
    return total, total_df, np.asarray(added, float)
