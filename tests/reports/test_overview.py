"""The table of releases by metrics: which candidate a cell is about, and how many endpoints are worse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluator.metrics.failure_rate import FailureRate
from evaluator.records import (
    ArmValue,
    Comparison,
    Evidence,
    Margin,
    MetricStatus,
    Reason,
    Release,
    Rule,
    Slice,
    Verdict,
    VerdictWord,
)
from evaluator.reports.overview import ScanCount, build_heat_map

NOTHING = ArmValue(None, 0)
RULE = Rule("failure_rate", FailureRate(), margin=Margin(0.01))


def compare(arm: str, status: MetricStatus, endpoint: str = "") -> Comparison:
    """A comparison of failures of one candidate, or of one of its endpoints by the scan."""
    rule = replace(RULE, slice=Slice(endpoint=endpoint)) if endpoint else RULE
    return Comparison(rule, arm, "share", NOTHING, NOTHING, "", status=status, scan=bool(endpoint))


def show(*comparisons: Comparison, best: str = ""):
    """The row of a release with these comparisons, of which a verdict chose one candidate (empty: none)."""
    reasons = (Reason("best_arm", f"{best}: within", arm=best),) if best else ()
    verdict = Verdict(
        Release("cart@2"), VerdictWord.GO, reasons, "", Evidence(comparisons=comparisons), "native", "fixed", 0.05
    )
    (row,) = build_heat_map([verdict]).rows
    return row


@pytest.mark.parametrize(("best", "status"), [("a", MetricStatus.PASS), ("", MetricStatus.FAIL)])
def test_a_cell_is_about_the_candidate_that_the_verdict_chose_else_the_worst(best, status):
    row = show(compare("a", MetricStatus.PASS), compare("b", MetricStatus.FAIL), best=best)
    assert [comparison.status for comparison in row.comparisons] == [status]
    assert row.is_of_several is (not best)  # then the table names the candidate of the cell


def test_endpoints_of_the_chosen_candidate_are_counted_once():
    scans = [
        compare("a", MetricStatus.PASS, "GET /"),
        compare("a", MetricStatus.FAIL, "GET /"),
        compare("a", MetricStatus.PASS, "POST /"),
        compare("b", MetricStatus.FAIL, "POST /"),
    ]
    assert show(*scans, best="a").endpoints == ScanCount(1, 2)
    assert show(*scans).endpoints == ScanCount(2, 2)
    assert show(compare("a", MetricStatus.PASS)).endpoints is None
