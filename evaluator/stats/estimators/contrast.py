"""The way from two levels and their influences to an estimate, which all comparisons share (method B.2, B.3).

Levels are brought on the scale of the test, where their difference is close to normal; what they vary by over time and
between instances says how sure the difference is; and what is asked of it is answered on that scale.
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
"""What a limit of 0 counts as where logarithms are compared."""


@dataclass(frozen=True, slots=True)
class Estimand:
    """A level or a difference of two, on the scale of its test, and the influence of every slot on it."""

    value: FloatArray
    """(groups,)"""
    influence: FloatArray
    """(groups, slots); mean 0"""
    by_run: FloatArray | None = None
    """Value in each run, (groups, runs), where runs are replicates."""

    def __sub__(self, other: Estimand) -> Estimand:
        """The difference of two."""
        with np.errstate(invalid="ignore"):
            both = self.by_run is not None and other.by_run is not None
            by_run = self.by_run - other.by_run if both else None  # type: ignore[operator]
            return Estimand(self.value - other.value, self.influence - other.influence, by_run)

    def log(self) -> Estimand:
        """The logarithm of a level."""
        with np.errstate(divide="ignore", invalid="ignore"):
            by_run = None if self.by_run is None else np.log(self.by_run)
            return Estimand(np.log(self.value), self.influence / self.value[:, None], by_run)


def measure_level(strata: Strata, arm: int, numerator: FloatArray, design: Design) -> Estimand:
    """Standardised level of `numerator` (2, endpoints, slots) per request of one arm."""
    standardised = levels(strata, arm, numerator[arm])
    by_run = run_levels(strata, arm, numerator[arm]) if design.kind == "replicates" else None
    return Estimand(standardised.level, standardised.influence, by_run)


@dataclass(frozen=True, slots=True)
class Spread:
    """What an estimate varies by in addition to its own variation over time; shapes (2, groups), baseline first."""

    design: Design | None = None
    """`None`: the level belongs to the arm as a whole, only its variation over time counts."""
    instances: InstanceVariance | None = None
    """`None`: replicates say how the arms differ."""
    prior: FloatArray | None = None
    """Variance assumed of an arm with a single instance."""
    history: InstanceHistory | None = None
    floor: FloatArray | None = None
    """Least variance of each arm's level, where something is known of it."""
    fitted: int = 0
    """Slow cosines that the level itself has taken out of its influences."""

    def find_uncertainty(self, of: Estimand, arms: tuple[int, ...] = (0, 1)) -> tuple[FloatArray, Uncertainty]:
        """The value (groups,), which is a mean over replicates where there are any, and how uncertain it is."""
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
        """What replicates or instances add to the error, (units, groups); nothing known where there is one a side."""
        if of.by_run is not None:
            return np.asarray(sign * centre(of.by_run).T)
        repeated = self.design is not None and self.design.kind == "instances"
        return sign * self.instances.scores if repeated and self.instances else None


def vary_by_instance(
    strata: Strata, exposure: FloatArray, observed: FloatArray, effect: FloatArray, design: Design, *, relative: bool
) -> InstanceVariance | None:
    """Variance between instances of a rate observed / exposure (rows,); `None` where replicates say more."""
    if design.kind == "replicates":
        return None
    frame = InstanceFrame(strata.panel.rows, exposure, strata.groups)
    return frame.variance(observed, effect, relative=relative)


def log_bound(margin: Margin | None, sign: float, unit: float = 1.0) -> float:
    """A margin on the scale of log ratios; `unit`: level that an absolute one is relative to. Positive is harm."""
    if margin is None:
        return 0.0
    share = margin.value if margin.relative else margin.value / unit
    return float(np.log1p(share) if sign > 0 else -np.log1p(-min(share, 1 - 1e-12)))


def looks_well(
    baseline: FloatArray, candidate: FloatArray, margin: Margin | None, limit: Limit, sign: float = 1.0
) -> bool:
    """Is no estimate beyond its margin or limits?"""
    allowed = 0.0 if margin is None else margin.value
    bound = baseline * (1 + sign * allowed) if margin is None or margin.relative else baseline + sign * allowed
    within = sign * (candidate - bound) <= 0
    for direction, absolute in limit.bounds:
        within &= direction * (candidate - absolute) <= 0
    return bool(within.all())


def ask_limits(candidate: Estimand, spread: Spread, limit: Limit, *, log: bool = False) -> tuple[GroupAnswers, ...]:
    """The candidate's own level against `max` and `min`; `log`: it is a logarithm."""
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
    """Compare the levels of baseline and candidate (groups,) by t on the scale of `difference`.

    Args:
        levels_of: As they are shown.
        difference: Candidate less baseline; of logarithms if `relative`.
        spread: What they vary by.
        position: Place of each slot within its run, 0 to 1.
        alpha: One-sided level of the interval.
        bound: The margin on the scale of the test.
        sign: 1 where lower is better, -1 where higher is.
        relative: The effect is a ratio.
        doubt: By how much rounding may have moved the difference, on the scale of the test, (groups,). Where it hides
            as much as the margin allows nothing is decided by it.
        tolerance: One more bound to ask for, as a relative harm (groups,).
        against_limit: The answers of the candidate's own limits.
        joint: Keep what the errors are made of.
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
    """An estimate from its answers and the bound that decides.

    `effect` (3, groups): the estimate and its interval. `harm` (groups, slots): influence on the distance `beyond` the
    margin (groups,), on the scale of the test; `doubt`: by how much rounding may have moved that.
    """
    variance = deciding.variance
    # It is shown to be within the margin once time has shrunk what it can to this; never if that is negative.
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
