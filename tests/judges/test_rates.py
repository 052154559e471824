"""What several questions and several candidates cost, in numbers: which p-value is compared with which level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from statsmodels.stats.multitest import multipletests

from evaluator.judges.multiplicity import CAUTION, adjust, holm
from evaluator.judges.native import judge_evidence
from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyQuantile
from evaluator.metrics.outcome_proportion import OutcomeProportion
from evaluator.metrics.reading_histogram import HistogramMean
from evaluator.records import (
    ArmSummary,
    ArmValue,
    Comparison,
    Drift,
    Effect,
    Evidence,
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
PASS, FAIL, NO_DATA = MetricStatus.PASS, MetricStatus.FAIL, MetricStatus.NO_DATA
UNDECIDED = MetricStatus.INCONCLUSIVE
NO_SCAN = Rulebook((), scan=Scan(enabled=False))
EARLY = replace(NO_SCAN, monitoring=Monitoring(early_go=True))


def row(name="p95", worse=0.9, within=0.001, *, arm="canary", role=Role.GATE, **changes):
    """A metric with its p-values of "worse than" and "within its margin"."""
    comparison = Comparison(
        rule=Rule(name, LatencyQuantile(quantile=0.95), role, Margin(0.1)),
        arm=arm,
        unit="ms",
        baseline=ArmValue(100.0, 1000),
        candidate=ArmValue(101.0, 1000),
        method="test",
        effect=Effect("relative", 0.01, -0.02, 0.04),
        questions=(Question("margin", 0.1, worse, within),),
    )
    return replace(comparison, **changes)


def endpoint(name, worse=0.9, within=0.001, tolerated=0.9, **changes):
    comparison = row("latency_mean", worse, within, scan=True, **changes)
    questions = (*comparison.questions, Question("tolerance", 0.15, tolerated, 1 - tolerated))
    return replace(comparison, rule=replace(comparison.rule, slice=Slice(name)), questions=questions)


def judge(*comparisons, rulebook=NO_SCAN, **changes):
    arms = (ArmSummary("baseline", "baseline", 1000, 3, 1), ArmSummary("canary", "candidate", 1000, 3, 1))
    evidence = replace(Evidence(tuple(comparisons), (), arms, Window(None, None, 300.0)), **changes)
    return judge_evidence(evidence, rulebook, "cart@2")


def adjusted(*comparisons, rulebook=NO_SCAN):
    return [c.p_value_adjusted for c in judge(*comparisons, rulebook=rulebook).comparisons]


def passed(*comparisons, **changes):
    return [(c.arm, c.rule.name) for c in judge(*comparisons, **changes).comparisons if c.status is PASS]


# ------------------------------------------------------------------ the joint distribution


def smallest(p, correlation):
    """Chance that the smallest of correlated p-values is as small as `p`: numerical integration."""
    covariance = np.asarray(correlation)
    return 1 - multivariate_normal(np.zeros(len(covariance)), covariance).cdf(np.full(len(covariance), norm.isf(p)))


def alike(count, correlation):
    return np.full((count, count), correlation) + (1 - correlation) * np.eye(count)


@pytest.mark.parametrize(("treatments", "critical"), [(2, 1.92), (3, 2.06), (4, 2.16), (5, 2.23), (9, 2.42)])
def test_several_against_one_control_is_dunnetts_table(treatments, critical):
    """Dunnett (1955), table 1a, one-sided 5 %, unlimited degrees of freedom: correlation ½ in equal groups."""
    rows = [(np.sqrt(0.5 / (1 - CAUTION)),)] * treatments
    adjusted = adjust([float(norm.sf(critical))] * treatments, rows)
    assert adjusted == pytest.approx([0.05] * treatments, abs=0.003)


@pytest.mark.parametrize("p", [0.002, 0.02, 0.1])
@pytest.mark.parametrize("shared", [0.1, 0.5, 0.9, 1.0])
def test_the_joint_chance_is_that_of_the_normal_integral(shared, p):
    """Five questions: within four Monte Carlo errors of 20,000 draws, and never above Holm's."""
    exact = smallest(p, alike(5, shared * (1 - CAUTION)))
    adjusted = adjust([p] * 5, [(np.sqrt(shared), 0.0)] * 5)[0]
    assert adjusted == pytest.approx(min(exact, 5 * p), abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


def test_errors_that_go_against_each_other_are_negatively_correlated():
    exact = smallest(0.1, [[1.0, -0.72], [-0.72, 1.0]])
    assert adjust([0.1, 0.1], [(0.8,), (-0.8,)])[0] == pytest.approx(exact, abs=0.006)
    assert exact > smallest(0.1, alike(2, 0.72)) + 0.04


def test_a_question_that_shares_nothing_is_independent_of_those_that_do():
    part = 1 - CAUTION
    exact = smallest(0.04, [[1.0, part, 0.0], [part, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert adjust([0.04] * 3, [(1.0, 0.0), (1.0, 0.0), ()])[0] == pytest.approx(exact, abs=0.005)
    assert adjust([0.04] * 3, [(1.0, 0.0), (0.0, 0.0), (1.0, 0.0)])[1] == pytest.approx(exact, abs=0.005)
    assert adjust([0.04] * 3, [(1.0, 0.0), (1.0,), (1.0, 0.0)])[1] == pytest.approx(exact, abs=0.005)


def test_loadings_beyond_one_count_as_one():
    assert adjust([0.02] * 3, [(1.5, 0.5)] * 3) == adjust([0.02] * 3, [tuple(np.array([1.5, 0.5]) / np.sqrt(2.5))] * 3)


def test_each_step_is_adjusted_for_the_questions_that_are_left():
    """Step-down: the smallest of four, then of the three left, never less than the one before."""
    p, correlation = [0.03, 0.004, 0.19, 0.012], 0.5 * (1 - CAUTION)
    adjusted = adjust(p, [(np.sqrt(0.5),)] * 4)
    steps = [smallest(q, alike(remaining, correlation)) for q, remaining in ((0.004, 4), (0.012, 3), (0.03, 2))]
    assert [adjusted[1], adjusted[3], adjusted[0]] == pytest.approx(steps, abs=0.005)
    assert adjusted[2] == pytest.approx(0.19)


def test_the_same_question_draws_the_same_numbers_in_every_process():
    """Pinned: a verdict is the same wherever and however often it is computed."""
    rows = [(0.6, 0.3), (0.5, -0.2), (0.7, 0.0)]
    assert adjust([0.01, 0.03, 0.02], rows) == pytest.approx([0.02725, 0.03785, 0.03785], abs=1e-12)


def test_above_a_fifth_holms_own_value_is_returned():
    p, rows = [0.01, 0.4, 0.21, 0.2], [(0.9,)] * 4
    adjusted = adjust(p, rows)
    assert [adjusted[1], adjusted[2]] == [holm(p)[1], holm(p)[2]]
    assert adjusted[3] < holm(p)[3]
    assert adjust([0.21, 0.3], [(0.9,)] * 2) == holm([0.21, 0.3])
    assert adjust([0.2, 0.3], [(0.9,)] * 2)[0] < holm([0.2, 0.3])[0]


def test_holm_agrees_with_statsmodels():
    rng = np.random.default_rng(4)
    for count in (1, 2, 7, 30):
        p = rng.uniform(size=count) ** 2
        assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])


# ------------------------------------------------------------------ gates and the scan


def test_gates_and_endpoints_are_adjusted_by_their_share_of_alpha():
    """0.05: four fifths for the gates, one fifth for the endpoints, whose p-values below one half are doubled."""
    rows = row("a", 0.015), row("b", 0.3), endpoint("/a", 0.004), endpoint("/b", 0.8)
    p_values = adjusted(*rows, rulebook=Rulebook(()))
    assert p_values == pytest.approx([0.03 / 0.8, 0.3 / 0.8, 0.008 / 0.2, 1.0])
    assert adjusted(*rows) == [pytest.approx(0.03), pytest.approx(0.3), None, None]
    assert adjusted(row("a", 0.9), row("b", 0.95), rulebook=Rulebook(())) == [1.0, 1.0]


def test_a_metric_of_several_bounds_counts_by_its_smallest_p_value():
    both = (Question("margin", 0.1, 0.01, 0.9), Question("limit", 90.0, 0.4, 0.1), Question("zero", 0.0, 0.001, 0.9))
    (judged,) = judge(row(questions=both)).comparisons
    assert (judged.p_value, judged.p_value_adjusted, judged.status) == (0.01, pytest.approx(0.02), FAIL)
    watched = row(questions=both[2:], role=Role.WATCH)
    assert judge(watched).comparisons[0].p_value == 0.001


def of_kind(kind, name, p, *loadings):
    """A metric of requests (0), readings (1) or outcomes (2)."""
    comparison = row(f"{name}{kind}", p, loadings=loadings)
    metric = (comparison.rule.metric, HistogramMean(query="x_seconds{$selector}"), OutcomeProportion(outcome="bought"))[
        kind
    ]
    return replace(comparison, rule=replace(comparison.rule, metric=metric))


def test_three_kinds_of_evidence_share_errors_within_each_kind_only():
    """Two requests, two readings and two outcomes that measure one thing each: three questions, not six."""
    sizes, pair = (3, 1, 2), alike(2, 1 - CAUTION)
    members = [of_kind(k, name, 0.15, 1.0, *[0.0] * (size - 1)) for k, size in enumerate(sizes) for name in "ab"]
    assert adjusted(*members) == pytest.approx([smallest(0.15, np.kron(np.eye(3), pair))] * 6, abs=0.012)
    two = pytest.approx([smallest(0.15, np.kron(np.eye(2), pair))] * 4, abs=0.012)
    assert [adjusted(*members[:4]), adjusted(*members[2:]), adjusted(*members[:2], *members[4:])] == [two] * 3


def test_a_metric_without_loadings_is_uncorrelated_with_its_own_kind():
    pair = alike(2, 1 - CAUTION)
    members = [of_kind(0, name, 0.15, 1.0) for name in "ab"] + [of_kind(1, name, 0.15) for name in "ab"]
    exact = smallest(0.15, np.block([[pair, np.zeros((2, 2))], [np.zeros((2, 2)), np.eye(2)]]))
    assert adjusted(*members) == pytest.approx([exact] * 4, abs=0.012)


def test_failures_are_not_tied_to_other_failures():
    """Only a mean of successes is."""
    rows = [row("a"), row("b", within=0.5)]
    rows = [replace(c, rule=replace(c.rule, metric=FailureRate())) for c in rows]
    assert passed(*rows) == [("canary", "a")]


@pytest.mark.parametrize(
    ("p", "gates", "arms", "drifts"),
    [
        (0.04, 1, 1, True),
        (0.05, 1, 1, False),
        (0.06, 1, 1, False),
        (0.02, 2, 1, True),
        (0.03, 2, 1, False),
        (0.04, 2, 2, True),
        (0.02, 4, 2, True),
        (0.03, 4, 2, False),
    ],
)
def test_a_trend_is_asked_of_each_gate_of_a_candidate(p, gates, arms, drifts):
    """At alpha over the gates of one candidate."""
    names = [(f"m{i // arms}", f"arm{i % arms}") for i in range(gates)]
    rows = [row(name, arm=arm, drift=Drift(-0.01, p if i == 0 else 0.9, 0.01)) for i, (name, arm) in enumerate(names)]
    assert (judge(*rows).comparisons[0].status is not PASS) is drifts


@pytest.mark.parametrize(
    ("drift", "passes"),
    [
        (Drift(0.0, 0.9, 0.5), True),
        (Drift(0.001, 0.9, -0.5), False),
        (Drift(0.0, 0.001, 0.0), True),
        (Drift(0.0, 0.001, 0.001), False),
    ],
)
def test_the_end_of_the_run_is_beyond_the_margin_above_nothing(drift, passes):
    assert (judge(row(drift=drift)).comparisons[0].status is PASS) is passes
    assert judge(row(drift=drift, role=Role.WATCH)).comparisons[0].status is PASS
    free = row(drift=drift)
    assert judge(replace(free, rule=replace(free.rule, margin=None))).comparisons[0].status is PASS


@pytest.mark.parametrize(("within", "passes"), [(0.0499, True), (0.05, False), (0.0501, False)])
def test_within_is_shown_below_alpha(within, passes):
    assert (judge(row(within=within)).word is GO) is passes


@pytest.mark.parametrize(("worse", "fails"), [(0.0499, True), (0.05, False), (0.0501, False)])
def test_worse_is_shown_below_alpha(worse, fails):
    assert (judge(row(worse=worse)).word is NO_GO) is fails


def test_a_comparison_without_questions_has_no_data():
    empty, silent = row("a", questions=()), row("b", no_data="canary has no requests")
    for judgement in (judge(empty, silent), judge(row(arm="z"), empty, silent)):
        statuses = {c.rule.name: (c.status, c.reason) for c in judgement.comparisons if c.arm == "canary"}
        assert statuses["a"] == (NO_DATA, "a: nothing was asked")
        assert statuses["b"] == (NO_DATA, "b: canary has no requests")


# ------------------------------------------------------------------ several candidates


def test_a_candidate_without_data_stays_undecided():
    """p = 0.04 is within for the second of two only if the first is; a gate without data leaves it open."""
    answered, close = row("a", arm="b"), [row("a", within=0.04, arm="c"), row("b", arm="c")]
    assert ("c", "a") in passed(answered, row("b", arm="b"), *close)
    assert ("c", "a") not in passed(answered, row("b", arm="b", questions=(), no_data="no requests"), *close)
    assert ("c", "a") not in passed(answered, row("b", arm="b", no_data="no requests"), *close)
    assert ("c", "a") in passed(answered, row("b", arm="b", no_data="no requests", role=Role.WATCH), *close)


def test_an_endpoint_of_several_candidates_is_adjusted_for_all():
    rows = [row(arm="b"), row(arm="c"), endpoint("/a", within=0.03, arm="c"), endpoint("/b", within=0.02, arm="c")]
    judged = judge(*rows, rulebook=Rulebook(())).comparisons
    assert [c.status for c in judged] == [PASS, PASS, UNDECIDED, PASS]


def test_no_go_of_all_candidates_is_decided_with_the_last():
    def worse(arm, at_s):
        return row(worse=0.3, arm=arm, looks=(Look(at_s, (0.0001,)),))

    judgement = judge(worse("b", 120.0), worse("c", 180.0), worse("d", 60.0))
    assert (judgement.word, judgement.decided_at_s) == (NO_GO, 180.0)
    assert [reason.text.split(":")[0] for reason in judgement.reasons] == ["b", "c", "d"]
    assert judgement.next_action.startswith("do not promote cart@2; find and fix the cause in b")


def test_the_first_metric_that_is_shown_to_be_worse_decides():
    rows = [row("a", 0.0001), row("b", 0.3, looks=(Look(120.0, (0.0001,)),))]
    assert judge(*rows).decided_at_s == 120.0
    assert judge(rows[0]).decided_at_s == 300.0
    assert judge(row()).decided_at_s == 300.0
    assert judge(row(within=0.5)).decided_at_s is None


def test_a_go_of_several_has_the_time_and_the_reason_of_the_best():
    judgement = judge(row(arm="b", within=0.5), row(arm="c"), row(arm="d", worse=0.0001))
    assert (judgement.word, judgement.next_action, judgement.decided_at_s) == (GO, "promote c of cart@2", 300.0)
    assert [reason.arm for reason in judgement.reasons] == ["c", "d"]
    assert judgement.reasons[0].text.endswith("is shown to be within its margins; not decided: b")


def test_doubts_of_several_candidates_are_listed_once_each():
    judgement = judge(row(arm="b", within=0.5), row(arm="c", within=0.5), row(arm="d", worse=0.0001), incomplete=True)
    texts = [reason.text for reason in judgement.reasons]
    assert texts.count("the run did not end as planned") == 1
    assert [text.split(":")[0] for text in texts if "within or beyond" in text] == ["b", "c"]
    assert texts[-1].startswith("d: p95 rose")


# ------------------------------------------------------------------ looks before the last


def at(at_s, worse=0.9, within=0.9):
    return Look(at_s, (worse,), p_within=(within,))


def test_a_look_decides_below_its_level():
    """Of two gates 0.8 · alpha over both with a scan, alpha without."""
    rows = row("a", looks=(at(60.0), at(120.0, 0.021), at(180.0, 0.0001))), row("b", looks=(at(120.0),))
    scanned = endpoint("/a")
    assert judge(*rows).decided_at_s == 120.0
    assert judge(*rows, scanned, rulebook=Rulebook(())).decided_at_s == 180.0
    exactly = row("a", looks=(at(60.0, 0.05),))
    assert judge(exactly).word is GO
    assert judge(row("a", looks=(at(60.0, 0.0499),))).word is NO_GO


def test_a_look_at_an_endpoint_decides_within_the_scans_share():
    """0.2 · alpha = 0.01, and p-values below one half are doubled."""
    both = Rulebook(())

    def seen(p, others=0.9):
        rows = [endpoint(f"/{i}", looks=(at(60.0, others),)) for i in range(9)]
        return judge(row(), endpoint("/a", looks=(at(60.0, p),)), *rows, rulebook=both)

    assert (seen(0.0049).word, seen(0.0049).decided_at_s) == (NO_GO, 60.0)
    assert seen(0.0051).word is GO
    assert seen(0.0049, others=0.4).word is GO
    assert seen(0.00049, others=0.4).word is NO_GO


@pytest.mark.parametrize(
    ("looks", "word"),
    [
        (((at(60.0, within=0.04),),), GO),
        (((at(60.0, within=0.05),),), OPEN),
        (((),), OPEN),
        (((at(60.0, within=0.5), at(120.0, within=0.01)),), GO),
        (((at(60.0, within=0.01),), (at(120.0, within=0.01),)), OPEN),
        (((at(60.0, within=0.01),), (at(60.0, within=0.5),)), OPEN),
        (((at(60.0, within=0.01), at(120.0, within=0.5)), (at(60.0, within=0.5), at(120.0, within=0.01))), OPEN),
        (((at(60.0, within=0.01),), ()), OPEN),
        (((Look(60.0, (0.9,), p_within=()),),), OPEN),
        (((Look(60.0, (0.9, 0.9), p_within=(0.01, 0.5)),),), OPEN),
    ],
)
def test_an_early_go_needs_one_look_that_shows_every_gate(looks, word):
    rows = [row(f"m{i}", looks=looks_of_gate) for i, looks_of_gate in enumerate(looks)]
    assert judge(*rows, rulebook=EARLY, final=False).word is word
    assert judge(*rows, rulebook=NO_SCAN, final=False).word is OPEN
    assert judge(*rows, rulebook=EARLY).word is GO


def test_a_candidate_without_questions_has_no_early_go():
    shown = row(arm="b", within=0.5, looks=(at(60.0, within=0.01),))
    judgement = judge(shown, row(arm="c", role=Role.WATCH, looks=(at(60.0, within=0.01),)), rulebook=EARLY, final=False)
    assert judgement.word is OPEN
    assert [reason.code for reason in judgement.reasons] == ["not_shown", "not_final", "no_gate"]


# ------------------------------------------------------------------ what stands against a GO


@pytest.mark.parametrize(("share", "word"), [(0.05, GO), (0.0501, OPEN)])
def test_a_twentieth_of_the_traffic_may_go_unjudged(share, word):
    unjudged = {"unjudged_share": share, "unjudged_endpoints": ("/x",)}
    assert judge(row(), rulebook=Rulebook(()), **unjudged).word is word
    assert judge(row(), **unjudged).word is GO


@pytest.mark.parametrize(("tolerated", "word"), [(0.0049, OPEN), (0.0051, GO)])
def test_an_endpoint_beyond_its_tolerance_at_the_scans_share(tolerated, word):
    assert judge(row(), endpoint("/a", tolerated=tolerated), rulebook=Rulebook(())).word is word
    assert judge(row(), endpoint("/a", tolerated=tolerated)).word is GO


def test_the_surest_harm_comes_first_and_the_policys_metrics_before_endpoints():
    rows = [endpoint("/a", 0.0001), row("a", 0.004), row("b", 0.001), endpoint("/b", 0.00001)]
    codes = [(reason.metric, reason.slice) for reason in judge(*rows, rulebook=Rulebook(())).reasons]
    assert codes == [("b", None), ("a", None), ("latency_mean", "/b"), ("latency_mean", "/a")]
