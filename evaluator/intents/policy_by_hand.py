"""What a person does by hand to hold or roll back a release, as far as the policy alone knows."""

from __future__ import annotations

from evaluator.errors import HookError
from evaluator.hooks import HookContext, Router, make_step, write_by_hand
from evaluator.intents.emergency import make_journal_context
from evaluator.intents.journal_records import JournalAction
from evaluator.intents.steps import PlannedHook, list_by_hand, plan_steps
from evaluator.policy.promotion import PromotionRules
from evaluator.records import BASELINE, Release
from evaluator.records.intents import ANNOUNCE, UNDO, Action, Person
from evaluator.store.journal import write_now


def list_policy_by_hand(
    rules: PromotionRules, action: Action, person: Person, release_id: str, reason: str
) -> list[str]:
    """List the lines for a shell by which a person holds or rolls back a release, as far as the policy alone knows.

    Those are the hooks of the policy for the action. Where it says `undo`, the hooks that promote are named: nothing
    knows the values from before them. A router that promotes can still give all requests to the baseline.
    """
    own = JournalAction("by-hand", action, Release(release_id), person, reason, write_now())
    lines: list[str] = []
    for hook in plan_steps(rules, action, (), own.release)[0]:
        if hook.event != ANNOUNCE:
            context = make_journal_context(own, hook, hook.position, "")
            lines += [f"# {hook.describe(context)}", *list_by_hand(hook, context)]
    if action is Action.ROLLBACK and any(entry.kind == UNDO for entry in rules.hooks.get(action, ())):
        for entry in reversed(rules.hooks.get(Action.PROMOTE, ())):
            hook = PlannedHook(0, action.value, entry, make_step(entry.kind, entry.options))
            description = hook.step.hook.describe()
            lines.append(f"# a promotion {description}: put back what was there before, which is not known here")
            if to_baseline := _list_to_baseline(hook, make_journal_context(own, hook, 0, "")):
                lines += ["# or give all requests to the baseline:", *to_baseline]
    return lines


def _list_to_baseline(hook: PlannedHook, context: HookContext) -> list[str]:
    """List the lines for a shell by which a router that promotes gives all to the baseline; empty if none are known."""
    router = hook.step.hook
    try:
        if not isinstance(router, Router) or router.get_shares(context.action).get(BASELINE) != 1.0:
            return []
    except HookError:  # it has no arm of that name
        return []
    return write_by_hand(hook.step, context, undoes=False, earlier=None)
