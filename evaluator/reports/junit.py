"""The verdict as JUnit XML: a suite per arm, a case per metric, and the case `verdict`, which passes only on GO.

A metric that is not known yet is skipped, with the reason. With skipped cases alone the whole would be green, so the
verdict is a case of its own: a failure on NO-GO, an error on INCONCLUSIVE, whatever the mode.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from evaluator.records import Comparison, Finding, Level, MetricStatus, Verdict, VerdictWord
from evaluator.reports.base import (
    VERDICT_WORDS,
    Page,
    clean_and_cut,
    fold_findings,
    format_allowed,
    format_both,
    format_effect,
    is_only_shown,
    name_check,
)
from evaluator.reports.faults import list_faults
from evaluator.wording import name_comparison, name_evidence

MAX_NAME = 200
MAX_SENTENCE = 2_000
COUNT_ATTRIBUTES = ("tests", "failures", "errors", "skipped")
"""Attributes of a suite: the number of all its cases, and of cases with each outcome."""
_NOT_XML = re.compile("[\ufffe\uffff]")
"""Characters that XML forbids and `plain_text` keeps: they have no meaning."""


def render(verdict: Verdict, page: Page) -> str:
    """Write a verdict as JUnit XML, ending without a newline.

    `page` is part of the interface of all formats and is not used here.
    """
    del page
    comparisons, findings = verdict.evidence.comparisons, fold_findings(verdict.evidence.findings)
    suites = [_make_verdict_suite(verdict)]
    for arm in dict.fromkeys(row.arm for row in comparisons):
        cases, facts = _make_arm_cases(arm, [row for row in comparisons if row.arm == arm])
        suites.append(_make_suite(verdict, arm, cases, facts))
    if findings:
        suites.append(_make_suite(verdict, "health", [_make_health_case(finding) for finding in findings], {}))
    root = ET.Element("testsuites", {"name": "evaluator"})
    root.extend(suites)
    # The root element has no attribute `skipped`.
    for attribute in ("tests", "failures", "errors"):
        root.set(attribute, str(sum(int(suite.get(attribute, 0)) for suite in suites)))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}'


def _clean(text: str, max_characters: int = MAX_SENTENCE) -> str:
    """Make a text fit for XML: cut to `max_characters`, and with escapes for characters that XML forbids."""
    return _NOT_XML.sub(lambda match: f"\\u{ord(match[0]):x}", clean_and_cut(text, max_characters))


# ------------------------------------------------------------------ suites


def _make_verdict_suite(verdict: Verdict) -> ET.Element:
    """Make the suite of one case that passes on GO, fails on NO-GO, and is an error on INCONCLUSIVE."""
    facts = {
        "release": verdict.release.id,
        "verdict": verdict.word.value,
        "next_action": verdict.next_action,
        "mode": verdict.mode,
        "policy_hash": verdict.policy_hash,
        "data_hash": verdict.data_hash,
        "evaluator_version": verdict.evaluator_version,
    }
    sentences = [*(reason.text for reason in verdict.reasons), *(f"where: {text}" for text in list_faults(verdict))]
    reasons = "\n".join(f"- {_clean(sentence)}" for sentence in sentences)
    case = _make_case(suite="verdict", name="verdict", time_s=_format_judged_time(verdict))
    if verdict.word is VerdictWord.GO:
        _add_output(case, reasons)
    else:
        tag = "failure" if verdict.word is VerdictWord.NO_GO else "error"
        word = VERDICT_WORDS[verdict.word].split()[0]  # without its mark
        message = f"{word}: {verdict.reasons[0].text}"
        _add_outcome(case, tag, outcome_type=verdict.word.value, message=message, text=reasons)
    return _make_suite(verdict, "verdict", [case], facts)


def _make_suite(verdict: Verdict, name: str, cases: Sequence[ET.Element], facts: dict[str, str]) -> ET.Element:
    """Make a suite of `cases`, named after the release and `name`; `facts` become its properties.

    A case that has no element `failure`, `error` or `skipped` passed.
    """
    outcome_counts = [sum(case.find(tag) is not None for case in cases) for tag in ("failure", "error", "skipped")]
    suite = ET.Element("testsuite", {"name": _clean(f"{verdict.release.id} {name}", MAX_NAME)})
    for attribute, count in zip(COUNT_ATTRIBUTES, (len(cases), *outcome_counts), strict=True):
        suite.set(attribute, str(count))
    # Only one suite has the time of the load, because readers add up the times of all suites.
    suite.set("time", _format_judged_time(verdict) if name == "verdict" else "0")
    if verdict.judged_at:
        suite.set("timestamp", verdict.judged_at.strftime("%Y-%m-%dT%H:%M:%S"))
    if facts:
        properties = ET.SubElement(suite, "properties")
        for key, value in facts.items():
            ET.SubElement(properties, "property", {"name": _clean(key, MAX_NAME), "value": _clean(value)})
    suite.extend(cases)
    return suite


def _format_judged_time(verdict: Verdict) -> str:
    """Write the seconds of load that were judged; `0` if they are not known."""
    seconds = verdict.evidence.window.seconds
    return f"{seconds:.3f}" if math.isfinite(seconds) else "0"


# ------------------------------------------------------------------ cases


def _make_metric_case(arm: str, row: Comparison) -> ET.Element:
    """Make the case of a comparison: a failure, skipped if it is not known yet, else passed with its numbers."""
    name = name_comparison(row)
    case = _make_case(arm, name)
    numbers = "\n".join(f"{key}: {_clean(value)}" for key, value in _list_numbers(row).items())
    if is_only_shown(row):
        _add_output(case, f"only watched\n{numbers}")
    elif row.status is MetricStatus.FAIL:
        message = row.reason or f"{name}: {format_effect(row)}"
        _add_outcome(case, "failure", outcome_type=row.rule.role.value, message=message, text=numbers)
    elif row.status is not MetricStatus.PASS:
        reason = row.no_data or row.reason or f"not known yet: {format_effect(row)}, allowed {format_allowed(row)}"
        _add_outcome(case, "skipped", outcome_type=row.status.value, message=reason, text=numbers)
    else:
        _add_output(case, "\n".join(filter(None, (_clean(row.reason), numbers))))
    return case


def _make_arm_cases(arm: str, rows: Sequence[Comparison]) -> tuple[list[ET.Element], dict[str, str]]:
    """Make the cases of an arm: a case for each metric, and for each endpoint that is shown to be worse.

    If the endpoint scan finds none worse, one case that passes stands for all its endpoints. Returns the cases, and the
    numbers of the metrics by `METRIC.NUMBER`, for example `p95.change`.
    """
    facts: dict[str, str] = {}
    cases: list[ET.Element] = []
    for row in rows:
        if not row.scan:
            cases.append(_make_metric_case(arm, row))
            name = row.rule.name + name_evidence(row.evidence)
            facts |= {f"{name}.{key}": value for key, value in _list_numbers(row).items()}
    scanned = [row for row in rows if row.scan]
    worse = [row for row in scanned if row.status is MetricStatus.FAIL]
    cases += [_make_metric_case(arm, row) for row in worse]
    if scanned and not worse:
        case = _make_case(arm, "endpoint scan")
        endpoint_count = len({row.rule.slice.endpoint for row in scanned})
        _add_output(case, f"none of {endpoint_count} endpoints is shown to be worse")
        cases.append(case)
    return cases, facts


def _make_health_case(finding: Finding) -> ET.Element:
    """Make the case of a health check: a failure if the check failed; a warning passes, with its text as output."""
    case = _make_case(suite="health", name=name_check(finding))
    if finding.level is Level.FAIL:
        _add_outcome(case, "failure", outcome_type="health", message=finding.text, text=_clean(finding.remedy))
    else:
        _add_output(case, _clean(f"{finding.level.value}: {finding.text}"))
    return case


def _list_numbers(row: Comparison) -> dict[str, str]:
    """List what a comparison is based on and what it found, as texts by name."""
    baseline, candidate = format_both(row)
    return {
        "baseline": baseline,
        "candidate": candidate,
        "change": format_effect(row),
        "margin": format_allowed(row),
        "n": f"{row.baseline.n} + {row.candidate.n}",
        "method": row.method,
    }


def _make_case(suite: str, name: str, time_s: str = "0") -> ET.Element:
    """Make a test case without an outcome, which means that it passed; `suite`: an arm, `verdict` or `health`."""
    attributes = {"classname": _clean(f"evaluator.{suite}", MAX_NAME), "name": _clean(name, MAX_NAME), "time": time_s}
    return ET.Element("testcase", attributes)


def _add_outcome(case: ET.Element, tag: str, outcome_type: str, message: str, text: str) -> None:
    """Mark a case as not passed; `tag`: `failure`, `error` or `skipped`; `text` must be fit for XML already."""
    ET.SubElement(case, tag, {"type": outcome_type, "message": _clean(message)}).text = text


def _add_output(case: ET.Element, text: str) -> None:
    """Add what a passed case shows; `text` must be fit for XML already."""
    ET.SubElement(case, "system-out").text = text
