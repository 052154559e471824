"""Intents, approvals and deliveries as rows. Each method is one short transaction with its row in the audit trail."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from evaluator.errors import StoreError, UnknownName, UsageError
from evaluator.records.intents import (
    ANNOUNCE,
    FINAL_STATES,
    PROMOTING,
    Action,
    Approval,
    AuditRow,
    Delivery,
    HookOutcome,
    Intent,
    IntentState,
    Person,
    are_one,
)
from evaluator.store.audit import add_row, read_rows, verify_rows
from evaluator.store.engine import Engine
from evaluator.store.locks import exclusive
from evaluator.store.overrides import read_override_of_data

__all__ = ["Promotions"]

_COLUMNS = """id, key, release, action, requester, reason, verdict_hash, data_hash, policy_hash, requested_at,
    expires_at, approvals_needed, distinct_people, state, claimed_by, requester_names, hooks_hash, undoes"""

_ANEW = {IntentState.FAILED: IntentState.APPROVED, IntentState.UNKNOWN: IntentState.REQUESTED}
_OPEN = (IntentState.REQUESTED, IntentState.APPROVED)


class _Attach(Protocol):
    def __call__(self, *, write: bool) -> AbstractContextManager[Engine]: ...


@dataclass(frozen=True, slots=True)
class Promotions:
    """What was asked for, by whom, and what became of it."""

    attached: _Attach
    folder: Path
    """Where the locks are that say who executes intents."""

    def request(self, draft: Intent, *, consents: bool = False) -> Intent:
        """Keep an intent with its key; asked for once more while it stands, the one that is there is returned.

        It is approved at once where it needs no approval, or the only one is the requester's own (`consents`). A hold
        or a rollback cancels promotions of the release that were not executed yet.
        """
        with self.attached(write=True) as engine:
            _expire(engine, draft.requested_at)
            known = _of_release(engine, draft.release)
            standing = _standing(engine, known, draft)
            if standing is not None:
                add_row(engine, draft.requester, "repeated", draft.release, standing.id, draft.action)
                return standing
            if draft.action in (Action.HOLD, Action.ROLLBACK):
                _cancel_promotions(engine, known, draft)
            return _add(engine, _undo_begun_too(draft, known), len(known), consents=consents)

    def intent(self, intent_id: str) -> Intent:
        """Read an intent. Raises UnknownName."""
        with self.attached(write=False) as engine:
            return _read(engine, intent_id)

    def intents(self, release: str | None = None) -> tuple[Intent, ...]:
        """Read the intents, the oldest first; of one release where it is named."""
        with self.attached(write=False) as engine:
            return _select(engine, "WHERE ? IS NULL OR release = ?", [release, release])

    def waiting(self) -> tuple[Intent, ...]:
        """Read the intents that are approved, or were begun, the oldest first."""
        with self.attached(write=False) as engine:
            return _select(engine, "WHERE state IN (?, ?)", [IntentState.APPROVED, IntentState.SENT])

    def approve(self, intent_id: str, person: Person) -> Intent:
        """Add a person's approval; the intent is approved with the last that it needs. Raises UsageError."""
        with self.attached(write=True) as engine:
            intent = _read(engine, intent_id)
            _refuse_approval(intent, person)
            if any(
                are_one((*person.names, person.name), (*one.names, one.person)) for one in _approvals(engine, intent.id)
            ):
                add_row(engine, person.name, "repeated", intent.release, intent.id, f"approve {intent.action}")
                return intent
            _consent(engine, intent, person.name, person.names)
            if len(_approvals(engine, intent.id)) < intent.approvals_needed:
                return intent
            _move(engine, intent, IntentState.APPROVED, "")
            return replace(intent, state=IntentState.APPROVED)

    def approvals(self, intent_id: str | None = None) -> tuple[Approval, ...]:
        """Read who approved an intent, or all of them."""
        with self.attached(write=False) as engine:
            return _approvals(engine, intent_id)

    def cancel(self, intent_id: str, actor: str, reason: str) -> Intent:
        """Take back an intent that was not executed yet. Raises UsageError."""
        with self.attached(write=True) as engine:
            intent = _read(engine, intent_id)
            if intent.state not in _OPEN:
                raise UsageError(f"{intent.id} is {intent.state}, so there is nothing to cancel")
            _end(engine, intent, IntentState.CANCELLED, actor, reason)
            return replace(intent, state=IntentState.CANCELLED)

    def expire(self, now: datetime) -> None:
        """Mark what was not executed in time."""
        with self.attached(write=False) as engine:
            over = _select_over(engine, now)
        if over:
            with self.attached(write=True) as engine:
                _expire(engine, now)

    @contextmanager
    def alone(self, targets: Sequence[str], wait_s: float = 0.0) -> Iterator[bool]:
        """Be the only one that executes intents on any of the targets; tells whether that could be had within `wait_s`.

        The system lets go of a process that was killed: what it had begun can be taken up at once. Raises StoreError.
        """
        deadline = time.monotonic() + wait_s
        with ExitStack() as locks:
            # In one order for all: two that want each other's would wait for ever.
            yield all(
                locks.enter_context(exclusive(self._lock_of(target), max(deadline - time.monotonic(), 0.0)))
                for target in sorted(targets)
            )

    def _lock_of(self, target: str) -> Path:
        path = self.folder / f"{hashlib.sha256(target.encode()).hexdigest()[:24]}.lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written: {error.strerror}",
                hint="intents are executed by whoever may write the store",
            ) from error
        return path

    def claim(self, intent: Intent, worker: str) -> bool:
        """Take an intent for execution as it was seen; one of several that try wins."""
        with self.attached(write=True) as engine:
            now = _read(engine, intent.id)
            if (now.state, now.claimed_by) != (intent.state, intent.claimed_by) or now.state in FINAL_STATES:
                return False
            _move(engine, now, IntentState.SENT, worker)
            add_row(engine, worker, "claimed", now.release, now.id, now.action)
            return True

    def reopen(self, intent_id: str, actor: str, text: str) -> Intent:
        """Take up an intent again that failed, or of which nobody knows. Raises UsageError.

        Its hooks that failed are `approved` anew, as nothing was done; those that are unknown are `requested`: what
        comes of them now does not tell what came of them before. What it comes to is announced anew.
        """
        with self.attached(write=True) as engine:
            intent = _read(engine, intent_id)
            if intent.state not in (IntentState.FAILED, IntentState.UNKNOWN):
                raise UsageError(f"{intent.id} is {intent.state}, so there is nothing to try again")
            _move(engine, intent, IntentState.APPROVED, "")
            for before, after in _ANEW.items():
                engine.execute(
                    "UPDATE store.deliveries SET state = ? WHERE intent = ? AND state = ?", [after, intent.id, before]
                )
            engine.execute(
                "UPDATE store.deliveries SET state = ? WHERE intent = ? AND event = ?",
                [IntentState.APPROVED, intent.id, ANNOUNCE],
            )
            add_row(engine, actor, "retried", intent.release, intent.id, text)
            return replace(intent, state=IntentState.APPROVED, claimed_by="")

    def settle(self, intent_id: str, state: IntentState, actor: str, text: str) -> None:
        """Note how an intent ended."""
        with self.attached(write=True) as engine:
            _end(engine, _read(engine, intent_id), state, actor, text)

    def deliver(self, delivery: Delivery, release: str, actor: str) -> None:
        """Keep where one hook of an intent stands; its `attempts` are added to those before."""
        with self.attached(write=True) as engine:
            engine.execute(
                f"""INSERT INTO store.deliveries ({_OF_DELIVERY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (intent, position) DO UPDATE SET attempts = attempts + excluded.attempts,
                    state = excluded.state, text = excluded.text, undo = excluded.undo, response = excluded.response,
                    happened_at = excluded.happened_at""",
                _of_delivery(delivery),
            )
            said = f"{delivery.position + 1}. {delivery.event}: {delivery.hook}"
            text = f"{said}: {delivery.outcome.text}" if delivery.outcome.text else said
            add_row(engine, actor, f"hook {delivery.outcome.state}", release, delivery.intent, text)

    def deliveries(self, intent_id: str | None = None) -> tuple[Delivery, ...]:
        """Read where the hooks of an intent, or of all, stand."""
        with self.attached(write=False) as engine:
            rows = engine.execute(
                f"""SELECT {_OF_DELIVERY} FROM store.deliveries
                WHERE ? IS NULL OR intent = ? ORDER BY happened_at, intent, position""",
                [intent_id, intent_id],
            ).fetchall()
        return tuple(_to_delivery(row) for row in rows)

    def override_of(self, release: str, data_hash: str) -> Mapping[str, str] | None:
        """By whom and why a release was promoted on these data against its verdict; `None` where it was not."""
        with self.attached(write=False) as engine:
            return read_override_of_data(engine, release, data_hash)

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


_OF_DELIVERY = "intent, position, hook, attempts, state, text, undo, response, happened_at, event, options"


def _of_delivery(one: Delivery) -> list[Any]:
    outcome = one.outcome
    said = [outcome.state, outcome.text, outcome.undo, outcome.response]
    return [one.intent, one.position, one.hook, one.attempts, *said, one.at, one.event, one.options]


def _to_delivery(row: Sequence[Any]) -> Delivery:
    outcome = HookOutcome(IntentState(row[4]), row[5], row[6], row[7])
    return Delivery(row[0], row[1], row[2], row[3], outcome, _utc(row[8]), row[9], row[10])


def _add(engine: Engine, draft: Intent, number: int, *, consents: bool) -> Intent:
    agreed = draft.approvals_needed == 0 or (consents and draft.approvals_needed == 1 and not draft.distinct)
    state = IntentState.APPROVED if agreed else IntentState.REQUESTED
    intent = replace(draft, id=f"i{_count(engine) + 1}", key=_key(draft, number), state=state)
    places = ", ".join("?" * len(Intent.__slots__))
    engine.execute(f"INSERT INTO store.intents ({_COLUMNS}) VALUES ({places})", _to_row(intent))
    text = f"{intent.action}: {intent.reason} ({intent.verdict_hash or 'no verdict'})"
    add_row(engine, intent.requester, "requested", intent.release, intent.id, text)
    if agreed and draft.approvals_needed:
        _consent(engine, intent, intent.requester, intent.requester_names)
    return intent


def _consent(engine: Engine, intent: Intent, person: str, names: Sequence[str]) -> None:
    engine.execute(
        "INSERT OR IGNORE INTO store.approvals (intent, person, happened_at, names) VALUES (?, ?, ?, ?)",
        [intent.id, person, datetime.now(UTC), list(names)],
    )
    add_row(engine, person, "approved", intent.release, intent.id, intent.action)


def _cancel_promotions(engine: Engine, known: Sequence[Intent], because: Intent) -> None:
    for intent in known:
        if intent.state in _OPEN and intent.action in PROMOTING:
            _end(engine, intent, IntentState.CANCELLED, because.requester, f"{because.action}: {because.reason}")


def _undo_begun_too(draft: Intent, known: Sequence[Intent]) -> Intent:
    """A rollback takes back what a worker has begun since it was looked up as well."""
    if draft.action is not Action.ROLLBACK:
        return draft
    begun = [one.id for one in reversed(known) if one.state is IntentState.SENT and one.action in PROMOTING]
    return replace(draft, undoes=(*(one for one in begun if one not in draft.undoes), *draft.undoes))


def _select_over(engine: Engine, now: datetime) -> tuple[Intent, ...]:
    return _select(engine, "WHERE state IN (?, ?) AND expires_at <= ?", [*_OPEN, now])


def _expire(engine: Engine, now: datetime) -> None:
    for intent in _select_over(engine, now):
        _end(
            engine, intent, IntentState.EXPIRED, "evaluator", f"not executed by {intent.expires_at:%Y-%m-%d %H:%M} UTC"
        )


def _end(engine: Engine, intent: Intent, state: IntentState, actor: str, text: str) -> None:
    _move(engine, intent, state, intent.claimed_by)
    add_row(engine, actor, state, intent.release, intent.id, text)


def _standing(engine: Engine, known: Sequence[Intent], draft: Intent) -> Intent | None:
    """Find the same request among those of a release: under way, failed half-way, or done and nothing done since."""
    live = [intent for intent in known if not _is_void(engine, intent, draft)]
    same = [i for i in live if (i.action, i.verdict_hash) == (draft.action, draft.verdict_hash)]
    if not same or (same[-1].state in FINAL_STATES and same[-1] is not live[-1]):
        return None
    return same[-1]


def _is_void(engine: Engine, intent: Intent, draft: Intent) -> bool:
    """Does it count no more? One that failed after it began is tried again instead, while it may be."""
    if intent.state is not IntentState.FAILED:
        return intent.state in (IntentState.EXPIRED, IntentState.CANCELLED)
    if draft.requested_at >= intent.expires_at or intent.hooks_hash != draft.hooks_hash:
        return True
    return not engine.execute("SELECT 1 FROM store.deliveries WHERE intent = ? LIMIT 1", [intent.id]).fetchall()


def _key(draft: Intent, number: int) -> str:
    plain = json.dumps([draft.release, draft.verdict_hash, draft.action, number])
    return "evt_" + hashlib.sha256(plain.encode()).hexdigest()[:32]


def _refuse_approval(intent: Intent, person: Person) -> None:
    if intent.state is not IntentState.REQUESTED:
        raise UsageError(f"{intent.id} is {intent.state}, so there is nothing to approve")
    if datetime.now(UTC) >= intent.expires_at:
        raise UsageError(f"{intent.id} has expired", hint="ask for it again")
    if intent.distinct and are_one((*person.names, person.name), (*intent.requester_names, intent.requester)):
        raise UsageError(
            f"{person.name} asked for {intent.id} and cannot approve it too", hint="another person has to approve it"
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
        f"SELECT {_COLUMNS} FROM store.intents {where} ORDER BY length(id), id", list(values)
    ).fetchall()
    return tuple(_to_intent(row) for row in rows)


def _to_intent(row: Sequence[Any]) -> Intent:
    values = dict(zip(Intent.__slots__, row, strict=True))
    values |= {"action": Action(values["action"]), "state": IntentState(values["state"])}
    values |= {name: _utc(values[name]) for name in ("requested_at", "expires_at")}
    values |= {name: tuple(values[name]) for name in ("requester_names", "undoes")}
    return Intent(**values)


def _to_row(intent: Intent) -> list[Any]:
    values = (getattr(intent, name) for name in Intent.__slots__)
    return [list(value) if isinstance(value, tuple) else value for value in values]


def _approvals(engine: Engine, intent_id: str | None) -> tuple[Approval, ...]:
    rows = engine.execute(
        """SELECT intent, person, happened_at, names FROM store.approvals
        WHERE ? IS NULL OR intent = ? ORDER BY happened_at, person""",
        [intent_id, intent_id],
    ).fetchall()
    return tuple(Approval(row[0], row[1], _utc(row[2]), tuple(row[3])) for row in rows)


def _move(engine: Engine, intent: Intent, state: IntentState, claimed_by: str) -> None:
    engine.execute("UPDATE store.intents SET state = ?, claimed_by = ? WHERE id = ?", [state, claimed_by, intent.id])


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
