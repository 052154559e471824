"""An interrupted run can continue, and the table shows the results."""

import math
from dataclasses import replace

import pytest

from arena import grid, trial
from arena.grid import METRICS, MODES, QUICK, Trial, plan_trials
from arena.reading import Reading
from arena.results import append, find_open, fingerprint, read_results
from arena.shares import Tally, Times, judge_at_least, judge_at_most, judge_median
from arena.table import write_table
from evaluator.simulate import SCENARIOS


def answer(minute=None, word="go"):
    one = {"worse": minute is not None, "minute": minute, "low": -0.1, "high": None, "estimate": 0.0}
    book = {"word": word, "minute": minute, "why": "", "metric": None, "status": dict.fromkeys(METRICS, "pass")}
    return {"policy": book, "gates": book, "scan": book, "alone": dict.fromkeys(METRICS, one)}


def record(design, seed, **fields):
    return {
        "design": design,
        "seed": seed,
        "ours": dict.fromkeys(MODES, answer(**fields)),
        "peers": {"Welch": [True, 5]},
    }


def test_results_are_read_back_and_an_incomplete_line_is_run_again(tmp_path):
    for seed in (1, 0):
        append(tmp_path, record("AA", seed))
    with (tmp_path / "AA.jsonl").open("a") as file:
        file.write('\n{"design": "AA", "se')
    append(tmp_path, record("AA", 3))
    found = read_results(tmp_path)
    assert [one["seed"] for one in found["AA"]] == [0, 1, 3]
    open_trials = find_open(plan_trials({"AA": 5}, anytime=False), found)
    assert [one.seed for one in open_trials] == [2, 4]


def test_more_monitoring_or_an_error_is_run_again(tmp_path):
    append(tmp_path, record("AA", 0))
    append(tmp_path, {"design": "AA", "seed": 1, "error": "Traceback"})
    trials = [Trial("AA", 0, grid.ALL_MODES), Trial("AA", 0), Trial("AA", 1)]
    assert find_open(trials, read_results(tmp_path)) == [trials[0], trials[2]]


def test_quick_is_part_of_the_full_grid():
    assert all(grid.FULL[name] >= n for name, n in QUICK.items())
    assert set(grid.FULL) == set(SCENARIOS)
    assert len(fingerprint()) == 12


def test_the_table_shows_the_results():
    results = {"AA": [record("AA", seed) for seed in range(60)]}
    results["mean+20%"] = [record("mean+20%", seed, minute=10.0 + seed, word="no_go") for seed in range(5)]
    text = write_table(results)
    assert "| False NO-GO, policy | `AA` | 0 [0–6] | ≤ 5, upper < 7 | yes |" in text
    assert "| Median minute, latency_mean | `mean+20%` | 12 [10–14] | ≤ 12 | yes |" in text
    assert "| Welch | 100 [94–100] | 100 [94–100] | 5 [5–5] |  |" in text
    assert "| Coverage, latency_mean | 2 designs, `AA` to `AA` |" in text
    assert "None ended with an error." in text


def test_the_table_names_designs_with_errors():
    text = write_table({"AA": [{"design": "AA", "seed": 0, "error": "Traceback"}, record("AA", 1)]})
    assert "**Errors on 1 × AA.**" in text


def test_coverage_compares_with_the_truth_and_an_open_end_covers():
    reading = Reading("mean+20%", (record("mean+20%", 0),))
    assert reading.covered("latency_mean") == Tally(1, 1)
    closed = answer()
    missed = {"worse": False, "minute": None, "low": 0.1, "high": 0.15, "estimate": 0.1}
    closed["alone"] = dict.fromkeys(METRICS, missed)
    assert Reading("mean+20%", ({"ours": {"fixed": closed}},)).covered("latency_mean") == Tally(0, 1)


@pytest.mark.parametrize(
    ("state", "expect"),
    [
        pytest.param(judge_at_most(Tally(1, 200), 0.05, 0.07), "yes", id="low and sure"),
        pytest.param(judge_at_most(Tally(5, 100), 0.05, 0.07), "open", id="low but unsure"),
        pytest.param(judge_at_most(Tally(6, 100), 0.05, 0.07), "no?", id="chance"),
        pytest.param(judge_at_most(Tally(20, 100), 0.05, 0.07), "no", id="high"),
        pytest.param(judge_at_least(Tally(88, 100), 0.88), "yes", id="enough"),
        pytest.param(judge_at_least(Tally(86, 100), 0.88), "no?", id="hardly"),
        pytest.param(judge_at_least(Tally(60, 100), 0.88), "no", id="too few"),
        pytest.param(judge_median(Times((10.0, 11.0, math.inf)), 12.0), "yes", id="in time"),
        pytest.param(judge_median(Times((20.0,) * 9), 12.0), "no", id="late"),
    ],
)
def test_what_counts_as_reached(state, expect):
    assert state == expect


@pytest.mark.parametrize("split", [pytest.param(0.5, id="even"), pytest.param(0.01, id="looks without data")])
def test_a_small_release_is_judged(monkeypatch, split):
    small = replace(SCENARIOS["AA"], duration_s=420.0, rate_per_s=8.0, split=(split,))
    monkeypatch.setattr(trial, "SCENARIOS", {"small": small})
    found = trial.run_trial(Trial("small", 0, grid.ALL_MODES))
    assert set(found["ours"]) == set(grid.ALL_MODES)
    assert set(found["ours"]["auto"]["alone"]) == set(METRICS)


def test_an_error_is_kept():
    assert "KeyError" in trial.run_trial(Trial("unknown", 0))["error"]
