"""What a router did in addition to the requests of the arms: failures of no arm, retries, lost lines of its log.

Its access log says so, or the answers to a load that went through it.

A router hides failures of a server from the comparison: it answers in its place, or tries another server. What could
hide more failures than the policy's margin forbids a GO.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

from evaluator.health.base import TOLERATED, RequestContext, fail, find_failure_margin, grade, name_some, ok, warn
from evaluator.records import Finding, RouterFacts, add_router_facts
from evaluator.wording import count_of, format_count, format_duration, format_number, quote_command

LEAST = 5
"""Fewer failures of the router itself are no sign of anything."""


@dataclass(frozen=True, slots=True)
class _Log:
    """The access log of all judged runs, or what answers to a load through a router said."""

    facts: RouterFacts
    rows: Mapping[str, int]
    """Arm → rows read, the baseline first."""
    margin: float
    """Share of requests that may fail more often on the candidate: the smallest margin of a gate of failures."""
    coverage: float
    """Smallest share of the requests that must be there."""
    seconds: float
    """Time that is judged."""
    release: str
    is_load: bool
    """Are they the answers to a load, not an access log?"""

    @property
    def origin(self) -> str:
        """Where the requests are counted, as the end of a sentence about them."""
        return "of the load" if self.is_load else "in the log"

    def share(self, count: int) -> str:
        """Write a count of the log's requests with its share: `40 of 3,000 requests in the log (1.33 %)`."""
        percent = format_number(100 * count / max(self.facts.answers, 1))
        return f"{format_count(count)} of {count_of(self.facts.answers, 'request')} {self.origin} ({percent} %)"

    @property
    def allowed(self) -> str:
        """The margin for people: `0.1 pp`."""
        return f"{format_number(self.margin * 100)} pp"


def check_router(context: RequestContext) -> Iterable[Finding]:
    """Judge what the router did by itself, and which parts of its log are missing; nothing without a router."""
    if any(run.is_routed and run.facts.router is None for run in context.runs):
        # Loads say it at their end only: until then failures may be hidden.
        text = "what the router did by itself is not known before the load has ended in order"
        yield fail("router", text, "judge again when the load has ended")
    all_facts = [run.facts.router for run in context.runs if run.facts.router is not None]
    if not all_facts:
        return
    log = _Log(
        facts=reduce(add_router_facts, all_facts),
        rows={rows_of_arm.arm: rows_of_arm.read for rows_of_arm in context.rows},
        margin=find_failure_margin(context.rulebook),
        coverage=context.rulebook.coverage,
        seconds=context.covered_s,
        release=context.release,
        is_load=all(run.source == "locust" for run in context.runs if run.facts.router is not None),
    )
    findings = [finding for check in _CHECKS for finding in check(log)]
    yield from findings
    if not findings and log.facts.answers:
        where = log.origin if log.is_load else "in the access log"
        yield ok("router", f"all {count_of(log.facts.answers, 'request')} {where} belong to an arm")


def _check_without_server(log: _Log) -> Iterable[Finding]:
    """Failures that no server saw belong to no arm, so no comparison counts them: too many of them forbid a GO."""
    facts = log.facts
    failures, answers = facts.without_server_failures, facts.without_server - facts.without_server_failures
    if failures:
        text = f"{log.share(failures)} failed and reached no server: the router could choose none, because all were "
        text += "down or its queue was full. They belong to no arm, so no metric counts them"
        remedy = "find out from the router's log which servers were down then; if each arm has a backend of its own, "
        remedy += "read the arm from it (--arm-from backend)"
        if log.is_load:
            text = f"{log.share(failures)} failed, and no server is named as the cause: the router did not answer in "
            text += "time, answered by itself, or its answer has no header with the arm. They belong to no arm, so no "
            text += "metric counts them"
            remedy = "find out from the router's log which servers were down then; errors need the header, too (nginx: "
            remedy += "`add_header … always`)"
        # In a load all of these failures may be those of the canary, which may have a small share of the requests. The
        # log of production has failures of other causes as well: there they are compared with all requests.
        is_much = _could_hide(log, failures) if log.is_load else failures > log.margin * facts.answers
        is_much &= failures >= LEAST
        yield grade("without_server", text, remedy, fails=is_much)
    if answers and log.is_load:
        yield from _judge_unnamed(log, answers)
    elif answers and not failures:
        yield ok("without_server", f"the router itself answered {log.share(answers)}: they belong to no arm")


def _judge_unnamed(log: _Log, answers: int) -> Iterable[Finding]:
    """Judge successes of a load that no header gives an arm: fail if they are more than the requests of an arm."""
    text = f"{log.share(answers)} succeeded without a header that names their arm, so they are not judged"
    remedy = "if the router did not answer them by itself, let it set the header on all answers (docs/recording.md)"
    yield grade("without_server", text, remedy, fails=answers > min(log.rows.values(), default=0))


def _check_retries(log: _Log) -> Iterable[Finding]:
    """Name failed attempts that were retried; fail where attempts that cannot be attributed could hide failures."""
    facts = log.facts
    if facts.retries_hidden:
        text = "the router's log does not show retries: a request that failed on one arm and was answered by the other "
        text += "looks like a success, and the failure is missing"
        remedy = "log every attempt (nginx: $upstream_addr and $upstream_status, Envoy: "
        remedy += "%UPSTREAM_REQUEST_ATTEMPT_COUNT%), or switch retries off while a canary runs"
        if log.is_load:
            text = "the answers do not say whether the router tried another server before: a request that failed on "
            text += "one arm and was answered by the other looks like a success, and the failure is missing"
            remedy = "let the router say it (HAProxy: `http-after-response set-header X-Retries %rc`, nginx: "
            remedy += "$upstream_addr as the header of the arm); or load with --no-retries if it never tries again"
        yield grade("retries", text, remedy, fails=True)
    if unknown := facts.retried_by_unknown:
        arm, worst = _find_worst_share(log, unknown)
        text = f"the router retried {count_of(unknown, 'failed attempt')}, and its log does not say which server had "
        text += f"failed: if it was always one of {arm}, its failure rate is {worst} pp higher"
        remedy = f"follow the log with `{quote_command('tail', log.release)} … --stats-socket PATH`, which reads from "
        remedy += "HAProxy on which servers attempts failed; or give each arm a backend of its own (--arm-from "
        remedy += "backend); or switch `option redispatch` off, so that retries stay on their server"
        if log.is_load:
            text = text.replace("its log does not say", "the answers do not say")
            remedy = "switch `option redispatch` off, so that retries stay on their server; or judge the router's log: "
            remedy += f"`{quote_command('tail', log.release)} … --stats-socket PATH`"
        yield grade("retries", text, remedy, fails=_could_hide(log, unknown))
    if any(facts.retried.values()):
        each = ", ".join(f"{arm} {format_count(facts.retried.get(arm, 0))}" for arm in log.rows)
        text = f"requests failed on a server and were tried again by the router: {each}. Each of these attempts counts "
        text += "as a failed request of its arm"
        if facts.failed_answers is not None:
            text += f"; in the end {log.share(facts.failed_answers)} failed for the user"
        yield warn("retries", text)


def _find_worst_share(log: _Log, count: int) -> tuple[str, str]:
    """Name the candidate with the fewest rows, and the share (in %) that `count` of its requests would be."""
    rows_by_candidate = dict(list(log.rows.items())[1:])  # the baseline is first
    if not rows_by_candidate:
        return "the candidate", "up to 100"
    arm = min(rows_by_candidate, key=lambda name: rows_by_candidate[name])
    return arm, format_number(100 * min(1.0, count / max(rows_by_candidate[arm], 1)))


def _could_hide(log: _Log, count: int) -> bool:
    """Could so many failures, if all were those of one candidate, be more than the margin of failures?"""
    return any(count > log.margin * rows for rows in list(log.rows.values())[1:]) or len(log.rows) < 2


def _check_other_servers(log: _Log) -> Iterable[Finding]:
    """Requests of servers that belong to no arm: fail if they are more than those of an arm, else warn.

    Of a load they fail from the share of requests that may be missing.
    """
    others = {server: count for server, count in log.facts.other_servers.items() if count}
    if not others:
        return
    names = sorted(others, key=lambda server: (-others[server], server))  # most requests first
    total = sum(others.values())
    text = f"servers that belong to no arm ({name_some(names)}) answered {log.share(total)}"
    remedy = "name the arm of each with --arm-server, such as "
    remedy += f"--arm-server {shlex.quote(f'canary={names[0]}')}; lines of other services belong in no access log "
    remedy += "that is read for this release"
    if log.is_load:
        remedy = f"name the arm of each with --arm-value, such as --arm-value ARM={shlex.quote(names[0])}"
    # All requests of a load are for this release, so these may be requests of an arm.
    allowed = (1 - log.coverage if log.is_load else 1.0) * min(log.rows.values(), default=0)
    yield grade("other_servers", text, remedy, fails=total > allowed)


def _check_grpc(log: _Log) -> Iterable[Finding]:
    """Calls of gRPC fail with HTTP status 200: without their own status, failures are not known."""
    unread = {arm: count for arm, count in log.facts.grpc_unread.items() if count}
    if not unread:
        return
    parts = [f"{arm} {format_count(n)} of {format_count(log.rows.get(arm, 0))}" for arm, n in unread.items()]
    each = ", ".join(parts)
    text = f"requests of gRPC whose grpc-status is not in the log: {each}. They have HTTP status 200 also if they "
    text += "failed, so their failures are not known"
    remedy = "log grpc-status (nginx: $sent_trailer_grpc_status or $sent_http_grpc_status, Envoy: %GRPC_STATUS%, "
    remedy += "HAProxy: %[res.fhdr(grpc-status)])"
    is_much = any(count > log.margin * log.rows.get(arm, 0) for arm, count in unread.items())
    yield grade("grpc_status", text, remedy, fails=is_much)


def _check_unread_lines(log: _Log) -> Iterable[Finding]:
    """Lines that are not judged, of which it is not known whose they are: fail if they could hide enough failures."""
    unread = {what: lines for what, lines in log.facts.unread.items() if lines}
    if not unread:
        return
    total = sum(unread.values())
    arm, worst = _find_worst_share(log, total)
    causes = "; ".join(f"{format_count(lines)} {what}" for what, lines in unread.items())
    verb = "is" if total == 1 else "are"
    text = f"{count_of(total, 'line')} of the access log {verb} not judged: {causes}. Whose they are is not known: if "
    text += f"each was a failure of {arm}, its failure rate is {worst} pp higher"
    remedy = "find out what these lines are, and let the router write all lines in one format and by one clock "
    remedy += "(docs/access-logs.md)"
    yield grade("unread_lines", text, remedy, fails=_could_hide(log, total))


def _check_missing_lines(log: _Log) -> Iterable[Finding]:
    """Parts of the log that could not be read, and requests that came after their step was closed."""
    facts = log.facts
    if facts.holes:
        size = "it is not known for how long"
        if facts.unread_s is not None:
            size = f"{format_duration(facts.unread_s)} of {format_duration(log.seconds)}"
        text = f"parts of the access log are missing ({size}): {'; '.join(facts.holes[:3])}"
        if len(facts.holes) > 3:
            text += f"; and {len(facts.holes) - 3} more"
        remedy = "if the log is still complete in files, import these under a new id: "
        remedy += f"`{quote_command('import')} RELEASE --access-log FILE`"
        is_much = facts.unread_s is None or facts.unread_s > TOLERATED * log.seconds
        yield grade("log_holes", text, remedy, fails=is_much)
    if facts.late:
        text = f"logged after their step had been closed, and not judged: {log.share(facts.late)}"
        remedy = "a request is logged when it ends: let a step last much longer than its slowest requests"
        yield grade("late", text, remedy, fails=facts.late > (1 - log.coverage) * max(facts.answers, 1))


def _check_pooled(log: _Log) -> Iterable[Finding]:
    """Warn if rare paths are judged as one endpoint, and show the form of a rule that would keep them apart."""
    facts = log.facts
    if facts.endpoints_pooled:
        example = f", such as {facts.pooled_example}" if facts.pooled_example else ""
        text = f"rare paths{example} are judged as one endpoint: {log.share(facts.endpoints_pooled)}"
        remedy = "give them the names of their routes: `sources: {access_log: {endpoints: [{pattern: '^/u/[^/]+', "
        remedy += "replacement: '/u/{name}'}]}}` in the policy"
        yield warn("pooled_endpoints", text, remedy)


_CHECKS = (
    _check_without_server,
    _check_retries,
    _check_other_servers,
    _check_grpc,
    _check_unread_lines,
    _check_missing_lines,
    _check_pooled,
)
