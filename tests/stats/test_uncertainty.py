from __future__ import annotations

import numpy as np
import pytest

from evaluator.stats.inference.student import t_quantile
from evaluator.stats.variance.longrun import time_variance
from evaluator.stats.variance.uncertainty import Uncertainty, replicate_uncertainty, time_only

SERIES = 40_000


def _autoregressive(phi: float, buckets: int, runs: int = 1) -> np.ndarray:
    """Stationary series of variance 1: (SERIES, runs, buckets)."""
    rng = np.random.default_rng(5)
    out = rng.normal(size=(SERIES, runs, buckets))
    for t in range(1, buckets):
        out[..., t] = phi * out[..., t - 1] + np.sqrt(1 - phi**2) * out[..., t]
    return out


def _share_called_worse(estimate: np.ndarray, uncertainty: Uncertainty, alpha: float) -> float:
    return float((uncertainty.p_values(estimate)[0] < alpha).mean())


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.002])
@pytest.mark.parametrize("phi", [0.0, 0.3])
def test_a_claim_that_holds_against_all_bounds_is_not_made_too_often(phi, alpha):
    """40 buckets, as at the first look of an hour; at most alpha, a tenth of it, and three Monte Carlo errors."""
    series = _autoregressive(phi, 40)[:, 0]
    estimate = series.mean(axis=1)
    uncertainty = time_only(time_variance(series - estimate[:, None]))
    assert _share_called_worse(estimate, uncertainty, alpha) <= alpha * 1.1 + 3 * np.sqrt(alpha / SERIES)


def test_a_variance_that_is_known_well_does_not_get_the_quantile_of_few_cosines():
    """The larger variance with the smaller degrees of freedom would be safe too, and detect much less."""
    series = _autoregressive(0.0, 40)[:, 0]
    estimate = series.mean(axis=1)
    time = time_variance(series - estimate[:, None])
    both = Uncertainty(
        np.maximum(time.variance, time.independent)[None, :], np.full((1, SERIES), time.df), np.zeros(SERIES)
    )
    harm = 4 / np.sqrt(40)
    with_time_only, before = (
        _share_called_worse(estimate + harm, uncertainty, 0.002) for uncertainty in (time_only(time), both)
    )
    assert with_time_only > before + 0.1


@pytest.mark.parametrize("shared", [0.0, 0.3], ids=["alike", "replicates that differ"])
def test_replicates_are_not_shown_to_be_worse_too_often(shared):
    """Five replicates of ten buckets; the level of a replicate differs, which only the replicates can show."""
    rng = np.random.default_rng(6)
    series = _autoregressive(0.0, 10, runs=5) + shared * rng.normal(size=(SERIES, 5, 1))
    levels = series.mean(axis=2)
    flat = (series - levels[..., None]).reshape(SERIES, -1)
    mean, uncertainty = replicate_uncertainty(levels, time_variance(flat))
    assert _share_called_worse(mean, uncertainty, 0.01) <= 0.011 + 3 * np.sqrt(0.01 / SERIES)


def test_the_interval_is_the_set_that_is_not_rejected():
    uncertainty = Uncertainty(np.array([[1.0], [4.0]]), np.array([[4.0], [np.inf]]), np.zeros(1))
    assert uncertainty.half_width(0.05)[0] == pytest.approx(max(t_quantile(0.95, 4), 2 * t_quantile(0.95, np.inf)))
    assert uncertainty.p_values(uncertainty.half_width(0.05))[0][0] == pytest.approx(0.05)
    wide, narrow = uncertainty.find_widest(0.05), uncertainty.find_widest(0.001)
    assert (wide.variance[0], wide.df[0]) == (4.0, np.inf)
    assert (narrow.variance[0], narrow.df[0]) == (1.0, 4.0)
    assert wide.half_width == uncertainty.half_width(0.05)


def test_one_more_bound_makes_no_claim_easier():
    uncertainty = Uncertainty(np.array([[1.0, 2.0]]), np.array([[5.0, 5.0]]), np.zeros(2))
    with_bound = uncertainty.also(np.array([9.0, 0.1]))
    assert (with_bound.half_width(0.05) >= uncertainty.half_width(0.05)).all()
    assert with_bound.half_width(0.05)[1] == uncertainty.half_width(0.05)[1]


def test_without_variance_the_sign_decides_and_an_unknown_variance_gives_nan():
    uncertainty = Uncertainty(np.zeros((1, 3)), np.full((1, 3), 4.0), np.zeros(3))
    assert [p.tolist() for p in uncertainty.p_values(np.array([0.1, 0.0, -0.1]))] == [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]
    assert np.isnan(uncertainty.also(np.array([np.nan] * 3)).p_values(np.array([0.1, 0.0, -0.1]))).all()


@pytest.mark.parametrize(("variance", "is_known"), [(-1e-15, True), (-1e-4, False), (-1.0, False)])
def test_a_negative_variance_is_no_certainty(variance, is_known):
    """Only rounding errors may make a variance negative."""
    uncertainty = Uncertainty(np.full((1, 1), variance), np.full((1, 1), 4.0), np.zeros(1))
    p_worse, p_within = uncertainty.p_values(np.array([0.1]))
    assert np.isnan([p_worse, p_within]).all() != is_known
