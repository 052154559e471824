"""Exact bounds of quantiles by ranks: published tables, and samples with a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from evaluator.records import Direction, Margin
from evaluator.stats.estimators.order_statistics import (
    RunTimes,
    _find_interval,
    count_needed,
    find_p_above,
    find_rank_pairs,
    find_sample_quantile,
)
from evaluator.stats.estimators.quantile_pairs import QuantileQuestion

ALPHA = 0.05


@pytest.mark.parametrize(
    ("n", "lower", "confidence"),
    [(6, 1, 0.969), (8, 2, 0.930), (10, 2, 0.979), (15, 4, 0.965), (20, 6, 0.959), (25, 8, 0.957), (30, 10, 0.957)],
)
def test_ranks_of_a_median_have_the_published_confidence(n, lower, confidence):
    """Two-sided confidence of the k-th smallest to the k-th largest value, as in tables of Hahn and Meeker (1991)."""
    pairs = find_rank_pairs(n, 0.5)
    symmetric = np.flatnonzero((pairs.of_x == lower) & (pairs.of_y == n + 1 - lower))
    assert 1 - pairs.error[symmetric[0]] == pytest.approx(confidence, abs=5e-4)


def test_the_needed_numbers_are_those_of_wilks():
    """The largest value is above a quantile with 95 % confidence from 29, 59 and 299 values on (Wilks 1941)."""
    assert [count_needed(p, 0.05) for p in (0.9, 0.95, 0.99)] == [29, 59, 299]
    assert [count_needed(p, alpha) for p, alpha in ((0.5, 0.05), (0.5, 0.01), (0.05, 0.05))] == [6, 8, 59]


@pytest.mark.parametrize(("n", "probability"), [(5, 0.5), (6, 0.5), (13, 0.75), (29, 0.5), (70, 0.95), (40, 0.1)])
def test_pairs_are_nested_and_have_the_sum_of_both_errors(n, probability):
    pairs = find_rank_pairs(n, probability)
    assert (np.diff(pairs.of_x) >= 0).all()
    assert (np.diff(pairs.of_y) <= 0).all()
    assert (np.diff(pairs.error) >= 0).all()
    by_hand = binom.cdf(pairs.of_x - 1, n, probability) + binom.sf(pairs.of_y - 1, n, probability)
    assert pairs.error == pytest.approx(by_hand)


def test_a_p_value_is_the_error_of_the_first_pair_that_is_met():
    x, y = np.arange(11.0, 21.0), np.arange(1.0, 11.0)
    assert find_p_above(x, y, 0.5) == pytest.approx(2 * 0.5**10)
    x[0] = 5.5  # the smallest is below the largest of y, the second is not
    assert find_p_above(x, y, 0.5) == pytest.approx(2 * 0.5**10 + 10 * 0.5**10)
    assert find_p_above(y, x, 0.5) == 1.0


def test_ties_are_not_above():
    alike = np.full(10, 7.0)
    assert find_p_above(alike, alike, 0.5) == 1.0
    infinite = np.full(10, np.inf)
    assert find_p_above(infinite, infinite, 0.5) == 1.0
    assert find_p_above(infinite, alike, 0.5) < 0.01


def test_a_sample_quantile_is_a_value_or_the_mean_of_two():
    assert find_sample_quantile(np.array([3.0, 1.0, 2.0]), 0.5) == 2.0
    assert find_sample_quantile(np.array([4.0, 1.0, 2.0, 3.0]), 0.5) == 2.5
    assert find_sample_quantile(np.array([1.0, 2.0, np.inf, np.inf]), 0.5) == np.inf
    assert find_sample_quantile(np.arange(1.0, 11.0), 0.95) == 10.0


def _worst(random, n):
    """Baseline and candidate with equal medians, of which half lies just at the median on the unfavourable side."""
    baseline = np.where(random.random(n) < 0.5, 0.0, 1.0 + 1e-6)
    candidate = np.where(random.random(n) < 0.5, 1.0 - 1e-6, 2.0)
    return baseline, candidate


DRAWS = {
    "heavy tails": lambda random, n: tuple(random.pareto(1.1, (2, n))),
    "integers": lambda random, n: tuple(random.poisson(3, (2, n)).astype(float)),
    "unlike shapes": lambda random, n: (random.uniform(0.999, 1.001, n), random.exponential(1 / np.log(2), n)),
    "the worst case": _worst,
}


@pytest.mark.parametrize("n", [5, 8, 10, 15, 20, 29])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))
def test_equal_medians_are_called_different_as_rarely_as_promised(draw, n):
    """Both medians are equal, so that "above" is wrong. 400 samples: 8.3 % is three standard errors above 5 %."""
    random = np.random.default_rng(n)
    wrong = [
        find_p_above(candidate, baseline, 0.5) < ALPHA for baseline, candidate in (draw(random, n) for _ in range(400))
    ]
    assert np.mean(wrong) <= 0.083


def test_the_worst_case_uses_up_what_is_promised():
    """So the bound is not wider than needed: 2 and 9 of ten are exceeded in 2.1 % of the worst samples."""
    random = np.random.default_rng(3)
    samples = (_worst(random, 10) for _ in range(4000))
    wrong = np.mean([find_p_above(candidate, baseline, 0.5) < ALPHA for baseline, candidate in samples])
    assert wrong == pytest.approx(0.0214, abs=0.007)


@pytest.mark.parametrize(
    ("baseline_failures", "candidate_failures", "interval"),
    [
        (0, 10, (np.inf, np.inf)),
        (9, 10, (-1.0, np.inf)),
        (5, 10, (-1.0, np.inf)),
        (0, 8, (0.0, np.inf)),
        (10, 0, (-1.0, -1.0)),
    ],
)
def test_an_interval_claims_nothing_between_failed_requests(baseline_failures, candidate_failures, interval):
    """A failed request is infinitely slow; two of them cannot be compared."""
    times = np.full((2, 10), 100.0)
    times[0, :baseline_failures] = times[1, :candidate_failures] = np.inf
    question = QuantileQuestion(0.5, Margin(0.05), Direction.LOWER)
    assert _find_interval(RunTimes(times, times, lone=True), question, 0.05) == interval
