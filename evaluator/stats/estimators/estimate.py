"""What every comparison yields, and the steps that all of them share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.stats.inference.student import t_below
from evaluator.stats.variance.longrun import BATCHES, cosine_count, cosines, time_scores
from evaluator.stats.variance.uncertainty import Uncertainty

Z_OF_POWER = 0.8416212335729143
"""Normal quantile of 80 %, the power at which a detectable effect is found."""

Depth = Literal["full", "answers", "suspects"]
"""How much is computed: all; no intervals; only answers of what looks worse than its bound (see `not_worse`)."""
TREND_BELOW = 30


@dataclass(frozen=True, slots=True)
class Answers:
    """p-values of one question: small `p_worse` shows the candidate beyond the bound, small `p_within` within it."""

    p_worse: float
    p_within: float

    @classmethod
    def of(cls, statistic: float, df: float = math.inf) -> Self:
        """From a t statistic that is positive beyond the bound; NaN gives NaN."""
        return cls(float(t_below(-statistic, df)), float(t_below(statistic, df)))


@dataclass(frozen=True, slots=True)
class GroupAnswers:
    """Answers to "is the candidate beyond the bound?", each of shape (groups,)."""

    beyond: FloatArray
    """How far beyond the bound the estimate lies, on the scale of the test; negative is within."""
    p_worse: FloatArray
    p_within: FloatArray

    def of_group(self, group: int) -> Answers:
        """Those of one group."""
        return Answers(float(self.p_worse[group]), float(self.p_within[group]))


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The harm to each group that is tolerated: the wider of both, and at most `most`; shapes (groups,)."""

    relative: FloatArray
    """To the baseline's level; 0 where none is stated."""
    absolute: FloatArray
    """In the metric's own unit; 0 where none is stated."""
    most: float

    def as_ratio(self, baseline: FloatArray) -> FloatArray:
        """Relative to the levels `baseline` (groups,)."""
        own = np.divide(self.absolute, baseline, out=np.zeros_like(self.absolute), where=baseline > 0)
        return np.minimum(np.maximum(self.relative, own), self.most)

    def as_difference(self, baseline: FloatArray) -> FloatArray:
        """As a difference to the levels `baseline` (groups,)."""
        return np.minimum(np.maximum(self.relative * baseline, self.absolute), self.most)


@dataclass(frozen=True, slots=True)
class Trend:
    """How the distance beyond the bound moved within the runs; shapes (groups,). Positive is beyond, or worse."""

    last_third: FloatArray
    p_worsening: FloatArray
    at_end: FloatArray


@dataclass(frozen=True, slots=True)
class Estimate:
    """One comparison (or one a group), all arrays of shape (groups,)."""

    baseline: FloatArray
    candidate: FloatArray
    effect: FloatArray
    lower: FloatArray
    upper: FloatArray
    against_margin: GroupAnswers
    against_zero: GroupAnswers
    trend: Trend
    detectable: FloatArray
    """Harm found with 80 % power, on the scale of the effect; NaN where it cannot be said."""
    needed: FloatArray
    """Multiple of the present duration after which an unchanged estimate would be shown to be within the margin."""
    persistent: FloatArray
    """Share of the variance that only more instances or replicates shrink."""
    se: FloatArray
    """Standard error: of the log ratio where the effect is relative, else in the unit of the effect."""
    df: FloatArray
    """Its degrees of freedom."""
    against_limit: tuple[GroupAnswers, ...] = ()
    against_tolerance: GroupAnswers | None = None
    tolerance: FloatArray | None = None
    """Harm that is tolerated in a GO, on the scale of the effect, where it was asked for (see `Tolerance`)."""
    coarse: BoolArray | None = None
    """Is the recorded step of the times too coarse for the margin? Then nothing is decided by it."""
    loadings: FloatArray | None = None
    """What the estimates' errors are made of, (groups, parts): products over parts are correlations (see `load`)."""

    def of_group(self, group: int) -> Estimate:
        """That of one group."""

        def pick(part: Any) -> Any:
            if part is None or isinstance(part, np.ndarray):
                return part if part is None else part[group : group + 1]
            if isinstance(part, tuple):
                return tuple(pick(element) for element in part)
            return type(part)(*(pick(getattr(part, name)) for name in part.__dataclass_fields__))

        return Estimate(*(pick(getattr(self, name)) for name in self.__dataclass_fields__))


def not_worse(baseline: FloatArray, candidate: FloatArray, limits: int) -> Estimate:
    """The answer of an early look that has nothing to say: every estimate lies within its bound, so no p is small.

    How sure that is was not asked; the p-values are upper bounds.
    """
    nothing = np.full(baseline.shape, np.nan)
    answers = GroupAnswers(nothing, np.ones(baseline.shape), np.ones(baseline.shape))
    return Estimate(
        baseline=baseline,
        candidate=candidate,
        effect=nothing,
        lower=nothing,
        upper=nothing,
        against_margin=answers,
        against_zero=answers,
        trend=Trend(nothing, nothing, nothing),
        detectable=nothing,
        needed=nothing,
        persistent=np.zeros(baseline.shape),
        se=nothing,
        df=nothing,
        against_limit=(answers,) * limits,
        against_tolerance=answers,
        tolerance=nothing,
    )


def ask(beyond: FloatArray, uncertainty: Uncertainty, doubt: FloatArray | None = None) -> GroupAnswers:
    """p-values of `beyond` against 0. `doubt` (groups,): it may be wrong by that much in either direction."""
    if doubt is None or not doubt.any():
        return GroupAnswers(beyond, *uncertainty.p_values(beyond))
    return GroupAnswers(beyond, uncertainty.p_values(beyond - doubt)[0], uncertainty.p_values(beyond + doubt)[1])


def decide_nothing(answers: GroupAnswers, undecided: BoolArray) -> GroupAnswers:
    """The same answers, but in the groups `undecided` nothing is shown."""
    return GroupAnswers(
        answers.beyond, np.where(undecided, 1.0, answers.p_worse), np.where(undecided, 1.0, answers.p_within)
    )


def load(influence: FloatArray, scores: FloatArray | None, variance: FloatArray) -> FloatArray:
    """Parts of each estimate's standardised error that it may share with others: (groups, parts).

    Time parts come from the cosines of `influence` (groups, slots), instance parts from `scores` (units, groups). The
    squares of a row sum up to at most 1; the rest is the estimate's own.
    """
    safe = np.where(variance > 0, variance, np.inf)[:, None]
    time = time_scores(influence) / np.sqrt(safe)
    if scores is None:
        return time
    not_from_time = np.clip(1 - (time**2).sum(axis=1, keepdims=True), 0.0, 1.0)
    unit = scores.T / np.sqrt(np.maximum((scores**2).sum(axis=0), 1e-300))[:, None]
    return np.concatenate([time, unit * np.sqrt(not_from_time)], axis=1)


def trend(influence: FloatArray, position: FloatArray, beyond: FloatArray) -> Trend:
    """Last third and linear trend of `beyond`, from its influence (groups, slots) and each slot's place in its run.

    The trend's standard error comes from the residual's cosines but the first, which a line resembles.
    """
    slots = influence.shape[-1]
    late = position > 2 / 3
    last = beyond + (influence[:, late].mean(axis=-1) if late.any() else 0.0)
    middle = position.mean()
    centred = position - middle
    squares = float((centred**2).sum())
    if squares <= 0:
        nothing = np.full(beyond.shape, np.nan)
        return Trend(last, nothing, beyond)
    slope = influence @ centred / squares
    residual = influence - slope[:, None] * centred
    if slots < TREND_BELOW:
        df = BATCHES - 2
        density = (residual**2).sum(axis=-1) / max(slots - 2, 1)
    else:
        count = cosine_count(slots)
        loadings = residual @ cosines(slots, count)[1:].T
        df = count - 1
        density = np.maximum((loadings**2).mean(axis=-1), residual.var(axis=-1))
    se = np.sqrt(density / squares)
    t = np.divide(slope, se, out=np.zeros_like(slope), where=se > 0)
    return Trend(last, t_below(-t, df), beyond + slope * (1 - middle))
