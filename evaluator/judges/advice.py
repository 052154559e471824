"""What to do next after a verdict that is not GO: what to fix, or which data are missing, with the command."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluator.judges.progress import LONGEST_WAIT, MOST_TIMES, SHORTEST_REPEAT
from evaluator.judges.wording import broke_limit_as_baseline, describe_baseline_beyond, find_harm
from evaluator.records import Comparison, Evidence, EvidenceKind, Fault, FaultPlace, Level, Reason
from evaluator.wording import USERS, count_of, format_count, format_duration, join_names, write_command

SURE = 0.05
"""For advice only: a metric whose p-value of "within" is below this counts as within."""


def next_after_no_go(
    reasons: Sequence[Reason], release: str, judged: Sequence[Comparison], alpha: float, faults: Sequence[Fault] = ()
) -> str:
    """Say what to do after a NO-GO: what to fix and where it is wrong, or what both arms share.

    `judged`: all comparisons; `faults`: those that were found in the requests that were compared.
    """
    first_reason = reasons[0]
    metric, arm, endpoint = first_reason.metric, first_reason.arm, first_reason.slice
    broken: Comparison | None = None  # the comparison that the first reason is about, if it broke a limit
    if first_reason.code == "limit":
        by_subject = {(c.rule.name, c.arm, c.rule.slice.endpoint, c.evidence): c for c in judged if not c.scan}
        broken = by_subject.get((metric or "", arm or "", endpoint, first_reason.evidence))
    if broken is not None and broke_limit_as_baseline(broken, alpha):
        return (
            f"{describe_baseline_beyond(broken)}, so a rollback does not help: check what both arms share, or set the "
            f"limit of {metric} to what the service keeps, then judge {release} again"
        )
    is_live = first_reason.evidence is EvidenceKind.LIVE
    fault = next((fault for fault in faults if fault.arm == arm and fault.what != "not_known"), None)
    if fault is not None:
        cause = f"find out why {describe_fault(fault)}, and fix it"
    else:
        cause = f"find and fix the cause in {endpoint} on {arm}" if endpoint else f"find and fix the cause in {arm}"
    if is_live:
        return f"stop sending users to {arm} of {release}; {cause}, then judge again"
    return f"do not promote {release}; {cause}, then load and judge again"


MOST_NAMES = 3
"""Endpoints or instances that are named in an advice."""


def describe_fault(fault: Fault) -> str:
    """Describe a fault in short: `POST /cart fails more often on canary-3`."""
    endpoints, is_single = fault.endpoints, len(fault.endpoints.names) == 1
    subject = "requests"
    if endpoints.names:
        subject = name_place(endpoints, "endpoint")
    elif endpoints.scope == "all":
        subject = f"all {format_count(endpoints.count)} endpoints"
        if endpoints.count == 1:
            subject, is_single = "the only endpoint", True
    verb = ("fails" if is_single else "fail") if fault.what == "failures" else "takes" if is_single else "take"
    instances, where = fault.instances, fault.arm
    if instances.scope == "some":
        where = name_place(instances, "instance")
    elif instances.scope == "all" and instances.count > 1:
        where = f"all {format_count(instances.count)} instances of {fault.arm}"
    return f"{subject} {verb} {'more often' if fault.what == 'failures' else 'longer'} on {where}"


def name_place(place: FaultPlace, noun: str) -> str:
    """Name endpoints or instances, or count them if they are many; `noun`: in the singular."""
    return join_names(place.names) if len(place.names) <= MOST_NAMES else count_of(len(place.names), noun)


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
            return f"import about {format_count(math.ceil(units))} {USERS} in all, if the change stays as it is"
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
    harm = find_harm(comparison, effect.estimate)
    within = all(question.p_within < SURE for question in comparison.questions if question.decides)
    # `last_third`: distance beyond the margin in the last third of the run, positive beyond it.
    return harm >= margin.value or (within and drift is not None and drift.last_third >= 0)
