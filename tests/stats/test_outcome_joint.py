"""Correlations of errors of outcomes: by sums, by units, and compared with another implementation of Dunnett's test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluator.judges.multiplicity import adjust
from evaluator.stats.outcomes.joint import Errors, find_loadings, split_by_units, trace_share
from evaluator.stats.outcomes.levels import moments_of


def correlations(loadings):
    rows = np.array(loadings)
    return rows @ rows.T


def make_units(seed=0, sizes=(400, 300)):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, 3)) @ np.array([[1, 0.5, 0.2], [0, 1, 0.6], [0, 0, 1]]) for n in sizes]


def test_sums_and_units_give_the_same_covariance():
    arms = make_units()
    moments = [moments_of(arm) for arm in arms]
    values = {k: tuple(arm[:, k] for arm in arms) for k in range(3)}
    complete = [np.ones(arm.shape[0], bool) for arm in arms]
    weights = [np.outer([-1.0, 1.0], row) for row in np.eye(3)]
    by_sums = [Errors(row) for row in weights]
    by_units = [split_by_units(row, arms, complete) for row in weights]
    expected = correlations(find_loadings(by_sums, moments))
    centred = [arm - arm.mean(axis=0) for arm in arms]
    plain = sum(c.T @ c / c.shape[0] / (c.shape[0] - 1) for c in centred)
    assert expected == pytest.approx(plain / np.sqrt(np.outer(np.diag(plain), np.diag(plain))))
    assert correlations(find_loadings(by_units, moments)) == pytest.approx(expected)
    mixed = [by_sums[0], by_units[1], by_sums[2]]
    assert correlations(find_loadings(mixed, moments, values)) == pytest.approx(expected)


def test_without_values_sums_and_units_share_nothing():
    arms = make_units()
    moments = [moments_of(arm) for arm in arms]
    complete = [np.ones(arm.shape[0], bool) for arm in arms]
    weights = [np.outer([-1.0, 1.0], row) for row in np.eye(3)]
    mixed = [Errors(weights[0]), split_by_units(weights[1], arms, complete), Errors(weights[2]), None]
    rows = find_loadings(mixed, moments)
    assert rows[3] == ()
    correlation = correlations(rows[:3])
    assert correlation[0, 1] == correlation[1, 2] == 0
    assert correlation[0, 2] == pytest.approx(correlations(find_loadings([mixed[0], mixed[2]], moments))[0, 1])


def test_the_same_question_twice_is_one_question():
    arms = make_units()
    weights = np.outer([-1.0, 1.0], [1.0, 0, 0])
    rows = find_loadings([Errors(weights), Errors(2 * weights), Errors(0 * weights)], [moments_of(a) for a in arms])
    assert correlations(rows) == pytest.approx(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]]))


def test_missing_units_are_left_out_of_what_they_have_no_value_of():
    arms = make_units()
    complete = [np.arange(arm.shape[0]) % 3 > 0 for arm in arms]
    errors = split_by_units(
        np.outer([-1.0, 1.0], [1.0, 0, 0]), [a[k] for a, k in zip(arms, complete, strict=True)], complete
    )
    for arm in (0, 1):
        own = errors.influence[arm]
        assert not own[~complete[arm]].any()
        assert own.sum() == pytest.approx(0, abs=1e-12)
        variance = arms[arm][complete[arm], 0].var() / complete[arm].sum()
        assert float(own @ own) == pytest.approx(variance)


def test_shares_of_rows_are_summed_by_unit():
    values, unit = np.array([1.0, 2.0, 3.0, 2.0, np.nan]), np.array([0, 0, 1, 3, 2])
    own = trace_share(values, 2.0, strict=False, unit=unit, units=4)
    assert own.tolist() == pytest.approx([0.125, -0.1875, 0, 0.0625])
    assert trace_share(values, 2.0, strict=True).tolist() == pytest.approx([0.1875, -0.0625, -0.0625, -0.0625, 0])


@pytest.mark.parametrize("shift", [0.2, 0.35, 0.5])
def test_several_candidates_are_dunnetts(shift):
    """scipy's one-sided many-to-one test, where its p-value decides; ours has a Monte Carlo error of 0.0016 at 0.05."""
    rng = np.random.default_rng(3)
    arms = [rng.normal(10, 2, n) for n in (300, 200, 250, 220)]
    arms[2] += shift
    theirs = stats.dunnett(*arms[1:], control=arms[0], alternative="greater", random_state=1).pvalue
    weights = [np.array([[-1.0], *([float(k == arm)] for k in (1, 2, 3))]) for arm in (1, 2, 3)]
    loadings = find_loadings([Errors(row) for row in weights], [moments_of(arm[:, None]) for arm in arms])
    own = [stats.ttest_ind(arm, arms[0], alternative="greater", equal_var=False).pvalue for arm in arms[1:]]
    assert adjust(own, loadings)[1] == pytest.approx(theirs[1], abs=0.007)
    sizes = [arm.size for arm in arms]
    shared = [np.sqrt(1 / sizes[0] / (1 / sizes[0] + 1 / n)) for n in sizes[1:]]
    off = ~np.eye(3, dtype=bool)
    assert correlations(loadings)[off] == pytest.approx(np.outer(shared, shared)[off], abs=0.05)
