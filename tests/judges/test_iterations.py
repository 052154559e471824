"""A candidate says what became of the harms of the one that was rejected before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluator.judges import compare_with_rejected
from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean, LatencyQuantile, TypicalTime
from evaluator.pipeline.iterations import find_rejected
from evaluator.records import (
    ArmValue,
    Comparison,
    Effect,
    Evidence,
    EvidenceKind,
    Finding,
    Level,
    Limit,
    Margin,
    MetricStatus,
    Release,
    ReleaseSummary,
    Role,
    Rule,
    Service,
    Slice,
    Verdict,
    VerdictWord,
)
from evaluator.reports import from_json, read_stored, to_json
from evaluator.reports.html import to_html
from evaluator.reports.human import to_human
from evaluator.reports.iterations import describe_iteration
from evaluator.reports.markdown import to_markdown
from evaluator.store import Store

PASS, FAIL, OPEN = MetricStatus.PASS, MetricStatus.FAIL, MetricStatus.INCONCLUSIVE
P95 = Rule("latency_p95", LatencyQuantile(quantile=0.95), margin=Margin(0.10))
P50 = Rule("latency_p50", LatencyQuantile(quantile=0.50), margin=Margin(0.05))


def row(rule=P95, status=PASS, change=0.02, arm="canary", **values):
    effect = Effect("relative", change, change - 0.01, change + 0.01)
    return Comparison(
        rule, arm, "ms", ArmValue(100.0, 10), ArmValue(100.0, 10), "m", effect=effect, status=status, **values
    )


def verdict(*rows, word=VerdictWord.NO_GO, release="shop@2", findings=(), baseline="1.0"):
    evidence = replace(Evidence((), ()), comparisons=rows, findings=findings)
    services = (Service("shop", baseline, "2"),)
    return Verdict(Release(release, services), word, (), "next", evidence, "native", "fixed", 0.05)


def states(now, before):
    iteration = compare_with_rejected(now, before)
    return [(harm.metric, harm.endpoint, harm.state, harm.why) for harm in iteration.harms]


@pytest.mark.parametrize(
    ("before", "now", "state"),
    [
        (FAIL, FAIL, "still"),
        (FAIL, PASS, "fixed"),
        (FAIL, OPEN, "not_known"),
        (FAIL, MetricStatus.NO_DATA, "not_known"),
        (PASS, FAIL, "new"),
        (OPEN, FAIL, "shown_first"),
        (MetricStatus.NO_DATA, FAIL, "shown_first"),
    ],
)
def test_each_harm_has_a_state(before, now, state):
    assert [found[2] for found in states(verdict(row(status=now)), verdict(row(status=before)))] == [state]


@pytest.mark.parametrize("before", [PASS, OPEN])
@pytest.mark.parametrize("now", [PASS, OPEN])
def test_what_was_never_shown_to_be_worse_is_no_harm(before, now):
    assert states(verdict(row(status=now)), verdict(row(status=before))) == []


def test_what_is_not_compared_any_more_is_not_fixed():
    assert states(verdict(), verdict(row(status=FAIL))) == [("p95", None, "not_known", "it was not compared")]
    empty = row(status=MetricStatus.NO_DATA, no_data="no requests")
    assert states(verdict(empty), verdict(row(status=FAIL)))[0][2:] == ("not_known", "it has no data")


@pytest.mark.parametrize(
    "rule",
    [
        replace(P95, margin=Margin(0.11)),
        replace(P95, margin=Margin(0.10, relative=False)),
        replace(P95, margin=None),
        replace(P95, metric=LatencyQuantile(quantile=0.9)),
    ],
)
def test_more_that_is_allowed_and_another_measure_repair_nothing(rule):
    assert states(verdict(row(rule)), verdict(row(status=FAIL)))[0][2] == "not_known"
    assert states(verdict(row(P95)), verdict(row(replace(P95, margin=Margin(0.2)), FAIL)))[0][2] == "fixed"


@pytest.mark.parametrize(
    ("before", "now", "state"),
    [
        (Limit(max=1.0), Limit(max=1.0), "fixed"),
        (Limit(max=1.0), Limit(max=0.5), "fixed"),
        (Limit(max=1.0), Limit(max=2.0), "not_known"),
        (Limit(max=1.0), Limit(), "not_known"),
        (Limit(min=1.0), Limit(min=0.5), "not_known"),
        (Limit(min=1.0), Limit(), "not_known"),
    ],
)
def test_a_limit_that_allows_more_repairs_nothing(before, now, state):
    rules = [replace(P95, limit=limit) for limit in (now, before)]
    assert states(verdict(row(rules[0])), verdict(row(rules[1], FAIL)))[0][2] == state


def test_nothing_is_fixed_while_a_health_check_failed():
    failed = Finding("warm_up", Level.FAIL, "")
    found = states(verdict(row(), findings=(failed,)), verdict(row(status=FAIL)))
    assert found[0][2:] == ("not_known", "the health check warm up failed")
    warned = replace(failed, level=Level.WARN)
    assert states(verdict(row(), findings=(warned,)), verdict(row(status=FAIL)))[0][2] == "fixed"
    # What is shown to be worse stays shown.
    worse = verdict(row(status=FAIL), findings=(failed,))
    assert states(worse, verdict(row(status=FAIL)))[0][2] == "still"


def test_load_and_production_are_one_metric_whose_worst_counts():
    live = {"evidence": EvidenceKind.LIVE}
    before = verdict(row(status=FAIL))
    assert states(verdict(row(), row(**live)), before)[0][2] == "fixed"
    assert states(verdict(row(), row(status=OPEN, **live)), before)[0][2] == "not_known"
    assert states(verdict(row(), row(status=FAIL, **live)), before)[0][2] == "still"


def test_response_times_of_an_endpoint_are_one_subject_by_either_measure():
    def scanned(metric, status, margin=0.25):
        rule = Rule(metric.type, metric, margin=Margin(margin), slice=Slice("GET /a"))
        return row(rule, status, scan=True)

    typical, mean = scanned(TypicalTime(), FAIL), scanned(LatencyMean(), PASS)
    assert states(verdict(mean), verdict(typical)) == [("mean", "GET /a", "fixed", "")]
    failures = scanned(FailureRate(), PASS)
    assert [found[2] for found in states(verdict(failures), verdict(typical))] == ["not_known"]


def test_metrics_that_decide_nothing_are_left_out():
    watched = replace(P95, role=Role.WATCH, margin=None)
    assert states(verdict(row(watched, FAIL)), verdict(row(watched, FAIL))) == []


def test_arms_are_compared_with_their_like_unless_there_is_one_each():
    assert states(verdict(row(arm="b")), verdict(row(status=FAIL, arm="canary")))[0][2] == "fixed"
    now = verdict(row(arm="b"), row(status=FAIL, arm="c"))
    before = verdict(row(status=FAIL, arm="b"), row(arm="c"))
    assert [found[2] for found in states(now, before)] == ["new", "fixed"]
    assert [found[2] for found in states(now, verdict(row(status=FAIL, arm="d"), row(arm="b")))] == [
        "shown_first",
        "not_known",
    ]


def test_another_baseline_is_said():
    def has_other(before, now):
        return compare_with_rejected(verdict(row(), baseline=now), verdict(row(), baseline=before)).other_baseline

    assert [has_other("1", "2"), has_other("1", "1"), has_other("", "2"), has_other("1", "")] == [True, *3 * [False]]


# ------------------------------------------------------------------ which candidate


def summary(release, word, service="shop"):
    return ReleaseSummary(Release(release, (Service(service),)), verdict=word)


@pytest.mark.parametrize(
    ("older", "found"),
    [
        ([("a", "no_go")], "a"),
        ([("b", "inconclusive"), ("a", "no_go")], "a"),
        ([("b", None), ("a", "no_go")], "a"),
        ([("b", "go"), ("a", "no_go")], None),
        ([("b", "no_go"), ("a", "no_go")], "b"),
        ([], None),
    ],
)
def test_the_newest_no_go_since_the_last_go_counts(older, found):
    summaries = (
        summary("later", "no_go"),
        summary("shop@2", "go"),
        summary("other@1", "no_go", service="other"),
        *(summary(*one) for one in older),
    )
    assert find_rejected(summaries, "shop@2", {"shop"}) == found


# ------------------------------------------------------------------ what is said

RULES = [Rule(f"m{n}", LatencyMean(), margin=Margin(0.1)) for n in range(7)]
BEFORE = verdict(row(P95, FAIL, 0.18), row(P50, FAIL, 0.09), *(row(rule, FAIL) for rule in RULES), release="shop@1")
NOW = verdict(row(P95, FAIL, 0.12), row(P50, PASS, 0.01))


def test_the_sentences_name_both_changes_and_count_what_they_do_not_name():
    first, second, third = describe_iteration(compare_with_rejected(NOW, BEFORE))
    assert first == "since shop@1 (NO-GO): still there: p95 (+12 %, before +18 %)"
    assert second.startswith("not known: m0 (–, before +2 %; it was not compared), m1 (")
    assert second.endswith(" and 2 more")
    assert third == "fixed: p50 (+1 %, before +9 %)"
    other = compare_with_rejected(replace(NOW, release=Release("x", (Service("shop", "9", ""),))), BEFORE)
    assert describe_iteration(other)[0].startswith("since shop@1 (NO-GO), which was compared with another version")
    assert describe_iteration(None) == []


def test_every_report_says_it():
    from reporting import find_verdict

    shown = replace(find_verdict("no_go"), iteration=compare_with_rejected(NOW, BEFORE))
    assert from_json(to_json(shown)).iteration == shown.iteration
    for text in (to_human(shown, width=400), to_markdown(shown), to_html(shown)):
        plain = text.replace("<wbr>", "").replace("\N{NO-BREAK SPACE}", " ").replace("\\", "")
        assert "till there: p95 (+12 %, before +18 %)" in plain
        assert "ixed: p50 (+1 %, before +9 %)" in plain


def test_a_verdict_is_compared_with_that_of_the_rejected_candidate_in_the_store(tmp_path):
    from stored import DESIGNS, STEADY, judge, land

    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    land(store, "cart@1.6.0", DESIGNS["cart@1.6.0"], seed=2)
    assert judge(store, "cart@1.6.0", figures=False) == "no_go"
    land(store, "cart@1.7.0", STEADY, seed=3)
    land(store, "shop@1", STEADY, seed=4, service="shop")
    for release in ("cart@1.7.0", "shop@1"):
        judge(store, release, figures=False)
    found = read_stored(store.control.verdicts("cart@1.7.0")[-1]).iteration
    assert found.release == "cart@1.6.0"
    assert {harm.state for harm in found.harms} <= {"fixed", "not_known"}
    assert len(found.harms) > 1
    for release in ("cart@1.6.0", "shop@1"):  # the first of its service
        assert read_stored(store.control.verdicts(release)[-1]).iteration is None


def test_names_from_outside_are_escaped_in_the_app():
    from evaluator.ui.iterations import make_iteration_card

    hostile = "<img src=x onerror=alert(1)>"
    rule = Rule("latency_mean", LatencyMean(), margin=Margin(0.1), slice=Slice(hostile))
    before = verdict(row(rule, FAIL, scan=True), release=hostile)
    now = replace(verdict(row(rule, FAIL, scan=True)), iteration=None)
    card = make_iteration_card(replace(now, iteration=compare_with_rejected(now, before)))
    assert "<img" not in card
    assert "still there" in card
    assert make_iteration_card(now) is None
