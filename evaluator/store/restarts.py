"""Restarts: the store was restored from a backup, or began with new decisions after these were lost.

What was decided before a restart, and is not in the store, is not known: requests may have been executed, releases
held, verdicts given. So nothing that stands in the store from before is acted on by itself, and neither the number of a
request nor a key that receivers of hooks may have seen is given again.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from evaluator.records.intents import Intent, IntentState
from evaluator.store import audit, intents
from evaluator.store.control_file import Connection, ControlFile, to_text, to_time

RESTORED, BEGUN = "restored", "begun"
"""Events of the audit trail: the store was restored from a backup; new decisions began because the old were lost."""

UNKNOWN_REQUESTS = 1000
"""So many requests may have been made that are not known: their numbers are not given again."""


@dataclass(frozen=True, slots=True)
class Restart:
    """One restart."""

    at: datetime
    event: str
    last_intent: int
    """The highest number that a request may have got before it."""
    salt: str
    """A random text that makes keys of requests after it differ from those before."""


def restart(file: ControlFile, event: str, actor: str, text: str, last_intent: int) -> tuple[Intent, ...]:
    """Store that decisions were lost up to now: `event` is RESTORED or BEGUN, `text` says which, and why.

    `last_intent`: highest number of a request that is known of. Requests that wait or are being executed become
    unknown; returns them as they were.
    """
    with file.opened(write=True) as connection:
        _add(connection, event, actor, text, last_intent + UNKNOWN_REQUESTS)
        return _suspend(connection, actor, f"{text}: whether it was executed is not known")


def _add(connection: Connection, event: str, actor: str, text: str, last_intent: int) -> None:
    """Store a restart of this moment, with its row in the audit trail, which has the `text`."""
    restart = Restart(datetime.now(UTC), event, last_intent, secrets.token_hex(16))
    connection.execute(
        "INSERT INTO restarts (happened_at, event, last_intent, salt) VALUES (?, ?, ?, ?)",
        [to_text(restart.at), event, last_intent, restart.salt],
    )
    audit.add(connection, actor, event, "", "", text, hash_restart(restart))


def _suspend(connection: Connection, actor: str, text: str) -> tuple[Intent, ...]:
    """Make all intents unknown that wait or are being executed, with the reason `text`; returns them as they were.

    The same becomes of their hooks that may have been executed. So nothing of them is executed by itself.
    """
    suspended = intents.select(connection, "WHERE state IN (?, ?, ?)", [*intents.OPEN, IntentState.SENT])
    for intent in suspended:
        connection.execute(
            "UPDATE deliveries SET state = ?, text = ? WHERE intent = ? AND state IN (?, ?)",
            [IntentState.UNKNOWN, text, intent.id, IntentState.SENT, IntentState.REQUESTED],
        )
        connection.execute(
            "UPDATE deliveries SET state = ? WHERE intent = ? AND state = ?",
            [IntentState.FAILED, intent.id, IntentState.APPROVED],
        )
        intents.end(connection, intent, IntentState.UNKNOWN, actor, text)
    return suspended


def read(connection: Connection) -> tuple[Restart, ...]:
    """Read the restarts, the oldest first."""
    rows = connection.execute("SELECT happened_at, event, last_intent, salt FROM restarts ORDER BY number").fetchall()
    return tuple(Restart(to_time(at), event, last_intent, salt) for at, event, last_intent, salt in rows)


def read_latest(connection: Connection) -> Restart | None:
    """Read the latest restart; `None` if there was none."""
    return next(reversed(read(connection)), None)


def hash_restart(restart: Restart) -> str:
    """Hash a restart, for the row of the audit trail that covers it."""
    return audit.hash_values(to_text(restart.at), restart.event, restart.last_intent, restart.salt)
