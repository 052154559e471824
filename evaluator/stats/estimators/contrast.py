"""From two levels and their influences to an estimate: the steps that all comparisons share (method B.2, B.3).

Levels are put on the scale of the test, where their difference is close to normal. Their variation over time and
between instances gives the uncertainty of the difference. All questions are answered on this scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evaluator.records import Limit, Margin
from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.stats.estimators.estimate import Z_OF_POWER, Estimate, GroupAnswers, ask, decide_nothing, load, trend
from evaluator.stats.estimators.strata import Strata, levels, run_levels
from evaluator.stats.variance.history import InstanceHistory
from evaluator.stats.variance.instances import InstanceFrame, InstanceVariance
from evaluator.stats.variance.longrun import time_variance
from evaluator.stats.variance.uncertainty import (
    Binding,
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
    """Shape (groups, slots), with mean 0."""
    by_run: FloatArray | None = None
    """Value in each run, shape (groups, runs), if runs are replicates."""

    def __sub__(self, other: Estimand) -> Estimand:
        """Return the difference of two levels."""
        with np.errstate(invalid="ignore"):
            both = self.by_run is not None and other.by_run is not None
            by_run = self.by_run - other.by_run if both else None  # type: ignore[operator]
            return Estimand(self.value - other.value, self.influence - other.influence, by_run)

    def log(self) -> Estimand:
        """Return the logarithm of a level; influences follow by the delta method."""
        with np.errstate(divide="ignore", invalid="ignore"):
            by_run = None if self.by_run is None else np.log(self.by_run)
            return Estimand(np.log(self.value), self.influence / self.value[:, None], by_run)


def measure_level(strata: Strata, arm: int, numerator: FloatArray, design: Design) -> Estimand:
    """Return the standardised level of one arm: `numerator` (2, endpoints, slots) per count of the strata."""
    standardised = levels(strata, arm, numerator[arm])
    by_run = run_levels(strata, arm, numerator[arm]) if design.kind == "replicates" else None
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

    def find_uncertainty(self, of: Estimand, arms: tuple[int, ...] = (0, 1)) -> tuple[FloatArray, Uncertainty]:
        """Return the value (groups,) and its uncertainty. With replicates, the value is their mean.

        `arms` are the arms that `of` contains: both, or one.
        """
        time = time_variance(of.influence)
        df = max(time.df - self.fitted, 1.0)
        time = replace(time, variance=time.variance * (time.df / df), df=df)
        value = of.value
        if of.by_run is not None:
            value, uncertainty = replicate_uncertainty(of.by_run, time)
        elif self.instances is None or self.prior is None:
            uncertainty = time_only(time)
        else:
            uncertainty = combine(time, self.instances, self.prior, arms=arms, history=self.history)
        return value, uncertainty if self.floor is None else uncertainty.also(self.floor[list(arms)].sum(axis=0))

    def find_scores(self, of: Estimand, sign: float = 1.0) -> FloatArray | None:
        """Return the contribution of each replicate or instance to the error, shape (units, groups).

        `None` if the design has neither. `sign` is 1 if a positive error is harm, else -1.
        """
        if of.by_run is not None:
            return np.asarray(sign * centre(of.by_run).T)
        repeated = self.design is not None and self.design.kind == "instances"
        return sign * self.instances.scores if repeated and self.instances else None


def vary_by_instance(
    strata: Strata, exposure: FloatArray, observed: FloatArray, effect: FloatArray, design: Design, *, relative: bool
) -> InstanceVariance | None:
    """Return the variance between instances of a rate observed / exposure; `None` if the design has replicates.

    `exposure` and `observed` have shape (rows,); `effect` and `relative` are those of `InstanceFrame.variance`.
    """
    if design.kind == "replicates":
        return None
    frame = InstanceFrame(strata.panel.rows, exposure, strata.groups)
    return frame.variance(observed, effect, relative=relative)


def log_bound(margin: Margin | None, sign: float, unit: float = 1.0) -> float:
    """Return a margin as a log ratio; positive is harm. Without a margin it is 0.

    `sign` is 1 if lower is better, else -1; `unit` is the level that an absolute margin is divided by.
    """
    if margin is None:
        return 0.0
    share = margin.value if margin.relative else margin.value / unit
    return float(np.log1p(share) if sign > 0 else -np.log1p(-min(share, 1 - 1e-12)))


def looks_well(
    baseline: FloatArray, candidate: FloatArray, margin: Margin | None, limit: Limit, sign: float = 1.0
) -> bool:
    """Are all estimates within their margin and limits? Levels have shape (groups,)."""
    allowed = 0.0 if margin is None else margin.value
    bound = baseline * (1 + sign * allowed) if margin is None or margin.relative else baseline + sign * allowed
    within = sign * (candidate - bound) <= 0
    for direction, absolute in limit.bounds:
        within &= direction * (candidate - absolute) <= 0
    return bool(within.all())


def ask_limits(candidate: Estimand, spread: Spread, limit: Limit, *, log: bool = False) -> tuple[GroupAnswers, ...]:
    """Test the candidate's own level against `max` and `min`; `log`: the level is a logarithm."""
    if not limit.count:
        return ()
    value, uncertainty = spread.find_uncertainty(candidate, arms=(1,))
    scaled = [(sign, np.log(max(bound, LEAST_LIMIT)) if log else bound) for sign, bound in limit.bounds]
    return tuple(ask(sign * (value - bound), uncertainty) for sign, bound in scaled)


def contrast(
    levels_of: tuple[FloatArray, FloatArray],
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
    """Compare the levels of baseline and candidate by t on the scale of `difference` (method B.2, B.3).

    Args:
        levels_of: Levels of baseline and candidate to show, each (groups,).
        difference: Candidate minus baseline; of logarithms if `relative`.
        spread: Their variance in addition to variation over time.
        position: Position of each slot within its run, 0 to 1, shape (slots,).
        alpha: One-sided level of the interval.
        bound: The margin on the scale of the test.
        sign: 1 if lower is better, -1 if higher is.
        relative: Whether the effect is a ratio.
        doubt: How much rounding may have moved the difference, on the scale of the test, (groups,). If it is at least
            the margin, nothing is decided.
        tolerance: One more bound to test, as a relative harm, (groups,).
        against_limit: Answers of the candidate's own limits.
        joint: Whether to keep the parts of the errors (`Estimate.loadings`).
    """
    theta, uncertainty = spread.find_uncertainty(difference)
    hidden = np.zeros(theta.size) if doubt is None else doubt
    deciding = uncertainty.binding(alpha)
    half, detectable = deciding.reach + hidden, deciding.reach + Z_OF_POWER * deciding.se + hidden
    coarse = (hidden >= bound) & (hidden > 0) & (bound > 0)
    effect = np.stack([theta, theta - half, theta + half])
    harm = sign * difference.influence
    return conclude(
        levels_of,
        np.expm1(effect) if relative else effect,
        decide_nothing(ask(sign * theta - bound, uncertainty, hidden), coarse),
        ask(sign * theta, uncertainty, hidden),
        deciding,
        harm=harm,
        position=position,
        doubt=hidden,
        beyond=sign * theta - bound,
        detectable=np.expm1(detectable) if relative else detectable,
        se=deciding.se,
        against_limit=against_limit,
        against_tolerance=None if tolerance is None else ask(theta - np.log1p(tolerance), uncertainty, hidden),
        tolerance=tolerance,
        coarse=coarse,
        loadings=load(harm, spread.find_scores(difference, sign), deciding.variance) if joint else None,
    )


def conclude(
    levels_of: tuple[FloatArray, FloatArray],
    effect: FloatArray,
    against_margin: GroupAnswers,
    against_zero: GroupAnswers,
    deciding: Binding,
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
    """Build an estimate from its answers and the bound that decides (method B.2, B.3).

    `levels_of`: levels to show, each (groups,). `effect` (3, groups): the estimate and its interval. `deciding`: the
    bound at the level of the interval. `harm` (groups, slots): influence on `beyond` (groups,), the distance beyond the
    margin on the scale of the test; `doubt`: how much rounding may have moved it. `position` (slots,): position of each
    slot within its run, 0 to 1. The other arguments become the fields of `Estimate` with the same name.
    """
    variance = deciding.variance
    # The estimate is shown to be within the margin once the rest of the variance is this small; never if negative.
    spare = (np.maximum(-beyond - doubt, 0.0) / deciding.critical) ** 2 - deciding.persistent
    shrinking = variance - deciding.persistent
    return Estimate(
        baseline=levels_of[0],
        candidate=levels_of[1],
        effect=effect[0],
        lower=effect[1],
        upper=effect[2],
        against_margin=against_margin,
        against_zero=against_zero,
        trend=trend(harm, position, beyond),
        detectable=detectable,
        needed=np.where(spare > 0, shrinking / np.where(spare > 0, spare, 1.0), np.inf),
        persistent=np.divide(deciding.persistent, variance, out=np.zeros_like(variance), where=variance > 0),
        se=se,
        df=deciding.df,
        against_limit=against_limit,
        against_tolerance=against_tolerance,
        tolerance=tolerance,
        coarse=coarse,
        loadings=loadings,
    )
