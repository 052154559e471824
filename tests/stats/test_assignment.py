from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate

from evaluator.stats.inference.assignment import log_wealth_of_excess, log_wealth_of_ratio


def test_wealth_is_the_ratio_of_two_likelihoods():
    """Beta-binomial over binomial, integrated numerically."""
    x, n, share = 7, 9, 0.4
    above = integrate.quad(lambda p: p**x * (1 - p) ** (n - x), share, 1)[0] / (1 - share)
    expected = math.log(above) - x * math.log(share) - (n - x) * math.log(1 - share)
    assert log_wealth_of_excess(x, n, share) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_an_early_warning_is_rarely_false_for_any_number_of_looks(share):
    rng = np.random.default_rng(4)
    false = 0
    for _ in range(400):
        on_candidate = np.cumsum(rng.random(50) < share)
        false += any(log_wealth_of_excess(int(x), k, share) > math.log(20) for k, x in enumerate(on_candidate, start=1))
    assert false / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_five_against_none_is_a_warning_and_two_against_none_is_not():
    assert log_wealth_of_excess(8, 8, 0.5) > math.log(20) > log_wealth_of_excess(2, 2, 0.5)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.99, 0.01), (0.5, 0.25, 0.25)])
def test_the_sample_ratio_is_rarely_rejected_for_any_number_of_looks(shares):
    rng = np.random.default_rng(4)
    false = 0
    for _ in range(300):
        units = np.cumsum(rng.multinomial(50, shares, size=40), axis=0)
        false += any(log_wealth_of_ratio(row.tolist(), shares) > math.log(1000) for row in units)
    assert false <= 3  # nominal 0.1 %


def test_a_ramp_is_no_mismatch_if_its_phases_are_separate():
    """1 % then 50 %: right in each phase, wrong against either share alone."""
    phases = [([9900, 100], [0.99, 0.01]), ([5000, 5000], [0.5, 0.5])]
    assert sum(log_wealth_of_ratio(counts, shares) for counts, shares in phases) < 0
    assert log_wealth_of_ratio([14_900, 5_100], [0.5, 0.5]) > math.log(1000)


@pytest.mark.parametrize(
    ("counts", "broken"),
    [
        pytest.param([5250, 4750], True, id="2.5 points off among ten thousand"),
        pytest.param([5050, 4950], False, id="half a point off"),
        pytest.param([90, 30], True, id="three to one among a hundred"),
        pytest.param([65, 55], False, id="chance among a hundred"),
    ],
)
def test_a_broken_router_is_detected(counts, broken):
    assert (log_wealth_of_ratio(counts, [0.5, 0.5]) > math.log(1000)) is broken
