"""Intents and approvals as rows of the control file, and the overrides among them.

A row in the audit trail covers each intent when it is requested, without its state, and each approval.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from evaluator.errors import UnknownName
from evaluator.records.intents import FINAL_STATES, Action, Approval, Delivery, HookOutcome, Intent, IntentState
from evaluator.store import audit
from evaluator.store.control_file import Connection, to_text, to_time

_COLUMNS = """id, key, release, action, requester, reason, verdict_hash, data_hash, policy_hash, requested_at,
    expires_at, approvals_needed, distinct_people, state, claimed_by, requester_names, hooks_hash, undoes, rollout,
    step"""
"""In the order of the fields of `Intent`."""

OPEN = (IntentState.REQUESTED, IntentState.APPROVED)
"""States before an intent is executed."""

_BEGUN = (IntentState.SENT, IntentState.ACKNOWLEDGED, IntentState.UNKNOWN)
"""States in which an intent may have changed something."""

REQUESTED, APPROVED = "requested", "approved"
"""Events of the audit trail that cover an intent, and an approval."""
REPEATED = "repeated"
"""Event of the audit trail: what was requested, or approved, was so already."""

OVERDUE = "WHERE state IN (?, ?) AND expires_at <= ?"
"""Clause for intents that were not executed in time; its parameters are the states OPEN and the time now."""


def select(connection: Connection, where: str, parameters: Sequence[Any]) -> tuple[Intent, ...]:
    """Read the intents that meet `where`, a WHERE clause with `parameters`; the oldest first."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM intents {where} ORDER BY number", list(parameters)).fetchall()
    intents = []
    for row in rows:
        values = dict(zip(Intent.__slots__, row, strict=True))  # `_COLUMNS` are in the order of the fields
        values |= {"action": Action(values["action"]), "state": IntentState(values["state"])}
        values |= {name: to_time(values[name]) for name in ("requested_at", "expires_at")}
        values |= {name: tuple(json.loads(values[name])) for name in ("requester_names", "undoes")}
        values["distinct"] = bool(values["distinct"])
        intents.append(Intent(**values))
    return tuple(intents)


def read(connection: Connection, intent_id: str) -> Intent:
    """Read one intent. Raises UnknownName."""
    intents = select(connection, "WHERE id = ?", [intent_id])
    if not intents:
        ids = [row[0] for row in connection.execute("SELECT id FROM intents").fetchall()]
        raise UnknownName("intent", intent_id, ids)
    return intents[0]


def add(connection: Connection, draft: Intent, *, earlier_count: int, consents: bool) -> Intent:
    """Store `draft` as an intent with an id, a key (its own, if it has one) and a state, and return it.

    `earlier_count`: how many intents the release already has. `consents`: the requester also approves it, which counts
    unless approvals must come from other persons.
    """
    approved_by_requester = consents and draft.approvals_needed == 1 and not draft.distinct
    approved = draft.approvals_needed == 0 or approved_by_requester
    [highest] = connection.execute("SELECT coalesce(max(number), 0) FROM intents").fetchone()
    # Receivers of hooks recognise repeated attempts by the key, which no other intent has.
    identity_parts = [draft.release, draft.verdict_hash, draft.action, earlier_count]
    restart = connection.execute("SELECT last_intent, salt FROM restarts ORDER BY number DESC LIMIT 1").fetchone()
    if restart:  # intents that were made before it may not be known
        highest = max(highest, restart[0])
        identity_parts.append(restart[1])
    identity = json.dumps(identity_parts)
    intent = replace(
        draft,
        id=f"i{highest + 1}",
        key=draft.key or "evt_" + hashlib.sha256(identity.encode()).hexdigest()[:32],
        state=IntentState.APPROVED if approved else IntentState.REQUESTED,
    )
    insert(connection, intent)
    text = f"{intent.action}: {intent.reason} ({intent.verdict_hash or 'no verdict'})"
    audit.add(connection, intent.requester, REQUESTED, intent.release, intent.id, text, hash_intent(intent))
    if approved_by_requester:
        add_approval(connection, intent, intent.requester, intent.requester_names)
    return intent


def insert(connection: Connection, intent: Intent) -> None:
    """Store an intent as it is; its number is that of its id (`i12`: 12)."""
    columns = [_to_column(getattr(intent, name)) for name in Intent.__slots__]
    connection.execute(
        f"INSERT INTO intents (number, {_COLUMNS}) VALUES ({', '.join('?' * (len(columns) + 1))})",
        [int(intent.id.removeprefix("i")), *columns],
    )


def _to_column(value: Any) -> Any:
    """Make the value of a column from that of a field: times and lists become texts."""
    if isinstance(value, datetime):
        return to_text(value)
    return json.dumps(value) if isinstance(value, tuple) else value


def hash_intent(intent: Intent) -> str:
    """Hash what was requested, which never changes: an intent without its state and its worker."""
    left_out = ["state", "claimed_by"]
    # Intents from before these fields existed keep their hash.
    left_out += [name for name, default in (("rollout", ""), ("step", -1)) if getattr(intent, name) == default]
    return audit.hash_values(*(_to_column(getattr(intent, name)) for name in Intent.__slots__ if name not in left_out))


def hash_approval(approval: Approval) -> str:
    """Hash an approval."""
    return audit.hash_values(approval.intent, approval.person, to_text(approval.at), list(approval.names))


def add_approval(connection: Connection, intent: Intent, person: str, names: Sequence[str]) -> None:
    """Store a person's approval of an intent; `names`: other names of the person."""
    approval = Approval(intent.id, person, datetime.now(UTC), tuple(names))
    insert_approval(connection, approval)
    audit.add(connection, person, APPROVED, intent.release, intent.id, intent.action, hash_approval(approval))


def insert_approval(connection: Connection, approval: Approval) -> None:
    """Store an approval as it is."""
    connection.execute(
        "INSERT INTO approvals (intent, person, happened_at, names) VALUES (?, ?, ?, ?)",
        [approval.intent, approval.person, to_text(approval.at), json.dumps(approval.names)],
    )


def read_approvals(connection: Connection, intent_id: str | None) -> tuple[Approval, ...]:
    """Read the approvals of an intent, the oldest first; `None`: of all intents."""
    rows = connection.execute(
        """SELECT intent, person, happened_at, names FROM approvals
        WHERE ? IS NULL OR intent = ? ORDER BY happened_at, person""",
        [intent_id, intent_id],
    ).fetchall()
    return tuple(Approval(row[0], row[1], to_time(row[2]), tuple(json.loads(row[3]))) for row in rows)


_DELIVERY = "intent, position, hook, attempts, state, text, undo, response, happened_at, event, options"


def describe_delivery(delivery: Delivery) -> str:
    """Describe the state of a hook for the audit trail."""
    name = f"{delivery.position + 1}. {delivery.event}: {delivery.hook}"
    return f"{name}: {delivery.outcome.text}" if delivery.outcome.text else name


def put_delivery(connection: Connection, delivery: Delivery) -> None:
    """Store the state of one hook; its attempts are added to the stored ones."""
    outcome = delivery.outcome
    connection.execute(
        f"""INSERT INTO deliveries ({_DELIVERY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (intent, position) DO UPDATE SET attempts = attempts + excluded.attempts,
            state = excluded.state, text = excluded.text, undo = excluded.undo, response = excluded.response,
            happened_at = excluded.happened_at""",
        [
            delivery.intent,
            delivery.position,
            delivery.hook,
            delivery.attempts,
            outcome.state,
            outcome.text,
            outcome.undo,
            outcome.response,
            to_text(delivery.at),
            delivery.event,
            delivery.options,
        ],
    )


def read_deliveries(connection: Connection, intent_id: str | None) -> tuple[Delivery, ...]:
    """Read the hooks of an intent that were begun; `None`: of all intents."""
    rows = connection.execute(
        f"""SELECT {_DELIVERY} FROM deliveries
        WHERE ? IS NULL OR intent = ? ORDER BY happened_at, intent, position""",
        [intent_id, intent_id],
    ).fetchall()
    return tuple(
        Delivery(
            intent,
            position,
            hook,
            attempts,
            HookOutcome(IntentState(state), text, undo, response),
            to_time(at),
            event,
            options,
        )
        for intent, position, hook, attempts, state, text, undo, response, at, event, options in rows
    )


def move(connection: Connection, intent: Intent, state: IntentState, claimed_by: str) -> Intent:
    """Store the state of an intent and which worker executes it (empty: none), and return the changed intent."""
    connection.execute("UPDATE intents SET state = ?, claimed_by = ? WHERE id = ?", [state, claimed_by, intent.id])
    return replace(intent, state=state, claimed_by=claimed_by)


def end(connection: Connection, intent: Intent, state: IntentState, actor: str, text: str) -> Intent:
    """Store the final state of an intent, with a row in the audit trail, and return the changed intent."""
    audit.add(connection, actor, state, intent.release, intent.id, text)
    return move(connection, intent, state, intent.claimed_by)


def expire(connection: Connection, now: datetime) -> None:
    """Mark intents that were not executed in time as expired."""
    for intent in select(connection, OVERDUE, [*OPEN, to_text(now)]):  # the parameters of OVERDUE
        text = f"not executed by {intent.expires_at:%Y-%m-%d %H:%M} UTC"
        end(connection, intent, IntentState.EXPIRED, "evaluator", text)


def find_in_effect(connection: Connection, earlier: Sequence[Intent], draft: Intent) -> Intent | None:
    """Find the latest of the `earlier` intents of a release, if `draft` repeats it: same action, same verdict.

    Returns `None` if `draft` is a new request: if no such intent has effect, or if it has ended and another intent
    followed it, such as a rollback after a promotion.
    """
    with_effect = [intent for intent in earlier if has_effect(connection, intent, draft)]
    equal = [i for i in with_effect if (i.action, i.verdict_hash) == (draft.action, draft.verdict_hash)]
    if not equal:
        return None
    latest = equal[-1]
    if latest.state in FINAL_STATES and latest is not with_effect[-1]:
        return None  # another intent came after it, so the same request means something new
    return latest


def has_effect(connection: Connection, intent: Intent, draft: Intent) -> bool:
    """Whether an intent has effect when `draft` is requested: neither expired nor cancelled.

    A failed intent has effect only if it can be tried again: it began, has not expired, and has the hooks of `draft`.
    """
    if intent.state is not IntentState.FAILED:
        return intent.state not in (IntentState.EXPIRED, IntentState.CANCELLED)
    if draft.requested_at >= intent.expires_at or intent.hooks_hash != draft.hooks_hash:
        return False
    rows = connection.execute("SELECT 1 FROM deliveries WHERE intent = ? LIMIT 1", [intent.id]).fetchall()
    return bool(rows)


def read_overrides(
    connection: Connection, release: str | None = None, data_hash: str | None = None
) -> dict[str, Mapping[str, str]]:
    """Read by whom, when and why releases were promoted against their verdicts (break-glass), the oldest first.

    Returns hash of the verdict → texts by their names. With `release`, only promotions of that release on the data with
    `data_hash`, whatever the verdict.
    """
    # Only intents whose execution began: by their state, or because a hook of them was executed.
    rows = connection.execute(
        """SELECT i.verdict_hash, i.requester, i.reason, i.requested_at, (
            SELECT group_concat(person, ', ') FROM (SELECT person FROM approvals WHERE intent = i.id ORDER BY person))
        FROM intents AS i
        WHERE i.action = ? AND (i.state IN (?, ?, ?)
            OR EXISTS (SELECT 1 FROM deliveries AS d WHERE d.intent = i.id))
            AND (? IS NULL OR (i.release = ? AND i.data_hash = ?))
        ORDER BY i.requested_at, i.number""",
        [Action.BREAK_GLASS, *_BEGUN, release, release, data_hash],
    ).fetchall()
    return {
        verdict_hash: {
            "by": requester,
            "approved by": approvers or "no other person",
            "reason": reason,
            "at": f"{to_time(requested_at):%Y-%m-%d %H:%M} UTC",
        }
        for verdict_hash, requester, reason, requested_at, approvers in rows
    }
