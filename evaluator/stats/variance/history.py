"""What earlier runs of a service say of this one: how much instances differ, and how much whole arms (method B.3).

A run shows the spread of a handful of instances, with few degrees of freedom; earlier runs of the same service saw
others. Both are pooled. And an arm whose level drifts more slowly than the run lasts cannot be distinguished, from
inside the run, from a change of the release: how large that is, only identical releases that ran together before can
say.

Pure: the numbers come from `evaluator calibrate`, on the scale of the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evaluator.records import InstanceSpread
from evaluator.records.arrays import FloatArray

LEAST_COMPARISONS = 5
"""Stored comparisons below which history is not believed."""

MOST_WEIGHT = 10
"""Degrees of freedom that history counts for at most: the service of today is not quite that of last year."""


@dataclass(frozen=True, slots=True)
class InstanceHistory:
    """What is on file of one kind of metric, on the scale of the estimate; shapes (groups,)."""

    instance: FloatArray
    """s0²: variance of the persistent level of one instance."""
    count: int
    """Comparisons of instances that it rests on."""
    between_arms: FloatArray | None = None
    """σ²_arm: variance of candidate against baseline in identical releases that a run does not show by itself."""
    between_arms_count: int = 0
    """Comparisons of identical releases that it rests on."""

    def times(self, scale: FloatArray) -> InstanceHistory:
        """The same on another scale: `scale` (groups,) is the present unit in the new one."""
        between_arms = None if self.between_arms is None else self.between_arms * scale**2
        return replace(self, instance=self.instance * scale**2, between_arms=between_arms)

    @property
    def weight(self) -> float:
        """ν0: degrees of freedom that history counts for; 0 where it is too short to be believed."""
        return float(min(self.count, MOST_WEIGHT)) if self.count >= LEAST_COMPARISONS else 0.0


@dataclass(frozen=True, slots=True)
class Pooled:
    """Variance of each arm's level due to its instances, (arms, groups), and its degrees of freedom, (groups,).

    NaN where neither the run nor history knows anything; the degrees of freedom are 0 there.
    """

    variance: FloatArray
    df: FloatArray


def on_scale(history: InstanceSpread | None, scale: FloatArray) -> InstanceHistory | None:
    """History on the scale of the estimates: `scale` (groups,) is their unit in that of the history."""
    if history is None:
        return None
    return InstanceHistory(
        instance=(history.sd * scale) ** 2,
        count=history.comparisons,
        between_arms=(history.between_arms * scale) ** 2,
        between_arms_count=history.between_arms_comparisons,
    )


def pool_instances(variance: FloatArray, within: FloatArray, effective: FloatArray, history: InstanceHistory) -> Pooled:
    """Pool the instances of this run with those of earlier ones: s² = (ν0·s0² + Σ(m_a - 1)·s_a²) / (ν0 + Σ(m_a - 1)).

    `variance`, `within`, `effective`: of each arm's level, shapes (arms, groups), as in `InstanceVariance`; NaN
    variance is an arm with a single instance, to which the others and history lend theirs. s_a² = `variance` ·
    `effective` is what one instance differs by in this run, its drift over time included. What is on file is free
    of that (the longer a run, the less it is), so this run's own is added.

    >>> import numpy as np
    >>> history = InstanceHistory(np.array([0.01]), count=12)
    >>> two = np.full((2, 1), 2.0)  # two instances an arm, differing by a variance of 0.04: 0.02 of each level
    >>> found = pool_instances(np.full((2, 1), 0.02), np.zeros((2, 1)), two, history)
    >>> found.variance.ravel().round(4).tolist(), found.df.tolist()  # (10 · 0.01 + 2 · 0.04) / 12 / 2
    ([0.0075, 0.0075], [12.0])
    """
    measured = np.isfinite(variance)
    weight = np.where(measured, np.maximum(effective - 1, 0.0), 0.0)
    weight_of_run = weight.sum(axis=0)
    measured_squares = (weight * np.where(measured, variance * effective, 0.0)).sum(axis=0)
    within_instance = (weight * np.where(measured, within * effective, 0.0)).sum(axis=0)
    within_instance = np.divide(
        within_instance, weight_of_run, out=np.zeros_like(weight_of_run), where=weight_of_run > 0
    )
    df = weight_of_run + history.weight
    total = history.weight * (history.instance + within_instance) + measured_squares
    instance_variance = np.divide(total, df, out=np.full_like(df, np.nan), where=df > 0)
    return Pooled(instance_variance / np.maximum(effective, 1.0), df)


def add_between_arms(
    variance: FloatArray, df: FloatArray, history: InstanceHistory, *, arms: int = 2
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Add the variance between whole arms that one run does not show: variance, degrees of freedom, the part added.

    `variance`, `df` (groups,): what the run shows. `arms`: 2 for a comparison, 1 for a level against a limit. The part
    is persistent: more minutes of this run do not shrink it. Satterthwaite's degrees of freedom.
    """
    if history.between_arms is None or history.between_arms_count < LEAST_COMPARISONS:
        return variance, df, np.zeros_like(variance)
    part = np.broadcast_to(history.between_arms * arms / 2, variance.shape)
    total = variance + part
    spread = variance**2 / df + part**2 / history.between_arms_count
    return total, np.divide(total**2, spread, out=df + 0.0 * total, where=spread > 0), np.asarray(part, float)
