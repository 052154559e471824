"""The steps of an intent: the hooks of its event in their order, and what is taken back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from evaluator.hooks import HookContext, Step, describe_current, make_step
from evaluator.intents.checking import hash_verdict
from evaluator.policy.promotion import PromotionRules
from evaluator.records import Release, StoredVerdict
from evaluator.records.intents import ANNOUNCE, UNDO, Action, Delivery, HookEntry, Intent, IntentState, Person

_MAYBE_DONE = (IntentState.ACKNOWLEDGED, IntentState.UNKNOWN, IntentState.SENT)


@dataclass(frozen=True, slots=True)
class PlannedHook:
    """One hook in its place. An undo restores `earlier`, as the hook of the last promotion found it."""

    position: int
    event: str
    entry: HookEntry
    step: Step
    earlier: Any = None

    @property
    def description(self) -> str:
        """What it will do, for the person who confirms it."""
        description = self.step.hook.describe()
        return f"takes back: {description}" if self.event == UNDO else description


@dataclass(frozen=True, slots=True)
class Preview:
    """One hook as it is shown to the person who confirms it."""

    event: str
    kind: str
    description: str
    now: str
    """The current value that it would change; empty where there is nothing to read."""
    required: bool


def plan_steps(
    rules: PromotionRules, action: Action, undone: Sequence[Delivery] = ()
) -> tuple[tuple[PlannedHook, ...], tuple[str, ...]]:
    """The hooks that an action executes, and in words what of the last promotion cannot be taken back.

    `undone`: deliveries that a rollback takes back, in the order in which it does. Raises PolicyError, UnknownName or
    HookError for a hook that cannot be made any more.
    """
    event = Action.PROMOTE if action is Action.BREAK_GLASS else action
    entries: list[tuple[str, HookEntry, Any]] = []
    irreversible: list[str] = []
    changed = [delivery for delivery in undone if delivery.event != ANNOUNCE and delivery.outcome.state in _MAYBE_DONE]
    for entry in rules.hooks.get(event, ()):
        if entry.kind != UNDO:
            entries.append((event, entry, None))
            continue
        for delivery in changed:
            earlier = HookEntry(delivery.hook, json.loads(delivery.options))
            hook = make_step(earlier.kind, earlier.options).hook
            if hook.can_undo():
                entries.append((UNDO, earlier, json.loads(delivery.outcome.undo) if delivery.outcome.undo else None))
            else:
                irreversible.append(f"{hook.kind} ({hook.describe()}) cannot be undone")
    entries += [(ANNOUNCE, entry, None) for entry in rules.hooks.get(ANNOUNCE, ())]
    planned = (
        PlannedHook(position, name, entry, make_step(entry.kind, entry.options), earlier)
        for position, (name, entry, earlier) in enumerate(entries)
    )
    return tuple(planned), tuple(irreversible)


def make_context(
    intent: Intent, release: Release, verdict: StoredVerdict | None, hook: PlannedHook, *, outcome: str = ""
) -> HookContext:
    """The context of one hook of an intent. Each hook has a key of its own: two may go to one receiver."""
    action = Action.PROMOTE if hook.event == UNDO or intent.action is Action.BREAK_GLASS else intent.action
    return HookContext(
        release=release.id,
        action=cast("Any", action.value),
        verdict=verdict.word if verdict else "",
        verdict_hash=hash_verdict(verdict) if verdict else "",
        baseline=_versions(release, "baseline"),
        canary=_versions(release, "canary"),
        requester=intent.requester,
        reason=intent.reason,
        idempotency_key="-".join([intent.key, str(hook.position), *([outcome] if outcome else [])]),
        expires_at=intent.expires_at,
        outcome=outcome,
    )


def _versions(release: Release, arm: str) -> str:
    """The version of the one service, or `name=version` of each."""
    services = release.services
    if len(services) == 1:
        return str(getattr(services[0], arm))
    return ",".join(f"{service.name}={getattr(service, arm)}" for service in services)


def preview_steps(
    planned: Sequence[PlannedHook], release: Release, verdict: StoredVerdict | None, person: Person, until: datetime
) -> tuple[Preview, ...]:
    """What would happen, in order, with the current values. Changes nothing."""
    draft = Intent("", "preview", release.id, Action.PROMOTE, person.name, "", "", "", "", until, until)
    return tuple(
        Preview(
            hook.event,
            hook.entry.kind,
            hook.description,
            describe_current(hook.step, make_context(draft, release, verdict, hook)),
            hook.step.required,
        )
        for hook in planned
    )
