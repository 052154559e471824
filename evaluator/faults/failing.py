"""Look for more failures: counts of failures against those expected from the baseline (Poisson likelihood ratios)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evaluator.faults.bursts import find_bursts
from evaluator.faults.grid import FaultGrid
from evaluator.faults.scanning import Scope, choose_scope, sum_from_end
from evaluator.records.arrays import BoolArray, FloatArray

LEAST_SHRINKAGE, MOST_SHRINKAGE = 50.0, 5000.0
"""Requests with the mean failure rate of the baseline that are added to each endpoint of it: at least, at most."""
CHANCE_ROOT = 2.0
"""A dispersion above 1 counts from so many of its standard errors on: a smaller one is chance."""
NATS_OF_END = 4.0
"""Log likelihood ratio by which a fault is shown to have ended: one in fifty of those that last looks like that."""
LEAST_CHANCE = 1e-250
"""Smaller probabilities are not computed exactly."""
FEWEST_FAILURES = 3
"""A place with fewer failures is not looked at."""
NOTABLE_ROOT = 2.0
"""The baseline's failures of a slot count as a disturbance of both arms from so many standard errors on."""


def poisson_gain(count: FloatArray, expected: FloatArray) -> FloatArray:
    """Return the log likelihood ratio of "as many as counted" against "as expected": at least 0, elementwise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(count > 0, count * np.log(count / expected), 0.0)
    return np.asarray(logs - count + expected)


def step_gains(count: FloatArray, expected: FloatArray, n: FloatArray) -> FloatArray:
    """Return the log likelihood ratio of a rise of the failure rate since each bucket; all of shape (buckets,)."""
    exposed = sum_from_end(n)
    rise = np.maximum(sum_from_end(count - expected), 0.0) / np.maximum(exposed, 1e-12)
    failed = np.flatnonzero(count)  # the others only count in the sums
    after = failed >= np.arange(count.size)[:, None]
    logs = np.log1p(rise[:, None] * (n / expected)[failed])
    return np.asarray((np.where(after, logs, 0.0) * count[failed]).sum(axis=1) - rise * exposed)


def rate_gain(count: FloatArray, expected: FloatArray, control: FloatArray) -> FloatArray:
    """Return the log likelihood ratio of "a higher rate than the control", elementwise; 0 where it is not higher.

    `control`: failures of the baseline. `expected` is as uncertain as they are few: both are `control` times a constant
    that is known.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (count + control) / (expected + control)  # of both together to what is expected
        gain = poisson_gain(count, expected * ratio) + poisson_gain(control, control * ratio)
        return np.where((count > expected) & (expected > 0), gain, 0.0)


def find_surprise(count: FloatArray, expected: FloatArray, control: FloatArray) -> FloatArray:
    """Return minus the logarithm of the probability of so many failures or more, elementwise.

    Given the sum of both, the count is binomial if neither has a higher rate (Przyborowski and Wilenski 1940).
    `control` need not be whole: the binomial tail is an incomplete beta function. 0 where no more than expected fail.
    """
    from scipy.special import betainc  # slow to import, and most verdicts need no fault

    surprise = rate_gain(count, expected, control)
    more = np.flatnonzero(surprise)
    of_more, control_of_more = (np.broadcast_to(values, surprise.shape).ravel()[more] for values in (count, control))
    share = (expected / (expected + control)).ravel()[more]
    chance = betainc(of_more, control_of_more + 1, share)
    surprise.ravel()[more] = np.where(
        chance > LEAST_CHANCE, -np.log(np.maximum(chance, LEAST_CHANCE)), surprise.ravel()[more]
    )
    return surprise


@dataclass(frozen=True, slots=True)
class FailureModel:
    """Failures of the candidate and what the baseline lets expect; arrays of shape (endpoints, instances, slots)."""

    n: FloatArray
    failures: FloatArray
    expected: FloatArray
    control: FloatArray
    """Failures of the baseline from which they are expected, shape (endpoints,)."""
    slot_s: int

    def find_scope(self, *, given: bool) -> Scope | None:
        """Find where and since when failures are most unlikely; see `choose_scope`."""
        gains = [self._find_gains(axes) for axes in ((), (1,), (0,), (0, 1))]
        return choose_scope(gains, self.find_dispersion, slot_s=self.slot_s, given=given)

    def _find_gains(self, axes: tuple[int, ...]) -> FloatArray:
        """Return how surprising the failures of each place since each slot are; `axes` are added up before.

        It is 0 for a place with few failures: it would not be shown, and most of many places have few.
        """
        count, expected = (
            values.sum(axis=axes, keepdims=True) if axes else values for values in (self.failures, self.expected)
        )
        gains = np.zeros_like(count)
        control = np.broadcast_to(self.control.sum() if 0 in axes else self.control[:, None], count.shape[:2])
        looked_at = count.sum(axis=-1) >= FEWEST_FAILURES
        gains[looked_at] = find_surprise(
            sum_from_end(count[looked_at]), sum_from_end(expected[looked_at]), control[looked_at][:, None]
        )
        return gains

    def find_dispersion(self, scope: Scope) -> float:
        """Find how much more the failures of a scope vary over time than a steady rate does; see `find_dispersion`."""
        return find_dispersion(
            *(scope.pick(values).sum(axis=(0, 1))[scope.slot :] for values in (self.failures, self.expected, self.n))
        )

    def measure(self, scope: Scope) -> float:
        """Return the rise of the failure rate of a scope since its slot; 0 without requests."""
        count, expected, n = (
            float(scope.pick(values)[..., scope.slot :].sum()) for values in (self.failures, self.expected, self.n)
        )
        return (count - expected) / n if n else 0.0

    def profile(self, scope: Scope, *, over: str) -> FailureProfile:
        """Compare the units of a scope since its slot: its endpoints or its instances (`over`)."""
        axis = 1 if over == "endpoints" else 0
        control = self.control if over == "endpoints" else np.full(self.n.shape[1], self.control[scope.endpoints].sum())
        wide = scope.widen(over)
        count, expected, n = (
            wide.pick(values)[..., scope.slot :].sum(axis=axis) for values in (self.failures, self.expected, self.n)
        )
        return FailureProfile(count, expected, n, control, self.find_dispersion(scope))


def find_dispersion(count: FloatArray, expected: FloatArray, n: FloatArray) -> float:
    """Find how much more failures vary over time than a steady rate does: at least 1; infinite if they have ended.

    A burst is as much evidence as one failure: what is due to bursts is no persistent fault. All have shape (slots,).
    """
    if count.size < 3 or not n.sum():
        return math.inf
    # A fault that has ended is none that lasts: a rise up to an earlier slot explains the failures better.
    up_to = step_gains(count[::-1], np.maximum(expected[::-1], 1e-12), n[::-1])[::-1]
    end = int(up_to.argmax()) + 1
    if up_to[end - 1] - up_to[-1] > NATS_OF_END * _find_dispersion(count[:end], n[:end]):
        return math.inf
    return _find_dispersion(count, n)


def _find_dispersion(count: FloatArray, exposed: FloatArray) -> float:
    """Find by how much counts of failures vary more than those of a steady rate, shape (slots,); at least 1."""
    mean = exposed * (count.sum() / max(float(exposed.sum()), 1.0))
    used = mean > 0
    slots = max(int(used.sum()) - 1, 1)
    dispersion = float(((count - mean)[used] ** 2 / mean[used]).sum() / slots)
    return dispersion if dispersion > 1 + CHANCE_ROOT * math.sqrt(2 / slots) else 1.0


@dataclass(frozen=True)
class FailureProfile:
    """The failures of each endpoint or instance in each slot since the onset; arrays of shape (units, slots)."""

    count: FloatArray
    expected: FloatArray
    n: FloatArray
    control: FloatArray
    """Shape (units,)."""
    dispersion: float

    @cached_property
    def roots(self) -> FloatArray:
        """Signed roots; see `Profile`. What is due to bursts of one unit counts less there."""
        surprise = find_surprise(self.count.sum(axis=1), self.expected.sum(axis=1), self.control)
        dispersion = np.full(surprise.size, self.dispersion)
        for unit in np.flatnonzero(surprise > self.dispersion * NATS_OF_END):
            dispersion[unit] = max(self.dispersion, self.find_dispersion(np.arange(surprise.size) == unit))
        return np.asarray(np.sqrt(2 * surprise / dispersion))

    @property
    def effects(self) -> FloatArray:
        """Rise of the failure rate of each unit."""
        return np.asarray((self.count - self.expected).sum(axis=1) / np.maximum(self.n.sum(axis=1), 1.0))

    def find_dispersion(self, units: BoolArray) -> float:
        """Find the dispersion of some units together."""
        return find_dispersion(*(values[units].sum(axis=0) for values in (self.count, self.expected, self.n)))

    def contrast(self, members: BoolArray) -> float:
        """Standard errors by which the others' rise is below half of that of `members`.

        Likelihood ratio against the best common value: the others at it, the members at twice of it.
        """
        count, expected, n = (
            np.array([values[members].sum(), values[~members].sum()]) for values in (self.count, self.expected, self.n)
        )
        rise = max(float((count[0] - expected[0]) / max(n[0], 1.0)), 1e-9)
        common = np.geomspace(rise / 100, rise / 2, 40)
        means = expected[:, None] + np.stack([2 * common, common]) * n[:, None]
        gains = poisson_gain(count[:, None], means)
        # Only too many failures of the members and too few of the others speak for a difference.
        gains = np.where(np.array([[1], [-1]]) * (count[:, None] - means) > 0, gains, 0.0)
        return math.sqrt(2 * float(gains.sum(axis=0).min()) / self.dispersion)


def model_failures(grid: FaultGrid) -> FailureModel:
    """Expect the candidate's failures from those of the baseline, by endpoint, and by slot where both are disturbed."""
    n, failures = grid.baseline_n.sum(axis=1), grid.baseline_failures.sum(axis=1)  # (endpoints, slots)
    overall = (failures.sum() + 0.5) / (n.sum() + 1.0)
    shrinkage = _find_shrinkage(n.sum(axis=1), failures.sum(axis=1), overall)
    control = failures.sum(axis=1) + shrinkage * overall
    rate = control / (n.sum(axis=1) + shrinkage)
    surplus = np.zeros(grid.slots)
    if grid.paired:
        usual, counted, total = rate @ n, failures.sum(axis=0), n.sum(axis=0)
        disturbed = (counted > usual) & (np.sqrt(2 * poisson_gain(counted, usual)) >= NOTABLE_ROOT)
        surplus = np.where(disturbed, (counted - usual) / np.maximum(total, 1.0), 0.0)
    steady = ~find_bursts(grid.n, grid.failures)
    n, failures = grid.n * steady, grid.failures * steady
    expected = n * (rate[:, None, None] + surplus)
    return FailureModel(n=n, failures=failures, expected=expected, control=control, slot_s=grid.slot_s)


def _find_shrinkage(n: FloatArray, failures: FloatArray, overall: float) -> float:
    """Find how many requests with the mean failure rate are worth as much as what is known of another endpoint.

    Empirical Bayes (Robbins 1956): rates of endpoints have a gamma distribution, whose variance is found by moments
    from the failures of the baseline, shape (endpoints,). Its upper bound (two standard errors) is used: with few
    endpoints little is known of it, and each is then taken nearly for itself.
    """
    usual = n * overall
    beyond_chance = ((failures - usual) ** 2 - usual).sum()
    error = math.sqrt(float((2 * usual**2 + usual).sum()))
    variance = (beyond_chance + 2 * error) / max(float((n**2).sum()), 1.0)
    return float(np.clip(overall / max(variance, 1e-12), LEAST_SHRINKAGE, MOST_SHRINKAGE))
