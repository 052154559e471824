from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from evaluator.records import Monitoring
from evaluator.stats.inference.calendar import plan_looks
from evaluator.stats.inference.sequential import (
    ALPHAS,
    GRID,
    PERSISTENT_SHARES,
    _load_table,
    anytime_critical,
    anytime_p,
    boundaries,
    information,
    sequential_p,
    spent,
)

FIVE = np.arange(1, 6) / 5


def test_boundaries_agree_with_published_ones():
    """Lan-DeMets O'Brien-Fleming type, five equal looks, one-sided 2.5 %: Reboussin et al. (2000)."""
    edges = boundaries(FIVE, spent("obrien_fleming", 0.025, FIVE))
    assert edges.round(3).tolist() == [4.877, 3.357, 2.68, 2.29, 2.031]


def test_obrien_fleming_itself_spends_what_it_should():
    """Constant 2.040 of Jennison & Turnbull (2000), table 2.3: its boundaries spend 2.5 % in all."""
    edges = 2.040 / np.sqrt(FIVE)
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.normal(size=(400_000, 5)) * np.sqrt(0.2), axis=1) / np.sqrt(FIVE)
    assert (walk > edges).any(axis=1).mean() == pytest.approx(0.025, abs=0.001)


def test_one_look_is_the_ordinary_test():
    assert boundaries(np.array([1.0]), np.array([0.05]))[0] == pytest.approx(-ndtri(0.05), abs=2e-3)


@pytest.mark.parametrize("kind", ["linear", "obrien_fleming"])
def test_the_shipped_table_is_what_the_recursion_gives(kind):
    fraction = np.arange(1, GRID + 1) / GRID
    table = [
        [boundaries(information(fraction, persistent), spent(kind, alpha, fraction)) for alpha in ALPHAS]
        for persistent in PERSISTENT_SHARES
    ]
    assert np.allclose(_load_table()[kind], table, atol=2e-5)


@pytest.mark.parametrize("persistent", [0.0, 0.3, 0.8])
def test_the_error_of_all_looks_together_is_alpha(persistent):
    """Simulated looks of a process with a part that time does not shrink: 5 % within three Monte Carlo errors."""
    fraction = np.arange(1, GRID + 1) / GRID
    info = information(fraction, persistent)
    rng = np.random.default_rng(5)
    steps = rng.normal(size=(20_000, GRID)) * np.sqrt(np.diff(info, prepend=0.0))
    z = np.cumsum(steps, axis=1) / np.sqrt(info)
    edges = boundaries(info, spent("linear", 0.05, fraction))
    assert (z > edges).any(axis=1).mean() == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 20_000))


@pytest.mark.parametrize("fraction", [10 / 60, 0.5, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_sequential_p_value_is_the_level_whose_boundary_is_met(fraction, share):
    """A statistic exactly on the 2 % boundary has the sequential p-value 2 %."""
    times = np.arange(1, GRID + 1) / GRID
    persistent = share / (share + (1 - share) * fraction)
    edge = boundaries(information(times, persistent), spent("linear", 0.02, times))[round(fraction * GRID) - 1]
    from scipy.special import ndtr

    p_values = sequential_p(np.array([ndtr(-edge)]), fraction, np.array([share]))
    assert p_values[0] == pytest.approx(0.02, rel=0.06)


def test_later_looks_cost_less_and_no_look_costs_nothing():
    p = np.array([0.01])
    p_values = [float(sequential_p(p, f, np.zeros(1))[0]) for f in (10 / 60, 30 / 60, 1.0)]
    assert p_values[0] > p_values[1] > p_values[2] > 0.01


def test_p_values_of_any_size_stay_between_0_and_1():
    p = np.array([0.0, 1e-300, 1e-9, 0.3, 0.7, 1.0, np.nan])
    for adjusted in (sequential_p(p, 0.5, np.zeros(7)), anytime_p(p, np.zeros(7), 1800.0, 1800.0)):
        assert np.isnan(adjusted[-1])
        assert ((adjusted[:-1] >= 0) & (adjusted[:-1] <= 1)).all()
        assert (np.diff(adjusted[:-1]) >= -1e-12).all()


def test_the_confidence_sequence_holds_at_every_moment():
    """Looked at each minute for ten hours: at most 5 % (plus Monte Carlo) ever cross."""
    rng = np.random.default_rng(6)
    minutes = np.arange(1, 601)
    z = np.cumsum(rng.normal(size=(4000, 600)), axis=1) / np.sqrt(minutes)
    edges = np.array([float(anytime_critical(0.05, 60.0 * m, 1800.0)) for m in minutes])
    late = minutes >= 10
    assert (z[:, late] > edges[late]).any(axis=1).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)


def test_the_table_covers_what_a_policy_can_ask():
    assert ALPHAS[0] <= 1e-7
    assert ALPHAS[-1] >= 0.5
    assert PERSISTENT_SHARES[0] == 0.0


@pytest.mark.parametrize(
    ("mode", "bucket_s", "covered", "planned", "kind", "first", "count", "final"),
    [
        pytest.param("auto", 15, 3600, 3600, "group_sequential", 600, 50, True, id="an hour"),
        pytest.param("auto", 15, 1200, 3600, "group_sequential", 600, 11, False, id="a third of it"),
        pytest.param("auto", 1, 75, 75, "fixed", None, 0, True, id="a minute"),
        pytest.param("auto", 60, 86_400, 86_400, "group_sequential", 1440, 59, True, id="a day"),
        pytest.param("auto", 15, 1200, None, "anytime", 600, 11, False, id="no end"),
        pytest.param("fixed", 15, 1200, 3600, "fixed", None, 0, False, id="fixed, too early"),
        pytest.param("fixed", 15, 3600, 3600, "fixed", None, 0, True, id="fixed"),
    ],
)
def test_looks_are_a_function_of_data_time_and_policy(mode, bucket_s, covered, planned, kind, first, count, final):
    plan = plan_looks(Monitoring(mode), bucket_s=bucket_s, covered_s=covered, planned_s=planned)
    assert (plan.kind, len(plan.interim), plan.final) == (kind, count, final)
    assert (plan.interim[0] if plan.interim else None) == first
    assert all(look % (4 * bucket_s) == 0 for look in plan.interim)


def test_looks_of_less_data_are_the_first_looks_of_more():
    looks = [
        plan_looks(Monitoring(), bucket_s=15, covered_s=covered, planned_s=3600).interim
        for covered in (700, 1900, 3600)
    ]
    assert looks[1][: len(looks[0])] == looks[0]
    assert looks[2][: len(looks[1])] == looks[1]
