"""The audit trail: rows that are only ever added, each hashed together with the one before.

A row may cover a record: the hash of a verdict, of an intent, or of an approval is part of the hash of the row. So a
record that was edited by hand, added or deleted is found, unless the trail was rewritten from there on; and then by the
hash of its last row that was printed earlier.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime

from evaluator.errors import StoreError
from evaluator.records.intents import AuditRow
from evaluator.store.control_file import Connection, to_text, to_time

_START = "sha256:" + "0" * 64


def add(
    connection: Connection, actor: str, event: str, release: str, intent: str, text: str, covers: str = ""
) -> AuditRow:
    """Add a row at the end of the audit trail; its hash covers its content and the hash of the row before.

    `covers`: hash of the record that the row stands for; empty: of none.
    """
    last = connection.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    number, previous_hash = (int(last[0]) + 1, str(last[1])) if last else (0, _START)
    now = datetime.now(UTC)
    row_hash = _hash_row(previous_hash, number, now, actor, event, release, intent, text, covers)
    row = AuditRow(number, now, actor, event, release, intent, text, row_hash, covers)
    insert(connection, [row])
    return row


def insert(connection: Connection, rows: Sequence[AuditRow]) -> None:
    """Store rows as they are."""
    connection.executemany(
        "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (row.number, to_text(row.at), row.actor, row.event, row.release, row.intent, row.text, row.covers, row.hash)
            for row in rows
        ],
    )


def _hash_row(previous_hash: str, number: int, at: datetime, *texts: str) -> str:
    """Hash a row of the audit trail together with the hash of the row before; `texts`: its other columns, in order.

    A row that covers no record is hashed without that column, as rows were before it existed.
    """
    columns = texts if texts[-1] else texts[:-1]
    content = json.dumps([previous_hash, number, at.astimezone(UTC).isoformat(), *columns], ensure_ascii=True)
    return hash_text(content)


def hash_text(text: str) -> str:
    """Hash a text, such as a verdict as it was saved ("sha256:…")."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def hash_values(*values: object) -> str:
    """Hash the values of a record, which JSON can write."""
    return hash_text(json.dumps(values, ensure_ascii=True))


_COLUMNS = "number, happened_at, actor, event, release, intent, text, hash, covers"


def read(connection: Connection, release: str | None = None) -> tuple[AuditRow, ...]:
    """Read the audit trail, the oldest row first; with `release` (a name), only the rows of that release."""
    return _select(connection, "? IS NULL OR release = ?", [release, release])


def read_events(connection: Connection, events: Sequence[str]) -> tuple[AuditRow, ...]:
    """Read the rows of the audit trail with one of these events, the oldest first."""
    return _select(connection, f"event IN ({', '.join('?' * len(events))})", events)


def _select(connection: Connection, condition: str, parameters: Sequence[str | None]) -> tuple[AuditRow, ...]:
    """Read the rows that meet a condition of SQL with `parameters`, the oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM audit WHERE {condition} ORDER BY number", list(parameters)
    ).fetchall()
    return tuple(AuditRow(row[0], to_time(row[1]), *row[2:]) for row in rows)


def verify(rows: tuple[AuditRow, ...]) -> str:
    """Check that each row hashes the one before, and return the hash of the last row.

    `rows` are the whole trail. Raises StoreError, which names the first row that was changed.
    """
    previous_hash = _START
    for position, row in enumerate(rows):
        texts = (row.actor, row.event, row.release, row.intent, row.text, row.covers)
        expected_hash = _hash_row(previous_hash, position, row.at, *texts)
        if row.number != position or expected_hash != row.hash:
            raise StoreError(
                f"the audit trail was changed: row {position} is not what was written",
                hint="compare with an export or a backup of the store",
            )
        previous_hash = row.hash
    return previous_hash
