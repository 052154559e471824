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
"""What is computed: all; all but intervals; only answers for estimates beyond their bound (see `build_untested`)."""
TREND_BELOW = 30
"""With fewer slots, the standard error of a trend comes from its residuals, not from cosines."""


@dataclass(frozen=True, slots=True)
class Answers:
    """p-values of one question: small `p_worse`: shown to be beyond the bound; small `p_within`: shown to be within."""

    p_worse: float
    p_within: float

    @classmethod
    def of(cls, statistic: float, df: float = math.inf) -> Self:
        """Compute both p-values from a t statistic that is positive beyond the bound; NaN gives NaN."""
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
        """Return the tolerance relative to the levels `baseline`; all arrays have shape (groups,)."""
        absolute_as_ratio = np.divide(self.absolute, baseline, out=np.zeros_like(self.absolute), where=baseline > 0)
        return np.minimum(np.maximum(self.relative, absolute_as_ratio), self.most)

    def as_difference(self, baseline: FloatArray) -> FloatArray:
        """Return the tolerance as a difference to the levels `baseline`; all arrays have shape (groups,)."""
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
    """Parts of the errors, shape (groups, parts): dot products of two rows are correlations (`compute_loadings`)."""

    def of_group(self, group: int) -> Estimate:
        """Return the estimate of one group; its arrays have shape (1,)."""

        def pick(part: Any) -> Any:
            """Pick the group in an array, in each element of a tuple, or in each field of a record of arrays."""
            if part is None:
                return None
            if isinstance(part, np.ndarray):
                return part[group : group + 1]
            if isinstance(part, tuple):
                return tuple(pick(element) for element in part)
            return type(part)(*(pick(getattr(part, name)) for name in part.__dataclass_fields__))

        return Estimate(*(pick(getattr(self, name)) for name in self.__dataclass_fields__))


def build_untested(baseline: FloatArray, candidate: FloatArray, limits: int) -> Estimate:
    """Build an estimate without any test, for an early look at which all levels are within their bounds.

    Such a look cannot find harm, so no variance is computed: p-values are 1, and what depends on a variance is NaN.

    Args:
        baseline: Levels of the baseline, shape (groups,).
        candidate: Levels of the candidate, shape (groups,).
        limits: Number of limits, which get an answer each.
    """
    unknown = np.full(baseline.shape, np.nan)
    answers = GroupAnswers(beyond=unknown, p_worse=np.ones(baseline.shape), p_within=np.ones(baseline.shape))
    return Estimate(
        baseline=baseline,
        candidate=candidate,
        effect=unknown,
        lower=unknown,
        upper=unknown,
        against_margin=answers,
        against_zero=answers,
        trend=Trend(last_third=unknown, p_worsening=unknown, at_end=unknown),
        detectable=unknown,
        needed=unknown,
        persistent=np.zeros(baseline.shape),
        se=unknown,
        df=unknown,
        against_limit=(answers,) * limits,  # the same for each limit
        against_tolerance=answers,
        tolerance=unknown,
    )


def compute_answers(beyond: FloatArray, uncertainty: Uncertainty, doubt: FloatArray | None = None) -> GroupAnswers:
    """Test whether the estimates are beyond their bounds, or within.

    Args:
        beyond: Distance of each estimate beyond its bound, on the scale of the test, shape (groups,).
        uncertainty: Uncertainty of this distance.
        doubt: How far rounding may have moved the distance, in each direction, shape (groups,); `None`: not at all.
    """
    if doubt is None or not doubt.any():
        p_worse, p_within = uncertainty.p_values(beyond)
    else:
        # Each claim is tested against the direction of the doubt that is against it.
        p_worse, _ = uncertainty.p_values(beyond - doubt)
        _, p_within = uncertainty.p_values(beyond + doubt)
    return GroupAnswers(beyond, p_worse, p_within)


def decide_nothing(answers: GroupAnswers, undecided: BoolArray) -> GroupAnswers:
    """Return the same answers, with p-values of 1 in the groups where `undecided` (groups,) is true."""
    return GroupAnswers(
        answers.beyond, np.where(undecided, 1.0, answers.p_worse), np.where(undecided, 1.0, answers.p_within)
    )


def compute_loadings(influence: FloatArray, scores: FloatArray | None, variance: FloatArray) -> FloatArray:
    """Compute the loadings of each estimate: its standardised error, split into parts, shape (groups, parts).

    Several metrics are tested together, and their errors are correlated, since they come from the same times and
    instances: the dot product of the rows of two estimates is the correlation of their errors. The sum of squares of a
    row is at most 1; what is missing to 1 is shared with no other estimate (method B.5).

    Args:
        influence: Influence of each slot, shape (groups, slots). The parts from time are its
            projections on slow cosines.
        scores: Contributions of replicates or instances, shape (units, groups); `None` if unknown.
        variance: Variance of each estimate, shape (groups,).
    """
    # An estimate without variance has no error to split: its loadings are 0.
    positive_variance = np.where(variance > 0, variance, np.inf)[:, None]
    parts_of_time = time_scores(influence) / np.sqrt(positive_variance)
    if scores is None:
        return parts_of_time
    # Replicates or instances have the rest of the variance, in proportion to their contributions.
    share_of_units = np.clip(1 - (parts_of_time**2).sum(axis=1, keepdims=True), 0.0, 1.0)
    length_of_scores = np.sqrt(np.maximum((scores**2).sum(axis=0), 1e-300))
    unit_length_scores = scores.T / length_of_scores[:, None]
    return np.concatenate([parts_of_time, unit_length_scores * np.sqrt(share_of_units)], axis=1)


def find_trend(influence: FloatArray, position: FloatArray, beyond: FloatArray) -> Trend:
    """Find how the distance beyond the bound drifts: its last third and its linear trend (method B.5, drift).

    The trend is the least-squares line through the influences. Its standard error comes from the residual: neighbouring
    slots are alike, so the residual is measured by its slow waves (cosines), without the first, which is similar to a
    line. In a short run, slots count as independent.

    Args:
        influence: Influence of each slot on `beyond`, shape (groups, slots).
        position: Position of each slot within its run, 0 to 1, shape (slots,).
        beyond: Distance beyond the bound over the whole run, shape (groups,).
    """
    slots = influence.shape[-1]
    in_last_third = position > 2 / 3
    last_third = beyond + (influence[:, in_last_third].mean(axis=-1) if in_last_third.any() else 0.0)
    mean_position = position.mean()
    centred = position - mean_position
    squares = float((centred**2).sum())
    if squares <= 0:
        # All slots are at the same position: there is no trend.
        return Trend(last_third, p_worsening=np.full(beyond.shape, np.nan), at_end=beyond)
    slope = influence @ centred / squares  # shape (groups,), per run
    residual = influence - slope[:, None] * centred
    if slots < TREND_BELOW:
        # As few degrees of freedom as with the batch means that replace cosines in a short run, less one for the slope.
        df = BATCHES - 2
        slot_variance = (residual**2).sum(axis=-1) / max(slots - 2, 1)
    else:
        count = cosine_count(slots)
        projections = residual @ cosines(slots, count)[1:].T
        df = count - 1
        # The variance of one slot by slow waves; at least that of independent slots, which it is without waves.
        slot_variance = np.maximum((projections**2).mean(axis=-1), residual.var(axis=-1))
    se = np.sqrt(slot_variance / squares)
    t = np.divide(slope, se, out=np.zeros_like(slope), where=se > 0)
    return Trend(last_third, p_worsening=t_below(-t, df), at_end=beyond + slope * (1 - mean_position))
