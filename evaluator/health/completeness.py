"""Did every run end as planned, with all its workers and all its requests?"""

from __future__ import annotations

from collections.abc import Iterable

from evaluator.health.base import RequestContext, fail, ok, warn
from evaluator.records import Finding, LeftOutKind, Run, RunState
from evaluator.wording import format_count, quote_command

MORE_THAN_COUNTED = 1.01
"""Requests in the store per request that the load generator counted (if no count may be missing), above which some are
stored twice."""


def check_completeness(context: RequestContext) -> Iterable[Finding]:
    """Did every run end as planned, with all its workers, and are all planned replicates judged?"""
    runs = context.runs
    problems = [problem for run in runs for problem in _list_problems(run)]
    planned_replicates = max((int(run.fingerprint.get("replicates", 1)) for run in runs), default=1)
    load_again = f"load it again: `{quote_command('load', context.release)} …`"
    if context.is_live:
        load_again = "record production requests for longer, or judge the time that was recorded: --from, --to"
    if any(run.state is RunState.RUNNING for run in runs):
        text, remedy = "the run has not reached its planned end", "judge again when the run has ended"
        # Without monitoring a look before the planned end would raise the false-alarm rate: neither GO nor NO-GO.
        if context.may_go_early:
            yield warn("complete", text, remedy)
        else:
            yield fail("complete", text, remedy, void=not context.looks_paid)
    elif problems:
        yield fail("complete", "; ".join(dict.fromkeys(problems)), load_again)  # each problem once
    elif len(runs) < planned_replicates:
        text = f"{len(runs)} of {planned_replicates} replicates: the others were not run or not selected"
        yield warn("complete", text, load_again)
    else:
        workers = [run.facts.workers_expected or 0 for run in runs]
        text = f"all {max(workers)} workers reported to the end" if any(workers) else "every run is complete"
        yield ok("complete", text)


def _list_problems(run: Run) -> Iterable[str]:
    """Yield why a run is not complete, one text for each reason."""
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


def _count_recorded(run: Run) -> int:
    """Count the requests of a run that are in the store, or counted there as those of its router; 0 without a count.

    Attempts that a router repeated are rows, too, but no requests that the load generator counted.
    """
    router, counted = run.facts.router, run.facts.counted
    if counted is None or router is None:
        return 0 if counted is None else run.landed
    of_arms = run.landed - sum(router.retried.values())
    of_router = router.without_server + sum(router.other_servers.values())
    # The router's have some more that Locust does not count: those without an answer at the end.
    return of_arms + min(of_router, max(counted - of_arms, 0))


def check_coverage(context: RequestContext) -> Iterable[Finding]:
    """Compare the requests in the store with those that the load generator counted; name unreadable segments (files).

    It also fails if the files of a run cannot show some kind of requests.

    Too few requests in the store were lost; clearly more than counted were stored twice.
    """
    unreadable = [name for run in context.runs for name in run.facts.quarantined]
    if unreadable:
        noun = "segments" if len(unreadable) > 1 else "segment"
        yield fail("coverage", f"{len(unreadable)} {noun} cannot be read: {', '.join(unreadable[:3])}")
    counted = int(sum(context.list_known("counted")))
    unseen = next((run.facts.unseen for run in context.runs if run.facts.unseen), "")
    if unseen:
        yield fail(
            "coverage",
            f"the files do not show {unseen}: such failures would not be seen",
            "load with a tool that writes every request (Locust, JMeter, k6, Vegeta, Gatling); or, if you know that "
            "every request got an answer, import the files again with --all-answered",
        )
        return
    if not counted:  # no load generator counted requests: the data were imported
        has_bad_rows = any(part.kind is LeftOutKind.BAD_ROW for rows in context.rows for part in rows.left_out)
        has_bad_rows |= any(run.facts.router is not None and any(run.facts.router.unread) for run in context.runs)
        if not unreadable and not has_bad_rows:
            rows = "line of the log" if context.is_live else "row of the files"
            yield ok("coverage", f"every {rows} could be read")
        return
    landed = sum(_count_recorded(run) for run in context.runs)
    share = landed / counted
    text = f"{format_count(landed)} of {format_count(counted)} requests that Locust counted"
    if share > 1 and any(run.state is not RunState.COMPLETE for run in context.runs):
        # A killed process did not report its last count, so more requests than counted are no fault.
        yield ok("coverage", f"{format_count(landed)} requests, more than the {format_count(counted)} last counted")
    # As much as may be lost by the policy may be missing from the count as well.
    elif share < context.rulebook.coverage or share > MORE_THAN_COUNTED / context.rulebook.coverage:
        yield fail("coverage", text + " are recorded")
    else:
        yield ok("coverage", text)
