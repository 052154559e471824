"""Instances with more load than those of the other arm: their times decide nothing, their failures do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from judging import LIVE, RULEBOOK, RUN, assess_live, evidence, judge, judge_live, simulate_live

from evaluator.health.per_instance_load import MOST
from evaluator.records import InstancePrior, Level, MetricStatus, Monitoring, RunFacts, VerdictWord
from evaluator.simulate import Change, simulate_cells

SAME = (Change(),)
SLOW = (Change(latency=0.3),)
FAILING = (Change(failures_added=0.05),)
UNEVEN = {"split": (0.1,), "instances": (4, 4)}
"""Each instance of the canary gets a ninth of the requests."""
FAIR = {"split": (0.2,), "instances": (8, 2)}
"""A fifth of the requests for a fifth of the instances."""
SHARES = {"baseline": 0.9, "canary": 0.1}


def find(cells, runs, rulebook=RULEBOOK):
    return [f for f in assess_live(cells, runs, rulebook).findings if f.check == "per_instance_load"]


def uneven(changes=SAME, **more):
    return simulate_live(replace(LIVE, changes=changes, **UNEVEN, **more), shares=SHARES)


def statuses(judgement):
    return {c.rule.name: c.status for c in judgement.comparisons if not c.scan}


def test_times_of_instances_with_other_loads_decide_nothing():
    cells, run = uneven(SLOW)
    judgement = judge_live(cells, (run,))
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert {statuses(judgement)[name] for name in ("latency_p50", "latency_p95", "latency_p99", "latency_mean")} == {
        MetricStatus.INCONCLUSIVE
    }
    assert all(c.status is not MetricStatus.FAIL for c in judgement.comparisons)
    p50 = next(c for c in judgement.comparisons if c.rule.name == "latency_p50")
    assert p50.effect.estimate == pytest.approx(0.3, abs=0.05), "the numbers are shown nevertheless"
    assert "; an instance of baseline gets 8.93 times the requests of one of canary, which changes" in p50.reason
    assert "share of the requests that fits its number of instances" in judgement.next_action


def test_identical_versions_are_no_go_either():
    cells, run = uneven()
    judgement = judge_live(cells, (run,))
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert statuses(judgement)["failure_rate"] is MetricStatus.PASS


def test_failures_still_decide():
    cells, run = uneven(FAILING)
    judgement = judge_live(cells, (run,))
    assert judgement.word is VerdictWord.NO_GO
    assert judgement.reasons[0].metric == "failure_rate"


def test_earlier_looks_decide_nothing_either():
    cells, run = uneven(SLOW)
    rulebook = replace(RULEBOOK, monitoring=Monitoring(mode="anytime", early_go=True, burn_in_s=60.0))
    judgement = judge_live(cells, (run,), rulebook)
    assert any(c.looks for c in judgement.comparisons)
    assert judgement.word is VerdictWord.INCONCLUSIVE


def test_a_share_that_fits_the_instances_decides():
    cells, run = simulate_live(replace(LIVE, changes=SLOW, **FAIR), shares={"baseline": 0.8, "canary": 0.2})
    (finding,) = find(cells, (run,))
    assert finding.level is Level.OK
    assert judge_live(cells, (run,)).word is VerdictWord.NO_GO


@pytest.mark.parametrize(
    ("split", "level"), [(0.5, Level.OK), (0.42, Level.OK), (0.35, Level.WARN), (0.65, Level.WARN)]
)
def test_the_ratio_from_which_times_are_not_compared(split, level):
    """1.5 is a share of 40 % or 60 % for as many instances."""
    cells, run = simulate_live(replace(LIVE, split=(split,)), shares={"baseline": 1 - split, "canary": split})
    (finding,) = find(cells, (run,))
    assert finding.level is level
    assert (finding.level is Level.WARN) == (max(split / (1 - split), (1 - split) / split) > MOST)


def test_instances_that_were_replaced_do_not_count_twice():
    """The canary's pods live for a minute or two, the baseline's as well: at each time four of each serve."""
    cells, run = simulate_live(replace(LIVE, lifetime_s=(90.0, 150.0)))
    (finding,) = find(cells, (run,))
    assert (finding.level, "each of 3 instances of canary" in finding.text) == (Level.OK, True), finding.text


def test_declared_instances_count_where_the_log_names_one():
    cells, run = simulate_live(replace(LIVE, split=(0.2,), instances=(1, 1)), shares={"baseline": 0.8, "canary": 0.2})
    assert find(cells, (run,))[0].level is Level.WARN
    rulebook = replace(RULEBOOK, prior=InstancePrior(baseline=4, canary=1))
    assert find(cells, (run,), rulebook)[0].level is Level.OK


# ------------------------------------------------------------------ loads with users of each arm


def loaded(users, instances, changes=SAME):
    cells = simulate_cells(replace(LIVE, instances=instances, users=20, changes=changes), 3)
    facts = RunFacts(users=users)
    return cells, replace(RUN, id=cells.runs[0], source="locust", facts=facts)


def test_four_instances_against_one_with_as_many_users():
    cells, run = loaded({"baseline": 20, "canary": 20}, (4, 1), SLOW)
    judgement = judge(cells, runs=(run,))
    assert judgement.word is VerdictWord.INCONCLUSIVE
    (finding,) = [f for f in evidence(cells, runs=(run,)).findings if f.check == "per_instance_load"]
    assert "20 users" in finding.text
    assert "each of 4 instances of baseline 5" in finding.text


def test_a_load_of_equal_instances_has_no_such_finding():
    cells, run = loaded({"baseline": 20, "canary": 20}, (3, 3), SLOW)
    assert judge(cells, runs=(run,)).word is VerdictWord.NO_GO
    assert "per_instance_load" not in {f.check for f in evidence(cells, runs=(run,)).findings}


def test_a_slow_version_in_a_closed_loop_is_still_no_go():
    """Its users wait, so its instances get fewer requests: that is the harm, and no difference of the load."""
    scenario = replace(LIVE, users=20, wait_s=0.05, changes=(Change(latency=1.5),))
    cells = simulate_cells(scenario, 3)
    requests = [int(cells.moments.n[cells.moments.arm == arm].sum()) for arm in (0, 1)]
    assert requests[0] > MOST * requests[1]
    run = replace(RUN, id=cells.runs[0], source="locust", facts=RunFacts(users={"baseline": 20, "canary": 20}))
    assert judge(cells, runs=(run,)).word is VerdictWord.NO_GO


def test_a_load_through_a_router_is_judged_by_requests():
    cells, _ = loaded({}, (4, 4))
    run = replace(RUN, id=cells.runs[0], source="locust", facts=RunFacts(), shares={"baseline": 0.5, "canary": 0.5})
    findings = {f.check: f for f in evidence(cells, runs=(run,)).findings}
    assert findings["sample_ratio"].text.startswith("canary got ")
    throughput = next(c for c in evidence(cells, runs=(run,)).comparisons if c.rule.name == "throughput")
    assert throughput.no_data == "a router chooses how many requests each arm gets"
