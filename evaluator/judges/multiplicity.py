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

    Source: Holm (1979), Scandinavian Journal of Statistics 6, 65-70. A p-value that is not a number counts as 1.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    clean = [p if p == p else 1.0 for p in p_values]  # noqa: PLR0124 the test for not-a-number
    order = sorted(range(len(clean)), key=clean.__getitem__)
    out = [1.0] * len(clean)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(clean) - rank) * clean[i]))
        out[i] = highest
    return out


def adjust_plausible(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment among the questions whose estimate lies beyond its bound (p < ½), each p doubled.

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
    plausible = [i for i, p in enumerate(p_values) if p < PLAUSIBLE]
    out = [1.0] * len(p_values)
    for i, p in zip(plausible, holm([p_values[i] / PLAUSIBLE for i in plausible]), strict=True):
        out[i] = p
    return out


def adjust(p_values: Sequence[float], loadings: Sequence[tuple[float, ...]]) -> list[float]:
    """Step-down adjustment by the joint distribution of the estimates' errors (max-t); never above Holm's.

    `loadings`: the components of each error. The sum of products of two lists is the correlation of their errors;
    lists shorter than the longest are uncorrelated with all others. Each p-value is mapped to its normal quantile;
    the errors are taken as jointly normal, with every correlation reduced by `CAUTION`. Metrics of one service move
    together, so Holm's bound, which is exact only when they do not, is too strict.

    Source: Westfall & Young (1993), "Resampling-Based Multiple Testing", step-down maxT; Hothorn, Bretz & Westfall
    (2008), Biometrical Journal 50, 346-363.
    """
    bound = holm(p_values)
    size = max((len(row) for row in loadings), default=0)
    shared = [i for i, row in enumerate(loadings) if size and len(row) == size]
    if len(shared) < 2 or min(p_values) > NO_CLAIM:
        return bound
    clean = np.array([p if p == p else 1.0 for p in p_values])  # noqa: PLR0124 the test for not-a-number
    worst = _draw(len(clean), shared, np.array([loadings[i] for i in shared]))
    order = np.argsort(clean, kind="stable")
    out = np.ones(clean.size)
    highest = 0.0
    for rank, i in enumerate(order):
        if clean[i] > NO_CLAIM:
            break
        # Chance that any of the questions not yet rejected shows as small a p-value when nothing is worse.
        joint_p = float((worst[order[rank:]].min(axis=0) <= clean[i]).mean())
        highest = max(highest, joint_p, float(clean[i]))
        out[i] = highest
    return [min(joint, plain) for joint, plain in zip(out.tolist(), bound, strict=True)]


def _draw(count: int, shared: list[int], rows: FloatArray) -> FloatArray:
    """p-values (questions, draws) of jointly normal errors under "nothing is worse"."""
    from scipy.special import ndtr

    own = _normals(count, 0).copy()
    part = np.clip((rows**2).sum(axis=1), 0.0, 1.0) * (1 - CAUTION)
    unit = rows / np.sqrt(np.maximum((rows**2).sum(axis=1, keepdims=True), 1e-300))
    common = unit @ _normals(rows.shape[1], 1)
    own[shared] = np.sqrt(part)[:, None] * common + np.sqrt(1 - part)[:, None] * own[shared]
    return np.asarray(ndtr(-own))


@lru_cache(maxsize=8)
def _normals(count: int, stream: int) -> FloatArray:
    return np.random.default_rng((SEED, stream)).standard_normal((count, DRAWS))
