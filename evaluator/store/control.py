"""What was decided: releases, verdicts, what calibration learnt for them, promotions, and the audit trail of all.

It is kept in a file of its own (`control_file`), so no method waits for what uses the data. Methods take and return
only records. Each write is one short transaction, including its row in the audit trail.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime

from evaluator.errors import UsageError
from evaluator.records import Learnt, Release, ReleaseSummary, Service, StoredVerdict, check_whose_versions
from evaluator.records.intents import (
    ANNOUNCE,
    FINAL_STATES,
    JUDGED,
    PROMOTING,
    Action,
    Approval,
    AuditRow,
    Delivery,
    Intent,
    IntentState,
    Person,
    are_same_person,
)
from evaluator.store import audit, covering, intents, restarts, stopping
from evaluator.store.control_file import Connection, ControlFile, to_text, to_time
from evaluator.store.locks import locked_services
from evaluator.store.releases import find_release, put_release, read_release, to_release

LATEST_VERDICTS = 50
"""Most releases whose latest verdicts are read at once."""
LOGGED_VERDICTS = 500
"""Most verdicts in the log of all releases."""

_LEARNT = tuple(field.name for field in fields(Learnt))
_RETRIED_STATES = {IntentState.FAILED: IntentState.APPROVED, IntentState.UNKNOWN: IntentState.REQUESTED}
"""State of a hook that is executed again → its state until then."""


@dataclass(frozen=True, slots=True)
class Control:
    """Decisions on releases, who made them, and their results."""

    file: ControlFile

    # -------------------------------------------------------------- releases

    def add_release(self, release: Release) -> None:
        """Store a release; if it is stored already, add its services and labels to the stored ones.

        A version or label that is given replaces the stored one of the same service or name. Versions without the name
        of a service are those of the release's service; raises UsageError if it has several.
        """
        with self.file.opened(write=True) as connection:
            stored = find_release(connection, release.id)
            if stored is not None:
                check_whose_versions(stored, release)
                services = {service.name: service for service in stored.services}
                for given in release.services:
                    is_only_one_meant = not given.name and len(services) == 1
                    new = replace(given, name=next(iter(services))) if is_only_one_meant else given
                    # A service without a name until now is this one, so its versions go over to it.
                    old = services.get(new.name) or services.pop("", new)
                    services[new.name] = new.complete(old)
                labels = {**stored.labels, **release.labels}
                created_at = stored.created_at or release.created_at
                release = Release(stored.id, tuple(services.values()), labels, created_at)
            put_release(connection, release)

    def set_services(self, release_id: str, names: Sequence[str], actor: str) -> None:
        """Replace the services of a release by those with `names`; those that stay keep their versions.

        `actor` is the person in the audit trail. Raises UnknownName.
        """
        with self.file.opened(write=True) as connection:
            stored = read_release(connection, release_id)
            by_name = {service.name: service for service in stored.services}
            new_service = Service("")
            if len(stored.services) == len(names) == 1:
                # The single service was renamed, so it keeps its versions.
                new_service = stored.services[0]
            services = tuple(by_name.get(name, replace(new_service, name=name)) for name in names)
            put_release(connection, replace(stored, services=services))
            text = f"{', '.join(by_name) or 'none'} → {', '.join(names)}"
            audit.add(connection, actor, "service", release_id, "", text)

    @contextmanager
    def landing(self, release: Release) -> Iterator[None]:
        """Store a release around the landing of its data, which is the body of the `with` statement.

        A new release is stored before. A stored one gains services and labels only afterwards: its services choose the
        policy that judges it, and data that fail to land must not change them. Raises UsageError as `add_release`.
        """
        with self.file.opened(write=True) as connection:
            stored = find_release(connection, release.id)
            is_new = stored is None
            if stored is None:
                put_release(connection, release)
            else:
                check_whose_versions(stored, release)  # before data land, not after it
        yield
        if not is_new:
            self.add_release(release)

    def release(self, release_id: str) -> Release:
        """Read a release. Raises UnknownName."""
        with self.file.opened() as connection:
            return read_release(connection, release_id)

    def releases(self) -> tuple[ReleaseSummary, ...]:
        """List the releases with their latest verdicts, the newest first; without counts of landed data."""
        with self.file.opened() as connection:
            # Per release: its latest verdict (largest number), how many verdicts were in shadow mode, and how many of
            # these were not GO.
            rows = connection.execute(
                """SELECT r.id, r.services, r.labels, r.created_at, v.word, v.judged_at, v.mode,
                    coalesce(s.shadow, 0), coalesce(s.blocked, 0)
                FROM releases AS r
                LEFT JOIN (
                    SELECT release, max(number) AS latest, sum(mode = 'shadow') AS shadow,
                        sum(mode = 'shadow' AND word <> 'go') AS blocked
                    FROM verdicts GROUP BY release) AS s ON s.release = r.id
                LEFT JOIN verdicts AS v ON v.number = s.latest
                ORDER BY r.created_at DESC, r.id"""
            ).fetchall()
        return tuple(
            ReleaseSummary(
                to_release(release_row),
                verdict=word,
                judged_at=to_time(judged_at) if judged_at else None,
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
        verdict_hash = audit.hash_text(verdict_json)
        mode = json.loads(verdict_json).get("mode", "block")
        with self.file.opened(write=True) as connection:
            read_release(connection, release_id)
            connection.execute(
                """INSERT INTO verdicts
                    (number, release, judged_at, word, verdict, hash, figures, outcomes_run, outcomes_paid, mode)
                SELECT coalesce(max(number), -1) + 1, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM verdicts""",
                [release_id, to_text(judged_at), word, verdict_json, verdict_hash, figures, *outcomes, mode],
            )
            covers = covering.hash_verdict_row(release_id, to_text(judged_at), word, verdict_hash)
            audit.add(connection, "evaluator", JUDGED, release_id, "", word, covers)

    def verdicts(self, release_id: str) -> tuple[StoredVerdict, ...]:
        """Read the verdicts of a release, the oldest first. Raises UnknownName."""
        with self.file.opened() as connection:
            read_release(connection, release_id)
            return _select_verdicts(connection, "WHERE release = ? ORDER BY number", release_id)

    def latest_verdicts(self) -> tuple[StoredVerdict, ...]:
        """Read the latest verdict of each release, the newest release first; of at most LATEST_VERDICTS releases."""
        with self.file.opened() as connection:
            return _select_verdicts(
                connection,
                """JOIN releases AS r ON r.id = v.release
                WHERE v.number = (SELECT max(number) FROM verdicts AS other WHERE other.release = v.release)
                ORDER BY r.created_at DESC, r.id LIMIT ?""",
                LATEST_VERDICTS,
            )

    def verdict_log(self) -> tuple[StoredVerdict, ...]:
        """Read the newest verdicts of all releases, the newest first."""
        with self.file.opened() as connection:
            return _select_verdicts(connection, "ORDER BY number DESC LIMIT ?", LOGGED_VERDICTS)

    def figures(self, release_id: str) -> str | None:
        """Read the numbers (JSON) behind the figures of a release's newest verdict; `None` without them."""
        with self.file.opened() as connection:
            read_release(connection, release_id)
            rows = connection.execute(
                "SELECT figures FROM verdicts WHERE release = ? ORDER BY number DESC LIMIT 1", [release_id]
            ).fetchall()
        return rows[0][0] if rows else None

    def outcome_looks(self, release_id: str) -> Mapping[str, str]:
        """Read the runs whose outcomes the verdicts of a release judged, in the order of their first verdicts.

        Returns run → how the first verdict on its outcomes spent the error rate alpha.
        """
        with self.file.opened() as connection:
            rows = connection.execute(
                """SELECT outcomes_run, outcomes_paid FROM verdicts WHERE number IN (
                    SELECT min(number) FROM verdicts WHERE outcomes_run <> '' AND release = ? GROUP BY outcomes_run)
                ORDER BY number""",
                [release_id],
            ).fetchall()
        return dict(rows)

    def save_learnt(self, service: str, learnt: Learnt) -> None:
        """Store what calibration learnt of a service's instances; the judge uses it from now on."""
        values = [service, *(getattr(learnt, name) for name in _LEARNT)]
        with self.file.opened(write=True) as connection:
            connection.execute(
                f"""INSERT OR REPLACE INTO learnt (service, {", ".join(_LEARNT)})
                VALUES ({", ".join("?" * len(values))})""",
                values,
            )

    def learnt(self, service: str) -> Learnt | None:
        """Read what calibration learnt of a service's instances; `None` if nothing is stored."""
        with self.file.opened() as connection:
            query = f"SELECT {', '.join(_LEARNT)} FROM learnt WHERE service = ?"
            rows = connection.execute(query, [service]).fetchall()
        return Learnt(*rows[0]) if rows else None

    # -------------------------------------------------------------- intents

    def request(self, draft: Intent, *, consents: bool = False) -> Intent:
        """Store the intent `draft` and return it; a repeated request returns the intent that is already in effect.

        The intent is approved at once if it needs no approval, or only one and the requester gives it (`consents`). A
        hold or a rollback cancels promotions of the release that were not executed yet. A rollback also undoes
        promotions that a worker has begun since `draft` was made.
        """
        with self.file.opened(write=True) as connection:
            intents.expire(connection, draft.requested_at)
            earlier = intents.select(connection, "WHERE release = ?", [draft.release])
            goes_back = draft.action not in PROMOTING
            draft = stopping.join_rollout(connection, draft) if goes_back else draft
            find_repeated = stopping.find_repeated if draft.rollout else intents.find_in_effect
            in_effect = find_repeated(connection, earlier, draft)
            if in_effect is not None:
                audit.add(connection, draft.requester, intents.REPEATED, draft.release, in_effect.id, draft.action)
                stopping.stop_rollout(connection, replace(in_effect, requester=draft.requester, reason=draft.reason))
                return in_effect
            if goes_back:
                stopping.cancel_promotions(connection, draft)
            if draft.action is Action.ROLLBACK:
                draft = replace(draft, undoes=(*stopping.list_begun(earlier, draft.undoes), *draft.undoes))
            intent = intents.add(connection, draft, earlier_count=len(earlier), consents=consents)
            stopping.stop_rollout(connection, intent)
            return intent

    def intent(self, intent_id: str) -> Intent:
        """Read an intent. Raises UnknownName."""
        with self.file.opened() as connection:
            return intents.read(connection, intent_id)

    def intents(self, release: str | None = None) -> tuple[Intent, ...]:
        """Read the intents, the oldest first; with `release` (a name), only those of that release."""
        with self.file.opened() as connection:
            return intents.select(connection, "WHERE ? IS NULL OR release = ?", [release, release])

    def waiting(self) -> tuple[Intent, ...]:
        """Read the intents that wait for a worker or whose execution was begun, the oldest first."""
        with self.file.opened() as connection:
            return intents.select(connection, "WHERE state IN (?, ?)", [IntentState.APPROVED, IntentState.SENT])

    def approve(self, intent_id: str, person: Person) -> Intent:
        """Add a person's approval; with the last approval that it needs, the intent itself becomes approved.

        Returns the intent as it is now; a second approval of a person changes nothing. Raises UsageError if the intent
        cannot be approved, or not by this person.
        """
        with self.file.opened(write=True) as connection:
            intent = intents.read(connection, intent_id)
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
            approvals = intents.read_approvals(connection, intent.id)
            if any(are_same_person(names, (*approval.names, approval.person)) for approval in approvals):
                audit.add(
                    connection, person.name, intents.REPEATED, intent.release, intent.id, f"approve {intent.action}"
                )
                return intent
            intents.add_approval(connection, intent, person.name, person.names)
            if len(intents.read_approvals(connection, intent.id)) < intent.approvals_needed:
                return intent
            approved = intents.move(connection, intent, IntentState.APPROVED, "")
            stopping.stop_rollout(connection, approved)
            return approved

    def approvals(self, intent_id: str | None = None) -> tuple[Approval, ...]:
        """Read the approvals of an intent; `None`: of all intents."""
        with self.file.opened() as connection:
            return intents.read_approvals(connection, intent_id)

    def cancel(self, intent_id: str, actor: str, reason: str) -> Intent:
        """Cancel an intent that was not executed yet. Raises UsageError."""
        with self.file.opened(write=True) as connection:
            intent = intents.read(connection, intent_id)
            if intent.state not in intents.OPEN:
                raise UsageError(f"{intent.id} is {intent.state}, so there is nothing to cancel")
            return intents.end(connection, intent, IntentState.CANCELLED, actor, reason)

    def expire(self, now: datetime) -> None:
        """Mark intents that were not executed in time as expired."""
        # Look first: if no intent is overdue, the store need not be opened to write, which would lock it.
        with self.file.opened() as connection:
            overdue = intents.select(connection, intents.OVERDUE, [*intents.OPEN, to_text(now)])
        if overdue:
            with self.file.opened(write=True) as connection:
                intents.expire(connection, now)

    @contextmanager
    def alone(self, services: Sequence[str], wait_s: float = 0.0) -> Iterator[bool]:
        """Lock services for the body of the `with` statement; yields whether all were locked within `wait_s` seconds.

        So no two processes execute intents of a service at the same time. The operating system releases the locks of a
        process that was killed, so its intents can be continued at once. Raises StoreError.
        """
        with locked_services(self.file, services, wait_s) as is_locked:
            yield is_locked

    def claim(self, intent: Intent, worker: str) -> bool:
        """Claim an intent for execution by a worker, and return whether that succeeded.

        It fails if the stored intent is final, or differs from `intent`: of several workers, one succeeds.
        """
        with self.file.opened(write=True) as connection:
            stored = intents.read(connection, intent.id)
            is_changed = (stored.state, stored.claimed_by) != (intent.state, intent.claimed_by)
            if is_changed or stored.state in FINAL_STATES:
                return False
            intents.move(connection, stored, IntentState.SENT, worker)
            audit.add(connection, worker, "claimed", stored.release, stored.id, stored.action)
            return True

    def reopen(self, intent_id: str, actor: str, text: str) -> Intent:
        """Reopen an intent that failed, or whose result is unknown, so that a worker executes it again.

        A failed hook of the intent changed nothing, so it becomes `approved`. One with unknown outcome becomes
        `requested`, from which the worker knows that it may have been done before. Hooks that announce the end of the
        intent are executed again, too. `text` goes into the audit trail. Raises UsageError for an intent in another
        state.
        """
        with self.file.opened(write=True) as connection:
            intent = intents.read(connection, intent_id)
            if intent.state not in _RETRIED_STATES:
                raise UsageError(f"{intent.id} is {intent.state}, so there is nothing to try again")
            update = "UPDATE deliveries SET state = ? WHERE intent = ?"
            for before, after in _RETRIED_STATES.items():
                connection.execute(f"{update} AND state = ?", [after, intent.id, before])
            connection.execute(f"{update} AND event = ?", [IntentState.APPROVED, intent.id, ANNOUNCE])
            audit.add(connection, actor, "retried", intent.release, intent.id, text)
            return intents.move(connection, intent, IntentState.APPROVED, "")

    def settle(self, intent_id: str, state: IntentState, actor: str, text: str) -> None:
        """Store how an intent ended: its final state, by whom and why."""
        with self.file.opened(write=True) as connection:
            intents.end(connection, intents.read(connection, intent_id), state, actor, text)

    def add_done(self, done: Intent, deliveries: Sequence[Delivery], text: str, request: str = "") -> bool:
        """Store an action that was executed without this file: as an intent that has ended, with its hooks.

        `done`: has the final state and a key of its own; it gets an id here. `text`: how it was done, for the audit
        trail. `request`: key of the stored request that was executed; if that has not ended yet, it ends by this.
        Promotions of its release that were requested before and wait are cancelled. Returns whether it was stored: it
        is there already if another process was faster.
        """
        with self.file.opened(write=True) as connection:
            if intents.select(connection, "WHERE key = ?", [done.key]):
                return False
            requested = intents.select(connection, "WHERE key = ? AND key <> ''", [request])
            if requested and requested[0].state not in FINAL_STATES:
                intent = requested[0]
            elif requested and any(
                done.key.removeprefix("evt_") in row.text for row in audit.read(connection, done.release)
            ):
                return False  # the request was ended by this already
            else:
                done = stopping.join_rollout(connection, done)
                intent = intents.add(connection, done, earlier_count=0, consents=False)
            for delivery in deliveries:
                intents.put_delivery(connection, replace(delivery, intent=intent.id))
                audit.add(
                    connection,
                    done.requester,
                    f"hook {delivery.outcome.state}",
                    done.release,
                    intent.id,
                    intents.describe_delivery(delivery),
                )
            ended = intents.end(connection, intent, done.state, done.requester, text)
            stopping.cancel_promotions(connection, done, before=done.requested_at)
            stopping.stop_rollout(connection, ended)
            return True

    def deliver(self, delivery: Delivery, release: str, actor: str) -> None:
        """Store the state of one hook of an intent; the attempts of `delivery` are added to the stored ones.

        `release` and `actor` go into the audit trail.
        """
        outcome = delivery.outcome
        with self.file.opened(write=True) as connection:
            intents.put_delivery(connection, delivery)
            text = intents.describe_delivery(delivery)
            audit.add(connection, actor, f"hook {outcome.state}", release, delivery.intent, text)

    def deliveries(self, intent_id: str | None = None) -> tuple[Delivery, ...]:
        """Read the states of the hooks of an intent; `None`: of all intents."""
        with self.file.opened() as connection:
            return intents.read_deliveries(connection, intent_id)

    # -------------------------------------------------------------- restarts

    def restarted_at(self) -> datetime | None:
        """Read when decisions were lost up to; `None`: never. Verdicts from before are acted on no more."""
        with self.file.opened() as connection:
            restart = restarts.read_latest(connection)
        return restart.at if restart else None

    # -------------------------------------------------------------- audit trail

    def override_of(self, release: str, data_hash: str) -> Mapping[str, str] | None:
        """Read who last promoted a release against its verdict on these data, and why; `None` if that did not happen.

        `data_hash` identifies the data (`StoredData.content_hash`). Returns texts: `by`, `approved by`, `reason`, `at`.
        """
        with self.file.opened() as connection:
            overrides = intents.read_overrides(connection, release, data_hash)
        return list(overrides.values())[-1] if overrides else None

    def note(self, actor: str, event: str, release: str, text: str, intent: str = "") -> AuditRow:
        """Add a row to the audit trail: a note on a release, or a refusal."""
        with self.file.opened(write=True) as connection:
            return audit.add(connection, actor, event, release, intent, text)

    def audit(self, release: str | None = None) -> tuple[AuditRow, ...]:
        """Read the audit trail, the oldest first; with `release`, only its rows."""
        with self.file.opened() as connection:
            return audit.read(connection, release)

    def endings(self) -> Mapping[str, AuditRow]:
        """Read the newest row of the audit trail that says how an intent ended, by the id of the intent."""
        with self.file.opened() as connection:
            return {row.intent: row for row in audit.read_events(connection, sorted(FINAL_STATES))}

    def verify_audit(self) -> str:
        """Check the audit trail and all records that it covers; return the hash of its last row.

        Raises StoreError if a row, a verdict, a request or an approval is not what was written.
        """
        with self.file.opened() as connection:
            head = audit.verify(audit.read(connection))
            covering.verify_records(connection)
        return head

    def verify_release(self, release: str) -> None:
        """Check the audit trail, and what it covers of one release: its verdicts, requests and approvals.

        Raises StoreError as `verify_audit`.
        """
        with self.file.opened() as connection:
            audit.verify(audit.read(connection))
            covering.verify_records(connection, release)


def _select_verdicts(connection: Connection, clauses: str, parameter: str | int) -> tuple[StoredVerdict, ...]:
    """Read verdicts as they were saved, and who promoted against them.

    `clauses`: the end of the query (JOIN, WHERE, ORDER, LIMIT), where the table of verdicts is `v`, with one
    `parameter`.
    """
    rows = connection.execute(
        f"SELECT v.release, v.word, v.judged_at, v.verdict, v.hash FROM verdicts AS v {clauses}", [parameter]
    ).fetchall()
    override_by_hash = intents.read_overrides(connection)  # hash of a verdict → by whom, when and why it was overridden
    verdicts = []
    for release, word, judged_at, verdict_json, verdict_hash in rows:
        override = override_by_hash.get(verdict_hash)
        verdicts.append(StoredVerdict(release, word, to_time(judged_at), verdict_json, override))
    return tuple(verdicts)
