"""Several candidates against one baseline: adjusted p-values, the best arm, assignment, and a Bayesian view.

Sources: Dunnett (1955), JASA 50, 1096-1121 (many to one); Fabijan et al. (2019), KDD, "Diagnosing sample ratio
mismatch in online controlled experiments".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from evaluator.records.arrays import FloatArray
from evaluator.stats.inference.student import t_below

Alternative = Literal["two-sided", "greater", "less"]

NODES = 64
"""Points at which an integral over a normal variable is evaluated."""
LARGEST_DF = 1e6
"""From this number of degrees of freedom on, the standard error counts as known."""


def compare_assignment(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Return the p-value of a χ² test: were units assigned to arms in proportion to `shares` (Fabijan et al. 2019)?

    `counts` are the units of each arm; without any, the assignment counts as wrong: the result is 0.

    >>> round(compare_assignment([821588, 815482], [1, 1]), 7)  # Kohavi, Tang & Xu (2020), chapter 21
    1.8e-06
    """
    from scipy.special import chdtrc

    observed, weights = np.asarray(counts, float), np.asarray(shares, float)
    if observed.sum() <= 0:
        return 0.0
    expected = observed.sum() * weights / weights.sum()
    return float(chdtrc(observed.size - 1, ((observed - expected) ** 2 / expected).sum()))


# ------------------------------------------------------------------ many to one


def share_of_baseline(baseline_variance: float, variances: FloatArray) -> FloatArray:
    """Return the loading of each candidate's difference on the shared baseline, shape (candidates,).

    Differences of several candidates to one baseline are correlated: the correlation of two of them is the product of
    their loadings. A loading is the square root of the baseline's share of the variance of the difference. The
    arguments are the variances of the levels of the baseline and of each candidate.
    """
    total = np.asarray(variances, float) + baseline_variance
    return np.sqrt(np.divide(baseline_variance, total, out=np.zeros_like(total), where=total > 0))


def dunnett_p(t: FloatArray, loadings: FloatArray, df: float, alternative: Alternative = "two-sided") -> FloatArray:
    """Return the p-value of each candidate, adjusted for all of them (Dunnett 1955), shape (arms,).

    Args:
        t: t statistic of each candidate against the baseline, shape (arms,).
        loadings: Loading of each difference on the shared baseline (`share_of_baseline`), shape (arms,).
        df: Degrees of freedom of the common standard error.
        alternative: `greater`: the candidate's mean is above the baseline's; `less`: it is below.

    >>> loadings = share_of_baseline(1 / 6, np.array([1 / 4, 1 / 5]))
    >>> dunnett_p(np.array([0.85703, 3.69375]), loadings, 12).round(4).tolist()  # Dunnett (1955)
    [0.6201, 0.0058]
    """
    t = np.asarray(t, float)
    # Turned so that large values always speak for the alternative.
    sizes = {"two-sided": np.abs(t), "greater": t, "less": -t}[alternative]
    two_sided = alternative == "two-sided"
    return np.array([_find_p_of_largest(float(size), loadings, df, two_sided=two_sided) for size in sizes])


def _find_p_of_largest(size: float, loadings: FloatArray, df: float, *, two_sided: bool) -> float:
    """Return the probability that the largest of all statistics exceeds `size`, if no candidate differs.

    Given the shared baseline (normal) and the shared standard error (χ), the statistics are independent; the result is
    the integral over both. NaN stays NaN.

    Args:
        size: The statistic; if `two_sided`, its absolute value.
        loadings: Loading of each statistic on the shared baseline, shape (arms,).
        df: Degrees of freedom of the standard error.
        two_sided: Whether absolute values are compared.
    """
    from scipy.special import chdtri, ndtr

    if math.isnan(size):
        return math.nan
    if math.isinf(size):
        return 0.0 if size > 0 else 1.0
    baseline_nodes, baseline_weights = _find_normal_nodes(NODES)
    # Nodes of the estimated standard error divided by the true one, sqrt(χ²/df): a single node 1 if it is known. They
    # are nodes of a normal variable, each replaced by the value of χ² that is exceeded as often: so the integrand is
    # smooth at both ends.
    se_nodes, se_weights = np.ones(1), np.ones(1)
    if df <= LARGEST_DF:
        scores, weights = _find_normal_nodes(NODES)
        se_nodes, se_weights = np.sqrt(chdtri(df, t_below(-scores, np.inf)) / df), weights / weights.sum()
    # Shape (nodes of the standard error, nodes of the baseline, arms).
    sd_given_baseline = np.sqrt(np.maximum(1 - loadings**2, 1e-12))
    threshold = size * se_nodes[:, None, None]
    centre = loadings * baseline_nodes[:, None]
    p_not_exceeding = ndtr((threshold - centre) / sd_given_baseline)
    if two_sided:  # the statistic must not be below -threshold either
        p_not_exceeding = p_not_exceeding - ndtr((-threshold - centre) / sd_given_baseline)
    p_none_exceeds = p_not_exceeding.prod(axis=-1) @ (baseline_weights / baseline_weights.sum())
    return float(np.clip(1 - p_none_exceeds @ se_weights, 0.0, 1.0))


@lru_cache(maxsize=4)
def _find_normal_nodes(count: int) -> tuple[FloatArray, FloatArray]:
    """Return nodes and weights of an integral over a normal variable, both of shape (count,).

    They are cached, because they cost an eigenvalue problem. The weights do not sum to 1.
    """
    return np.polynomial.hermite_e.hermegauss(count)


def probabilities_of_best(values: FloatArray, variances: FloatArray, *, highest: bool) -> FloatArray:
    """Return the probability of each arm to be the best, from independent normal estimates: shape (arms,), sum 1.

    `values` and `variances` of all arms have shape (arms,). `highest`: whether the best value is the highest.
    """
    sign = 1.0 if highest else -1.0  # so that the highest level is the best
    se = np.sqrt(np.maximum(np.asarray(variances, float), 1e-300))
    # More nodes than elsewhere, because the integrand is steep if another arm is known far more precisely.
    nodes, weights = _find_normal_nodes(4 * NODES - 1)
    level = sign * np.asarray(values, float)
    probabilities = np.empty(level.size)
    for arm in range(level.size):
        is_other = np.arange(level.size) != arm
        # The probability that all other arms are below this arm, averaged over its possible levels.
        possible_levels = level[arm] + se[arm] * nodes
        z = (possible_levels[:, None] - level[is_other]) / se[is_other]
        others_below = t_below(z, np.inf).prod(axis=1)
        probabilities[arm] = others_below @ weights / weights.sum()
    return np.asarray(probabilities / probabilities.sum())


# ------------------------------------------------------------------ the Bayesian view


@dataclass(frozen=True, slots=True)
class Posterior:
    """Probabilities of the harm after the data, from a sceptical normal prior around no change."""

    p_beyond: float
    """Probability that the harm is larger than the margin."""
    p_better: float
    """Probability that there is no harm."""
    expected_loss: float
    """Mean of max(harm, 0): the average cost of choosing the candidate, in the outcome's unit."""


def find_posterior(harm: float, se: float, margin: float, prior_sd: float) -> Posterior:
    """Compute what to believe of a harm after the data, if before them it was normal around 0 with sd `prior_sd`.

    The estimate is normal around the true harm, with the standard error `se`. The result is shown, and decides nothing.
    All arguments have the outcome's unit. Without a finite estimate or a positive `prior_sd` all results are NaN.
    """
    if not (math.isfinite(harm) and math.isfinite(se) and prior_sd > 0):
        return Posterior(math.nan, math.nan, math.nan)
    weight_of_data = prior_sd**2 / (prior_sd**2 + se**2)
    mean, sd = harm * weight_of_data, math.sqrt(weight_of_data) * se
    if sd <= 0:
        # The harm is known exactly.
        return Posterior(p_beyond=float(mean > margin), p_better=float(mean <= 0), expected_loss=max(mean, 0.0))
    z = mean / sd
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    # Infinite degrees of freedom: probabilities of the normal distribution.
    return Posterior(
        p_beyond=float(t_below((mean - margin) / sd, np.inf)),
        p_better=float(t_below(-z, np.inf)),
        # The mean of a normal variable where it is above 0, and 0 elsewhere.
        expected_loss=sd * (density + z * float(t_below(z, np.inf))),
    )
