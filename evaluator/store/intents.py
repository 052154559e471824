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
"""Clause for intents that were not executed in time; its parameters are the states OPEN and the time now."""


def select(engine: Engine, where: str, parameters: Sequence[Any]) -> tuple[Intent, ...]:
    """Read the intents that meet `where`, a WHERE clause with `parameters`; the oldest first."""
    # Ids are i1, i2, …, i10: by length first, they are in the order of their numbers.
    rows = engine.execute(
        f"SELECT {_COLUMNS} FROM store.intents {where} ORDER BY length(id), id", list(parameters)
    ).fetchall()
    intents = []
    for row in rows:
        values = dict(zip(Intent.__slots__, row, strict=True))  # `_COLUMNS` are in the order of the fields
        values |= {"action": Action(values["action"]), "state": IntentState(values["state"])}
        values |= {name: values[name].astimezone(UTC) for name in ("requested_at", "expires_at")}
        values |= {name: tuple(values[name]) for name in ("requester_names", "undoes")}
        intents.append(Intent(**values))
    return tuple(intents)


def read(engine: Engine, intent_id: str) -> Intent:
    """Read one intent. Raises UnknownName."""
    intents = select(engine, "WHERE id = ?", [intent_id])
    if not intents:
        ids = [row[0] for row in engine.execute("SELECT id FROM store.intents").fetchall()]
        raise UnknownName("intent", intent_id, ids)
    return intents[0]


def add(engine: Engine, draft: Intent, *, earlier_count: int, consents: bool) -> Intent:
    """Store `draft` as an intent with an id, a key and a state, and return it.

    `earlier_count`: how many intents the release already has. `consents`: the requester also approves it, which counts
    unless approvals must come from other persons.
    """
    approved_by_requester = consents and draft.approvals_needed == 1 and not draft.distinct
    approved = draft.approvals_needed == 0 or approved_by_requester
    [(intent_count,)] = engine.execute("SELECT count(*) FROM store.intents").fetchall()
    # Receivers of hooks recognise repeated attempts by the key, which no other intent has.
    identity = json.dumps([draft.release, draft.verdict_hash, draft.action, earlier_count])
    intent = replace(
        draft,
        id=f"i{intent_count + 1}",
        key="evt_" + hashlib.sha256(identity.encode()).hexdigest()[:32],
        state=IntentState.APPROVED if approved else IntentState.REQUESTED,
    )
    columns = [getattr(intent, name) for name in Intent.__slots__]
    engine.execute(
        f"INSERT INTO store.intents ({_COLUMNS}) VALUES ({', '.join('?' * len(columns))})",
        [list(value) if isinstance(value, tuple) else value for value in columns],
    )
    text = f"{intent.action}: {intent.reason} ({intent.verdict_hash or 'no verdict'})"
    audit.add(engine, intent.requester, "requested", intent.release, intent.id, text)
    if approved_by_requester:
        add_approval(engine, intent, intent.requester, intent.requester_names)
    return intent


def add_approval(engine: Engine, intent: Intent, person: str, names: Sequence[str]) -> None:
    """Store a person's approval of an intent; `names`: other names of the person."""
    engine.execute(
        "INSERT OR IGNORE INTO store.approvals (intent, person, happened_at, names) VALUES (?, ?, ?, ?)",
        [intent.id, person, datetime.now(UTC), list(names)],
    )
    audit.add(engine, person, "approved", intent.release, intent.id, intent.action)


def read_approvals(engine: Engine, intent_id: str | None) -> tuple[Approval, ...]:
    """Read the approvals of an intent, the oldest first; `None`: of all intents."""
    rows = engine.execute(
        """SELECT intent, person, happened_at, names FROM store.approvals
        WHERE ? IS NULL OR intent = ? ORDER BY happened_at, person""",
        [intent_id, intent_id],
    ).fetchall()
    return tuple(Approval(row[0], row[1], row[2].astimezone(UTC), tuple(row[3])) for row in rows)


def move(engine: Engine, intent: Intent, state: IntentState, claimed_by: str) -> Intent:
    """Store the state of an intent and which worker executes it (empty: none), and return the changed intent."""
    engine.execute("UPDATE store.intents SET state = ?, claimed_by = ? WHERE id = ?", [state, claimed_by, intent.id])
    return replace(intent, state=state, claimed_by=claimed_by)


def end(engine: Engine, intent: Intent, state: IntentState, actor: str, text: str) -> Intent:
    """Store the final state of an intent, with a row in the audit trail, and return the changed intent."""
    audit.add(engine, actor, state, intent.release, intent.id, text)
    return move(engine, intent, state, intent.claimed_by)


def expire(engine: Engine, now: datetime) -> None:
    """Mark intents that were not executed in time as expired."""
    for intent in select(engine, OVERDUE, [*OPEN, now]):  # the parameters of OVERDUE
        text = f"not executed by {intent.expires_at:%Y-%m-%d %H:%M} UTC"
        end(engine, intent, IntentState.EXPIRED, "evaluator", text)


def find_in_effect(engine: Engine, earlier: Sequence[Intent], draft: Intent) -> Intent | None:
    """Find the latest of the `earlier` intents of a release, if `draft` repeats it: same action, same verdict.

    Returns `None` if `draft` is a new request: if no such intent has effect, or if it has ended and another intent
    followed it, such as a rollback after a promotion.
    """
    with_effect = [intent for intent in earlier if _has_effect(engine, intent, draft)]
    equal = [i for i in with_effect if (i.action, i.verdict_hash) == (draft.action, draft.verdict_hash)]
    if not equal:
        return None
    latest = equal[-1]
    if latest.state in FINAL_STATES and latest is not with_effect[-1]:
        return None  # another intent came after it, so the same request means something new
    return latest


def _has_effect(engine: Engine, intent: Intent, draft: Intent) -> bool:
    """Whether an intent has effect when `draft` is requested: neither expired nor cancelled.

    A failed intent has effect only if it can be tried again: it began, has not expired, and has the hooks of `draft`.
    """
    if intent.state is not IntentState.FAILED:
        return intent.state not in (IntentState.EXPIRED, IntentState.CANCELLED)
    if draft.requested_at >= intent.expires_at or intent.hooks_hash != draft.hooks_hash:
        return False
    rows = engine.execute("SELECT 1 FROM store.deliveries WHERE intent = ? LIMIT 1", [intent.id]).fetchall()
    return bool(rows)


def hash_text(text: str) -> str:
    """Hash a verdict as it was saved ("sha256:…")."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def read_overrides(
    engine: Engine, release: str | None = None, data_hash: str | None = None
) -> dict[str, Mapping[str, str]]:
    """Read by whom, when and why releases were promoted against their verdicts (break-glass), the oldest first.

    Returns hash of the verdict → texts by their names. With `release`, only promotions of that release on the data with
    `data_hash`, whatever the verdict.
    """
    # Only intents whose execution began: by their state, or because a hook of them was executed.
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
        verdict_hash: {
            "by": requester,
            "approved by": approvers or "no other person",
            "reason": reason,
            "at": f"{requested_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        }
        for verdict_hash, requester, reason, requested_at, approvers in rows
    }
