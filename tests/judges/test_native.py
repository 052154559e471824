"""Evidence → verdict, one line a case."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from evaluator.judges.multiplicity import holm
from evaluator.judges.native import judge_evidence
from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean, LatencyQuantile
from evaluator.metrics.outcome_proportion import OutcomeProportion
from evaluator.metrics.reading_histogram import HistogramMean
from evaluator.records import (
    ArmSummary,
    ArmValue,
    Comparison,
    Drift,
    Effect,
    Evidence,
    Finding,
    Level,
    Limit,
    Look,
    Margin,
    MetricStatus,
    Monitoring,
    Question,
    Role,
    Rule,
    Rulebook,
    Scan,
    Slice,
    VerdictWord,
    Window,
)

GO, NO_GO, OPEN = VerdictWord.GO, VerdictWord.NO_GO, VerdictWord.INCONCLUSIVE
WITHIN, WORSE, UNKNOWN = (0.999, 0.0001), (0.0001, 0.999), (0.5, 0.5)


def metric(name="latency_p95", answer=WITHIN, role=Role.GATE, **changes):
    rule = Rule(name, changes.pop("type", LatencyQuantile(quantile=0.95)), role, Margin(0.1))
    worse, within = answer
    comparison = Comparison(
        rule=rule,
        arm="canary",
        unit="ms",
        baseline=ArmValue(100.0, 1000),
        candidate=ArmValue(101.0, 1000),
        method="test",
        instances=(3, 3),
        effect=Effect("relative", 0.01, -0.02, 0.04),
        questions=(Question("margin", 0.1, worse, within), Question("zero", 0.0, 0.4, 0.6)),
        drift=Drift(-0.05, 0.5, -0.05),
        needed_time=0.5,
    )
    return replace(comparison, **changes)


def scanned(endpoint="GET /a", answer=WITHIN, beyond=0.4, zero=0.0001, **changes):
    """A row of the scan: `beyond` is its p-value of "more than the 15 % tolerated", `zero` that of "worse at all"."""
    rule = Rule("latency_mean", LatencyMean(), Role.GATE, Margin(0.25), slice=Slice(endpoint))
    tolerance = Question("tolerance", 0.15, beyond, 1 - beyond)
    questions = (Question("margin", 0.25, *answer), Question("zero", 0.0, zero, 1 - zero), tolerance)
    return (
        metric(rule=rule, scan=True, questions=questions, **changes)
        if changes
        else replace(metric(), rule=rule, scan=True, questions=questions)
    )


def evidence(*comparisons, findings=(), **changes):
    arms = (ArmSummary("baseline", "baseline", 1000, 3, 1), ArmSummary("canary", "candidate", 1000, 3, 1))
    return replace(Evidence(tuple(comparisons), tuple(findings), arms, Window(None, None, 300.0)), **changes)


BUILT_IN = Rulebook(())


def judge(*comparisons, rulebook=BUILT_IN, **changes):
    return judge_evidence(evidence(*comparisons, **changes), rulebook, "cart@2")


FAILED = Finding("gaps", Level.FAIL, "no requests for 30 % of the run")
VOID = Finding("clock", Level.FAIL, "a clock is off by 9 s", void=True)
WARNED = Finding("pacing", Level.WARN, "closed loop")


@pytest.mark.parametrize(
    ("comparisons", "changes", "word", "code"),
    [
        pytest.param([metric()], {}, GO, "within_margins", id="all gates within"),
        pytest.param([metric(), metric("b", UNKNOWN)], {}, OPEN, "not_shown", id="one gate open"),
        pytest.param([metric(), metric("b", WORSE)], {}, NO_GO, "regression", id="one gate worse"),
        pytest.param([metric(), metric("b", WORSE, Role.HOLD)], {}, OPEN, "hold_breached", id="hold worse"),
        pytest.param([metric(), metric("b", UNKNOWN, Role.HOLD)], {}, OPEN, "not_shown", id="hold open"),
        pytest.param([metric(), metric("b", WORSE, Role.WATCH)], {}, GO, "within_margins", id="watch worse"),
        pytest.param(
            [metric(), metric("b", questions=(), no_data="no requests")], {}, OPEN, "no_data", id="gate without data"
        ),
        pytest.param([metric(role=Role.WATCH)], {}, OPEN, "no_gate", id="nothing but watch metrics"),
        pytest.param([], {}, OPEN, "no_gate", id="nothing at all"),
        pytest.param([metric()], {"findings": [FAILED]}, OPEN, "health", id="failed check forbids GO"),
        pytest.param([metric(answer=WORSE)], {"findings": [FAILED]}, NO_GO, "regression", id="and not NO-GO"),
        pytest.param([metric(answer=WORSE)], {"findings": [VOID]}, OPEN, "health", id="void forbids both"),
        pytest.param([metric()], {"findings": [WARNED]}, GO, "within_margins", id="a warning forbids nothing"),
        pytest.param([metric()], {"incomplete": True}, OPEN, "incomplete", id="incomplete run"),
        pytest.param([metric(), scanned(answer=WORSE)], {}, NO_GO, "endpoint_regression", id="endpoint worse"),
        pytest.param([metric(), scanned(answer=UNKNOWN)], {}, GO, "within_margins", id="GO is not asked of endpoints"),
        pytest.param(
            [metric(), scanned(answer=UNKNOWN, beyond=0.0001)],
            {},
            OPEN,
            "endpoint_worse",
            id="but one beyond tolerance",
        ),
        pytest.param(
            [metric()],
            {"unjudged_share": 0.06, "unjudged_endpoints": ("GET /x",)},
            OPEN,
            "unjudged_endpoints",
            id="much traffic unjudged",
        ),
        pytest.param([metric(drift=Drift(0.01, 0.5, -0.05))], {}, OPEN, "not_shown", id="last third beyond"),
        pytest.param([metric(drift=Drift(-0.01, 0.001, 0.02))], {}, OPEN, "not_shown", id="worsening trend beyond"),
        pytest.param(
            [metric(drift=Drift(-0.01, 0.001, -0.001))], {}, GO, "within_margins", id="worsening, but within to the end"
        ),
    ],
)
def test_verdicts(comparisons, changes, word, code):
    judgement = judge(*comparisons, **changes)
    assert (judgement.word, judgement.reasons[0].code) == (word, code)
    assert judgement.next_action
    assert all(c.reason for c in judgement.comparisons)


def test_several_gates_share_alpha():
    """Five gates at p = 0.015 each: 5 · 0.015 / 0.8 > 0.05, so none is shown to be worse; one at 0.005 is."""
    marginal = [metric(f"m{i}", (0.015, 0.9)) for i in range(5)]
    assert judge(*marginal).word is OPEN
    judgement = judge(*marginal[1:], metric("m0", (0.005, 0.9)))
    assert judgement.word is NO_GO
    assert judgement.reasons[0].metric == "m0"


def test_without_a_scan_gates_have_all_of_alpha():
    rulebook = Rulebook((), scan=Scan(enabled=False))
    rows = metric(answer=(0.045, 0.9)), scanned()
    assert judge(*rows).word is OPEN
    assert judge(*rows, rulebook=rulebook).word is NO_GO
    assert judge(*rows[:1]).word is NO_GO  # nothing was scanned


def arm(name, answer=WITHIN, **changes):
    return replace(metric(answer=answer, **changes), arm=name)


@pytest.mark.parametrize(
    ("answers", "word", "says"),
    [
        pytest.param((WITHIN, WITHIN), GO, "promote", id="both within"),
        pytest.param((WORSE, WITHIN), GO, "promote c of cart@2", id="one worse, the other chosen"),
        pytest.param((WORSE, WORSE), NO_GO, "do not promote", id="none left"),
        pytest.param((WITHIN, UNKNOWN), GO, "promote b of cart@2", id="one undecided, the other shown"),
        pytest.param((WORSE, UNKNOWN), OPEN, "", id="one worse, one undecided"),
    ],
)
def test_several_candidates(answers, word, says):
    judgement = judge(arm("b", answers[0]), arm("c", answers[1]))
    assert judgement.word is word
    assert says in judgement.next_action


def test_the_best_of_several_candidates_is_furthest_from_its_margin():
    near = replace(arm("b"), effect=Effect("relative", 0.07, 0.05, 0.09))
    assert judge(near, arm("c")).next_action == "promote c of cart@2"
    assert judge(arm("b"), replace(near, arm="c")).next_action == "promote b of cart@2"


def test_the_best_of_several_must_show_more():
    """p = 0.04 of being within is enough for one candidate, not for the best of two."""
    enough = (0.96, 0.04)
    assert judge(arm("b", enough)).word is GO
    assert judge(arm("b", enough), arm("c", enough)).word is OPEN


def test_undecided_candidates_are_named():
    judgement = judge(arm("b"), arm("c", UNKNOWN), arm("d", WORSE))
    assert judgement.reasons[0].text.endswith(
        "only this one of 3 candidates is shown to be within its margins; not decided: c"
    )
    assert judgement.reasons[1].arm == "d"


def test_with_margins_of_zero_the_smallest_p_value_is_best():
    def superior(name, p):
        row = arm(name, (1 - p, p))
        return replace(row, rule=replace(row.rule, margin=Margin(0.0)))

    assert judge(superior("b", 0.004), superior("c", 0.001)).next_action == "promote c of cart@2"
    assert judge(superior("b", 0.001), superior("c", 0.004)).next_action == "promote b of cart@2"


def test_after_one_candidate_is_shown_the_next_needs_only_alpha():
    """Step-down: p = 0.04 is enough next to a candidate that is shown at any level, but not next to one that is not."""
    enough = (0.96, 0.04)
    judgement = judge(arm("b"), arm("c", enough))
    assert {row.arm for row in judgement.comparisons if row.status is MetricStatus.PASS} == {"b", "c"}
    judgement = judge(arm("b", UNKNOWN), arm("c", enough))
    assert not [row for row in judgement.comparisons if row.status is MetricStatus.PASS]


def test_a_candidate_counts_by_its_worst_gate():
    """Three gates at p = 0.02 need no correction: all must be shown, so luck does not help."""
    sure = (0.98, 0.02)
    rows = [replace(arm(name, sure), rule=replace(metric(f"m{k}").rule)) for name in "bc" for k in range(3)]
    assert judge(*rows).word is GO


SHARED = 0.5
"""Correlation of two candidates' estimates that comes from their common baseline, and of two gates of one."""


def draw_candidates(rng, harm):
    """Candidates × gates whose estimates lie `harm` standard errors beyond their margins, with what they share."""
    arms, gates = harm.shape
    mix = np.linalg.cholesky(SHARED + (1 - SHARED) * np.eye(gates))
    common, own = mix @ rng.normal(size=gates), rng.normal(size=(arms, gates)) @ mix.T
    z = np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * own + harm
    for k in range(arms):
        for m in range(gates):
            loadings = np.zeros((arms + 1, gates))
            loadings[0], loadings[k + 1] = np.sqrt(SHARED) * mix[m], np.sqrt(1 - SHARED) * mix[m]
            row = metric(f"m{m}", (float(ndtr(-z[k, m])), float(ndtr(z[k, m]))), drift=None)
            effect = Effect("relative", *(0.1 + 0.01 * (z[k, m] + reach) for reach in (0.0, -1.645, 1.645)))
            yield replace(row, arm=f"arm{k}", loadings=tuple(loadings.ravel()), effect=effect)


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param([[0.0], [0.0], [0.0]], id="all at the margin"),
        pytest.param([[0.0, -6.0, -6.0], [-6.0, 0.0, -6.0], [-6.0, -6.0, 0.0]], id="each in another gate"),
        pytest.param([[0.0, -6.0], [0.0, -6.0], [-2.5, -6.0]], id="one is harmless"),
    ],
)
def test_the_chosen_candidate_is_rarely_beyond_its_margin(harm):
    """400 releases: at most 5 % plus two Monte Carlo errors are promoted wrongly."""
    harm = np.array(harm)
    rulebook = Rulebook((), scan=Scan(enabled=False))
    bad = {f"arm{k}" for k in np.flatnonzero((harm >= 0).any(axis=1))}
    rng = np.random.default_rng(11)
    wrong = 0
    for _ in range(400):
        judgement = judge(*draw_candidates(rng, harm), rulebook=rulebook)
        wrong += judgement.word is GO and judgement.reasons[0].arm in bad
    assert wrong <= 400 * (0.05 + 2 * np.sqrt(0.05 * 0.95 / 400))


def test_candidates_share_the_error_rate_of_an_early_go():
    rulebook = replace(BUILT_IN, monitoring=Monitoring(early_go=True))

    def at(name, p):
        return arm(name, looks=(Look(600.0, (0.9,), p_within=(p,)),))

    assert judge(at("b", 0.04), rulebook=rulebook, final=False).word is GO
    assert judge(at("b", 0.04), at("c", 0.9), rulebook=rulebook, final=False).word is OPEN
    assert judge(at("b", 0.02), at("c", 0.9), rulebook=rulebook, final=False).next_action == "promote b of cart@2"


def test_requests_and_outcomes_share_no_error():
    """Five times the same question of requests and one of outcomes are two questions, not six."""
    same = [metric(f"m{k}", (0.02, 0.98), loadings=(1.0, 0.0)) for k in range(5)]
    users = metric("conversion", (0.5, 0.5), loadings=(1.0,))
    users = replace(users, rule=replace(users.rule, metric=OutcomeProportion(outcome="bought")))
    rulebook = Rulebook((), scan=Scan(enabled=False))
    p = judge(*same, users, rulebook=rulebook).comparisons[0].p_value_adjusted
    assert 0.03 < p < 0.08 < holm([0.02] * 5 + [0.5])[0]


@pytest.mark.parametrize("looked", [False, True])
def test_requests_and_readings_share_no_error(looked):
    """Loadings of equal length may differ in kind: p = 0.03 of a request metric and of a reading are two questions."""
    loadings = (0.8, 0.6)
    looks = (Look(600.0, (0.03,), loadings),) if looked else ()
    answer = (0.5, 0.5) if looked else (0.03, 0.97)
    client, server = (metric(name, answer, loadings=loadings, looks=looks) for name in ("client", "server"))
    histogram_rule = replace(server.rule, metric=HistogramMean(query="x_seconds{$selector}"))
    rulebook = Rulebook((), scan=Scan(enabled=False))
    assert judge(client, server, rulebook=rulebook).word is NO_GO
    assert judge(client, replace(server, rule=histogram_rule), rulebook=rulebook).word is not NO_GO


def test_the_decision_of_an_earlier_look_stays():
    worse = metric(answer=(0.2, 0.8), looks=(Look(600.0, (0.001,)), Look(660.0, (0.001,))))
    judgement = judge(worse)
    assert (judgement.word, judgement.decided_at_s) == (NO_GO, 600.0)


def test_endpoints_that_are_not_worse_take_no_share_of_alpha():
    """One endpoint at p = 0.004 among nine that are not beyond the margin: shown; among nine that may be: not."""
    worse = scanned(answer=(0.004, 0.9))
    assert judge(metric(), worse, *[scanned(answer=(0.5, 0.5))] * 9).word is NO_GO
    assert judge(metric(), worse, *[scanned(answer=(0.4, 0.6))] * 9).word is not NO_GO


def test_an_endpoint_that_is_shown_to_be_worse_than_tolerated_forbids_a_go():
    assert judge(metric(), scanned(beyond=0.004), *[scanned(beyond=0.6)] * 9).word is OPEN
    assert judge(metric(), scanned(beyond=0.004), *[scanned(beyond=0.4)] * 9).word is GO


def test_a_limit_is_a_question_of_its_own():
    rule = Rule("latency_p95", LatencyQuantile(quantile=0.95), margin=Margin(0.1), limit=Limit(max=90.0))
    questions = (
        Question("margin", 0.1, 0.9, 0.001),
        Question("limit", 90.0, 0.0001, 0.9),
        Question("zero", 0.0, 0.4, 0.6),
    )
    judgement = judge(metric(rule=rule, questions=questions))
    assert (judgement.word, judgement.reasons[0].code) == (NO_GO, "limit")
    assert "101 ms" in judgement.reasons[0].text
    assert "90 ms" in judgement.reasons[0].text


LIMIT = Rule("failure_rate", FailureRate(), margin=Margin(0.001, relative=False), limit=Limit(max=0.01))


def failing(baseline, candidate, *, margin=(0.5, 0.5), limit=(0.0001, 0.9999), rule=LIMIT):
    """Failures of both arms, and the answers of margin and limit."""
    change = candidate - baseline
    return metric(
        rule=rule,
        unit="fraction",
        baseline=ArmValue(baseline, 1000),
        candidate=ArmValue(candidate, 1000),
        effect=Effect("absolute", change, change - 0.02, change + 0.02),
        questions=(
            *([Question("margin", 0.001, *margin)] if rule.margin else []),
            *([Question("limit", 0.01, *limit)] if rule.limit.count else []),
        ),
        drift=None,
    )


def test_a_limit_that_the_baseline_breaks_too_is_reported_as_such():
    """It is a stated requirement, and broken: NO-GO. But the release is not the cause, so a rollback does not help."""
    judgement = judge(failing(0.401, 0.398))
    text = "baseline breaks the limit of at most 1 % too (40.1 %)"
    assert (judgement.word, judgement.reasons[0].code) == (NO_GO, "limit")
    for sentence in (judgement.reasons[0].text, judgement.comparisons[0].reason, judgement.next_action):
        assert sentence.startswith(text), sentence
    assert "the release is not shown to be the cause: failures of canary are 39.8 %" in judgement.reasons[0].text
    assert "a rollback does not help" in judgement.next_action
    alone = judge(failing(0.005, 0.398))
    assert alone.reasons[0].text == "failures of canary are 39.8 %, at most 1 % is allowed"
    assert "baseline" not in alone.next_action


def test_a_harm_beyond_the_margin_is_named_before_a_limit_that_both_arms_break():
    worse = judge(failing(0.02, 0.10, margin=(0.001, 0.999)))
    assert worse.reasons[0].code == "regression"
    assert worse.reasons[0].text.startswith("failures rose 8 pp")
    both = judge(failing(0.401, 0.398), metric(answer=WORSE))
    assert [reason.code for reason in both.reasons] == ["regression", "limit"]
    assert "the cause in canary" in both.next_action
    endpoint = judge(failing(0.401, 0.398), scanned(answer=WORSE))
    assert [reason.code for reason in endpoint.reasons] == ["endpoint_regression", "limit"]


def test_a_limit_that_is_open_says_that_the_baseline_breaks_it():
    judgement = judge(failing(0.012, 0.0101, margin=WITHIN, limit=(0.3, 0.7)))
    assert judgement.word is OPEN
    assert judgement.reasons[0].text.endswith("but this may be chance; baseline itself is beyond it (1.2 %)")


LIMIT_ONLY = replace(LIMIT, margin=None)


@pytest.mark.parametrize(
    ("comparisons", "says"),
    [
        pytest.param(
            [metric(), metric("b")],
            ["both gates are shown to be within their margins; the least certain gate is"],
            id="gates",
        ),
        pytest.param([metric()], ["the gate is within its margin; p95: "], id="one gate"),
        pytest.param(
            [failing(0.004, 0.0042, limit=WITHIN, rule=LIMIT_ONLY)],
            [
                "1 limit is kept: failures at most 1 % (0.42 %)",
                "no gate has a margin, so no change from baseline was tested",
            ],
            id="only a limit",
        ),
        pytest.param(
            [metric(), failing(0.004, 0.0042, margin=WITHIN, limit=WITHIN)],
            ["both gates are shown to be within their margins; 1 limit is kept: failures at most 1 % (0.42 %)"],
            id="a margin and a limit",
        ),
        pytest.param(
            [metric(), metric("b", role=Role.HOLD)], ["1 gate and 1 hold are shown to be within"], id="a hold"
        ),
    ],
)
def test_a_go_counts_the_margins_and_limits_that_were_kept(comparisons, says):
    judgement = judge(*comparisons)
    assert judgement.word is GO
    assert "all 0 gates" not in judgement.reasons[0].text
    for part in says:
        assert part in judgement.reasons[0].text


def test_a_metric_with_a_limit_alone_says_whether_it_is_kept():
    within, broken, unsure = (
        judge(failing(0.004, value, limit=answer, rule=LIMIT_ONLY)).comparisons[0]
        for value, answer in ((0.0042, WITHIN), (0.02, WORSE), (0.011, UNKNOWN))
    )
    assert "keeps to its limit of at most 1 %" in within.reason
    assert broken.reason == "failures of canary are 2 %, at most 1 % is allowed"
    assert unsure.reason == "failures of canary are 1.1 %; the limit is at most 1 %, but this may be chance"


def test_times_too_coarse_for_a_margin_are_not_waited_for():
    coarse = metric(answer=(1.0, 1.0), too_coarse=True, unresolved="steps of 1 ms", needed_time=float("inf"))
    assert judge(coarse).next_action.startswith("more requests do not help: record times in finer steps")
    bounds = replace(coarse, too_coarse=False)
    assert judge(bounds).next_action.startswith("give the histogram the bounds")


def test_a_mean_passes_only_with_failures():
    mean = metric("latency_mean", type=LatencyMean())
    failures = metric("failure_rate", UNKNOWN, type=FailureRate())
    statuses = {c.rule.name: c.status for c in judge(mean, failures).comparisons}
    assert statuses["latency_mean"] is MetricStatus.INCONCLUSIVE
    statuses = {c.rule.name: c.status for c in judge(mean, replace(failures, questions=metric().questions)).comparisons}
    assert statuses["latency_mean"] is MetricStatus.PASS


def test_a_cause_shared_by_all_metrics_is_reported_once():
    gone = [replace(metric(f"m{i}"), questions=(), no_data="canary has no requests") for i in range(4)]
    judgement = judge(*gone)
    assert [r.text for r in judgement.reasons] == ["canary has no requests: no data for m0, m1, m2, m3"]


def test_no_change_is_reported_as_such():
    same = metric(effect=Effect("relative", 0.0, -0.01, 0.01))
    assert judge(same).comparisons[0].reason.startswith("p95 did not change (90 % CI −1 … +1 %)")


def test_reasons_carry_the_numbers():
    worse = metric(answer=WORSE, effect=Effect("relative", 0.2412, 0.1812, 0.3022))
    text = judge(worse).reasons[0].text
    assert text == "p95 rose 24.1 % (90 % CI +18.1 … +30.2 %), more than the 10 % allowed"


@pytest.mark.parametrize(
    ("needed", "says"),
    [
        pytest.param(3.0, "15 min", id="time helps"),
        pytest.param(float("inf"), "--replicates", id="only instances help"),
    ],
)
def test_the_next_action_says_how_much_is_missing(needed, says):
    judgement = judge(metric(answer=UNKNOWN, needed_time=needed, drift=None))
    assert says in judgement.next_action


def test_holm_agrees_with_the_worked_example():
    """Holm (1979): p = .01, .02, .03, .04, .05 step down by 5, 4, 3, 2, 1."""
    assert holm([0.05, 0.01, 0.04, 0.02, 0.03]) == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.09])
    assert holm([]) == []
    assert holm([float("nan"), 0.01]) == [1.0, 0.02]


def test_a_quantile_that_became_a_failure_reports_the_share_that_fails():
    gone = {"effect": Effect("relative", float("inf"), 3.0, float("inf")), "candidate": ArmValue(float("inf"), 1000)}
    worse = judge(replace(metric(answer=(0.0001, 0.99)), **gone))
    assert worse.reasons[0].text == "p95 became a failure: more than 5 % of the requests of canary fail"
    unsure = judge(replace(metric(answer=(0.2, 0.8)), **gone))
    assert "fail, which may be chance" in unsure.reasons[0].text


def test_each_doubt_has_its_next_action():
    worse = judge(metric(), scanned(beyond=0.0004))
    assert worse.next_action == (
        "check GET /a; if its harm is acceptable, raise `endpoint_scan: {tolerance: …}`, or give this endpoint "
        "a gate with its own margin"
    )
    assert "more than the 15 % tolerated for one endpoint" in worse.reasons[0].text
    few = {"unjudged_share": 0.2, "unjudged_endpoints": ("GET /b",)}
    assert judge(metric(), **few).next_action == "load more requests of these endpoints on both arms"
    assert judge(metric(), **few, imported=True).next_action.startswith("import more requests")


def test_imported_runs_are_to_be_imported_again():
    wide = metric(answer=(0.5, 0.5), needed_time=1e9)
    assert "load more instances" in judge(wide).next_action
    assert "import more instances" in judge(wide, imported=True).next_action


def test_a_run_that_was_cut_short_is_the_first_thing_to_fix():
    findings = (
        Finding("load_generator", Level.FAIL, "CPU at 99 %", remedy="use more processes"),
        Finding("complete", Level.FAIL, "the run stopped early", remedy="load it again"),
    )
    assert judge(metric(), findings=findings).next_action == "load it again"


def test_a_small_change_that_is_not_decided_needs_replicates_and_a_large_one_a_decision():
    persistent = {"answer": (0.5, 0.3), "needed_time": float("inf"), "drift": Drift(0.01, 0.5, 0.01)}
    assert "more replicates" in judge(metric(**persistent)).next_action
    large = metric(**persistent, effect=Effect("relative", 0.12, 0.02, 0.22))
    assert "as large as the margin" in judge(large).next_action
