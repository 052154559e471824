"""Several questions, one false-alarm rate."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from evaluator.records.arrays import FloatArray

DRAWS = 20_000
SEED = 20180615
CAUTION = 0.1
"""Share by which every correlation is reduced: it is estimated from a dozen cosines and a few instances."""
PLAUSIBLE = 0.5
"""Below this p-value the estimate lies beyond its bound."""
NO_CLAIM = 0.2
"""Above this p-value no adjustment matters, so Holm's is returned, which is larger."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: reject where the adjusted value is below alpha, family-wise.

    Returns the adjusted p-values in the order of `p_values`. A p-value that is not a number counts as 1.

    Source: Holm (1979), Scandinavian Journal of Statistics 6, 65-70.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    clean = [p if p == p else 1.0 for p in p_values]  # noqa: PLR0124 the test for not-a-number
    smallest_first = sorted(range(len(clean)), key=clean.__getitem__)
    adjusted = [1.0] * len(clean)
    highest = 0.0  # an adjusted value is never below that of a smaller p-value
    for rank, i in enumerate(smallest_first):
        highest = max(highest, min(1.0, (len(clean) - rank) * clean[i]))
        adjusted[i] = highest
    return adjusted


def adjust_plausible(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment among the questions whose estimate lies beyond its bound (p < ½), each p doubled; others get 1.

    Most of many endpoints are far within the bound and have p-values near 1. They could not have been answered
    "worse", so they need no correction. Given that it is below ½, the p-value of a question at its bound is uniform
    there, and that of a question within its bound is larger, so twice the p-value is a p-value.

    Source: Zhao, Small & Su (2019), "Multiple testing when many p-values are uniformly conservative", Journal of the
    American Statistical Association 114(527), 1291-1304, conditional Bonferroni with τ = ½. Proven for independent
    questions. In simulations it errs less with positive dependence; with ten questions of the most negative dependence
    that ten can have, it errs in 1.2 instead of 1 %.

    >>> adjust_plausible([0.002, 0.97, 0.9, 0.99, 0.8])
    [0.004, 1.0, 1.0, 1.0, 1.0]
    """
    plausible = [i for i, p in enumerate(p_values) if p < PLAUSIBLE]  # their positions
    adjusted = [1.0] * len(p_values)
    conditional = [p_values[i] / PLAUSIBLE for i in plausible]
    for i, p in zip(plausible, holm(conditional), strict=True):
        adjusted[i] = p
    return adjusted


def adjust(p_values: Sequence[float], loadings: Sequence[tuple[float, ...]]) -> list[float]:
    """Step-down adjustment by the joint distribution of the estimates' errors (max-t); never above Holm's.

    Metrics of one service move together, so Holm's bound, which is exact only when they do not, is too strict. The
    errors are taken as jointly normal, with every correlation reduced by `CAUTION`.

    Args:
        p_values: One for each question; NaN counts as 1.
        loadings: The components of the error of each question, one tuple for each. The sum of products of two tuples is
            the correlation of their errors; a question with fewer components than others counts as uncorrelated.

    Returns:
        The adjusted p-values, in the order of the questions.

    Source: Westfall & Young (1993), "Resampling-Based Multiple Testing", step-down maxT; Hothorn, Bretz & Westfall
    (2008), Biometrical Journal 50, 346-363.
    """
    by_holm = holm(p_values)
    # Positions of the questions whose correlations are known.
    longest = max((len(components) for components in loadings), default=0)
    correlated = [i for i, components in enumerate(loadings) if longest and len(components) == longest]
    if len(correlated) < 2 or min(p_values) > NO_CLAIM:
        return by_holm  # nothing to gain: no correlation is known, or no p-value is small enough to show anything
    clean = np.array([p if p == p else 1.0 for p in p_values])  # noqa: PLR0124 the test for not-a-number
    # Shape (questions, draws): p-values as they occur together if nothing is worse.
    drawn = _draw_p_values(len(clean), correlated, np.array([loadings[i] for i in correlated]))
    smallest_first = np.argsort(clean, kind="stable")
    by_max_t = np.ones(clean.size)
    highest = 0.0  # an adjusted value is never below that of a smaller p-value
    for rank, i in enumerate(smallest_first):
        if clean[i] > NO_CLAIM:
            break  # all larger p-values keep Holm's
        # Chance that any of the questions not yet rejected shows as small a p-value when nothing is worse.
        not_rejected = smallest_first[rank:]
        joint_p = float((drawn[not_rejected].min(axis=0) <= clean[i]).mean())
        highest = max(highest, joint_p, float(clean[i]))
        by_max_t[i] = highest
    return [min(pair) for pair in zip(by_max_t.tolist(), by_holm, strict=True)]


def _draw_p_values(questions: int, correlated: list[int], loadings: FloatArray) -> FloatArray:
    """Draw p-values of jointly normal errors under "nothing is worse", shape (questions, draws).

    Args:
        questions: Number of questions.
        correlated: Indices of the questions whose errors are correlated.
        loadings: Components of the errors of these questions, shape (correlated, components). A sum of squares below 1
            leaves a part of the error that is independent of all others.
    """
    from scipy.special import ndtr

    errors = _draw_normals(questions, stream=0).copy()  # independent of each other
    squared_norms = (loadings**2).sum(axis=1)
    common_share = np.clip(squared_norms, 0.0, 1.0) * (1 - CAUTION)  # of the variance of each error
    directions = loadings / np.sqrt(np.maximum(squared_norms, 1e-300))[:, None]
    common = directions @ _draw_normals(loadings.shape[1], stream=1)  # the correlated part, of variance 1
    # Mixed so that the variance of each error stays 1, and `common_share` of it is the correlated part.
    errors[correlated] = (
        np.sqrt(common_share)[:, None] * common + np.sqrt(1 - common_share)[:, None] * errors[correlated]
    )
    return np.asarray(ndtr(-errors))


@lru_cache(maxsize=8)
def _draw_normals(count: int, stream: int) -> FloatArray:
    """Draw standard normal numbers, shape (count, DRAWS): always the same for a stream, so that verdicts are too."""
    return np.random.default_rng((SEED, stream)).standard_normal((count, DRAWS))
