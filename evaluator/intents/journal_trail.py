"""From the journal into the audit trail: what was done while the decisions could not be used, exactly once."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from evaluator.errors import EvaluatorError, StoreError
from evaluator.intents.journal_records import (
    HookId,
    JournalAction,
    list_actions,
    name_process,
    overall_state,
    record_began,
    record_did,
    record_ended,
    record_recorded,
    to_done,
)
from evaluator.records import Release
from evaluator.records.intents import ANNOUNCE, Delivery, Intent, IntentState, Person
from evaluator.store import Store
from evaluator.store.journal import Journal, write_now

_VALID = timedelta(hours=1)
"""How long a request that was made without the decisions is valid, as far as the trail shows it."""


def record_actions(store: Store, journal: Journal) -> int:
    """Store actions that were executed from the journal as requests, with their hooks; returns how many.

    So promotions that they undid count as rolled back, and a hold or a rollback stops promotions that were requested
    before. An action that a living process still executes waits for its end. Nothing happens if no copy of the journal
    can be read. Raises StoreError if the decisions cannot be written.
    """
    try:
        actions = list_actions(journal.read())
    except EvaluatorError:
        return 0
    count = 0
    for action in actions:
        if not action.is_recorded and not action.is_open:
            count += _record_action(store, action)
            with suppress(StoreError):  # then it is found in the trail the next time
                record_recorded(journal, action.id)
    return count


def _record_action(store: Store, action: JournalAction) -> bool:
    """Store an action as a request that has ended; returns whether it was not stored yet."""
    deliveries = to_done(action)
    ids = {intent.key: intent.id for intent in store.control.intents(action.release.id)}
    text = f"without the database, from the journal ({action.id})"
    state = action.state
    if state is None:
        state = overall_state(
            [IntentState.FAILED, *(done.outcome.state for done in deliveries if done.event != ANNOUNCE)]
        )
        text = f"{text}; its process ended before it had executed all hooks"
    at = datetime.fromisoformat(action.at)
    intent = Intent(
        id="", key=f"evt_{action.id}", release=action.release.id, action=action.action, requester=action.person.name,
        reason=action.reason, verdict_hash="", data_hash="", policy_hash="", requested_at=at, expires_at=at + _VALID,
        state=state, requester_names=action.person.names,
        undoes=tuple(ids[key] for key in action.undoes if key in ids),
    )  # fmt: skip
    return store.control.add_done(intent, deliveries, text, action.request)


class ActionWriter:
    """Writes into the journal what a request of the database does, while its outcomes cannot be stored there."""

    def __init__(self, journal: Journal, intent: Intent, release: Release, undoes: tuple[str, ...]) -> None:
        """Write that it begins. `undoes`: keys of the promotions that it undoes, the newest first."""
        self.journal = journal
        self.problem = ""
        """Why the journal could not be written; empty: it could."""
        self.action = JournalAction(
            secrets.token_hex(8), intent.action, release, Person(intent.requester, intent.requester_names),
            intent.reason, write_now(), undoes, intent.key, name_process(),
        )  # fmt: skip
        with suppress(StoreError):
            journal.make()
        self._write(lambda: record_began(journal, self.action))

    def add(self, delivery: Delivery, undone: Sequence[HookId]) -> None:
        """Write the state of a hook. `undone`: the hooks that it undoes; empty: none."""
        self._write(lambda: record_did(self.journal, self.action.id, delivery, undone))

    def end(self, state: IntentState, undone: Sequence[str]) -> None:
        """Write how the request ended, and the keys of the promotions that it undid."""
        self._write(lambda: record_ended(self.journal, self.action.id, state, undone))

    def record(self) -> None:
        """Write that all is stored in the database, too."""
        self._write(lambda: record_recorded(self.journal, self.action.id))

    def describe(self) -> str:
        """Say for the audit trail where the outcomes were meanwhile."""
        return f"meanwhile kept in the journal ({self.action.id})"

    def _write(self, write: Callable[[], None]) -> None:
        """Write into the journal; what goes back goes on without it."""
        try:
            write()
        except StoreError as error:
            self.problem = error.message


def has_actions_to_record(journal: Journal) -> bool:
    """Whether the journal has an action that is not in the audit trail; False if it cannot be read."""
    try:
        return any(not action.is_recorded and not action.is_open for action in list_actions(journal.read()))
    except EvaluatorError:
        return False
