"""The steps of an intent: the hooks of its event in their order, and what is taken back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from evaluator.errors import EvaluatorError
from evaluator.hooks import HookContext, Outcome, Router, Step, make_step, write_by_hand
from evaluator.hooks.templates import fill_url
from evaluator.hooks.unusable import UnusableHook
from evaluator.intents.checking import hash_verdict
from evaluator.intents.restoring import RESTORE, plan_restoring
from evaluator.intents.versions import write_versions
from evaluator.policy.promotion import PromotionRules, check_link
from evaluator.records import Release, StoredVerdict
from evaluator.records.intents import ANNOUNCE, CHANGE_NOTHING, UNDO, Action, Delivery, HookEntry, Intent, IntentState

LINK_VARIABLE = "EVALUATOR_LINK"
"""Environment variable with the address that messages link to, such as that of a CI job."""

HookId = tuple[str, int]
"""A promotion or a step of a rollout (its id; in the journal its key), and the position of the hook in it."""

_MAYBE_DONE_STATES = (IntentState.ACKNOWLEDGED, IntentState.UNKNOWN, IntentState.SENT)
"""States of a hook that changed something, or may have."""


@dataclass(frozen=True, slots=True)
class Teardown:
    """An act of a rollout that may have taken down the servers of the baseline."""

    act: str
    step: str = ""
    """The id (in the journal: the key) of its step, if a rollback undoes all that it did; empty: it does not."""


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
    undoes: HookId | None = None
    """For `undo`: the promotion and the position of the hook that it takes back."""
    link: str = ""
    """Address where people can read the verdict, with words of the context; empty: the policy has none."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Values of a context that the hook has alone: of a step of a rollout its action, step, service and share."""
    also_undoes: tuple[HookId, ...] = ()
    """For `undo`: the hooks that are taken back together with it, because they changed the same router."""
    teardowns: tuple[Teardown, ...] = ()
    """Acts that may have taken down the servers to which it returns users."""
    chain: str = ""
    """Hooks that restore the same instances, one after the other, have the same one: after one that fails, the others
    are not executed. Empty: it restores none."""

    @property
    def is_shift(self) -> bool:
        """Does it change the shares of a router, or take that back, for a rollout?"""
        return bool(self.words.get("share"))

    @property
    def returns_traffic(self) -> bool:
        """Does it return the users to the baseline by a router? If it fails, they may still be at the candidate."""
        goes_back = self.event in (UNDO, Action.ROLLBACK) and not self.chain
        return self.is_shift or (goes_back and isinstance(self.step.hook, Router))

    @property
    def needs_returned_traffic(self) -> bool:
        """Can it take down servers that have users, unless the traffic has returned? Undoing a deployment can."""
        return self.event == UNDO and not self.returns_traffic and not self.chain

    def name_not_restored(self, outcome: Outcome) -> Outcome:
        """Add to the outcome of a hook that was to restore instances what a person has to do, if it has failed."""
        if not self.chain or outcome.state == "acknowledged":
            return outcome
        instances, service = self.words.get("instances", "").replace(" ", ", "), self.words.get("service", "")
        todo = "give them the old version, and let them serve at the router; or roll back again"
        return replace(outcome, did=f"{outcome.did}; {instances} of {service} not restored: {todo}")

    def describe(self, context: HookContext) -> str:
        """Describe what the hook will do, for the person who confirms it, with the words of the context."""
        hook = self.step.hook
        if self.event != UNDO:
            return hook.describe(context)
        if self.chain:
            return hook.describe_undo(context)
        earlier_value = hook.describe_value(self.earlier)  # empty: it read none
        return hook.describe_undo(context) + (f"; restores {earlier_value}" if earlier_value else "")


STILL_AT_CANDIDATE = "users may still be at the candidate: its router or its instances could not be taken back"
"""Why a rollback leaves out what follows a router that failed: undoing it could take down servers with users."""


def plan_steps(
    rules: PromotionRules,
    action: Action,
    to_undo: Sequence[Delivery] = (),
    release: Release | None = None,
    promoted: Mapping[str, Release] | None = None,
    words: Mapping[HookId, Mapping[str, str]] | None = None,
) -> tuple[tuple[PlannedHook, ...], tuple[str, ...]]:
    """Plan the hooks of an action, in order: those of its event, then those that announce it.

    `to_undo`: executed hooks of earlier promotions, in the order of undoing; they take the place of the entry `undo` in
    the policy's hooks for a rollback. Returns the hooks, and a sentence about each hook that cannot be undone, which
    has the versions of `release` (None: their names). `promoted`: the id of each promotion → its release, with the
    versions that it promoted: its hooks are undone with these. `words`: the words that hooks of steps of a rollout had.
    Of the shifts of one router, only the newest is undone, to the value before the oldest: in one call. A hook to undo
    that cannot be made any more is planned all the same, and fails. Raises PolicyError, UnknownName or HookError for
    another hook that cannot be made.
    """
    # A promotion against the verdict (break-glass) has the hooks of a promotion.
    event = Action.PROMOTE if action is Action.BREAK_GLASS else action
    hooks: list[PlannedHook] = []
    irreversible: list[str] = []
    for entry in rules.hooks.get(event, ()):
        if entry.kind == UNDO:
            undoing, irreversible = _plan_undoing(rules, action, to_undo, release, promoted or {}, words or {})
            hooks += undoing
        else:
            hooks.append(PlannedHook(0, event, entry, make_step(entry.kind, entry.options)))
    for entry in rules.hooks.get(ANNOUNCE, ()):
        hooks.append(PlannedHook(0, ANNOUNCE, entry, make_step(entry.kind, entry.options)))
    planned = (replace(hook, position=position, link=rules.link) for position, hook in enumerate(hooks))
    return tuple(planned), tuple(irreversible)


def _plan_undoing(
    rules: PromotionRules,
    action: Action,
    to_undo: Sequence[Delivery],
    release: Release | None,
    promoted: Mapping[str, Release],
    words: Mapping[HookId, Mapping[str, str]],
) -> tuple[list[PlannedHook], list[str]]:
    """Plan the hooks that are undone, in order, and list what cannot be; the arguments are those of `plan_steps`."""
    hooks: list[PlannedHook] = []
    irreversible: list[str] = []
    shifts: dict[str, int] = {}  # of a router that a rollout has shifted → its place in `hooks`
    for delivery in to_undo:
        # A message stays sent, and a hook that did nothing leaves nothing to undo.
        if delivery.event in CHANGE_NOTHING or delivery.outcome.state not in _MAYBE_DONE_STATES:
            continue
        # Undone by the options with which it was executed: those in the policy may have changed.
        entry = HookEntry(delivery.hook, json.loads(delivery.options))
        hook_id = (delivery.intent, delivery.position)
        own_words = words.get(hook_id, {})
        if own_words.get("instances") and not own_words.get(RESTORE):
            continue  # what drained these instances restores them
        earlier = json.loads(delivery.outcome.undo) if delivery.outcome.undo else None
        hook = PlannedHook(
            0, UNDO, entry, _make_step_to_undo(entry), earlier,
            narrow_release(promoted.get(delivery.intent), own_words.get("service", "")), hook_id, rules.link, own_words,
        )  # fmt: skip
        if own_words.get(RESTORE):
            chain = f"{delivery.intent} {delivery.position}"
            hooks += [
                replace(
                    hook, entry=part.entry, step=part.step, earlier=part.earlier, words=part.words, chain=chain,
                    undoes=hook_id if part.is_last else None,
                )
                for part in plan_restoring(entry, hook.step, earlier, own_words)
            ]  # fmt: skip
            continue
        router = _name_router(hook)
        if not hook.step.hook.can_undo():
            hook = replace(hook, event=delivery.event)
            context = make_context(draft_intent(action, release), release, None, hook) if release else None
            irreversible.append(f"{hook.step.hook.kind} ({hook.step.hook.describe(context)}) cannot be undone")
        elif router in shifts:
            newer = hooks[shifts[router]]
            # Where the value before the older shift is not known, that before the newer one is the oldest.
            oldest = newer.earlier if earlier is None else earlier
            hooks[shifts[router]] = replace(newer, earlier=oldest, also_undoes=(*newer.also_undoes, hook_id))
        else:
            if router:
                shifts[router] = len(hooks)
            hooks.append(hook)
    return hooks, irreversible


def _name_router(hook: PlannedHook) -> str:
    """Name the router that a hook of a rollout shifted, by its kind, options and service; empty for other hooks."""
    if not hook.is_shift:
        return ""
    options = {name: value for name, value in hook.entry.options.items() if name != "shares"}
    return json.dumps([hook.entry.kind, options, hook.words.get("service", "")], sort_keys=True)


def narrow_release(release: Release | None, service: str) -> Release | None:
    """Return a release with one of its services alone; as it is if `service` is empty or not among them."""
    services = tuple(known for known in release.services if known.name == service) if release else ()
    return replace(release, services=services) if release and services else release


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
        request=intent.id,
        expires_at=intent.expires_at,
        outcome=outcome,
        service=",".join(service.name for service in release.services if service.name),
        share="1" if is_promoting else "",  # a promotion gives the candidate all; a share by itself goes nowhere back
    )
    words: dict[str, Any] = {word: value for word, value in hook.words.items() if word != RESTORE}
    context = replace(context, **words)
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


def draft_intent(action: Action, release: Release) -> Intent:
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
