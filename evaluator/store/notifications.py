"""Which rows of the audit trail people were notified of, and by which hook: each at most once.

A row that a process is about to send is claimed first. If that process is killed, it is not known whether it was sent,
and it is sent again: twice is better than not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from evaluator.records.intents import AuditRow, IntentState
from evaluator.store.control_file import Connection, ControlFile, to_text, to_time

MOST_ATTEMPTS = 5
"""How often a message is sent that was not accepted."""
_AGAIN_AFTER = timedelta(minutes=1)
_KILLED_AFTER = timedelta(minutes=5)
"""A process that has not stored for so long what became of a message was killed."""


@dataclass(frozen=True, slots=True)
class Notifications:
    """What people are to be notified of, and were."""

    file: ControlFile

    def list_news(self, events: Sequence[str], since: datetime) -> tuple[AuditRow, ...]:
        """List the rows of the audit trail on requests with these `events` since a time, the oldest first."""
        rows: list[AuditRow] = []
        with self.file.opened() as connection:
            # The newest first, until one is too old: there is no index of times.
            for row in connection.execute(
                """SELECT number, happened_at, actor, event, release, intent, text, hash, covers FROM audit
                ORDER BY number DESC"""
            ):
                audit_row = AuditRow(row[0], to_time(row[1]), *row[2:])
                if audit_row.at < since:
                    break
                if audit_row.event in events and audit_row.intent:
                    rows.append(audit_row)
        return tuple(reversed(rows))

    def claim(self, row: int, position: int) -> int:
        """Claim a row of the audit trail for a hook, which then sends it; returns the number of the attempt, from 1.

        `position`: of the hook among those that notify, from 0. Returns 0 if the row was sent, is being sent by another
        process, or is not to be sent again yet.
        """
        now = datetime.now(UTC)
        with self.file.opened() as connection:  # look first: mostly there is nothing to write
            if not _is_due(connection, row, position, now):
                return 0
        with self.file.opened(write=True) as connection:
            if not _is_due(connection, row, position, now):
                return 0
            [attempt] = connection.execute(
                """INSERT INTO notifications (row, position, state, happened_at, attempts, text)
                VALUES (?, ?, ?, ?, 1, '')
                ON CONFLICT (row, position) DO UPDATE SET state = excluded.state, happened_at = excluded.happened_at,
                    attempts = attempts + 1
                RETURNING attempts""",
                [row, position, IntentState.SENT, to_text(now)],
            ).fetchone()
            return int(attempt)

    def finish(self, row: int, position: int, state: str, text: str) -> None:
        """Store what became of a message that was claimed: acknowledged, failed or unknown, and why."""
        with self.file.opened(write=True) as connection:
            connection.execute(
                "UPDATE notifications SET state = ?, happened_at = ?, text = ? WHERE row = ? AND position = ?",
                [state, to_text(datetime.now(UTC)), text, row, position],
            )


def _is_due(connection: Connection, row: int, position: int, now: datetime) -> bool:
    """Whether a hook is to send a row of the audit trail now: it has not, or another attempt may help."""
    stored = connection.execute(
        "SELECT state, happened_at, attempts FROM notifications WHERE row = ? AND position = ?", [row, position]
    ).fetchone()
    if stored is None:
        return True
    state, age = stored[0], now - to_time(stored[1])
    if state == IntentState.SENT:
        return age >= _KILLED_AFTER
    return bool(state == IntentState.FAILED and stored[2] < MOST_ATTEMPTS and age >= _AGAIN_AFTER)
