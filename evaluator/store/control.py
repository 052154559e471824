"""What was decided: releases, verdicts, what calibration learnt for them, promotions, and the audit trail of all.

Its methods take and return only records: their interface does not depend on DuckDB, and none needs a transaction
together with data. Each write is one short transaction, including its row in the audit trail.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime

from evaluator.errors import StoreError, UsageError
from evaluator.records import Learnt, Release, ReleaseSummary, Service, StoredVerdict, check_whose_versions
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
    are_same_person,
)
from evaluator.store import audit, intents
from evaluator.store.engine import Engine
from evaluator.store.file import StoreFile
from evaluator.store.locks import exclusive
from evaluator.store.releases import find_release, put_release, read_release, to_release

TABLES = ("releases", "verdicts", "learnt", "intents", "approvals", "deliveries", "audit")
"""Tables that only control writes."""

LATEST_VERDICTS = 50
"""Most releases whose latest verdicts are read at once."""
LOGGED_VERDICTS = 500
"""Most verdicts in the log of all releases."""

_LEARNT = tuple(field.name for field in fields(Learnt))
_DELIVERY = "intent, position, hook, attempts, state, text, undo, response, happened_at, event, options"
_RETRIED_STATES = {IntentState.FAILED: IntentState.APPROVED, IntentState.UNKNOWN: IntentState.REQUESTED}
"""State of a hook that is executed again → its state until then."""


@dataclass(frozen=True, slots=True)
class Control:
    """Decisions on releases, who made them, and their results."""

    file: StoreFile

    # -------------------------------------------------------------- releases

    def add_release(self, release: Release) -> None:
        """Store a release; if it is stored already, add its services and labels to the stored ones.

        A version or label that is given replaces the stored one of the same service or name. Versions without the name
        of a service are those of the release's service; raises UsageError if it has several.
        """
        with self.file.opened(write=True) as engine:
            stored = find_release(engine, release.id)
            if stored is not None:
                check_whose_versions(stored, release)
                services = {service.name: service for service in stored.services}
                for given in release.services:
                    is_only_one_meant = not given.name and len(services) == 1
                    new = replace(given, name=next(iter(services))) if is_only_one_meant else given
                    # A service without a name until now is this one, so its versions go over to it.
                    old = services.get(new.name) or services.pop("", new)
                    services[new.name] = Service(new.name, new.baseline or old.baseline, new.canary or old.canary)
                labels = {**stored.labels, **release.labels}
                created_at = stored.created_at or release.created_at
                release = Release(stored.id, tuple(services.values()), labels, created_at)
            put_release(engine, release)

    def set_services(self, release_id: str, names: Sequence[str], actor: str) -> None:
        """Replace the services of a release by those with `names`; those that stay keep their versions.

        `actor` is the person in the audit trail. Raises UnknownName.
        """
        with self.file.opened(write=True) as engine:
            stored = read_release(engine, release_id)
            by_name = {service.name: service for service in stored.services}
            new_service = Service("")
            if len(stored.services) == len(names) == 1:
                # The single service was renamed, so it keeps its versions.
                new_service = stored.services[0]
            services = tuple(by_name.get(name, replace(new_service, name=name)) for name in names)
            put_release(engine, replace(stored, services=services))
            text = f"{', '.join(by_name) or 'none'} → {', '.join(names)}"
            audit.add(engine, actor, "service", release_id, "", text)

    @contextmanager
    def landing(self, release: Release) -> Iterator[None]:
        """Store a release around the landing of its data, which is the body of the `with` statement.

        A new release is stored before. A stored one gains services and labels only afterwards: its services choose the
        policy that judges it, and data that fail to land must not change them. Raises UsageError as `add_release`.
        """
        with self.file.opened(write=True) as engine:
            stored = find_release(engine, release.id)
            is_new = stored is None
            if stored is None:
                put_release(engine, release)
            else:
                check_whose_versions(stored, release)  # before data land, not after it
        yield
        if not is_new:
            self.add_release(release)

    def release(self, release_id: str) -> Release:
        """Read a release. Raises UnknownName."""
        with self.file.opened() as engine:
            return read_release(engine, release_id)

    def releases(self) -> tuple[ReleaseSummary, ...]:
        """List the releases with their latest verdicts, the newest first; without counts of landed data."""
        with self.file.opened() as engine:
            # `mode` is part of the JSON of a verdict. Per release: its latest verdict (largest number), how many
            # verdicts were in shadow mode, and how many of these were not GO.
            rows = engine.execute(
                """SELECT r.id, r.services, r.labels, r.created_at, v.word, v.judged_at, v.mode, coalesce(v.shadow, 0),
                    coalesce(v.blocked, 0)
                FROM store.releases AS r LEFT JOIN (
                    SELECT release, arg_max(word, number) AS word, arg_max(judged_at, number) AS judged_at,
                        arg_max(mode, number) AS mode, count(*) FILTER (mode = 'shadow') AS shadow,
                        count(*) FILTER (mode = 'shadow' AND word != 'go') AS blocked
                    FROM (SELECT *, json_extract_string(verdict, '$.mode') AS mode FROM store.verdicts)
                    GROUP BY release) AS v ON v.release = r.id
                ORDER BY r.created_at DESC, r.id"""
            ).fetchall()
        return tuple(
            ReleaseSummary(
                to_release(release_row),
                verdict=word,
                judged_at=judged_at and judged_at.astimezone(UTC),  # NULL without a verdict
                mode=mode,
                shadow_verdicts=shadow,
                would_have_blocked=blocked,
            )
            for *release_row, word, judged_at, mode, shadow, blocked in rows
        )

    # -------------------------------------------------------------- verdicts

    def save_verdict(
        self,
        release_id: str,
        verdict_json: str,
        judged_at: datetime,
        word: str,
        figures: str | None = None,
        *,
        outcomes: tuple[str, str] = ("", ""),
    ) -> None:
        """Store a verdict: its word (`go`, `no-go`, …) and its JSON with the evidence. Verdicts are never overwritten.

        `figures`: the numbers behind its figures (JSON), if they were requested. `outcomes`: the run whose outcomes the
        verdict judged, and how it spent the error rate alpha; empty texts if it judged no outcomes.
        """
        with self.file.opened(write=True) as engine:
            read_release(engine, release_id)
            engine.execute(
                """INSERT INTO store.verdicts
                    (number, release, judged_at, word, verdict, figures, outcomes_run, outcomes_paid)
                SELECT coalesce(max(number), -1) + 1, ?, ?, ?, ?, ?, ?, ? FROM store.verdicts""",
                [release_id, judged_at, word, verdict_json, figures, *outcomes],
            )

    def verdicts(self, release_id: str) -> tuple[StoredVerdict, ...]:
        """Read the verdicts of a release, the oldest first. Raises UnknownName."""
        with self.file.opened() as engine:
            read_release(engine, release_id)
            return _select_verdicts(engine, "WHERE release = ? ORDER BY number", release_id)

    def latest_verdicts(self) -> tuple[StoredVerdict, ...]:
        """Read the latest verdict of each release, the newest release first; of at most LATEST_VERDICTS releases."""
        with self.file.opened() as engine:
            return _select_verdicts(
                engine,
                """JOIN store.releases AS r ON r.id = v.release
                WHERE v.number = (SELECT max(number) FROM store.verdicts AS other WHERE other.release = v.release)
                ORDER BY r.created_at DESC, r.id LIMIT ?""",
                LATEST_VERDICTS,
            )

    def verdict_log(self) -> tuple[StoredVerdict, ...]:
        """Read the newest verdicts of all releases, the newest first."""
        with self.file.opened() as engine:
            return _select_verdicts(engine, "ORDER BY number DESC LIMIT ?", LOGGED_VERDICTS)

    def figures(self, release_id: str) -> str | None:
        """Read the numbers (JSON) behind the figures of a release's newest verdict; `None` without them."""
        with self.file.opened() as engine:
            read_release(engine, release_id)
            rows = engine.execute(
                "SELECT figures FROM store.verdicts WHERE release = ? ORDER BY number DESC LIMIT 1", [release_id]
            ).fetchall()
        return rows[0][0] if rows else None

    def outcome_looks(self, release_id: str) -> Mapping[str, str]:
        """Read the runs whose outcomes the verdicts of a release judged, in the order of their first verdicts.

        Returns run → how the first verdict on its outcomes spent the error rate alpha.
        """
        with self.file.opened() as engine:
            rows = engine.execute(
                """SELECT outcomes_run, arg_min(outcomes_paid, number) FROM store.verdicts
                WHERE outcomes_run <> '' AND release = ? GROUP BY outcomes_run ORDER BY min(number)""",
                [release_id],
            ).fetchall()
        return dict(rows)

    def save_learnt(self, service: str, learnt: Learnt) -> None:
        """Store what calibration learnt of a service's instances; the judge uses it from now on."""
        values = [service, *(getattr(learnt, name) for name in _LEARNT)]
        with self.file.opened(write=True) as engine:
            engine.execute(
                f"""INSERT OR REPLACE INTO store.learnt (service, {", ".join(_LEARNT)})
                VALUES ({", ".join("?" * len(values))})""",
                values,
            )

    def learnt(self, service: str) -> Learnt | None:
        """Read what calibration learnt of a service's instances; `None` if nothing is stored."""
        with self.file.opened() as engine:
            query = f"SELECT {', '.join(_LEARNT)} FROM store.learnt WHERE service = ?"
            rows = engine.execute(query, [service]).fetchall()
        return Learnt(*rows[0]) if rows else None

    # -------------------------------------------------------------- intents

    def request(self, draft: Intent, *, consents: bool = False) -> Intent:
        """Store the intent `draft` and return it; a repeated request returns the intent that is already in effect.

        The intent is approved at once if it needs no approval, or only one and the requester gives it (`consents`). A
        hold or a rollback cancels promotions of the release that were not executed yet. A rollback also undoes
        promotions that a worker has begun since `draft` was made.
        """
        with self.file.opened(write=True) as engine:
            intents.expire(engine, draft.requested_at)
            earlier = intents.select(engine, "WHERE release = ?", [draft.release])
            in_effect = intents.find_in_effect(engine, earlier, draft)
            if in_effect is not None:
                audit.add(engine, draft.requester, "repeated", draft.release, in_effect.id, draft.action)
                return in_effect
            if draft.action in (Action.HOLD, Action.ROLLBACK):
                for intent in earlier:
                    if intent.state in intents.OPEN and intent.action in PROMOTING:
                        why = f"{draft.action}: {draft.reason}"
                        intents.end(engine, intent, IntentState.CANCELLED, draft.requester, why)
            if draft.action is Action.ROLLBACK:
                # The newest first, as they are undone.
                newly_begun = [
                    intent.id
                    for intent in reversed(earlier)
                    if intent.state is IntentState.SENT and intent.action in PROMOTING and intent.id not in draft.undoes
                ]
                draft = replace(draft, undoes=(*newly_begun, *draft.undoes))
            return intents.add(engine, draft, earlier_count=len(earlier), consents=consents)

    def intent(self, intent_id: str) -> Intent:
        """Read an intent. Raises UnknownName."""
        with self.file.opened() as engine:
            return intents.read(engine, intent_id)

    def intents(self, release: str | None = None) -> tuple[Intent, ...]:
        """Read the intents, the oldest first; with `release` (a name), only those of that release."""
        with self.file.opened() as engine:
            return intents.select(engine, "WHERE ? IS NULL OR release = ?", [release, release])

    def waiting(self) -> tuple[Intent, ...]:
        """Read the intents that wait for a worker or whose execution was begun, the oldest first."""
        with self.file.opened() as engine:
            return intents.select(engine, "WHERE state IN (?, ?)", [IntentState.APPROVED, IntentState.SENT])

    def approve(self, intent_id: str, person: Person) -> Intent:
        """Add a person's approval; with the last approval that it needs, the intent itself becomes approved.

        Returns the intent as it is now; a second approval of a person changes nothing. Raises UsageError if the intent
        cannot be approved, or not by this person.
        """
        with self.file.opened(write=True) as engine:
            intent = intents.read(engine, intent_id)
            names = (*person.names, person.name)
            if intent.state is not IntentState.REQUESTED:
                raise UsageError(f"{intent.id} is {intent.state}, so there is nothing to approve")
            if datetime.now(UTC) >= intent.expires_at:
                raise UsageError(f"{intent.id} has expired", hint="request it again")
            if intent.distinct and are_same_person(names, (*intent.requester_names, intent.requester)):
                raise UsageError(
                    f"{person.name} requested {intent.id} and cannot approve it too",
                    hint="another person has to approve it",
                )
            approvals = intents.read_approvals(engine, intent.id)
            if any(are_same_person(names, (*approval.names, approval.person)) for approval in approvals):
                audit.add(engine, person.name, "repeated", intent.release, intent.id, f"approve {intent.action}")
                return intent
            intents.add_approval(engine, intent, person.name, person.names)
            if len(intents.read_approvals(engine, intent.id)) < intent.approvals_needed:
                return intent
            return intents.move(engine, intent, IntentState.APPROVED, "")

    def approvals(self, intent_id: str | None = None) -> tuple[Approval, ...]:
        """Read the approvals of an intent; `None`: of all intents."""
        with self.file.opened() as engine:
            return intents.read_approvals(engine, intent_id)

    def cancel(self, intent_id: str, actor: str, reason: str) -> Intent:
        """Cancel an intent that was not executed yet. Raises UsageError."""
        with self.file.opened(write=True) as engine:
            intent = intents.read(engine, intent_id)
            if intent.state not in intents.OPEN:
                raise UsageError(f"{intent.id} is {intent.state}, so there is nothing to cancel")
            return intents.end(engine, intent, IntentState.CANCELLED, actor, reason)

    def expire(self, now: datetime) -> None:
        """Mark intents that were not executed in time as expired."""
        # Look first: if no intent is overdue, the store need not be opened to write, which would lock it.
        with self.file.opened() as engine:
            overdue = intents.select(engine, intents.OVERDUE, [*intents.OPEN, now])
        if overdue:
            with self.file.opened(write=True) as engine:
                intents.expire(engine, now)

    @contextmanager
    def alone(self, services: Sequence[str], wait_s: float = 0.0) -> Iterator[bool]:
        """Lock services for the body of the `with` statement; yields whether all were locked within `wait_s` seconds.

        So no two processes execute intents of a service at the same time. The operating system releases the locks of a
        process that was killed, so its intents can be continued at once. Raises StoreError.
        """
        folder = self.file.folder / ".promotion"
        deadline = time.monotonic() + wait_s
        with ExitStack() as locks:
            # All processes lock in the same order, so that no two wait for each other.
            for service in sorted(services):
                # The name of a service may have characters that a file name must not have.
                path = folder / f"{hashlib.sha256(service.encode()).hexdigest()[:24]}.lock"
                try:
                    with self.file.keeping_private():
                        folder.mkdir(parents=True, exist_ok=True)
                        path.touch()
                except OSError as error:
                    raise StoreError(
                        f"{path} cannot be written: {error.strerror}",
                        hint="execute intents as a user who may write to the store",
                    ) from error
                if not locks.enter_context(exclusive(path, max(deadline - time.monotonic(), 0.0))):
                    yield False
                    return
            yield True

    def claim(self, intent: Intent, worker: str) -> bool:
        """Claim an intent for execution by a worker, and return whether that succeeded.

        It fails if the stored intent is final, or differs from `intent`: of several workers, one succeeds.
        """
        with self.file.opened(write=True) as engine:
            stored = intents.read(engine, intent.id)
            is_changed = (stored.state, stored.claimed_by) != (intent.state, intent.claimed_by)
            if is_changed or stored.state in FINAL_STATES:
                return False
            intents.move(engine, stored, IntentState.SENT, worker)
            audit.add(engine, worker, "claimed", stored.release, stored.id, stored.action)
            return True

    def reopen(self, intent_id: str, actor: str, text: str) -> Intent:
        """Reopen an intent that failed, or whose result is unknown, so that a worker executes it again.

        A failed hook of the intent changed nothing, so it becomes `approved`. One with unknown outcome becomes
        `requested`, from which the worker knows that it may have been done before. Hooks that announce the end of the
        intent are executed again, too. `text` goes into the audit trail. Raises UsageError for an intent in another
        state.
        """
        with self.file.opened(write=True) as engine:
            intent = intents.read(engine, intent_id)
            if intent.state not in _RETRIED_STATES:
                raise UsageError(f"{intent.id} is {intent.state}, so there is nothing to try again")
            update = "UPDATE store.deliveries SET state = ? WHERE intent = ?"
            for before, after in _RETRIED_STATES.items():
                engine.execute(f"{update} AND state = ?", [after, intent.id, before])
            engine.execute(f"{update} AND event = ?", [IntentState.APPROVED, intent.id, ANNOUNCE])
            audit.add(engine, actor, "retried", intent.release, intent.id, text)
            return intents.move(engine, intent, IntentState.APPROVED, "")

    def settle(self, intent_id: str, state: IntentState, actor: str, text: str) -> None:
        """Store how an intent ended: its final state, by whom and why."""
        with self.file.opened(write=True) as engine:
            intents.end(engine, intents.read(engine, intent_id), state, actor, text)

    def deliver(self, delivery: Delivery, release: str, actor: str) -> None:
        """Store the state of one hook of an intent; the attempts of `delivery` are added to the stored ones.

        `release` and `actor` go into the audit trail.
        """
        outcome = delivery.outcome
        # In the order of the columns `_DELIVERY`.
        values = [
            delivery.intent,
            delivery.position,
            delivery.hook,
            delivery.attempts,
            outcome.state,
            outcome.text,
            outcome.undo,
            outcome.response,
            delivery.at,
            delivery.event,
            delivery.options,
        ]
        with self.file.opened(write=True) as engine:
            engine.execute(
                f"""INSERT INTO store.deliveries ({_DELIVERY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (intent, position) DO UPDATE SET attempts = attempts + excluded.attempts,
                    state = excluded.state, text = excluded.text, undo = excluded.undo, response = excluded.response,
                    happened_at = excluded.happened_at""",
                values,
            )
            name = f"{delivery.position + 1}. {delivery.event}: {delivery.hook}"
            text = f"{name}: {outcome.text}" if outcome.text else name
            audit.add(engine, actor, f"hook {outcome.state}", release, delivery.intent, text)

    def deliveries(self, intent_id: str | None = None) -> tuple[Delivery, ...]:
        """Read the states of the hooks of an intent; `None`: of all intents."""
        with self.file.opened() as engine:
            rows = engine.execute(
                f"""SELECT {_DELIVERY} FROM store.deliveries
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
                at.astimezone(UTC),
                event,
                options,
            )
            for intent, position, hook, attempts, state, text, undo, response, at, event, options in rows
        )

    # -------------------------------------------------------------- audit trail

    def override_of(self, release: str, data_hash: str) -> Mapping[str, str] | None:
        """Read who last promoted a release against its verdict on these data, and why; `None` if that did not happen.

        `data_hash` identifies the data (`StoredData.content_hash`). Returns texts: `by`, `approved by`, `reason`, `at`.
        """
        with self.file.opened() as engine:
            overrides = intents.read_overrides(engine, release, data_hash)
        return list(overrides.values())[-1] if overrides else None

    def note(self, actor: str, event: str, release: str, text: str, intent: str = "") -> AuditRow:
        """Add a row to the audit trail: a note on a release, or a refusal."""
        with self.file.opened(write=True) as engine:
            return audit.add(engine, actor, event, release, intent, text)

    def audit(self, release: str | None = None) -> tuple[AuditRow, ...]:
        """Read the audit trail, the oldest first; with `release`, only its rows."""
        with self.file.opened() as engine:
            return audit.read(engine, release)

    def verify_audit(self) -> str:
        """Check the audit trail and return the hash of its last row. Raises StoreError if a row was changed."""
        return audit.verify(self.audit())


def _select_verdicts(engine: Engine, clauses: str, parameter: str | int) -> tuple[StoredVerdict, ...]:
    """Read verdicts as they were saved, and who promoted against them.

    `clauses`: the end of the query (JOIN, WHERE, ORDER, LIMIT), where the table of verdicts is `v`, with one
    `parameter`.
    """
    rows = engine.execute(
        f"SELECT v.release, v.word, v.judged_at, v.verdict FROM store.verdicts AS v {clauses}", [parameter]
    ).fetchall()
    override_by_hash = intents.read_overrides(engine)  # hash of a verdict → by whom, when and why it was overridden
    verdicts = []
    for release, word, judged_at, verdict_json in rows:
        # Without overrides, no verdict has to be hashed.
        override = override_by_hash.get(intents.hash_text(verdict_json)) if override_by_hash else None
        verdicts.append(StoredVerdict(release, word, judged_at.astimezone(UTC), verdict_json, override))
    return tuple(verdicts)
