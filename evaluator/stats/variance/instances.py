"""How much instances of the same version differ: the part of the uncertainty that more minutes do not buy (method B.3).

Instances are compared with the level of both arms in the same endpoint and time block, so instances that come and go
are judged on the hours they lived.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluator.records.arrays import BoolArray, FloatArray, IntArray
from evaluator.stats.shaping.groups import Groups
from evaluator.stats.shaping.panel import InstanceRows
from evaluator.stats.variance.longrun import MIN_BUCKETS, time_scores

FEWEST_REQUESTS = 30
LEAST_SHARE = 0.05
"""Of an equal share: what answers less says nothing of how instances differ."""

FEWEST_BLOCKS = 3
"""Below this number of blocks all variation counts as variation between instances."""


def find_replicating(requests: FloatArray) -> BoolArray:
    """Tell which instances of one arm replicate it: those with at least 30 requests and 5 % of an equal share.

    A name that differs with each request is no instance.

    >>> find_replicating(np.array([5000.0, 4000.0, 100.0, 12.0])).tolist()
    [True, True, False, False]
    """
    used = np.count_nonzero(requests)
    equal = requests.sum() / max(used, 1)
    return np.asarray((requests >= FEWEST_REQUESTS) & (requests >= LEAST_SHARE * equal))


@dataclass(frozen=True, slots=True)
class InstanceVariance:
    """Per arm and group, shape (2, ..., groups). NaN variance: the arm has one instance only, nothing can be said."""

    variance: FloatArray
    """Variance of the arm's level due to its instances."""
    within: FloatArray
    """The part of it that is variation over time within instances, and so is in the time variance as well."""
    effective: FloatArray
    """m = 1 / Σω²: the number of equally busy instances that the arm is worth."""
    scores: FloatArray
    """What each instance adds: their squares sum up to the variance; (instances, ..., groups), baseline's first."""

    def of_group(self, group: int) -> InstanceVariance:
        """The same of one group: shape (2, ...)."""
        return InstanceVariance(*(getattr(self, name)[..., group] for name in self.__dataclass_fields__))


class InstanceFrame:
    """What every comparison over the same requests shares: who answered how many of them, where and when.

    `exposure`: one value per row (requests, or successes). `groups`: which endpoints are compared together.
    """

    def __init__(self, rows: InstanceRows, exposure: FloatArray, groups: Groups) -> None:
        self.rows = rows
        group = np.take(groups.of, rows.endpoint)
        self.group = np.maximum(group, 0)
        self.outside = None if (groups.of >= 0).all() else group < 0
        self.exposure: FloatArray = self._of_members(exposure)
        self.shape = (groups.count, rows.instance_arm.size)
        self.key: IntArray = np.asarray(self.group * self.shape[1] + rows.instance)
        self.at = self.key * rows.slots + rows.slot
        # With one group the rows of an instance adjoin, and so do those of an instance and block: sums are quicker.
        self.adjoin = groups.count == 1
        self.first_of_instance, self.first_at = (
            np.flatnonzero(np.diff(key, prepend=-1)) if self.adjoin else None for key in (self.key, self.at)
        )
        self.arm_starts = np.searchsorted(rows.instance_arm, (0, 1))
        self.stratum_n = _summed(rows.stratum, self.exposure, (rows.strata,))
        self.n = self._by_instance(self.exposure)
        self.leverage = self._find_leverage()
        self.candidate: FloatArray = np.where(rows.arm == 1, self.exposure, 0.0)
        total = self._by_arm(self.n)
        self.omega = self.n / self._of_own_arm(np.maximum(total, 1e-300))
        effective = 1 / np.maximum(self._by_arm(self.omega**2), 1e-300)
        self.freedom = np.where(self._by_arm(self.n > 0) < 2, np.nan, 1 - 1 / effective)
        self.effective = np.where(total > 0, effective, 0.0)
        # Each instance's share of its arm's requests in every block slot: (groups, instances, slots).
        at = self._by_slot(self.exposure)
        together = np.maximum(self._by_arm(at, axis=1), 1e-300)
        self.share: FloatArray = np.asarray(at / self._of_own_arm(together, axis=1))

    def _of_members(self, values: FloatArray) -> FloatArray:
        """The values (..., rows), 0 for endpoints of no group."""
        return values if self.outside is None else np.where(self.outside, 0.0, values)

    def _by_arm(self, values: FloatArray | BoolArray, axis: int = -1) -> FloatArray:
        """Sums over the instances of either arm: an axis of 2 in place of that of the instances."""
        return np.add.reduceat(values, self.arm_starts, axis=axis, dtype=float)

    def _of_own_arm(self, values: FloatArray, axis: int = -1) -> FloatArray:
        """The value of each instance's arm: an axis of the instances in place of that of 2."""
        return np.take(values, self.rows.instance_arm, axis=axis)

    def _by_instance(self, values: FloatArray) -> FloatArray:
        """Sums (..., groups, instances)."""
        return _summed(self.key, values, self.shape, self.first_of_instance)

    def _by_slot(self, values: FloatArray) -> FloatArray:
        """Sums (..., groups, instances, slots)."""
        return _summed(self.at, values, (*self.shape, self.rows.slots), self.first_at)

    def _find_leverage(self) -> FloatArray:
        """1/(1-h) where an instance was its arm's only one in a stratum: it pulled the level towards itself."""
        rows = self.rows
        cell = rows.stratum * 2 + rows.arm
        present = np.bincount(cell, weights=self.exposure > 0, minlength=rows.strata * 2)
        if not (present == 1).any():
            return np.ones(self.shape)
        alone = present[cell] == 1
        share = self.exposure / np.maximum(self.stratum_n[rows.stratum], 1e-300)
        factor = np.where(alone, 1 / np.maximum(1 - share, 0.05), 1.0)
        summed = self._by_instance(self.exposure * factor)
        return np.asarray(np.divide(summed, self.n, out=np.ones(self.shape), where=self.n > 0))

    def variance(self, observed: FloatArray, effect: FloatArray, *, relative: bool) -> InstanceVariance:
        """Between-instance variance of a rate observed / exposure.

        `observed` (..., rows): sum of times, failures, requests below some thresholds. `effect` (..., groups):
        candidate against baseline, a factor if `relative`, else a difference; it is taken out before instances are
        compared.
        """
        rows = self.rows
        shift = effect if self.adjoin else np.take(effect, self.group, axis=-1)
        alike = observed / np.where(rows.arm == 1, shift, 1.0) if relative else observed - self.candidate * shift
        adjusted = self._of_members(alike)
        level = _summed(rows.stratum, adjusted, (rows.strata,)) / np.maximum(self.stratum_n, 1e-300)
        expected = np.take(level, rows.stratum, axis=-1)
        expected *= self.exposure
        residual = self._by_slot(adjusted - expected)
        if relative:
            base = self._by_instance(expected)
            # 0 where an instance had no requests.
            summed = self._by_instance(adjusted)
            ok = (summed > 0) & (base > 0)
            deviation = np.log(np.where(ok, summed, 1.0) / np.where(ok, base, 1.0))
        else:
            base = self.n
            deviation = np.divide(residual.sum(axis=-1), base, out=np.zeros(residual.shape[:-1]), where=base > 0)
        deviation = deviation * self.leverage
        within = self._within(residual, base)
        centre = self._of_own_arm(self._by_arm(self.omega * deviation))
        scores = self.omega * (deviation - centre) / self._of_own_arm(np.sqrt(self.freedom))
        variance = self._by_arm(scores**2)
        effective = np.empty_like(variance)
        effective[...] = self.effective
        parts = (variance, within / self.freedom, effective, np.where(np.isnan(scores), 0.0, scores))
        last = variance.ndim - 1
        return InstanceVariance(*(part.transpose(last, *range(last)) for part in parts))

    def _within(self, residual: FloatArray, base: FloatArray) -> FloatArray:
        """Σ over instances of the variance of their own drift, freed of what the arm's instances share.

        Shape (..., groups, 2).
        """
        slots = residual.shape[-1]
        if slots < FEWEST_BLOCKS:
            return np.zeros((*residual.shape[:-2], 2))
        u = residual / self._of_own_arm(np.maximum(self._by_arm(base), 1e-300))[..., None]
        own = u - self.share * self._of_own_arm(self._by_arm(u, axis=-2), axis=-2)
        if slots < MIN_BUCKETS:
            # Too few to see dependence: what independent blocks would vary by is the least it can be.
            return self._by_arm(own.var(axis=-1, ddof=1) * slots)
        return self._by_arm((time_scores(own) ** 2).sum(axis=-1) * slots**2)


def _summed(key: IntArray, values: FloatArray, shape: tuple[int, ...], firsts: IntArray | None = None) -> FloatArray:
    """Sum of the values (..., rows) of each key, in the shape (..., *shape).

    `firsts`: the first row of each key, where rows of one key adjoin; that is quicker.
    """
    size, lead = int(np.prod(shape)), values.shape[:-1]
    if firsts is not None:
        out = np.zeros((*lead, size))
        out[..., key[firsts]] = np.add.reduceat(values, firsts, axis=-1)
        return out.reshape(*lead, *shape)
    sums = [np.bincount(key, weights=row, minlength=size) for row in values.reshape(-1, key.size)]
    return np.asarray(sums, float).reshape(*lead, *shape)
