"""Reasons in sentences: what happened, by how much, against what is allowed, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from evaluator.health.base import name_some
from evaluator.records import (
    Comparison,
    Direction,
    Evidence,
    EvidenceKind,
    Finding,
    Level,
    Margin,
    MetricStatus,
    Reason,
    Role,
)
from evaluator.wording import (
    format_change,
    format_count,
    format_duration,
    format_interval,
    format_margin,
    format_number,
    format_value,
    name_comparison,
    write_command,
)

MOST_TIMES = 100
LONGEST_WAIT = 48 * 3600
SURE = 0.05
"""For advice only: a metric whose p-value of "within" is below this counts as within."""
SHORTEST_REPEAT = 1.25
"""Shortest duration that is advised, as a multiple of the present one."""


def give_reason(code: str, text: str, comparison: Comparison) -> Reason:
    """A reason that is about one comparison."""
    return Reason(code, text, comparison.rule.name, comparison.arm, comparison.rule.slice.endpoint)


def _moved(comparison: Comparison, alpha: float) -> str:
    """`p95 rose 24.1 % (90 % CI +18.1 … +30.2 %)`."""
    effect = comparison.effect
    name = name_comparison(comparison)
    if effect is None:
        return name
    if math.isinf(effect.estimate):
        share = format_number(100 * comparison.rule.metric.share_above)
        return f"{name} became a failure: more than {share} % of the requests of {comparison.arm} fail"
    size = format_change(effect, comparison.unit).lstrip("+−")
    unit = size.rsplit(" ", 1)[1]
    verb = "rose" if effect.estimate > 0 else "fell"
    moved = "did not change" if size.startswith("0 ") else f"{verb} {size}"
    level = format_number((1 - 2 * alpha) * 100)
    return f"{name} {moved} ({level} % CI {format_interval(effect, comparison.unit)} {unit})"


def _limit_text(comparison: Comparison) -> str:
    limit = comparison.rule.limit
    parts = []
    if limit.max is not None:
        parts.append(f"at most {format_value(limit.max, comparison.unit)}")
    if limit.min is not None:
        parts.append(f"at least {format_value(limit.min, comparison.unit)}")
    return " and ".join(parts)


def _margin_text(comparison: Comparison) -> str:
    margin = comparison.rule.margin
    if margin is None:
        return "which is worse than baseline"
    verb = "more than" if comparison.rule.direction is Direction.LOWER else "further than"
    return f"{verb} the {format_margin(margin, comparison.unit)} allowed"


def broke_limit_as_baseline(comparison: Comparison, alpha: float) -> bool:
    """Did this gate break only a limit, and is the baseline beyond that limit as well?"""
    return _broke_limit(comparison, alpha) and _breaks_limit(comparison, comparison.baseline.value)


def _breaks_limit(comparison: Comparison, value: float | None) -> bool:
    """Is this value of an arm beyond the limits?"""
    limit = comparison.rule.limit
    if value is None:
        return False
    return (limit.max is not None and value > limit.max) or (limit.min is not None and value < limit.min)


def _broke_limit(comparison: Comparison, alpha: float) -> bool:
    """Is the broken limit to be reported? If the baseline breaks it too, a broken margin is reported instead."""
    by_kind = {kind: [t.p_worse for t in comparison.questions if t.kind == kind] for kind in ("margin", "limit")}
    if not by_kind["limit"]:
        return False
    margin = min(by_kind["margin"], default=1.0)
    if _breaks_limit(comparison, comparison.baseline.value):
        return min(by_kind["limit"]) < margin and margin >= alpha
    return min(by_kind["limit"]) < margin


def _baseline_too(comparison: Comparison) -> str:
    """`baseline breaks the limit of at most 1 % too (40.1 %)`."""
    value = format_value(comparison.baseline.value, comparison.unit)
    return f"baseline breaks the limit of {_limit_text(comparison)} too ({value})"


def explain_failure(comparison: Comparison, alpha: float) -> Reason:
    """The reason of a gate that is shown to be beyond its margin or limit."""
    if _broke_limit(comparison, alpha):
        value = format_value(comparison.candidate.value, comparison.unit)
        name = name_comparison(comparison)
        verb = "are" if name.startswith("failures") else "is"
        text = f"{name} of {comparison.arm} {verb} {value}, {_limit_text(comparison)} is allowed"
        if broke_limit_as_baseline(comparison, alpha):
            cause = "so the release is not shown to be the cause"
            text = f"{_baseline_too(comparison)}, {cause}: {name} of {comparison.arm} {verb} {value}"
        return give_reason("limit", text, comparison)
    code = "endpoint_regression" if comparison.scan else "regression"
    moved = _moved(comparison, alpha)
    return give_reason(
        code, moved if _became_failure(comparison) else f"{moved}, {_margin_text(comparison)}", comparison
    )


def _became_failure(comparison: Comparison) -> bool:
    """Is the candidate's quantile itself a failed request?"""
    return comparison.effect is not None and math.isinf(comparison.effect.estimate)


def explain_hold(comparison: Comparison, alpha: float) -> Reason:
    """The reason of a hold that is shown to be beyond its margin: it forbids a GO, and never causes a rollback."""
    return give_reason("hold_breached", f"{_moved(comparison, alpha)}, {_margin_text(comparison)}", comparison)


def explain_missing(missing: Sequence[Comparison]) -> list[Reason]:
    """The reasons of gates and holds that could not be compared: one for each cause."""
    causes: dict[str, list[Comparison]] = {}
    for comparison in missing:
        causes.setdefault(comparison.no_data or comparison.reason, []).append(comparison)
    out = []
    for cause, alike in causes.items():
        if len(alike) == 1:
            out.append(give_reason("no_data", alike[0].reason, alike[0]))
        else:
            names = ", ".join(name_comparison(comparison) for comparison in alike)
            out.append(Reason("no_data", f"{cause}: no data for {names}", arm=alike[0].arm))
    return out


def explain_health(finding: Finding) -> Reason:
    """A failed health check."""
    return Reason("health", f"{finding.check}: {finding.text}")


def explain_status(comparison: Comparison, status: MetricStatus, alpha: float, *, shown_within: bool) -> str:
    """One metric's own sentence: why it passed, failed or is open.

    `shown_within`: it is within its margin over the whole run. If it is open nevertheless, the end of the run is not.
    """
    moved, rule = _moved(comparison, alpha), comparison.rule
    margin, limit = format_margin(rule.margin, comparison.unit), _limit_text(comparison)
    # A limit that the candidate is not shown to keep or to break: the text says first if the baseline breaks it.
    open_limit = f"not shown to keep to its limit of {limit}"
    if _breaks_limit(comparison, comparison.baseline.value):
        value = format_value(comparison.baseline.value, comparison.unit)
        arm = comparison.arm
        open_limit = f"baseline itself is beyond the limit of {limit} ({value}), and {arm} is not shown to keep to it"
    if status is MetricStatus.FAIL:
        return explain_failure(comparison, alpha).text
    if rule.margin is None and not rule.limit.count:
        text = "; no margin is set"
    elif rule.margin is None:
        text = f"; keeps to its limit of {limit}" if status is MetricStatus.PASS else f"; {open_limit}"
    elif status is MetricStatus.PASS:
        text = f", within the {margin} allowed"
    elif shown_within:
        text = (
            f", within the {margin} allowed over the whole run, but it gets worse and goes beyond that towards the end"
        )
    elif _became_failure(comparison):
        text = ", which may be chance"
    elif comparison.unresolved:
        text = f"; {comparison.unresolved}"
    elif any(test.kind == "limit" and test.p_within >= alpha for test in comparison.questions):
        text = f"; {open_limit}"
    else:
        text = f": not shown to be within or beyond the {margin} allowed"
    return f"{moved}{text}"


def explain_scan_doubt(comparison: Comparison) -> Reason:
    """The reason of an endpoint that is shown to be worse than a GO tolerates, but not than the scan's margin."""
    effect = comparison.effect
    size = format_change(effect, comparison.unit) if effect else "worse"
    interval = f" ({format_interval(effect, comparison.unit)})" if effect else ""
    bound = next((q.bound for q in comparison.questions if q.kind == "tolerance"), 0.0)
    relative = comparison.rule.margin is None or comparison.rule.margin.relative
    tolerated = format_margin(Margin(bound, relative), comparison.unit)
    text = (
        f"{name_comparison(comparison)} is worse by {size}{interval}, more than the {tolerated} tolerated for one "
        "endpoint; this forbids a GO, but is not enough for a NO-GO"
    )
    return give_reason("endpoint_worse", text, comparison)


def explain_unjudged(evidence: Evidence) -> Reason:
    """Too much traffic on endpoints with too few requests."""
    shown = name_some(evidence.unjudged_endpoints)
    share = format_number(evidence.unjudged_share * 100)
    text = f"{share} % of the traffic is on endpoints that have too few requests, or none on one arm: {shown}"
    return Reason("unjudged_endpoints", text)


def explain_not_final(evidence: Evidence) -> Reason:
    """A GO is given at the last look only."""
    so_far = format_duration(evidence.window.seconds)
    return Reason("not_final", f"nothing is shown to be worse after {so_far}; a GO is given at the planned end only")


def explain_go(judged: Sequence[Comparison], evidence: Evidence) -> Reason:
    """The reason of a GO, with the metric that came closest to its margin."""
    passed = [c for c in judged if c.status is MetricStatus.PASS and c.must_be_within]
    with_margin, limited = [c for c in passed if c.rule.margin and c.effect], [c for c in passed if c.rule.limit.count]
    clauses = []
    if len(with_margin) == 1:
        clauses.append(f"the {with_margin[0].rule.role.value} is within its margin")
    elif with_margin:
        nouns = "gates and holds" if any(c.rule.role is Role.HOLD for c in with_margin) else "gates"
        clauses.append(f"all {len(with_margin)} {nouns} are shown to be within their margins")
    if limited:
        limits = ", ".join(
            f"{name_comparison(c)} {_limit_text(c)} ({format_value(c.candidate.value, c.unit)})" for c in limited
        )
        verb = "limit is kept" if len(limited) == 1 else "limits are kept"
        clauses.append(f"{len(limited)} {verb}: {limits}")
    closest = max(with_margin, key=_closeness, default=None)
    if closest is not None and closest.effect is not None:
        change = f"{format_change(closest.effect, closest.unit)} ({format_interval(closest.effect, closest.unit)})"
        margin = format_margin(closest.rule.margin, closest.unit)
        clauses.append(f"closest: {name_comparison(closest)} {change} of {margin} allowed")
    units = sum(arm.units for arm in evidence.arms)
    judged_on = [f"outcomes of {format_count(units)} units"] if units else []
    if evidence.window.seconds or not units:
        what = "readings" if evidence.collected else "load"
        judged_on.insert(0, f"{format_duration(evidence.window.seconds)} of {what}")
    alone = "" if with_margin else "; no gate has a margin, so no change from baseline was tested"
    return Reason("within_margins", f"{'; '.join(clauses)}, on {' and '.join(judged_on)}{alone}")


def find_best(judged: Sequence[Comparison], going: Sequence[str]) -> str:
    """The candidate whose worst metric stays furthest from its margin; of equals, that with the smallest p-value."""

    def worst(arm: str) -> tuple[float, float]:
        own = [c for c in judged if c.arm == arm and c.rule.margin and c.must_be_within]
        sure = max((q.p_within for c in own for q in c.questions if q.kind == "margin"), default=1.0)
        return max((_closeness(c) for c in own), default=math.inf), sure

    return min(going, key=worst)


def explain_choice(best: str, going: Sequence[str], waiting: Sequence[str], candidates: int, reason: Reason) -> Reason:
    """Why this candidate of several was chosen; `waiting`: those that are neither GO nor NO-GO."""
    others = [arm for arm in going if arm != best]
    text = f"only this one of {candidates} candidates is shown to be within its margins"
    if others:
        text = f"of {candidates} candidates it stays furthest from its margins; also GO: {', '.join(others)}"
    if waiting:
        text += f"; not decided: {', '.join(waiting)}"
    return Reason("best_arm", f"{best}: {reason.text}; {text}", arm=best)


def name_arm(reason: Reason) -> Reason:
    """Put the name of the candidate in front of a reason."""
    return replace(reason, text=f"{reason.arm}: {reason.text}") if reason.arm else reason


def _closeness(comparison: Comparison) -> float:
    """Share of the margin that the harmful end of the interval uses."""
    effect, margin = comparison.effect, comparison.rule.margin
    if effect is None or margin is None or margin.value == 0:
        return math.inf
    harm = effect.upper if comparison.rule.direction is Direction.LOWER else -effect.lower
    return harm / margin.value


# ------------------------------------------------------------------ what next


def next_after_no_go(reasons: Sequence[Reason], release: str, judged: Sequence[Comparison], alpha: float) -> str:
    """What to do after a NO-GO: which arm or endpoint to fix, or what both arms share."""
    first = reasons[0]
    places = {(c.rule.name, c.arm, c.rule.slice.endpoint): c for c in judged if not c.scan}
    offence = places.get((first.metric or "", first.arm or "", first.slice)) if first.code == "limit" else None
    if offence is not None and broke_limit_as_baseline(offence, alpha):
        return (
            f"{_baseline_too(offence)}, so a rollback does not help: check what both arms share, or set the "
            f"limit of {first.metric} to what the service keeps, then judge {release} again"
        )
    where = f"in {first.slice} on {first.arm}" if first.slice else f"in {first.arm}"
    return f"do not promote {release}; find and fix the cause {where}, then load and judge again"


def next_after_inconclusive(
    doubts: Sequence[Reason], judged: Sequence[Comparison], evidence: Evidence, release: str
) -> str:
    """What to do after INCONCLUSIVE: what is missing, with the command where there is one."""
    failed = [finding for finding in evidence.findings if finding.level is Level.FAIL and finding.remedy]
    if failed:
        # A run that ended early explains most other findings.
        return min(failed, key=lambda finding: (finding.check != "complete", not finding.void)).remedy
    if any(doubt.code == "no_data" for doubt in doubts):
        return f"record what is missing ({doubts[0].text}), then `{write_command(release)}`"
    if any(doubt.code == "hold_breached" for doubt in doubts):
        return "decide whether the harm to the held metric is acceptable; a hold forbids a GO, but causes no NO-GO"
    return _more_data(doubts, judged, evidence)


_FINER_TIMES = (
    "more requests do not help: record times in finer steps (for times of a few microseconds: time several calls "
    "together), or allow a margin of more than one step"
)
_OTHER_BOUNDS = "give the histogram the bounds that its metric needs, or use a gate on a share within one of its bounds"


def _more_data(doubts: Sequence[Reason], judged: Sequence[Comparison], evidence: Evidence) -> str:
    """How much longer, or how many more instances."""
    open_names = {(doubt.metric, doubt.arm) for doubt in doubts if doubt.code == "not_shown"}
    waiting = [c for c in judged if (c.rule.name, c.arm) in open_names and not c.scan and c.needed_time is not None]
    if not waiting:
        return _answer_doubt(doubts[0], judged, evidence)
    longest = max(c.needed_time for c in waiting if c.needed_time is not None)
    if all(c.rule.evidence is EvidenceKind.OUTCOMES for c in waiting):
        units = longest * max(c.baseline.n + c.candidate.n for c in waiting)
        if math.isfinite(units) and 1 < longest <= MOST_TIMES:
            return f"import about {format_count(math.ceil(units))} units in all, if the change stays as it is"
        return "the change is about as large as the margin: fix the candidate, or decide whether the margin is right"
    unresolved = next((c for c in waiting if c.unresolved), None)
    if unresolved is not None:
        return _FINER_TIMES if unresolved.too_coarse else _OTHER_BOUNDS
    seconds = max(longest, SHORTEST_REPEAT) * evidence.window.seconds
    duration = f"about {format_duration(seconds)}" if math.isfinite(seconds) else ""
    if evidence.collected:
        longer, besides = f"collect {duration} in all", "run more instances of each arm"
    elif evidence.imported:
        longer, besides = (
            f"import {duration} of load",
            "import more instances an arm, or more files of repeated runs",
        )
    else:
        longer = f"load for {duration} in all (--run-time)"
        besides = "load more instances an arm, or more replicates (--replicates 5)"
    if math.isfinite(seconds) and 0 < seconds <= LONGEST_WAIT:
        return f"{longer}, if the change stays as it is"
    if any(_is_beyond(c) for c in waiting):
        return "the change is as large as the margin: fix the candidate, or decide whether the margin is right"
    return f"more minutes will not decide it: {besides}"


def _answer_doubt(doubt: Reason, judged: Sequence[Comparison], evidence: Evidence) -> str:
    """What to do about a doubt that is not an open metric."""
    again = "collect" if evidence.collected else "import" if evidence.imported else "load"
    if doubt.code == "endpoint_worse":
        metric = next(c.rule.metric for c in judged if c.scan and c.rule.name == doubt.metric)
        key = "failure_tolerance" if metric.is_failure_rate else "tolerance"
        return (
            f"check {doubt.slice}; if its harm is acceptable, raise `endpoint_scan: {{{key}: …}}`, or give this "
            "endpoint a gate with its own margin"
        )
    if doubt.code == "unjudged_endpoints":
        return f"{again} more requests of these endpoints on both arms"
    if doubt.code == "not_final":
        return "judge again at the planned end"
    if doubt.code == "no_gate":
        return "add a metric with `role: gate` to the policy"
    return f"{again} the release again"


def _is_beyond(comparison: Comparison) -> bool:
    """Is the estimate at or beyond the margin, or is the metric open only because it drifts there?"""
    effect, margin, drift = comparison.effect, comparison.rule.margin, comparison.drift
    if effect is None or margin is None:
        return False
    harm = effect.estimate if comparison.rule.direction is Direction.LOWER else -effect.estimate
    within = all(question.p_within < SURE for question in comparison.questions if question.decides)
    return harm >= margin.value or (within and drift is not None and drift.last_third >= 0)
