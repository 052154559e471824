"""What the judge says: the figures of each sentence against the numbers of the evidence, and what to do next."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import pytest

from evaluator.judges import advice, wording
from evaluator.judges.native import judge_evidence
from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean, LatencyQuantile
from evaluator.metrics.outcome_proportion import OutcomeProportion
from evaluator.metrics.status_mix import RedirectRate
from evaluator.metrics.throughput import Throughput
from evaluator.records import (
    ArmSummary,
    ArmValue,
    Comparison,
    Direction,
    Drift,
    Effect,
    Evidence,
    Finding,
    Level,
    Limit,
    Margin,
    MetricStatus,
    Question,
    Reason,
    Role,
    Rule,
    Rulebook,
    Slice,
    VerdictWord,
    Window,
)

P95 = Rule("latency_p95", LatencyQuantile(quantile=0.95), margin=Margin(0.1))
THROUGHPUT = Rule("throughput", Throughput(), margin=Margin(0.05), direction=Direction.HIGHER)
FAILURES = Rule("failure_rate", FailureRate(), margin=Margin(0.001, relative=False), limit=Limit(max=0.01))
REDIRECTS = Rule("redirect_rate", RedirectRate(), margin=Margin(0.05))
UNKNOWN = Question("margin", 0.1, 0.5, 0.5)
WITHIN = Question("margin", 0.1, 0.999, 0.001)
WORSE = Question("margin", 0.1, 0.0001, 0.999)


def row(rule=P95, *, change=0.04, reach=0.02, kind="relative", questions=(UNKNOWN,), **changes):
    """A comparison of canary whose change is `change`, give or take `reach`."""
    comparison = Comparison(
        rule=rule,
        arm="canary",
        unit={"throughput": "/s", "failure_rate": "fraction"}.get(rule.type, "ms"),
        baseline=ArmValue(100.0, 1000),
        candidate=ArmValue(104.0, 1200),
        method="test",
        effect=Effect(kind, change, change - reach, change + reach),
        questions=questions,
    )
    return replace(comparison, **changes)


def evidence(*comparisons, seconds=300.0, **changes):
    arms = (ArmSummary("baseline", "baseline", 1000, 3, 1), ArmSummary("canary", "candidate", 1000, 3, 1))
    return replace(Evidence(tuple(comparisons), (), arms, Window(None, None, seconds)), **changes)


def judge(*comparisons, **changes):
    return judge_evidence(evidence(*comparisons, **changes), Rulebook(()), "cart@2")


@pytest.mark.parametrize(
    ("comparison", "text"),
    [
        (row(), "p95 rose 4 % (90 % CI +2 … +6 %)"),
        (row(change=-0.04, reach=0.05), "p95 fell 4 % (90 % CI −9 … +1 %)"),
        (row(change=-0.04), "p95 improved by 4 % (90 % CI −6 … −2 %)"),
        (row(change=0.0), "p95 did not change (90 % CI −2 … +2 %)"),
        (row(change=-3.0, reach=1.0, kind="absolute"), "p95 improved by 3 ms (90 % CI −4 … −2 ms)"),
        (
            row(FAILURES, change=0.002, reach=0.001, kind="absolute"),
            "failures rose 0.2 pp (90 % CI +0.1 … +0.3 pp)",
        ),
        (row(THROUGHPUT, change=-0.08), "throughput fell 8 % (90 % CI −10 … −6 %)"),
    ],
)
def test_a_hold_says_how_much_it_moved_and_what_is_allowed(comparison, text):
    allowed = {
        "throughput": "more than the 5 % allowed",
        "failure_rate": "more than the 0.1 pp allowed",
    }.get(comparison.rule.name, "more than the 10 % allowed")
    reason = wording.explain_hold(comparison, 0.05)
    assert reason == Reason("hold_breached", f"{text}, {allowed}", comparison.rule.name, "canary")
    alone = replace(comparison, rule=replace(comparison.rule, margin=None))
    assert wording.explain_hold(alone, 0.05).text == f"{text}, which is worse than baseline"


@pytest.mark.parametrize(("alpha", "level"), [(0.05, "90"), (0.01, "98"), (0.025, "95"), (0.2, "60")])
def test_the_level_of_an_interval_is_that_of_two_sides(alpha, level):
    assert f"({level} % CI +2 … +6 %)" in wording.explain_hold(row(), alpha).text


def test_a_metric_without_an_effect_is_named_alone():
    assert wording.explain_hold(row(effect=None), 0.05).text == "p95, more than the 10 % allowed"


@pytest.mark.parametrize(("quantile", "share"), [(0.95, "5"), (0.9, "10"), (0.5, "50"), (0.25, "75")])
def test_a_quantile_that_became_a_failure_says_which_share_fails(quantile, share):
    gone = row(
        replace(P95, metric=LatencyQuantile(quantile=quantile)),
        effect=Effect("relative", math.inf, 3.0, math.inf),
        questions=(WORSE,),
    )
    assert f"became a failure: more than {share} % of the requests of canary fail" in judge(gone).reasons[0].text
    assert "allowed" not in judge(gone).reasons[0].text


@pytest.mark.parametrize(
    ("limit", "beyond", "kept"),
    [
        (Limit(max=90.0), (90.001, 104.0), (90.0, 12.0)),
        (Limit(min=110.0), (109.999, 0.0), (110.0, 500.0)),
        (Limit(min=50.0, max=90.0), (49.0, 91.0), (50.0, 70.0, 90.0, None)),
        (Limit(), (), (0.0, 100.0)),
    ],
)
def test_a_value_is_beyond_a_limit_on_its_harmful_side_alone(limit, beyond, kept):
    """Both arms beyond it: the limit is broken "as the baseline does"."""
    questions = (Question("limit", 90.0, 0.0001, 0.9),) if limit.count else (WORSE,)
    for values, expected in ((beyond, True), (kept, False)):
        for value in values:
            comparison = row(replace(P95, limit=limit), baseline=ArmValue(value, 1000), questions=questions)
            assert wording.broke_limit_as_baseline(comparison, 0.05) is expected


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (Limit(max=90.0), "p95 of canary is 104 ms, at most 90 ms is allowed"),
        (Limit(min=110.0), "p95 of canary is 104 ms, at least 110 ms is allowed"),
        (Limit(min=20.0, max=90.0), "p95 of canary is 104 ms, at most 90 ms and at least 20 ms is allowed"),
    ],
)
def test_a_broken_limit_is_reported_with_the_candidates_value(limit, text):
    within = (limit.max or 120.0) - 5.0
    offender = row(
        replace(P95, limit=limit), questions=(UNKNOWN, Question("limit", 90.0, 1e-4, 0.9)), baseline=ArmValue(within, 1)
    )
    assert wording.explain_failure(offender, 0.05) == Reason("limit", text, "latency_p95", "canary")


@pytest.mark.parametrize(
    ("margin", "limit", "baseline", "code"),
    [
        (0.02, 0.001, 80.0, "limit"),
        (0.001, 0.02, 80.0, "regression"),
        (0.01, 0.01, 80.0, "regression"),
        (0.02, 0.001, 95.0, "regression"),
        (0.05, 0.001, 95.0, "limit"),
        (0.6, 0.001, 95.0, "limit"),
        (0.6, 0.7, 95.0, "regression"),
        (None, 0.001, 95.0, "limit"),
        (None, 0.001, 80.0, "limit"),
        (0.001, None, 95.0, "regression"),
    ],
)
def test_margin_or_limit_is_reported(margin, limit, baseline, code):
    """The surer one; where the baseline breaks the limit too, the margin if it is broken at all (alpha 5 %)."""
    questions = [Question("margin", 0.1, margin, 0.9)] if margin is not None else []
    questions += [Question("limit", 90.0, limit, 0.9)] if limit is not None else []
    questions += [Question("zero", 0.0, 1e-6, 0.9)]
    rule = replace(P95, limit=Limit(max=90.0))
    comparison = row(rule, questions=tuple(questions), baseline=ArmValue(baseline, 1000))
    assert wording.explain_failure(comparison, 0.05).code == code


def test_a_row_of_the_scan_is_an_endpoint_regression():
    rule = Rule("latency_mean", LatencyMean(), margin=Margin(0.25), slice=Slice("GET /a"))
    reason = wording.explain_failure(row(rule, change=0.4, questions=(WORSE,), scan=True), 0.05)
    text = "mean of GET /a rose 40 % (90 % CI +38 … +42 %), more than the 25 % allowed"
    assert reason == Reason("endpoint_regression", text, "latency_mean", "canary", "GET /a")


def test_what_is_missing_is_grouped_by_its_cause():
    gone = {"questions": (), "effect": None, "no_data": "canary has no requests", "reason": "p95: nothing"}
    rows = [row(replace(P95, name=name), **gone) for name in ("a", "b")]
    unasked = row(replace(P95, name="c"), **(gone | {"no_data": None, "reason": "c: nothing was asked"}))
    grouped, alone = wording.explain_missing([rows[0], unasked, rows[1]])
    assert grouped == Reason("no_data", "canary has no requests: no data for a, b", arm="canary")
    assert alone == Reason("no_data", "c: nothing was asked", "c", "canary")
    assert wording.explain_missing([]) == []


LIMITED = replace(P95, limit=Limit(max=110.0))
LIMIT_OPEN, LIMIT_KEPT = Question("limit", 110.0, 0.5, 0.5), Question("limit", 110.0, 0.999, 0.001)
PASS, OPEN = MetricStatus.PASS, MetricStatus.INCONCLUSIVE


@pytest.mark.parametrize(
    ("comparison", "status", "within", "text"),
    [
        (row(), PASS, True, ", within the 10 % allowed"),
        (row(), OPEN, False, "; could be within or beyond the 10 % allowed"),
        (row(needed_time=3.0), OPEN, False, "; could be within or beyond the 10 % allowed: needs about 10 min more"),
        (row(needed_time=1.0), OPEN, False, "; could be within or beyond the 10 % allowed: needs about 75 s more"),
        (row(needed_time=math.inf), OPEN, False, "; could be within or beyond the 10 % allowed"),
        (row(needed_time=3.0, scan=True), OPEN, False, "; could be within or beyond the 10 % allowed"),
        (
            row(p_value=0.028, p_value_adjusted=0.23),
            OPEN,
            False,
            "; beyond the 10 % allowed by itself, but not after allowing for all gates (p 0.028, adjusted 0.23)",
        ),
        (
            row(p_value=0.028, p_value_adjusted=2.0, scan=True),
            OPEN,
            False,
            "; beyond the 10 % allowed by itself, but not after allowing for all endpoints (p 0.028, adjusted 1)",
        ),
        (
            row(questions=(WITHIN,)),
            OPEN,
            False,
            "; within the 10 % allowed by itself, but not after allowing for all candidates",
        ),
        (
            row(),
            OPEN,
            True,
            ", within the 10 % allowed over the whole run, but it gets worse and goes beyond that towards the end",
        ),
        (row(unresolved="steps of 1 ms"), OPEN, False, "; steps of 1 ms"),
        (row(replace(P95, margin=None)), OPEN, False, "; no margin is set"),
        (row(replace(LIMITED, margin=None)), PASS, True, "; keeps to its limit of at most 110 ms"),
        (
            row(replace(LIMITED, margin=None), questions=(LIMIT_KEPT,)),
            OPEN,
            False,
            "; keeps to its limit of at most 110 ms by itself, but not after allowing for all candidates",
        ),
        (
            row(LIMITED, questions=(UNKNOWN, LIMIT_KEPT)),
            OPEN,
            False,
            "; could be within or beyond the 10 % allowed",
        ),
    ],
)
def test_each_status_of_a_metric_says_why(comparison, status, within, text):
    reason = wording.explain_status(replace(comparison, status=status), 0.05, shown_within=within, judged_s=300.0)
    assert reason == f"p95 rose 4 % (90 % CI +2 … +6 %){text}"


@pytest.mark.parametrize(
    ("rule", "change", "reach", "text"),
    [
        (P95, -0.04, 0.02, "p95 improved by 4 % (90 % CI −6 … −2 %); a rise of up to 10 % was allowed"),
        (P95, -0.01, 0.02, "p95 fell 1 % (90 % CI −3 … +1 %); a rise of up to 10 % was allowed"),
        (THROUGHPUT, 0.04, 0.02, "throughput improved by 4 % (90 % CI +2 … +6 %); a drop of up to 5 % was allowed"),
        (THROUGHPUT, -0.01, 0.02, "throughput fell 1 % (90 % CI −3 … +1 %), within the 5 % allowed"),
        (replace(P95, margin=Margin(0.0)), -0.04, 0.02, "p95 improved by 4 % (90 % CI −6 … −2 %); no rise was allowed"),
        (
            replace(REDIRECTS, direction=Direction.HIGHER),
            -0.01,
            0.02,
            "redirects fell 1 % (90 % CI −3 … +1 %), within the 5 % allowed",
        ),
    ],
)
def test_what_passes_says_which_direction_is_harm(rule, change, reach, text):
    comparison = row(rule, change=change, reach=reach, status=PASS)
    assert wording.explain_status(comparison, 0.05, shown_within=True) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"questions": (LIMIT_OPEN,)}, "104 ms; the limit is at most 110 ms, which it is not shown to keep"),
        (
            {"questions": (WITHIN, replace(LIMIT_OPEN, p_within=0.2))},
            "104 ms, could be up to about 116 ms; the limit is at most 110 ms",
        ),
        (
            {"questions": (WITHIN, replace(LIMIT_OPEN, p_within=0.05))},
            "104 ms, could be up to about 110 ms; the limit is at most 110 ms",
        ),
        (
            {"questions": (WITHIN, LIMIT_OPEN), "baseline": ArmValue(120.0, 9)},
            "104 ms; the limit is at most 110 ms, which it is not shown to keep; baseline itself is beyond it (120 ms)",
        ),
        (
            {"questions": (LIMIT_OPEN,), "candidate": ArmValue(112.0, 9)},
            "112 ms; the limit is at most 110 ms, but this may be chance",
        ),
    ],
)
def test_a_limit_that_is_not_shown_to_be_kept_says_how_far_the_value_could_reach(changes, text):
    comparison = row(LIMITED, **changes)
    assert wording.explain_status(comparison, 0.05, shown_within=False) == f"p95 of canary is {text}"


@pytest.mark.parametrize(("failures", "bound"), [(9, 0.02), (9, 0.015), (40, 0.05)])
def test_the_value_that_a_share_could_reach_is_the_limit_it_would_just_keep(failures, bound):
    """Score test of a share: the reach found at one limit is where the p-value becomes alpha."""
    n, share = 1000, failures / 1000

    def find_p(limit):
        return NormalDist().cdf((share - limit) / math.sqrt(limit / n))

    question = Question("limit", bound, 0.5, find_p(bound))
    reach = wording._find_reach(share, question, 0.05, is_share=True)
    assert find_p(reach) == pytest.approx(0.05, rel=1e-6)
    mirrored = wording._find_reach(1 - share, replace(question, bound=1 - bound), 0.05, is_share=True)
    assert mirrored == pytest.approx(1 - reach)


@pytest.mark.parametrize(
    ("p", "level", "bound"), [(0.0, 1.0, 2.0), (0.45, 1.0, 2.0), (0.3, 0.0, 2.0), (0.3, 1e-9, 9e9)]
)
def test_a_reach_is_not_said_where_the_p_value_does_not_show_it(p, level, bound):
    assert wording._find_reach(level, Question("limit", bound, 0.5, p), 0.05, is_share=False) is None


@pytest.mark.parametrize(
    ("margin", "effect", "unit", "text"),
    [
        (
            Margin(0.25),
            Effect("relative", 0.2, 0.17, 0.23),
            "ms",
            "+20 % (+17 … +23), more than the 15 % tolerated",
        ),
        (
            Margin(0.01, relative=False),
            Effect("absolute", 0.2, 0.17, 0.23),
            "fraction",
            "+20 pp (+17 … +23), more than the 15 pp tolerated",
        ),
        (None, None, "ms", "worse, more than the 15 % tolerated"),
    ],
)
def test_an_endpoint_beyond_what_is_tolerated_says_by_how_much(margin, effect, unit, text):
    rule = Rule("latency_mean", LatencyMean(), margin=margin, slice=Slice("GET /a"))
    questions = (Question("margin", 0.25, 0.5, 0.5), Question("tolerance", 0.15, 0.001, 0.999))
    reason = wording.explain_scan_doubt(row(rule, scan=True, questions=questions, effect=effect, unit=unit))
    assert reason.text == (
        f"mean of GET /a is worse by {text} for one endpoint; this forbids a GO, but is not enough for a NO-GO"
    )
    assert (reason.code, reason.slice) == ("endpoint_worse", "GET /a")


@pytest.mark.parametrize(
    ("count", "names"),
    [(1, "/0"), (3, "/0, /1, /2"), (4, "/0, /1, /2 and 1 more"), (9, "/0, /1, /2 and 6 more")],
)
def test_endpoints_that_are_not_judged_are_named_up_to_three(count, names):
    measured = evidence(unjudged_share=0.083, unjudged_endpoints=tuple(f"/{i}" for i in range(count)))
    assert wording.explain_unjudged(measured).text == (
        f"8.3 % of the traffic is on endpoints that have too few requests, or none on one arm: {names}"
    )


def passing(rule=P95, **changes):
    return row(rule, status=PASS, questions=(WITHIN,), **changes)


@pytest.mark.parametrize(
    ("rows", "changes", "text"),
    [
        (
            [passing(change=0.01), passing(replace(P95, name="b"), change=0.05)],
            {},
            (
                "both gates are shown to be within their margins; the least certain gate is b: +5 %, at worst +7 %; "
                "+10 % was allowed; judged on 5 min of load"
            ),
        ),
        (
            [passing(), passing(THROUGHPUT, change=-0.02)],
            {},
            (
                "both gates are shown to be within their margins; the least certain gate is throughput: −2 %, at "
                "worst −4 %; −5 % was allowed; judged on 5 min of load"
            ),
        ),
        (
            [passing(), passing(THROUGHPUT, change=0.2), passing(role := replace(P95, name="h", role=Role.WATCH))],
            {"collected": True},
            (
                "both gates are shown to be within their margins; the least certain gate is p95: +4 %, at worst +6 %; "
                "+10 % was allowed; judged on 5 min of readings"
            ),
        ),
        (
            [passing(replace(role, role=Role.HOLD))],
            {},
            "the hold is within its margin; h: +4 %, at worst +6 %; +10 % was allowed; judged on 5 min of load",
        ),
        (
            [passing(replace(P95, limit=Limit(max=110.0))), passing(replace(LIMITED, name="b", margin=None))],
            {},
            (
                "the gate is within its margin; 2 limits are kept: p95 at most 110 ms (104 ms), b at most 110 ms "
                "(104 ms); p95: +4 %, at worst +6 %; +10 % was allowed; judged on 5 min of load"
            ),
        ),
    ],
)
def test_a_go_names_the_gate_that_is_least_certain(rows, changes, text):
    assert wording.explain_go(rows, evidence(**changes)).text == text


@pytest.mark.parametrize(
    ("seconds", "units", "on"),
    [
        (300.0, 0, "on 5 min of load"),
        (300.0, 1500, "on 5 min of load and outcomes of 3,000 users"),
        (0.0, 1500, "on outcomes of 3,000 users"),
        (0.0, 0, "on 0 s of load"),
        (0.5, 0, "on 0.5 s of load"),
    ],
)
def test_a_go_says_on_how_much_it_was_judged(seconds, units, on):
    judged = evidence(seconds=seconds)
    judged = replace(judged, arms=tuple(replace(arm, units=units) for arm in judged.arms))
    assert wording.explain_go([passing()], judged).text.endswith(on)


def test_the_best_candidate_uses_least_of_its_margins():
    """By the harmful end of its worst metric: of throughput that is the lower one."""
    b = [passing(arm="b", change=0.01), passing(THROUGHPUT, arm="b", change=-0.02)]  # 30 and 80 % of the margins
    c = [passing(arm="c", change=0.05), passing(THROUGHPUT, arm="c", change=0.1)]  # 70 %, and none
    assert wording.find_best([*b, *c], ["b", "c"]) == "c"
    assert wording.find_best([*b, *c], ["b"]) == "b"
    watched = passing(replace(P95, role=Role.WATCH), arm="c", change=0.5)
    scanned = passing(replace(P95, slice=Slice("/a")), arm="c", change=0.5, scan=True)
    assert wording.find_best([*b, *c, watched, scanned], ["b", "c"]) == "c"


def test_a_candidate_without_a_margin_is_not_preferred():
    free = passing(replace(LIMITED, margin=None), arm="a")
    assert wording.find_best([free, passing(arm="b", change=0.05)], ["a", "b"]) == "b"
    blind = passing(arm="a", effect=None)
    assert wording.find_best([blind, passing(arm="b", change=0.05)], ["a", "b"]) == "b"


def test_a_choice_names_the_other_candidates_with_go_and_those_not_decided():
    reason = Reason("within_margins", "all is well")
    alone = wording.explain_choice("b", ["b"], [], 2, reason)
    assert alone.text == "b: all is well; only this one of 2 candidates is shown to be within its margins"
    assert alone.arm == "b"
    several = wording.explain_choice("b", ["a", "b", "c"], ["d", "e"], 5, reason)
    assert several.text == (
        "b: all is well; of 5 candidates it stays furthest from its margins; also GO: a, c; not decided: d, e"
    )


def test_a_reason_is_prefixed_with_its_arm():
    assert wording.name_arm(Reason("x", "it rose", arm="b")).text == "b: it rose"
    assert wording.name_arm(Reason("x", "a clock is off")).text == "a clock is off"


# ------------------------------------------------------------------ what next


def test_the_next_action_after_a_no_go_names_the_arm_or_its_endpoint():
    text = "do not promote cart@2; find and fix the cause in {}, then load and judge again"
    all_traffic, endpoint = Reason("regression", "", "latency_p95", "b"), Reason("regression", "", "m", "b", "GET /a")
    assert advice.next_after_no_go([all_traffic], "cart@2", [], 0.05) == text.format("b")
    assert advice.next_after_no_go([endpoint, all_traffic], "cart@2", [], 0.05) == text.format("GET /a on b")


def test_after_a_limit_that_both_arms_break_a_rollback_does_not_help():
    """Only of the arm and endpoint that broke it, and not by a row of the scan of the same name."""
    questions = (Question("limit", 0.01, 1e-4, 0.9),)
    both = row(FAILURES, questions=questions, baseline=ArmValue(0.4, 9), candidate=ArmValue(0.5, 9))
    alone = replace(both, baseline=ArmValue(0.005, 9))
    reason = wording.explain_failure(both, 0.05)

    def say(first, *judged):
        return advice.next_after_no_go([first], "cart@2", judged, 0.05)

    no_help = "baseline breaks the limit of at most 1 % too (40 %), so a rollback does not help"
    assert say(reason, replace(alone, arm="b"), both).startswith(no_help)
    assert say(reason, both, replace(alone, scan=True)).startswith(no_help)
    assert say(reason, alone, replace(both, arm="b")).startswith("do not promote")
    assert say(reason, replace(both, scan=True)).startswith("do not promote")
    assert say(replace(reason, code="regression"), both).startswith("do not promote")


def advise(*comparisons, doubts=None, **changes):
    """Advice on rows that are not shown to be within their margins."""
    doubts = doubts or [wording.give_reason("not_shown", c.reason, c) for c in comparisons]
    return advice.next_after_inconclusive(doubts, comparisons, evidence(*comparisons, **changes), "cart@2")


def test_the_remedy_of_a_run_that_ended_early_comes_before_that_of_a_void_comparison():
    def failed(check, *, void=False, level=Level.FAIL, remedy=None):
        return Finding(check, level, "no", void=void, remedy=check if remedy is None else remedy)

    silence, void, ended = failed("silence"), failed("clock", void=True), failed("complete")
    assert advise(row(), findings=(silence, void, ended)) == "complete"
    assert advise(row(), findings=(silence, void)) == "clock"
    assert advise(row(), findings=(silence, failed("gaps"))) == "silence"
    mute, warned = failed("clock", void=True, remedy=""), failed("complete", level=Level.WARN)
    assert advise(row(), findings=(mute, warned, silence)) == "silence"


def test_missing_data_are_recorded_and_a_hold_needs_a_decision():
    missing, held = Reason("no_data", "p95: no requests"), Reason("hold_breached", "p95 rose")
    assert advise(doubts=[missing, held]) == (
        "record what is missing (p95: no requests), then `evaluator verdict cart@2`"
    )
    assert advise(doubts=[Reason("not_final", ""), held]) == (
        "decide whether the harm to the held metric is acceptable; a hold forbids a GO, but causes no NO-GO"
    )


MINUTES = ", if the change stays as it is"


@pytest.mark.parametrize(
    ("needed", "seconds", "says"),
    [
        (3.0, 300.0, "load for about 15 min in all (--run-time)"),
        (1.26, 400.0, "load for about 8.4 min in all (--run-time)"),
        (1.0, 400.0, "load for about 8.3 min in all (--run-time)"),
        (0.0, 400.0, "load for about 8.3 min in all (--run-time)"),
        (2.0, 24 * 3600.0, "load for about 48 h in all (--run-time)"),
    ],
)
def test_a_wait_is_at_least_a_quarter_longer_and_at_most_two_days(needed, seconds, says):
    assert advise(row(needed_time=needed), seconds=seconds) == says + MINUTES


@pytest.mark.parametrize(("needed", "seconds"), [(math.inf, 300.0), (2.0001, 24 * 3600.0), (3.0, 0.0)])
def test_a_wait_that_is_longer_or_of_nothing_is_not_advised(needed, seconds):
    assert advise(row(needed_time=needed), seconds=seconds) == (
        "more minutes will not decide it: load more instances an arm, or more replicates (--replicates 5)"
    )


def test_the_slowest_metric_says_how_long():
    rows = [row(replace(P95, name=name), needed_time=needed) for name, needed in (("a", 2.0), ("b", 4.0), ("c", None))]
    assert advise(*rows) == "load for about 20 min in all (--run-time)" + MINUTES
    doubts = [wording.give_reason("not_shown", rows[0].reason, rows[0])]
    assert advise(*rows, doubts=doubts) == "load for about 10 min in all (--run-time)" + MINUTES
    scanned = replace(rows[0], needed_time=9.0, scan=True)
    assert advise(*rows, scanned, doubts=doubts) == "load for about 10 min in all (--run-time)" + MINUTES
    watched = [Reason("endpoint_worse", "", "b", "canary", "GET /a"), *doubts]
    assert "10 min" in advise(*rows, doubts=watched)


def test_more_data_are_collected_as_before():
    longer, never = row(needed_time=3.0), row(needed_time=math.inf)
    assert advise(longer, imported=True) == "import about 15 min of load" + MINUTES
    assert advise(longer, collected=True) == "collect about 15 min in all" + MINUTES
    nothing = "more minutes will not decide it: "
    assert advise(never, imported=True) == f"{nothing}import more instances an arm, or more files of repeated runs"
    assert advise(never, collected=True) == f"{nothing}run more instances of each arm"


def test_times_too_coarse_are_recorded_in_finer_steps_and_histograms_get_other_bounds():
    coarse = row(needed_time=math.inf, unresolved="steps of 1 ms", too_coarse=True)
    assert advise(row(replace(P95, name="b"), needed_time=2.0), coarse).startswith("more requests do not help: record")
    assert advise(replace(coarse, too_coarse=False)).startswith("give the histogram the bounds that its metric needs")


@pytest.mark.parametrize(
    ("rule", "change", "beyond"),
    [
        (P95, 0.1, True),
        (P95, 0.099, False),
        (P95, -0.2, False),
        (THROUGHPUT, -0.05, True),
        (THROUGHPUT, -0.049, False),
        (THROUGHPUT, 0.2, False),
        (replace(P95, margin=None), 0.5, False),
    ],
)
def test_a_change_as_large_as_its_margin_needs_a_decision_in_both_directions(rule, change, beyond):
    text = advise(row(rule, change=change, needed_time=math.inf))
    assert text.startswith("the change is as large as the margin: fix the candidate") is beyond
    assert text.startswith("more minutes will not decide it") is not beyond


@pytest.mark.parametrize(
    ("p_within", "last_third", "beyond"),
    [(0.01, 0.0, True), (0.01, 0.02, True), (0.01, -0.001, False), (0.05, 0.02, False), (0.2, 0.02, False)],
)
def test_a_drift_beyond_the_margin_needs_a_decision(p_within, last_third, beyond):
    questions = (Question("margin", 0.1, 0.9, p_within), Question("zero", 0.0, 0.4, 0.6))
    drifting = row(questions=questions, needed_time=math.inf, drift=Drift(last_third, 0.5, last_third))
    assert advise(drifting).startswith("the change is as large as the margin") is beyond
    assert advise(replace(drifting, drift=None)).startswith("more minutes will not decide it")
    assert advise(replace(drifting, effect=None)).startswith("more minutes will not decide it")


BOUGHT = Rule("bought", OutcomeProportion(outcome="bought"), margin=Margin(0.01, relative=False))
LARGE = "the change is about as large as the margin: fix the candidate, or decide whether the margin is right"


@pytest.mark.parametrize(
    ("needed", "says"),
    [
        (3.0, "import about 6,600 users in all" + MINUTES),
        (1.0001, "import about 2,201 users in all" + MINUTES),
        (100.0, "import about 220,000 users in all" + MINUTES),
        (100.1, LARGE),
        (1.0, LARGE),
        (0.0, LARGE),
        (math.inf, LARGE),
    ],
)
def test_outcomes_need_more_units(needed, says):
    few = row(replace(BOUGHT, name="few"), baseline=ArmValue(0.1, 10), candidate=ArmValue(0.1, 20), needed_time=needed)
    assert advise(row(BOUGHT, needed_time=needed), few) == says


def test_outcomes_with_requests_wait_for_time():
    assert advise(row(BOUGHT, needed_time=3.0), row(needed_time=3.0)).startswith("load for about 15 min")


@pytest.mark.parametrize(
    ("doubt", "says"),
    [
        (
            Reason("endpoint_worse", "", "failure_rate", "canary", "GET /a"),
            "check GET /a; if its harm is acceptable, raise `endpoint_scan: {failure_tolerance: …}`, or",
        ),
        (
            Reason("endpoint_worse", "", "latency_mean", "canary", "GET /a"),
            "check GET /a; if its harm is acceptable, raise `endpoint_scan: {tolerance: …}`, or",
        ),
        (Reason("unjudged_endpoints", ""), "load more requests of these endpoints on both arms"),
        (Reason("not_final", ""), "judge again at the planned end"),
        (Reason("no_gate", ""), "add a metric with `role: gate` to the policy"),
        (Reason("incomplete", ""), "load the release again"),
    ],
)
def test_each_doubt_has_its_advice(doubt, says):
    mean = Rule("latency_mean", LatencyMean(), margin=Margin(0.25), slice=Slice("GET /a"))
    scanned = row(mean, scan=True), row(replace(mean, name="failure_rate", metric=FailureRate()), scan=True)
    assert advise(*scanned, doubts=[doubt]).startswith(says)
    assert advise(row(needed_time=None), *scanned, doubts=[doubt]).startswith(says)
    assert advise(row(needed_time=3.0), *scanned, doubts=[doubt]).startswith(says)


@pytest.mark.parametrize(("changes", "verb"), [({"imported": True}, "import"), ({"collected": True}, "collect")])
def test_a_release_is_repeated_as_it_was_recorded(changes, verb):
    assert advise(doubts=[Reason("incomplete", "")], **changes) == f"{verb} the release again"
    assert advise(doubts=[Reason("unjudged_endpoints", "")], **changes).startswith(f"{verb} more requests")


def test_a_go_that_comes_too_early_says_when_it_is_given():
    judgement = judge(passing(), final=False)
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert judgement.reasons[0].text == (
        "no gate is shown to be worse after 5 min; a GO is given at the planned end only"
    )
