"""The steps of an intent: the hooks of its event in their order, and what is taken back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

from evaluator.errors import EvaluatorError
from evaluator.hooks import HookContext, Step, describe_current, find_obstacle, make_step, write_by_hand
from evaluator.hooks.templates import fill_url
from evaluator.hooks.unusable import UnusableHook
from evaluator.intents.checking import hash_verdict
from evaluator.intents.versions import write_versions
from evaluator.policy.promotion import PromotionRules, check_link
from evaluator.records import Release, StoredVerdict
from evaluator.records.intents import ANNOUNCE, UNDO, Action, Delivery, HookEntry, Intent, IntentState

LINK_VARIABLE = "EVALUATOR_LINK"
"""Environment variable with the address that messages link to, such as that of a CI job."""

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
    promoted: Release | None = None
    """For `undo`: the release with the versions of the promotion that it takes back; None: those of the intent."""
    undoes: tuple[str, int] | None = None
    """For `undo`: the promotion and the position of the hook that it takes back."""
    link: str = ""
    """Address where people can read the verdict, with words of the context; empty: the policy has none."""

    def describe(self, context: HookContext) -> str:
        """Describe what the hook will do, for the person who confirms it, with the words of the context."""
        hook = self.step.hook
        if self.event != UNDO:
            return hook.describe(context)
        earlier_value = hook.describe_value(self.earlier)  # empty: it read none
        return hook.describe_undo(context) + (f"; restores {earlier_value}" if earlier_value else "")


@dataclass(frozen=True, slots=True)
class Preview:
    """One hook as it is shown to the person who confirms it."""

    event: str
    kind: str
    description: str
    current_value: str
    """The value that it would change; empty where there is nothing to read."""
    required: bool
    obstacle: str = ""
    """Why the hook would be refused now, because its target cannot serve; empty if it can."""


def plan_steps(
    rules: PromotionRules,
    action: Action,
    to_undo: Sequence[Delivery] = (),
    release: Release | None = None,
    promoted: Mapping[str, Release] | None = None,
) -> tuple[tuple[PlannedHook, ...], tuple[str, ...]]:
    """Plan the hooks of an action, in order: those of its event, then those that announce it.

    `to_undo`: executed hooks of earlier promotions, in the order of undoing; they take the place of the entry `undo` in
    the policy's hooks for a rollback. Returns the hooks, and a sentence about each hook that cannot be undone, which
    has the versions of `release` (None: their names). `promoted`: the id of each promotion → its release, with the
    versions that it promoted: its hooks are undone with these. A hook to undo that cannot be made any more is planned
    all the same, and fails. Raises PolicyError, UnknownName or HookError for another hook that cannot be made.
    """
    # A promotion against the verdict (break-glass) has the hooks of a promotion.
    event = Action.PROMOTE if action is Action.BREAK_GLASS else action
    # Event, hook, earlier value to restore, versions, which hook it undoes.
    entries: list[tuple[str, HookEntry, Any, Release | None, tuple[str, int] | None]] = []
    irreversible: list[str] = []
    for entry in rules.hooks.get(event, ()):
        if entry.kind != UNDO:
            entries.append((event, entry, None, None, None))
            continue
        for delivery in to_undo:
            # A message stays sent, and a hook that did nothing leaves nothing to undo.
            if delivery.event == ANNOUNCE or delivery.outcome.state not in _MAYBE_DONE_STATES:
                continue
            # Undone by the options with which it was executed: those in the policy may have changed.
            executed_entry = HookEntry(delivery.hook, json.loads(delivery.options))
            step = _make_step_to_undo(executed_entry)
            promoted_release = (promoted or {}).get(delivery.intent)
            if step.hook.can_undo():
                earlier_value = json.loads(delivery.outcome.undo) if delivery.outcome.undo else None
                undone_hook = (delivery.intent, delivery.position)
                entries.append((UNDO, executed_entry, earlier_value, promoted_release, undone_hook))
            else:
                hook = PlannedHook(
                    len(entries), delivery.event, executed_entry, step, promoted=promoted_release, link=rules.link
                )
                context = make_context(_draft_intent(action, release), release, None, hook) if release else None
                irreversible.append(f"{step.hook.kind} ({step.hook.describe(context)}) cannot be undone")
    entries += [(ANNOUNCE, entry, None, None, None) for entry in rules.hooks.get(ANNOUNCE, ())]
    planned = (
        PlannedHook(
            position,
            event_name,
            entry,
            _make_step_to_undo(entry) if event_name == UNDO else make_step(entry.kind, entry.options),
            earlier_value,
            promoted_release,
            undone_hook_id,
            rules.link,
        )
        for position, (event_name, entry, earlier_value, promoted_release, undone_hook_id) in enumerate(entries)
    )
    return tuple(planned), tuple(irreversible)


def _make_step_to_undo(entry: HookEntry) -> Step:
    """Make a hook that was executed; one that fails if it cannot be made any more: it must stop no other."""
    try:
        return make_step(entry.kind, entry.options)
    except EvaluatorError as error:
        return Step(UnusableHook(entry.kind, json.dumps(dict(entry.options), sort_keys=True), error.message))


def make_context(
    intent: Intent, release: Release, verdict: StoredVerdict | None, hook: PlannedHook, *, outcome: str = ""
) -> HookContext:
    """Build what a hook of an intent is given: it fills in templates, and goes to receivers and programs.

    `release`: with the versions that the hooks of the intent get (see `read_hook_release`); a hook that is undone gets
    those of its promotion. `verdict`: the newest of the release; None: it has none. `outcome`: how the action ended
    (acknowledged, failed or unknown), for a hook that announces it; else empty.
    """
    # For hooks, a promotion against the verdict (break-glass) is a promotion. A rollback undoes only hooks of
    # promotions: each gets the action that it executed.
    is_promotion = hook.event == UNDO or intent.action is Action.BREAK_GLASS
    action = Action.PROMOTE if is_promotion else intent.action
    # The key is the same in each attempt, but differs between hooks: two of them may call the same receiver.
    # A draft has no key.
    key_parts = [intent.key, str(hook.position)] if intent.key else []
    if outcome:
        key_parts.append(outcome)
    versions = hook.promoted or release
    is_promoting = action == Action.PROMOTE and hook.event != UNDO
    context = HookContext(
        release=release.id,
        action=cast("Any", action.value),  # one of the words that a hook knows
        verdict=verdict.word if verdict else "",
        verdict_hash=hash_verdict(verdict) if verdict else "",
        baseline=write_versions(versions, "baseline"),
        canary=write_versions(versions, "canary"),
        requester=intent.requester,
        reason=intent.reason,
        idempotency_key="-".join(key_parts),
        expires_at=intent.expires_at,
        outcome=outcome,
        service=",".join(service.name for service in release.services if service.name),
        share="1" if is_promoting else "",  # a promotion gives the candidate all; a share by itself goes nowhere back
    )
    return replace(context, link=make_link(hook.link, context.words()))


def make_link(template: str, words: Mapping[str, str]) -> str:
    """Make the address that a message links to; empty if there is none, or none that can be opened.

    The environment variable EVALUATOR_LINK has precedence over the `template` of the policy.
    """
    text = os.environ.get(LINK_VARIABLE) or template
    try:
        return fill_url(check_link(text), words) if text else ""
    except (ValueError, EvaluatorError):
        return ""


def list_by_hand(hook: PlannedHook, context: HookContext) -> list[str]:
    """List the lines for a shell by which a person does what a hook would do; a comment where none are known."""
    lines = write_by_hand(hook.step, context, undoes=hook.event == UNDO, earlier=hook.earlier)
    return lines or ["# no command is known for this"]


def _draft_intent(action: Action, release: Release) -> Intent:
    """Make an intent that was not requested: it has no key, requester and reason."""
    now = datetime.now(UTC)
    return Intent(
        id="",
        key="",
        release=release.id,
        action=action,
        requester="",
        reason="",
        verdict_hash="",
        data_hash="",
        policy_hash="",
        requested_at=now,
        expires_at=now,
    )


def preview_action(
    planned: Sequence[PlannedHook], action: Action, release: Release, verdict: StoredVerdict | None, until: datetime
) -> tuple[Preview, ...]:
    """Describe the hooks of an action that is not requested yet, in order. Changes nothing.

    Words that only a request has (`${requester}`, `${reason}`, `${idempotency_key}`) are shown as they are. The
    current values are read until the time `until`.
    """
    draft = replace(_draft_intent(action, release), expires_at=until)
    return preview_intent(planned, draft, release, verdict)


def preview_intent(
    planned: Sequence[PlannedHook], intent: Intent, release: Release, verdict: StoredVerdict | None
) -> tuple[Preview, ...]:
    """Describe the hooks of an intent in order, each with the current value that it would change. Changes nothing.

    A value is read until the intent expires, and within the time limit of its hook.
    """
    previews = []
    for hook in planned:
        context = make_context(intent, release, verdict, hook)
        previews.append(
            Preview(
                event=hook.event,
                kind=hook.entry.kind,
                description=hook.describe(context),
                current_value=describe_current(hook.step, context),
                required=hook.step.required,
                obstacle="" if hook.event == UNDO else find_obstacle(hook.step, context),
            )
        )
    return tuple(previews)
