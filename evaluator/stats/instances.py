"""How much instances of the same version differ: the part of the uncertainty that more minutes do not buy (method B.3).

Instances are compared with the level of both arms in the same endpoint and time block, so instances that come and go
are judged on the hours they lived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluator.stats.longrun import MIN_BUCKETS, time_variance
from evaluator.stats.panel import InstanceRows

__all__ = ["InstanceVariance", "instance_variance"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class InstanceVariance:
    """Per arm and group, shape (2, groups). NaN variance: the arm has one instance only, nothing can be said."""

    variance: FloatArray
    """Variance of the arm's level due to its instances."""
    within: FloatArray
    """The part of it that is variation over time within instances, and so is in the time variance as well."""
    effective: FloatArray
    """m = 1 / Σω²: the number of equally busy instances that the arm is worth."""


def instance_variance(
    rows: InstanceRows,
    observed: FloatArray,
    exposure: FloatArray,
    groups: FloatArray,
    effect: FloatArray,
    *,
    relative: bool,
) -> InstanceVariance:
    """Between-instance variance of a rate observed / exposure.

    `observed`, `exposure`: one value per row (sum of times and successes; failures and requests; requests below a
    threshold and requests). `effect` (groups,): candidate against baseline, a factor if `relative`, else a
    difference; it is taken out before instances are compared.
    """
    group_count = groups.shape[0]
    group = np.argmax(groups, axis=0)[rows.endpoint]
    member = groups.max(axis=0)[rows.endpoint] > 0
    shift = np.where(rows.arm == 1, effect[group], 1.0 if relative else 0.0)
    adjusted = observed / shift if relative else observed - exposure * shift
    weights = np.where(member, exposure, 0.0)
    adjusted = np.where(member, adjusted, 0.0)
    stratum_n = _summed(rows.stratum, weights, (rows.strata,))
    stratum_level = _summed(rows.stratum, adjusted, (rows.strata,)) / np.maximum(stratum_n, 1e-300)
    expected = weights * stratum_level[rows.stratum]
    count = rows.instance_arm.size
    key = group * count + rows.instance
    shape = (group_count, count)

    def per_instance(values: FloatArray) -> FloatArray:
        return _summed(key, values, shape)

    n = per_instance(weights)
    deviation = _deviation(per_instance(adjusted), per_instance(expected), n, relative=relative)
    deviation *= _leverage(rows, weights, stratum_n, per_instance, n)
    base = per_instance(expected) if relative else n
    at = key * rows.slots + rows.slot
    residual = _summed(at, adjusted - expected, (*shape, rows.slots))
    exposure_at = _summed(at, weights, (*shape, rows.slots))
    parts = [_arm(deviation, residual, exposure_at, n, base, rows.instance_arm == arm) for arm in (0, 1)]
    return InstanceVariance(*(np.stack(part) for part in zip(*parts, strict=True)))


def _summed(key: IntArray, values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Sum of the values of each key, laid out in `shape`."""
    return np.asarray(np.bincount(key, weights=values, minlength=int(np.prod(shape))), float).reshape(shape)


def _deviation(observed: FloatArray, expected: FloatArray, n: FloatArray, *, relative: bool) -> FloatArray:
    """θ_i of each instance: log ratio, or difference per request; 0 where the instance had no requests."""
    if relative:
        ok = (observed > 0) & (expected > 0)
        return np.log(np.where(ok, observed, 1.0) / np.where(ok, expected, 1.0))
    return np.divide(observed - expected, n, out=np.zeros_like(n), where=n > 0)


def _leverage(
    rows: InstanceRows,
    weights: FloatArray,
    stratum_n: FloatArray,
    per_instance: Callable[[FloatArray], FloatArray],
    n: FloatArray,
) -> FloatArray:
    """1/(1-h) where an instance was its arm's only one in a stratum: it pulled the level towards itself."""
    alone = np.bincount(rows.stratum * 2 + rows.arm, weights=weights > 0, minlength=rows.strata * 2)
    share = weights / np.maximum(stratum_n[rows.stratum], 1e-300)
    factor = np.where(alone[rows.stratum * 2 + rows.arm] < 2, 1 / np.maximum(1 - share, 0.05), 1.0)
    summed = per_instance(weights * factor)
    return np.asarray(np.divide(summed, n, out=np.ones_like(n), where=n > 0))


def _arm(
    deviation: FloatArray,
    residual: FloatArray,
    exposure_at: FloatArray,
    n: FloatArray,
    base: FloatArray,
    mine: npt.NDArray[np.bool_],
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Variance, within-instance part and effective number of instances of one arm, each (groups,)."""
    deviation, residual, exposure_at, n, base = (v[:, mine] for v in (deviation, residual, exposure_at, n, base))
    total = n.sum(axis=1)
    omega = n / np.maximum(total, 1e-300)[:, None]
    effective = 1 / np.maximum((omega**2).sum(axis=1), 1e-300)
    freedom = 1 - 1 / effective
    alone = (n > 0).sum(axis=1) < 2
    freedom = np.where(alone, np.nan, freedom)
    centre = (omega * deviation).sum(axis=1, keepdims=True)
    variance = (omega**2 * (deviation - centre) ** 2).sum(axis=1) / freedom
    return variance, _within(residual, exposure_at, base) / freedom, np.where(total > 0, effective, 0.0)


def _within(residual: FloatArray, exposure_at: FloatArray, base: FloatArray) -> FloatArray:
    """Σ over instances of the variance of their own wandering, freed of what the arm's instances share."""
    slots = residual.shape[-1]
    if slots < MIN_BUCKETS:
        return np.zeros(residual.shape[0])
    u = residual / np.maximum(base.sum(axis=1), 1e-300)[:, None, None]
    together = exposure_at.sum(axis=1, keepdims=True)
    share = np.divide(exposure_at, together, out=np.zeros_like(exposure_at), where=together > 0)
    own = u - share * u.sum(axis=1, keepdims=True)
    return np.asarray((time_variance(own).variance * slots**2).sum(axis=1))
