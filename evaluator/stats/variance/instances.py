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

    So names that differ with each request do not count as instances. `requests` are those of each instance, shape
    (instances,); so is the result.

    >>> find_replicating(np.array([5000.0, 4000.0, 100.0, 12.0])).tolist()
    [True, True, False, False]
    """
    equal_share = requests.sum() / max(np.count_nonzero(requests), 1)
    return np.asarray((requests >= FEWEST_REQUESTS) & (requests >= LEAST_SHARE * equal_share))


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
        """Return the variance of one group; the axis of the groups, the last, is dropped."""
        return InstanceVariance(*(getattr(self, name)[..., group] for name in self.__dataclass_fields__))


class InstanceFrame:
    """What all comparisons over the same requests share: how many of them each instance answered, where and when.

    Args:
        rows: Counts of single instances.
        exposure: Denominator of each row (requests, or successes), shape (rows,).
        groups: Which endpoints are compared together.
    """

    def __init__(self, rows: InstanceRows, exposure: FloatArray, groups: Groups) -> None:
        """Compute what does not depend on the compared values: keys of the rows, weights and shares of instances.

        A row holds the counts of one instance, endpoint and block slot (`BLOCK_BUCKETS` buckets of one run). A stratum
        is an endpoint × time block, over both arms.
        """
        self.rows = rows
        # Group of each row. Rows of endpoints in no group (-1) get group 0 and zeros as values, which change no sum.
        group = np.take(groups.of, rows.endpoint)
        self.group = np.maximum(group, 0)
        self.in_no_group = None if (groups.of >= 0).all() else group < 0
        self.exposure: FloatArray = self._zero_outside_groups(exposure)
        self.shape = (groups.count, rows.instance_arm.size)
        self.instance_key: IntArray = np.asarray(self.group * self.shape[1] + rows.instance)
        self.slot_key = self.instance_key * rows.slots + rows.slot
        # With one group, the rows of an instance are adjacent, also those of an instance and block: sums are faster.
        self.has_one_group = groups.count == 1
        self.first_of_instance = self.first_of_slot = None
        if self.has_one_group:
            self.first_of_instance = np.flatnonzero(np.diff(self.instance_key, prepend=-1))
            self.first_of_slot = np.flatnonzero(np.diff(self.slot_key, prepend=-1))
        self.arm_starts = np.searchsorted(rows.instance_arm, (0, 1))
        # Requests of each stratum, of both arms, shape (strata,); of each group and instance, (groups, instances).
        self.stratum_n = _sum_by_key(rows.stratum, self.exposure, (rows.strata,))
        self.n = self._sum_by_instance(self.exposure)
        self.leverage_factor = self._find_leverage()
        self.candidate_exposure: FloatArray = np.where(rows.arm == 1, self.exposure, 0.0)
        # Weight of each instance in the level of its arm, (groups, instances).
        arm_n = self._sum_by_arm(self.n)
        self.weight_in_arm = self.n / self._spread_to_instances(np.maximum(arm_n, 1e-300))
        effective = 1 / np.maximum(self._sum_by_arm(self.weight_in_arm**2), 1e-300)
        # 1 - Σω² (ω: weight in the arm). Squared deviations from the arm's own mean are too small by this factor, so
        # they are divided by it. NaN for a single instance.
        self.mean_correction = np.where(self._sum_by_arm(self.n > 0) < 2, np.nan, 1 - 1 / effective)
        self.effective = np.where(arm_n > 0, effective, 0.0)
        # Share of each instance in its arm's requests in each block slot: (groups, instances, slots).
        slot_n = self._sum_by_slot(self.exposure)
        arm_slot_n = np.maximum(self._sum_by_arm(slot_n, axis=1), 1e-300)
        self.share_of_arm: FloatArray = np.asarray(slot_n / self._spread_to_instances(arm_slot_n, axis=1))

    def _zero_outside_groups(self, values: FloatArray) -> FloatArray:
        """Return the values (..., rows), with 0 in the rows of endpoints that are in no group."""
        return values if self.in_no_group is None else np.where(self.in_no_group, 0.0, values)

    def _sum_by_arm(self, values: FloatArray | BoolArray, axis: int = -1) -> FloatArray:
        """Sum over the instances of each arm: the axis of the instances becomes an axis of the two arms."""
        return np.add.reduceat(values, self.arm_starts, axis=axis, dtype=float)

    def _spread_to_instances(self, values: FloatArray, axis: int = -1) -> FloatArray:
        """Give each instance the value of its arm: the axis of the two arms becomes an axis of the instances."""
        return np.take(values, self.rows.instance_arm, axis=axis)

    def _sum_by_instance(self, values: FloatArray) -> FloatArray:
        """Sum the values (..., rows) of each group and instance: shape (..., groups, instances)."""
        return _sum_by_key(self.instance_key, values, self.shape, self.first_of_instance)

    def _sum_by_slot(self, values: FloatArray) -> FloatArray:
        """Sum the values (..., rows) of each group, instance and block slot: (..., groups, instances, slots)."""
        return _sum_by_key(self.slot_key, values, (*self.shape, self.rows.slots), self.first_of_slot)

    def _find_leverage(self) -> FloatArray:
        """Find the factor by which each instance's deviation appears too small, shape (groups, instances).

        An instance is compared with the level of both arms in its strata (endpoint × time block). If it is alone in its
        arm in a stratum, it pulls this level towards itself: with a share h of the requests, the factor is 1 / (1 - h).
        The factor of an instance is the mean over its requests.
        """
        rows = self.rows
        stratum_and_arm = rows.stratum * 2 + rows.arm
        instances = np.bincount(stratum_and_arm, weights=self.exposure > 0, minlength=rows.strata * 2)
        if not (instances == 1).any():
            return np.ones(self.shape)
        is_alone = instances[stratum_and_arm] == 1
        share = self.exposure / np.maximum(self.stratum_n[rows.stratum], 1e-300)
        # At most 20: where the other arm has hardly any requests, the stratum shows nothing of the instance.
        factor = np.where(is_alone, 1 / np.maximum(1 - share, 0.05), 1.0)
        weighted = self._sum_by_instance(self.exposure * factor)
        return np.asarray(np.divide(weighted, self.n, out=np.ones(self.shape), where=self.n > 0))

    def variance(self, observed: FloatArray, effect: FloatArray, *, relative: bool) -> InstanceVariance:
        """Compute the variance of each arm's rate due to its instances (method B.3, instances).

        A rate is `observed` / `exposure`, the denominator of the frame. Each instance is compared with the rate of both
        arms in the same endpoints and blocks.

        Args:
            observed: Numerator of each row (sum of times, failures, requests below thresholds), shape (..., rows).
            effect: Candidate against baseline, shape (..., groups); it is removed before instances are compared.
            relative: Whether the effect is a factor, and the variance is that of the logarithm; else a difference.

        Returns:
            For each arm and group the variance, the part of it that is drift, and the effective number of instances;
            and the contribution of each instance.
        """
        rows = self.rows
        # The effect of each row's group; with one group, it is the same for all rows.
        row_effect = effect if self.has_one_group else np.take(effect, self.group, axis=-1)
        if relative:
            without_effect = observed / np.where(rows.arm == 1, row_effect, 1.0)
        else:
            without_effect = observed - self.candidate_exposure * row_effect
        adjusted = self._zero_outside_groups(without_effect)
        # `expected`: what each row would have at the rate of its stratum, over both arms.
        level = _sum_by_key(rows.stratum, adjusted, (rows.strata,)) / np.maximum(self.stratum_n, 1e-300)
        expected = np.take(level, rows.stratum, axis=-1)
        expected *= self.exposure
        residual = self._sum_by_slot(adjusted - expected)  # shape (..., groups, instances, block slots)
        # How much each instance differs from what is expected of it, (..., groups, instances): relative, or as a rate.
        if relative:
            base = self._sum_by_instance(expected)
            total = self._sum_by_instance(adjusted)
            # The deviation is 0 if an instance had no requests.
            has_log = (total > 0) & (base > 0)
            deviation = np.log(np.where(has_log, total, 1.0) / np.where(has_log, base, 1.0))
        else:
            base = self.n
            deviation = np.divide(residual.sum(axis=-1), base, out=np.zeros(residual.shape[:-1]), where=base > 0)
        # An instance is a part of the level that it is compared with, so its deviation appears too small.
        deviation = deviation * self.leverage_factor
        # The part of the variance that is drift over time, corrected like the whole below.
        within = self._find_variance_within(residual, base) / self.mean_correction
        # The arm's level is the mean of its instances with these weights. So each instance moves it by its score: its
        # weight times its deviation from the arm's mean. The variance of the level is the sum of the squares, corrected
        # because deviations from the arm's own mean are too small.
        arm_mean = self._spread_to_instances(self._sum_by_arm(self.weight_in_arm * deviation))
        scores = self.weight_in_arm * (deviation - arm_mean) / self._spread_to_instances(np.sqrt(self.mean_correction))
        variance = self._sum_by_arm(scores**2)
        effective = np.empty_like(variance)
        effective[...] = self.effective
        scores = np.where(np.isnan(scores), 0.0, scores)  # NaN for an arm with a single instance
        return InstanceVariance(
            variance=np.moveaxis(variance, -1, 0),  # the last axis, of arms or instances, becomes the first
            within=np.moveaxis(within, -1, 0),
            effective=np.moveaxis(effective, -1, 0),
            scores=np.moveaxis(scores, -1, 0),
        )

    def _find_variance_within(self, residual: FloatArray, base: FloatArray) -> FloatArray:
        """Return the variance of each arm's level from the drift of its single instances over time, (..., groups, 2).

        The drift that all instances of the arm share is not included.

        Args:
            residual: Deviation of each instance in each block slot, shape (..., groups, instances, slots).
            base: What a deviation of each instance is relative to, shape (..., groups, instances).
        """
        slots = residual.shape[-1]
        if slots < FEWEST_BLOCKS:
            # Drift cannot be seen: all variation counts as variation between instances.
            return np.zeros((*residual.shape[:-2], 2))
        arm_base = self._spread_to_instances(np.maximum(self._sum_by_arm(base), 1e-300))
        drift = residual / arm_base[..., None]  # how much the instance moves the arm's level in each block slot
        arm_drift = self._spread_to_instances(self._sum_by_arm(drift, axis=-2), axis=-2)
        single_drift = drift - self.share_of_arm * arm_drift
        if slots < MIN_BUCKETS:
            # Too few blocks to see dependence: use the variance of independent blocks, which is the smallest possible.
            # The level moves by the sum over slots, so its variance is that of a slot × their number.
            return self._sum_by_arm(single_drift.var(axis=-1, ddof=1) * slots)
        # The squares of the scores sum to the variance of the mean over slots; that of the sum is slots² times it.
        return self._sum_by_arm((time_scores(single_drift) ** 2).sum(axis=-1) * slots**2)


def _sum_by_key(
    key: IntArray, values: FloatArray, shape: tuple[int, ...], firsts: IntArray | None = None
) -> FloatArray:
    """Sum the values (..., rows) of each key: shape (..., *shape).

    Args:
        key: Key of each row, a flat index in `shape`, shape (rows,).
        values: Values of the rows.
        shape: Shape of all keys.
        firsts: The first row of each key, if the rows of a key are adjacent; this is faster. `None`: they are not.
    """
    keys, leading_shape = int(np.prod(shape)), values.shape[:-1]
    if firsts is not None:
        sums = np.zeros((*leading_shape, keys))
        sums[..., key[firsts]] = np.add.reduceat(values, firsts, axis=-1)
        return sums.reshape(*leading_shape, *shape)
    counted = [np.bincount(key, weights=row, minlength=keys) for row in values.reshape(-1, key.size)]
    return np.asarray(counted, float).reshape(*leading_shape, *shape)
