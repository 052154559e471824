from dataclasses import replace

import numpy as np
import pytest
from judging import RULEBOOK, RUN, SMALL

from evaluator.calibration.learn import learn_instances
from evaluator.calibration.report import CHANGES, Stored, Tally, calibrate, needed_comparisons
from evaluator.records import RunState, Slice
from evaluator.simulate import AR1, SCENARIOS, Change, Scenario, simulate_cells
from evaluator.stats.inference.score import wilson_interval

SERVER = {"url": "http://127.0.0.1:9090", "selectors": {"baseline": 'v="1"', "canary": 'v="2"'}}
QUARTER = replace(Scenario(), duration_s=900.0, rate_per_s=40.0)


def history(design, count, seed=0):
    out = []
    for k in range(count):
        cells = simulate_cells(design, seed + k)
        out.append(Stored(f"r{k}", cells, tuple(replace(RUN, id=run, release=f"r{k}") for run in cells.runs)))
    return out


@pytest.fixture(scope="module")
def report():
    return calibrate(history(QUARTER, 6), RULEBOOK)


def test_identical_halves_are_rarely_no_go(report):
    assert report.overall.judged == 36
    assert report.overall.effective == 36
    low, _ = report.overall.interval(report.overall.no_go)
    assert low <= RULEBOOK.alpha
    assert report.conclusion == "unknown"


def test_larger_regressions_are_found_more_often(report):
    no_go = {tally.change: tally.no_go for tally in report.tallies}
    latency = [no_go[change] for change in CHANGES[:4]]
    assert latency == sorted(latency)
    assert latency[-1] > report.overall.judged / 2
    assert all(tally.go == 0 for tally in report.tallies if tally.change.latency >= 0.1)


def test_past_runs_are_shown_separately(report):
    assert report.between.judged == 10
    assert report.between.go == 0
    assert "between" not in {tally.kind for tally in report.tallies}


@pytest.mark.parametrize(
    ("design", "kind"),
    [
        pytest.param(SMALL, "instances", id="three instances"),
        pytest.param(replace(SMALL, instances=(1,)), "time", id="one instance"),
        pytest.param(replace(SMALL, instances=(1,), duration_s=120.0, replicates=5), "replicates", id="replicates"),
    ],
)
def test_the_kind_of_split_depends_on_the_design(design, kind):
    report = calibrate(history(design, 1), RULEBOOK, splits=2)
    assert {tally.kind for tally in report.tallies} == {kind}
    assert report.overall.judged == 2
    assert report.conclusion == "unknown"
    if kind == "time":
        assert report.overall.go == 0


def test_the_same_history_gives_the_same_report():
    stored = history(SMALL, 2)
    assert calibrate(stored, RULEBOOK, splits=2) == calibrate(stored, RULEBOOK, splits=2)


def test_groups_that_cannot_be_used_are_named():
    stored = history(SMALL, 2)
    broken = replace(stored[0], runs=tuple(replace(run, state=RunState.INCOMPLETE) for run in stored[0].runs))
    report = calibrate([broken, stored[1]], RULEBOOK, splits=2)
    assert report.left_out == ("r0: a run is not complete",)
    assert report.used == ("r1",)
    nothing = calibrate([], RULEBOOK)
    assert (nothing.conclusion, nothing.overall.judged, nothing.between) == ("unknown", 0, None)


def test_rules_on_endpoints_without_history_are_not_judged():
    rules = (*RULEBOOK.rules, replace(RULEBOOK.rules[1], name="new", slice=Slice("GET /new")))
    assert calibrate(history(SMALL, 1), replace(RULEBOOK, rules=rules), splits=2).overall.judged == 2


def test_intervals_and_conclusions():
    def conclude(no_go, effective):
        tally = Tally("all", CHANGES[0], 100, effective, no_go, 0)
        return replace(calibrate([], RULEBOOK), overall=tally).conclusion

    assert needed_comparisons(0.05) == 73
    assert wilson_interval(0, 73, 1.959964)[1] <= 0.05 < wilson_interval(0, 72, 1.959964)[1]
    conclusions = [conclude(0, 73), conclude(0, 72), conclude(30, 100), conclude(5, 100)]
    assert conclusions == ["keeps", "unknown", "cries_wolf", "unknown"]


# ------------------------------------------------------------------ learnt


def test_the_spread_of_instances_is_learnt():
    design = replace(SCENARIOS["AA_inst3"], instances=(6,))
    learnt = learn_instances([simulate_cells(design, seed) for seed in range(6)])
    assert learnt.sd_latency == pytest.approx(0.03, rel=0.25)
    assert (learnt.comparisons, learnt.runs) == (12, 6)
    assert learnt.df == pytest.approx(60, rel=0.05)


def test_the_spread_is_learnt_from_replicates_of_single_instances_too():
    learnt = learn_instances([simulate_cells(SCENARIOS["AA_replicates"], seed) for seed in range(8)])
    assert learnt.sd_latency == pytest.approx(0.05, rel=0.35)
    assert (learnt.comparisons, learnt.runs, learnt.df) == (8, 40, 32)


def test_instances_that_do_not_differ_give_no_spread():
    learnt = learn_instances([simulate_cells(SCENARIOS["AA_inst0"], seed) for seed in range(4)])
    assert learnt.sd_latency < 0.01


STEADY = replace(SCENARIOS["AA"], duration_s=900.0, instance_sd=0.03, arm_drift=AR1(1e-6, 60.0))
MOODY = replace(STEADY, arm_drift=AR1(0.04, 7200.0))
"""Arms whose level is constant in a quarter of an hour, but differs between runs: √2 · 4 % of a comparison."""


def test_drift_slower_than_a_run_is_learnt_from_one_version_on_both_arms():
    moody = [simulate_cells(MOODY, seed) for seed in range(16)]
    learnt = learn_instances(moody, [True] * 16)
    assert learnt.between_arms_latency == pytest.approx(0.04 * np.sqrt(2), rel=0.4)
    assert (learnt.between_arms_comparisons, learnt.between_arms_runs) == (16, 16)
    assert learnt.sd_latency == pytest.approx(0.03, rel=0.25)  # of instances all the same
    steady = learn_instances([simulate_cells(STEADY, seed) for seed in range(16)], [True] * 16)
    assert steady.between_arms_latency < 0.02


def test_drift_is_learnt_from_replicates_whatever_they_changed():
    design = replace(MOODY, duration_s=300.0, replicates=4, changes=(Change(latency=0.2),))
    learnt = learn_instances([simulate_cells(design, seed) for seed in range(5)])
    assert learnt.between_arms_latency == pytest.approx(0.04 * np.sqrt(2), rel=0.5)
    assert (learnt.between_arms_comparisons, learnt.between_arms_runs) == (15, 20)


def test_no_drift_is_learnt_from_runs_whose_true_change_is_unknown():
    learnt = learn_instances([simulate_cells(MOODY, 1)])
    assert (learnt.between_arms_latency, learnt.between_arms_failures, learnt.between_arms_comparisons) == (
        None,
        None,
        0,
    )


def test_one_version_on_both_arms_is_judged_as_it_ran():
    stored = [replace(item, same_version=True) for item in history(SMALL, 2)]
    report = calibrate(stored, RULEBOOK, splits=2)
    tallies = {tally.kind: tally for tally in report.tallies if tally.change == CHANGES[0]}
    assert tallies["versions"].judged == tallies["versions"].effective == 4
    assert report.overall.judged == 8
    slower = {t.change: t.no_go for t in report.tallies if t.kind == "versions"}
    assert slower[CHANGES[3]] >= slower[CHANGES[0]]


def test_drift_of_whole_arms_shows_with_one_version_on_both_but_not_in_halves():
    """Halves of one arm share its drift; only two arms of one version show the false alarms."""
    stored = [replace(item, same_version=True) for item in history(replace(MOODY, arm_drift=AR1(0.1, 7200.0)), 6)]
    tallies = {
        tally.kind: tally for tally in calibrate(stored, RULEBOOK, splits=2).tallies if tally.change == CHANGES[0]
    }
    assert tallies["instances"].no_go == 0
    assert tallies["versions"].no_go >= 3


def test_nothing_is_learnt_from_one_run_of_one_instance():
    learnt = learn_instances([simulate_cells(SCENARIOS["AA_1+1"], 1)])
    assert (learnt.sd_latency, learnt.sd_failures, learnt.comparisons) == (None, None, 0)


def test_gates_on_other_evidence_are_named():
    from evaluator.policy import parse_policy

    query = {"type": "gauge_mean", "query": "used{$selector}", "margin": "10%"}
    metrics = [
        {"name": "p50", "type": "latency_quantile", "quantile": 0.5, "margin": "10%"},
        {"name": "cpu", **query},
        {"name": "memory", **query, "role": "watch"},
        {"name": "revenue", "type": "outcome_mean", "outcome": "revenue", "margin": "2%"},
    ]
    policy = parse_policy({"version": 1, "metrics": metrics, "sources": {"prometheus": SERVER}})
    report = calibrate(history(SMALL, 1), policy.rulebook, splits=1)
    assert report.left_out == (
        "cpu: only metrics of requests are calibrated",
        "revenue: only metrics of requests are calibrated",
    )
