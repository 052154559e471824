"""Reasons in sentences: what happened, by how much, against what is allowed, and what to do next."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

from evaluator.health.base import name_some
from evaluator.judges.progress import find_more_units, find_needed_s
from evaluator.records import (
    Comparison,
    Direction,
    Evidence,
    EvidenceKind,
    Finding,
    Margin,
    MetricStatus,
    Question,
    Reason,
    ReasonCode,
    Role,
)
from evaluator.wording import (
    USERS,
    clip_interval,
    count_of,
    format_change,
    format_count,
    format_duration,
    format_interval,
    format_margin,
    format_number,
    format_value,
    name_comparison,
    name_evidence,
    write_check_name,
)


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
    elif max(find_harm(comparison, effect.lower), find_harm(comparison, effect.upper)) < 0:
        change = f"improved by {size[1:]}"  # only if the whole interval says so
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
    return f"more than the {format_margin(margin, comparison.unit)} allowed"


def _describe_allowance(comparison: Comparison) -> str:
    """Say which change is allowed and in which direction: `a drop of up to 0.5 pp was allowed`."""
    margin, rule = comparison.rule.margin, comparison.rule
    harm = "rise" if rule.direction is Direction.LOWER else "drop"
    if rule.metric.both_directions:
        harm = "change"
    if margin is None or not margin.value:
        return f"no {harm} was allowed"
    return f"a {harm} of up to {format_margin(margin, comparison.unit)} was allowed"


def find_harm(comparison: Comparison, change: float) -> float:
    """Turn a change into harm: positive is worse."""
    return change if comparison.rule.direction is Direction.LOWER else -change


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


def describe_baseline_beyond(comparison: Comparison) -> str:
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
            text = f"{describe_baseline_beyond(comparison)}, {cause}: {name} of {comparison.arm} {verb} {value}"
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
    return Reason("health", f"{write_check_name(finding.check)}{name_evidence(finding.evidence)}: {finding.text}")


def explain_status(
    comparison: Comparison,
    alpha: float,
    *,
    shown_within: bool,
    no_go_level: float | None = None,
    judged_s: float = 0.0,
) -> str:
    """Explain in a sentence why a metric passed, failed or is open; it has its status and p-values already.

    `shown_within`: it is within its margin over the whole run. If it is open nevertheless, the end of the run is not.
    `no_go_level`: as for `explain_failure`. `judged_s`: seconds of the data that it is based on.
    """
    status, rule = comparison.status, comparison.rule
    if status is MetricStatus.FAIL:
        return explain_failure(comparison, alpha, no_go_level=no_go_level).text
    change, margin = _describe_change(comparison, alpha), format_margin(rule.margin, comparison.unit)
    limit, open_limits = _describe_limit(comparison), _list_open_limits(comparison, alpha)
    is_open = status is not MetricStatus.PASS
    if rule.margin is None and not rule.limit.count:
        text = "; no margin is set"
    elif rule.margin is None and not open_limits:
        but = " by itself, but not after allowing for all candidates" if is_open else ""
        text = f"; keeps to its limit of {limit}{but}"
    elif not is_open:
        is_harm = comparison.effect is not None and find_harm(comparison, comparison.effect.estimate) > 0
        text = f", within the {margin} allowed" if is_harm else f"; {_describe_allowance(comparison)}"
    elif shown_within and rule.margin is not None:
        text = (
            f", within the {margin} allowed over the whole run, but it gets worse and goes beyond that towards the end"
        )
    elif _became_failure(comparison):
        text = ", which may be chance"
    elif comparison.unresolved:
        text = f"; {comparison.unresolved}"
    elif open_limits:
        return _describe_level(comparison, alpha)
    else:
        text = f"; {_describe_doubt(comparison, alpha, no_go_level, judged_s)}"
    return f"{change}{text}"


def _list_open_limits(comparison: Comparison, alpha: float) -> list[Question]:
    """List the limits that the candidate is not shown to keep."""
    return [question for question in comparison.questions if question.kind == "limit" and question.p_within >= alpha]


def _describe_level(comparison: Comparison, alpha: float) -> str:
    """Compare a candidate's value with a limit that it is not shown to keep.

    `failures of canary are 0.9 %, could be up to about 3.7 %; the limit is at most 2 %`.
    """
    question = max(_list_open_limits(comparison, alpha), key=lambda question: question.p_within)
    unit, arm, name, level = comparison.unit, comparison.arm, name_comparison(comparison), comparison.candidate.value
    text = f"{name} of {arm} {'are' if name.startswith('failures') else 'is'} {format_value(level, unit)}"
    if level is not None and _breaks_limit(comparison, level):
        text += f"; the limit is {_describe_limit(comparison)}, but this may be chance"
    else:
        reach = None if level is None else _find_reach(level, question, alpha, is_share=unit == "fraction")
        side = "up" if comparison.rule.limit.max == question.bound else "down"
        range_text = f", could be {side} to about {format_value(reach, unit)}" if reach is not None else ""
        text += f"{range_text}; the limit is {_describe_limit(comparison)}"
        text += "" if range_text else ", which it is not shown to keep"
    if _breaks_limit(comparison, comparison.baseline.value):
        text += f"; baseline itself is beyond it ({format_value(comparison.baseline.value, unit)})"
    return text


MOST_REACH_P = 0.4
"""With a larger p-value the value is so close to the limit that the p-value does not show how precise it is."""
MOST_REACH = 20.0
"""Most times by which a value is said to be possibly larger or smaller."""


def _find_reach(level: float, question: Question, alpha: float, *, is_share: bool) -> float | None:
    """Find the limit that a candidate would just be shown to keep: its value could reach that far, with error `alpha`.

    Found from the p-value of its own limit, for people: shares vary as the square root of their distance from 0 or 1 (a
    score test), other values in proportion to themselves. `None` if that cannot be said.
    """
    bound = question.bound
    if not alpha < 0.5 or not 0 < question.p_within <= MOST_REACH_P:
        return None
    if is_share and level > 0.5:
        complement = replace(question, bound=1 - bound)
        reach = _find_reach(1 - level, complement, alpha, is_share=True)
        return None if reach is None else 1 - reach
    if not (math.isfinite(level) and level > 0 and bound > 0):
        return None
    ratio = NormalDist().inv_cdf(1 - alpha) / NormalDist().inv_cdf(1 - question.p_within)
    if is_share:
        slope = ratio * (bound - level) / math.sqrt(bound)
        return min(((slope + math.sqrt(slope**2 + 4 * level)) / 2) ** 2, 1.0)
    exponent = ratio * math.log(bound / level)
    return level * math.exp(exponent) if abs(exponent) < math.log(MOST_REACH) else None


def _describe_doubt(comparison: Comparison, alpha: float, no_go_level: float | None, judged_s: float) -> str:
    """Say why a change is neither shown to be within its margin nor beyond it, and how much more data it needs."""
    margin, adjusted = format_margin(comparison.rule.margin, comparison.unit), comparison.p_value_adjusted
    p_worse = 1.0 if comparison.p_value is None else comparison.p_value
    if adjusted is not None and p_worse < (alpha if no_go_level is None else no_go_level):
        others = "endpoints" if comparison.scan else "gates"
        p_values = f"p {format_number(p_worse)}, adjusted {format_number(min(adjusted, 1.0))}"
        return f"beyond the {margin} allowed by itself, but not after allowing for all {others} ({p_values})"
    if max((question.p_within for question in comparison.deciding), default=1.0) < alpha:
        return f"within the {margin} allowed by itself, but not after allowing for all candidates"
    text = f"could be within or beyond the {margin} allowed"
    if not comparison.must_be_within:
        return text
    more_s = find_needed_s(comparison, judged_s) - judged_s
    if math.isfinite(more_s):
        text += f": needs about {format_duration(more_s)} more"
    elif comparison.kind is EvidenceKind.OUTCOMES and (more_units := find_more_units(comparison)):
        text += f": needs about {format_number(more_units)} more {USERS}"
    return text


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
    """Give the reason of a GO: margins and limits that are kept, the least certain gate or hold, the data judged."""
    passed = [c for c in judged if c.status is MetricStatus.PASS and c.must_be_within]
    with_margin = [c for c in passed if c.rule.margin and c.effect]
    with_limit = [c for c in passed if c.rule.limit.count]
    clauses = []
    if len(with_margin) == 1:
        clauses.append(f"the {with_margin[0].rule.role.value} is within its margin")
    elif with_margin:
        clauses.append(f"{_count_by_role(with_margin)} are shown to be within their margins")
    if with_limit:
        limits = ", ".join(
            f"{name_comparison(c)} {_describe_limit(c)} ({format_value(c.candidate.value, c.unit)})" for c in with_limit
        )
        verb = "limit is kept" if len(with_limit) == 1 else "limits are kept"
        clauses.append(f"{len(with_limit)} {verb}: {limits}")
    closest = max(with_margin, key=_share_of_margin_used, default=None)
    if closest is not None:
        subject = "" if len(with_margin) == 1 else f"the least certain {closest.rule.role.value} is "
        clauses.append(f"{subject}{_describe_use(closest)}")
    units = sum(arm.units for arm in evidence.arms)
    data = []  # what was judged, as texts
    if (evidence.window.seconds or not units) and not evidence.is_production_alone:
        kind = "readings" if evidence.collected else "load"
        data.append(f"{format_duration(evidence.window.seconds)} of {kind}")
    if evidence.production.seconds:
        data.append(f"{format_duration(evidence.production.seconds)} of production")
    if units:
        data.append(f"outcomes of {format_count(units)} {USERS}")
    if not with_margin:
        clauses.append("no gate has a margin, so no change from baseline was tested")
    return Reason("within_margins", "; ".join([*clauses, f"judged on {' and '.join(data)}"]))


def _count_by_role(comparisons: Sequence[Comparison]) -> str:
    """Count gates and holds, at least two in all: `both gates`, `all 3 gates`, `3 gates and 1 hold`."""
    counts = Counter(comparison.rule.role for comparison in comparisons)
    gates, holds = counts[Role.GATE], counts[Role.HOLD]
    if gates and holds:
        return f"{count_of(gates, 'gate')} and {count_of(holds, 'hold')}"
    noun = "gates" if gates else "holds"
    return f"both {noun}" if gates + holds == 2 else f"all {gates + holds} {noun}"


def _describe_use(comparison: Comparison) -> str:
    """Describe how much of its margin a change uses: `revenue: +13.2 %, at worst +5.3 %; −5 % was allowed`."""
    effect, rule = comparison.effect, comparison.rule
    if effect is None:
        return name_comparison(comparison)
    is_rise = rule.direction is Direction.LOWER
    least, most = clip_interval(comparison)
    worst = format_change(replace(comparison, effect=replace(effect, estimate=most if is_rise else least)))
    sign = "±" if rule.metric.both_directions else "+" if is_rise else "−"
    margin = format_margin(rule.margin, comparison.unit)
    allowed = f"{sign}{margin} was allowed" if rule.margin and rule.margin.value else _describe_allowance(comparison)
    return f"{name_comparison(comparison)}: {format_change(comparison)}, at worst {worst}; {allowed}"


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
    return max(find_harm(comparison, effect.lower), find_harm(comparison, effect.upper)) / margin.value
