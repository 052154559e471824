"""The audit trail: rows that are only ever added, each hashed together with the one before."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

from evaluator.errors import StoreError
from evaluator.records.intents import AuditRow
from evaluator.store.engine import Engine

_START = "sha256:" + "0" * 64


def add(engine: Engine, actor: str, event: str, release: str, intent: str, text: str) -> AuditRow:
    """Add a row at the end of the audit trail; its hash covers its content and the hash of the row before."""
    last_rows = engine.execute("SELECT number, hash FROM store.audit ORDER BY number DESC LIMIT 1").fetchall()
    number, previous_hash = 0, _START
    if last_rows:
        number, previous_hash = int(last_rows[0][0]) + 1, str(last_rows[0][1])
    now = datetime.now(UTC)
    row_hash = _hash_row(previous_hash, number, now, actor, event, release, intent, text)
    row = AuditRow(number, now, actor, event, release, intent, text, row_hash)
    engine.execute(
        "INSERT INTO store.audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [number, now, actor, event, release, intent, text, row_hash],
    )
    return row


def _hash_row(previous_hash: str, number: int, at: datetime, *texts: str) -> str:
    """Hash a row of the audit trail together with the hash of the row before; `texts`: its other columns, in order."""
    content = json.dumps([previous_hash, number, at.astimezone(UTC).isoformat(), *texts], ensure_ascii=True)
    return "sha256:" + hashlib.sha256(content.encode()).hexdigest()


def read(engine: Engine, release: str | None = None) -> tuple[AuditRow, ...]:
    """Read the audit trail, the oldest row first; with `release` (a name), only the rows of that release."""
    rows = engine.execute(
        """SELECT number, happened_at, actor, event, release, intent, text, hash FROM store.audit
        WHERE ? IS NULL OR release = ? ORDER BY number""",
        [release, release],
    ).fetchall()
    return tuple(AuditRow(row[0], row[1].astimezone(UTC), *row[2:]) for row in rows)


def verify(rows: tuple[AuditRow, ...]) -> str:
    """Check that each row hashes the one before, and return the hash of the last row.

    `rows` are the whole trail. Raises StoreError, which names the first row that was changed.
    """
    previous_hash = _START
    for position, row in enumerate(rows):
        expected_hash = _hash_row(
            previous_hash, position, row.at, row.actor, row.event, row.release, row.intent, row.text
        )
        if row.number != position or expected_hash != row.hash:
            raise StoreError(
                f"the audit trail was changed: row {position} is not what was written",
                hint="compare with an export or a backup of the store",
            )
        previous_hash = row.hash
    return previous_hash
