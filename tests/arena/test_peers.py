"""The peers give the same answers as SciPy and statsmodels on the same requests."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, ttest_ind
from statsmodels.stats.proportion import proportions_ztest

from arena import peers
from arena.peers import Minutes, mann_whitney, two_proportions, welch
from evaluator.simulate import SCENARIOS, simulate

MINUTES = 8


@pytest.fixture(scope="module", params=["AA", "errx3", "mean+3%"])
def minutes(request):
    return Minutes.of(simulate(replace(SCENARIOS[request.param], duration_s=60.0 * MINUTES, rate_per_s=10.0), 7))


def so_far(minutes, k):
    return [np.concatenate(side[: k + 1]) for side in minutes.times_ms]


def looks():
    return range(peers.FIRST_MINUTE - 1, MINUTES)


def test_minutes_hold_every_request(minutes):
    assert minutes.n.shape == (2, MINUTES)
    assert [sum(part.size for part in side) for side in minutes.times_ms] == minutes.ok.sum(axis=1).tolist()
    assert minutes.sum_ms.sum() == pytest.approx(sum(part.sum() for part in so_far(minutes, MINUTES)))


def test_mann_whitney_agrees_with_scipy(minutes):
    expect = [
        mannwhitneyu(c, b, alternative="greater", method="asymptotic").pvalue < peers.ALPHA
        for b, c in (so_far(minutes, k) for k in looks())
    ]
    assert mann_whitney(minutes)[peers.FIRST_MINUTE - 1 :].tolist() == expect


def test_rank_sum_with_ties_agrees_with_scipy():
    rng = np.random.default_rng(3)
    b, c = rng.integers(0, 9, 400), rng.integers(0, 10, 300)
    counts = np.array([np.bincount(side, minlength=10) for side in (b, c)], dtype=float)
    expect = mannwhitneyu(c, b, alternative="greater", method="asymptotic").pvalue
    assert peers._rank_sum_p(counts) == pytest.approx(expect, rel=1e-9)


def test_welch_agrees_with_scipy(minutes):
    expect = [
        ttest_ind(c, b, equal_var=False, alternative="greater").pvalue < peers.ALPHA
        for b, c in (so_far(minutes, k) for k in looks())
    ]
    assert welch(minutes)[peers.FIRST_MINUTE - 1 :].tolist() == expect


def test_two_proportions_agrees_with_statsmodels(minutes):
    n, x = minutes.n.cumsum(axis=1), minutes.failures.cumsum(axis=1)
    expect = [proportions_ztest(x[::-1, k], n[::-1, k], alternative="larger")[1] < peers.ALPHA for k in looks()]
    assert two_proportions(minutes)[peers.FIRST_MINUTE - 1 :].tolist() == expect


def test_kayenta_flags_a_candidate_that_is_twice_as_slow_and_not_an_equal_one():
    slow = np.tile(np.linspace(90, 110, MINUTES), (2, 1)) * np.array([[1.0], [2.0]])
    assert peers._kayenta(slow).tolist() == [k + 1 >= peers.FIRST_MINUTE for k in range(MINUTES)]
    assert not peers._kayenta(slow[[0, 0]]).any()


def test_no_look_is_before_the_first_minute():
    flagged = peers._sum_up(np.array([True] * 4 + [False, False, True]))
    assert (flagged.horizon, flagged.first_minute) == (True, 7)
    assert peers._sum_up(np.zeros(7, dtype=bool)).first_minute is None
