"""History pooled with a run: properties for all numbers, and its effect on coverage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.records import InstancePrior, InstanceSpread, Limit, Margin
from evaluator.simulate import Scenario, simulate_cells
from evaluator.stats.estimators.failures import compare_failures
from evaluator.stats.estimators.means import compare_means
from evaluator.stats.estimators.quantile_pairs import QuantileQuestion
from evaluator.stats.estimators.quantiles import compare_quantiles
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.variance.history import (
    LEAST_COMPARISONS,
    MOST_WEIGHT,
    InstanceHistory,
    add_between_arms,
    pool_instances,
)
from evaluator.stats.variance.instances import InstanceVariance
from evaluator.stats.variance.longrun import TimeVariance
from evaluator.stats.variance.uncertainty import choose_design, combine

positive = st.floats(1e-8, 1e2)
sizes = st.floats(1.5, 50)


def history(instance=0.01, count=20, **changes):
    return InstanceHistory(np.array([instance]), count, **changes)


def arms(values):
    return np.array(values, float)[:, None]


@given(st.tuples(positive, positive), st.tuples(sizes, sizes), positive, st.integers(0, 100))
def test_the_pooled_spread_is_between_those_that_are_pooled(variance, effective, instance, count):
    own = [v * m for v, m in zip(variance, effective, strict=True)]
    pooled = pool_instances(arms(variance), arms((0, 0)), arms(effective), history(instance, count))
    each = pooled.variance[:, 0] * np.array(effective)
    assert each[0] == pytest.approx(each[1])
    low, high = min([*own, instance]), max([*own, instance])
    assert low * (1 - 1e-9) <= each[0] <= high * (1 + 1e-9)
    weight = min(count, MOST_WEIGHT) if count >= LEAST_COMPARISONS else 0
    assert pooled.df[0] == pytest.approx(sum(effective) - 2 + weight)


@given(st.tuples(positive, positive), st.tuples(sizes, sizes), positive, st.floats(1e-3, 1e3))
def test_units_of_measurement_do_not_matter(variance, effective, instance, scale):
    plain = pool_instances(arms(variance), arms(variance) / 3, arms(effective), history(instance))
    scaled = pool_instances(
        arms(variance) * scale, arms(variance) * scale / 3, arms(effective), history(instance * scale)
    )
    assert scaled.variance == pytest.approx(plain.variance * scale)
    assert scaled.df == pytest.approx(plain.df)


def test_too_short_a_history_changes_nothing_for_like_arms():
    variance, effective = arms((0.02, 0.02)), arms((4, 4))
    pooled = pool_instances(variance, arms((0, 0)), effective, history(1.0, LEAST_COMPARISONS - 1))
    assert pooled.variance == pytest.approx(variance)
    assert pooled.df.tolist() == [6]


def test_a_single_instance_borrows_from_the_other_arm_and_from_history():
    lone = arms((np.nan, 0.02)), arms((np.nan, 0.0)), arms((1, 4))
    pooled = pool_instances(*lone, history(0.01))
    assert pooled.df.tolist() == [13]
    assert pooled.variance.ravel().tolist() == pytest.approx(np.array([1, 1 / 4]) * (10 * 0.01 + 3 * 0.08) / 13)
    nothing = pool_instances(arms((np.nan, np.nan)), arms((np.nan, np.nan)), arms((1, 1)), history(0.01, 2))
    assert np.isnan(nothing.variance).all()
    assert nothing.df.tolist() == [0]
    alone = pool_instances(arms((np.nan, np.nan)), arms((np.nan, np.nan)), arms((1, 1)), history(0.01))
    assert alone.variance.ravel().tolist() == pytest.approx([0.01, 0.01])


def test_drift_of_this_run_is_added_to_history():
    """History has the persistent part only; the drift of an instance in this run is added to it."""
    still = pool_instances(arms((0.02, 0.02)), arms((0, 0)), arms((4, 4)), history(0.0))
    moving = pool_instances(arms((0.02, 0.02)), arms((0.02, 0.02)), arms((4, 4)), history(0.0))
    assert still.variance[0, 0] == pytest.approx(0.02 * 6 / 16)
    assert moving.variance[0, 0] == pytest.approx(0.02)


@given(positive, st.floats(1, 100), positive, st.integers(LEAST_COMPARISONS, 50))
def test_drift_only_widens(variance, df, drift, count):
    on_file = history(between_arms=np.array([drift]), between_arms_count=count)
    total, freedom, part = add_between_arms(np.array([variance]), np.array([df]), on_file)
    assert total[0] == pytest.approx(variance + drift)
    assert part[0] == drift
    assert min(df, count) * (1 - 1e-9) <= freedom[0] <= (df + count) * (1 + 1e-9)
    single, _, _ = add_between_arms(np.array([variance]), np.array([df]), on_file, arms=1)
    assert single[0] == pytest.approx(variance + drift / 2)


def test_unknown_drift_adds_nothing():
    variance, df = np.array([0.1, 0.0]), np.array([6.0, 6.0])
    for on_file in (history(), history(between_arms=np.array([1.0]), between_arms_count=LEAST_COMPARISONS - 1)):
        widened = add_between_arms(variance, df, on_file)
        assert [part.tolist() for part in widened] == [[0.1, 0.0], [6.0, 6.0], [0.0, 0.0]]
    nothing = add_between_arms(variance, df, history(between_arms=np.zeros(1), between_arms_count=9))
    assert nothing[1].tolist() == [6.0, 6.0]


# ------------------------------------------------------------------ coverage

RUNS = 20_000
"""A share of 90 % is known to ± 0.4 percentage points (95 %)."""
MINUTES_DF = 12.0


def simulate(rng, *, instances, instance_sd, minutes_sd, between_arms_sd):
    """Effects of `RUNS` identical releases, and what each run knows of its own uncertainty."""
    levels = rng.normal(0, instance_sd, (2, instances, RUNS))
    minutes = rng.normal(0, minutes_sd, RUNS)
    effect = levels[1].mean(axis=0) - levels[0].mean(axis=0) + minutes + rng.normal(0, between_arms_sd, RUNS)
    spread = levels.var(axis=1, ddof=1) / instances
    by_cosines = minutes_sd**2 * rng.chisquare(MINUTES_DF, RUNS) / MINUTES_DF
    time = TimeVariance(by_cosines, MINUTES_DF, 0 * by_cosines, 240)
    none = np.zeros((2, RUNS))
    return effect, time, InstanceVariance(spread, none, none + instances, np.zeros((2 * instances, RUNS)))


def with_history(time, observed, on_file):
    return combine(time, observed, np.full((2, RUNS), 0.05**2), history=on_file)


def coverage(effect, uncertainty):
    """Coverage of 90 % intervals, false "worse" at 5 %, and the median half-width."""
    half = uncertainty.half_width(0.05)
    return (np.abs(effect) <= half).mean(), (effect > half).mean(), float(np.median(half))


def learn(rng, count, *, instance_sd, between_arms_sd):
    """History of `count` stored comparisons, each with three degrees of freedom of instances and one of drift."""
    instance = instance_sd**2 * rng.chisquare(3 * count) / (3 * count)
    drift = between_arms_sd**2 * rng.chisquare(count) / count
    return InstanceHistory(np.array([instance]), count, np.array([drift]), count)


@pytest.mark.parametrize("instances", [2, 4])
def test_history_of_instances_narrows_the_interval_and_keeps_its_coverage(instances):
    rng = np.random.default_rng(1)
    effect, time, observed = simulate(rng, instances=instances, instance_sd=0.03, minutes_sd=0.008, between_arms_sd=0.0)
    alone = coverage(effect, combine(time, observed, np.full((2, RUNS), 0.05**2)))
    each = [
        coverage(effect, with_history(time, observed, learn(rng, 12, instance_sd=0.03, between_arms_sd=0.0)))
        for _ in "abcd"
    ]
    covered, worse, half = np.mean(each, axis=0)
    assert 0.88 <= covered <= 0.92
    assert worse <= 0.06
    assert half < (0.8 if instances == 2 else 0.97) * alone[2]


def test_drift_slower_than_the_run_is_covered_with_history_only():
    rng = np.random.default_rng(2)
    effect, time, observed = simulate(rng, instances=4, instance_sd=0.03, minutes_sd=0.008, between_arms_sd=0.03)
    alone = coverage(effect, combine(time, observed, np.full((2, RUNS), 0.05**2)))
    each = [
        coverage(effect, with_history(time, observed, learn(rng, 12, instance_sd=0.03, between_arms_sd=0.03)))
        for _ in "abcdefgh"
    ]
    covered, worse, _ = np.mean(each, axis=0)
    assert alone[0] < 0.8
    assert covered >= 0.88
    assert worse <= 0.06


def test_an_arm_with_one_instance_keeps_the_assumption():
    """It gets no history: the assumption about one machine has few degrees of freedom."""
    time = TimeVariance(np.array([1e-4]), 12.0, np.array([0.0]), 240)
    single = InstanceVariance(
        np.array([[np.nan], [0.01]]), np.zeros((2, 1)), np.array([[1.0], [4.0]]), np.zeros((5, 1))
    )
    prior = np.full((2, 1), 0.05**2)
    alone, helped = (combine(time, single, prior, history=on_file) for on_file in (None, history()))
    assert helped.variance.tolist() == alone.variance.tolist()
    assert helped.df.tolist() == alone.df.tolist()


@pytest.mark.parametrize("margin", [None, Margin(5.0, relative=False)], ids=["log scale", "milliseconds"])
def test_history_reaches_every_metric(margin):
    """With history of instances that differ more than these, every interval is wider, on any scale."""
    panel = build_panel(simulate_cells(replace(Scenario(), duration_s=300.0, instances=(2,)), 1), "canary")
    on_file = InstanceSpread(0.2, 50, 0.1, 50)
    plain, informed = (choose_design(panel, InstancePrior(latency=one, failures=one)) for one in (None, on_file))

    def widths(design):
        options = {"alpha": 0.05, "margin": margin, "limit": Limit(max=300.0)}
        mean = compare_means(panel, design, sd_instance=0.05, **options)
        question = QuantileQuestion(0.95, margin, limit=Limit(max=300.0))
        p95 = compare_quantiles(panel, design, [question], alpha=0.05, sd_instance=0.05)[0].estimate
        rate = compare_failures(panel, design, alpha=0.05, margin=None, sd_instance=0.0005, limit=Limit(max=0.5))
        limits = [one.against_limit[0].p_within[0] for one in (mean, p95, rate)]
        return [*(one.upper[0] - one.lower[0] for one in (mean, p95, rate)), *limits]

    assert all(wide > narrow for wide, narrow in zip(widths(informed), widths(plain), strict=True))


def test_sizes_have_no_history():
    panel = build_panel(simulate_cells(replace(Scenario(), duration_s=300.0, instances=(2,)), 1), "canary")
    on_file = InstanceSpread(0.2, 50, 0.1, 50)
    plain, informed = (
        compare_means(panel, choose_design(panel, prior), alpha=0.05, margin=None, sd_instance=0.05, of="bytes")
        for prior in (InstancePrior(), InstancePrior(latency=on_file, failures=on_file))
    )
    assert plain.upper == informed.upper


def test_history_on_another_scale_is_of_squared_units():
    scaled = InstanceHistory(np.array([0.5, 2.0]), 7, np.array([3.0, 1.0]), 6).times(np.array([10.0, 3.0]))
    np.testing.assert_allclose(scaled.instance, [50.0, 18.0])
    np.testing.assert_allclose(scaled.between_arms, [300.0, 9.0])
    assert (scaled.count, scaled.between_arms_count) == (7, 6)
    assert InstanceHistory(np.array([0.5]), 7).times(np.array([2.0])).between_arms is None


@pytest.mark.parametrize(("count", "weight"), [(0, 0.0), (4, 0.0), (5, 5.0), (10, 10.0), (11, 10.0)])
def test_history_counts_from_five_comparisons_to_ten(count, weight):
    assert InstanceHistory(np.array([0.5]), count).weight == weight
