"""Which releases wait for a person, and what for: a row for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from evaluator.errors import EvaluatorError
from evaluator.intents.conditions import PromotionCondition
from evaluator.records import ReleaseSummary, Verdict, VerdictWord
from evaluator.records.intents import Intent, IntentState
from evaluator.records.life import Life, LifeState
from evaluator.wording import format_duration


class WaitsFor(StrEnum):
    """What a release waits for, the most urgent first."""

    REQUEST = "request"
    """A request has to be agreed to, or its outcome has to be found out."""
    GOING_BACK = "going back"
    """It is live, and its newest verdict is NO-GO."""
    PROMOTION = "promotion"
    VERDICT = "verdict"
    """It is to be judged."""
    CAUSE = "cause"
    """It is NO-GO or INCONCLUSIVE: its verdict says what to do."""
    RECORDING = "recording"
    """A load is being recorded: no person has to do anything yet."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A release that waits for a person."""

    release: str
    kind: WaitsFor
    why: str
    """A part of a sentence that goes on after the name of the release."""
    next_step: str = ""
    """What to do, with commands between backticks; empty: a page shows it."""
    at: datetime | None = None
    """Since when."""
    by: str = ""
    """Who requested it."""
    intent: str = ""
    """The request."""


_REQUESTS = {
    IntentState.REQUESTED: "waits for approval",
    IntentState.UNKNOWN: "may or may not be done: check it",
}


def find_waiting(
    summaries: Sequence[ReleaseSummary],
    lives: Mapping[str, Life],
    intents: Sequence[Intent],
    verdicts: Mapping[str, Verdict],
    check: Callable[[Verdict], Sequence[PromotionCondition]],
    command: Callable[[str], str],
    now: datetime,
) -> tuple[Waiting, ...]:
    """Find releases that wait for a person, the most urgent first: one row for each release.

    These are releases with a request that waits, and the newest release of each service, unless its latest verdict was
    acted on. `summaries`: of all releases, the newest first. `lives`, `verdicts`: by release, the latest. `check` lists
    the conditions for promoting it. `command` writes the command that judges a release.
    """
    waiting: dict[str, Waiting] = {}
    for intent in intents:
        if _is_open(intent, lives.get(intent.release), now):
            why = f"{intent.label} {_REQUESTS[intent.state]}: {intent.reason}"
            waiting[intent.release] = Waiting(
                intent.release, WaitsFor.REQUEST, why, at=intent.requested_at, by=intent.requester, intent=intent.id
            )
    newest: dict[object, ReleaseSummary] = {}  # by the services; a release without any counts alone
    for summary in summaries:
        services = frozenset(service.name for service in summary.release.services)
        newest.setdefault(services or summary.release.id, summary)
    for summary in newest.values():
        release = summary.release.id
        if release in waiting:
            continue
        found = _find_row(summary, lives[release], verdicts.get(release), command, now)
        if found is _BY_VERDICT:
            found = _find_row_by_verdict(verdicts[release], check)
        if found is not None:
            waiting[release] = found
    return tuple(sorted(waiting.values(), key=lambda row: list(WaitsFor).index(row.kind)))


def _is_open(intent: Intent, life: Life | None, now: datetime) -> bool:
    """Does a request wait for a person: for approval, or because its outcome is unknown and still matters?"""
    if intent.state is IntentState.REQUESTED:
        return intent.expires_at > now
    # A later action may have settled what users meet, such as a rollback of the promotion.
    is_settled = life is not None and life.intent != intent.id and life.is_live is not None
    return intent.state is IntentState.UNKNOWN and not is_settled


_IN_PROGRESS = (
    LifeState.REQUESTED,
    LifeState.APPROVED,
    LifeState.EXECUTING,
    LifeState.ROLLING_OUT,
    LifeState.GOING_BACK,
)
_STOPPED = (LifeState.HELD, LifeState.ROLLED_BACK, LifeState.REPLACED)
_BY_VERDICT = Waiting("", WaitsFor.CAUSE, "")
"""Stands for: its verdict decides what it waits for."""


def _find_row(
    summary: ReleaseSummary, life: Life, verdict: Verdict | None, command: Callable[[str], str], now: datetime
) -> Waiting | None:
    """Find what the newest release of a service waits for, before its verdict decides; None: for nothing."""
    release, judge = summary.release.id, f"judge it: `{command(summary.release.id)}`"
    row: Waiting | None = _BY_VERDICT
    if summary.running:
        row = Waiting(release, WaitsFor.RECORDING, describe_recording(summary, now), at=summary.running_since)
    elif not (summary.rows or summary.verdict) or life.state in _IN_PROGRESS:
        row = None
    elif life.state in (LifeState.FAILED, LifeState.UNKNOWN) and life.is_live is not False:
        why = f"{life.what.removesuffix('; requested')}: {life.why}"
        row = Waiting(release, WaitsFor.REQUEST, why, at=life.at, by=life.by, intent=life.intent)
    elif verdict is None or summary.judged_at is None:
        row = Waiting(release, WaitsFor.VERDICT, "has data and was not judged yet", judge, summary.last_run)
    elif summary.last_run and summary.last_run > summary.judged_at:
        row = Waiting(release, WaitsFor.VERDICT, "has newer data than its verdict", judge, summary.last_run)
    elif life.is_live is not False:
        is_no_go = verdict.word is VerdictWord.NO_GO
        why = "is live, and its newest verdict is NO-GO"
        row = Waiting(release, WaitsFor.GOING_BACK, why, at=verdict.judged_at) if is_no_go else None
    elif life.state in _STOPPED and not life.judged_since:
        row = None
    return row


def _find_row_by_verdict(verdict: Verdict, check: Callable[[Verdict], Sequence[PromotionCondition]]) -> Waiting:
    """Find what a release waits for by its verdict: safe to promote is only what can be promoted now."""
    release, at = verdict.release.id, verdict.judged_at
    if verdict.word is not VerdictWord.GO:
        why = "must not be promoted" if verdict.word is VerdictWord.NO_GO else "is not decided"
        return Waiting(release, WaitsFor.CAUSE, why, verdict.next_action, at)
    try:
        unmet = [condition for condition in check(verdict) if not condition.met]
    except EvaluatorError as error:
        why = f"is GO, and it is not known whether it can be promoted: {error.message}"
        return Waiting(release, WaitsFor.CAUSE, why, error.hint or "", at)
    if unmet:
        why = f"is GO, but cannot be promoted now: {unmet[0].description}"
        return Waiting(release, WaitsFor.CAUSE, why, unmet[0].remedy, at)
    return Waiting(release, WaitsFor.PROMOTION, "is safe to promote", at=at)


def describe_recording(summary: ReleaseSummary, now: datetime) -> str:
    """Say how far the load of a release is that is being recorded: `is being recorded, 21 s of 45 s`."""
    if summary.running_since is None:
        return "is being recorded"
    elapsed = format_duration(round((now - summary.running_since).total_seconds()))
    if summary.running_until is None:
        return f"is being recorded, for {elapsed} so far"
    planned = format_duration(round((summary.running_until - summary.running_since).total_seconds()))
    return f"is being recorded, {elapsed} of {planned}"
