"""The difference of two independent estimates."""

import math

import numpy as np
import pytest

from evaluator.stats.inference.differences import Interval, subtract


def test_distances_are_added_in_quadrature_on_each_side():
    # 3 and 4 below, 5 and 12 above
    assert subtract(Interval(10, 7, 15), Interval(2, -10, 6)) == pytest.approx((8, 8 - 5, 8 + 13))


def test_an_end_that_is_not_known_stays_unknown_and_a_value_that_is_no_number_gives_none():
    assert subtract(Interval(1, 0, math.inf), Interval(1, 0, 2)) == (0, -math.sqrt(2), math.inf)
    assert all(map(math.isnan, subtract(Interval(math.inf, 0, math.inf), Interval(1, 0, 2))))


def test_intervals_of_90_percent_stay_intervals_of_90_percent():
    rng = np.random.default_rng(4)
    n, half = 4000, 1.6449
    first, second = rng.normal(0.0, 1.0, n), rng.normal(0.5, 2.0, n)
    covered = 0
    for x, y in zip(first, second, strict=True):
        _, lower, upper = subtract(Interval(y, y - 2 * half, y + 2 * half), Interval(x, x - half, x + half))
        covered += lower <= 0.5 <= upper
    assert 0.885 <= covered / n <= 0.915
