"""A verdict in short, for a reader who knows no statistics: what was compared, what was found, how sure that is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluator.records import BASELINE, Comparison, Direction, Level, MetricStatus, Role, Verdict, VerdictWord
from evaluator.reports.base import name_opponents
from evaluator.wording import (
    count_of,
    format_arm_value,
    format_change,
    format_count,
    format_duration,
    format_margin,
    format_number,
    join_names,
    name_evidence,
    name_metric,
)

_POINTS = re.compile(r"(?<=\d) pp\b")
MOST_FOUND = 4
"""Metrics that are described."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The answers to what such a reader asks."""

    compared: str
    found: str
    """What was found, as a sentence that `details` go on with."""
    details: tuple[str, ...]
    """The metrics that decided, each as a sentence without a full stop."""
    certainty: str


def summarise(verdict: Verdict) -> Summary:
    """Summarise a verdict in plain words."""
    found, shown = _describe_findings(verdict)
    has_several = len({row.arm for row in verdict.evidence.comparisons}) > 1
    details = [f"{row.arm}: " * has_several + describe_plainly(row) for row in shown[:MOST_FOUND]]
    if len(shown) > MOST_FOUND:
        details.append(f"{len(shown) - MOST_FOUND} more, in the table below")
    return Summary(_describe_test(verdict), found, tuple(details), _describe_certainty(verdict))


def _describe_test(verdict: Verdict) -> str:
    """Say what was compared with what, and on how much data."""
    evidence, opponents = verdict.evidence, name_opponents(verdict)
    arms = evidence.arms
    candidates = [arm.name for arm in arms if arm.name != BASELINE]
    against = f"version {opponents}, which is in use" if opponents else "the version in use"
    text = f"{verdict.release.id} ({join_names(candidates)}) against {against} ({BASELINE})"
    if not arms:
        return f"Nothing: there are no data of {verdict.release.id}."
    ran = "Both" if len(arms) == 2 else f"All {len(arms)}"
    sentences = []
    if any(arm.requests for arm in arms):
        did = "served users" if evidence.is_production_alone else "had the same load"
        seconds = evidence.window.seconds or evidence.production.seconds
        time = f" for {format_duration(seconds)}" if seconds and math.isfinite(seconds) else ""
        counts = _count_arms((arm.name, arm.requests) for arm in arms)
        sentences.append(f"{ran} {did} at the same time{time}, with so many requests: {counts}.")
    if any(arm.production for arm in arms):
        counts = _count_arms((arm.name, arm.production.requests) for arm in arms if arm.production)
        sentences.append(
            f"They served users as well, for {format_duration(evidence.production.seconds)}, with so many requests: "
            f"{counts}."
        )
    if any(arm.units for arm in arms):
        counts = _count_arms((arm.name, arm.units) for arm in arms)
        sentences.append(f"So many users met each of them: {counts}.")
    if not sentences and evidence.collected:
        sentences.append(f"Their readings of {format_duration(evidence.window.seconds)} were compared.")
    return " ".join([f"{text}.", *sentences])


def _count_arms(counts: Iterable[tuple[str, int]]) -> str:
    """Write the counts of arms with their names: `baseline 9,126, canary 8,961`."""
    return ", ".join(f"{arm} {format_count(count)}" for arm, count in counts)


def _describe_findings(verdict: Verdict) -> tuple[str, Sequence[Comparison]]:
    """Say what was found; returns the comparisons that show it as well."""
    rows = verdict.evidence.comparisons
    chosen = {reason.arm for reason in verdict.reasons if reason.code == "best_arm"}
    deciding = [row for row in rows if row.must_be_within and (not chosen or row.arm in chosen)]
    if verdict.word is VerdictWord.GO:
        best = f" of {join_names(sorted(filter(None, chosen)))}" if chosen else ""
        verb = "was" if len(deciding) == 1 else "were"
        shown = f"{_count_metrics(len(deciding))}{best} {verb} shown to be within what is allowed"
        return f"Nothing that decides is worse than allowed: {shown}.", deciding
    if verdict.word is VerdictWord.NO_GO:
        failing = [row for row in rows if row.status is MetricStatus.FAIL and (row.must_be_within or row.scan)]
        return "It is worse than allowed:", failing
    is_void = any(finding.void and finding.level is Level.FAIL for finding in verdict.evidence.findings)
    if is_void:
        return "The comparison was not fair, so it shows nothing.", ()
    if any(reason.code == "hold_breached" for reason in verdict.reasons):
        held = [row for row in deciding if row.status is MetricStatus.FAIL]
        return "It is worse than allowed in what a person has to decide about:", held
    failed_arms = {row.arm for row in rows if row.status is MetricStatus.FAIL and row.rule.role is Role.GATE}
    still_open = [row for row in deciding if row.status is MetricStatus.INCONCLUSIVE and row.arm not in failed_arms]
    if still_open:
        return "It is not known yet whether this is within what is allowed:", still_open
    return "It is not known yet whether it is as good as it has to be.", ()


def _count_metrics(count: int) -> str:
    """Count metrics: `1 metric`, `both metrics`, `all 4 metrics`."""
    if count == 2:
        return "both metrics"
    return count_of(count, "metric") if count < 2 else f"all {count_of(count, 'metric')}"


def _describe_certainty(verdict: Verdict) -> str:
    """Say how often such a verdict is wrong, and whether the comparison was fair."""
    no_go_level = verdict.policy.get("alpha_no_go")
    if verdict.word is VerdictWord.GO:
        text = f"If it were worse than allowed, such a test would say GO at most {_write_share(verdict.alpha)}."
    elif verdict.word is VerdictWord.NO_GO:
        level = no_go_level if isinstance(no_go_level, float) else verdict.alpha
        text = f"If it were no worse than allowed, such a test would say NO-GO at most {_write_share(level)}."
    else:
        text = "Not sure enough, in either direction. What is not shown does not pass."
    findings = verdict.evidence.findings
    remarks = sum(finding.level is not Level.OK for finding in findings)
    if not findings:
        return text
    if not remarks:
        return f"{text} All {len(findings)} checks of whether the comparison was fair have passed."
    checks = f"{remarks} of {len(findings)} checks of whether the comparison was fair"
    return f"{text} {checks} {'has' if remarks == 1 else 'have'} a remark."


def _write_share(level: float) -> str:
    """Write an error rate as a count: `in 5 of 100 cases`."""
    per = 100 if level >= 0.01 else 1000 if level >= 0.001 else 100_000
    return f"in {format_number(level * per)} of {format_number(per)} cases"


def describe_plainly(row: Comparison) -> str:
    """Describe a comparison with its values, without a term of statistics.

    `95 of 100 requests are answered within 405 ms (baseline: 288 ms): +40.5 %, up to +10 % is allowed`.
    """
    baseline, candidate = (format_arm_value(row, value.value) for value in (row.baseline, row.candidate))
    endpoint, metric = row.rule.slice.endpoint, row.rule.metric
    of = (f" of {endpoint}" if endpoint else "") + name_evidence(row.evidence)
    quantile = getattr(metric, "quantile", None)
    if row.no_data:
        return f"{name_metric(row.rule)}{of}: {row.no_data}"
    if metric.is_response_time and isinstance(quantile, float):
        per = next((per for per in (100, 1000, 10_000) if math.isclose(per * quantile, round(per * quantile))), 100)
        share = f"{format_number(quantile * per)} of {format_number(per)}" if quantile != 0.5 else "half of the"
        within = f"{share} requests{of}"
        text = f"{within} are answered within {candidate}"
        if row.candidate.value is not None and math.isinf(row.candidate.value):
            text = f"more than {format_number(100 * metric.share_above)} % of the requests{of} fail"
    elif metric.is_failure_rate:
        text = f"{candidate} of the requests{of} fail"
    elif metric.is_response_time:
        text = f"a request{of} takes {candidate}" + (" on average" if not row.scan else ", typically")
    else:
        text = f"{name_metric(row.rule)}{of} is {candidate}"
    text = f"{text} ({BASELINE}: {baseline})"
    if row.effect is None or not math.isfinite(row.effect.estimate):
        return text
    margin, is_rise = row.rule.margin, row.rule.direction is Direction.LOWER
    allowed = ""
    if margin is not None:
        sign = "±" if metric.both_directions else "+" if is_rise else "−"
        allowed = f", up to {sign}{format_margin(margin, row.unit)} is allowed" if margin.value else ", none is allowed"
    return _POINTS.sub(" percentage points", f"{text}: {format_change(row)}{allowed}")
