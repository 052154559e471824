"""The result of every comparison, and the steps that all comparisons share."""

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
"""Normal quantile of 80 %, the power at which an effect counts as detectable."""

Depth = Literal["full", "answers", "suspects"]
"""What is computed: all; all but intervals; only answers for estimates beyond their bound (see `not_worse`)."""
TREND_BELOW = 30


@dataclass(frozen=True, slots=True)
class Answers:
    """p-values of one question: small `p_worse`: shown to be beyond the bound; small `p_within`: shown to be within."""

    p_worse: float
    p_within: float

    @classmethod
    def of(cls, statistic: float, df: float = math.inf) -> Self:
        """Compute both from a t statistic that is positive beyond the bound; NaN gives NaN."""
        return cls(float(t_below(-statistic, df)), float(t_below(statistic, df)))


@dataclass(frozen=True, slots=True)
class GroupAnswers:
    """Answers to "is the candidate beyond the bound?", each of shape (groups,)."""

    beyond: FloatArray
    """How far the estimate is beyond the bound, on the scale of the test; negative is within."""
    p_worse: FloatArray
    p_within: FloatArray

    def of_group(self, group: int) -> Answers:
        """Return the answers of one group."""
        return Answers(float(self.p_worse[group]), float(self.p_within[group]))


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The harm tolerated for each group: the wider of two bounds, at most `most`. Arrays have shape (groups,)."""

    relative: FloatArray
    """Relative to the baseline's level; 0 if none is set."""
    absolute: FloatArray
    """In the metric's own unit; 0 if none is set."""
    most: float
    """Largest tolerance: relative in `as_ratio`, in the metric's unit in `as_difference`."""

    def as_ratio(self, baseline: FloatArray) -> FloatArray:
        """Return it relative to the levels `baseline` (groups,)."""
        own = np.divide(self.absolute, baseline, out=np.zeros_like(self.absolute), where=baseline > 0)
        return np.minimum(np.maximum(self.relative, own), self.most)

    def as_difference(self, baseline: FloatArray) -> FloatArray:
        """Return it as a difference to the levels `baseline` (groups,)."""
        return np.minimum(np.maximum(self.relative * baseline, self.absolute), self.most)


@dataclass(frozen=True, slots=True)
class Trend:
    """How the distance beyond the bound drifted within the runs. Arrays have shape (groups,); positive is beyond."""

    last_third: FloatArray
    """Distance in the last third of the runs."""
    p_worsening: FloatArray
    """One-sided p-value of a worsening trend."""
    at_end: FloatArray
    """Distance at the end of the runs, from the linear trend."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One comparison for each group; all arrays have shape (groups,)."""

    baseline: FloatArray
    candidate: FloatArray
    effect: FloatArray
    lower: FloatArray
    upper: FloatArray
    against_margin: GroupAnswers
    against_zero: GroupAnswers
    trend: Trend
    detectable: FloatArray
    """Smallest harm that is detected with 80 % power, on the scale of the effect; NaN if unknown."""
    needed: FloatArray
    """Multiple of the present duration after which an unchanged estimate would be shown to be within the margin."""
    persistent: FloatArray
    """Share of the variance that only more instances or replicates shrink."""
    se: FloatArray
    """Standard error: of the log ratio if the effect is relative, else in the unit of the effect."""
    df: FloatArray
    """Degrees of freedom of the standard error."""
    against_limit: tuple[GroupAnswers, ...] = ()
    against_tolerance: GroupAnswers | None = None
    tolerance: FloatArray | None = None
    """Harm that is tolerated in a GO, on the scale of the effect, if it was tested (see `Tolerance`)."""
    coarse: BoolArray | None = None
    """Is the recorded step of the times too coarse for the margin? Then the margin decides nothing."""
    loadings: FloatArray | None = None
    """Parts of the errors, shape (groups, parts): dot products of two rows are correlations (see `load`)."""

    def of_group(self, group: int) -> Estimate:
        """Return the estimate of one group."""

        def pick(part: Any) -> Any:
            if part is None or isinstance(part, np.ndarray):
                return part if part is None else part[group : group + 1]
            if isinstance(part, tuple):
                return tuple(pick(element) for element in part)
            return type(part)(*(pick(getattr(part, name)) for name in part.__dataclass_fields__))

        return Estimate(*(pick(getattr(self, name)) for name in self.__dataclass_fields__))


def not_worse(baseline: FloatArray, candidate: FloatArray, limits: int) -> Estimate:
    """Return the answer of an early look at which all estimates are within their bounds, so that no p-value is small.

    Variances were not computed: p-values are 1, as upper bounds, and the other results are NaN. `baseline` and
    `candidate` are the levels (groups,); `limits` is the number of limits.
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
    """Test `beyond` (groups,) against 0. `doubt` (groups,): it may be wrong by this much in each direction."""
    if doubt is None or not doubt.any():
        return GroupAnswers(beyond, *uncertainty.p_values(beyond))
    return GroupAnswers(beyond, uncertainty.p_values(beyond - doubt)[0], uncertainty.p_values(beyond + doubt)[1])


def decide_nothing(answers: GroupAnswers, undecided: BoolArray) -> GroupAnswers:
    """Return the same answers, with p-values of 1 in the groups where `undecided` (groups,) is true."""
    return GroupAnswers(
        answers.beyond, np.where(undecided, 1.0, answers.p_worse), np.where(undecided, 1.0, answers.p_within)
    )


def load(influence: FloatArray, scores: FloatArray | None, variance: FloatArray) -> FloatArray:
    """Return the parts of each standardised error that other estimates may share, shape (groups, parts) (method B.5).

    The sum of squares of a row is at most 1; the rest is shared with no other estimate.

    Args:
        influence: Influence of each slot, shape (groups, slots): the parts from time are its cosines.
        scores: Contributions of replicates or instances, shape (units, groups), `None` if unknown.
        variance: Variance of each estimate, shape (groups,).
    """
    safe = np.where(variance > 0, variance, np.inf)[:, None]
    time = time_scores(influence) / np.sqrt(safe)
    if scores is None:
        return time
    not_from_time = np.clip(1 - (time**2).sum(axis=1, keepdims=True), 0.0, 1.0)
    unit = scores.T / np.sqrt(np.maximum((scores**2).sum(axis=0), 1e-300))[:, None]
    return np.concatenate([time, unit * np.sqrt(not_from_time)], axis=1)


def trend(influence: FloatArray, position: FloatArray, beyond: FloatArray) -> Trend:
    """Find the last third and the linear trend of `beyond` (method B.5, drift).

    The standard error of the trend comes from the cosines of the residual, without the first, which is similar to a
    line.

    Args:
        influence: Influence of each slot on `beyond`, shape (groups, slots).
        position: Position of each slot within its run, 0 to 1, shape (slots,).
        beyond: Distance beyond the bound over the whole run, shape (groups,).
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
