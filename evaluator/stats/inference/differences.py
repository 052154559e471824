"""The difference and the sum of two estimates that are independent of each other, from their intervals."""

from __future__ import annotations

import math
from typing import NamedTuple


class Interval(NamedTuple):
    """An estimate with the ends of its interval, which may be infinite."""

    estimate: float
    lower: float
    upper: float


def subtract(second: Interval, first: Interval) -> Interval:
    """Return `second - first` with an interval of the level that both have; all NaN if an estimate is not finite.

    Zou and Donner (2008), "Construction of confidence limits about effect measures: a general approach", Statistics in
    Medicine 27, 1693-1702, equation 3 (MOVER): the distances of the limits from the estimates are added in quadrature,
    each side by itself, so that intervals which are not symmetric stay so.
    """
    difference = second.estimate - first.estimate
    if not math.isfinite(difference):
        return Interval(math.nan, math.nan, math.nan)
    below = math.hypot(second.estimate - second.lower, first.upper - first.estimate)
    above = math.hypot(second.upper - second.estimate, first.estimate - first.lower)
    return Interval(difference, difference - below, difference + above)


def add(first: Interval, second: Interval) -> Interval:
    """Return `first + second` with an interval of the level that both have; all NaN if an estimate is not finite."""
    return subtract(first, Interval(-second.estimate, -second.upper, -second.lower))


def to_log_ratio(change: float) -> float:
    """Write a relative change as a log ratio; a fall by all is infinite."""
    return math.log1p(change) if change > -1 else -math.inf
