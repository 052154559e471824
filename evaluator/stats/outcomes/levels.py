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
        variables = values.shape[1]
        return UnitMoments(0, np.zeros(variables), np.zeros((variables, variables)))
    mean = values.mean(axis=0)
    centred = values - mean
    return UnitMoments(values.shape[0], mean, centred.T @ centred)


def merge_moments(first: UnitMoments, second: UnitMoments) -> UnitMoments:
    """Merge the moments of two disjoint sets of units (Chan, Golub & LeVeque 1983).

    `products` are sums of products of deviations from the mean, so the distance of both means is added to them.
    """
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
    """Return the mean of one variable (given by its index) over the units of an arm, with its derivatives."""
    weights = np.zeros(moments.mean.size)
    weights[variable] = 1.0
    return Linear(float(moments.mean[variable]), weights)


def linear_ratio(moments: UnitMoments, numerator: int, denominator: int) -> Linear:
    """Return Σ numerator / Σ denominator over units, with its derivatives (delta method: Deng, Knoblich & Lu 2018).

    Both variables are given by their index. The value is NaN if the denominator is not positive.
    """
    mean_denominator = float(moments.mean[denominator])
    weights = np.zeros(moments.mean.size)
    if mean_denominator <= 0:
        return Linear(math.nan, weights)
    ratio = float(moments.mean[numerator]) / mean_denominator
    # Both may be the same variable.
    weights[numerator] += 1.0 / mean_denominator
    weights[denominator] -= ratio / mean_denominator
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

    A covariate (such as a user's activity before the test) explains a part of the differences between units, and what
    remains varies less. Each arm has its own slopes. The uncertainty of the common covariate means is included: it
    matters if slopes differ.

    Args:
        levels: Level of each arm, baseline first.
        moments: Moments of each arm.
        covariates: Indices of the covariates; without any, levels do not change.
    """
    columns = list(covariates)
    units = sum(of_arm.n for of_arm in moments)
    # Over all arms: the mean of each covariate, and the products of covariates within arms.
    common_means = sum((of_arm.n * of_arm.mean[columns] for of_arm in moments), np.zeros(len(columns))) / max(units, 1)
    covariate_products = sum(
        (of_arm.products[np.ix_(columns, columns)] for of_arm in moments), np.zeros((len(columns), len(columns)))
    )
    fits = [
        _fit_covariates(level, of_arm, columns, common_means) for level, of_arm in zip(levels, moments, strict=True)
    ]
    slopes = np.array([fit.slopes for fit in fits]).reshape(len(fits), len(columns))
    variances = np.array([fit.variance for fit in fits])
    # The common means are uncertain too, and all arms share this error.
    covariance_of_covariates = covariate_products / max(units - len(moments), 1)
    shared_covariance = slopes @ covariance_of_covariates @ slopes.T / max(units, 1)
    unadjusted = float(sum(fit.unadjusted for fit in fits))
    # The value of an arm depends on its own means, and if adjusted also on the covariates of all arms.
    arm_shares = np.array([of_arm.n for of_arm in moments]) / max(units, 1)
    weights = np.zeros((len(levels), len(levels), levels[0].weights.size))
    for arm, level in enumerate(levels):
        weights[arm, arm] = level.weights
        weights[arm, arm, columns] -= slopes[arm]
        weights[arm][:, columns] += np.outer(arm_shares, slopes[arm])
    return ArmLevels(
        values=np.array([fit.value for fit in fits]),
        covariance=np.diag(variances) + shared_covariance,
        own=variances,
        df=np.array([fit.df for fit in fits]),
        explained=1 - float(variances.sum()) / unadjusted if unadjusted > 0 else 0.0,
        weights=weights,
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    """The level of one arm, adjusted to the common means of the covariates."""

    value: float
    variance: float
    """Variance of the value, if the common means were known."""
    unadjusted: float
    """Variance of the level without adjustment."""
    df: float
    """Degrees of freedom of the variance."""
    slopes: FloatArray
    """Change of the level with each covariate, shape (covariates,)."""


def _fit_covariates(level: Linear, moments: UnitMoments, columns: list[int], common_means: FloatArray) -> _Fit:
    """Adjust the level of one arm by a least-squares fit to its covariates (Lin 2013).

    Args:
        level: Level of the arm, linear in the means of its variables.
        moments: Moments of the arm.
        columns: Indices of the covariates among the variables.
        common_means: Means of the covariates over all arms, to which the level is adjusted, shape (covariates,).

    Returns:
        The adjusted level and its variance, the variance without the fit, degrees of freedom, and slopes (covariates,).
    """
    n = moments.n
    squares = float(level.weights @ moments.products @ level.weights)  # of deviations from the level, over units
    unadjusted = squares / max(n - 1, 1) / max(n, 1)  # variance of the level without the fit
    if not columns:
        return _Fit(level.value, unadjusted, unadjusted, float(n - 1), np.zeros(0))
    # Products of the covariates with each other, and with the level.
    covariate_products = moments.products[np.ix_(columns, columns)]
    level_products = moments.products[columns] @ level.weights
    # Least squares of minimum norm: redundant covariates share a slope, constant covariates get 0. They are divided by
    # their spread, so that the tolerance for redundancy does not depend on their units.
    scale = np.sqrt(np.diag(covariate_products))
    scale = np.where(scale > 0, scale, 1.0)
    scaled_slopes, _, rank, _ = np.linalg.lstsq(
        covariate_products / np.outer(scale, scale), level_products / scale, rcond=1e-10
    )
    slopes = scaled_slopes / scale
    df = n - 1 - int(rank)  # `rank` slopes were fitted
    residual_squares = max(squares - float(slopes @ level_products), 0.0)
    value = level.value - float(slopes @ (moments.mean[columns] - common_means))
    variance = residual_squares / max(df, 1) / max(n, 1)
    return _Fit(value, variance, unadjusted, float(df), slopes)


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
    pair = [0, arm]  # indices of baseline and candidate
    df = _find_welch_df(levels.own[pair], levels.df[pair])  # `own`: variance of each arm by itself
    values, covariance = levels.values[pair], levels.covariance[np.ix_(pair, pair)]
    baseline, candidate = (float(level) for level in values)
    relative = margin.relative if margin else baseline > 0
    sign = 1.0 if direction is Direction.LOWER else -1.0
    critical = float(t_quantile(1 - alpha, df))
    # Weights of baseline and candidate in what is tested.
    difference, candidate_alone = np.array([-1.0, 1.0]), np.array([0.0, 1.0])
    se, se_candidate = _find_se(covariance, difference), _find_se(covariance, candidate_alone)
    bound = margin.value if margin else 0.0
    # How far the candidate is beyond the margin (positive is harm), and the standard error of this distance. A relative
    # margin is a multiple of the baseline's level.
    against_bound = np.array([-(1 + sign * bound) if relative else -1.0, 1.0])
    beyond = sign * float(against_bound @ values) - (0.0 if relative else bound)
    se_beyond = _find_se(covariance, against_bound)
    if relative:
        effect = candidate / _find_reference(baseline, relative=True) - 1
        lower, upper = _find_relative_interval(values, covariance, critical)
    else:
        effect = candidate - baseline
        lower, upper = effect - critical * se, effect + critical * se
    has_no_ratio = relative and not baseline > 0
    return OutcomeEstimate(
        baseline=baseline,
        candidate=candidate,
        relative=relative,
        effect=effect,
        lower=lower,
        upper=upper,
        against_zero=_answer(sign * float(difference @ values), se, df),
        against_margin=_answer(math.nan if has_no_ratio else beyond, se_beyond, df),
        against_limit=_answer_limits(candidate, se_candidate, float(levels.df[arm]), limit or Limit()),
        se=se,
        df=df,
        detectable=(critical + Z_OF_POWER) * se / _find_reference(baseline, relative=relative),
        # So many times the units shrink the half-width of the interval to the distance from the margin.
        needed=(critical * se_beyond / -beyond) ** 2 if beyond < 0 else math.inf,
    )


def trace_harm(levels: ArmLevels, arm: int, *, margin: Margin | None, direction: Direction) -> FloatArray:
    """Return how the harm of a candidate beyond its margin depends on the means of the variables, to first order.

    `arm` is the index of the candidate; the other arguments are those of `compare_levels`. Returns the derivatives by
    the mean of each variable of each arm, shape (arms, variables).
    """
    # Without a margin the effect is shown as a ratio, if there is one.
    relative = margin.relative if margin else levels.values[0] > 0
    sign = 1.0 if direction is Direction.LOWER else -1.0
    # The harm is the candidate's level minus this multiple of the baseline's; an absolute margin is a constant.
    factor = 1 + sign * margin.value if margin and relative else 1.0
    return np.asarray(sign * (levels.weights[arm] - factor * levels.weights[0]))


def _find_welch_df(variances: FloatArray, dfs: FloatArray) -> float:
    """Return the degrees of freedom of the sum of two variances, from those of each (Welch 1947)."""
    denominator = float((variances**2 / np.maximum(dfs, 1)).sum())
    return float(variances.sum()) ** 2 / denominator if denominator > 0 else float(dfs.sum())


def _answer_limits(value: float, se: float, df: float, limit: Limit) -> tuple[Answers, ...]:
    """Test a value with its standard error against its limits by t: one answer for each limit that is set."""
    # The sign of a limit is 1 for a maximum, -1 for a minimum, so that positive distances are beyond it.
    return tuple(_answer(sign * (value - limit_value), se, df) for sign, limit_value in limit.bounds)


def _answer(beyond: float, se: float, df: float) -> Answers:
    """Test a distance beyond a bound by t; NaN gives NaN.

    With a standard error of 0, the sign of the distance decides.
    """
    if math.isnan(beyond) or math.isnan(se):
        return Answers(math.nan, math.nan)
    exact = 0.0 if abs(beyond) < 1e-12 else math.copysign(math.inf, beyond)
    t = beyond / se if se > 0 else exact
    return Answers.of(t, df)


def _find_reference(baseline: float, *, relative: bool) -> float:
    """Return the value that a change is divided by: the baseline's, or 1 for a difference.

    It is NaN if the change is relative and the baseline is not above 0.
    """
    if not relative:
        return 1.0
    return baseline if baseline > 0 else math.nan


def _find_se(covariance: FloatArray, weights: FloatArray) -> float:
    """Return the standard error of the sum of levels with these weights (arms,); `covariance` is that of the levels."""
    return math.sqrt(max(float(weights @ covariance @ weights), 0.0))


def _find_relative_interval(values: FloatArray, covariance: FloatArray, critical: float) -> tuple[float, float]:
    """Return the lowest and highest change candidate / baseline - 1 that the test does not reject (Fieller 1954).

    They are infinite if the baseline may be 0. `values` are baseline and candidate, `covariance` (2, 2) is theirs, and
    `critical` is the quantile of the test.
    """
    baseline, candidate = values.tolist()
    squared = critical**2
    # A ratio r is not rejected if (candidate - r · baseline)² ≤ critical² · its variance: a·r² - 2·b·r + c ≤ 0.
    a = baseline**2 - squared * float(covariance[0, 0])
    b = baseline * candidate - squared * float(covariance[0, 1])
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
    bound = sign * (margin.value if margin else 0.0)  # as a change of the candidate
    critical = float(t_quantile(1 - alpha, np.inf))
    if relative:
        effect = p_c / _find_reference(p_b, relative=True) - 1
        lowest_ratio, highest_ratio = ratio_interval(x_c, n_c, x_b, n_b, critical)
        lower, upper = float(lowest_ratio) - 1, float(highest_ratio) - 1
        z_beyond = sign * float(ratio_z(x_c, n_c, x_b, n_b, 1 + bound))
    else:
        effect = p_c - p_b
        lower, upper = (float(end) for end in difference_interval(x_c, n_c, x_b, n_b, critical))
        z_beyond = sign * float(difference_z(x_c, n_c, x_b, n_b, bound))
    se = math.sqrt(float(share_variance(p_b, n_b) + share_variance(p_c, n_c)))
    # The sign of a limit is 1 for a maximum, -1 for a minimum, so that positive statistics are beyond it.
    against_limit = tuple(
        Answers.of(limit_sign * float(one_sample_z(x_c, n_c, limit_value)))
        for limit_sign, limit_value in (limit or Limit()).bounds
    )
    return OutcomeEstimate(
        baseline=p_b,
        candidate=p_c,
        relative=relative,
        effect=effect,
        lower=lower,
        upper=upper,
        against_zero=Answers.of(sign * float(difference_z(x_c, n_c, x_b, n_b, 0.0))),
        # There is no ratio to a baseline of 0.
        against_margin=Answers.of(math.nan if relative and not p_b else z_beyond),
        against_limit=against_limit,
        se=se,
        df=math.inf,
        detectable=(critical + Z_OF_POWER) * se / _find_reference(p_b, relative=relative),
        # With so many times the units, the same proportions would give the statistic `critical`.
        needed=(critical / z_beyond) ** 2 if z_beyond < 0 else math.inf,
    )
