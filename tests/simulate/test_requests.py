"""The generator: the same seed gives the same rows, dependence has the moments of the design, defects are present."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest

from evaluator.errors import UsageError
from evaluator.simulate import AR1, SCENARIOS, Bursts, Change, Requests, Scenario, simulate
from evaluator.simulate.requests import EPOCH_US, draw_ar1, draw_bursts

NOTHING = AR1(0.0, 60.0)
NO_BURSTS = Bursts(0.0, 30.0, 0.0, 0.0)
QUIET = Scenario(
    traffic=NOTHING,
    common=NOTHING,
    spikes=NO_BURSTS,
    arm_drift=NOTHING,
    instance_drift=NOTHING,
    instance_sd=0.0,
    shared_failures=NO_BURSTS,
    instance_failures=NO_BURSTS,
)


def columns(requests: Requests):
    return {f.name: getattr(requests, f.name) for f in fields(requests)}


def log_level(requests: Requests, chosen) -> float:
    """Mean log response time of successes; the same mixture everywhere, so that levels can be compared."""
    return float(np.log(requests.response_us[chosen & ~requests.failed]).mean())


def test_same_seed_same_rows():
    design = replace(SCENARIOS["AA_short_pods"], duration_s=1800.0, restarts=2, missing_minutes=2)
    first, second = columns(simulate(design, 5)), columns(simulate(design, 5))
    for name, column in first.items():
        assert np.array_equal(column, second[name]) if isinstance(column, np.ndarray) else column == second[name]


def test_other_seed_other_rows():
    design = Scenario(duration_s=60.0)
    first, second = simulate(design, 1), simulate(design, 2)
    assert len(first) != len(second) or not np.array_equal(first.response_us, second.response_us)


def test_change_does_not_alter_the_draws():
    """The same seed gives a scenario and its null the same random draws, so that a few releases show a difference."""
    null, changed = (simulate(replace(d, duration_s=300.0), 3) for d in (SCENARIOS["AA"], SCENARIOS["mean+10%"]))
    canary = null.arm == 1
    assert np.array_equal(null.ts_us, changed.ts_us)
    assert np.array_equal(null.response_us[~canary], changed.response_us[~canary])
    assert changed.response_us[canary] / null.response_us[canary] == pytest.approx(1.1, rel=1e-3)


@pytest.mark.parametrize("name", [n for n, d in SCENARIOS.items() if d.rate_per_s * d.duration_s <= 120_000])
def test_scenario_gives_plausible_rows(name):
    design = SCENARIOS[name]
    requests = simulate(design, 11)
    assert requests.arms[0] == "baseline"
    assert set(np.unique(requests.arm)) == set(range(len(requests.arms)))
    assert requests.run.max() == design.replicates - 1
    assert requests.endpoint.max() < len(requests.endpoints)
    assert requests.instance.max() < len(requests.instances)
    assert requests.response_us.min() >= 0
    assert np.array_equal(requests.failed, requests.exception > 0)
    assert np.array_equal(requests.failed, requests.status >= 400)
    assert requests.failed.mean() < 0.03


def test_traffic_has_the_requested_rate():
    requests = simulate(replace(QUIET, rate_per_s=50.0, duration_s=1200.0), 2)
    counts = np.bincount(requests.arm)
    assert counts == pytest.approx(60_000, rel=4 / math.sqrt(60_000))
    span_s = (requests.ts_us - EPOCH_US) / 1e6
    assert span_s.min() >= 0
    assert span_s.max() <= 1200


def test_drift_has_its_sd_and_time_constant():
    series = draw_ar1(np.random.default_rng(1), AR1(0.12, 330.0), 400, 720, 5.0)
    assert series.std() == pytest.approx(0.12, rel=0.03)
    for lag_s in (100, 330):
        lag = lag_s // 5
        correlation = np.mean(series[:, lag:] * series[:, :-lag]) / np.mean(series**2)
        assert correlation == pytest.approx(math.exp(-lag_s / 330), abs=0.04)


def test_drift_starts_stationary():
    series = draw_ar1(np.random.default_rng(2), AR1(1.0, 100.0), 4000, 4, 5.0)
    assert series.std(axis=0) == pytest.approx(1.0, rel=0.05)


def test_drift_is_the_plain_recursion():
    rng, steps = np.random.default_rng(3), 50
    series = draw_ar1(rng, AR1(2.0, 30.0), 1, steps, 5.0)[0]
    shocks = np.random.default_rng(3).standard_normal(steps) * 2.0
    phi = math.exp(-5 / 30)
    expected = [shocks[0]]
    for shock in shocks[1:]:
        expected.append(phi * expected[-1] + math.sqrt(1 - phi**2) * shock)
    assert series == pytest.approx(expected)


def test_bursts_fill_their_share_of_time():
    at_s = np.arange(2.5, 3600, 5)
    bursts = Bursts(6.0, 40.0, 0.2, 0.4)
    total = draw_bursts(np.random.default_rng(4), bursts, 600, at_s)
    # A spell is cut at the end of the run, so that a little is lost.
    assert total.mean() == pytest.approx(bursts.share * bursts.mean_height, rel=0.06)


def test_instances_scatter_by_their_sd():
    design = replace(QUIET, instance_sd=0.03, instances=(60,), endpoints=1, rate_per_s=60.0, tail_share=0.0)
    requests = simulate(design, 6)
    codes = np.unique(requests.instance)
    levels = [log_level(requests, requests.instance == code) for code in codes]
    assert len(codes) == 120
    assert np.std(levels) == pytest.approx(math.hypot(0.03, 0.45 / math.sqrt(len(requests) / 120)), rel=0.2)


def test_common_shocks_hit_both_arms():
    requests = simulate(replace(QUIET, common=AR1(0.3, 300.0)), 7)
    minute = (requests.ts_us - EPOCH_US) // 60_000_000
    levels = [[log_level(requests, (minute == m) & (requests.arm == a)) for m in range(60)] for a in (0, 1)]
    assert np.corrcoef(levels)[0, 1] > 0.9


def test_failures_come_in_bursts():
    requests = simulate(replace(QUIET, shared_failures=Bursts(6.0, 40.0, 0.05, 0.05)), 8)
    step = (requests.ts_us - EPOCH_US) // 15_000_000
    n, x = np.bincount(step), np.bincount(step[requests.failed], minlength=240)
    rate = x.sum() / n.sum()
    dispersion = np.mean((x - n * rate) ** 2 / (n * rate))
    assert dispersion > 5
    assert set(requests.status[requests.failed]) == {500, 503}


def test_split_of_traffic():
    counts = np.bincount(simulate(replace(QUIET, split=(0.1,)), 1).arm)
    assert counts[1] / counts[0] == pytest.approx(1 / 9, rel=0.03)


def test_ramp_of_share_and_load():
    requests = simulate(replace(QUIET, split=(0.01, 0.05, 0.25, 0.5), load_trend=0.5), 1)
    quarter = (requests.ts_us - EPOCH_US) // 900_000_000
    shares = [np.mean(requests.arm[quarter == q]) for q in range(4)]
    assert shares == pytest.approx([0.01, 0.05, 0.25, 0.5], rel=0.1)
    counts = np.bincount(quarter)
    assert counts[3] / counts[0] == pytest.approx(1.4375 / 1.0625, rel=0.02)
    assert log_level(requests, quarter == 3) - log_level(requests, quarter == 0) == pytest.approx(0.15, abs=0.03)


def test_more_than_two_arms():
    requests = simulate(replace(QUIET, changes=(Change(), Change(latency=0.2)), duration_s=600.0), 1)
    assert requests.arms == ("baseline", "canary", "canary_b")
    assert np.bincount(requests.arm) == pytest.approx(18_000, rel=0.04)
    levels = [log_level(requests, requests.arm == arm) for arm in range(3)]
    assert levels[2] - levels[0] == pytest.approx(math.log(1.2), abs=0.04)


def test_late_arm():
    requests = simulate(SCENARIOS["AA_offset"], 1)
    first = requests.ts_us[requests.arm == 1].min()
    assert 300.0 <= (first - EPOCH_US) / 1e6 < 310.0


def test_clock_skew_moves_candidates_only():
    straight, skewed = simulate(SCENARIOS["AA"], 1), simulate(SCENARIOS["AA_skew"], 1)
    assert np.array_equal(skewed.ts_us - straight.ts_us, np.where(straight.arm == 1, 2_000_000, 0))


def test_missing_minutes_are_empty():
    requests = simulate(replace(QUIET, missing_minutes=6), 1)
    minute = (requests.ts_us - EPOCH_US) // 60_000_000
    counts = np.bincount(requests.arm * 60 + minute, minlength=120)
    assert np.count_nonzero(counts == 0) == 6


def test_restart_silences_one_instance_for_a_while():
    requests = simulate(replace(QUIET, restarts=1, rate_per_s=40.0), 1)
    silent = [np.diff(np.sort(requests.ts_us[requests.instance == code])).max() / 1e6 for code in range(8)]
    assert sum(gap > 10 for gap in silent) == 1


def test_short_lived_instances():
    requests = simulate(SCENARIOS["AA_short_pods"], 1)
    assert len(requests.instances) > 8
    lives = [np.ptp(requests.ts_us[requests.instance == code]) / 1e6 for code in range(len(requests.instances))]
    assert max(lives) <= 1800
    assert all(len(np.unique(requests.arm[requests.instance == c])) == 1 for c in range(len(requests.instances)))


def test_unlabelled_instances():
    assert simulate(SCENARIOS["AA_unlabelled"], 1).instances == ("",)


def test_integer_milliseconds():
    assert not np.any(simulate(SCENARIOS["AA_integer_ms"], 1).response_us % 1000)


def test_cache_makes_two_modes():
    requests = simulate(replace(QUIET, cache_hit=0.5, endpoints=1, sigma=0.2, tail_share=0.0), 1)
    logs = np.log(requests.response_us)
    middle = math.log(100_000) + math.log(0.12) / 2
    assert np.mean(logs < middle) == pytest.approx(0.5, abs=0.01)
    assert np.mean(np.abs(logs - middle) < 0.3) < 0.01


def test_closed_loop_slows_with_latency():
    design = replace(QUIET, users=40, wait_s=0.5, changes=(Change(latency=1.0),))
    requests = simulate(design, 1)
    counts = np.bincount(requests.arm)
    mean_s = requests.response_us[requests.arm == 0].mean() / 1e6
    assert counts[1] / counts[0] == pytest.approx((0.5 + mean_s) / (0.5 + 2 * mean_s), rel=0.02)
    assert counts[0] / 3600 == pytest.approx(40 / (0.5 + mean_s), rel=0.02)
    assert requests.users is not None
    assert set(requests.users) == {40}


def test_spawning_users():
    requests = simulate(SCENARIOS["AA_spawn"], 1)
    assert requests.users is not None
    early = requests.ts_us < EPOCH_US + 60_000_000
    assert requests.users[early].max() <= 30
    assert requests.users.max() == 60


def test_replicates_draw_new_instances():
    requests = simulate(replace(QUIET, replicates=5, duration_s=300.0, instances=(1,), instance_sd=0.2, endpoints=1), 1)
    assert requests.runs == ("run-0", "run-1", "run-2", "run-3", "run-4")
    assert requests.instances == ("baseline-1", "canary-1")
    levels = [log_level(requests, (requests.run == run) & (requests.arm == 0)) for run in range(5)]
    assert np.std(levels) > 0.05
    ends = [requests.ts_us[requests.run == run].max() for run in range(5)]
    starts = [requests.ts_us[requests.run == run].min() for run in range(5)]
    assert all(start > end for start, end in zip(starts[1:], ends[:-1], strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"duration_s": 0.0}, id="duration"),
        pytest.param({"replicates": 0}, id="replicates"),
        pytest.param({"rate_per_s": -1.0}, id="rate"),
        pytest.param({"endpoints": 0}, id="endpoints"),
        pytest.param({"split": (1.0,)}, id="split"),
        pytest.param({"split": ()}, id="no split"),
        pytest.param({"instances": (0,)}, id="instances"),
        pytest.param({"wait_s": 1.0}, id="closed loop without users"),
        pytest.param({"swing": 1.0}, id="swing"),
        pytest.param({"tail_index": 1.0}, id="tail index"),
        pytest.param({"changes": ()}, id="no candidate"),
        pytest.param({"changes": (Change(shed=1.0),)}, id="shed"),
        pytest.param({"changes": (Change(tail=0.5),)}, id="tail"),
        pytest.param({"start_offset_s": 3600.0}, id="offset"),
        pytest.param({"grid_us": 0}, id="grid"),
    ],
)
def test_contradictions_are_refused(wrong):
    with pytest.raises(UsageError, match="cannot be simulated"):
        Scenario(**wrong)
