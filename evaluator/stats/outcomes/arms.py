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
LARGEST_DF = 1e6
"""From this number of degrees of freedom on, the standard error counts as known."""


def compare_assignment(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Return the p-value of a χ² test: were units assigned to arms in proportion to `shares` (Fabijan et al. 2019)?

    `counts` are the units of each arm; without any, the result is 0.

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
    """Return the loading of each contrast on the shared baseline, shape (arms,).

    The correlation of two contrasts is the product of their loadings. The arguments are the variances of the levels of
    the baseline and of each candidate.
    """
    total = np.asarray(variances, float) + baseline_variance
    return np.sqrt(np.divide(baseline_variance, total, out=np.zeros_like(total), where=total > 0))


def dunnett_p(t: FloatArray, loadings: FloatArray, df: float, alternative: Alternative = "two-sided") -> FloatArray:
    """Return the p-value of each candidate, adjusted for all of them (Dunnett 1955), shape (arms,).

    Args:
        t: t statistic of each candidate against the baseline, shape (arms,).
        loadings: As `share_of_baseline` returns them, shape (arms,).
        df: Degrees of freedom of the common standard error.
        alternative: `greater`: the candidate's mean is above the baseline's; `less`: it is below.

    >>> loadings = share_of_baseline(1 / 6, np.array([1 / 4, 1 / 5]))
    >>> dunnett_p(np.array([0.85703, 3.69375]), loadings, 12).round(4).tolist()  # Dunnett (1955)
    [0.6201, 0.0058]
    """
    t = np.asarray(t, float)
    sizes = np.abs(t) if alternative == "two-sided" else t if alternative == "greater" else -t
    return np.array([_exceeds(float(size), loadings, df, two_sided=alternative == "two-sided") for size in sizes])


def _exceeds(size: float, loadings: FloatArray, df: float, *, two_sided: bool) -> float:
    """P(the largest statistic > size), integrated over the shared baseline (normal) and standard error (chi)."""
    from scipy.special import chdtri, ndtr

    if not math.isfinite(size):
        return math.nan if math.isnan(size) else (0.0 if size > 0 else 1.0)
    shared, weights = _normal_nodes(NODES)
    # Nodes and masses of sqrt(χ²/df). With normal scores of χ² the integrand is smooth at both ends.
    scales, masses = np.ones(1), np.ones(1)
    if df <= LARGEST_DF:
        scores, masses = _normal_nodes(NODES)
        scales, masses = np.sqrt(chdtri(df, t_below(-scores, np.inf)) / df), masses / masses.sum()
    spread = np.sqrt(np.maximum(1 - loadings**2, 1e-12))
    reach = size * scales[:, None, None]
    centre = loadings * shared[:, None]
    inside = ndtr((reach - centre) / spread)
    if two_sided:
        inside = inside - ndtr((-reach - centre) / spread)
    within = inside.prod(axis=-1) @ (weights / weights.sum())
    return float(np.clip(1 - within @ masses, 0.0, 1.0))


@lru_cache(maxsize=4)
def _normal_nodes(count: int) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights of an integral over a normal variable; cached, because they cost an eigenvalue problem."""
    return np.polynomial.hermite_e.hermegauss(count)


def probabilities_of_best(values: FloatArray, variances: FloatArray, *, highest: bool) -> FloatArray:
    """Return the probability of each arm to be the best, from independent normal estimates: shape (arms,), sum 1.

    `values` and `variances` of all arms have shape (arms,). `highest`: whether the best value is the highest.
    """
    sign = 1.0 if highest else -1.0
    se = np.sqrt(np.maximum(np.asarray(variances, float), 1e-300))
    nodes, weights = _normal_nodes(4 * NODES - 1)
    level = sign * np.asarray(values, float)
    out = np.empty(level.size)
    for arm in range(level.size):
        others = np.arange(level.size) != arm
        points = level[arm] + se[arm] * nodes
        below = t_below((points[:, None] - level[others]) / se[others], np.inf).prod(axis=1)
        out[arm] = below @ weights / weights.sum()
    return np.asarray(out / out.sum())


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
    """Compute the posterior of a harm, estimated as N(harm, se²), with the prior N(0, prior_sd²).

    It is shown, and decides nothing. All arguments have the outcome's unit. Without a finite estimate or a positive
    `prior_sd` all results are NaN.
    """
    if not (math.isfinite(harm) and math.isfinite(se) and prior_sd > 0):
        return Posterior(math.nan, math.nan, math.nan)
    weight = prior_sd**2 / (prior_sd**2 + se**2)
    centre, spread = harm * weight, math.sqrt(weight) * se
    if spread <= 0:
        return Posterior(float(centre > margin), float(centre <= 0), max(centre, 0.0))
    z = centre / spread
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return Posterior(
        p_beyond=float(t_below((centre - margin) / spread, np.inf)),
        p_better=float(t_below(-z, np.inf)),
        expected_loss=spread * (density + z * float(t_below(z, np.inf))),
    )
