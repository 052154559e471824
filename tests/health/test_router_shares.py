"""What a router sent against what it should have sent, and phases with other shares."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from judging import EVEN, LIVE, assess_live, judge_live, simulate_live

from evaluator.records import EvidenceKind, Level, RouterFacts, VerdictWord
from evaluator.simulate import Change, simulate, to_cells
from evaluator.stats.shaping.cells import where

FEW = replace(LIVE, duration_s=300.0, rate_per_s=20.0)


def shares_of(canary):
    return {"baseline": 1 - canary, "canary": canary}


def select(requests, keep):
    """Some of the requests."""
    arrays = {f.name: getattr(requests, f.name) for f in fields(requests)}
    return replace(requests, **{name: value[keep] for name, value in arrays.items() if isinstance(value, np.ndarray)})


def find(check, cells, runs, load=None):
    """The findings of a check on production requests."""
    return [f for f in assess_live(cells, runs, load=load).findings if f.check == check]


def find_ratio(split, configured, seed=2, **changes):
    cells, run = simulate_live(replace(FEW, split=(split,), **changes), seed, shares=shares_of(configured))
    (finding,) = find("sample_ratio", cells, (run,))
    return finding


def test_a_router_that_does_not_send_what_was_asked_is_a_fail_with_both_shares():
    finding = find_ratio(0.05, 0.25)
    assert (finding.level, finding.void) == (Level.FAIL, False)
    assert finding.text.startswith("the router does not send what was asked: canary got 4.")
    assert "25 % configured" in finding.text
    assert finding.remedy


def test_too_much_traffic_is_one_as_well():
    assert find_ratio(0.5, 0.05).level is Level.FAIL


@pytest.mark.parametrize("seed", range(8))
def test_the_configured_share_is_in_order(seed):
    assert find_ratio(0.05, 0.05, seed).level is Level.OK


@pytest.mark.parametrize(("canary", "level"), [(0.0, Level.FAIL), (1.0, Level.FAIL)])
def test_an_arm_that_should_have_nothing_or_all(canary, level):
    assert find_ratio(0.3, canary).level is level


@pytest.mark.parametrize(("share_retried", "level"), [(0.01, Level.FAIL), (0.5, Level.WARN)])
def test_attempts_do_not_show_the_shares_if_many_requests_were_tried_again(share_retried, level):
    cells, run = simulate_live(replace(FEW, split=(0.5,)), 2, shares=shares_of(0.25))
    answers = int(cells.moments.n.sum())
    router = RouterFacts(answers=answers, retried={"canary": int(share_retried * answers)})
    (finding,) = find("sample_ratio", cells, (replace(run, facts=replace(run.facts, router=router)),))
    assert finding.level is level
    if level is Level.WARN:
        assert "the router tried many requests again" in finding.text


def test_a_small_difference_is_a_warning():
    assert find_ratio(0.29, 0.25).level is Level.WARN


def test_a_share_that_swings_from_minute_to_minute_is_not_taken_for_a_mismatch():
    """Clients that stay with an arm come and go. Counted one by one, these requests would be far from the share."""
    requests = simulate(replace(FEW, rate_per_s=40.0), 2)
    random = np.random.default_rng(2)
    minute = ((requests.ts_us - requests.ts_us.min()) // 60_000_000).astype(int)
    share_kept = np.array([1.0, 1.0, 0.1, 1.0, 1.0])[np.minimum(minute, 4)]
    draws = random.random(len(requests)) < np.where(requests.arm == 1, share_kept, 0.5)
    cells = replace(to_cells(select(requests, draws)), runs=("live-1",))
    _, run = simulate_live(replace(FEW, duration_s=60.0))
    (finding,) = find("sample_ratio", cells, (run,))
    seen = float(finding.text.split("got ")[1].split(" %")[0]) / 100
    assert seen / (1 - seen) > 1.5
    assert finding.level is Level.OK


def test_a_slow_and_failing_arm_is_no_mismatch():
    """Behind a router, users do not wait for the slow arm before others call: it gets as many requests."""
    change = Change(latency=1.0, failures_added=0.3)
    assert find_ratio(0.25, 0.25, changes=(change,)).level is Level.OK


def test_unknown_shares_are_a_warning_that_says_how_to_name_them():
    cells, run = simulate_live(FEW, shares={})
    (finding,) = find("sample_ratio", cells, (run,))
    assert (finding.level, "--share" in finding.remedy) == (Level.WARN, True)


def test_shares_that_do_not_name_an_arm_forbid_a_go():
    cells, run = simulate_live(FEW, shares={"baseline": 0.5, "blue": 0.5})
    (finding,) = find("sample_ratio", cells, (run,))
    assert (finding.level, "canary" in finding.text) == (Level.FAIL, True)


def join(first, second):
    """Two runs as the cells of one verdict."""
    (one, run_1), (two, run_2) = first, second

    def stack(name):
        a, b = getattr(one, name), getattr(two, name)
        columns = {field: np.concatenate([getattr(a, field), getattr(b, field)]) for field in a.__dataclass_fields__}
        columns["run"] = np.concatenate([np.zeros_like(a.run), np.ones_like(b.run)])
        return replace(a, **columns)

    tables = {name: stack(name) for name in ("moments", "bins", "instance_bins", "loads", "failure_kinds")}
    return replace(one, runs=(run_1.id, run_2.id), **tables), (run_1, run_2)


def test_runs_with_other_shares_mix_the_time_of_day_with_the_arm():
    """Identical versions, but slower hours and a larger share of the canary come together: no NO-GO, and no GO."""
    quiet = simulate_live(replace(LIVE, split=(0.1,)), 3, id="a", step="10%", shares=shares_of(0.1))
    busy = simulate_live(
        replace(LIVE, split=(0.5,), median_ms=(80.0, 500.0)), 4, id="b", step="50%", shares=shares_of(0.5)
    )
    cells, runs = join(quiet, busy)
    (finding,) = find("phases", cells, runs)
    assert (finding.level, finding.void) == (Level.FAIL, True)
    assert "step 10%: baseline 90 %, canary 10 %; step 50%: baseline 50 %, canary 50 %" in finding.text
    assert "`evaluator verdict cart@2 --step 50%`" in finding.remedy
    assert judge_live(cells, runs).word is VerdictWord.INCONCLUSIVE


def test_runs_of_equal_shares_are_no_phases():
    cells, runs = join(simulate_live(FEW, 3, id="a"), simulate_live(FEW, 4, id="b"))
    assert find("phases", cells, runs) == []


def test_phases_of_one_step_are_told_apart_by_their_runs():
    first = simulate_live(FEW, 3, id="a", step="x", shares=EVEN)
    second = simulate_live(replace(FEW, split=(0.1,)), 4, id="b", step="x", shares=shares_of(0.1))
    (finding,) = find("phases", *join(first, second))
    assert "--run b" in finding.remedy


def test_a_share_known_of_some_runs_only_is_void():
    (finding,) = find("phases", *join(simulate_live(FEW, 3, id="a"), simulate_live(FEW, 4, id="b", shares={})))
    assert (finding.void, "shares not known" in finding.text) == (True, True)


def test_two_services_are_not_judged_as_one():
    first, second = simulate_live(FEW, 3, id="a", service="cart"), simulate_live(FEW, 4, id="b", service="pay")
    (finding,) = find("phases", *join(first, second))
    assert (finding.void, "cart, pay" in finding.text) == (True, True)


def test_a_canary_that_gets_nothing_any_more_is_silent():
    cells, run = simulate_live(replace(FEW, split=(0.05,)), shares=shares_of(0.05))
    middle = int(np.median(cells.moments.bucket))
    moments = cells.moments
    keep = (moments.arm == 0) | (moments.bucket < middle)
    cut = replace(moments, **{name: getattr(moments, name)[keep] for name in moments.__dataclass_fields__})
    findings = find("silence", replace(cells, moments=cut), (run,))
    assert {f.level for f in findings} == {Level.FAIL}
    assert any(f.text.startswith("canary had no request from minute") for f in findings)


def test_production_that_is_told_apart_from_a_load():
    cells, run = simulate_live(FEW, shares={})
    load, _ = simulate_live(FEW, 9)
    assert [f.evidence for f in find("sample_ratio", cells, (run,), load=load)] == [
        EvidenceKind.REQUESTS,
        EvidenceKind.LIVE,
    ]
    assert [f.evidence for f in find("sample_ratio", cells, (run,))] == [None]


def test_an_arm_without_any_request_is_no_error():
    cells, run = simulate_live(FEW)
    findings = find("sample_ratio", where(cells, arm=[0]), (run,))
    assert [f.level for f in findings] == [Level.FAIL]


def test_a_router_gives_no_equal_load():
    cells, run = simulate_live(FEW)
    (finding,) = find("comparability", cells, (run,))
    assert finding.text == "same endpoint mix on every arm"
