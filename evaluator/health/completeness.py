"""Did every run end as planned, with all its workers and all its requests?"""

from __future__ import annotations

from collections.abc import Iterable

from evaluator.health.base import RequestContext, ok, warn
from evaluator.records import Finding, LeftOutKind, Level, Run, RunState
from evaluator.wording import format_count

__all__ = ["check_completeness", "check_coverage"]

MORE_THAN_COUNTED = 1.01


def check_completeness(context: RequestContext) -> Iterable[Finding]:
    """Runs that stopped early, lost workers or were left behind."""
    troubles = [trouble for run in context.runs for trouble in _troubles(run)]
    again = f"load it again: `evaluator load {context.release} …`"
    if any(run.state is RunState.RUNNING for run in context.runs):
        # A look before the planned end is paid for by monitoring only; else it is neither GO nor NO-GO.
        yield _unfinished(context)
    elif troubles:
        yield Finding("complete", Level.FAIL, "; ".join(dict.fromkeys(troubles)), remedy=again)
    elif len(context.runs) < (wanted := _replicates_wanted(context)):
        text = f"{len(context.runs)} of {wanted} replicates: the others were not run, or not chosen"
        yield warn("complete", text, again)
    else:
        workers = [run.facts.workers_expected or 0 for run in context.runs]
        text = f"all {max(workers)} workers to the end" if any(workers) else "every run is complete"
        yield ok("complete", text)


def _unfinished(context: RequestContext) -> Finding:
    """A run that goes on. Where the policy asks for an early GO, its looks pay for it."""
    text, remedy = "the run has not reached its planned end", "judge again when the run has ended"
    if context.looks_paid and context.rulebook.monitoring.early_go:
        return warn("complete", text, remedy)
    return Finding("complete", Level.FAIL, text, void=not context.looks_paid, remedy=remedy)


def _replicates_wanted(context: RequestContext) -> int:
    return max((int(run.fingerprint.get("replicates", 1)) for run in context.runs), default=1)


def _troubles(run: Run) -> Iterable[str]:
    facts = run.facts
    if facts.stopped_by:
        yield f"the run stopped early: {facts.stopped_by}"
    elif facts.ended_early:
        yield f"the run was ended early on purpose: {facts.ended_early}"
    elif run.state is RunState.INCOMPLETE:
        yield "the run is incomplete"
    if facts.workers_expected is not None and (facts.workers_seen or 0) < facts.workers_expected:
        yield f"{facts.workers_seen or 0} of {facts.workers_expected} workers reported to the end"
    if facts.orphaned:
        yield "workers lost their parent process"


def check_coverage(context: RequestContext) -> Iterable[Finding]:
    """Requests in the store against those that the load generator counted, and segments that cannot be read."""
    lost = [name for run in context.runs for name in run.facts.quarantined]
    if lost:
        many = "segments" if len(lost) > 1 else "segment"
        yield Finding("coverage", Level.FAIL, f"{len(lost)} {many} cannot be read: {', '.join(lost[:3])}")
    counted = int(sum(context.known("counted")))
    if not counted:
        if not lost and not any(part.kind is LeftOutKind.BAD_ROW for rows in context.rows for part in rows.left_out):
            yield ok("coverage", "every row of the files could be read")
        return
    landed = sum(run.landed for run in context.runs if run.facts.counted is not None)
    share = landed / counted
    text = f"{format_count(landed)} of {format_count(counted)} requests that Locust counted"
    if share > 1 and any(run.state is not RunState.COMPLETE for run in context.runs):
        # A process that was killed did not tell its last count.
        yield ok("coverage", f"{format_count(landed)} requests, more than the {format_count(counted)} last counted")
    elif share < context.rulebook.coverage or share > MORE_THAN_COUNTED / context.rulebook.coverage:
        yield Finding("coverage", Level.FAIL, text + " are recorded")
    else:
        yield ok("coverage", text)
