"""Intents, approvals and deliveries as rows. Each method is one short transaction with its row in the audit trail."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from evaluator.errors import UnknownName, UsageError
from evaluator.records.intents import (
    FINAL_STATES,
    Action,
    Approval,
    AuditRow,
    Delivery,
    HookOutcome,
    Intent,
    IntentState,
)
from evaluator.store.audit import add_row, read_rows, verify_rows
from evaluator.store.engine import Engine

__all__ = ["Promotions"]

_COLUMNS = """id, key, release, action, requester, reason, verdict_hash, data_hash, policy_hash, requested_at,
    expires_at, approvals_needed, distinct_people, state, claimed_by"""


class _Attach(Protocol):
    def __call__(self, *, write: bool) -> AbstractContextManager[Engine]: ...


@dataclass(frozen=True, slots=True)
class Promotions:
    """What was asked for, by whom, and what became of it."""

    attached: _Attach

    def request(self, draft: Intent) -> Intent:
        """Keep an intent with its key; asked for once more while it stands, the one that is there is returned."""
        with self.attached(write=True) as engine:
            known = _of_release(engine, draft.release)
            standing = _standing(known, draft)
            if standing is not None:
                add_row(engine, draft.requester, "repeated", draft.release, standing.id, draft.action)
                return standing
            intent = replace(draft, id=f"i{_count(engine) + 1}", key=_key(draft, len(known)))
            engine.execute(
                f"INSERT INTO store.intents ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                _to_row(intent),
            )
            text = f"{intent.action}: {intent.reason} ({intent.verdict_hash or 'no verdict'})"
            add_row(engine, intent.requester, "requested", intent.release, intent.id, text)
            return intent

    def intent(self, intent_id: str) -> Intent:
        """Read an intent. Raises UnknownName."""
        with self.attached(write=False) as engine:
            return _read(engine, intent_id)

    def intents(self, release: str | None = None) -> tuple[Intent, ...]:
        """Read the intents, the oldest first; of one release where it is named."""
        with self.attached(write=False) as engine:
            return _select(engine, "WHERE ? IS NULL OR release = ?", [release, release])

    def approve(self, intent_id: str, person: str) -> Intent:
        """Add a person's approval; the intent is approved with the last that it needs. Raises UsageError."""
        with self.attached(write=True) as engine:
            intent = _read(engine, intent_id)
            _refuse_approval(intent, person)
            engine.execute(
                "INSERT OR IGNORE INTO store.approvals VALUES (?, ?, ?)", [intent.id, person, datetime.now(UTC)]
            )
            add_row(engine, person, "approved", intent.release, intent.id, intent.action)
            if len(_approvals(engine, intent.id)) < intent.approvals_needed:
                return intent
            _move(engine, intent, IntentState.APPROVED, "")
            return replace(intent, state=IntentState.APPROVED)

    def approvals(self, intent_id: str) -> tuple[Approval, ...]:
        """Read who approved an intent."""
        with self.attached(write=False) as engine:
            return _approvals(engine, intent_id)

    def claim(self, intent: Intent, worker: str) -> bool:
        """Take an intent for execution as it was seen; one of several that try wins."""
        with self.attached(write=True) as engine:
            now = _read(engine, intent.id)
            if (now.state, now.claimed_by) != (intent.state, intent.claimed_by) or now.state in FINAL_STATES:
                return False
            _move(engine, now, IntentState.SENT, worker)
            add_row(engine, worker, "claimed", now.release, now.id, now.action)
            return True

    def settle(self, intent_id: str, state: IntentState, actor: str, text: str) -> None:
        """Note how an intent ended, or that it is taken up again."""
        with self.attached(write=True) as engine:
            intent = _read(engine, intent_id)
            _move(engine, intent, state, intent.claimed_by)
            add_row(engine, actor, state, intent.release, intent.id, text)

    def deliver(self, intent: Intent, position: int, hook: str, outcome: HookOutcome, *, attempt: bool) -> None:
        """Keep where one hook of an intent stands; an `attempt` counts."""
        with self.attached(write=True) as engine:
            engine.execute(
                """INSERT INTO store.deliveries VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (intent, position) DO UPDATE SET attempts = attempts + excluded.attempts,
                    state = excluded.state, text = excluded.text, undo = excluded.undo,
                    happened_at = excluded.happened_at""",
                [intent.id, position, hook, int(attempt), outcome.state, outcome.text, outcome.undo, datetime.now(UTC)],
            )
            add_row(engine, intent.claimed_by, f"hook {outcome.state}", intent.release, intent.id, hook)

    def deliveries(self, intent_id: str | None = None) -> tuple[Delivery, ...]:
        """Read where the hooks of an intent, or of all, stand."""
        with self.attached(write=False) as engine:
            rows = engine.execute(
                """SELECT intent, position, hook, attempts, state, text, undo, happened_at FROM store.deliveries
                WHERE ? IS NULL OR intent = ? ORDER BY happened_at, intent, position""",
                [intent_id, intent_id],
            ).fetchall()
        return tuple(
            Delivery(row[0], row[1], row[2], row[3], HookOutcome(IntentState(row[4]), row[5], row[6]), _utc(row[7]))
            for row in rows
        )

    def note(self, actor: str, event: str, release: str, text: str, intent: str = "") -> AuditRow:
        """Add a row to the audit trail: a note on a release, or a refusal."""
        with self.attached(write=True) as engine:
            return add_row(engine, actor, event, release, intent, text)

    def audit(self, release: str | None = None) -> tuple[AuditRow, ...]:
        """Read the audit trail, the oldest first."""
        with self.attached(write=False) as engine:
            return read_rows(engine, release)

    def verify_audit(self) -> str:
        """Check the audit trail and return the hash of its head. Raises StoreError where it was changed."""
        return verify_rows(self.audit())


def _standing(known: Sequence[Intent], draft: Intent) -> Intent | None:
    """Find the same request among those of a release: under way, or done and nothing done since."""
    over = {IntentState.FAILED, IntentState.EXPIRED, IntentState.CANCELLED}
    live = [intent for intent in known if intent.state not in over]
    same = [i for i in live if (i.action, i.verdict_hash) == (draft.action, draft.verdict_hash)]
    if not same or (same[-1].state in FINAL_STATES and same[-1] is not live[-1]):
        return None
    return same[-1]


def _key(draft: Intent, number: int) -> str:
    plain = json.dumps([draft.release, draft.verdict_hash, draft.action, number])
    return "evt_" + hashlib.sha256(plain.encode()).hexdigest()[:32]


def _refuse_approval(intent: Intent, person: str) -> None:
    if intent.state is not IntentState.REQUESTED:
        raise UsageError(f"{intent.id} is {intent.state}, so there is nothing to approve")
    if datetime.now(UTC) >= intent.expires_at:
        raise UsageError(f"{intent.id} has expired", hint="ask for it again")
    if intent.distinct and person == intent.requester:
        raise UsageError(
            f"{person} asked for {intent.id} and cannot approve it too", hint="another person has to approve it"
        )


def _count(engine: Engine) -> int:
    return int(engine.execute("SELECT count(*) FROM store.intents").fetchall()[0][0])


def _of_release(engine: Engine, release: str) -> tuple[Intent, ...]:
    return _select(engine, "WHERE release = ?", [release])


def _read(engine: Engine, intent_id: str) -> Intent:
    found = _select(engine, "WHERE id = ?", [intent_id])
    if not found:
        known = [row[0] for row in engine.execute("SELECT id FROM store.intents").fetchall()]
        raise UnknownName("intent", intent_id, known)
    return found[0]


def _select(engine: Engine, where: str, values: Sequence[Any]) -> tuple[Intent, ...]:
    rows = engine.execute(
        f"SELECT {_COLUMNS} FROM store.intents {where} ORDER BY requested_at, length(id), id", list(values)
    ).fetchall()
    return tuple(_to_intent(row) for row in rows)


def _to_intent(row: Sequence[Any]) -> Intent:
    values = dict(zip(Intent.__slots__, row, strict=True))
    values |= {"action": Action(values["action"]), "state": IntentState(values["state"])}
    values |= {name: _utc(values[name]) for name in ("requested_at", "expires_at")}
    return Intent(**values)


def _to_row(intent: Intent) -> list[Any]:
    return [getattr(intent, name) for name in Intent.__slots__]


def _approvals(engine: Engine, intent_id: str) -> tuple[Approval, ...]:
    rows = engine.execute("SELECT * FROM store.approvals WHERE intent = ? ORDER BY happened_at", [intent_id]).fetchall()
    return tuple(Approval(row[0], row[1], _utc(row[2])) for row in rows)


def _move(engine: Engine, intent: Intent, state: IntentState, claimed_by: str) -> None:
    engine.execute("UPDATE store.intents SET state = ?, claimed_by = ? WHERE id = ?", [state, claimed_by, intent.id])


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
