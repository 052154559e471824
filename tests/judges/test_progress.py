"""What a verdict that is not decided yet says that it waits for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from evaluator.judges.progress import describe_missing
from evaluator.metrics.latency import LatencyQuantile
from evaluator.metrics.outcome_proportion import OutcomeProportion
from evaluator.records import (
    ArmValue,
    Comparison,
    Evidence,
    Margin,
    MetricStatus,
    Reason,
    Release,
    Role,
    Rule,
    Verdict,
    VerdictWord,
    Window,
)

OPEN, NOTHING = MetricStatus.INCONCLUSIVE, MetricStatus.NO_DATA


def row(name="p95", needed=2.0, status=OPEN, role=Role.GATE, **changes):
    value = ArmValue(100.0, 1000)
    rule = Rule(name, changes.pop("metric", LatencyQuantile(quantile=0.95)), role, Margin(0.1))
    comparison = Comparison(rule, "canary", "ms", value, value, "test", needed_time=needed, status=status)
    return replace(comparison, **changes)


def missing(*rows, reasons=(), seconds=300.0):
    evidence = Evidence(tuple(rows), window=Window(None, None, seconds))
    told = tuple(Reason("x", text) for text in reasons)
    return describe_missing(
        Verdict(Release("cart@2"), VerdictWord.INCONCLUSIVE, told, "", evidence, "native", "fixed", 0.05)
    )


@pytest.mark.parametrize(
    ("needed", "seconds", "more"),
    [
        (2.0, 300.0, " (about 5 min more, if the change stays as it is)"),
        (1.2, 300.0, " (about 60 s more, if the change stays as it is)"),
        (1.004, 600.0, " (about 2 s more, if the change stays as it is)"),
        (1.001, 300.0, " (about 1 s more, if the change stays as it is)"),
        (0.5, 300.0, " (about 1 s more, if the change stays as it is)"),
        (math.inf, 300.0, " (more time alone will not show it to be within its margin)"),
        (None, 300.0, ""),
    ],
)
def test_the_remaining_time_is_in_whole_seconds(needed, seconds, more):
    assert missing(row(needed=needed), seconds=seconds) == f"open: p95{more}"


def test_outcomes_have_no_remaining_time():
    assert missing(row(metric=OutcomeProportion(outcome="bought"))) == "open: p95"


def test_a_metric_without_data_says_why_and_counts_as_slowest():
    silent = row("p50", None, NOTHING, no_data="canary has no requests")
    assert missing(row(needed=50.0), silent) == "open: p50 and 1 more (canary has no requests)"


def test_the_slowest_is_named_and_the_others_are_counted():
    assert missing(row("a"), row("b", 4.0), row("c", 3.0)) == (
        "open: b and 2 more (about 15 min more, if the change stays as it is)"
    )


def test_a_metric_that_a_go_does_not_need_is_not_waited_for():
    rows = row("watch", 9.0, role=Role.WATCH), row("scan", 9.0, scan=True), row("ok", 9.0, MetricStatus.PASS)
    assert missing(*rows, row("a")) == "open: a (about 5 min more, if the change stays as it is)"
    assert missing(row("held", role=Role.HOLD)).startswith("open: held")
    assert missing(*rows, reasons=["a clock is off"]) == "a clock is off"


def test_a_running_run_is_named_only_without_another_reason():
    assert missing(reasons=["complete: it still runs", "silence: none"]) == "silence: none"
    assert missing(reasons=["complete: it still runs"]) == "complete: it still runs"
    assert missing() == "nothing is shown yet"
