"""What stands in the journal: hooks of promotions, and actions that went back without the database.

Records, by their key `kind`:

- `hook`: a hook of a promotion, or of a step of a rollout, before it acts and again with its outcome; the last one of a
  hook counts;
- `kept`: a step of a rollout begins that has no way back, which going back names;
- `teardown`: an act of a rollout that was promoted begins, which may take down the servers of the baseline;
- `closed`: promotions were rolled back through the database, so their hooks need not be undone any more;
- `began`: a rollback or a hold begins; from then on, no promotion of the release that was requested before goes on;
- `did`: a hook of such an action, before it acts and again with its outcome;
- `ended`: how such an action ended, and which promotions it undid;
- `recorded`: such an action is in the audit trail now.

A promotion is known by its key, which no other has, and not by its id: a store that was made again counts from i1.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from evaluator.errors import StoreError
from evaluator.intents.steps import Teardown
from evaluator.records import Release, Service
from evaluator.records.intents import Action, Delivery, HookOutcome, Intent, IntentState, Person
from evaluator.store.journal import Journal, Record, write_now

_MOST_PROMOTIONS = 5
"""Newest promotions of a service that can be undone from the journal once it was full."""
_MAY_BE_DONE = (IntentState.ACKNOWLEDGED, IntentState.UNKNOWN, IntentState.SENT)
"""States of a hook that changed something, or may have."""

_KEYS: Mapping[str, frozenset[str]] = {
    "hook": frozenset(
        ("at", "key", "release", "services", "position", "hook", "event", "options", "undo", "state", "process")
    ),
    "kept": frozenset(("at", "key", "release", "step", "rollout")),
    "teardown": frozenset(("at", "key", "release", "act", "rollout")),
    "closed": frozenset(("keys",)),
    "began": frozenset(
        (
            "at", "action_id", "action", "release", "services", "person", "names", "reason", "undoes", "request",
            "process",
        )
    ),
    "did": frozenset(("at", "action_id", "position", "hook", "event", "options", "state", "text", "of")),
    "ended": frozenset(("action_id", "state", "undone")),
    "recorded": frozenset(("action_id",)),
}  # fmt: skip
"""Keys of each kind of record."""

HookId = tuple[str, int]
"""Key of a promotion, and the position of a hook in it."""


# ------------------------------------------------------------------ what is written


def record_hook(
    journal: Journal, intent: Intent, release: Release, delivery: Delivery, words: Mapping[str, str]
) -> None:
    """Write a hook of a promotion, with what undoing it needs. Raises StoreError if no copy can be written.

    `release`: with the versions that the hook gets. `words`: those that a hook of a step of a rollout has alone.
    """
    if not intent.is_undoable:
        _record_kept(journal, intent, words)
        return
    record = {
        "kind": "hook",
        "at": write_now(),
        "key": intent.key,
        "release": release.id,
        "services": write_services(release),
        "position": delivery.position,
        "hook": delivery.hook,
        "event": delivery.event,
        "options": delivery.options,
        "undo": delivery.outcome.undo,
        "state": delivery.outcome.state.value,
        "process": name_process(),
    }
    if intent.rollout:  # what older versions do not know, and do not need
        record |= {"rollout": _name_rollout(intent), "words": dict(words)}
    journal.append(record, keep_needed)


def _record_kept(journal: Journal, intent: Intent, words: Mapping[str, str]) -> None:
    """Write that a step of a rollout acts that has no way back."""
    record = {"kind": "kept", "at": write_now(), "key": intent.key, "release": intent.release}
    journal.append({**record, "step": words.get("step", ""), "rollout": _name_rollout(intent)}, keep_needed)


def record_teardown(journal: Journal, intent: Intent, act: str) -> None:
    """Write that a step may take down the servers of the baseline. Raises StoreError if no copy can be written."""
    record = {"kind": "teardown", "at": write_now(), "key": intent.key, "release": intent.release, "act": act}
    journal.append({**record, "rollout": _name_rollout(intent)}, keep_needed)


def _name_rollout(intent: Intent) -> str:
    """Name the rollout of a step so that no other one has this name, also in a store that was made again."""
    return f"{intent.rollout} {intent.hooks_hash}"


def record_closed(journal: Journal, keys: Sequence[str]) -> None:
    """Write that promotions were rolled back."""
    if keys:
        journal.append({"kind": "closed", "at": write_now(), "keys": list(keys)}, keep_needed)


def record_began(journal: Journal, action: JournalAction) -> None:
    """Write that an action begins. Raises StoreError if no copy can be written."""
    record = {
        "kind": "began",
        "at": action.at,
        "action_id": action.id,
        "action": action.action.value,
        "release": action.release.id,
        "services": write_services(action.release),
        "person": action.person.name,
        "names": list(action.person.names),
        "reason": action.reason,
        "undoes": list(action.undoes),
        "request": action.request,
        "process": action.process,
    }
    journal.append(record, keep_needed)


def record_did(journal: Journal, action_id: str, delivery: Delivery, of: Sequence[HookId]) -> None:
    """Write the state of a hook of an action. `of`: the hooks that it undoes; empty: it is one of the policy."""
    record = {
        "kind": "did",
        "at": write_now(),
        "action_id": action_id,
        "position": delivery.position,
        "hook": delivery.hook,
        "event": delivery.event,
        "options": delivery.options,
        "state": delivery.outcome.state.value,
        "text": delivery.outcome.text,
        "of": list(of[0]) if of else None,
        "also": [list(hook) for hook in of[1:]],  # older versions do not know it
    }
    journal.append(record, keep_needed)


def record_ended(journal: Journal, action_id: str, state: IntentState, undone: Sequence[str]) -> None:
    """Write how an action ended, and the keys of the promotions that it undid."""
    record = {"kind": "ended", "at": write_now(), "action_id": action_id, "state": state.value, "undone": list(undone)}
    journal.append(record, keep_needed)


def record_recorded(journal: Journal, action_id: str) -> None:
    """Write that an action is in the audit trail."""
    journal.append({"kind": "recorded", "at": write_now(), "action_id": action_id}, keep_needed)


def write_services(release: Release) -> list[list[str]]:
    """Write the services of a release with their versions: name, baseline, canary."""
    return [[service.name, service.baseline, service.canary] for service in release.services]


def choose_known(records: Sequence[Record]) -> list[Record]:
    """Choose the records that this version knows: another one may have written others."""
    return [record for record in records if _KEYS.get(record.get("kind", ""), frozenset((None,))) <= record.keys()]


def _list_undone_hooks(record: Record) -> list[HookId]:
    """List the hooks that a hook of an action undoes."""
    return [(key, position) for key, position in ([record["of"]] if record["of"] else []) + record.get("also", [])]


def keep_needed(records: Sequence[Record]) -> list[Record]:
    """Choose the records that may still be needed, in their order.

    Those are all of actions that are in no audit trail; and of the newest promotions of each service that were not
    rolled back the last of each hook: most promotions are never rolled back, and must not fill the journal. All steps
    of a rollout count as one promotion: its first shift has the value that going back restores.
    """
    records = choose_known(records)
    closed = _list_closed(records)
    recorded = {record["action_id"] for record in records if record["kind"] == "recorded"}
    last_by_hook: dict[HookId, Record] = {}
    keys_by_services: dict[object, dict[str, set[str]]] = {}  # promotion or rollout, the oldest first → its keys
    for record in records:
        if record["kind"] == "hook" and record["key"] not in closed:
            last_by_hook[record["key"], record["position"]] = record
            services = tuple(name for name, *_ in record["services"]) or record["release"]
            of_services = keys_by_services.setdefault(services, {})
            of_services.setdefault(record.get("rollout", record["key"]), set()).add(record["key"])
    by_name = {  # of the newest of each service
        name: keys for groups in keys_by_services.values() for name, keys in list(groups.items())[-_MOST_PROMOTIONS:]
    }
    newest = {key for keys in by_name.values() for key in keys}
    hooks = {id(record) for hook, record in last_by_hook.items() if hook[0] in newest}
    return [
        record
        for record in records
        if id(record) in hooks
        or (record["kind"] in ("began", "did", "ended") and record["action_id"] not in recorded)
        or (record["kind"] == "did" and any(key in newest for key, _ in _list_undone_hooks(record)))
        or (record["kind"] in ("kept", "teardown") and record["rollout"] in by_name)
    ]


def _list_closed(records: Sequence[Record]) -> set[str]:
    """List the keys of the promotions that were rolled back, through the database or from the journal."""
    closed = {key for record in records if record["kind"] == "closed" for key in record["keys"]}
    return closed | {key for record in records if record["kind"] == "ended" for key in record["undone"]}


# ------------------------------------------------------------------ what is learnt from it


@dataclass(frozen=True, slots=True)
class JournalPromotion:
    """A promotion that was not rolled back."""

    key: str
    release: Release
    """With the versions that its hooks got."""
    hooks: Mapping[int, Record]
    """Position → the last record of each hook."""
    undone: frozenset[int]
    """Positions of the hooks that an action from the journal has undone, and that did not act since."""
    half_undone: frozenset[int]
    """Positions of the hooks whose undoing was begun by a process that did not live to write how it ended."""

    @property
    def changed_something(self) -> bool:
        """Whether a hook of it changed something that was not undone, or may have."""
        return any(
            IntentState(record["state"]) in _MAY_BE_DONE and position not in self.undone
            for position, record in self.hooks.items()
        )

    @property
    def rollout(self) -> str:
        """Name of the rollout of which it is a step; empty: of none."""
        return str(next((record.get("rollout", "") for record in self.hooks.values()), ""))

    def list_words(self) -> dict[HookId, Mapping[str, str]]:
        """List the words that its hooks have alone, by hook; empty for those of a promotion."""
        return {(self.key, position): record.get("words", {}) for position, record in self.hooks.items()}

    def list_running(self) -> list[Record]:
        """List the hooks of it that a living process is executing."""
        return [
            record
            for record in self.hooks.values()
            if record["state"] == IntentState.SENT.value and is_alive(record["process"])
        ]

    def to_deliveries(self) -> list[Delivery]:
        """Make the deliveries of the hooks that are not undone, the last one first; their intent is the key."""
        return [
            Delivery(
                self.key,
                position,
                record["hook"],
                1,
                HookOutcome(IntentState(record["state"]), "", record["undo"]),
                datetime.fromisoformat(record["at"]),
                record["event"],
                record["options"],
            )
            for position, record in sorted(self.hooks.items(), reverse=True)
            if position not in self.undone
        ]


def list_promotions(records: Sequence[Record]) -> list[JournalPromotion]:
    """List the promotions in the journal that were not rolled back, in the order in which they began."""
    records = choose_known(records)
    closed = _list_closed(records)
    hooks: dict[str, dict[int, Record]] = {}
    undoing: dict[HookId, IntentState] = {}  # how undoing a hook ended, if the hook has not acted since
    for record in records:
        if record["kind"] == "hook" and record["key"] not in closed:
            hooks.setdefault(record["key"], {})[record["position"]] = record
            undoing.pop((record["key"], record["position"]), None)
        elif record["kind"] == "did":
            undoing |= dict.fromkeys(_list_undone_hooks(record), IntentState(record["state"]))

    def list_undone(key: str, state: IntentState) -> frozenset[int]:
        """List the positions of the hooks of a promotion whose undoing has this state."""
        return frozenset(position for (of, position), its in undoing.items() if of == key and its is state)

    return [
        JournalPromotion(
            key,
            _to_release(max(its_hooks.values(), key=lambda record: record["at"])),
            its_hooks,
            list_undone(key, IntentState.ACKNOWLEDGED),
            list_undone(key, IntentState.SENT),
        )
        for key, its_hooks in hooks.items()
    ]


def list_kept(records: Sequence[Record], promotions: Sequence[JournalPromotion]) -> list[str]:
    """List, as sentences, the steps without a way back of the rollouts of which these promotions are steps."""
    rollouts = {promotion.rollout for promotion in promotions if promotion.rollout}
    kept = (record for record in choose_known(records) if record["kind"] == "kept")
    names = dict.fromkeys(record["step"] for record in kept if record["rollout"] in rollouts)
    return [f"{name} has no way back" for name in names]


def list_teardowns(records: Sequence[Record], promotions: Sequence[JournalPromotion]) -> list[Teardown]:
    """List the acts of the rollouts of these promotions that may have taken down the baseline."""
    rollouts = {promotion.rollout for promotion in promotions if promotion.rollout}
    undoable = {promotion.key for promotion in promotions}
    return [
        Teardown(record["act"], record["key"] if record["key"] in undoable else "")
        for record in choose_known(records)
        if record["kind"] == "teardown" and record["rollout"] in rollouts
    ]


def list_rollouts(journal: Journal, release: str) -> list[str]:
    """List the rollouts (`r1`) of a release whose steps are not rolled back, as far as the journal can be read."""
    with suppress(StoreError):
        own = (promotion for promotion in list_promotions(journal.read()) if promotion.release.id == release)
        return list(dict.fromkeys(promotion.rollout.split()[0] for promotion in own if promotion.rollout))
    return []


def list_releases(journal: Journal) -> list[str]:
    """List the releases that the journal has promotions of, also of those that were rolled back. Raises StoreError."""
    return list(dict.fromkeys(record["release"] for record in choose_known(journal.read()) if record["kind"] == "hook"))


@dataclass(frozen=True, slots=True)
class JournalAction:
    """A hold or a rollback that is executed, or was, without the database."""

    id: str
    action: Action
    release: Release
    person: Person
    reason: str
    at: str
    """When it began, as records have it."""
    undoes: tuple[str, ...] = ()
    """Keys of the promotions that it undoes, the newest first."""
    request: str = ""
    """Key of the request in the database that it executes; empty: there is none."""
    process: str = ""
    """Which process executes it (see `name_process`)."""
    hooks: Mapping[int, Record] = field(default_factory=dict)
    """Position → the last record of each hook that was begun."""
    state: IntentState | None = None
    """How it ended; None: it has not."""
    is_recorded: bool = False
    """Whether it is in the audit trail."""

    @property
    def is_open(self) -> bool:
        """Whether a living process executes it."""
        return self.state is None and is_alive(self.process)


def list_actions(records: Sequence[Record]) -> list[JournalAction]:
    """List the actions in the journal, in the order in which they began."""
    actions: dict[str, JournalAction] = {}
    for record in choose_known(records):
        if record["kind"] == "began":
            actions[record["action_id"]] = JournalAction(
                record["action_id"],
                Action(record["action"]),
                _to_release(record),
                Person(record["person"], tuple(record["names"])),
                record["reason"],
                record["at"],
                tuple(record["undoes"]),
                record["request"],
                record["process"],
            )
        elif action := actions.get(record.get("action_id", "")):
            if record["kind"] == "did":
                action = replace(action, hooks={**action.hooks, record["position"]: record})
            elif record["kind"] == "ended":
                action = replace(action, state=IntentState(record["state"]))
            elif record["kind"] == "recorded":
                action = replace(action, is_recorded=True)
            actions[action.id] = action
    return list(actions.values())


def explain_stop(actions: Iterable[JournalAction], intent: Intent) -> str:
    """Say which hold or rollback in the journal stops a promotion; empty if none does.

    Those are holds and rollbacks of its release that began after it was requested, or that are being executed.
    """
    requested_at = intent.requested_at.isoformat(timespec="microseconds")
    for action in actions:
        if action.release.id == intent.release and (action.is_open or action.at > requested_at):
            return f"{action.person.name} began a {action.action.label} of {intent.release} after it, from the journal"
    return ""


def to_done(action: JournalAction) -> list[Delivery]:
    """Make the deliveries of the hooks of an action; the store sets their intent.

    A hook that was begun by a process that did not live to write how it ended is unknown.
    """
    deliveries = []
    for position, record in sorted(action.hooks.items()):
        state, text = IntentState(record["state"]), record["text"]
        if state is IntentState.SENT:
            state, text = IntentState.UNKNOWN, "the process that executed it ended before it wrote the outcome"
        at = datetime.fromisoformat(record["at"])
        outcome = HookOutcome(state, text)
        deliveries.append(Delivery("", position, record["hook"], 1, outcome, at, record["event"], record["options"]))
    return deliveries


def overall_state(states: Iterable[IntentState]) -> IntentState:
    """Find the state of an action from those of its hooks."""
    known = set(states)
    for state in (IntentState.UNKNOWN, IntentState.FAILED):
        if state in known:
            return state
    return IntentState.ACKNOWLEDGED


def _to_release(record: Record) -> Release:
    """Make the release that a record names, with its services and versions."""
    return Release(record["release"], tuple(Service(*service) for service in record["services"]))


# ------------------------------------------------------------------ processes


def name_process() -> str:
    """Name this process so that others can tell whether it lives: machine, boot, number, and time of its start."""
    return _write_process(os.getpid())


def is_alive(process: str) -> bool:
    """Whether a process that `name_process` named lives; False for one of another machine: it cannot be seen."""
    try:
        named: Mapping[str, Any] = json.loads(process)
        os.kill(int(named["pid"]), 0)  # sends nothing
    except PermissionError:  # it is of another user
        pass
    except (ValueError, KeyError, TypeError, OSError, OverflowError):
        return False
    return _write_process(int(named["pid"])) == process


def _write_process(pid: int) -> str:
    """Write what identifies a process on this machine; without the time of its start if it does not live."""
    boot, started = "", ""
    with suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The name of the program, in parentheses, may contain anything; the time of the start is field 22.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        started = fields[19] if fields[0] not in ("Z", "X") else ""
    return json.dumps({"host": socket.gethostname(), "boot": boot, "pid": pid, "started": started}, sort_keys=True)
