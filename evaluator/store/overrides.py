"""Which verdicts a release was promoted against. Verdicts stay as they were given; this is read next to them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC

from evaluator.records.intents import Action, IntentState
from evaluator.store.engine import Engine

__all__ = ["hash_text", "read_overrides"]


def hash_text(text: str) -> str:
    """Hash a verdict as it was saved ("sha256:…")."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def read_overrides(
    engine: Engine, release: str | None = None, data_hash: str | None = None
) -> dict[str, Mapping[str, str]]:
    """Hash of a verdict → by whom, when and why a release was promoted against it, the oldest first.

    With `release` those alone that were promoted on the data of that hash, whatever verdict is given on them.
    """
    rows = engine.execute(
        """SELECT i.verdict_hash, i.requester, i.reason, i.requested_at, string_agg(a.person, ', ' ORDER BY a.person)
        FROM store.intents AS i LEFT JOIN store.approvals AS a ON a.intent = i.id
        WHERE i.action = ? AND (i.state IN (?, ?, ?)
            OR EXISTS (FROM store.deliveries AS d WHERE d.intent = i.id))
            AND (? IS NULL OR (i.release = ? AND i.data_hash = ?))
        GROUP BY ALL ORDER BY i.requested_at""",
        [
            Action.BREAK_GLASS,
            IntentState.SENT,
            IntentState.ACKNOWLEDGED,
            IntentState.UNKNOWN,
            release,
            release,
            data_hash,
        ],
    ).fetchall()
    return {
        row[0]: {
            "by": row[1],
            "approved by": row[4] or "nobody else",
            "reason": row[2],
            "at": f"{row[3].astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        }
        for row in rows
    }
