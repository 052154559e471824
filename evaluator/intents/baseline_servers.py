"""Whether the baseline can still serve: acts of a rollout that was promoted may have taken down its servers.

A rollback of such a rollout gives users to the baseline only if a server of it is up, as its router says, or was
deployed again before; otherwise it would give them to nothing. Who knows better says so: `--baseline-runs`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evaluator.errors import EvaluatorError
from evaluator.hooks import HookContext, Router
from evaluator.intents.steps import PlannedHook, Teardown
from evaluator.policy import Policy
from evaluator.records import BASELINE
from evaluator.records.intents import CHANGE_NOTHING, NOTIFY, UNDO, Action, Delivery, Intent, IntentState
from evaluator.records.rollouts import AFTER_STAGES, Act, EventKind, Rollout, RolloutPlan
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts
from evaluator.wording import quote_command

BASELINE_RUNS = "baseline_runs"
"""Event of the audit trail: a person says that the servers of the baseline run."""
_DEPLOYED_WITHIN_S = 30.0
"""How long servers that were deployed again are waited for, where the router says that none is up."""
_POLL_S = 1.0
_MAY_HAVE_ACTED = (IntentState.ACKNOWLEDGED, IntentState.UNKNOWN, IntentState.SENT)


# ------------------------------------------------------------------ what was executed


def may_take_down(rollout: Rollout, position: int) -> bool:
    """May the act at a position of a plan take down the servers of the baseline, once the candidate has all users?

    As `Act.may_take_down`; a plan that this version cannot continue is read as well as that is possible.
    """
    try:
        act = rollout.plan["steps"][position]
        is_last = act["kind"] == "act" and (act["final"] or act["stage"] == AFTER_STAGES)
        only_notifies = all(hook["kind"] == NOTIFY for hook in act["hooks"])
        return bool(is_last and not only_notifies and not act.get("keeps_baseline"))
    except (LookupError, TypeError, AttributeError):
        return False


def is_promoted_for_good(store: Store, rollout: str) -> bool:
    """Has the candidate of a rollout got all users, as its router said, and did they not return since?"""
    is_for_good = False
    for event in Rollouts(store.control.file).events(rollout):
        if event.kind is EventKind.READ_BACK:
            is_for_good = True
        elif event.kind is EventKind.RETURNED:
            is_for_good = False
    return is_for_good


def find_teardowns(store: Store, rollout_id: str) -> tuple[Teardown, ...]:
    """Find the executed acts of a rollout that may have taken down the baseline; none while users may be at it."""
    if not is_promoted_for_good(store, rollout_id):
        return ()
    rollout = Rollouts(store.control.file).rollout(rollout_id)
    steps = [
        intent
        for intent in store.control.intents(rollout.release)
        if intent.rollout == rollout_id and intent.action is Action.STEP and may_take_down(rollout, intent.step)
    ]
    return tuple(
        Teardown(str(rollout.plan["steps"][step.step]["name"]), step.id if step.is_undoable else "")
        for step in steps
        if any(_may_have_changed(delivery) for delivery in store.control.deliveries(step.id))
    )


def _may_have_changed(delivery: Delivery) -> bool:
    """May a hook have changed something?"""
    is_silent = delivery.event in CHANGE_NOTHING or delivery.hook == NOTIFY
    return not is_silent and delivery.outcome.state in _MAY_HAVE_ACTED


def mark_teardowns(
    planned: Sequence[PlannedHook], teardowns: Sequence[Teardown], to_undo: Sequence[Delivery]
) -> tuple[PlannedHook, ...]:
    """Mark the hooks of a rollback that return users to servers which these acts may have taken down.

    `to_undo`: what the acts did. An act of which some hook cannot be undone is not undone.
    """
    undone = {hook_id for hook in planned if hook.undoes for hook_id in (hook.undoes, *hook.also_undoes)}
    changed = {(delivery.intent, delivery.position) for delivery in to_undo if _may_have_changed(delivery)}
    left = {step for step, position in changed - undone}
    known = tuple(replace(teardown, step="") if teardown.step in left else teardown for teardown in teardowns)
    return tuple(replace(hook, teardowns=known) if hook.returns_traffic else hook for hook in planned)


def is_baseline_said_to_run(store: Store, intent: Intent) -> bool:
    """Has a person said, with the request of a rollback or after it, that the servers of the baseline run?"""
    return any(
        row.event == BASELINE_RUNS and row.at >= intent.requested_at for row in store.control.audit(intent.release)
    )


# ------------------------------------------------------------------ before users return


class BaselineGate:
    """Looks, before a hook of a rollback returns users, whether a server is there that can serve them."""

    def __init__(self) -> None:
        self._deployed: list[IntentState] = []
        """States of the hooks of the policy that were executed before, which may have deployed the baseline again."""
        self._undone: dict[str, list[IntentState]] = {}
        """Step → states of the hooks that have undone it."""

    def note(self, hook: PlannedHook, state: IntentState) -> None:
        """Note how a hook ended."""
        if hook.undoes:
            self._undone.setdefault(hook.undoes[0], []).append(state)
        elif hook.event == Action.ROLLBACK and not isinstance(hook.step.hook, Router) and hook.entry.kind != NOTIFY:
            self._deployed.append(state)

    def explain(self, hook: PlannedHook, context: HookContext, *, is_forecast: bool = False) -> str:
        """Say why a hook must not return users; empty if it may.

        Servers that were deployed again are waited for. `is_forecast`: the hooks before were not executed yet, so what
        they will have deployed is not looked for.
        """
        acts = [teardown.act for teardown in hook.teardowns if not self._is_undone(teardown)]
        router = hook.step.hook
        if not acts or not isinstance(router, Router) or _is_at_baseline(router, context):
            return ""
        is_deployed = bool(self._deployed) and _are_acknowledged(self._deployed)
        if is_deployed and is_forecast:
            return ""
        deadline = time.monotonic() + (_DEPLOYED_WITHIN_S if is_deployed else 0.0)
        while (problem := router.explain_down(BASELINE)) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if problem == "" or (problem is None and is_deployed):
            return ""
        why = problem or f"{router.kind} does not say whether they are up"
        if self._deployed and not is_deployed:
            why = f"{why}, and a hook that comes first has failed"
        names = " and ".join(dict.fromkeys(acts))
        return (
            f"users stay where they are: {names} may have taken down the servers of the baseline ({why}); deploy the "
            "old version again, then roll back with --baseline-runs"
        )

    def _is_undone(self, teardown: Teardown) -> bool:
        """Was an act undone before?"""
        states = self._undone.get(teardown.step, []) if teardown.step else []
        return bool(states) and _are_acknowledged(states)


def _are_acknowledged(states: Sequence[IntentState]) -> bool:
    """Have all hooks succeeded?"""
    return all(state is IntentState.ACKNOWLEDGED for state in states)


def _is_at_baseline(router: Router[Any], context: HookContext) -> bool:
    """Are the users at the baseline already, so that nothing is moved? Not if that cannot be read."""
    try:
        return router.read_settings(context).get(BASELINE) == 1.0
    except EvaluatorError:
        return False


def find_obstacles(planned: Sequence[PlannedHook], contexts: Sequence[HookContext]) -> Mapping[int, str]:
    """Find which hooks would return users to nothing, if all hooks before them succeed: position → why."""
    gate, obstacles = BaselineGate(), {}
    for hook, context in zip(planned, contexts, strict=True):
        if problem := gate.explain(hook, context, is_forecast=True):
            obstacles[hook.position] = problem
        gate.note(hook, IntentState.ACKNOWLEDGED)
    return obstacles


def write_way_back(release: str) -> str:
    """Write how users return to a baseline whose servers may be gone."""
    command = quote_command("rollback", release, "--reason", "WHY", "--baseline-runs")
    return (
        f"once the old version serves: `{command}`; hooks that deploy it, before `undo` under `hooks: {{rollback: …}}` "
        "of the policy, make that needless"
    )


def describe_way_back(policy: Policy, plan: RolloutPlan) -> str:
    """Say what a rollback after the end of a rollout will need; empty if nothing more than before its end."""
    section = policy.rollout
    entries = policy.promotion.hooks.get(Action.ROLLBACK, ())
    before_undo = entries[: next((n for n, entry in enumerate(entries) if entry.kind == UNDO), 0)]
    if section is None or not section.router or any(entry.kind != NOTIFY for entry in before_undo):
        return ""
    if plan.replaces_instances:
        return "a rollback after the end: instances get the old version again, the last batch first"
    keeping = {act.name for acts in section.acts.values() for act in acts if act.keeps_baseline}
    acts = [step for step in plan.steps[plan.watched :] if isinstance(step, Act) and step.name not in keeping]
    names = [act.name for act in acts if any(hook.kind != NOTIFY for hook in act.hooks)]
    if not names:
        return ""
    return (
        f"a rollback after the end: {' and '.join(dict.fromkeys(names))} may take down the servers of the baseline. "
        "Users return to them only if the router finds one up (haproxy with health checks, nginx), or a person says "
        "that they run; hooks before `undo` under `hooks: {rollback: …}` can deploy them again, and "
        "`keeps_baseline: true` marks acts that leave them as they are"
    )


def describe_missing_baseline(store: Store, rollout: str) -> str:
    """Say that acts of a rollout may have taken down the baseline, so that it is not sure that users can return."""
    acts = dict.fromkeys(teardown.act for teardown in find_teardowns(store, rollout))
    return f"{' and '.join(acts)} may have taken down the servers of the baseline" if acts else ""
