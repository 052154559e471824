from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.stats.inference.score import difference_interval, difference_z, one_sample_z, ratio_interval, ratio_z

Z95 = 1.959963984540054

# Newcombe (1998), Statistics in Medicine 17, 873-890, Table II, method 5 (Mee) has no N/(N-1); the values below are
# Miettinen-Nurminen's as printed by SAS in Garner (2016), WUSS paper 127, p. 9.
PUBLISHED = [
    pytest.param(56, 70, 48, 80, 0.0528, 0.3382, id="a"),
]


@pytest.mark.parametrize(("x_c", "n_c", "x_b", "n_b", "low", "high"), PUBLISHED)
def test_agrees_with_published_limits(x_c, n_c, x_b, n_b, low, high):
    interval = difference_interval(x_c, n_c, x_b, n_b, Z95)
    assert [round(float(v), 4) for v in interval] == [low, high]


counts = st.tuples(st.integers(0, 300), st.integers(1, 300), st.integers(0, 300), st.integers(1, 300)).map(
    lambda c: (min(c[0], c[1]), c[1], min(c[2], c[3]), c[3])
)


@given(counts)
def test_swapping_the_arms_mirrors_the_interval(c):
    x_c, n_c, x_b, n_b = c
    low, high = difference_interval(x_c, n_c, x_b, n_b, 1.645)
    low_swapped, high_swapped = difference_interval(x_b, n_b, x_c, n_c, 1.645)
    assert low == pytest.approx(-high_swapped, abs=1e-9)
    assert high == pytest.approx(-low_swapped, abs=1e-9)


@given(counts)
def test_the_interval_holds_the_estimate_and_is_where_the_test_turns(c):
    x_c, n_c, x_b, n_b = c
    low, high = (float(v) for v in difference_interval(x_c, n_c, x_b, n_b, 1.645))
    assert low - 1e-9 <= x_c / n_c - x_b / n_b <= high + 1e-9
    if low > -0.999:
        assert float(difference_z(x_c, n_c, x_b, n_b, low)) == pytest.approx(1.645, abs=1e-5)
    if high < 0.999:
        assert float(difference_z(x_c, n_c, x_b, n_b, high)) == pytest.approx(-1.645, abs=1e-5)


@given(counts)
def test_the_restricted_estimate_is_where_the_likelihood_is_highest(c):
    from evaluator.stats.inference.score import _DifferenceTest

    x_c, n_c, x_b, n_b = (np.array([float(v)]) for v in c)
    delta = np.array([0.03])
    p_b, p_c = _DifferenceTest(x_c, n_c, x_b, n_b).find_restricted(delta)

    def log_likelihood(p):
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = [
                x_b * np.log(p),
                (n_b - x_b) * np.log1p(-p),
                x_c * np.log(p + delta),
                (n_c - x_c) * np.log1p(-p - delta),
            ]
        return sum(np.where(np.isnan(term), 0.0, term) for term in terms)

    assert p_c[0] == pytest.approx(p_b[0] + 0.03)
    grid = np.linspace(1e-6, 0.97 - 1e-6, 4001)
    assert log_likelihood(np.clip(p_b, 1e-9, 0.97 - 1e-9))[0] >= log_likelihood(grid).max() - 1e-6


@pytest.mark.parametrize(
    ("x_c", "n_c", "x_b", "n_b"),
    [
        pytest.param(5, 1000, 0, 1000, id="five against none"),
        pytest.param(0, 1000, 0, 1000, id="none at all"),
        pytest.param(3, 1_000_000, 3, 1_000_000, id="three in a million"),
        pytest.param(1_000_000_000, 10**9, 0, 10**9, id="all against none, 1e9"),
        pytest.param(1, 1, 0, 1, id="one request each"),
    ],
)
def test_extreme_counts_give_finite_intervals_on_the_right_side(x_c, n_c, x_b, n_b):
    low, high = (float(v) for v in difference_interval(x_c, n_c, x_b, n_b, 1.645))
    assert -1 <= low <= x_c / n_c - x_b / n_b <= high <= 1
    assert (low > 0) == (x_c >= 5)


def test_zero_against_zero_shrinks_with_the_number_of_requests():
    widths = [float(difference_interval(0, n, 0, n, 1.645)[1]) for n in (100, 10_000, 1_000_000)]
    assert widths[0] > widths[1] > widths[2] > 0


def test_the_size_of_the_test_at_the_margin_is_held_for_rare_failures():
    """Failures at exactly the margin: false alarms in at most 5 % plus three Monte Carlo errors."""
    rng = np.random.default_rng(7)
    x_b, x_c = rng.binomial(20_000, 0.0005, 4000), rng.binomial(2_000, 0.0015, 4000)
    z = difference_z(x_c, 2_000, x_b, 20_000, 0.001)
    assert (z < -1.645).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)


def test_ratio_and_difference_agree_on_no_difference():
    z = [float(f(30, 400, 20, 500, at)) for f, at in ((difference_z, 0.0), (ratio_z, 1.0))]
    assert z[0] == pytest.approx(z[1], rel=1e-9)


def test_ratio_interval_is_where_its_test_turns():
    low, high = (float(v) for v in ratio_interval(30, 400, 20, 500, 1.645))
    assert float(ratio_z(30, 400, 20, 500, low)) == pytest.approx(1.645, abs=1e-6)
    assert float(ratio_z(30, 400, 20, 500, high)) == pytest.approx(-1.645, abs=1e-6)
    assert low < (30 / 400) / (20 / 500) < high


def test_one_sample_score_is_wilson():
    """Wilson's 95 % limits of 10/100 are 0.0552 and 0.1744 (Newcombe 1998, Statistics in Medicine 17, 857-872)."""
    assert float(one_sample_z(10, 100, 0.05523)) == pytest.approx(Z95, abs=1e-3)
    assert float(one_sample_z(10, 100, 0.17437)) == pytest.approx(-Z95, abs=1e-3)


@pytest.mark.parametrize(("interval", "test"), [(difference_interval, difference_z), (ratio_interval, ratio_z)])
def test_limits_computed_together_are_those_computed_alone(interval, test):
    """Easy and hard cases in one search: a limit that is found early does not change."""
    x_c, n_c = np.array([3.0, 56, 0.2, 1e5]), np.array([2e4, 70, 900, 1e9])
    x_b, n_b = np.array([1.0, 48, 0.7, 9e4]), np.array([3e3, 80, 1e4, 1e9])
    low, high = interval(x_c, n_c, x_b, n_b, 1.645)
    alone = [interval(*counts, 1.645) for counts in zip(x_c, n_c, x_b, n_b, strict=True)]
    assert low == pytest.approx([float(bound) for bound, _ in alone], rel=1e-7)
    assert high == pytest.approx([float(bound) for _, bound in alone], rel=1e-7)
    assert test(x_c, n_c, x_b, n_b, low) == pytest.approx(1.645, abs=1e-6)
    assert test(x_c, n_c, x_b, n_b, high) == pytest.approx(-1.645, abs=1e-6)


@pytest.mark.parametrize("interval", [difference_interval, ratio_interval])
def test_of_counts_divided_by_design_effects_one_is_the_widest_on_both_sides(interval):
    """It is the one with the most critical² per request (less one): only that is inverted."""
    rng = np.random.default_rng(5)
    for _ in range(50):
        n_c, n_b = rng.uniform(50, 5000, 2)
        x_c, x_b = n_c * rng.uniform(0, 0.1), n_b * rng.uniform(0, 0.1)
        deff, critical = 1 + rng.exponential(2, 4), rng.uniform(1.6, 3.2, 4)
        low, high = interval(x_c / deff, n_c / deff, x_b / deff, n_b / deff, critical)
        widest = int(np.argmax(critical**2 / ((n_c + n_b) / deff - 1)))
        assert low[widest] == pytest.approx(low.min(), rel=1e-9)
        assert high[widest] == pytest.approx(high.max(), rel=1e-9)
