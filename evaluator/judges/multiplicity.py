"""Several questions, one false-alarm rate."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from evaluator.records.arrays import FloatArray

DRAWS = 20_000
SEED = 20180615
CAUTION = 0.1
"""Part of every correlation that is not believed: it is estimated from a dozen cosines and a handful of instances."""
PLAUSIBLE = 0.5
"""Below this p-value the estimate lies beyond its bound."""
NO_CLAIM = 0.2
"""Above this p-value no adjustment can matter; Holm's is given, which is larger."""


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

    Of many endpoints most are nowhere near the bound, and their p-values near 1: questions that could not have been
    answered "worse" need not be paid for. Given that it is below ½, the p-value of a question at its bound is uniform
    there, and that of one within its bound larger still, so twice the p-value is a p-value.

    Source: Zhao, Small & Su (2019), "Multiple testing when many p-values are uniformly conservative", Journal of the
    American Statistical Association 114(527), 1291-1304, conditional Bonferroni with τ = ½. Proven for independent
    questions; with positive dependence it errs less, and with ten as negatively dependent as ten can be 1.2 instead of
    1 % (simulated).

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

    `loadings`: what each error is made of; the sum of products of two is their correlation, and lists of other length
    (or none) share nothing. Errors are taken as jointly normal after each p-value is mapped to its normal quantile,
    with a part of every correlation not believed. Metrics of one service move together, so Holm's bound, which is
    exact when they do not, asks for more than its error rate.

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
