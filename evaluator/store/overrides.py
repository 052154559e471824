"""Which verdicts a release was promoted against. Verdicts stay as they were given; this is read beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC

from evaluator.records.intents import Action, IntentState
from evaluator.store.engine import Engine

__all__ = ["hash_text", "read_override_of_data", "read_overrides"]

_QUERY = """SELECT i.verdict_hash, i.requester, i.reason, i.requested_at, string_agg(a.person, ', ' ORDER BY a.person)
    FROM store.intents AS i LEFT JOIN store.approvals AS a ON a.intent = i.id
    WHERE i.action = ? AND (i.state IN (?, ?, ?)
        OR EXISTS (FROM store.deliveries AS d WHERE d.intent = i.id)) AND {which}
    GROUP BY ALL ORDER BY i.requested_at"""


def hash_text(text: str) -> str:
    """Hash a verdict as it was saved ("sha256:…")."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def read_overrides(engine: Engine) -> Mapping[str, Mapping[str, str]]:
    """Hash of a verdict → by whom, when and why a release was promoted against it."""
    return _read(engine, "true", [])


def read_override_of_data(engine: Engine, release: str, data_hash: str) -> Mapping[str, str] | None:
    """The same for whatever verdict is given on data that a release was promoted on against an earlier verdict."""
    found = _read(engine, "i.release = ? AND i.data_hash = ?", [release, data_hash])
    return next(reversed(found.values()), None)


def _read(engine: Engine, which: str, values: list[str]) -> dict[str, Mapping[str, str]]:
    states = (IntentState.SENT, IntentState.ACKNOWLEDGED, IntentState.UNKNOWN)
    rows = engine.execute(_QUERY.format(which=which), [Action.BREAK_GLASS, *states, *values]).fetchall()
    return {
        row[0]: {
            "by": row[1],
            "approved by": row[4] or "nobody else",
            "reason": row[2],
            "at": f"{row[3].astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        }
        for row in rows
    }
