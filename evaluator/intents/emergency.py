"""Going back without any database: what promotions changed stands in the journal, and is undone from there.

Records of the journal, by their key `kind`:

- `hook`: a hook of a promotion, before it acts and again with its outcome; the last one of a hook counts;
- `closed`: a promotion was rolled back, so its hooks need not be undone any more;
- `acted`: a rollback or a hold that was executed from the journal, with the outcome of each hook;
- `recorded`: such an action is in the audit trail now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from evaluator.errors import EvaluatorError, Refused, StoreError
from evaluator.hooks import run_hook, undo_hook
from evaluator.intents.people import may_ask
from evaluator.intents.steps import make_context, plan_steps
from evaluator.policy.promotion import PromotionRules
from evaluator.policy.selection import choose_policy
from evaluator.records import Release, Service
from evaluator.records.intents import (
    ANNOUNCE,
    PROMOTING,
    UNDO,
    Action,
    Delivery,
    HookOutcome,
    Intent,
    IntentState,
    Person,
)
from evaluator.store import Store
from evaluator.store.journal import Journal, Record, find_journal

_MOST_PROMOTIONS = 5
"""Newest promotions of a service that can be undone from the journal once it was full."""
_TIME_S = 600.0
"""How long an action from the journal may take."""


# ------------------------------------------------------------------ what is written while promotions are executed


def record_hook(journal: Journal, intent: Intent, release: Release, delivery: Delivery) -> None:
    """Write a hook of a promotion, with what undoing it needs. Raises StoreError if no copy can be written.

    `release`: with the versions that the hook gets.
    """
    record = {
        "kind": "hook",
        "at": _write_now(),
        "intent": intent.id,
        "key": intent.key,
        "release": release.id,
        "services": [[service.name, service.baseline, service.canary] for service in release.services],
        "position": delivery.position,
        "hook": delivery.hook,
        "event": delivery.event,
        "options": delivery.options,
        "undo": delivery.outcome.undo,
        "state": delivery.outcome.state.value,
    }
    journal.append(record, keep_needed)


def record_closed(journal: Journal, intents: Sequence[str]) -> None:
    """Write that promotions were rolled back."""
    if intents:
        journal.append({"kind": "closed", "at": _write_now(), "intents": list(intents)}, keep_needed)


def keep_needed(records: Sequence[Record]) -> list[Record]:
    """Choose the records that may still be needed: of actions that are in no audit trail, and of hooks to be undone.

    Those are the last record of each hook that was not undone, of the newest promotions of each service: most
    promotions are never rolled back, and must not fill the journal.
    """
    closed = _list_closed(records)
    recorded = {record["action_id"] for record in records if record["kind"] == "recorded"}
    last_by_hook = {(record["intent"], record["position"]): record for record in records if record["kind"] == "hook"}
    intents_by_services: dict[object, dict[str, None]] = {}  # the oldest intent first
    for record in records:
        if record["kind"] == "hook" and record["intent"] not in closed:
            services = tuple(name for name, *_ in record["services"]) or record["release"]
            intents_by_services.setdefault(services, {})[record["intent"]] = None
    newest = {intent for intents in intents_by_services.values() for intent in list(intents)[-_MOST_PROMOTIONS:]}
    needed = [record for record in last_by_hook.values() if record["intent"] in newest]
    return needed + [record for record in records if record["kind"] == "acted" and record["action_id"] not in recorded]


def _list_closed(records: Sequence[Record]) -> set[str]:
    """List the promotions that were rolled back, through the database or from the journal."""
    closed = {intent for record in records if record["kind"] == "closed" for intent in record["intents"]}
    return closed | {intent for record in records if record["kind"] == "acted" for intent in record["undone"]}


def _write_now() -> str:
    """Write this moment as texts of the journal have it: they sort as times do."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


# ------------------------------------------------------------------ acting from the journal


def load_rules(
    find: Callable[[], Path | None], release_id: str, store: Path, say: Callable[[str], None]
) -> PromotionRules:
    """Load the policy's rules of promotion without a database: by the services that the journal has of a release.

    `find`: finds the policy. A policy that cannot be read is no obstacle: `say` gets the cause, and the built-in rules
    hold, by which a rollback undoes what promotions changed.
    """
    services: list[str] = []
    with suppress(StoreError):
        services = [service.name for service in _find_to_undo(find_journal(store).read(), release_id)[1].services]
    try:
        return choose_policy(find(), lambda: services or [""]).promotion
    except EvaluatorError as error:
        say(f"the policy cannot be used, so only what promotions changed is undone: {error.message}")
        return choose_policy(None).promotion


@dataclass(frozen=True, slots=True)
class Acted:
    """What was done from the journal."""

    state: IntentState
    lines: tuple[str, ...]
    """A sentence about each hook."""
    by_hand: tuple[str, ...] = ()
    """What is left to do by hand: a sentence or a command for each hook that did not go back."""


def act_from_journal(
    journal: Journal,
    rules: PromotionRules,
    person: Person,
    action: Action,
    release_id: str,
    reason: str,
    say: Callable[[str], None],
) -> Acted:
    """Roll back or hold a release without a database, and write into the journal what was done.

    `rules`: those of the policy. Hooks of promotions are undone in the same order as otherwise, and hooks of the policy
    for this action are executed, too. Approvals are not asked for: they could not be kept, and going back must not wait
    for them. `say` gets a sentence before each hook. Raises Refused if the person may not do this, or if there is
    nothing to undo, and StoreError if no copy of the journal can be read.
    """
    if action in PROMOTING:
        raise Refused(f"{action.label} needs the database")
    if not may_ask(rules, person.names, action):
        raise Refused(f"{person.name} may not {action.label} by the roles of the policy")
    records = journal.read()
    to_undo, release, promotions = _find_to_undo(records, release_id)
    intent = _draft(action, person, release.id, reason)
    planned, irreversible = plan_steps(
        rules, action, to_undo if action is Action.ROLLBACK else (), release, dict.fromkeys(promotions, release)
    )
    if action is Action.ROLLBACK and all(hook.event == ANNOUNCE for hook in planned):
        why = "; ".join(irreversible) or "no promotion of it is known"
        raise Refused(
            f"the journal has no hook of {release_id} to undo: {why}",
            hint="if traffic must go back, change the router by hand",
        )
    outcomes: list[dict[str, Any]] = []
    by_hand: list[str] = []
    for hook in planned:
        state = _overall([outcome["state"] for outcome in outcomes])
        context = make_context(intent, release, None, hook, outcome=state.value if hook.event == ANNOUNCE else "")
        say(hook.describe(context))
        result = undo_hook(hook.step, context, hook.earlier) if hook.event == UNDO else run_hook(hook.step, context)
        outcomes.append(
            {
                "position": hook.position, "hook": hook.entry.kind, "event": hook.event, "state": result.state,
                "text": result.did, "options": json.dumps(dict(hook.entry.options), sort_keys=True),
            }
        )  # fmt: skip
        if result.state != "acknowledged" and hook.event != ANNOUNCE:
            by_hand.append(f"{hook.describe(context)}: {result.did}")
    state = _overall([outcome["state"] for outcome in outcomes if outcome["event"] != ANNOUNCE])
    undone = promotions if action is Action.ROLLBACK and state is IntentState.ACKNOWLEDGED else ()
    record = {
        "kind": "acted", "at": _write_now(), "action_id": f"{release_id} {_write_now()}", "action": action.value,
        "release": release_id, "person": person.name, "names": list(person.names), "reason": reason,
        "state": state.value, "undoes": list(promotions), "undone": list(undone), "hooks": outcomes,
    }  # fmt: skip
    lines = [f"{outcome['event']}: {outcome['hook']}  {outcome['state']}: {outcome['text']}" for outcome in outcomes]
    try:
        journal.append(record, keep_needed)
    except EvaluatorError as error:  # what was done stays done
        lines.append(f"this could not be written into the journal: {error.message}")
    return Acted(state, (*lines, *irreversible), tuple(by_hand))


def _overall(states: Sequence[str]) -> IntentState:
    """The state of an action from those of its hooks."""
    for state in (IntentState.UNKNOWN, IntentState.FAILED):
        if state in states:
            return state
    return IntentState.ACKNOWLEDGED


def _find_to_undo(records: Sequence[Record], release_id: str) -> tuple[tuple[Delivery, ...], Release, tuple[str, ...]]:
    """Find what a rollback of a release undoes: hooks in the order of undoing, the release, ids of the promotions.

    The newest promotion comes first, of each the last hook. The release has the versions of the newest promotion.
    """
    closed = _list_closed(records)
    last_by_hook: dict[tuple[str, int], Record] = {}
    promotions: dict[str, None] = {}  # in the order in which they began
    services: Sequence[Sequence[str]] = ()
    for record in records:
        if record["kind"] == "hook" and record["release"] == release_id and record["intent"] not in closed:
            last_by_hook[record["intent"], record["position"]] = record
            promotions[record["intent"]] = None
            services = record["services"]
    newest_first = tuple(reversed(promotions))
    deliveries = [_to_delivery(record) for record in last_by_hook.values()]
    ordered = sorted(deliveries, key=lambda delivery: (newest_first.index(delivery.intent), -delivery.position))
    return tuple(ordered), Release(release_id, tuple(Service(*service) for service in services)), newest_first


def _to_delivery(record: Record) -> Delivery:
    """Make the delivery that a record of the kind `hook` describes."""
    outcome = HookOutcome(IntentState(record["state"]), "", record["undo"])
    at = datetime.fromisoformat(record["at"])
    return Delivery(
        record["intent"], record["position"], record["hook"], 1, outcome, at, record["event"], record["options"]
    )


def _draft(action: Action, person: Person, release: str, reason: str) -> Intent:
    """Make the intent of an action that no database has."""
    now = datetime.now(UTC)
    return Intent(
        id="", key="", release=release, action=action, requester=person.name, reason=reason, verdict_hash="",
        data_hash="", policy_hash="", requested_at=now, expires_at=now + timedelta(seconds=_TIME_S),
        requester_names=person.names,
    )  # fmt: skip


# ------------------------------------------------------------------ into the audit trail


def record_actions(store: Store, journal: Journal) -> int:
    """Store actions that were executed from the journal as requests, with their hooks; returns how many.

    So promotions that they undid count as rolled back, and a hold or a rollback stops promotions that were requested
    before. Nothing happens if no copy of the journal can be read.
    """
    try:
        records = journal.read()
    except EvaluatorError:
        return 0
    recorded = {record["action_id"] for record in records if record["kind"] == "recorded"}
    waiting = [record for record in records if record["kind"] == "acted" and record["action_id"] not in recorded]
    for record in waiting:
        at = datetime.fromisoformat(record["at"])
        intent = Intent(
            id="", key="", release=record["release"], action=Action(record["action"]), requester=record["person"],
            reason=record["reason"], verdict_hash="", data_hash="", policy_hash="", requested_at=at,
            expires_at=at + timedelta(seconds=_TIME_S), state=IntentState(record["state"]),
            requester_names=tuple(record["names"]), undoes=tuple(record["undoes"]),
        )  # fmt: skip
        deliveries = [_to_done(hook, at) for hook in record["hooks"]]
        text = f"without the database, from the journal ({record['action_id']})"
        # It is there already if the journal could not be written afterwards.
        if all(row.text != text for row in store.control.audit(record["release"])):
            store.control.add_done(intent, deliveries, text)
        with suppress(StoreError):
            journal.append({"kind": "recorded", "at": _write_now(), "action_id": record["action_id"]}, keep_needed)
    return len(waiting)


def _to_done(hook: Mapping[str, Any], at: datetime) -> Delivery:
    """Make the delivery of a hook that was executed from the journal; the store sets its intent."""
    outcome = HookOutcome(IntentState(hook["state"]), hook["text"])
    return Delivery("", hook["position"], hook["hook"], 1, outcome, at, hook["event"], hook["options"])
