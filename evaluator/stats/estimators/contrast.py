"""From two levels and their influences to an estimate: the steps that all comparisons share (method B.2, B.3).

Levels are put on the scale of the test, where their difference is close to normal. Their variation over time and
between instances gives the uncertainty of the difference. All questions are answered on this scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evaluator.records import Limit, Margin
from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.stats.estimators.estimate import (
    Z_OF_POWER,
    Estimate,
    GroupAnswers,
    compute_answers,
    compute_loadings,
    decide_nothing,
    find_trend,
)
from evaluator.stats.estimators.strata import Strata, standardise_levels, standardise_levels_by_run
from evaluator.stats.variance.history import InstanceHistory
from evaluator.stats.variance.instances import InstanceFrame, InstanceVariance
from evaluator.stats.variance.longrun import time_variance
from evaluator.stats.variance.uncertainty import (
    DecidingVariance,
    Design,
    Uncertainty,
    centre,
    combine,
    replicate_uncertainty,
    time_only,
)

LEAST_LIMIT = 1e-12
"""Replaces a limit of 0 if logarithms are compared."""


@dataclass(frozen=True, slots=True)
class Estimand:
    """A level or the difference of two levels, on the scale of its test, and the influence of each slot on it."""

    value: FloatArray
    """Shape (groups,)."""
    influence: FloatArray
    """By how much each slot moves the value, times the number of slots: shape (groups, slots), with mean 0."""
    by_run: FloatArray | None = None
    """Value in each run, shape (groups, runs), if runs are replicates."""

    def __sub__(self, other: Estimand) -> Estimand:
        """Return the difference of two levels, and of their influences."""
        with np.errstate(invalid="ignore"):
            by_run = None if self.by_run is None or other.by_run is None else self.by_run - other.by_run
            return Estimand(self.value - other.value, self.influence - other.influence, by_run)

    def log(self) -> Estimand:
        """Return the logarithm of a level; influences are divided by the level, the derivative of log (delta method).

        A level of 0 becomes -inf.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            by_run = None if self.by_run is None else np.log(self.by_run)
            return Estimand(np.log(self.value), self.influence / self.value[:, None], by_run)


def measure_level(strata: Strata, arm: int, numerator: FloatArray, design: Design) -> Estimand:
    """Measure the standardised level of one arm (0 baseline, 1 candidate), and in each run if runs are replicates.

    The level is the mean of `numerator` per count of the strata (requests, or successes), weighted so that both arms
    have the same mix of endpoints and of times. `numerator` has the shape (2, endpoints, slots), baseline first.
    """
    standardised = standardise_levels(strata, arm, numerator[arm])
    by_run = standardise_levels_by_run(strata, arm, numerator[arm]) if design.kind == "replicates" else None
    return Estimand(standardised.level, standardised.influence, by_run)


@dataclass(frozen=True, slots=True)
class Spread:
    """Variance of an estimate in addition to its variation over time. Arrays have shape (2, groups), baseline first."""

    design: Design | None = None
    """`None`: the level belongs to the whole arm, so only its variation over time counts."""
    instances: InstanceVariance | None = None
    """`None`: replicates show the variation."""
    prior: FloatArray | None = None
    """Variance assumed for the level of an arm with a single instance."""
    history: InstanceHistory | None = None
    floor: FloatArray | None = None
    """Smallest possible variance of each arm's level, if it is known."""
    fitted: int = 0
    """Number of slow cosines that the level itself has removed from its influences."""

    def find_uncertainty(self, estimand: Estimand, arms: tuple[int, ...] = (0, 1)) -> tuple[FloatArray, Uncertainty]:
        """Return the value of an estimand (groups,) and its uncertainty. With replicates, the value is their mean.

        `arms` are the arms whose levels the estimand contains: both (a difference), or one (0 baseline, 1 candidate).
        """
        all_cosines = time_variance(estimand.influence)
        # The variance over time is a mean over slow cosines (waves over the run). The level itself has removed `fitted`
        # of them, which are 0 now: the mean is over the others.
        df = max(all_cosines.df - self.fitted, 1.0)
        time = replace(all_cosines, variance=all_cosines.variance * (all_cosines.df / df), df=df)
        value = estimand.value
        if estimand.by_run is not None:
            value, uncertainty = replicate_uncertainty(estimand.by_run, time)
        elif self.instances is None or self.prior is None:
            uncertainty = time_only(time)
        else:
            uncertainty = combine(time, self.instances, self.prior, arms=arms, history=self.history)
        if self.floor is not None:
            # A claim must then also pass the test with the smallest possible variance.
            uncertainty = uncertainty.also(self.floor[list(arms)].sum(axis=0))
        return value, uncertainty

    def find_scores(self, estimand: Estimand, sign: float = 1.0) -> FloatArray | None:
        """Return the contribution of each replicate or instance to the error of the estimand, shape (units, groups).

        Two metrics to which the same units contribute have correlated errors. `None` if the design has neither
        replicates nor instances. `sign` is 1 if a positive error is harm, else -1.
        """
        if estimand.by_run is not None:
            return np.asarray(sign * centre(estimand.by_run).T)
        has_instances = self.design is not None and self.design.kind == "instances"
        return sign * self.instances.scores if has_instances and self.instances else None


def vary_by_instance(
    strata: Strata, exposure: FloatArray, observed: FloatArray, effect: FloatArray, design: Design, *, relative: bool
) -> InstanceVariance | None:
    """Return the variance between instances of a rate observed / exposure; `None` if the design has replicates.

    Args:
        strata: Weights of the comparison.
        exposure: Denominator of each row of the instances (requests, or successes), shape (rows,).
        observed: Numerator of each row (sum of times, failures), shape (rows,).
        effect: Candidate against baseline, shape (groups,); it is removed before instances are compared.
        design: What is replicated: whole runs, instances within runs, or nothing.
        relative: Whether the effect is a factor, and the variance is that of the logarithm; else a difference.
    """
    if design.kind == "replicates":
        return None
    frame = InstanceFrame(strata.panel.rows, exposure, strata.groups)
    return frame.variance(observed, effect, relative=relative)


def log_bound(margin: Margin | None, sign: float, unit: float = 1.0) -> float:
    """Return a margin as a log ratio, never negative: log(1 + margin) if lower is better, else -log(1 - margin).

    Without a margin it is 0. `sign` is 1 if lower is better, else -1; `unit` is the level that an absolute margin is
    divided by.
    """
    if margin is None:
        return 0.0
    relative_margin = margin.value if margin.relative else margin.value / unit
    if sign > 0:
        return float(np.log1p(relative_margin))
    # A tolerated fall by 100 % or more has no logarithm.
    return float(-np.log1p(-min(relative_margin, 1 - 1e-12)))


def are_within_bounds(
    baseline: FloatArray, candidate: FloatArray, margin: Margin | None, limit: Limit, sign: float = 1.0
) -> bool:
    """Are the levels of all groups within the margin and the limits, whatever their uncertainty?

    Levels have shape (groups,). `margin=None`: no harm is allowed. `sign` is 1 if lower is better, else -1.
    """
    allowed = 0.0 if margin is None else margin.value
    relative = margin is None or margin.relative
    bound = baseline * (1 + sign * allowed) if relative else baseline + sign * allowed
    is_within = sign * (candidate - bound) <= 0
    # The sign of a limit is 1 for a maximum, -1 for a minimum.
    for limit_sign, limit_value in limit.bounds:
        is_within &= limit_sign * (candidate - limit_value) <= 0
    return bool(is_within.all())


def answer_limits(candidate: Estimand, spread: Spread, limit: Limit, *, log: bool = False) -> tuple[GroupAnswers, ...]:
    """Test the candidate's own level against the limits: one answer for each of `max` and `min` that is set.

    `log`: the level is a logarithm, and limits are converted; a limit of 0 becomes that of `LEAST_LIMIT`.
    """
    if not limit.count:
        return ()
    value, uncertainty = spread.find_uncertainty(candidate, arms=(1,))  # without the baseline's variance
    answers = []
    # The sign is 1 for a maximum, -1 for a minimum, so that positive distances are beyond the limit.
    for sign, bound in limit.bounds:
        bound_on_scale = np.log(max(bound, LEAST_LIMIT)) if log else bound
        answers.append(compute_answers(sign * (value - bound_on_scale), uncertainty))
    return tuple(answers)


def contrast(
    shown_levels: tuple[FloatArray, FloatArray],
    difference: Estimand,
    spread: Spread,
    position: FloatArray,
    *,
    alpha: float,
    bound: float,
    sign: float = 1.0,
    relative: bool,
    doubt: FloatArray | None = None,
    tolerance: FloatArray | None = None,
    against_limit: tuple[GroupAnswers, ...] = (),
    joint: bool = True,
) -> Estimate:
    """Compare the levels of baseline and candidate by t tests (method B.2, B.3).

    Each group (all requests, or one endpoint) is compared by itself. The scale of the tests is that of `difference`: a
    log ratio if the effect is a ratio, else the unit of the levels.

    Args:
        shown_levels: Levels of baseline and candidate to show, each (groups,).
        difference: Candidate minus baseline on the scale of the tests, with the influence of each slot.
        spread: Variance between instances or replicates; the variance over time follows from the influence.
        position: Position of each slot within its run, 0 to 1, shape (slots,).
        alpha: One-sided level of the interval.
        bound: The margin on the scale of the tests, not negative.
        sign: 1 if lower is better, -1 if higher is.
        relative: Whether the effect is a ratio.
        doubt: How much rounding may have moved the difference, shape (groups,); `None`: not at all. If it is at least
            the margin, the question about the margin is not decided.
        tolerance: One more bound to test, as a relative harm, shape (groups,); only if lower is better.
        against_limit: Answers of the candidate's own limits, to pass on.
        joint: Whether to compute `Estimate.loadings`, which give the correlations with other comparisons.
    """
    # `theta` is the effect on the scale of the tests; times `sign`, positive is harm.
    theta, uncertainty = spread.find_uncertainty(difference)
    doubt = np.zeros(theta.size) if doubt is None else doubt
    # There are several variances, over time and between instances: the one with the widest interval decides.
    deciding = uncertainty.find_widest(alpha)
    half_width = deciding.half_width + doubt
    detectable = deciding.half_width + Z_OF_POWER * deciding.se + doubt
    # Where rounding alone may be as large as the margin, the question about the margin is not decided.
    coarse = (doubt >= bound) & (doubt > 0) & (bound > 0)
    effect = np.stack([theta, theta - half_width, theta + half_width])  # with both ends of its interval
    beyond = sign * theta - bound
    harm_influence = sign * difference.influence
    against_tolerance = None
    if tolerance is not None:
        # No `sign`: lower is better.
        against_tolerance = compute_answers(theta - np.log1p(tolerance), uncertainty, doubt)
    loadings = None
    if joint:
        loadings = compute_loadings(harm_influence, spread.find_scores(difference, sign), deciding.variance)
    return build_estimate(
        shown_levels,
        np.expm1(effect) if relative else effect,
        decide_nothing(compute_answers(beyond, uncertainty, doubt), coarse),
        compute_answers(sign * theta, uncertainty, doubt),
        deciding,
        harm=harm_influence,
        position=position,
        doubt=doubt,
        beyond=beyond,
        detectable=np.expm1(detectable) if relative else detectable,
        se=deciding.se,
        against_limit=against_limit,
        against_tolerance=against_tolerance,
        tolerance=tolerance,
        coarse=coarse,
        loadings=loadings,
    )


def build_estimate(
    shown_levels: tuple[FloatArray, FloatArray],
    effect: FloatArray,
    against_margin: GroupAnswers,
    against_zero: GroupAnswers,
    deciding: DecidingVariance,
    *,
    harm: FloatArray,
    position: FloatArray,
    beyond: FloatArray,
    doubt: FloatArray | float = 0.0,
    detectable: FloatArray,
    se: FloatArray,
    against_limit: tuple[GroupAnswers, ...] = (),
    against_tolerance: GroupAnswers | None = None,
    tolerance: FloatArray | None = None,
    coarse: BoolArray | None = None,
    loadings: FloatArray | None = None,
) -> Estimate:
    """Build an estimate from its answers and the variance that decides (method B.2, B.3).

    It adds the trend, and how much more time is needed. Arrays have shape (groups,) unless stated.

    Args:
        shown_levels: Levels of baseline and candidate.
        effect: The effect, and the lower and upper end of its interval, shape (3, groups).
        against_margin: Answers to the question about the margin.
        against_zero: Answers to the question about any harm.
        deciding: The variance that decides at the level of the interval.
        harm: Influence of each slot on `beyond`, shape (groups, slots).
        position: Position of each slot within its run, 0 to 1, shape (slots,).
        beyond: Distance beyond the margin on the scale of the test; positive is harm.
        doubt: How much rounding may have moved this distance.
        detectable: Smallest harm that is detected with 80 % power, on the scale of the effect.
        se: Standard error to show.
        against_limit: Answers of the candidate's own limits.
        against_tolerance: Answers to the question about the tolerance, if it was tested.
        tolerance: Harm that is tolerated in a GO, on the scale of the effect, if it was tested.
        coarse: Whether a step of the recorded times hides the margin; `None`: nowhere.
        loadings: Parts of the errors, shape (groups, parts) (`compute_loadings`).
    """
    variance = deciding.variance
    # `needed` is a multiple of the present time. More time shrinks only a part of the variance, in proportion. The
    # estimate is shown to be within the margin once its distance to the margin is the half-width of the interval, so
    # once the shrinking part is as small as `allowed`; never if `allowed` is not positive.
    shrinking = variance - deciding.persistent
    allowed = (np.maximum(-beyond - doubt, 0.0) / deciding.critical) ** 2 - deciding.persistent
    needed = np.where(allowed > 0, shrinking / np.where(allowed > 0, allowed, 1.0), np.inf)
    persistent_share = np.divide(deciding.persistent, variance, out=np.zeros_like(variance), where=variance > 0)
    return Estimate(
        baseline=shown_levels[0],
        candidate=shown_levels[1],
        effect=effect[0],
        lower=effect[1],
        upper=effect[2],
        against_margin=against_margin,
        against_zero=against_zero,
        trend=find_trend(harm, position, beyond),
        detectable=detectable,
        needed=needed,
        persistent=persistent_share,
        se=se,
        df=deciding.df,
        against_limit=against_limit,
        against_tolerance=against_tolerance,
        tolerance=tolerance,
        coarse=coarse,
        loadings=loadings,
    )
