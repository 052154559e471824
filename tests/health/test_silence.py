"""Arms, endpoints and instances that fall silent; rows that are not judged; requests in flight."""

import re
from dataclasses import fields, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from judging import RULEBOOK, SMALL, evidence, judge
from judging import RUN as ANY_RUN

from evaluator.records import (
    InFlight,
    InstancePrior,
    LeftOut,
    LeftOutKind,
    Level,
    Monitoring,
    RunFacts,
    RunState,
    VerdictWord,
)
from evaluator.simulate import simulate, to_cells

REQUESTS = simulate(replace(SMALL, duration_s=600.0, rate_per_s=20.0), 3)
START_US = int(REQUESTS.ts_us.min())
SPAN_US = int(np.ptp(REQUESTS.ts_us))
POSITION = (REQUESTS.ts_us - START_US) / SPAN_US
"""When each request was, from 0 to 1."""
CANARY = REQUESTS.arm == 1
RUN = replace(ANY_RUN, id=REQUESTS.runs[0])
LOAD = replace(
    RUN,
    source="locust",
    facts=RunFacts(
        users={"baseline": 20, "canary": 20},
        users_stopped=datetime.fromtimestamp((START_US + SPAN_US) / 1e6, UTC),
    ),
)


def keep(chosen, requests=REQUESTS):
    columns = {f.name: getattr(requests, f.name) for f in fields(requests)}
    return replace(requests, **{name: c[chosen] for name, c in columns.items() if isinstance(c, np.ndarray)})


def find(check, requests, *, run=RUN, rulebook=RULEBOOK):
    """The most severe finding of a check."""
    order = [Level.OK, Level.WARN, Level.FAIL]
    findings = [f for f in evidence(to_cells(requests, 5), rulebook, (run,)).findings if f.check == check]
    return max(findings, key=lambda finding: order.index(finding.level), default=None)


def without(chosen):
    """The requests without some of the canary's."""
    return keep(~(CANARY & chosen))


@pytest.mark.parametrize("run", [RUN, LOAD], ids=["import", "load"])
def test_arms_with_requests_until_the_end_are_in_order(run):
    assert find("silence", REQUESTS, run=run).level is Level.OK


@pytest.mark.parametrize("run", [RUN, LOAD], ids=["import", "load"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.75, 0.9, 0.95])
def test_a_canary_that_dies_is_no_go(share, run):
    requests = without(share < POSITION)
    findings = find("silence", requests, run=run)
    assert findings.level is Level.FAIL
    minute = re.search(r"canary had no request from minute ([\d.]+)", findings.text)
    assert float(minute[1]) == pytest.approx(share * 10, abs=0.2)
    assert "to the end" in findings.text
    assert judge(to_cells(requests, 5), runs=(run,)).word is not VerdictWord.GO


@pytest.mark.parametrize(("hole", "level"), [(0.01, Level.OK), (0.1, Level.WARN), (0.25, Level.FAIL)])
@pytest.mark.parametrize("run", [RUN, LOAD], ids=["import", "load"])
def test_a_hole_is_measured_against_the_run(hole, level, run):
    assert find("silence", without((POSITION > 0.4) & (0.4 + hole > POSITION)), run=run).level is level


def test_the_policy_sets_how_much_silence_of_requests_is_too_much():
    hole = without((POSITION > 0.4) & (POSITION < 0.5))
    assert find("silence", hole, rulebook=replace(RULEBOOK, silence=0.05)).level is Level.FAIL


def test_a_baseline_that_ends_first_is_named():
    ended = keep(CANARY | (POSITION < 0.7))
    assert find("silence", ended).text.startswith("baseline had no request")
    assert find("silence", ended).level is Level.FAIL


def test_time_before_the_canary_is_cut_and_named_unless_its_users_ran():
    late = without(POSITION < 0.4)
    assert find("silence", late).level is Level.OK
    cut = find("overlap", late)
    assert cut.level is Level.WARN
    assert "before canary's first request" in cut.text
    assert find("silence", late, run=LOAD).level is Level.FAIL


def test_a_canary_of_minutes_is_compared_with_its_own_time_of_a_baseline_of_hours():
    """Few requests a minute, and an hour of baseline for ten minutes of canary: this is no silence."""
    short = without((POSITION < 0.45) | (POSITION > 0.6))
    findings = find("silence", short)
    assert "--from" in findings.remedy
    assert "--to" in findings.remedy
    assert "different times" not in find("overlap", short).text


def test_both_arms_silent_at_the_end_of_a_load_are_no_go():
    assert find("silence", keep(POSITION < 0.7), run=LOAD).level is Level.FAIL
    assert find("silence", keep(POSITION < 0.7), run=RUN).level is Level.OK  # an import ends with its last request


def test_a_load_that_goes_on_is_not_judged_at_its_end():
    running = replace(LOAD, state=RunState.RUNNING)
    assert find("silence", without(POSITION > 0.97), run=running).level is not Level.FAIL


def test_an_arm_that_never_answered_is_not_in_order():
    assert find("silence", keep(~CANARY), run=LOAD) is None


def test_an_early_go_checks_the_end_of_a_load_that_goes_on():
    running = replace(LOAD, state=RunState.RUNNING)
    monitoring = Monitoring("group_sequential", early_go=True)
    rulebook = replace(RULEBOOK, monitoring=monitoring)
    assert find("silence", REQUESTS, run=running, rulebook=rulebook).level is Level.OK
    assert find("silence", without(POSITION > 0.9), run=running, rulebook=rulebook).level is Level.FAIL
    assert find("turnover", hand_over(REQUESTS, 1, 0.5), run=running, rulebook=rulebook).level is Level.FAIL


def test_a_canary_that_answers_nothing_but_health_checks_is_silent():
    rarest = int(np.bincount(REQUESTS.endpoint).argmin())
    names = tuple("GET /healthz" if k == rarest else name for k, name in enumerate(REQUESTS.endpoints))
    healthy = replace(REQUESTS, endpoints=names)
    assert find("silence", healthy).level is Level.OK
    findings = find("silence", keep(~CANARY | (healthy.endpoint == rarest) | (POSITION < 0.85), healthy))
    assert findings.level is Level.FAIL
    assert findings.text.startswith("canary had no request")
    assert "health checks are not counted" in findings.text


def test_an_endpoint_is_expected_while_it_is_called_on_baseline():
    """An endpoint that is called only at the start of a run may end sooner on one arm."""
    busiest = int(np.bincount(REQUESTS.endpoint).argmax())
    end = np.where(CANARY, 0.1, 0.2)
    findings = find("silence", keep((REQUESTS.endpoint != busiest) | (end > POSITION)))
    assert findings.level is Level.WARN
    assert "10 % of the run" in findings.text


@pytest.mark.parametrize(("share", "level"), [(0.3, Level.FAIL), (0.7, Level.FAIL), (0.95, Level.WARN)])
def test_an_endpoint_that_the_canary_no_longer_answers(share, level):
    busiest = int(np.bincount(REQUESTS.endpoint).argmax())
    findings = find("silence", without((REQUESTS.endpoint == busiest) & (share < POSITION)))
    assert findings.level is level
    assert REQUESTS.endpoints[busiest] in findings.text
    assert "baseline still answered it" in findings.text


def test_an_endpoint_that_was_never_answered():
    rarest = int(np.bincount(REQUESTS.endpoint).argmin())
    findings = find("comparability", without(REQUESTS.endpoint == rarest))
    assert findings.level is Level.FAIL
    assert "none on canary" in findings.text


# ------------------------------------------------------------------ instances


def hand_over(requests, arm, at, *, kept=True):
    """One instance of an arm ends at a share of the run; the others take its requests, or they are lost."""
    codes = np.unique(requests.instance[requests.arm == arm])
    ends = (requests.arm == arm) & (requests.instance == codes[0]) & (at < POSITION)
    if not kept:
        return keep(~ends, requests)
    return replace(requests, instance=np.where(ends, codes[1], requests.instance))


def test_turnover_of_the_canary_only_is_no_go_unless_it_is_expected():
    ended = hand_over(REQUESTS, 1, 0.5)
    assert find("turnover", ended).level is Level.FAIL
    expected = replace(RULEBOOK, prior=InstancePrior(turnover_expected=True))
    assert find("turnover", ended, rulebook=expected).level is Level.OK
    assert "1 of 3 instances of canary" in find("turnover", ended, rulebook=expected).text


def test_turnover_of_both_arms_is_due_to_the_platform():
    findings = find("turnover", hand_over(hand_over(REQUESTS, 1, 0.5), 0, 0.4))
    assert findings.level is Level.OK
    assert "of baseline" in findings.text


def test_an_instance_whose_requests_are_lost_has_died():
    findings = find("silence", hand_over(REQUESTS, 1, 0.5, kept=False))
    assert findings.level is Level.FAIL
    assert "no other instance took over its requests" in findings.text


@pytest.mark.parametrize(("end", "level"), [(0.25, Level.WARN), (0.6, Level.FAIL), (0.8, Level.FAIL)])
def test_an_instance_that_comes_back_was_away_unless_others_took_its_requests(end, level):
    code = np.unique(REQUESTS.instance[CANARY])[0]
    away = CANARY & (REQUESTS.instance == code) & (POSITION > 0.2) & (end > POSITION)
    findings = find("silence", keep(~away))
    assert findings.level is level
    assert "no other instance took over its requests" in findings.text
    others = np.unique(REQUESTS.instance[CANARY])[1]
    assert find("silence", replace(REQUESTS, instance=np.where(away, others, REQUESTS.instance))).level is Level.OK


def test_instances_that_end_early_are_turnover():
    """Their requests are too few for replicates, but their end is still reported."""
    codes = np.unique(REQUESTS.instance[CANARY])
    crashed = CANARY & (REQUESTS.instance == codes[0]) & (POSITION > 0.015)
    findings = find("turnover", replace(REQUESTS, instance=np.where(crashed, codes[1], REQUESTS.instance)))
    assert findings.level is Level.FAIL


def test_one_of_many_instances_that_ends_does_not_count_as_dead_by_chance():
    """The requests it lost are fewer than the rates of the arms vary by chance."""
    died = 0
    for seed in range(8):
        requests = simulate(replace(SMALL, instances=(40,), duration_s=600.0, rate_per_s=20.0), seed)
        position = (requests.ts_us - requests.ts_us.min()) / np.ptp(requests.ts_us)
        codes = np.unique(requests.instance[requests.arm == 1])
        ends = (requests.instance == codes[0]) & (position > 0.5)
        instance = np.where(ends, codes[1], requests.instance)
        run = replace(RUN, id=requests.runs[0])
        died += find("silence", replace(requests, instance=instance), run=run).level is not Level.OK
    assert died == 0


def test_a_chance_failure_does_not_make_an_ordinary_end_a_death():
    ended = hand_over(hand_over(REQUESTS, 1, 0.5), 0, 0.4)
    quiet = replace(ended, failed=np.zeros_like(ended.failed))
    code = np.unique(REQUESTS.instance[CANARY])[0]
    last = np.flatnonzero(CANARY & (REQUESTS.instance == code) & (POSITION > 0.49) & (POSITION <= 0.5))
    with_failure = replace(quiet, failed=np.isin(np.arange(len(quiet)), last[-1]))
    assert find("silence", with_failure).level is Level.OK
    everybody = replace(quiet, failed=(POSITION > 0.49) & (POSITION <= 0.5) & (np.arange(len(quiet)) % 8 == 0))
    assert find("silence", everybody).level is Level.OK


def test_an_instance_whose_last_requests_failed_has_died():
    ended = hand_over(REQUESTS, 1, 0.5)
    code = np.unique(REQUESTS.instance[CANARY])[0]
    last = CANARY & (REQUESTS.instance == code) & (POSITION > 0.49) & (POSITION <= 0.5)
    failing = replace(ended, failed=ended.failed | last)
    findings = find("silence", failing)
    assert findings.level is Level.FAIL
    assert "its last requests failed" in findings.text


def test_a_name_for_each_request_is_no_instance():
    names = tuple(f"request-{k}" for k in range(len(REQUESTS)))
    requests = replace(REQUESTS, instances=names, instance=np.arange(len(REQUESTS)))
    findings = find("single_instance", requests)
    assert findings.level is Level.FAIL
    assert "count as one instance" in find("replication", requests).text
    assert judge(to_cells(requests, 5)).word is VerdictWord.INCONCLUSIVE


def test_young_instances_are_named():
    """The candidate begins late: its instances are young, those of the baseline are old."""
    findings = find("instance_age", without(POSITION < 0.7))
    assert findings.level is Level.WARN
    assert findings.text.startswith("instances of canary")
    assert find("instance_age", REQUESTS) is None


# ------------------------------------------------------------------ rows


def judged(left_out, *, in_flight=(), source="import"):
    facts = RunFacts(users={"baseline": 20, "canary": 20}, left_out=tuple(left_out), in_flight=tuple(in_flight))
    return replace(RUN, source=source, facts=facts)


def test_the_account_adds_up():
    lone = without(POSITION < 0.2)
    run = judged([LeftOut("canary", LeftOutKind.BAD_ROW, 3), LeftOut("baseline", LeftOutKind.PART, 50)])
    arms = evidence(to_cells(lone, 5), runs=(run,)).arms
    for arm, extra in zip(arms, (50, 3), strict=True):
        landed = int((lone.arm == (arm.name == "canary")).sum())
        assert arm.read == landed + extra == arm.requests + sum(part.rows for part in arm.left_out)
        failures = int(lone.failed[lone.arm == (arm.name == "canary")].sum())
        assert sum(part.failures for part in arm.left_out) <= failures
    assert {part.kind for part in arms[0].left_out} == {LeftOutKind.NO_COUNTERPART, LeftOutKind.PART}


@pytest.mark.parametrize("kind", [LeftOutKind.BAD_ROW, LeftOutKind.OTHER_KIND, LeftOutKind.OUTSIDE_PERIOD])
def test_failures_that_are_not_judged_forbid_a_go(kind):
    few = judged([LeftOut("canary", kind, 100, failures=0)])
    many = judged([LeftOut("canary", kind, 100, failures=20)])
    assert find("left_out", REQUESTS, run=few).level is Level.OK
    findings = find("left_out", REQUESTS, run=many)
    assert findings.level is Level.FAIL
    assert "20 failed" in findings.text


def test_failures_in_the_warm_up_of_both_arms_are_not_caused_by_the_candidate():
    both = [LeftOut(arm, LeftOutKind.OUTSIDE_PERIOD, 200, failures=30) for arm in ("baseline", "canary")]
    assert find("left_out", REQUESTS, run=judged(both)).level is Level.OK
    assert find("left_out", REQUESTS, run=judged(both[1:])).level is Level.FAIL


@pytest.mark.parametrize(("rows", "failures"), [(5, 5), (20, 8)])
def test_a_few_rows_of_the_baseline_do_not_excuse_many_of_the_candidate(rows, failures):
    # Of checks only those that failed have a row: the share that failed is 100 % in both arms.
    few = LeftOut("baseline", LeftOutKind.OTHER_KIND, rows, failures, "checks")
    for many, level in ((400, Level.FAIL), (failures, Level.OK)):
        run = judged([few, LeftOut("canary", LeftOutKind.OTHER_KIND, many, many * failures // rows, "checks")])
        assert find("left_out", REQUESTS, run=run).level is level


def test_bad_rows_beyond_the_coverage_or_of_one_arm_are_no_go():
    n = int(CANARY.sum())
    alike = [LeftOut(arm, LeftOutKind.BAD_ROW, 20) for arm in ("baseline", "canary")]
    assert find("coverage", REQUESTS, run=judged(alike)).level is Level.WARN
    lopsided = judged([LeftOut("canary", LeftOutKind.BAD_ROW, 30)])
    assert "the shares differ" in find("coverage", REQUESTS, run=lopsided).text
    too_many = judged([LeftOut(arm, LeftOutKind.BAD_ROW, n // 20) for arm in ("baseline", "canary")])
    assert "health.coverage" in find("coverage", REQUESTS, run=too_many).text
    for run in (lopsided, too_many):
        assert find("coverage", REQUESTS, run=run).level is Level.FAIL


def test_lost_rows_are_no_go():
    findings = find("left_out", REQUESTS, run=judged([LeftOut("canary", LeftOutKind.LOST, 4)]))
    assert findings.level is Level.FAIL
    assert "4 rows" in findings.text


# ------------------------------------------------------------------ in flight


def in_flight(arm, count, age_s):
    end_s = (START_US + SPAN_US) / 1e6
    return [InFlight(arm, "i", REQUESTS.endpoints[0], end_s - age_s, age_s) for _ in range(count)]


def test_equally_many_requests_in_flight_are_in_order():
    run = judged([], in_flight=[*in_flight("baseline", 3, 0.1), *in_flight("canary", 4, 0.2)], source="locust")
    assert find("in_flight", REQUESTS, run=run).level is Level.OK


def test_a_canary_that_holds_all_its_users_at_the_end_is_no_go():
    run = judged([], in_flight=[*in_flight("baseline", 1, 0.1), *in_flight("canary", 20, 5.0)], source="locust")
    assert find("in_flight", REQUESTS, run=run).level is Level.FAIL


def test_old_requests_count_as_failures_of_the_metric():
    run = judged([], in_flight=in_flight("canary", 20, 60.0), source="locust")
    row = next(c for c in evidence(to_cells(REQUESTS, 5), runs=(run,)).comparisons if c.rule.name == "failure_rate")
    alone = next(c for c in evidence(to_cells(REQUESTS, 5)).comparisons if c.rule.name == "failure_rate")
    assert row.candidate.value > alone.candidate.value
    assert find("in_flight", REQUESTS, run=run).level is Level.WARN


def test_rows_of_another_kind_that_only_the_canary_has_may_hide_requests():
    n = int(CANARY.sum())
    hidden = judged([LeftOut("canary", LeftOutKind.OTHER_KIND, n // 10, detail="foo")])
    findings = find("coverage", REQUESTS, run=hidden)
    assert findings.level is Level.FAIL
    assert "differ in share" in findings.text
    alike = judged([LeftOut(arm, LeftOutKind.OTHER_KIND, n // 10, detail="foo") for arm in ("baseline", "canary")])
    assert find("coverage", REQUESTS, run=alike).level is Level.OK


def test_a_test_of_a_fixed_number_of_requests_may_end_earlier_on_the_faster_arm():
    """The same number of requests in 90 % of the time is in order; fewer are a silence."""
    early = replace(REQUESTS, ts_us=np.where(CANARY, START_US + (REQUESTS.ts_us - START_US) * 9 // 10, REQUESTS.ts_us))
    assert find("silence", early).level is Level.WARN
    assert find("silence", keep(~(CANARY & (POSITION > 0.9)))).level is Level.FAIL


@pytest.mark.parametrize("run", [RUN, LOAD], ids=["import", "load"])
def test_an_instance_that_restarts_is_not_dead(run):
    """Away for 20 s of ten minutes; its requests are lost."""
    code = np.unique(REQUESTS.instance[CANARY])[0]
    away = without((REQUESTS.instance == code) & (POSITION > 0.5) & (POSITION < 0.535))
    assert find("silence", away, run=run).level is not Level.FAIL
    gone = without((REQUESTS.instance == code) & (POSITION > 0.5))
    assert find("silence", gone, run=run).level is Level.FAIL
