"""How much instances of the same version differ: the part of the uncertainty that more minutes do not buy (method B.3).

Instances are compared with the level of both arms in the same endpoint and time block, so instances that come and go
are judged on the hours they lived.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluator.stats.longrun import MIN_BUCKETS, time_variance
from evaluator.stats.panel import InstanceRows

__all__ = ["InstanceFrame", "InstanceVariance"]

FEWEST_BLOCKS = 3
"""Below this number of blocks all variation counts as variation between instances."""

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
    scores: FloatArray
    """What each instance adds: their squares sum up to the variance; shape (instances, groups), baseline's first."""


class InstanceFrame:
    """What every comparison over the same requests shares: who answered how many of them, where and when.

    `exposure`: one value per row (requests, or successes). `groups` (groups, endpoints) of 0 and 1.
    """

    def __init__(self, rows: InstanceRows, exposure: FloatArray, groups: FloatArray) -> None:
        self.rows = rows
        group = np.argmax(groups, axis=0)[rows.endpoint]
        self.group = group
        self.member = groups.max(axis=0)[rows.endpoint] > 0
        self.exposure: FloatArray = np.where(self.member, exposure, 0.0)
        self.shape = (groups.shape[0], rows.instance_arm.size)
        self.key: IntArray = np.asarray(group * self.shape[1] + rows.instance)
        self.at = self.key * rows.slots + rows.slot
        # With one group the rows of an instance adjoin, and so do those of an instance and block: sums are quicker.
        self.adjoin = groups.shape[0] == 1
        self.first_of_instance = np.flatnonzero(np.diff(self.key, prepend=-1))
        self.first_at = np.flatnonzero(np.diff(self.at, prepend=-1))
        self.stratum_n = _summed(rows.stratum, self.exposure, (rows.strata,))
        self.n = self._by_instance(self.exposure)
        self.leverage = self._find_leverage()
        self.arms = tuple(rows.instance_arm == arm for arm in (0, 1))
        self.share = self._find_share()

    def _by_instance(self, values: FloatArray) -> FloatArray:
        """Sums (groups, instances)."""
        if not self.adjoin:
            return _summed(self.key, values, self.shape)
        out = np.zeros(self.shape)
        out[0, self.key[self.first_of_instance]] = np.add.reduceat(values, self.first_of_instance)
        return out

    def _by_slot(self, values: FloatArray) -> FloatArray:
        """Sums (groups, instances, slots)."""
        shape = (*self.shape, self.rows.slots)
        if not self.adjoin:
            return _summed(self.at, values, shape)
        out = np.zeros(int(np.prod(shape)))
        out[self.at[self.first_at]] = np.add.reduceat(values, self.first_at)
        return out.reshape(shape)

    def _find_leverage(self) -> FloatArray:
        """1/(1-h) where an instance was its arm's only one in a stratum: it pulled the level towards itself."""
        rows = self.rows
        place = rows.stratum * 2 + rows.arm
        alone = np.bincount(place, weights=self.exposure > 0, minlength=rows.strata * 2)[place] < 2
        if not alone.any():
            return np.ones(self.shape)
        share = self.exposure / np.maximum(self.stratum_n[rows.stratum], 1e-300)
        factor = np.where(alone, 1 / np.maximum(1 - share, 0.05), 1.0)
        summed = self._by_instance(self.exposure * factor)
        return np.asarray(np.divide(summed, self.n, out=np.ones(self.shape), where=self.n > 0))

    def _find_share(self) -> FloatArray:
        """Each instance's share of its arm's requests in every block slot: (groups, instances, slots)."""
        at = self._by_slot(self.exposure)
        for mine in self.arms:
            together = at[:, mine].sum(axis=1, keepdims=True)
            at[:, mine] = np.divide(at[:, mine], together, out=np.zeros_like(at[:, mine]), where=together > 0)
        return at

    def variance(self, observed: FloatArray, effect: FloatArray, *, relative: bool) -> InstanceVariance:
        """Between-instance variance of a rate observed / exposure.

        `observed`: one value per row (sum of times, failures, requests below a threshold). `effect` (groups,):
        candidate against baseline, a factor if `relative`, else a difference; it is taken out before instances are
        compared.
        """
        rows, exposure = self.rows, self.exposure
        shift = np.where(rows.arm == 1, effect[self.group], 1.0 if relative else 0.0)
        adjusted = np.where(self.member, observed / shift if relative else observed - exposure * shift, 0.0)
        level = _summed(rows.stratum, adjusted, (rows.strata,)) / np.maximum(self.stratum_n, 1e-300)
        expected = exposure * level[rows.stratum]
        seen, foreseen = (self._by_instance(values) for values in (adjusted, expected))
        deviation = _deviation(seen, foreseen, self.n, relative=relative) * self.leverage
        residual = self._by_slot(adjusted - expected)
        base = foreseen if relative else self.n
        variance, within, effective, scores = zip(
            *(self._arm(arm, deviation, residual, base) for arm in (0, 1)), strict=True
        )
        return InstanceVariance(
            np.stack(variance), np.stack(within), np.stack(effective), np.concatenate(scores, axis=1).T
        )

    def _arm(
        self, arm: int, deviation: FloatArray, residual: FloatArray, base: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Variance, within-instance part and effective number of one arm, each (groups,); scores of its instances."""
        mine = self.arms[arm]
        n = self.n[:, mine]
        total = n.sum(axis=1)
        omega = n / np.maximum(total, 1e-300)[:, None]
        effective = 1 / np.maximum((omega**2).sum(axis=1), 1e-300)
        freedom = np.where((n > 0).sum(axis=1) < 2, np.nan, 1 - 1 / effective)
        centre = (omega * deviation[:, mine]).sum(axis=1, keepdims=True)
        scores = omega * (deviation[:, mine] - centre) / np.sqrt(freedom)[:, None]
        variance = (scores**2).sum(axis=1)
        within = _within(residual[:, mine], self.share[:, mine], base[:, mine])
        return variance, within / freedom, np.where(total > 0, effective, 0.0), np.nan_to_num(scores)


def _summed(key: IntArray, values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Sum of the values of each key, laid out in `shape`."""
    return np.asarray(np.bincount(key, weights=values, minlength=int(np.prod(shape))), float).reshape(shape)


def _deviation(observed: FloatArray, expected: FloatArray, n: FloatArray, *, relative: bool) -> FloatArray:
    """θ_i of each instance: log ratio, or difference per request; 0 where the instance had no requests."""
    if relative:
        ok = (observed > 0) & (expected > 0)
        return np.log(np.where(ok, observed, 1.0) / np.where(ok, expected, 1.0))
    return np.divide(observed - expected, n, out=np.zeros_like(n), where=n > 0)


def _within(residual: FloatArray, share: FloatArray, base: FloatArray) -> FloatArray:
    """Σ over instances of the variance of their own wandering, freed of what the arm's instances share."""
    slots = residual.shape[-1]
    if slots < FEWEST_BLOCKS:
        return np.zeros(residual.shape[0])
    u = residual / np.maximum(base.sum(axis=1), 1e-300)[:, None, None]
    own = u - share * u.sum(axis=1, keepdims=True)
    if slots < MIN_BUCKETS:  # too few to see dependence: what independent blocks would vary by is the least it can be
        return np.asarray((own.var(axis=-1, ddof=1) * slots).sum(axis=1))
    return np.asarray((time_variance(own).variance * slots**2).sum(axis=1))
