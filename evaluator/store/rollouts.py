"""Rollouts and their events, as rows of the file of decisions.

A rollout is stored once, with its plan, and never changes. Events are only ever added. Each row that people may ask
for has a row in the audit trail, in the same transaction.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from evaluator.errors import UnknownName, UsageError
from evaluator.records.intents import Intent
from evaluator.records.rollouts import Event, EventKind, JudgedAt, Rollout, RolloutOutcome, StopCause
from evaluator.store import audit, intents
from evaluator.store.control_file import Connection, ControlFile, to_text, to_time

STARTED = "rollout"
"""Event of the audit trail that covers a rollout."""

DRIVER = "evaluator"
"""Who acts in the audit trail where no person does."""

_COLUMNS = "number, release, plan, plan_hash, policy, person, names, reason, started_at, is_queued"


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The rollouts of a store."""

    file: ControlFile

    def start(self, draft: Rollout) -> Rollout:
        """Store a rollout that starts, and return it with its id.

        Raises UsageError if another rollout of the release, or of one of its services, has not ended.
        """
        with self.file.opened(write=True) as connection:
            _refuse_second(connection, draft)
            [number] = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM rollouts").fetchone()
            rollout = replace(draft, id=f"r{number}")
            connection.execute(
                f"INSERT INTO rollouts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [number, *_to_row(rollout)]
            )
            text = f"started {rollout.id} ({rollout.plan_hash}): {rollout.reason}"
            audit.add(connection, rollout.person, STARTED, rollout.release, "", text, hash_rollout(rollout))
            return rollout

    def check_free(self, draft: Rollout) -> None:
        """Raise UsageError if another rollout of the release, or of one of its services, has not ended."""
        with self.file.opened() as connection:
            _refuse_second(connection, draft)

    def rollout(self, rollout_id: str) -> Rollout:
        """Read a rollout. Raises UnknownName."""
        with self.file.opened() as connection:
            found = select(connection, "WHERE 'r' || number = ?", [rollout_id])
            if not found:
                ids = [row[0] for row in connection.execute("SELECT 'r' || number FROM rollouts").fetchall()]
                raise UnknownName("rollout", rollout_id, ids)
            return found[0]

    def rollouts(self, release: str | None = None) -> tuple[Rollout, ...]:
        """Read the rollouts, the oldest first; with `release` (a name), only those of that release."""
        with self.file.opened() as connection:
            return select(connection, "WHERE ? IS NULL OR release = ?", [release, release])

    def find_running(self, release: str | None = None) -> tuple[Rollout, ...]:
        """Read the rollouts that have not ended, the oldest first; with `release`, only those of that release."""
        with self.file.opened() as connection:
            return select(connection, "WHERE has_ended = 0 AND (? IS NULL OR release = ?)", [release, release])

    def add_event(self, rollout: Rollout, event: Event) -> None:
        """Add an event of a rollout; it is flushed to the disk when this returns."""
        with self.file.opened(write=True) as connection:
            add_event(connection, rollout, event)

    def events(self, rollout_id: str) -> tuple[Event, ...]:
        """Read the events of a rollout, the oldest first."""
        with self.file.opened() as connection:
            return read_events(connection, rollout_id)

    def read_all(self) -> tuple[tuple[Rollout, tuple[Event, ...]], ...]:
        """Read all rollouts with their events, both the oldest first."""
        with self.file.opened() as connection:
            return tuple((rollout, read_events(connection, rollout.id)) for rollout in select(connection, "", []))

    def find_step(self, key: str) -> Intent | None:
        """Read the intent of a step, or of a question about it, by its key; None: it was not requested."""
        with self.file.opened() as connection:
            return next(iter(intents.select(connection, "WHERE key = ?", [key])), None)

    def request_step(self, draft: Intent) -> Intent:
        """Store the intent of a step, or of a question about it, and return it; the stored one if its key is known."""
        with self.file.opened(write=True) as connection:
            intents.expire(connection, draft.requested_at)
            known = intents.select(connection, "WHERE key = ?", [draft.key])
            return known[0] if known else intents.add(connection, draft, earlier_count=0, consents=False)


def read_events(connection: Connection, rollout_id: str) -> tuple[Event, ...]:
    """Read the events of a rollout, the oldest first."""
    rows = connection.execute(
        "SELECT event FROM rollout_events WHERE rollout = ? ORDER BY number", [rollout_id.removeprefix("r")]
    ).fetchall()
    return tuple(_to_event(row[0]) for row in rows)


def add_event(connection: Connection, rollout: Rollout, event: Event) -> None:
    """Add an event of a rollout, and its row in the audit trail."""
    number = int(rollout.id.removeprefix("r"))
    connection.execute(
        """INSERT INTO rollout_events (rollout, number, event)
        SELECT ?, coalesce(max(number), 0) + 1, ? FROM rollout_events WHERE rollout = ?""",
        [number, _to_json(event), number],
    )
    if event.kind is EventKind.ENDED:
        connection.execute("UPDATE rollouts SET has_ended = 1 WHERE number = ?", [number])
    audit.add(
        connection, event.person or DRIVER, f"rollout {event.kind}", rollout.release, "", _describe(rollout, event)
    )


def _describe(rollout: Rollout, event: Event) -> str:
    """Describe an event for the audit trail."""
    steps = rollout.plan["steps"]
    step = steps[event.step]["name"] if 0 <= event.step < len(steps) else ""
    result = event.outcome or event.verdict
    return ": ".join(text for text in (rollout.id, step, result, event.text) if text)


def select(connection: Connection, where: str, parameters: Sequence[Any]) -> tuple[Rollout, ...]:
    """Read the rollouts that meet `where`, a WHERE clause with `parameters`; the oldest first."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM rollouts {where} ORDER BY number", list(parameters)).fetchall()
    return tuple(
        Rollout(
            id=f"r{number}",
            release=release,
            plan=json.loads(plan),
            plan_hash=plan_hash,
            policy=json.loads(policy),
            person=person,
            names=tuple(json.loads(names)),
            reason=reason,
            started_at=to_time(started_at),
            is_queued=bool(is_queued),
        )
        for number, release, plan, plan_hash, policy, person, names, reason, started_at, is_queued in rows
    )


def hash_rollout(rollout: Rollout) -> str:
    """Hash a rollout as it was started."""
    return audit.hash_values(rollout.id, *_to_row(rollout))


def _to_row(rollout: Rollout) -> list[Any]:
    """Make the values of the columns after the number."""
    return [
        rollout.release,
        json.dumps(rollout.plan, sort_keys=True),
        rollout.plan_hash,
        json.dumps(rollout.policy, sort_keys=True),
        rollout.person,
        json.dumps(rollout.names),
        rollout.reason,
        to_text(rollout.started_at),
        int(rollout.is_queued),
    ]


def _to_json(event: Event) -> str:
    """Write an event as JSON, without what it does not have."""
    defaults = {field.name: field.default for field in dataclasses.fields(Event)}
    values = dataclasses.asdict(event)
    return json.dumps({name: value for name, value in values.items() if value != defaults[name]}, sort_keys=True)


def _to_event(text: str) -> Event:
    """Read an event that `_to_json` wrote."""
    values = json.loads(text)
    values["kind"] = EventKind(values["kind"])
    if "look" in values:
        values["look"] = JudgedAt(values["look"])
    if "cause" in values:
        values["cause"] = StopCause(values["cause"])
    if "outcome" in values:
        values["outcome"] = RolloutOutcome(values["outcome"])
    return Event(**values)


def _refuse_second(connection: Connection, draft: Rollout) -> None:
    """Raise UsageError if another rollout of the release of a draft, or of one of its services, has not ended."""
    for other in select(connection, "WHERE has_ended = 0", []):
        shared = [service for service in draft.plan["services"] if service in other.plan["services"]]
        if other.release == draft.release or shared:
            raise UsageError(
                f"the rollout {other.id} of {other.release} has not ended"
                + (f", and it has {', '.join(shared)}, too" if other.release != draft.release else ""),
                hint=f"see `evaluator rollout status {other.release}`",
            )
