"""Text that goes where a spreadsheet reads it; findings that say the same."""

import pytest

from evaluator.records import EvidenceKind, Finding, Level
from evaluator.reports.base import escape_formula, fold_findings, name_check


@pytest.mark.parametrize(
    "text", ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "\t=1", "-A1", "+"]
)
def test_a_formula_becomes_text(text):
    assert escape_formula(text) == f"'{text}"


@pytest.mark.parametrize("text", ["+20.4 % (+19.5 … +21.4)", "-3.1 ms", "POST /a=b", "", "12", "−0.2 pp"])
def test_changes_and_names_stay_as_they_are(text):
    assert escape_formula(text) == text


# ------------------------------------------------------------------ findings on a load and on production


def finding(check, level, text, evidence=None, remedy=""):
    return Finding(check, level, text, remedy=remedy, evidence=evidence)


def test_findings_that_say_the_same_of_load_and_production_are_one():
    load, live = EvidenceKind.REQUESTS, EvidenceKind.LIVE
    findings = [
        finding("clock", Level.OK, "no offset", load),
        finding("complete", Level.OK, "as planned", load),
        finding("overlap", Level.WARN, "1 s", load),
        finding("silence", Level.OK, "none", load),
        finding("replication", Level.WARN, "two instances", load),
        finding("complete", Level.OK, "ended", live),
        finding("overlap", Level.WARN, "9 s", live),
        finding("silence", Level.FAIL, "canary was silent", live),
        finding("replication", Level.WARN, "two instances", live),
        finding("router", Level.OK, "all belong to an arm", live),
        finding("outcomes", Level.OK, "balanced"),
    ]
    assert [(name_check(each), each.level, each.text) for each in fold_findings(findings)] == [
        ("clock", Level.OK, "no offset"),
        ("complete", Level.OK, "as planned; production: ended"),
        ("overlap (load)", Level.WARN, "1 s"),
        ("silence (load)", Level.OK, "none"),
        ("replication", Level.WARN, "two instances"),
        ("overlap (production)", Level.WARN, "9 s"),
        ("silence (production)", Level.FAIL, "canary was silent"),
        ("router (production)", Level.OK, "all belong to an arm"),
        ("outcomes", Level.OK, "balanced"),
    ]
    alone = [finding("router", Level.OK, "all belong to an arm"), finding("complete", Level.OK, "ended")]
    assert fold_findings(alone) == alone
