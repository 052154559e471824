"""Compare outcomes of units (users, sessions, …): proportions, means and ratios, adjusted for covariates.

The unit is the cluster. Everything is computed from one row for each unit, reduced to sizes, means and cross products
that can be added, so single requests or events never count as independent observations.

Sources: Deng, Knoblich & Lu (2018), "Applying the delta method in metric analytics" (ratios); Deng, Xu, Kohavi & Walker
(2013) and Lin (2013), "Agnostic notes on regression adjustments to experimental data" (covariates, one slope an arm);
Fieller (1954) (relative margins and intervals); Welch (1947) (degrees of freedom).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluator.records import Direction, Limit, Margin, UnitMoments
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.estimate import Z_OF_POWER, Answers
from evaluator.stats.inference.score import (
    difference_interval,
    difference_z,
    one_sample_z,
    ratio_interval,
    ratio_z,
    share_variance,
)
from evaluator.stats.inference.student import t_quantile


@dataclass(frozen=True, slots=True)
class OutcomeEstimate:
    """One candidate against baseline. Effect and interval are relative if the margin is, or if none is set."""

    baseline: float
    candidate: float
    relative: bool
    effect: float
    lower: float
    upper: float
    against_zero: Answers
    against_margin: Answers
    """Without a margin: against no harm."""
    against_limit: tuple[Answers, ...]
    se: float
    """Standard error of the difference candidate - baseline, in the outcome's unit."""
    df: float
    detectable: float
    """Smallest harm that is detected with 80 % power, on the scale of the effect."""
    needed: float
    """Multiple of the present number of units after which an unchanged estimate would be shown to be within."""


# ------------------------------------------------------------------ moments


def moments_of(values: FloatArray) -> UnitMoments:
    """Compute the moments of one arm; `values` has shape (units, variables)."""
    values = np.asarray(values, dtype=float)
    if not values.shape[0]:
        width = values.shape[1]
        return UnitMoments(0, np.zeros(width), np.zeros((width, width)))
    mean = values.mean(axis=0)
    centred = values - mean
    return UnitMoments(values.shape[0], mean, centred.T @ centred)


def merge_moments(first: UnitMoments, second: UnitMoments) -> UnitMoments:
    """Merge the moments of two disjoint sets of units (Chan, Golub & LeVeque 1983)."""
    n = first.n + second.n
    if not first.n or not second.n:
        return first if first.n else second
    shift = second.mean - first.mean
    products = first.products + second.products + np.outer(shift, shift) * (first.n * second.n / n)
    return UnitMoments(n, first.mean + shift * (second.n / n), products)


# ------------------------------------------------------------------ levels


@dataclass(frozen=True, slots=True)
class Linear:
    """The value of an arm, and how it depends on the means of the variables, to first order."""

    value: float
    weights: FloatArray
    """Derivative by the mean of each variable, shape (variables,)."""


def linear_mean(moments: UnitMoments, variable: int) -> Linear:
    """Return the mean of one variable (by its index) over units."""
    weights = np.zeros(moments.mean.size)
    weights[variable] = 1.0
    return Linear(float(moments.mean[variable]), weights)


def linear_ratio(moments: UnitMoments, numerator: int, denominator: int) -> Linear:
    """Return Σ numerator / Σ denominator over units, by the delta method (Deng, Knoblich & Lu 2018).

    Both variables are given by their index. The value is NaN if the denominator is not positive.
    """
    below = float(moments.mean[denominator])
    weights = np.zeros(moments.mean.size)
    if below <= 0:
        return Linear(math.nan, weights)
    ratio = float(moments.mean[numerator]) / below
    weights[numerator] += 1.0 / below
    weights[denominator] -= ratio / below
    return Linear(ratio, weights)


@dataclass(frozen=True, slots=True)
class ArmLevels:
    """Values of all arms, shape (arms,), with their covariance; the baseline comes first."""

    values: FloatArray
    covariance: FloatArray
    """Shape (arms, arms)."""
    own: FloatArray
    """Variance of each arm without the part that adjustment adds to all arms, shape (arms,)."""
    df: FloatArray
    """Degrees of freedom of `own`, shape (arms,)."""
    explained: float
    """Share of the variance that the covariates removed."""
    weights: FloatArray
    """Derivative of the value of each arm by the means of the variables of each arm, shape (arms, arms, variables)."""


def adjust_levels(levels: Sequence[Linear], moments: Sequence[UnitMoments], covariates: Sequence[int]) -> ArmLevels:
    """Adjust the level of each arm to the covariate means of all arms together (Lin 2013).

    Each arm has its own slopes. The uncertainty of the common covariate means is included: it matters if slopes differ.

    Args:
        levels: Level of each arm, baseline first.
        moments: Moments of each arm.
        covariates: Indices of the covariates; without any, levels do not change.
    """
    columns = list(covariates)
    total = sum(part.n for part in moments)
    centre = sum((part.n * part.mean[columns] for part in moments), np.zeros(len(columns))) / max(total, 1)
    spread = sum((part.products[np.ix_(columns, columns)] for part in moments), np.zeros((len(columns), len(columns))))
    fits = [_fit(level, part, columns, centre) for level, part in zip(levels, moments, strict=True)]
    slopes = np.array([fit.slopes for fit in fits]).reshape(len(fits), len(columns))
    own = np.array([fit.variance for fit in fits])
    shared = slopes @ (spread / max(total - len(moments), 1)) @ slopes.T / max(total, 1)
    raw = float(sum(fit.unadjusted for fit in fits))
    # The value of an arm depends on its own means, and if adjusted also on the covariates of all arms.
    shares = np.array([part.n for part in moments]) / max(total, 1)
    weights = np.zeros((len(levels), len(levels), levels[0].weights.size))
    for arm, level in enumerate(levels):
        weights[arm, arm] = level.weights
        weights[arm, arm, columns] -= slopes[arm]
        weights[arm][:, columns] += np.outer(shares, slopes[arm])
    return ArmLevels(
        values=np.array([fit.value for fit in fits]),
        covariance=np.diag(own) + shared,
        own=own,
        df=np.array([fit.df for fit in fits]),
        explained=1 - float(own.sum()) / raw if raw > 0 else 0.0,
        weights=weights,
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    value: float
    variance: float
    unadjusted: float
    df: float
    slopes: FloatArray


def _fit(level: Linear, moments: UnitMoments, columns: list[int], centre: FloatArray) -> _Fit:
    n = moments.n
    squares = float(level.weights @ moments.products @ level.weights)
    unadjusted = squares / max(n - 1, 1) / max(n, 1)
    if not columns:
        return _Fit(level.value, unadjusted, unadjusted, float(n - 1), np.zeros(0))
    within = moments.products[np.ix_(columns, columns)]
    across = moments.products[columns] @ level.weights
    # Least squares of minimum norm: redundant covariates share a slope, constant ones get 0.
    scale = np.sqrt(np.diag(within))
    scale = np.where(scale > 0, scale, 1.0)
    solved, _, rank, _ = np.linalg.lstsq(within / np.outer(scale, scale), across / scale, rcond=1e-10)
    slopes = solved / scale
    df = n - 1 - int(rank)
    residual_squares = max(squares - float(slopes @ across), 0.0)
    value = level.value - float(slopes @ (moments.mean[columns] - centre))
    return _Fit(value, residual_squares / max(df, 1) / max(n, 1), unadjusted, float(df), slopes)


# ------------------------------------------------------------------ comparison by t


def compare_levels(
    levels: ArmLevels,
    arm: int,
    *,
    alpha: float,
    margin: Margin | None,
    direction: Direction,
    limit: Limit | None = None,
) -> OutcomeEstimate:
    """Compare arm `arm` with the baseline by Welch's t (Welch 1947).

    A relative margin needs no linearisation: "candidate = (1 + margin) x baseline" is tested as a contrast of the two
    levels, and the relative interval contains all ratios that this test does not reject (Fieller 1954).

    Args:
        levels: Levels of all arms.
        arm: Index of the candidate.
        alpha: One-sided level of the interval.
        margin: Largest harm that is tolerated; `None`: the question is whether there is any harm. p-values against a
            relative margin are NaN if the baseline's value is not above 0.
        direction: Which way is better.
        limit: Bounds on the candidate's own value.
    """
    own, own_df = levels.own[[0, arm]], levels.df[[0, arm]]
    spread = float((own**2 / np.maximum(own_df, 1)).sum())
    df = float(own.sum()) ** 2 / spread if spread > 0 else float(own_df.sum())
    values, covariance = levels.values[[0, arm]], levels.covariance[np.ix_([0, arm], [0, arm])]
    relative = margin.relative if margin else values[0] > 0
    sign = 1.0 if direction is Direction.LOWER else -1.0
    critical = float(t_quantile(1 - alpha, df))
    difference = np.array([-1.0, 1.0])
    se = _find_se(covariance, difference)
    limit = limit or Limit()
    bound = margin.value if margin else 0.0
    # How far the candidate is beyond the bound (positive is harm), and the standard error of this distance.
    weights = np.array([-(1 + sign * bound) if relative else -1.0, 1.0])
    beyond = sign * float(weights @ values) - (0.0 if relative else bound)
    se_beyond = _find_se(covariance, weights)
    base, value = (float(level) for level in values)
    se_own = _find_se(covariance, np.array([0.0, 1.0]))
    if relative:
        effect, (lower, upper) = value / _scale(base, relative=True) - 1, _fieller(values, covariance, critical)
    else:
        effect, lower, upper = value - base, value - base - critical * se, value - base + critical * se
    spoiled = relative and not base > 0
    return OutcomeEstimate(
        baseline=base,
        candidate=value,
        relative=relative,
        effect=effect,
        lower=lower,
        upper=upper,
        against_zero=_answer(sign * float(difference @ values), se, df),
        against_margin=_answer(math.nan if spoiled else beyond, se_beyond, df),
        against_limit=tuple(_answer(harm * (value - at), se_own, float(own_df[1])) for harm, at in limit.bounds),
        se=se,
        df=df,
        detectable=(critical + Z_OF_POWER) * se / _scale(base, relative=relative),
        needed=(critical * se_beyond / -beyond) ** 2 if beyond < 0 else math.inf,
    )


def trace_harm(levels: ArmLevels, arm: int, *, margin: Margin | None, direction: Direction) -> FloatArray:
    """Return the derivative of the harm of arm `arm` beyond its margin by the means of the variables.

    Shape (arms, variables). The arguments are those of `compare_levels`.
    """
    relative = margin.relative if margin else levels.values[0] > 0
    sign = 1.0 if direction is Direction.LOWER else -1.0
    against = 1 + sign * margin.value if margin and relative else 1.0
    return np.asarray(sign * (levels.weights[arm] - against * levels.weights[0]))


def _answer(beyond: float, se: float, df: float) -> Answers:
    if math.isnan(beyond) or math.isnan(se):
        return Answers(math.nan, math.nan)
    exact = 0.0 if abs(beyond) < 1e-12 else math.copysign(math.inf, beyond)
    t = beyond / se if se > 0 else exact
    return Answers.of(t, df)


def _scale(base: float, *, relative: bool) -> float:
    """The value that a change is relative to; NaN if it is not above 0."""
    return 1.0 if not relative else base if base > 0 else math.nan


def _find_se(covariance: FloatArray, weights: FloatArray) -> float:
    return math.sqrt(max(float(weights @ covariance @ weights), 0.0))


def _fieller(values: FloatArray, covariance: FloatArray, critical: float) -> tuple[float, float]:
    """The interval of changes candidate / baseline - 1 that are not rejected; infinite if the baseline may be 0."""
    base, candidate = values.tolist()
    squared = critical**2
    a = base**2 - squared * float(covariance[0, 0])
    b = base * candidate - squared * float(covariance[0, 1])
    c = candidate**2 - squared * float(covariance[1, 1])
    if a <= 0:
        return -math.inf, math.inf
    root = math.sqrt(max(b * b - a * c, 0.0))
    return (b - root) / a - 1, (b + root) / a - 1


# ------------------------------------------------------------------ comparison of proportions by score


def compare_proportions(
    successes: tuple[float, float],
    units: tuple[int, int],
    *,
    alpha: float,
    margin: Margin | None,
    direction: Direction,
    limit: Limit | None = None,
) -> OutcomeEstimate:
    """Compare two proportions by score (Miettinen & Nurminen 1985), which is also valid at 0 and at 1.

    Args:
        successes: Units with the outcome, of baseline and candidate.
        units: All units of baseline and candidate.
        alpha: One-sided level of the interval.
        margin: Largest harm that is tolerated; `None`: the question is whether there is any harm.
        direction: Which way is better.
        limit: Bounds on the candidate's own proportion.
    """
    (x_b, x_c), (n_b, n_c) = successes, units
    p_b, p_c = x_b / n_b, x_c / n_c
    relative = margin.relative if margin else p_b > 0
    sign = 1.0 if direction is Direction.LOWER else -1.0
    bound = margin.value if margin else 0.0

    def ask_at(harm: float) -> float:
        z = ratio_z(x_c, n_c, x_b, n_b, 1 + sign * harm) if relative else difference_z(x_c, n_c, x_b, n_b, sign * harm)
        return sign * float(z)

    critical = float(t_quantile(1 - alpha, np.inf))
    low, high = (ratio_interval if relative else difference_interval)(x_c, n_c, x_b, n_b, critical)
    se = math.sqrt(float(share_variance(p_b, n_b) + share_variance(p_c, n_c)))
    at_bound = ask_at(bound)
    return OutcomeEstimate(
        baseline=p_b,
        candidate=p_c,
        relative=relative,
        effect=p_c / _scale(p_b, relative=True) - 1 if relative else p_c - p_b,
        lower=float(low) - (1 if relative else 0),
        upper=float(high) - (1 if relative else 0),
        against_zero=Answers.of(sign * float(difference_z(x_c, n_c, x_b, n_b, 0.0))),
        against_margin=Answers.of(math.nan if relative and not p_b else at_bound),
        against_limit=tuple(
            Answers.of(harm * float(one_sample_z(x_c, n_c, at))) for harm, at in (limit or Limit()).bounds
        ),
        se=se,
        df=math.inf,
        detectable=(critical + Z_OF_POWER) * se / _scale(p_b, relative=relative),
        needed=(critical / at_bound) ** 2 if at_bound < 0 else math.inf,
    )
