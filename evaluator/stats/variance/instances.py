"""How much instances of one version differ: the part of the uncertainty that more minutes do not shrink (method B.3).

Each instance is compared with the level of both arms in the same endpoints and time blocks, so an instance that exists
for a part of the run is compared within this part.
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
"""Share of an equal share of requests: an instance with less does not show how instances differ."""

FEWEST_BLOCKS = 3
"""With fewer blocks, all variation counts as variation between instances."""


def find_replicating(requests: FloatArray) -> BoolArray:
    """Find which instances of one arm replicate it (method B.8): at least 30 requests and 5 % of an equal share.

    So names that differ with each request do not count as instances. `requests` has shape (instances,).

    >>> find_replicating(np.array([5000.0, 4000.0, 100.0, 12.0])).tolist()
    [True, True, False, False]
    """
    used = np.count_nonzero(requests)
    equal = requests.sum() / max(used, 1)
    return np.asarray((requests >= FEWEST_REQUESTS) & (requests >= LEAST_SHARE * equal))


@dataclass(frozen=True, slots=True)
class InstanceVariance:
    """Variance of each arm and group, shape (2, ..., groups). It is NaN for an arm with a single instance."""

    variance: FloatArray
    """Variance of the arm's level due to its instances."""
    within: FloatArray
    """The part of it that is variation over time within instances, which the time variance includes as well."""
    effective: FloatArray
    """m = 1 / Σω²: the number of equally busy instances with the same variance."""
    scores: FloatArray
    """Contribution of each instance, shape (instances, ..., groups), baseline's first; the sum of squares over an arm
    is its variance."""

    def of_group(self, group: int) -> InstanceVariance:
        """Return the same for one group, shape (2, ...)."""
        return InstanceVariance(*(getattr(self, name)[..., group] for name in self.__dataclass_fields__))


class InstanceFrame:
    """What all comparisons over the same requests share: how many of them each instance answered, where and when.

    Args:
        rows: Counts of single instances.
        exposure: Denominator of each row (requests, or successes), shape (rows,).
        groups: Which endpoints are compared together.
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
        # With one group, the rows of an instance are adjacent, also those of an instance and block: sums are faster.
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
        # Share of each instance in its arm's requests in each block slot: (groups, instances, slots).
        at = self._by_slot(self.exposure)
        together = np.maximum(self._by_arm(at, axis=1), 1e-300)
        self.share: FloatArray = np.asarray(at / self._of_own_arm(together, axis=1))

    def _of_members(self, values: FloatArray) -> FloatArray:
        """The values (..., rows), with 0 for endpoints in no group."""
        return values if self.outside is None else np.where(self.outside, 0.0, values)

    def _by_arm(self, values: FloatArray | BoolArray, axis: int = -1) -> FloatArray:
        """Sum over the instances of each arm: the axis of the instances becomes one of 2."""
        return np.add.reduceat(values, self.arm_starts, axis=axis, dtype=float)

    def _of_own_arm(self, values: FloatArray, axis: int = -1) -> FloatArray:
        """Give each instance the value of its arm: the axis of 2 becomes one of the instances."""
        return np.take(values, self.rows.instance_arm, axis=axis)

    def _by_instance(self, values: FloatArray) -> FloatArray:
        """Sum to the shape (..., groups, instances)."""
        return _summed(self.key, values, self.shape, self.first_of_instance)

    def _by_slot(self, values: FloatArray) -> FloatArray:
        """Sum to the shape (..., groups, instances, slots)."""
        return _summed(self.at, values, (*self.shape, self.rows.slots), self.first_at)

    def _find_leverage(self) -> FloatArray:
        """Factor 1/(1-h) for an instance that was alone in its arm in a stratum: it pulled the level towards itself."""
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
        """Compute the variance between instances of a rate observed / exposure (method B.3, instances).

        Args:
            observed: Numerator of each row (sum of times, failures, requests below thresholds), shape (..., rows).
            effect: Candidate against baseline, shape (..., groups); it is removed before instances are compared.
            relative: Whether the effect is a factor, and the variance is that of the logarithm; else a difference.
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
            # The deviation is 0 if an instance had no requests.
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
        """Sum over instances of the variance of their own drift, without what all instances of the arm share.

        Shape (..., groups, 2).
        """
        slots = residual.shape[-1]
        if slots < FEWEST_BLOCKS:
            return np.zeros((*residual.shape[:-2], 2))
        u = residual / self._of_own_arm(np.maximum(self._by_arm(base), 1e-300))[..., None]
        own = u - self.share * self._of_own_arm(self._by_arm(u, axis=-2), axis=-2)
        if slots < MIN_BUCKETS:
            # Too few blocks to see dependence: use the variance of independent blocks, which is the smallest possible.
            return self._by_arm(own.var(axis=-1, ddof=1) * slots)
        return self._by_arm((time_scores(own) ** 2).sum(axis=-1) * slots**2)


def _summed(key: IntArray, values: FloatArray, shape: tuple[int, ...], firsts: IntArray | None = None) -> FloatArray:
    """Sum the values (..., rows) of each key, in the shape (..., *shape).

    `firsts`: the first row of each key, if the rows of a key are adjacent; this is faster.
    """
    size, lead = int(np.prod(shape)), values.shape[:-1]
    if firsts is not None:
        out = np.zeros((*lead, size))
        out[..., key[firsts]] = np.add.reduceat(values, firsts, axis=-1)
        return out.reshape(*lead, *shape)
    sums = [np.bincount(key, weights=row, minlength=size) for row in values.reshape(-1, key.size)]
    return np.asarray(sums, float).reshape(*lead, *shape)
