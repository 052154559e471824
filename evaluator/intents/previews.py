"""What an action would do, hook by hook, before a person confirms it; and what it has left to a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from evaluator.errors import Refused
from evaluator.hooks import describe_current, find_obstacle
from evaluator.intents.baseline_servers import find_obstacles, write_way_back
from evaluator.intents.observing import find_latest
from evaluator.intents.plans import plan_intent
from evaluator.intents.steps import PlannedHook, draft_intent, list_by_hand, make_context
from evaluator.intents.versions import read_hook_release
from evaluator.policy import Policy
from evaluator.records import Release, StoredVerdict
from evaluator.records.intents import ANNOUNCE, UNDO, Action, Intent, IntentState
from evaluator.store import Store


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
    returns_to_nothing: bool = False
    """Is the obstacle that acts of a rollout may have taken down the servers to which it returns users?"""


def preview_action(
    planned: Sequence[PlannedHook],
    action: Action,
    release: Release,
    verdict: StoredVerdict | None,
    until: datetime,
    requester: str = "",
) -> tuple[Preview, ...]:
    """Describe the hooks of an action that is not requested yet, in order. Changes nothing.

    Words that only a request has, such as `${reason}`, are shown as what they will be. `requester`: who would request
    it; empty: not known. The current values are read until the time `until`.
    """
    draft = replace(draft_intent(action, release), expires_at=until, requester=requester)
    return preview_intent(planned, draft, release, verdict)


def preview_intent(
    planned: Sequence[PlannedHook], intent: Intent, release: Release, verdict: StoredVerdict | None
) -> tuple[Preview, ...]:
    """Describe the hooks of an intent in order, each with the current value that it would change. Changes nothing.

    A value is read until the intent expires, and within the time limit of its hook.
    """
    previews = []
    contexts = [make_context(intent, release, verdict, hook) for hook in planned]
    to_nothing = find_obstacles(planned, contexts)
    for hook, context in zip(planned, contexts, strict=True):
        obstacle = to_nothing.get(hook.position, "")
        previews.append(
            Preview(
                event=hook.event,
                kind=hook.entry.kind,
                description=hook.describe(context),
                current_value=describe_current(hook.step, context),
                required=hook.step.required,
                obstacle=obstacle or ("" if hook.event == UNDO else find_obstacle(hook.step, context)),
                returns_to_nothing=bool(obstacle),
            )
        )
    return tuple(previews)


def refuse_missing_baseline(planned: Sequence[PlannedHook], release: Release, verdict: StoredVerdict | None) -> None:
    """Raise Refused if a rollback would return users to servers that acts of a rollout may have taken down."""
    draft = draft_intent(Action.ROLLBACK, release)
    contexts = [make_context(draft, release, verdict, hook) for hook in planned]
    for problem in find_obstacles(planned, contexts).values():
        raise Refused(f"{release.id} is not rolled back: {problem}", hint=write_way_back(release.id))


def list_left_by_hand(store: Store, policy: Policy, intent: Intent) -> list[str]:
    """List the lines for a shell by which a person does what hooks of a hold or a rollback did not do.

    Raises the errors of `plan_action`.
    """
    release = read_hook_release(store, intent.release, intent.action, intent.verdict_hash, intent.undoes)
    planned, _ = plan_intent(store, policy.promotion, intent, release)
    verdict = find_latest(store, intent.release)
    deliveries = {delivery.position: delivery for delivery in store.control.deliveries(intent.id)}
    if not deliveries:  # it was not begun
        return []
    lines: list[str] = []
    for hook in planned:
        delivery = deliveries.get(hook.position)
        is_left = delivery is None or delivery.outcome.state is not IntentState.ACKNOWLEDGED
        if is_left and hook.event != ANNOUNCE:
            context = make_context(intent, release, verdict, hook)
            text = delivery.outcome.text if delivery else "it was not executed, because one before it failed"
            lines += [f"# {hook.describe(context)}: {text}", *list_by_hand(hook, context)]
    return lines
