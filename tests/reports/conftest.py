from datetime import UTC, datetime, timedelta
from math import inf, nan

import pytest

from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean, LatencyQuantile
from evaluator.metrics.throughput import Throughput
from evaluator.records import (
    ArmSummary,
    ArmValue,
    Comparison,
    Direction,
    Effect,
    Evidence,
    Finding,
    Level,
    Limit,
    Margin,
    MetricStatus,
    Reason,
    Release,
    Role,
    Rule,
    Service,
    Slice,
    Verdict,
    VerdictWord,
    Window,
)

START = datetime(2026, 11, 2, 10, 0, tzinfo=UTC)
FAILURES = Rule("failure_rate", FailureRate(), margin=Margin(0.001, relative=False), limit=Limit(max=0.01))
P50 = Rule("latency_p50", LatencyQuantile(quantile=0.5), margin=Margin(0.05))
P95 = Rule("latency_p95", LatencyQuantile(quantile=0.95), margin=Margin(0.1))
THROUGHPUT = Rule("throughput", Throughput(), Role.WATCH, direction=Direction.HIGHER)
CHECKOUT = Rule(
    "checkout_p95",
    LatencyQuantile(quantile=0.95),
    margin=Margin(20.0, relative=False),
    limit=Limit(max=400.0),
    slice=Slice("POST /checkout"),
)


def compare(
    rule,
    values,
    effect,
    status=MetricStatus.PASS,
    *,
    arm="canary",
    unit="ms",
    n=(84112, 84590),
    method="quantile test, paired",
    **fields,
):
    return Comparison(
        rule=rule,
        arm=arm,
        unit=unit,
        baseline=ArmValue(values[0], n[0]),
        candidate=ArmValue(values[1], n[1]),
        method=method,
        instances=(3, 3),
        effect=effect,
        status=status,
        **fields,
    )


def scan(endpoint, values, effect, status=MetricStatus.INCONCLUSIVE, **fields):
    rule = Rule("latency_mean", LatencyMean(), margin=Margin(0.25), slice=Slice(endpoint))
    return compare(rule, values, effect, status, n=(4100, 4122), scan=True, method="endpoint scan, paired", **fields)


def failures(status=MetricStatus.PASS, arm="canary"):
    effect = Effect("absolute", 0.00001, -0.0001, 0.0002)
    return compare(FAILURES, (0.00012, 0.00013), effect, status, arm=arm, unit="fraction", p_value=0.0123456789123)


def watch(arm="canary"):
    return compare(THROUGHPUT, (280.11, 282.04), Effect("relative", 0.00689, -0.002, 0.0158), arm=arm, unit="/s")


def judge(word, comparisons, *, reasons=(), findings=None, arms=("canary",), seconds=300.0, **fields):
    summaries = [ArmSummary("baseline", "baseline", 84112, 3, 1)]
    summaries += [ArmSummary(arm, "candidate", 84590, 3, 1) for arm in arms]
    if findings is None:
        findings = tuple(Finding(check, Level.OK, "fine") for check in ("sample_ratio", "overlap", "load_generator"))
    evidence = Evidence(
        comparisons=tuple(comparisons),
        findings=tuple(findings),
        arms=tuple(summaries),
        window=Window(START, START + timedelta(seconds=seconds), seconds),
        incomplete=fields.pop("incomplete", False),
    )
    return Verdict(
        release=Release("cart@1.5.0", (Service("cart", "1.4.1", "1.5.0"),)),
        word=word,
        reasons=tuple(reasons),
        evidence=evidence,
        judge="native",
        monitoring="fixed",
        alpha=0.05,
        policy={"version": 1, "alpha": 0.05},
        policy_hash="sha256:aa",
        data_hash="sha256:bb",
        evaluator_version="0.1.0",
        judged_at=START + timedelta(seconds=330.25),
        **{"next_action": "promote cart@1.5.0", **fields},
    )


def _go():
    rows = [
        failures(),
        compare(P50, (31.2, 31.4), Effect("relative", 0.006, -0.004, 0.016)),
        compare(P95, (118.04, 119.9), Effect("relative", 0.0158, -0.012, 0.044)),
        watch(),
        *(scan(f"GET /{i}", (10.0, 10.1), Effect("relative", 0.01, -0.1, 0.12), MetricStatus.PASS) for i in range(17)),
    ]
    text = (
        "all 4 gates are shown to be within their margins; the least certain gate is p95: +1.6 %, at worst +4.4 %; "
        "+10 % was allowed"
    )
    return judge(VerdictWord.GO, rows, reasons=[Reason("within_margins", text)])


def _no_go():
    rows = [
        failures(),
        compare(P50, (31.2, 31.4), Effect("relative", 0.006, -0.004, 0.016)),
        compare(P95, (118.0, 139.0), Effect("relative", 0.178, 0.129, 0.23), MetricStatus.FAIL),
        compare(CHECKOUT, (204.0, 288.4), Effect("absolute", 84.4, 70.1, 99.9), MetricStatus.FAIL),
        watch(),
        scan("POST /orders", (204.0, 288.0), Effect("relative", 0.41, 0.33, 0.5), MetricStatus.FAIL),
        scan("GET /slow", (900.0, 950.0), Effect("relative", 0.055, 0.02, 0.09)),
        *(scan(f"GET /{i}", (10.0, 10.1), Effect("relative", 0.01, -0.1, 0.12)) for i in range(17)),
    ]
    findings = [
        Finding("sample_ratio", Level.OK, "fine"),
        Finding("overlap", Level.OK, "fine"),
        Finding("resolution", Level.WARN, "3 instances a side: effects under 4 % cannot be seen in 5 min"),
    ]
    reasons = [
        Reason(
            "regression",
            "p95 of POST /orders rose 41 % (90 % CI +33 % to +50 %), more than the 25 % allowed",
            "latency_mean",
            "canary",
            "POST /orders",
        ),
        Reason("regression", "p95 rose 17.8 % (90 % CI +12.9 % to +23.0 %), more than the 10 % allowed", "latency_p95"),
    ]
    return judge(VerdictWord.NO_GO, rows, reasons=reasons, findings=findings, next_action="look at POST /orders")


def _inconclusive():
    rows = [
        failures(MetricStatus.INCONCLUSIVE),
        compare(P50, (31.2, 31.4), Effect("relative", 0.006, -0.094, 0.116), MetricStatus.INCONCLUSIVE),
        compare(P95, (118.0, inf), Effect("relative", inf, -0.02, inf), MetricStatus.INCONCLUSIVE),
        watch(),
    ]
    findings = [
        Finding("sample_ratio", Level.OK, "fine"),
        Finding(
            "single_instance",
            Level.FAIL,
            "one instance a side cannot tell the release from the machine it ran on",
            remedy="evaluator load cart@1.5.0 --replicates 5",
        ),
        Finding("clock", Level.FAIL, "clocks differ by 4.1 s", void=True),
        Finding("pacing", Level.WARN, "closed-loop load hides stalls"),
    ]
    reasons = [Reason("not_shown", "p95 is not known well enough: 90 % CI −2.0 % to ∞, margin 10 %", "latency_p95")]
    return judge(VerdictWord.INCONCLUSIVE, rows, reasons=reasons, findings=findings, incomplete=True, next_action="")


def _no_data():
    rows = [
        compare(
            FAILURES,
            (None, None),
            None,
            MetricStatus.NO_DATA,
            unit="fraction",
            n=(12, 0),
            no_data="only 12 requests on baseline, at least 30 are needed",
        ),
        compare(P95, (nan, None), None, MetricStatus.NO_DATA, n=(12, 0), no_data="no requests on canary"),
    ]
    reasons = [Reason("no_data", "canary has no requests")]
    return judge(VerdictWord.INCONCLUSIVE, rows, reasons=reasons, findings=[], seconds=12.0, next_action="load canary")


def _hostile():
    endpoint = "GET /\x1b[31mred\x1b[0m\u202egnp.exe\n\tnew line"
    rows = [failures(), scan(endpoint, (1.0, 2.0), Effect("relative", 1.0, 0.9, 1.1), MetricStatus.FAIL)]
    reasons = [Reason("regression", f"{endpoint} is slower", slice=endpoint)]
    return judge(VerdictWord.NO_GO, rows, reasons=reasons, mode="shadow")


def _three_arms():
    rows = [failures(), watch(), failures(MetricStatus.FAIL, "B"), watch("B")]
    return judge(VerdictWord.NO_GO, rows, reasons=[Reason("regression", "failures", arm="B")], arms=("canary", "B"))


@pytest.fixture(scope="session")
def verdicts():
    """One verdict of every kind, by name."""
    verdicts_made = (_go, _no_go, _inconclusive, _no_data, _hostile, _three_arms)
    return {make.__name__.removeprefix("_"): make() for make in verdicts_made}
