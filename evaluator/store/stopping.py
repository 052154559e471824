"""What a hold or a rollback stops: promotions that wait, and the rollout of the release that is running."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from evaluator.records.intents import PROMOTING, Action, Intent, IntentState
from evaluator.records.rollouts import Event, EventKind, Rollout
from evaluator.store import intents, rollouts
from evaluator.store.control_file import Connection, ControlFile

_EVENTS = {Action.HOLD: EventKind.HELD, Action.ROLLBACK: EventKind.STOPPED}
_MAY_BE_EXECUTED = (IntentState.APPROVED, IntentState.SENT, IntentState.ACKNOWLEDGED, IntentState.UNKNOWN)


def join_rollout(connection: Connection, draft: Intent) -> Intent:
    """Return a hold or a rollback with the rollout that it stops: that of its release that is running, if one is."""
    running = find_running(connection, draft.release)
    return replace(draft, rollout=running.id) if running else draft


def find_running(connection: Connection, release: str) -> Rollout | None:
    """Find the rollout of a release that has not ended; there is one at most."""
    return next(iter(rollouts.select(connection, "WHERE has_ended = 0 AND release = ?", [release])), None)


def find_repeated(connection: Connection, earlier: Sequence[Intent], draft: Intent) -> Intent | None:
    """Find the hold or the rollback of a running rollout that `draft` repeats; None if it is a new request.

    `earlier`: the intents of the release. A rollout has one rollback, also if several people ask for it. A hold is new
    once a person has let the rollout continue.
    """
    if draft.action is Action.HOLD:
        return intents.find_in_effect(connection, earlier, draft) if _is_held(connection, draft) else None
    for intent in reversed(earlier):
        is_rollback = intent.action is Action.ROLLBACK and intent.rollout == draft.rollout
        if is_rollback and _stands_for(connection, intent, draft):
            return intent
    return None


def _stands_for(connection: Connection, intent: Intent, draft: Intent) -> bool:
    """Does a rollback stand for `draft`? One that needs no agreement does not wait for one that does."""
    match intent.state:
        case IntentState.REQUESTED:
            return draft.approvals_needed > 0
        case IntentState.FAILED:
            return intents.has_effect(connection, intent, draft)
        case _:
            return intent.state in _MAY_BE_EXECUTED


def _is_held(connection: Connection, draft: Intent) -> bool:
    """Is the rollout of a request held now?"""
    kinds = [event.kind for event in rollouts.read_events(connection, draft.rollout)]
    return next((kind for kind in reversed(kinds) if kind in (EventKind.HELD, EventKind.CONTINUED)), None) is (
        EventKind.HELD
    )


def request_rollback(file: ControlFile, draft: Intent) -> Intent:
    """Store the rollback by which a rollout goes back by itself, and return it; the stored one if it has one already.

    Its steps that wait are cancelled, and those that a worker has begun since `draft` was made are undone, too.
    """
    with file.opened(write=True) as connection:
        earlier = intents.select(connection, "WHERE release = ?", [draft.release])
        if known := find_repeated(connection, earlier, draft):
            return known
        cancel_promotions(connection, draft)
        draft = replace(draft, undoes=(*list_begun(earlier, draft.undoes), *draft.undoes))
        return intents.add(connection, draft, earlier_count=len(earlier), consents=False)


def stop_rollout(connection: Connection, intent: Intent) -> None:
    """Add to the events of a running rollout that a person holds it, or turns it back; nothing if it is so already.

    `intent`: the hold or the rollback. Nothing happens while it waits for agreement, or if it has no rollout.
    """
    if intent.state is IntentState.REQUESTED:
        return
    running = find_running(connection, intent.release)
    kind = _EVENTS.get(intent.action)
    if running is None or running.id != intent.rollout or kind is None:
        return
    events = rollouts.read_events(connection, running.id)
    if kind is EventKind.STOPPED:  # once more where it is held on its way back
        stops = [event.kind for event in events if event.kind is EventKind.HELD or _is_stop_of_person(event)]
        is_repeated = stops[-1:] == [EventKind.STOPPED]
    else:
        is_repeated = _is_held(connection, intent)
    if not is_repeated:
        rollouts.add_event(connection, running, Event(kind, time.time(), person=intent.requester, text=intent.reason))


def _is_stop_of_person(event: Event) -> bool:
    """Has a person turned the rollout back by it?"""
    return event.kind is EventKind.STOPPED and bool(event.person)


def list_begun(earlier: Sequence[Intent], undoes: Sequence[str]) -> list[str]:
    """List the ids of promotions that a worker has begun, without those of `undoes`; the newest first.

    `earlier`: the intents of the release, the oldest first.
    """
    return [
        intent.id
        for intent in reversed(earlier)
        if intent.state is IntentState.SENT and intent.is_undoable and intent.id not in undoes
    ]


def cancel_promotions(connection: Connection, by: Intent, before: datetime | None = None) -> None:
    """Cancel the promotions that wait of a release that is held or rolled back; `before`: only if requested before.

    Steps of a rollout wait while it is held, and a rollback leaves those that are executed however the rollout ends.
    """
    for intent in intents.select(connection, "WHERE release = ?", [by.release]):
        if intent.state not in intents.OPEN or intent.action not in PROMOTING:
            continue
        if intent.action is Action.STEP and (by.action is Action.HOLD or intent.is_final):
            continue
        if not before or intent.requested_at < before:
            intents.end(connection, intent, IntentState.CANCELLED, by.requester, f"{by.action}: {by.reason}")
