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

_MAYBE_DONE_STATES = (IntentState.ACKNOWLEDGED, IntentState.UNKNOWN, IntentState.SENT)
"""States of a hook that changed something, or may have."""


@dataclass(frozen=True, slots=True)
class PlannedHook:
    """One hook in its place among the hooks of an action."""

    position: int
    """From 0."""
    event: str
    """promote, hold, rollback, announce; or `undo`: it takes back what the hook of a promotion did."""
    entry: HookEntry
    step: Step
    earlier: Any = None
    """For `undo`: the value to restore, as the hook of the promotion read it; None: it read none."""

    @property
    def description(self) -> str:
        """What the hook will do, for the person who confirms it."""
        description = self.step.hook.describe()
        return f"takes back: {description}" if self.event == UNDO else description


@dataclass(frozen=True, slots=True)
class Preview:
    """One hook as it is shown to the person who confirms it."""

    event: str
    kind: str
    description: str
    current_value: str
    """The value that it would change; empty where there is nothing to read."""
    required: bool


def plan_steps(
    rules: PromotionRules, action: Action, to_undo: Sequence[Delivery] = ()
) -> tuple[tuple[PlannedHook, ...], tuple[str, ...]]:
    """Plan the hooks of an action, in order: those of its event, then those that announce it.

    `to_undo`: executed hooks of earlier promotions, in the order of undoing; they take the place of the entry `undo` in
    the policy's hooks for a rollback. Returns the hooks, and a sentence about each hook that cannot be undone. Raises
    PolicyError, UnknownName or HookError for a hook that cannot be made any more.
    """
    # A promotion against the verdict (break-glass) has the hooks of a promotion.
    event = Action.PROMOTE if action is Action.BREAK_GLASS else action
    entries: list[tuple[str, HookEntry, Any]] = []  # event, hook, earlier value to restore
    irreversible: list[str] = []
    for entry in rules.hooks.get(event, ()):
        if entry.kind != UNDO:
            entries.append((event, entry, None))
            continue
        for delivery in to_undo:
            # A message stays sent, and a hook that did nothing leaves nothing to undo.
            if delivery.event == ANNOUNCE or delivery.outcome.state not in _MAYBE_DONE_STATES:
                continue
            # Undone by the options with which it was executed: those in the policy may have changed.
            executed_entry = HookEntry(delivery.hook, json.loads(delivery.options))
            hook = make_step(executed_entry.kind, executed_entry.options).hook
            if hook.can_undo():
                earlier_value = json.loads(delivery.outcome.undo) if delivery.outcome.undo else None
                entries.append((UNDO, executed_entry, earlier_value))
            else:
                irreversible.append(f"{hook.kind} ({hook.describe()}) cannot be undone")
    entries += [(ANNOUNCE, entry, None) for entry in rules.hooks.get(ANNOUNCE, ())]
    planned = (
        PlannedHook(position, event_name, entry, make_step(entry.kind, entry.options), earlier_value)
        for position, (event_name, entry, earlier_value) in enumerate(entries)
    )
    return tuple(planned), tuple(irreversible)


def make_context(
    intent: Intent, release: Release, verdict: StoredVerdict | None, hook: PlannedHook, *, outcome: str = ""
) -> HookContext:
    """Build what a hook of an intent is given: it fills in templates, and goes to receivers and programs.

    `verdict`: the newest of the release; None: it has none. `outcome`: how the action ended (acknowledged, failed or
    unknown), for a hook that announces it; else empty.
    """
    # For hooks, a promotion against the verdict (break-glass) is a promotion. A rollback undoes only hooks of
    # promotions: each gets the action that it executed.
    is_promotion = hook.event == UNDO or intent.action is Action.BREAK_GLASS
    action = Action.PROMOTE if is_promotion else intent.action
    # The key is the same in each attempt, but differs between hooks: two of them may call the same receiver.
    key_parts = [intent.key, str(hook.position)]
    if outcome:
        key_parts.append(outcome)
    return HookContext(
        release=release.id,
        action=cast("Any", action.value),  # one of the words that a hook knows
        verdict=verdict.word if verdict else "",
        verdict_hash=hash_verdict(verdict) if verdict else "",
        baseline=_write_versions(release, "baseline"),
        canary=_write_versions(release, "canary"),
        requester=intent.requester,
        reason=intent.reason,
        idempotency_key="-".join(key_parts),
        expires_at=intent.expires_at,
        outcome=outcome,
    )


def _write_versions(release: Release, arm: str) -> str:
    """Write the version of the release's service in an arm (`baseline`, `canary`); of several: `name=version,…`."""
    services = release.services
    if len(services) == 1:
        return str(getattr(services[0], arm))
    return ",".join(f"{service.name}={getattr(service, arm)}" for service in services)


def preview_steps(
    planned: Sequence[PlannedHook], release: Release, verdict: StoredVerdict | None, person: Person, until: datetime
) -> tuple[Preview, ...]:
    """Describe the hooks of an action in order, each with the current value that it would change. Changes nothing.

    `person`: who looks at it. Values are read until the time `until`.
    """
    # Reading a value needs the context of an intent, which does not exist yet. Of this one, only the time matters.
    draft = Intent(
        id="",
        key="preview",
        release=release.id,
        action=Action.PROMOTE,
        requester=person.name,
        reason="",
        verdict_hash="",
        data_hash="",
        policy_hash="",
        requested_at=until,
        expires_at=until,
    )
    return tuple(
        Preview(
            event=hook.event,
            kind=hook.entry.kind,
            description=hook.description,
            current_value=describe_current(hook.step, make_context(draft, release, verdict, hook)),
            required=hook.step.required,
        )
        for hook in planned
    )
