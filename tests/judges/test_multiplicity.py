from __future__ import annotations

import numpy as np
import pytest

from evaluator.judges.multiplicity import CAUTION, adjust, adjust_plausible, holm


def _correlated(count: int, correlation: float) -> list[tuple[float, ...]]:
    """Loadings of questions that share one part."""
    own = np.eye(count) * np.sqrt(1 - correlation)
    return [(np.sqrt(correlation), *row) for row in own]


def test_uncorrelated_questions_are_adjusted_as_by_holm():
    p = [0.01, 0.02, 0.2, 0.04]
    assert adjust(p, [()] * 4) == holm(p)
    assert adjust(p, [(1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)]) == (
        pytest.approx(holm(p), rel=0.15)
    )


def test_five_equal_questions_are_adjusted_little():
    p = [0.02] * 5
    assert holm(p)[0] == pytest.approx(0.1)
    assert 0.02 <= adjust(p, _correlated(5, 1.0))[0] < 0.06


def test_never_above_holm_and_never_below_the_p_value():
    rng = np.random.default_rng(2)
    for _ in range(20):
        p = rng.uniform(size=6).tolist()
        rows = [tuple(row) for row in rng.normal(size=(6, 8)) / 4]
        adjusted = adjust(p, rows)
        assert all(a <= b + 1e-12 for a, b in zip(adjusted, holm(p), strict=True))
        assert all(a >= b for a, b in zip(adjusted, p, strict=True))
        assert [adjusted[i] for i in np.argsort(p)] == sorted(adjusted)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_family_wise_error_stays_below_alpha(correlation):
    """600 families of five under the null: at most 5 % plus three Monte Carlo errors."""
    rng = np.random.default_rng(8)
    from scipy.special import ndtr

    rows = _correlated(5, correlation)
    z = rng.normal(size=(600, 1)) * np.sqrt(correlation) + rng.normal(size=(600, 5)) * np.sqrt(1 - correlation)
    wrong = [min(adjust(p.tolist(), rows)) < 0.05 for p in ndtr(-z)]
    assert np.mean(wrong) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)


def _error_of_plausible_questions(correlation, within, level, families):
    """Share of families of ten endpoints, two of them at the margin, in which one is shown to be worse."""
    from scipy.special import ndtr

    covariance = np.full((10, 10), correlation) + (1 - correlation) * np.eye(10)
    z = np.random.default_rng(8).multivariate_normal(np.zeros(10), covariance, size=families)
    z[:, 2:] -= within
    return np.mean([min(adjust_plausible(p)) < level for p in ndtr(-z).tolist()])


@pytest.mark.parametrize("within", [0.0, 1.0, 4.0], ids=["all at the margin", "some within", "all but two far within"])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_family_wise_error_of_plausible_questions_stays_below_alpha(correlation, within):
    """At the scan's own 1 %, in 30,000 families: at most that and three Monte Carlo errors."""
    assert _error_of_plausible_questions(correlation, within, 0.01, 30_000) <= 0.01 + 3 * np.sqrt(0.01 / 30_000)


def test_endpoints_that_exclude_each_other_err_a_quarter_more_often():
    """The most negative dependence of ten endpoints, all at the margin: not covered by the proof, so simulated."""
    assert _error_of_plausible_questions(-0.11, 0.0, 0.01, 30_000) <= 0.0125 + 3 * np.sqrt(0.0125 / 30_000)


def test_a_question_far_within_its_margin_adjusts_no_other():
    assert adjust_plausible([0.002, *[0.9] * 50])[0] == pytest.approx(0.004)
    assert adjust_plausible([0.002, *[0.4] * 50])[0] == pytest.approx(0.204)
    assert adjust_plausible([float("nan"), 0.01]) == [1.0, 0.02]
    assert adjust_plausible([]) == []


def test_not_a_number_counts_as_one():
    assert adjust([float("nan"), 0.01], _correlated(2, 0.5))[0] == 1.0


def test_every_correlation_is_reduced():
    assert 0 < CAUTION < 0.5
