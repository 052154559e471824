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
    """Add a row after the last."""
    last = engine.execute("SELECT number, hash FROM store.audit ORDER BY number DESC LIMIT 1").fetchall()
    number, previous = (int(last[0][0]) + 1, str(last[0][1])) if last else (0, _START)
    at = datetime.now(UTC)
    digest = _hash(previous, number, at, actor, event, release, intent, text)
    row = AuditRow(number, at, actor, event, release, intent, text, digest)
    engine.execute(
        "INSERT INTO store.audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [number, at, actor, event, release, intent, text, digest],
    )
    return row


def _hash(previous: str, number: int, at: datetime, *texts: str) -> str:
    plain = json.dumps([previous, number, at.astimezone(UTC).isoformat(), *texts], ensure_ascii=True)
    return "sha256:" + hashlib.sha256(plain.encode()).hexdigest()


def read(engine: Engine, release: str | None = None) -> tuple[AuditRow, ...]:
    """Read the trail, the oldest first; with `release`, only its rows."""
    rows = engine.execute(
        """SELECT number, happened_at, actor, event, release, intent, text, hash FROM store.audit
        WHERE ? IS NULL OR release = ? ORDER BY number""",
        [release, release],
    ).fetchall()
    return tuple(AuditRow(row[0], row[1].astimezone(UTC), *row[2:]) for row in rows)


def verify(rows: tuple[AuditRow, ...]) -> str:
    """Check the whole chain and return the hash of its head. Raises StoreError naming the first row that is wrong."""
    previous = _START
    for position, row in enumerate(rows):
        expected = _hash(previous, position, row.at, row.actor, row.event, row.release, row.intent, row.text)
        if row.number != position or expected != row.hash:
            raise StoreError(
                f"the audit trail was changed: row {position} is not what was written",
                hint="compare with an export or a backup of the store",
            )
        previous = row.hash
    return previous
