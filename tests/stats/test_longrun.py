from __future__ import annotations

import numpy as np
import pytest

from evaluator.stats.inference.student import t_quantile
from evaluator.stats.variance.longrun import cosine_count, cosines, time_variance


def _autoregressive(rng, series, length, phi):
    out = np.empty((series, length))
    out[:, 0] = rng.normal(size=series) / np.sqrt(1 - phi**2)
    for t in range(1, length):
        out[:, t] = phi * out[:, t - 1] + rng.normal(size=series)
    return out


def test_cosines_are_orthonormal_and_blind_to_the_mean():
    basis = cosines(240, 11)
    assert np.allclose(basis @ basis.T, np.eye(11), atol=1e-12)
    assert np.allclose(basis.sum(axis=1), 0, atol=1e-10)


@pytest.mark.parametrize(
    ("length", "phi", "most"),
    [
        pytest.param(240, 0.0, 0.06, id="an hour of independent buckets"),
        pytest.param(240, 0.7, 0.075, id="an hour with memory"),
        pytest.param(60, 0.3, 0.075, id="a minute with memory"),
        pytest.param(20, 0.0, 0.06, id="twenty buckets"),
        pytest.param(8, 0.0, 0.06, id="eight buckets"),
    ],
)
def test_one_sided_size_is_held_under_dependence(length, phi, most):
    series = _autoregressive(np.random.default_rng(11), 4000, length, phi)
    variance = time_variance(series - series.mean(axis=1, keepdims=True))
    t = series.mean(axis=1) / np.sqrt(variance.variance)
    assert (t > t_quantile(0.95, variance.df)).mean() <= most


def test_an_iid_test_would_not_hold_it():
    """The reason for the whole module: with dependence over time, sd/√n gives false alarms."""
    series = _autoregressive(np.random.default_rng(11), 4000, 240, 0.7)
    t = series.mean(axis=1) / (series.std(axis=1) / np.sqrt(240))
    assert (t > t_quantile(0.95, 239)).mean() > 0.2


def test_with_too_few_buckets_the_variance_is_unknown():
    assert np.isnan(time_variance(np.ones((3, 7))).variance).all()


def test_the_least_variance_is_that_of_independent_buckets():
    variance = time_variance(np.tile([1.0, -1.0], 120))
    assert float(variance.variance) == pytest.approx(0, abs=1e-4)
    assert float(variance.independent) == pytest.approx(1 / 239)
    assert variance.variance < variance.independent


def test_more_cosines_with_more_buckets():
    assert [cosine_count(g) for g in (30, 240, 1440)] == [7, 12, 38]
