"""The hooks of an intent: those of the policy for its action, or of a step those of the plan of its rollout."""

from __future__ import annotations

from collections.abc import Sequence

from evaluator.intents.baseline_servers import find_teardowns, is_baseline_said_to_run, mark_teardowns
from evaluator.intents.observing import read_deliveries_to_undo
from evaluator.intents.rollout_plans import find_winner, plan_act, read_plan, read_rollout, read_words, write_hold
from evaluator.intents.steps import PlannedHook, plan_steps
from evaluator.intents.versions import read_promoted_releases
from evaluator.policy.promotion import PromotionRules
from evaluator.records import Release
from evaluator.records.intents import Action, Intent
from evaluator.records.rollouts import Act
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

Plan = tuple[tuple[PlannedHook, ...], tuple[str, ...]]
"""Hooks in their order, and sentences about what a rollback cannot undo."""


def plan_intent(store: Store, rules: PromotionRules, intent: Intent, release: Release) -> Plan:
    """Plan the hooks of an intent. `release`: with the versions that they get.

    Raises the errors of `plan_steps`, and for a step PlanNotReadable.
    """
    if intent.action is Action.STEP:
        return _plan_step(store, intent, release), ()
    runs = intent.action is Action.ROLLBACK and is_baseline_said_to_run(store, intent)
    return plan_hooks(store, rules, intent.action, release, intent.undoes, rollout=intent.rollout, baseline_runs=runs)


def explain_no_hooks(intent: Intent) -> str:
    """Say why an intent has no hooks."""
    if intent.action is Action.HOLD and intent.rollout:
        return write_hold(intent.rollout, intent.release)
    return "the policy names no hooks for it"


def plan_hooks(
    store: Store,
    rules: PromotionRules,
    action: Action,
    release: Release,
    undoes: Sequence[str],
    *,
    rollout: str = "",
    baseline_runs: bool = False,
) -> Plan:
    """Plan the hooks of an action on a release. Raises the errors of `plan_steps`.

    `undoes`: ids of what a rollback undoes, the newest first. `rollout`: the running rollout that the action holds or
    turns back; empty: none. A rollout is held where it is, so no hook of the policy for `hold` is executed.
    `baseline_runs`: a person says that the servers of the baseline run, whatever acts may have taken down.
    """
    undone = [store.control.intent(intent_id) for intent_id in undoes]
    to_undo, promoted = read_deliveries_to_undo(store, undoes), read_promoted_releases(store, undoes)
    planned, irreversible = plan_steps(rules, action, to_undo, release, promoted, read_words(store, undone))
    if action is Action.ROLLBACK and not baseline_runs:
        rollouts = dict.fromkeys(intent.rollout for intent in undone if intent.rollout)
        teardowns = [teardown for name in rollouts for teardown in find_teardowns(store, name)]
        planned = mark_teardowns(planned, teardowns, to_undo)
    if action is Action.HOLD and rollout:
        planned = tuple(hook for hook in planned if hook.event != action)
    return planned, irreversible


def _plan_step(store: Store, intent: Intent, release: Release) -> tuple[PlannedHook, ...]:
    """Plan the hooks of a step of a rollout; none of a question."""
    if intent.is_question:
        return ()
    rollout = read_rollout(store, intent)
    step = read_plan(rollout).steps[intent.step]
    if not isinstance(step, Act):
        return ()
    return plan_act(rollout, step, release, find_winner(Rollouts(store.control.file).events(rollout.id)))
