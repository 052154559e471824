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
    ReasonCode,
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
    name_evidence,
    write_command,
)

MOST_TIMES = 100
"""Largest multiple of the present units that is advised."""
LONGEST_WAIT = 48 * 3600
"""Longest duration that is advised, s."""
SURE = 0.05
"""For advice only: a metric whose p-value of "within" is below this counts as within."""
SHORTEST_REPEAT = 1.25
"""Shortest duration that is advised, as a multiple of the present one."""


def give_reason(code: ReasonCode, text: str, comparison: Comparison) -> Reason:
    """Make a reason that is about one comparison."""
    endpoint = comparison.rule.slice.endpoint
    return Reason(code, text, comparison.rule.name, comparison.arm, endpoint, comparison.evidence)


def _describe_change(comparison: Comparison, alpha: float) -> str:
    """Describe a change: `p95 rose 24.1 % (90 % CI +18.1 … +30.2 %)`; without an effect, only the name.

    A quantile whose estimate is infinite has become a failed request.
    """
    effect = comparison.effect
    name = name_comparison(comparison)
    if effect is None:
        return name
    if math.isinf(effect.estimate):
        share = format_number(100 * comparison.rule.metric.share_above)
        return f"{name} became a failure: more than {share} % of the requests of {comparison.arm} fail"
    size = format_change(comparison)
    unit = size.rsplit(" ", 1)[1]  # the word after the number
    if size.startswith("0 "):
        change = "did not change"
    elif size.startswith("±"):
        change = f"changed by {size}"
    else:  # the verb says the sign
        change = f"{'rose' if effect.estimate > 0 else 'fell'} {size[1:]}"
    # Each end of the interval belongs to a one-sided test at alpha.
    level = format_number((1 - 2 * alpha) * 100)
    return f"{name} {change} ({level} % CI {format_interval(comparison)} {unit})"


def _describe_limit(comparison: Comparison) -> str:
    """Describe the limits of a rule: `at most 400 ms`; empty without limits."""
    limit = comparison.rule.limit
    parts = []
    if limit.max is not None:
        parts.append(f"at most {format_value(limit.max, comparison.unit)}")
    if limit.min is not None:
        parts.append(f"at least {format_value(limit.min, comparison.unit)}")
    return " and ".join(parts)


def _describe_excess(comparison: Comparison) -> str:
    """Say what a change exceeds: `more than the 10 % allowed`; a rule without a margin allows no harm at all."""
    margin = comparison.rule.margin
    if margin is None:
        return "which is worse than baseline"
    verb = "more than" if comparison.rule.direction is Direction.LOWER else "further than"
    return f"{verb} the {format_margin(margin, comparison.unit)} allowed"


def broke_limit_as_baseline(comparison: Comparison, alpha: float) -> bool:
    """Is a broken limit the reason of this gate, and does the baseline break the limits as well?"""
    return _broke_limit(comparison, alpha) and _breaks_limit(comparison, comparison.baseline.value)


def _breaks_limit(comparison: Comparison, value: float | None) -> bool:
    """Is the value of an arm beyond one of the limits? `None`: without a value it is not."""
    limit = comparison.rule.limit
    if value is None:
        return False
    return (limit.max is not None and value > limit.max) or (limit.min is not None and value < limit.min)


def _broke_limit(comparison: Comparison, alpha: float) -> bool:
    """Is a broken limit to be reported, rather than the margin? It is if its p-value of "worse" is smaller.

    If the baseline breaks the limits too, a margin that is broken at the level alpha is reported nevertheless.
    """
    limit_p_values = [question.p_worse for question in comparison.questions if question.kind == "limit"]
    margin_p_values = [question.p_worse for question in comparison.questions if question.kind == "margin"]
    if not limit_p_values:
        return False
    margin_p = min(margin_p_values, default=1.0)
    if _breaks_limit(comparison, comparison.baseline.value) and margin_p < alpha:
        return False
    return min(limit_p_values) < margin_p


def _describe_baseline_beyond(comparison: Comparison) -> str:
    """Say that the baseline breaks the limits as well: `baseline breaks the limit of at most 1 % too (40.1 %)`."""
    value = format_value(comparison.baseline.value, comparison.unit)
    return f"baseline breaks the limit of {_describe_limit(comparison)} too ({value})"


def explain_failure(comparison: Comparison, alpha: float, *, no_go_level: float | None = None) -> Reason:
    """Give the reason of a gate, or of an endpoint of the scan, that is shown to be beyond its margin or limit.

    `alpha`: of the interval that is shown; `no_go_level`: at which NO-GO is decided, `None`: alpha.
    """
    level = alpha if no_go_level is None else no_go_level
    if _broke_limit(comparison, level):
        value = format_value(comparison.candidate.value, comparison.unit)
        name = name_comparison(comparison)
        verb = "are" if name.startswith("failures") else "is"
        text = f"{name} of {comparison.arm} {verb} {value}, {_describe_limit(comparison)} is allowed"
        if broke_limit_as_baseline(comparison, level):
            cause = "so the release is not shown to be the cause"
            text = f"{_describe_baseline_beyond(comparison)}, {cause}: {name} of {comparison.arm} {verb} {value}"
        return give_reason("limit", text, comparison)
    code: ReasonCode = "endpoint_regression" if comparison.scan else "regression"
    text = _describe_change(comparison, alpha)
    if not _became_failure(comparison):  # beyond any margin, so a margin would add nothing
        text += f", {_describe_excess(comparison)}"
    return give_reason(code, text, comparison)


def _became_failure(comparison: Comparison) -> bool:
    """Did so many requests fail that the candidate's quantile is a failed request? Then the effect is infinite."""
    return comparison.effect is not None and math.isinf(comparison.effect.estimate)


def explain_hold(comparison: Comparison, alpha: float) -> Reason:
    """Give the reason of a metric with the role `hold` that is shown to be beyond its margin.

    It forbids a GO, and never causes a rollback.
    """
    return give_reason(
        "hold_breached", f"{_describe_change(comparison, alpha)}, {_describe_excess(comparison)}", comparison
    )


def explain_missing(missing: Sequence[Comparison]) -> list[Reason]:
    """Give the reasons of a candidate's gates and holds that could not be compared: one for each cause."""
    by_cause: dict[str, list[Comparison]] = {}
    for comparison in missing:
        by_cause.setdefault(comparison.no_data or comparison.reason, []).append(comparison)
    reasons = []
    for cause, same_cause in by_cause.items():
        first = same_cause[0]
        if len(same_cause) == 1:
            reasons.append(give_reason("no_data", first.reason, first))
        else:
            names = ", ".join(name_comparison(comparison) for comparison in same_cause)
            reasons.append(Reason("no_data", f"{cause}: no data for {names}", arm=first.arm))
    return reasons


def explain_health(finding: Finding) -> Reason:
    """Give the reason of a failed health check."""
    return Reason("health", f"{finding.check}{name_evidence(finding.evidence)}: {finding.text}")


def explain_status(
    comparison: Comparison,
    status: MetricStatus,
    alpha: float,
    *,
    shown_within: bool,
    no_go_level: float | None = None,
) -> str:
    """Explain in a sentence why a metric passed, failed or is open (`status`).

    `shown_within`: it is within its margin over the whole run. If it is open nevertheless, the end of the run is not.
    `no_go_level`: as for `explain_failure`.
    """
    if status is MetricStatus.FAIL:
        return explain_failure(comparison, alpha, no_go_level=no_go_level).text
    rule = comparison.rule
    margin, limit = format_margin(rule.margin, comparison.unit), _describe_limit(comparison)
    # A limit that the candidate is not shown to keep or to break: the text says first if the baseline breaks it.
    open_limit = f"not shown to keep to its limit of {limit}"
    if _breaks_limit(comparison, comparison.baseline.value):
        value = format_value(comparison.baseline.value, comparison.unit)
        arm = comparison.arm
        open_limit = f"baseline itself is beyond the limit of {limit} ({value}), and {arm} is not shown to keep to it"
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
    elif any(question.kind == "limit" and question.p_within >= alpha for question in comparison.questions):
        text = f"; {open_limit}"
    else:
        text = f": not shown to be within or beyond the {margin} allowed"
    return f"{_describe_change(comparison, alpha)}{text}"


def explain_scan_doubt(comparison: Comparison) -> Reason:
    """Give the reason of an endpoint that is shown to be worse than a GO tolerates, but not than the scan's margin."""
    effect = comparison.effect
    size = format_change(comparison) if effect else "worse"
    interval = f" ({format_interval(comparison)})" if effect else ""
    tolerance = next((q.bound for q in comparison.questions if q.kind == "tolerance"), 0.0)
    relative = comparison.rule.margin is None or comparison.rule.margin.relative
    tolerated = format_margin(Margin(tolerance, relative), comparison.unit)
    text = (
        f"{name_comparison(comparison)} is worse by {size}{interval}, more than the {tolerated} tolerated for one "
        "endpoint; this forbids a GO, but is not enough for a NO-GO"
    )
    return give_reason("endpoint_worse", text, comparison)


def explain_unjudged(evidence: Evidence) -> Reason:
    """Give the reason of too much traffic on endpoints that could not be judged."""
    names = name_some(evidence.unjudged_endpoints)
    share = format_number(evidence.unjudged_share * 100)
    text = f"{share} % of the traffic is on endpoints that have too few requests, or none on one arm: {names}"
    return Reason("unjudged_endpoints", text)


def explain_not_final(evidence: Evidence) -> Reason:
    """Give the reason of a look before the last, at which no GO is given."""
    duration = format_duration(evidence.window.seconds)
    return Reason("not_final", f"no gate is shown to be worse after {duration}; a GO is given at the planned end only")


def explain_go(judged: Sequence[Comparison], evidence: Evidence) -> Reason:
    """Give the reason of a GO: margins and limits that are kept, the metric closest to its margin, the data judged."""
    passed = [c for c in judged if c.status is MetricStatus.PASS and c.must_be_within]
    with_margin = [c for c in passed if c.rule.margin and c.effect]
    with_limit = [c for c in passed if c.rule.limit.count]
    clauses = []
    if len(with_margin) == 1:
        clauses.append(f"the {with_margin[0].rule.role.value} is within its margin")
    elif with_margin:
        nouns = "gates and holds" if any(c.rule.role is Role.HOLD for c in with_margin) else "gates"
        clauses.append(f"all {len(with_margin)} {nouns} are shown to be within their margins")
    if with_limit:
        limits = ", ".join(
            f"{name_comparison(c)} {_describe_limit(c)} ({format_value(c.candidate.value, c.unit)})" for c in with_limit
        )
        verb = "limit is kept" if len(with_limit) == 1 else "limits are kept"
        clauses.append(f"{len(with_limit)} {verb}: {limits}")
    closest = max(with_margin, key=_share_of_margin_used, default=None)
    if closest is not None and closest.effect is not None:
        change = f"{format_change(closest)} ({format_interval(closest)})"
        margin = format_margin(closest.rule.margin, closest.unit)
        clauses.append(f"closest: {name_comparison(closest)} {change} of {margin} allowed")
    units = sum(arm.units for arm in evidence.arms)
    data = []  # what was judged, as texts
    if (evidence.window.seconds or not units) and not evidence.is_production_alone:
        kind = "readings" if evidence.collected else "load"
        data.append(f"{format_duration(evidence.window.seconds)} of {kind}")
    if evidence.production.seconds:
        data.append(f"{format_duration(evidence.production.seconds)} of production")
    if units:
        data.append(f"outcomes of {format_count(units)} units")
    caveat = "" if with_margin else "; no gate has a margin, so no change from baseline was tested"
    return Reason("within_margins", f"{'; '.join(clauses)}, on {' and '.join(data)}{caveat}")


def find_best(judged: Sequence[Comparison], go_arms: Sequence[str]) -> str:
    """Find the candidate with GO whose worst metric stays furthest from its margin; of equals, the surest one.

    `judged`: the comparisons of all candidates. A candidate without margins is the last choice.
    """

    def rank(arm: str) -> tuple[float, float]:
        """Rank a candidate; a lower rank is better, and the second number decides among equal first ones.

        Returns the share of its margin that the worst metric uses, and the largest p-value of "within the margin".
        """
        comparisons = [c for c in judged if c.arm == arm and c.rule.margin and c.must_be_within]
        share_used = max((_share_of_margin_used(c) for c in comparisons), default=math.inf)
        p_values = (q.p_within for c in comparisons for q in c.questions if q.kind == "margin")
        return share_used, max(p_values, default=1.0)

    return min(go_arms, key=rank)


def explain_choice(
    best: str, go_arms: Sequence[str], open_arms: Sequence[str], candidates: int, reason: Reason
) -> Reason:
    """Give the reason why this candidate of several was chosen.

    Args:
        best: The chosen candidate.
        go_arms: All candidates with GO, the chosen one among them.
        open_arms: Those that are neither GO nor NO-GO.
        candidates: Number of all candidates.
        reason: Why the chosen one is GO.
    """
    others = [arm for arm in go_arms if arm != best]
    text = f"only this one of {candidates} candidates is shown to be within its margins"
    if others:
        text = f"of {candidates} candidates it stays furthest from its margins; also GO: {', '.join(others)}"
    if open_arms:
        text += f"; not decided: {', '.join(open_arms)}"
    return Reason("best_arm", f"{best}: {reason.text}; {text}", arm=best)


def name_arm(reason: Reason) -> Reason:
    """Put the name of the candidate in front of a reason; a reason without a candidate is unchanged."""
    return replace(reason, text=f"{reason.arm}: {reason.text}") if reason.arm else reason


def _share_of_margin_used(comparison: Comparison) -> float:
    """Compute the share of the margin that the harmful end of the interval uses: 1 at the margin; inf without one."""
    effect, margin = comparison.effect, comparison.rule.margin
    if effect is None or margin is None or margin.value == 0:
        return math.inf
    harm = effect.upper if comparison.rule.direction is Direction.LOWER else -effect.lower
    return harm / margin.value


# ------------------------------------------------------------------ what next


def next_after_no_go(reasons: Sequence[Reason], release: str, judged: Sequence[Comparison], alpha: float) -> str:
    """Say what to do after a NO-GO: which arm or endpoint to fix, or what both share. `judged`: all comparisons."""
    first_reason = reasons[0]
    metric, arm, endpoint = first_reason.metric, first_reason.arm, first_reason.slice
    broken: Comparison | None = None  # the comparison that the first reason is about, if it broke a limit
    if first_reason.code == "limit":
        by_subject = {(c.rule.name, c.arm, c.rule.slice.endpoint, c.evidence): c for c in judged if not c.scan}
        broken = by_subject.get((metric or "", arm or "", endpoint, first_reason.evidence))
    if broken is not None and broke_limit_as_baseline(broken, alpha):
        return (
            f"{_describe_baseline_beyond(broken)}, so a rollback does not help: check what both arms share, or set the "
            f"limit of {metric} to what the service keeps, then judge {release} again"
        )
    where = f"in {endpoint} on {arm}" if endpoint else f"in {arm}"
    if first_reason.evidence is EvidenceKind.LIVE:
        return f"stop sending users to {arm} of {release}; find and fix the cause {where}, then judge again"
    return f"do not promote {release}; find and fix the cause {where}, then load and judge again"


def next_after_inconclusive(
    doubts: Sequence[Reason], judged: Sequence[Comparison], evidence: Evidence, release: str
) -> str:
    """Say what to do after INCONCLUSIVE: what is missing, with the command where there is one.

    `doubts`: the reasons that forbid a GO, the most important first; `judged`: the candidate's comparisons.
    """
    failed_checks = [finding for finding in evidence.findings if finding.level is Level.FAIL and finding.remedy]
    if failed_checks:
        # A run that ended early explains most other findings; then checks come first that also forbid a NO-GO.
        return min(failed_checks, key=lambda finding: (finding.check != "complete", not finding.void)).remedy
    if any(doubt.code == "no_data" for doubt in doubts):
        return f"record what is missing ({doubts[0].text}), then `{write_command(release)}`"
    if any(doubt.code == "hold_breached" for doubt in doubts):
        return "decide whether the harm to the held metric is acceptable; a hold forbids a GO, but causes no NO-GO"
    return _advise_more_data(doubts, judged, evidence)


_FINER_TIMES = (
    "more requests do not help: record times in finer steps, time several calls together, or allow a margin of more "
    "than one step"
)
_EQUAL_LOAD = (
    "more requests do not help: give each arm a share of the requests that fits its number of instances, or compare "
    "with as many fresh instances of the baseline as there are of the candidate"
)
_OTHER_BOUNDS = "give the histogram the bounds that its metric needs, or use a gate on a share within one of its bounds"


def _advise_more_data(doubts: Sequence[Reason], judged: Sequence[Comparison], evidence: Evidence) -> str:
    """Advise how much more data decides the metrics that are open, or what else to do.

    `needed_time` is the multiple of the present data after which an unchanged estimate would be within its margin; it
    is infinite if no amount of data shows that.
    """
    open_metrics = {(doubt.metric, doubt.arm, doubt.evidence) for doubt in doubts if doubt.code == "not_shown"}
    waiting = [
        c
        for c in judged
        if (c.rule.name, c.arm, c.evidence) in open_metrics and not c.scan and c.needed_time is not None
    ]
    # Without open metrics it is the first doubt that must be removed.
    if not waiting:
        return _advise_on_doubt(doubts[0], judged, evidence)
    multiple = max(c.needed_time for c in waiting if c.needed_time is not None)
    if all(c.kind is EvidenceKind.OUTCOMES for c in waiting):
        units = multiple * max(c.baseline.n + c.candidate.n for c in waiting)
        if math.isfinite(units) and 1 < multiple <= MOST_TIMES:
            return f"import about {format_count(math.ceil(units))} units in all, if the change stays as it is"
        return "the change is about as large as the margin: fix the candidate, or decide whether the margin is right"
    # The steps of recorded times, or the bounds of a histogram, may be too coarse: then more data do not help.
    unresolved = next((c for c in waiting if c.unresolved), None)
    if unresolved is not None:
        if unresolved.load_differs:
            return _EQUAL_LOAD
        return _FINER_TIMES if unresolved.too_coarse else _OTHER_BOUNDS
    # If the metric that needs longest is one of production, more data come from there.
    of_production = max(waiting, key=lambda c: c.needed_time or 0.0).kind is EvidenceKind.LIVE
    judged_s = evidence.production.seconds if of_production else evidence.window.seconds
    seconds = max(multiple, SHORTEST_REPEAT) * judged_s
    duration = f"about {format_duration(seconds)}" if math.isfinite(seconds) else ""
    if of_production:
        longer = f"judge {duration} of production in all"
        more_instances = "send a larger share of the requests to the candidate, or run more instances of it"
    elif evidence.collected:
        longer = f"collect {duration} in all"
        more_instances = "run more instances of each arm"
    elif evidence.imported:
        longer = f"import {duration} of load"
        more_instances = "import more instances an arm, or more files of repeated runs"
    else:
        longer = f"load for {duration} in all (--run-time)"
        more_instances = "load more instances an arm, or more replicates (--replicates 5)"
    if math.isfinite(seconds) and 0 < seconds <= LONGEST_WAIT:
        return f"{longer}, if the change stays as it is"
    if any(_is_beyond(c) for c in waiting):
        return "the change is as large as the margin: fix the candidate, or decide whether the margin is right"
    # With so few requests in the tail, it is not known either how much instances differ there.
    is_unknown = any(c.effect is not None and math.isinf(c.effect.upper) for c in waiting)
    why = "too few slow requests to say how much longer it takes: record more" if is_unknown else ""
    return f"{why}, or {more_instances}" if why else f"more minutes will not decide it: {more_instances}"


def _advise_on_doubt(doubt: Reason, judged: Sequence[Comparison], evidence: Evidence) -> str:
    """Advise what to do about a doubt that is not an open metric."""
    verb = "load"  # how the data of this release are obtained
    if evidence.is_production_alone:
        verb = "record"
    elif evidence.collected:
        verb = "collect"
    elif evidence.imported:
        verb = "import"
    if doubt.code == "endpoint_worse":
        metric = next(c.rule.metric for c in judged if c.scan and c.rule.name == doubt.metric)
        key = "failure_tolerance" if metric.is_failure_rate else "tolerance"
        return (
            f"check {doubt.slice}; if its harm is acceptable, raise `endpoint_scan: {{{key}: …}}`, or give this "
            "endpoint a gate with its own margin"
        )
    if doubt.code == "unjudged_endpoints":
        return f"{verb} more requests of these endpoints on both arms"
    if doubt.code == "not_final":
        return "judge again at the planned end"
    if doubt.code == "no_gate":
        return "add a metric with `role: gate` to the policy"
    return f"{verb} the release again"


def _is_beyond(comparison: Comparison) -> bool:
    """Is the estimate at or beyond the margin, or is the metric open only because it drifts there?

    Then more data do not help. `False` without an effect or a margin.
    """
    effect, margin, drift = comparison.effect, comparison.rule.margin, comparison.drift
    if effect is None or margin is None:
        return False
    harm = effect.estimate if comparison.rule.direction is Direction.LOWER else -effect.estimate
    within = all(question.p_within < SURE for question in comparison.questions if question.decides)
    # `last_third`: distance beyond the margin in the last third of the run, positive beyond it.
    return harm >= margin.value or (within and drift is not None and drift.last_third >= 0)
