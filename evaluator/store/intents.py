"""Intents and approvals as rows, and the overrides among them. Every function works on the attached store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from evaluator.errors import UnknownName
from evaluator.records.intents import FINAL_STATES, Action, Approval, Intent, IntentState
from evaluator.store import audit
from evaluator.store.engine import Engine

_COLUMNS = """id, key, release, action, requester, reason, verdict_hash, data_hash, policy_hash, requested_at,
    expires_at, approvals_needed, distinct_people, state, claimed_by, requester_names, hooks_hash, undoes"""
"""In the order of the fields of `Intent`."""

OPEN = (IntentState.REQUESTED, IntentState.APPROVED)
"""States before an intent is executed."""

_BEGUN = (IntentState.SENT, IntentState.ACKNOWLEDGED, IntentState.UNKNOWN)
"""States in which an intent may have changed something."""

OVERDUE = "WHERE state IN (?, ?) AND expires_at <= ?"


def select(engine: Engine, where: str, values: Sequence[Any]) -> tuple[Intent, ...]:
    """Read intents, the oldest first."""
    rows = engine.execute(
        f"SELECT {_COLUMNS} FROM store.intents {where} ORDER BY length(id), id", list(values)
    ).fetchall()
    intents = []
    for row in rows:
        columns = dict(zip(Intent.__slots__, row, strict=True))
        columns |= {"action": Action(columns["action"]), "state": IntentState(columns["state"])}
        columns |= {name: columns[name].astimezone(UTC) for name in ("requested_at", "expires_at")}
        columns |= {name: tuple(columns[name]) for name in ("requester_names", "undoes")}
        intents.append(Intent(**columns))
    return tuple(intents)


def read(engine: Engine, intent_id: str) -> Intent:
    """Read one intent. Raises UnknownName."""
    intents = select(engine, "WHERE id = ?", [intent_id])
    if not intents:
        ids = [row[0] for row in engine.execute("SELECT id FROM store.intents").fetchall()]
        raise UnknownName("intent", intent_id, ids)
    return intents[0]


def add(engine: Engine, draft: Intent, number: int, *, consents: bool) -> Intent:
    """Add an intent, which is the release's `number`-th; `consents`: its requester approves it as well."""
    agreed = draft.approvals_needed == 0 or (consents and draft.approvals_needed == 1 and not draft.distinct)
    [(count,)] = engine.execute("SELECT count(*) FROM store.intents").fetchall()
    identity = json.dumps([draft.release, draft.verdict_hash, draft.action, number])
    intent = replace(
        draft,
        id=f"i{count + 1}",
        key="evt_" + hashlib.sha256(identity.encode()).hexdigest()[:32],
        state=IntentState.APPROVED if agreed else IntentState.REQUESTED,
    )
    columns = [getattr(intent, name) for name in Intent.__slots__]
    engine.execute(
        f"INSERT INTO store.intents ({_COLUMNS}) VALUES ({', '.join('?' * len(columns))})",
        [list(value) if isinstance(value, tuple) else value for value in columns],
    )
    text = f"{intent.action}: {intent.reason} ({intent.verdict_hash or 'no verdict'})"
    audit.add(engine, intent.requester, "requested", intent.release, intent.id, text)
    if agreed and draft.approvals_needed:
        consent(engine, intent, intent.requester, intent.requester_names)
    return intent


def consent(engine: Engine, intent: Intent, person: str, names: Sequence[str]) -> None:
    """Add a person's approval."""
    engine.execute(
        "INSERT OR IGNORE INTO store.approvals (intent, person, happened_at, names) VALUES (?, ?, ?, ?)",
        [intent.id, person, datetime.now(UTC), list(names)],
    )
    audit.add(engine, person, "approved", intent.release, intent.id, intent.action)


def read_approvals(engine: Engine, intent_id: str | None) -> tuple[Approval, ...]:
    """Read who approved an intent, or all of them."""
    rows = engine.execute(
        """SELECT intent, person, happened_at, names FROM store.approvals
        WHERE ? IS NULL OR intent = ? ORDER BY happened_at, person""",
        [intent_id, intent_id],
    ).fetchall()
    return tuple(Approval(row[0], row[1], row[2].astimezone(UTC), tuple(row[3])) for row in rows)


def move(engine: Engine, intent: Intent, state: IntentState, claimed_by: str) -> Intent:
    """Give an intent another state, and who executes it."""
    engine.execute("UPDATE store.intents SET state = ?, claimed_by = ? WHERE id = ?", [state, claimed_by, intent.id])
    return replace(intent, state=state, claimed_by=claimed_by)


def end(engine: Engine, intent: Intent, state: IntentState, actor: str, text: str) -> Intent:
    """Note how an intent ended."""
    audit.add(engine, actor, state, intent.release, intent.id, text)
    return move(engine, intent, state, intent.claimed_by)


def expire(engine: Engine, now: datetime) -> None:
    """Mark intents that were not executed in time as expired."""
    for intent in select(engine, OVERDUE, [*OPEN, now]):
        text = f"not executed by {intent.expires_at:%Y-%m-%d %H:%M} UTC"
        end(engine, intent, IntentState.EXPIRED, "evaluator", text)


def find_standing(engine: Engine, of_release: Sequence[Intent], draft: Intent) -> Intent | None:
    """Find an intent of the release that requests the same: open, begun, or done and the latest one.

    A failed one counts only if it began, has not expired and has the same hooks: then it can be tried again.
    """
    live = []
    for intent in of_release:
        if intent.state is IntentState.FAILED:
            void = draft.requested_at >= intent.expires_at or intent.hooks_hash != draft.hooks_hash
            begun = "SELECT 1 FROM store.deliveries WHERE intent = ? LIMIT 1"
            void = void or not engine.execute(begun, [intent.id]).fetchall()
        else:
            void = intent.state in (IntentState.EXPIRED, IntentState.CANCELLED)
        if not void:
            live.append(intent)
    same = [i for i in live if (i.action, i.verdict_hash) == (draft.action, draft.verdict_hash)]
    if not same or (same[-1].state in FINAL_STATES and same[-1] is not live[-1]):
        return None
    return same[-1]


def hash_text(text: str) -> str:
    """Hash a verdict as it was saved ("sha256:…")."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def read_overrides(
    engine: Engine, release: str | None = None, data_hash: str | None = None
) -> dict[str, Mapping[str, str]]:
    """Hash of a verdict → by whom, when and why a release was promoted against it, the oldest first.

    With `release`, only its promotions on the data of `data_hash`, against any verdict.
    """
    rows = engine.execute(
        """SELECT i.verdict_hash, i.requester, i.reason, i.requested_at, string_agg(a.person, ', ' ORDER BY a.person)
        FROM store.intents AS i LEFT JOIN store.approvals AS a ON a.intent = i.id
        WHERE i.action = ? AND (i.state IN (?, ?, ?)
            OR EXISTS (FROM store.deliveries AS d WHERE d.intent = i.id))
            AND (? IS NULL OR (i.release = ? AND i.data_hash = ?))
        GROUP BY ALL ORDER BY i.requested_at""",
        [Action.BREAK_GLASS, *_BEGUN, release, release, data_hash],
    ).fetchall()
    return {
        row[0]: {
            "by": row[1],
            "approved by": row[4] or "no other person",
            "reason": row[2],
            "at": f"{row[3].astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        }
        for row in rows
    }
