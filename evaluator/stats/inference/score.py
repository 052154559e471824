"""Score tests and intervals of two proportions, which stay valid with zero failures (method B.2, failures by score).

Source: Miettinen & Nurminen (1985), "Comparative analysis of two rates", Statistics in Medicine 4, 213-226, with the
closed form of the restricted maximum likelihood estimate given there (difference) and by its quadratic (ratio).
Counts need not be integers: effective counts, adjusted for the mix of endpoints, are allowed. All arguments are numbers
or arrays that broadcast: `x` failures and `n` requests of the candidate (`_c`) and the baseline (`_b`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from evaluator.records.arrays import FloatArray

STEPS = 100
"""Most steps of the search for an end of an interval."""
PRECISION = 1e-12
Number: TypeAlias = "FloatArray | float"
"""Numbers or arrays that broadcast."""


def difference_z(x_c: Number, n_c: Number, x_b: Number, n_b: Number, delta: Number) -> FloatArray:
    """Return the score statistic of the hypothesis p_c - p_b = `delta` (Miettinen & Nurminen 1985).

    p are the true failure rates; `x` are failures and `n` requests of candidate (`_c`) and baseline (`_b`). The
    statistic is positive if the data are above `delta`, which is in (-1, 1).

    >>> float(difference_z(56, 70, 48, 80, 0.0528).round(2))  # at the lower end of their example's 95 % interval
    1.96
    """
    return _DifferenceTest(x_c, n_c, x_b, n_b).find_z(np.asarray(delta, float))


class _DifferenceTest:
    """The score test of p_c - p_b at any difference. What does not depend on the difference is computed once."""

    def __init__(self, x_c: Number, n_c: Number, x_b: Number, n_b: Number) -> None:
        """Prepare the test of failures `x` of `n` requests of candidate (`_c`) and baseline (`_b`).

        `inflation` is the small-sample factor N / (N - 1) of Miettinen & Nurminen on the variance.
        """
        self.x_c, self.n_c, self.x_b, self.n_b = (np.asarray(v, dtype=float) for v in (x_c, n_c, x_b, n_b))
        self.total, self.failures = self.n_c + self.n_b, self.x_c + self.x_b
        self.estimate = self.x_c / self.n_c - self.x_b / self.n_b
        self.inflation = self.total / np.maximum(self.total - 1, 1e-12)
        # Coefficients of `find_restricted`, which is called for many differences.
        self._triple_total, self._twice_total = 3 * self.total, 2 * self.total
        self._l2_by_delta, self._twice_x_b = self.n_c + 2 * self.n_b, 2 * self.x_b

    def find_z(self, delta: FloatArray) -> FloatArray:
        """Return the statistic of the hypothesis p_c - p_b = `delta`; positive if the data are above `delta`."""
        p_b, p_c = self.find_restricted(delta)
        variance = (p_c * (1 - p_c) / self.n_c + p_b * (1 - p_b) / self.n_b) * self.inflation
        return _standardise(self.estimate - delta, variance)

    def find_restricted(self, delta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return p_b and p_c with the maximum likelihood under p_c - p_b = `delta`.

        p_b is the root of a cubic l3·p³ + l2·p² + l1·p + l0 with l3 = `total`, in the trigonometric form that Miettinen
        & Nurminen give; the names are theirs.
        """
        l2 = self._l2_by_delta * delta - self.total - self.failures
        l1 = (self.n_b * delta - self.total - self._twice_x_b) * delta + self.failures
        l0 = self.x_b * delta * (1 - delta)
        # Written in thirds of l2 / l3, the cubic is precise also for counts of 1e9.
        third = l2 / self._triple_total
        q = third * third * third - third * l1 / self._twice_total + l0 / self._twice_total
        p = np.copysign(np.sqrt(np.maximum(third * third - l1 / self._triple_total, 0.0)), q)
        cube = p * p * p
        ratio = np.divide(q, cube, out=np.zeros_like(q), where=np.abs(p) > 1e-150)
        angle = (np.pi + np.arccos(np.minimum(np.maximum(ratio, -1.0), 1.0))) / 3
        p_b = 2 * p * np.cos(angle) - third
        # Rounding must not move p_b or p_c out of 0 … 1.
        p_b = np.minimum(np.maximum(p_b, np.maximum(0.0, -delta)), np.minimum(1.0, 1.0 - delta))
        return p_b, np.minimum(np.maximum(p_b + delta, 0.0), 1.0)


def ratio_z(x_c: Number, n_c: Number, x_b: Number, n_b: Number, ratio: Number) -> FloatArray:
    """Return the score statistic of the hypothesis p_c / p_b = `ratio` (Miettinen & Nurminen 1985).

    p are the true failure rates; `x` are failures and `n` requests of candidate (`_c`) and baseline (`_b`). The
    statistic is positive if the data are above `ratio`.
    """
    x_c, n_c, x_b, n_b, ratio = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in (x_c, n_c, x_b, n_b, ratio)))
    total = n_c + n_b
    # With the hypothesis, the likelihood is largest at a root of the quadratic a·p_b² + b·p_b + c.
    a = total * ratio
    b = -(n_c * ratio + x_c + n_b + x_b * ratio)
    c = x_c + x_b
    p_b = np.clip((-b - np.sqrt(np.maximum(b * b - 4 * a * c, 0.0))) / (2 * a), 0.0, 1.0)
    p_c = np.clip(ratio * p_b, 0.0, 1.0)
    variance = (p_c * (1 - p_c) / n_c + ratio**2 * p_b * (1 - p_b) / n_b) * total / np.maximum(total - 1, 1e-12)
    return _standardise(x_c / n_c - ratio * x_b / n_b, variance)


def one_sample_z(x: Number, n: Number, bound: Number) -> FloatArray:
    """Return the score statistic of one proportion x/n against `bound` (Wilson 1927); positive if it is above."""
    x, n, bound = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in (x, n, bound)))
    return _standardise(x / n - bound, bound * (1 - bound) / n)


def share_variance(share: Number, n: Number) -> FloatArray:
    """Return the binomial variance of a `share` of `n` requests or units: that of independent events.

    Half an event and half a non-event are added, so that it is never 0.
    """
    rate = (share * n + 0.5) / (np.asarray(n, float) + 1)
    return np.asarray(rate * (1 - rate) / np.maximum(n, 1e-300))


def wilson_interval(share: float, n: float, critical: float) -> tuple[float, float]:
    """Return the lowest and highest proportion that the one-sample score test does not reject (Wilson 1927).

    `share` of `n` was observed; `critical` is the normal quantile of the test.

    >>> low, high = wilson_interval(15 / 148, 148, 1.959964)
    >>> round(low, 4), round(high, 4)
    (0.0624, 0.1605)
    """
    square = critical**2 / n
    middle = (share + square / 2) / (1 + square)
    half_width = critical / (1 + square) * float(np.sqrt(share * (1 - share) / n + square / (4 * n)))
    # A share of 0 or 1 is an end itself, without rounding errors.
    lowest = max(middle - half_width, 0.0) if share > 0 else 0.0
    highest = min(middle + half_width, 1.0) if share < 1 else 1.0
    return lowest, highest


def _standardise(difference: FloatArray, variance: FloatArray) -> FloatArray:
    """Return difference / sqrt(variance). Where the variance is 0, it is infinite with the sign of the difference.

    Where both are 0, it is 0.
    """
    se = np.sqrt(np.maximum(variance, 0.0))
    if (se > 0).all():
        return np.asarray(difference / se)
    exact = np.where(np.abs(difference) < 1e-15, 0.0, np.copysign(np.inf, difference))
    return np.asarray(np.where(se > 0, difference / np.where(se > 0, se, 1.0), exact))


def difference_interval(
    x_c: Number, n_c: Number, x_b: Number, n_b: Number, critical: Number
) -> tuple[FloatArray, FloatArray]:
    """Return the lowest and highest p_c - p_b that the score test does not reject at ±`critical`, within [-1, 1].

    p are the true failure rates; `x` are failures and `n` requests of candidate (`_c`) and baseline (`_b`).

    >>> low, high = difference_interval(56, 70, 48, 80, 1.959964)
    >>> round(float(low), 4), round(float(high), 4)  # Miettinen-Nurminen, as published
    (0.0528, 0.3382)
    """
    # The first axis of all arrays is the lower and the upper end. At the lower end the statistic is +critical, at the
    # upper end -critical.
    sign = _make_signs_of_ends(x_c, n_c, x_b, n_b, critical)
    target = sign * critical
    test = _DifferenceTest(x_c, n_c, x_b, n_b)
    estimate = test.estimate + np.zeros(sign.shape)
    # The search begins at `outer`, the end of a rough interval around the estimate: 1.5 times that of a normal test,
    # and wider with few requests, where that is too narrow. This only makes the search shorter.
    p_c = (np.asarray(x_c, float) + 1) / (np.asarray(n_c, float) + 2)
    p_b = (np.asarray(x_b, float) + 1) / (np.asarray(n_b, float) + 2)
    variance = p_c * (1 - p_c) / n_c + p_b * (1 - p_b) / n_b
    critical = np.asarray(critical, float)
    half_width = 1.5 * critical * np.sqrt(variance) + critical**2 * (1 / np.asarray(n_c) + 1 / np.asarray(n_b))
    outer = np.clip(estimate - sign * half_width, -1.0, 1.0)
    at_outer = test.find_z(outer) - target
    is_outside = sign * at_outer > 0  # the test rejects at `outer`, so the end is between it and the estimate
    if not is_outside.all():
        outer = np.where(is_outside, outer, -sign)  # the end of the range: -1 for the lower end, 1 for the upper
        at_outer = test.find_z(outer) - target
    # `at_…` is the statistic at a point, minus the target; at the estimate the statistic is 0. The lower end is between
    # `outer` and the estimate, the upper end between the estimate and `outer`.
    is_lower, at_estimate = sign > 0, -target
    low, at_low = np.where(is_lower, outer, estimate), np.where(is_lower, at_outer, at_estimate)
    high, at_high = np.where(is_lower, estimate, outer), np.where(is_lower, at_estimate, at_outer)
    lower, upper = _find_crossing(test.find_z, low, at_low, high, at_high, target)
    return lower, upper


def _make_signs_of_ends(*values: Number) -> FloatArray:
    """Return the sign of the statistic at both ends of an interval, shape (2, …): 1 at the lower, -1 at the upper end.

    The other axes are those of `values`, broadcast.
    """
    shape = np.broadcast_shapes(*(np.shape(value) for value in values))
    return np.stack([np.ones(shape), np.full(shape, -1.0)])


def ratio_interval(
    x_c: Number, n_c: Number, x_b: Number, n_b: Number, critical: Number
) -> tuple[FloatArray, FloatArray]:
    """Return the lowest and highest p_c / p_b that the score test does not reject at ±`critical`, within [0, ∞].

    `x` are failures and `n` requests of candidate (`_c`) and baseline (`_b`).
    """
    target = _make_signs_of_ends(x_c, n_c, x_b, n_b, critical) * critical

    def find_z(log_ratio: FloatArray) -> FloatArray:
        return ratio_z(x_c, n_c, x_b, n_b, np.exp(log_ratio))

    # The logarithm of the ratio is searched for from -30 to 30; a ratio near these ends is 0 or infinite.
    widest = np.full(target.shape, 30.0)
    at_low, at_high = find_z(np.stack([-widest, widest])) - target
    lower, upper = np.exp(_find_crossing(find_z, -widest, at_low, widest, at_high, target))
    return np.where(lower < 1e-12, 0.0, lower), np.where(upper > 1e12, np.inf, upper)


def _find_crossing(
    find_z: Callable[[FloatArray], FloatArray],
    low: FloatArray,
    at_low: FloatArray,
    high: FloatArray,
    at_high: FloatArray,
    target: FloatArray,
) -> FloatArray:
    """Find where the falling function `find_z` equals `target` between low and high; an end if it never does.

    `at_low` and `at_high` are its values at the ends, minus the target. All arrays have the same shape, and each
    element is a search by itself: the Pegasus variant of false position (Dowell & Jarratt 1972, BIT 12, 503-508), or
    bisection where this gives no number. Elements that are found do not change while the search continues for others.
    """
    # The result is between `other` and `last`, the point computed last; `at_…` are the values there, of opposite sign.
    # Where both ends have the same sign, there is no crossing: bisection leads to the end nearest to the target.
    starts_at_low = at_high > 0
    other, at_other = np.where(starts_at_low, high, low), np.where(starts_at_low, at_high, at_low)
    last, at_last = np.where(starts_at_low, low, high), np.where(starts_at_low, at_low, at_high)
    searching = np.ones(last.shape, dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(STEPS):
            # Where the line through both points is 0, if that is between them; else the middle.
            zero_of_line = (other * at_last - last * at_other) / (at_last - at_other)
            inside = (zero_of_line - other) * (zero_of_line - last) < 0
            new = np.where(searching, np.where(inside, zero_of_line, (other + last) / 2), last)
            at_new = find_z(new) - target
            # If the sign changed, the result is between `last` and `new`. Else `other` stays, and Pegasus reduces its
            # value, so that the next line ends nearer to it.
            crossed = (at_new > 0) != (at_last > 0)
            reduced = np.where(inside, at_other * (at_last / (at_last + at_new)), at_other)
            other, at_other = np.where(crossed, last, other), np.where(crossed, at_last, reduced)
            last, at_last = new, at_new
            searching = ~((np.abs(other - last) < PRECISION) | (np.abs(at_new) < PRECISION))
            if not searching.any():
                break
    return last
