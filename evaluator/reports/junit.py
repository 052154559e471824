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
    format_allowed,
    format_both,
    format_effect,
    is_watched,
    name_check,
    tame,
)
from evaluator.wording import name_comparison

MAX_NAME = 200
MAX_SENTENCE = 2_000
COUNTED = ("tests", "failures", "errors", "skipped")
_NOT_XML = re.compile("[\ufffe\uffff]")
"""Characters that XML forbids and `plain_text` keeps: they have no meaning."""


def render(verdict: Verdict, page: Page) -> str:
    """Write a verdict as JUnit XML, ending without a newline."""
    del page
    comparisons = verdict.evidence.comparisons
    arms = dict.fromkeys(row.arm for row in comparisons)
    suites = [_verdict_suite(verdict)]
    for arm in arms:
        cases, facts = _arm_cases(arm, [row for row in comparisons if row.arm == arm])
        suites.append(_suite(verdict, arm, cases, facts))
    if verdict.evidence.findings:
        suites.append(_suite(verdict, "health", [_health_case(finding) for finding in verdict.evidence.findings], {}))
    root = ET.Element("testsuites", {"name": "evaluator"})
    root.extend(suites)
    root.attrib.update({key: str(sum(int(suite.get(key, 0)) for suite in suites)) for key in COUNTED[:3]})
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}'


def _clean(text: str, most: int = MAX_SENTENCE) -> str:
    return _NOT_XML.sub(lambda match: f"\\u{ord(match[0]):x}", tame(text, most))


# ------------------------------------------------------------------ suites


def _verdict_suite(verdict: Verdict) -> ET.Element:
    facts = {
        "release": verdict.release.id,
        "verdict": verdict.word.value,
        "next_action": verdict.next_action,
        "mode": verdict.mode,
        "policy_hash": verdict.policy_hash,
        "data_hash": verdict.data_hash,
        "evaluator_version": verdict.evaluator_version,
    }
    text = "\n".join(f"- {_clean(reason.text)}" for reason in verdict.reasons)
    case = _case("verdict", "verdict", _time(verdict))
    if verdict.word is VerdictWord.GO:
        _add_output(case, text)
    else:
        kind = "failure" if verdict.word is VerdictWord.NO_GO else "error"
        word = VERDICT_WORDS[verdict.word].split()[0]
        _mark(case, kind, verdict.word.value, f"{word}: {verdict.reasons[0].text}", text)
    return _suite(verdict, "verdict", [case], facts)


def _suite(verdict: Verdict, name: str, cases: Sequence[ET.Element], facts: dict[str, str]) -> ET.Element:
    counts = (
        len(cases),
        *(sum(case.find(tag) is not None for case in cases) for tag in ("failure", "error", "skipped")),
    )
    suite = ET.Element("testsuite", {"name": _clean(f"{verdict.release.id} {name}", MAX_NAME)})
    suite.attrib.update({key: str(count) for key, count in zip(COUNTED, counts, strict=True)})
    suite.set("time", _time(verdict) if name == "verdict" else "0")
    if verdict.judged_at:
        suite.set("timestamp", verdict.judged_at.strftime("%Y-%m-%dT%H:%M:%S"))
    if facts:
        properties = ET.SubElement(suite, "properties")
        for key, value in facts.items():
            ET.SubElement(properties, "property", {"name": _clean(key, MAX_NAME), "value": _clean(value)})
    suite.extend(cases)
    return suite


def _time(verdict: Verdict) -> str:
    seconds = verdict.evidence.window.seconds
    return f"{seconds:.3f}" if math.isfinite(seconds) else "0"


# ------------------------------------------------------------------ cases


def _metric_case(arm: str, row: Comparison) -> ET.Element:
    case = _case(arm, name_comparison(row))
    numbers = "\n".join(f"{key}: {_clean(value)}" for key, value in _facts(row).items())
    reason = row.no_data or row.reason or f"not known yet: {format_effect(row)}, allowed {format_allowed(row)}"
    if is_watched(row) and not row.no_data:
        _add_output(case, f"only watched\n{numbers}")
    elif row.status is MetricStatus.FAIL:
        _mark(
            case, "failure", row.rule.role.value, row.reason or f"{name_comparison(row)}: {format_effect(row)}", numbers
        )
    elif row.status is not MetricStatus.PASS:
        _mark(case, "skipped", row.status.value, reason, numbers)
    else:
        _add_output(case, "\n".join(filter(None, (_clean(row.reason), numbers))))
    return case


def _arm_cases(arm: str, rows: Sequence[Comparison]) -> tuple[list[ET.Element], dict[str, str]]:
    """Make a case for each metric, and for each endpoint that is shown to be worse: the others decide nothing.

    Returns the cases with the facts of the metrics.
    """
    facts: dict[str, str] = {}
    cases: list[ET.Element] = []
    for row in rows:
        if not row.scan:
            cases.append(_metric_case(arm, row))
            facts |= {f"{row.rule.name}.{key}": value for key, value in _facts(row).items()}
    scanned = [row for row in rows if row.scan]
    worse = [row for row in scanned if row.status is MetricStatus.FAIL]
    cases += [_metric_case(arm, row) for row in worse]
    if scanned and not worse:
        case = _case(arm, "endpoint scan")
        endpoints = len({row.rule.slice.endpoint for row in scanned})
        _add_output(case, f"none of {endpoints} endpoints is shown to be worse")
        cases.append(case)
    return cases, facts


def _health_case(finding: Finding) -> ET.Element:
    case = _case("health", name_check(finding))
    if finding.level is Level.FAIL:
        _mark(case, "failure", "health", finding.text, _clean(finding.remedy))
    else:
        _add_output(case, _clean(f"{finding.level.value}: {finding.text}"))
    return case


def _facts(row: Comparison) -> dict[str, str]:
    baseline, candidate = format_both(row)
    return {
        "baseline": baseline,
        "candidate": candidate,
        "change": format_effect(row),
        "margin": format_allowed(row),
        "n": f"{row.baseline.n} + {row.candidate.n}",
        "method": row.method,
    }


def _case(arm: str, name: str, time: str = "0") -> ET.Element:
    attributes = {"classname": _clean(f"evaluator.{arm}", MAX_NAME), "name": _clean(name, MAX_NAME), "time": time}
    return ET.Element("testcase", attributes)


def _mark(case: ET.Element, tag: str, kind: str, message: str, text: str) -> None:
    ET.SubElement(case, tag, {"type": kind, "message": _clean(message)}).text = text


def _add_output(case: ET.Element, text: str) -> None:
    ET.SubElement(case, "system-out").text = text
