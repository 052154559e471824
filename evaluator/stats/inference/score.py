"""Score tests and intervals of two proportions, which stay valid with zero failures (method B.2, failures by score).

Source: Miettinen & Nurminen (1985), "Comparative analysis of two rates", Statistics in Medicine 4, 213-226, with the
closed form of the restricted maximum likelihood estimate given there (difference) and by its quadratic (ratio).
Counts need not be integers: effective counts, adjusted for the mix of endpoints, are allowed. All arguments are numbers
or arrays that broadcast: `x` failures and `n` requests of the candidate (`_c`) and the baseline (`_b`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evaluator.records.arrays import FloatArray

STEPS = 100
PRECISION = 1e-12
Number = FloatArray | float


def difference_z(x_c: Number, n_c: Number, x_b: Number, n_b: Number, delta: Number) -> FloatArray:
    """Return the score statistic of p_c - p_b = `delta`, in (-1, 1); positive if the data are above `delta`.

    >>> float(difference_z(56, 70, 48, 80, 0.0528).round(2))  # lower 95 % limit of the published example
    1.96
    """
    return _DifferenceTest(x_c, n_c, x_b, n_b).z(np.asarray(delta, float))


class _DifferenceTest:
    """The score test of p_c - p_b at any difference. What does not depend on the difference is computed once."""

    def __init__(self, x_c: Number, n_c: Number, x_b: Number, n_b: Number) -> None:
        self.x_c, self.n_c, self.x_b, self.n_b = (np.asarray(v, dtype=float) for v in (x_c, n_c, x_b, n_b))
        self.total, self.failures = self.n_c + self.n_b, self.x_c + self.x_b
        self.estimate = self.x_c / self.n_c - self.x_b / self.n_b
        self.inflation = self.total / np.maximum(self.total - 1, 1e-12)
        self._triple, self._twice = 3 * self.total, 2 * self.total
        self._by_delta, self._x_b_twice = self.n_c + 2 * self.n_b, 2 * self.x_b

    def z(self, delta: FloatArray) -> FloatArray:
        """Return the statistic at `delta`."""
        p_b0, p_c0 = self.restricted(delta)
        variance = (p_c0 * (1 - p_c0) / self.n_c + p_b0 * (1 - p_b0) / self.n_b) * self.inflation
        return _standardised(self.estimate - delta, variance)

    def restricted(self, delta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return p_b and p_c with the maximum likelihood under p_c - p_b = `delta`."""
        l2 = self._by_delta * delta - self.total - self.failures
        l1 = (self.n_b * delta - self.total - self._x_b_twice) * delta + self.failures
        l0 = self.x_b * delta * (1 - delta)
        # Written in thirds of l2 / l3, the cubic is precise also for counts of 1e9.
        third = l2 / self._triple
        q = third * third * third - third * l1 / self._twice + l0 / self._twice
        p = np.copysign(np.sqrt(np.maximum(third * third - l1 / self._triple, 0.0)), q)
        cube = p * p * p
        ratio = np.divide(q, cube, out=np.zeros_like(q), where=np.abs(p) > 1e-150)
        angle = (np.pi + np.arccos(np.minimum(np.maximum(ratio, -1.0), 1.0))) / 3
        p_b = 2 * p * np.cos(angle) - third
        p_b = np.minimum(np.maximum(p_b, np.maximum(0.0, -delta)), np.minimum(1.0, 1.0 - delta))
        return p_b, np.minimum(np.maximum(p_b + delta, 0.0), 1.0)


def ratio_z(x_c: Number, n_c: Number, x_b: Number, n_b: Number, ratio: Number) -> FloatArray:
    """Return the score statistic of p_c / p_b = `ratio`; positive if the data are above `ratio`."""
    x_c, n_c, x_b, n_b, ratio = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in (x_c, n_c, x_b, n_b, ratio)))
    total = n_c + n_b
    a = total * ratio
    b = -(n_c * ratio + x_c + n_b + x_b * ratio)
    c = x_c + x_b
    p_b = np.clip((-b - np.sqrt(np.maximum(b * b - 4 * a * c, 0.0))) / (2 * a), 0.0, 1.0)
    p_c = np.clip(ratio * p_b, 0.0, 1.0)
    variance = (p_c * (1 - p_c) / n_c + ratio**2 * p_b * (1 - p_b) / n_b) * total / np.maximum(total - 1, 1e-12)
    return _standardised(x_c / n_c - ratio * x_b / n_b, variance)


def one_sample_z(x: Number, n: Number, bound: Number) -> FloatArray:
    """Return the score statistic of one proportion x/n against `bound` (Wilson 1927); positive if it is above."""
    x, n, bound = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in (x, n, bound)))
    return _standardised(x / n - bound, bound * (1 - bound) / n)


def share_variance(share: Number, n: Number) -> FloatArray:
    """Return the binomial variance of a share of `n`; it is never 0, because half an event is added."""
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
    half = critical / (1 + square) * float(np.sqrt(share * (1 - share) / n + square / (4 * n)))
    return (max(middle - half, 0.0) if share > 0 else 0.0), (min(middle + half, 1.0) if share < 1 else 1.0)


def _standardised(difference: FloatArray, variance: FloatArray) -> FloatArray:
    """Difference / sqrt(variance); with variance 0: 0 if there is no difference, else infinite with its sign."""
    se = np.sqrt(np.maximum(variance, 0.0))
    if (se > 0).all():
        return np.asarray(difference / se)
    exact = np.where(np.abs(difference) < 1e-15, 0.0, np.copysign(np.inf, difference))
    return np.asarray(np.where(se > 0, difference / np.where(se > 0, se, 1.0), exact))


def difference_interval(
    x_c: Number, n_c: Number, x_b: Number, n_b: Number, critical: Number
) -> tuple[FloatArray, FloatArray]:
    """Return the lowest and highest p_c - p_b that the score test does not reject at ±`critical`, within [-1, 1].

    >>> low, high = difference_interval(56, 70, 48, 80, 1.959964)
    >>> round(float(low), 4), round(float(high), 4)  # Miettinen-Nurminen, as published
    (0.0528, 0.3382)
    """
    end_sign = _both_ends(x_c, n_c, x_b, n_b, critical)
    target = end_sign * critical
    test = _DifferenceTest(x_c, n_c, x_b, n_b)
    estimate = test.estimate + np.zeros(end_sign.shape)
    # Begin near the result if this brackets it, else at the end of the range.
    parts = [(np.asarray(x, float) + 1) / (np.asarray(n, float) + 2) for x, n in ((x_c, n_c), (x_b, n_b))]
    variance = parts[0] * (1 - parts[0]) / n_c + parts[1] * (1 - parts[1]) / n_b
    wide = np.asarray(critical, float)
    reach = 1.5 * wide * np.sqrt(variance) + wide**2 * (1 / np.asarray(n_c) + 1 / np.asarray(n_b))
    outer = np.clip(estimate - end_sign * reach, -1.0, 1.0)
    at_outer = test.z(outer) - target
    if not (end_sign * at_outer > 0).all():
        outer = np.where(end_sign * at_outer > 0, outer, -end_sign)
        at_outer = test.z(outer) - target
    # At the estimate the statistic is 0: the range of the lower limit ends there, that of the upper one begins there.
    ends, at_ends = (outer, estimate), (at_outer, -target)
    (low, high), (at_low, at_high) = (np.where(end_sign > 0, pair, pair[::-1]) for pair in (ends, at_ends))
    lower, upper = _invert(test.z, low, at_low, high, at_high, target)
    return lower, upper


def _both_ends(*values: Number) -> FloatArray:
    """1 for the lower limit, where the statistic is positive, and -1 for the upper limit (first axis)."""
    shape = np.broadcast_shapes(*(np.shape(value) for value in values))
    return np.stack([np.ones(shape), np.full(shape, -1.0)])


def ratio_interval(
    x_c: Number, n_c: Number, x_b: Number, n_b: Number, critical: Number
) -> tuple[FloatArray, FloatArray]:
    """Return the lowest and highest p_c / p_b that the score test does not reject at ±`critical`, within [0, ∞]."""
    target = _both_ends(x_c, n_c, x_b, n_b, critical) * critical

    def z(log_ratio: FloatArray) -> FloatArray:
        return ratio_z(x_c, n_c, x_b, n_b, np.exp(log_ratio))

    wide = np.full(target.shape, 30.0)
    at_low, at_high = z(np.stack([-wide, wide])) - target
    lower, upper = np.exp(_invert(z, -wide, at_low, wide, at_high, target))
    return np.where(lower < 1e-12, 0.0, lower), np.where(upper > 1e12, np.inf, upper)


def _invert(
    z: Callable[[FloatArray], FloatArray],
    low: FloatArray,
    at_low: FloatArray,
    high: FloatArray,
    at_high: FloatArray,
    target: FloatArray,
) -> FloatArray:
    """Find where the falling function z equals `target` between low and high; an end of the range if it never does.

    `at_low` and `at_high` are z minus the target at the ends. The search is the Pegasus variant of false position
    (Dowell & Jarratt 1972, BIT 12, 503-508), or bisection where this gives no number. Elements that are found do not
    change while the search continues for others.
    """
    above = at_high > 0
    end, at_end = np.where(above, high, low), np.where(above, at_high, at_low)
    last, at_last = np.where(above, low, high), np.where(above, at_low, at_high)
    searching = np.ones(last.shape, dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(STEPS):
            cut = (end * at_last - last * at_end) / (at_last - at_end)
            inside = (cut - end) * (cut - last) < 0
            new = np.where(searching, np.where(inside, cut, (end + last) / 2), last)
            value = z(new) - target
            lowered = np.where(inside, at_end * (at_last / (at_last + value)), at_end)
            crossed = (value > 0) != (at_last > 0)
            end, at_end = np.where(crossed, last, end), np.where(crossed, at_last, lowered)
            last, at_last = new, value
            searching = ~((np.abs(end - last) < PRECISION) | (np.abs(value) < PRECISION))
            if not searching.any():
                break
    return last
