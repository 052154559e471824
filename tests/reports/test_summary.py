"""A verdict in plain words: what was compared, what was found, how sure that is."""

from dataclasses import replace
from math import inf

import pytest

from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean, LatencyQuantile
from evaluator.metrics.outcome_proportion import OutcomeProportion
from evaluator.metrics.throughput import Throughput
from evaluator.records import (
    ArmSummary,
    ArmValue,
    Comparison,
    Direction,
    Effect,
    Finding,
    Level,
    Margin,
    MetricStatus,
    Reason,
    Role,
    Rule,
    Slice,
)
from evaluator.reports.summary import describe_plainly, summarise

P50 = Rule("latency_p50", LatencyQuantile(quantile=0.5), margin=Margin(0.05))
P95 = Rule("latency_p95", LatencyQuantile(quantile=0.95), margin=Margin(0.1))
CHECKOUT = replace(P95, margin=Margin(20.0, relative=False), slice=Slice("POST /checkout"))
FAILURES = Rule("failure_rate", FailureRate(), margin=Margin(0.001, relative=False))
MEAN = Rule("latency_mean", LatencyMean(), margin=Margin(0.25), slice=Slice("GET /a"))
THROUGHPUT = Rule("throughput", Throughput(), Role.WATCH, direction=Direction.HIGHER)
BOUGHT = Rule(
    "conversion", OutcomeProportion(outcome="bought"), margin=Margin(0.005, relative=False), direction=Direction.HIGHER
)


def compare(rule, values, effect, status=MetricStatus.PASS, *, arm="canary", unit="ms", **fields):
    baseline, candidate = (ArmValue(value, 1000) for value in values)
    return Comparison(rule, arm, unit, baseline, candidate, "test", effect=effect, status=status, **fields)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            compare(P95, (288.0, 405.0), Effect("relative", 0.405, 0.3, 0.5)),
            "95 of 100 requests are answered within 405 ms (baseline: 288 ms): +40.5 %, up to +10 % is allowed",
        ),
        (
            compare(P50, (61.7, 60.0), Effect("relative", -0.028, -0.05, 0.01)),
            "half of the requests are answered within 60 ms (baseline: 61.7 ms): −2.8 %, up to +5 % is allowed",
        ),
        (
            compare(CHECKOUT, (100.0, 130.0), Effect("absolute", 30.0, 20.0, 40.0)),
            (
                "95 of 100 requests of POST /checkout are answered within 130 ms (baseline: 100 ms): +30 ms, up to "
                "+20 ms is allowed"
            ),
        ),
        (
            compare(P95, (100.0, inf), Effect("relative", inf, 1.0, inf)),
            "more than 5 % of the requests fail (baseline: 100 ms)",
        ),
        (
            compare(FAILURES, (0.001, 0.02), Effect("absolute", 0.019, 0.01, 0.03), unit="fraction"),
            (
                "2 % of the requests fail (baseline: 0.1 %): +1.9 percentage points, up to +0.1 percentage points is "
                "allowed"
            ),
        ),
        (
            compare(MEAN, (10.0, 15.0), Effect("relative", 0.5, 0.4, 0.6), scan=True),
            "a request of GET /a takes 15 ms, typically (baseline: 10 ms): +50 %, up to +25 % is allowed",
        ),
        (
            compare(THROUGHPUT, (100.0, 99.0), Effect("relative", -0.01, -0.02, 0.0), unit="/s"),
            "throughput is 99 /s (baseline: 100 /s): −1 %",
        ),
        (
            compare(BOUGHT, (0.123, 0.137), Effect("absolute", 0.0137, 0.007, 0.02), unit="fraction"),
            "conversion is 13.7 % (baseline: 12.3 %): +1.37 percentage points, up to −0.5 percentage points is allowed",
        ),
        (
            compare(replace(P95, margin=Margin(0.0)), (1.0, 1.1), Effect("relative", 0.1, 0.0, 0.2)),
            "95 of 100 requests are answered within 1.1 ms (baseline: 1 ms): +10 %, none is allowed",
        ),
        (
            compare(P95, (None, None), None, MetricStatus.NO_DATA, no_data="canary has no requests"),
            "p95: canary has no requests",
        ),
    ],
)
def test_a_metric_is_described_by_its_values(row, text):
    assert describe_plainly(row) == text


def test_each_verdict_says_what_was_compared_found_and_how_sure_that_is(verdicts):
    go, no_go = summarise(verdicts["go"]), summarise(verdicts["no_go"])
    assert go.compared == (
        "cart@1.5.0 (canary) against version 1.4.1, which is in use (baseline). Both had the same load at the same "
        "time for 5 min, with so many requests: baseline 84,112, canary 84,590."
    )
    assert go.found.startswith("Nothing that decides is worse than allowed: all ")
    assert "would say GO at most in 5 of 100 cases" in go.certainty
    assert no_go.found == "It is worse than allowed:"
    assert no_go.details
    assert "would say NO-GO at most in 5 of 100 cases" in no_go.certainty
    policy = {**verdicts["no_go"].policy, "alpha_no_go": 0.0005}
    assert "in 50 of 100,000 cases" in summarise(replace(verdicts["no_go"], policy=policy)).certainty
    fair = replace(verdicts["inconclusive"], evidence=replace(verdicts["inconclusive"].evidence, findings=()))
    unsure = summarise(fair)
    assert "not known yet" in unsure.found
    assert "What is not shown does not pass." in unsure.certainty


def test_what_forbids_a_verdict_is_not_called_a_finding(verdicts):
    verdict = verdicts["inconclusive"]
    void = Finding("clock", Level.FAIL, "clocks differ", void=True)
    unfair = replace(verdict, evidence=replace(verdict.evidence, findings=(void,)))
    assert summarise(unfair).found == "The comparison was not fair, so it shows nothing."
    assert summarise(unfair).details == ()
    assert summarise(unfair).certainty.endswith("1 of 1 checks of whether the comparison was fair has a remark.")
    hold = compare(replace(P95, role=Role.HOLD), (1.0, 2.0), Effect("relative", 1.0, 0.9, 1.1), MetricStatus.FAIL)
    held = replace(
        verdict,
        evidence=replace(verdict.evidence, comparisons=(hold,), findings=()),
        reasons=(Reason("hold_breached", "p95 rose"),),
    )
    assert "a person has to decide" in summarise(held).found
    assert len(summarise(held).details) == 1
    nothing = replace(verdict, evidence=replace(verdict.evidence, comparisons=(), arms=(), findings=()))
    assert summarise(nothing).compared == f"Nothing: there are no data of {verdict.release.id}."


def test_users_of_a_test_are_not_called_requests(verdicts):
    verdict = verdicts["go"]
    arms = tuple(
        ArmSummary(name, role, 0, 0, 1, units=12_000)
        for name, role in (("baseline", "baseline"), ("blue", "candidate"), ("green", "candidate"))
    )
    rows = tuple(
        compare(BOUGHT, (0.1, 0.1), Effect("absolute", 0.0, -0.001, 0.001), arm=arm, unit="fraction")
        for arm in ("blue", "green")
    )
    tested = replace(
        verdict,
        evidence=replace(verdict.evidence, arms=arms, comparisons=rows),
        reasons=(Reason("best_arm", "", arm="green"),),
    )
    summary = summarise(tested)
    assert summary.compared.endswith("So many users met each of them: baseline 12,000, blue 12,000, green 12,000.")
    assert "requests" not in summary.compared
    assert summary.found.endswith("1 metric of green was shown to be within what is allowed.")
    assert [detail.partition(":")[0] for detail in summary.details] == ["green"]
