"""Executing intents: once in effect, whatever is killed in between.

Each step is kept before it is acted on. A hook that was acknowledged is not executed again; one that may or may not
have been executed is executed again with the same key where that does no harm, and is `unknown` otherwise: then a
person decides. One process at a time executes intents of a release.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from evaluator.errors import EvaluatorError, StoreBusy
from evaluator.hooks import run_hook, undo_hook
from evaluator.intents.checking import check_execution
from evaluator.intents.observing import find_latest, observe, read_undone, services_of
from evaluator.intents.steps import PlannedHook, make_context, plan_steps
from evaluator.policy import Policy
from evaluator.records.intents import ANNOUNCE, FINAL_STATES, UNDO, Delivery, HookOutcome, Intent, IntentState
from evaluator.store import Store, stamp_of
from evaluator.wording import count_of

LoadPolicy = Callable[[str], Policy]
"""Reads the policy that applies to a release, by its name."""

_READY = (IntentState.APPROVED, IntentState.SENT)
_MAYBE = (IntentState.SENT, IntentState.REQUESTED)
"""States of a hook that may have been done: begun by a worker that was killed, or unknown and to be tried again."""
_MAY_BE_DONE = "the process that executed it ended before the outcome was recorded; it may have been done"
KEEP_FOR_S = 600.0
"""How long to try to store a hook's outcome while another process holds the store."""
POLL_S = 1.0
SLOWEST_POLL_S = 15.0
"""An unchanged store is read again after this time: requests expire without a write."""


def name_worker() -> str:
    """Name of this process in the audit trail."""
    return f"worker {socket.gethostname()}:{os.getpid()}"


def execute(store: Store, load: LoadPolicy, intent_id: str, worker: str, *, wait_s: float = 0.0) -> Intent:
    """Execute an intent, or continue one whose worker was killed; any other is left as it is.

    `load` reads the current policy of a release. Raises StoreBusy where another process executes an intent of the
    release for longer than `wait_s`. A refusal is not raised: the intent ends with its reason.
    """
    intent = store.control.intent(intent_id)
    with store.control.alone(services_of(store, intent.release), wait_s) as held:
        if not held:
            raise StoreBusy(
                f"another process is executing an intent of {intent.release}", hint="see `evaluator hooks log`"
            )
        intent = store.control.intent(intent_id)
        if intent.state in _READY:
            _Execution(store, worker, intent).run(load)
        return store.control.intent(intent_id)


def execute_waiting(
    store: Store,
    load: LoadPolicy,
    worker: str,
    *,
    failed: Callable[[Intent, Exception], None] | None = None,
) -> tuple[Intent, ...]:
    """Execute all approved intents, and continue those of killed workers; skip those that another process executes.

    `failed` is called with each that could not be executed, so that one of them does not keep the others waiting;
    without it the error is raised. Returns the intents that were executed, in their order.
    """
    store.control.expire(datetime.now(UTC))
    done = []
    for intent in store.control.waiting():
        try:
            done.append(execute(store, load, intent.id, worker))
        except StoreBusy:
            continue
        except Exception as error:  # hooks of other packages raise anything
            if failed is None:
                raise
            failed(intent, error)
    return tuple(done)


def run_worker(
    store: Store,
    load: LoadPolicy,
    stop: threading.Event,
    *,
    say: Callable[[str], None],
    poll_s: float = POLL_S,
) -> None:
    """Execute approved intents until `stop`. Errors go to `say`, and the worker goes on."""
    worker, last_stamp, idle_s = name_worker(), None, 0.0
    failures: list[str] = []

    def describe(error: Exception) -> str:
        """An error in words; without the text of errors that are not ours, which may hold secrets."""
        if not isinstance(error, EvaluatorError):
            return f"it ended with an unexpected {type(error).__name__}"
        return f"{error.message} ({error.hint})" if error.hint else error.message

    def keep(intent: Intent, error: Exception) -> None:
        failures.append(f"{intent.id} ({intent.action} {intent.release}) could not be executed: {describe(error)}")

    while not stop.is_set():
        stamp = stamp_of(store.path)
        if stamp != last_stamp or idle_s >= SLOWEST_POLL_S:
            last_stamp, idle_s = stamp, 0.0
            try:
                for intent in execute_waiting(store, load, worker, failed=keep):
                    say(f"{intent.id} ({intent.action} {intent.release}) is {intent.state}")
            except Exception as error:  # noqa: BLE001 - a worker that ends leaves everything waiting
                failures.append(describe(error))
            for failure in failures:
                say(failure)
            last_stamp = None if failures else last_stamp
            failures.clear()
        idle_s += poll_s
        stop.wait(poll_s)


@dataclass(slots=True)
class _Execution:
    """One intent under its release's lock."""

    store: Store
    worker: str
    intent: Intent

    def run(self, load: LoadPolicy) -> None:
        control = self.store.control
        try:
            policy = load(self.intent.release)
            check_execution(self.intent, observe(self.store, policy, self.intent, datetime.now(UTC)))
            undone = read_undone(self.store, self.intent.undoes)
            planned, irreversible = plan_steps(policy.promotion, self.intent.action, undone)
        except StoreBusy:
            raise
        except EvaluatorError as error:
            self._end_refused(error)
            return
        if not control.claim(self.intent, self.worker):
            return
        self.intent = control.intent(self.intent.id)
        self._run_all(planned, irreversible)

    def _end_refused(self, error: EvaluatorError) -> None:
        """End an intent that must not be executed or continued; hooks that may have been done are left to a person."""
        for delivery in self._deliveries().values():
            if delivery.outcome.state in _MAYBE:
                outcome = replace(delivery.outcome, state=IntentState.UNKNOWN, text=_MAY_BE_DONE)
                self._deliver(replace(delivery, attempts=0, outcome=outcome))
            elif delivery.outcome.state is IntentState.APPROVED:
                outcome = replace(delivery.outcome, state=IntentState.FAILED, text="it was not executed again")
                self._deliver(replace(delivery, attempts=0, outcome=outcome))
        states = [delivery.outcome.state for delivery in self._deliveries().values()]
        state = IntentState.UNKNOWN if IntentState.UNKNOWN in states else IntentState.FAILED
        if not states and datetime.now(UTC) >= self.intent.expires_at:
            state = IntentState.EXPIRED
        done = states.count(IntentState.ACKNOWLEDGED)
        text = f"{error.message}; {count_of(done, 'hook')} acknowledged before" if done else error.message
        self.store.control.settle(self.intent.id, state, self.worker, text)

    def _run_all(self, planned: Sequence[PlannedHook], irreversible: Sequence[str]) -> None:
        """Execute the hooks up to the first that is required and not acknowledged, and announce the result."""
        hooks = [hook for hook in planned if hook.event != ANNOUNCE]
        failed_hooks: list[str] = []
        states: list[IntentState] = []
        for hook in hooks:
            states.append(self._run_hook(hook))
            if states[-1] is not IntentState.ACKNOWLEDGED:
                failed_hooks.append(f"hook {hook.position + 1} ({hook.entry.kind}) {states[-1]}")
                if hook.step.required:
                    break
        state = IntentState.ACKNOWLEDGED
        summary = [f"{count_of(len(states), 'hook')} acknowledged" if states else "the policy names no hooks for it"]
        if failed_hooks:
            state = IntentState.UNKNOWN if IntentState.UNKNOWN in states else IntentState.FAILED
            not_executed = len(hooks) - len(states)
            summary = [*failed_hooks, f"{not_executed} after it not executed"] if not_executed else failed_hooks
        for hook in planned:
            if hook.event == ANNOUNCE:
                self._run_hook(hook, outcome=state)
        self.store.control.settle(self.intent.id, state, self.worker, "; ".join([*summary, *irreversible]))

    def _run_hook(self, hook: PlannedHook, *, outcome: str = "") -> IntentState:
        """Execute a hook unless its outcome is known; the value that it is about to change is stored first."""
        delivery = self._deliveries().get(hook.position)
        state = delivery.outcome.state if delivery else IntentState.REQUESTED
        if state in FINAL_STATES:
            return state
        if delivery and state is IntentState.SENT and not hook.step.hook.idempotent:
            return self._keep(hook, replace(delivery.outcome, state=IntentState.UNKNOWN, text=_MAY_BE_DONE), attempts=0)
        with self.store.reading():
            release = self.store.control.release(self.intent.release)
            verdict = find_latest(self.store, self.intent.release)
        context = make_context(self.intent, release, verdict, hook, outcome=outcome)
        maybe = delivery is not None and state in _MAYBE
        # In a second attempt, a hook may read the value that it has set itself: undo restores the value read first.
        first = json.loads(delivery.outcome.undo) if delivery and maybe and delivery.outcome.undo else None

        def before(earlier: Any) -> None:
            value_before = earlier if first is None else first
            self._keep(hook, HookOutcome(IntentState.SENT, "", _to_json(value_before)), attempts=1)

        if hook.event == UNDO:
            before(None)
            hook_outcome = undo_hook(hook.step, context, hook.earlier)
        else:
            hook_outcome = run_hook(hook.step, context, before)
        # A hook whose value could not be read was not executed: `before` has not counted it.
        attempts = 0 if hook.position in self._deliveries() else 1
        state, text = IntentState(hook_outcome.state), hook_outcome.did
        if maybe and state is IntentState.FAILED:
            # An earlier attempt may have been done, and a failure now does not undo it.
            state, text = IntentState.UNKNOWN, f"{text}; an earlier attempt may have been done"
        # The value read first, with what a hook knows only after it was executed.
        restores = hook_outcome.earlier if first is None else first
        if isinstance(first, dict) and isinstance(hook_outcome.earlier, dict):
            restores = {**hook_outcome.earlier, **first}
        undo = "" if state is IntentState.FAILED else _to_json(restores)
        return self._keep(hook, HookOutcome(state, text, undo, hook_outcome.response), attempts=attempts)

    def _keep(self, hook: PlannedHook, outcome: HookOutcome, *, attempts: int) -> IntentState:
        options, now = json.dumps(dict(hook.entry.options), sort_keys=True), datetime.now(UTC)
        self._deliver(
            Delivery(self.intent.id, hook.position, hook.entry.kind, attempts, outcome, now, hook.event, options)
        )
        return outcome.state

    def _deliver(self, delivery: Delivery) -> None:
        """Store the state of a hook, even if the store is busy for long: its outcome is known nowhere else.

        A hook that is only about to be executed does not wait for that: the next worker can execute it.
        """
        about_to_be = delivery.outcome.state is IntentState.SENT
        deadline = time.monotonic() + (0.0 if about_to_be else KEEP_FOR_S)
        while True:
            try:
                self.store.control.deliver(delivery, self.intent.release, self.worker)
            except StoreBusy:
                if time.monotonic() >= deadline:
                    raise
            else:
                return

    def _deliveries(self) -> Mapping[int, Delivery]:
        return {delivery.position: delivery for delivery in self.store.control.deliveries(self.intent.id)}


def _to_json(value: Any) -> str:
    return "" if value is None else json.dumps(value, sort_keys=True)
