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
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from evaluator.errors import EvaluatorError, StoreBusy, StoreError
from evaluator.hooks import run_hook, undo_hook
from evaluator.intents.checking import check_execution
from evaluator.intents.emergency import record_actions, record_closed, record_hook
from evaluator.intents.notifying import Notifier
from evaluator.intents.observing import find_latest, observe, read_deliveries_to_undo, services_of
from evaluator.intents.steps import PlannedHook, make_context, plan_steps
from evaluator.intents.versions import read_hook_release, read_promoted_releases
from evaluator.policy import Policy
from evaluator.records import Release
from evaluator.records.intents import (
    ANNOUNCE,
    FINAL_STATES,
    PROMOTING,
    UNDO,
    Action,
    Delivery,
    HookOutcome,
    Intent,
    IntentState,
)
from evaluator.store import Store, stamp_of
from evaluator.store.journal import Journal, find_journal
from evaluator.wording import count_of

LoadPolicy = Callable[[str], Policy]
"""Reads the policy that applies to a release, by its name."""

_EXECUTABLE_STATES = (IntentState.APPROVED, IntentState.SENT)
"""States of an intent that is executed: approved, or begun by a worker that was killed."""
_MAY_BE_DONE_STATES = (IntentState.SENT, IntentState.REQUESTED)
"""States of a hook that may have been done: begun by a worker that was killed, or unknown and to be tried again."""
_MAY_BE_DONE_TEXT = "the process that executed it ended before the outcome was recorded; it may have been done"
KEEP_FOR_S = 600.0
"""How long to try to store a hook's outcome while another process holds the store."""
POLL_S = 1.0
SLOWEST_POLL_S = 15.0
"""An unchanged store is read again after this time: requests expire without a write."""


def name_worker() -> str:
    """Name of this process in the audit trail."""
    return f"worker {socket.gethostname()}:{os.getpid()}"


def execute(
    store: Store,
    load: LoadPolicy,
    intent_id: str,
    worker: str,
    *,
    wait_s: float = 0.0,
    stop: threading.Event | None = None,
) -> Intent:
    """Execute an approved intent, or continue one whose worker was killed. Returns the intent with its new state.

    An intent in another state is returned as it is. `load` reads the current policy of a release; `worker` is the name
    of this process. A refusal is not raised: the intent ends with its reason. Raises StoreBusy if another process
    executes an intent of the same services for longer than `wait_s` seconds. If `stop` was set while it waited for
    that process, the intent is not begun.
    """
    intent = store.control.intent(intent_id)
    with store.control.alone(services_of(store, intent.release), wait_s) as is_locked:
        if not is_locked:
            raise StoreBusy(
                f"another process is executing an intent of {intent.release}", hint="see `evaluator hooks log`"
            )
        intent = store.control.intent(intent_id)  # another process may have executed it meanwhile
        if intent.state in _EXECUTABLE_STATES and not (stop and stop.is_set()):
            release = read_hook_release(store, intent.release, intent.action, intent.verdict_hash, intent.undoes)
            _Execution(store, worker, intent, release).run(load)
        return store.control.intent(intent_id)


def execute_waiting(
    store: Store,
    load: LoadPolicy,
    worker: str,
    *,
    stop: threading.Event | None = None,
    failed: Callable[[Intent, Exception], None] | None = None,
) -> tuple[Intent, ...]:
    """Execute all approved intents, and continue those of killed workers; skip those that another process executes.

    After `stop` was set, no other intent is begun; None: all are executed.
    An intent whose execution raises an error is passed to `failed` with the error, and the next one follows; without
    `failed` the error is raised. Returns the executed intents, the oldest first.
    """
    store.control.expire(datetime.now(UTC))
    executed = []
    for intent in store.control.waiting():
        if stop is not None and stop.is_set():
            break
        try:
            executed.append(execute(store, load, intent.id, worker))
        except StoreBusy:
            continue
        except Exception as error:  # hooks of other packages raise anything
            if failed is None:
                raise
            failed(intent, error)
    return tuple(executed)


def run_worker(
    store: Store,
    load: LoadPolicy,
    stop: threading.Event,
    *,
    say: Callable[[str], None],
    poll_s: float = POLL_S,
) -> None:
    """Execute approved intents until `stop` is set: the one that is being executed then is the last.

    Every `poll_s` seconds, it tests whether the store has changed, and only then reads it. `say` is called with a
    sentence for each executed intent and each error. Errors do not end the worker.
    """
    worker = name_worker()
    notifier = Notifier(store, load, say)
    last_stamp = None  # of the store when it was last read; None: read it at the next poll
    idle_s = 0.0  # since the store was last read
    failures: list[str] = []

    def describe(error: Exception) -> str:
        """Describe an error; without the text of errors of other packages, which may hold secrets."""
        if not isinstance(error, EvaluatorError):
            return f"it ended with an unexpected {type(error).__name__}"
        return f"{error.message} ({error.hint})" if error.hint else error.message

    def add_failure(intent: Intent, error: Exception) -> None:
        """Note that the execution of an intent raised an error; it is reported below."""
        failures.append(f"{intent.id} ({intent.action} {intent.release}) could not be executed: {describe(error)}")

    while not stop.is_set():
        stamp = stamp_of(store.path)  # changes with each write to the store
        if stamp != last_stamp or idle_s >= SLOWEST_POLL_S:  # intents also expire without a change
            last_stamp = stamp
            idle_s = 0.0
            failures.clear()
            try:
                for intent in execute_waiting(store, load, worker, stop=stop, failed=add_failure):
                    say(f"{intent.id} ({intent.action} {intent.release}) is {intent.state}")
            except Exception as error:  # noqa: BLE001 - a worker that ends leaves everything waiting
                failures.append(describe(error))
            for failure in failures:
                say(failure)
            if failures:
                last_stamp = None  # try again at the next poll, even if the store has not changed
            notifier.start()  # no action waits for a message
        idle_s += poll_s
        stop.wait(poll_s)
    notifier.wait()


@dataclass(slots=True)
class _Execution:
    """The execution of one intent by this process, which holds the lock of its services."""

    store: Store
    worker: str
    intent: Intent
    release: Release
    """With the versions that hooks get, whatever is imported while they are executed."""
    journal: Journal | None = None
    """What a rollback needs in an emergency; `None` until the policy, which names a copy of it, is known."""
    not_stored: list[Delivery] = field(default_factory=list)
    """Outcomes of hooks that went back, while the decisions could not be written."""

    def run(self, load: LoadPolicy) -> None:
        """Check that the intent may still be executed, claim it, and execute its hooks. Raises StoreBusy.

        If it may not, it ends with the reason. Nothing is done if another worker claims it first.
        """
        control = self.store.control
        try:
            policy = load(self.intent.release)
            self.journal = find_journal(self.store.path, policy.promotion.journal)
            record_actions(self.store, self.journal)  # a hold from the journal stops a promotion that waited
            check_execution(self.intent, observe(self.store, policy, self.intent, self.release, datetime.now(UTC)))
            if self.intent.action in PROMOTING:  # what goes back to the baseline does so whatever was changed
                control.verify_release(self.intent.release)
                self.journal.make()  # without it, nothing could be undone in an emergency
            to_undo = read_deliveries_to_undo(self.store, self.intent.undoes)
            promoted = read_promoted_releases(self.store, self.intent.undoes)
            planned, irreversible = plan_steps(policy.promotion, self.intent.action, to_undo, self.release, promoted)
        except StoreBusy:  # no refusal: the intent can be executed later
            raise
        except EvaluatorError as error:
            self._end_refused(error)
            return
        if not control.claim(self.intent, self.worker):
            return
        self.intent = control.intent(self.intent.id)
        self._run_all(planned, irreversible)

    def _end_refused(self, error: EvaluatorError) -> None:
        """End an intent that must not be executed or continued, because of `error`.

        Hooks that an earlier attempt may have done become unknown, so that a person resolves them; hooks that were to
        be tried again become failed. The intent is unknown if a hook is, expired if it expired before its first hook,
        and failed otherwise.
        """
        for delivery in self._read_deliveries().values():
            if delivery.outcome.state in _MAY_BE_DONE_STATES:
                outcome = replace(delivery.outcome, state=IntentState.UNKNOWN, text=_MAY_BE_DONE_TEXT)
                self._store_delivery(replace(delivery, attempts=0, outcome=outcome))  # adds no attempt
            elif delivery.outcome.state is IntentState.APPROVED:  # to be tried again
                outcome = replace(delivery.outcome, state=IntentState.FAILED, text="it was not executed again")
                self._store_delivery(replace(delivery, attempts=0, outcome=outcome))
        hook_states = [delivery.outcome.state for delivery in self._read_deliveries().values()]
        intent_state = IntentState.UNKNOWN if IntentState.UNKNOWN in hook_states else IntentState.FAILED
        if not hook_states and datetime.now(UTC) >= self.intent.expires_at:
            intent_state = IntentState.EXPIRED
        text = error.message
        if acknowledged := hook_states.count(IntentState.ACKNOWLEDGED):
            text = f"{error.message}; {count_of(acknowledged, 'hook')} acknowledged before"
        self.store.control.settle(self.intent.id, intent_state, self.worker, text)

    def _run_all(self, planned: Sequence[PlannedHook], irreversible: Sequence[str]) -> None:
        """Execute the hooks of an action in order, announce the result, and end the intent with a summary.

        A required hook that is not acknowledged stops the execution: the hooks after it are left out, except those that
        announce. A rollback goes on: what can go back must, whatever else failed. `irreversible`: sentences about what
        a rollback cannot undo, for the summary.
        """
        hooks = [hook for hook in planned if hook.event != ANNOUNCE]
        failed_hooks: list[str] = []
        states: list[IntentState] = []
        for hook in hooks:
            states.append(self._run_hook(hook))
            if states[-1] is not IntentState.ACKNOWLEDGED:
                failed_hooks.append(f"hook {hook.position + 1} ({hook.entry.kind}) {states[-1]}")
                if hook.step.required and self.intent.action is not Action.ROLLBACK:
                    break
        intent_state = IntentState.ACKNOWLEDGED
        summary = [f"{count_of(len(states), 'hook')} acknowledged" if states else "the policy names no hooks for it"]
        if failed_hooks:
            intent_state = IntentState.UNKNOWN if IntentState.UNKNOWN in states else IntentState.FAILED
            summary = failed_hooks
            if not_executed := len(hooks) - len(states):
                summary = [*failed_hooks, f"{not_executed} after it not executed"]
        for hook in planned:
            if hook.event == ANNOUNCE:
                self._run_hook(hook, outcome=intent_state)
        self._store_late()
        self.store.control.settle(self.intent.id, intent_state, self.worker, "; ".join([*summary, *irreversible]))
        if self.journal and self.intent.action is Action.ROLLBACK and intent_state is IntentState.ACKNOWLEDGED:
            with suppress(StoreError):  # then the journal undoes them once more, which changes nothing
                record_closed(self.journal, self.intent.undoes)

    def _run_hook(self, hook: PlannedHook, *, outcome: str = "") -> IntentState:
        """Execute a hook and store its outcome; returns its state. A hook whose outcome is known is not executed again.

        Nor is a hook that a killed worker had begun, unless it may be repeated (idempotent): its outcome is unknown.
        Before the hook changes a value, the value is stored, so that it can be restored even if this process is killed.
        `outcome`: how the action ended, for a hook that announces it; else empty.
        """
        delivery = self._read_deliveries().get(hook.position)  # of an earlier attempt; None: this is the first
        state = delivery.outcome.state if delivery else IntentState.REQUESTED
        if state in FINAL_STATES:
            return state
        if delivery and state is IntentState.SENT and not hook.step.hook.idempotent:
            may_be_done = replace(delivery.outcome, state=IntentState.UNKNOWN, text=_MAY_BE_DONE_TEXT)
            return self._store_outcome(hook, may_be_done, attempts=0)
        verdict = find_latest(self.store, self.intent.release)
        context = make_context(self.intent, self.release, verdict, hook, outcome=outcome)
        # In a second attempt, a hook may read the value that it has set itself: undo restores the value read first.
        may_be_done_before = delivery is not None and state in _MAY_BE_DONE_STATES
        first_value = None  # None: no earlier attempt has read a value
        is_counted = False  # whether this attempt is stored already
        if delivery and may_be_done_before and delivery.outcome.undo:
            first_value = json.loads(delivery.outcome.undo)

        def store_earlier_value(earlier: Any) -> None:
            """Store that the hook is about to be executed, with the value that undo has to restore."""
            nonlocal is_counted
            to_restore = earlier if first_value is None else first_value
            self._store_outcome(hook, HookOutcome(IntentState.SENT, "", _to_json(to_restore)), attempts=1)
            is_counted = True

        if hook.event == UNDO:
            store_earlier_value(None)  # what takes a change back is not taken back itself
            hook_outcome = undo_hook(hook.step, context, hook.earlier)
        else:
            hook_outcome = run_hook(hook.step, context, store_earlier_value)
        # `store_earlier_value` was not called if the value could not be read: then this attempt is counted below.
        attempts = 0 if is_counted else 1
        state = IntentState(hook_outcome.state)
        text = hook_outcome.did
        if may_be_done_before and state is IntentState.FAILED:
            # An earlier attempt may have been done, and a failure now does not undo it.
            state, text = IntentState.UNKNOWN, f"{text}; an earlier attempt may have been done"
        to_restore = _combine_earlier(first_value, hook_outcome.earlier)
        undo = "" if state is IntentState.FAILED else _to_json(to_restore)  # a failed hook changed nothing
        return self._store_outcome(hook, HookOutcome(state, text, undo, hook_outcome.response), attempts=attempts)

    def _store_outcome(self, hook: PlannedHook, outcome: HookOutcome, *, attempts: int) -> IntentState:
        """Store the outcome of a hook and return its state. `attempts` (0 or 1) is added to the attempts before.

        Hooks of a promotion go into the journal, too. Raises StoreError if a hook that is about to act cannot be
        written.
        """
        delivery = Delivery(
            intent=self.intent.id,
            position=hook.position,
            hook=hook.entry.kind,
            attempts=attempts,
            outcome=outcome,
            at=datetime.now(UTC),
            event=hook.event,
            options=json.dumps(dict(hook.entry.options), sort_keys=True),
        )
        if self.journal and self.intent.action in PROMOTING and hook.event != ANNOUNCE:
            is_about_to_act = outcome.state is IntentState.SENT
            with nullcontext() if is_about_to_act else suppress(StoreError):
                record_hook(self.journal, self.intent, self.release, delivery)
        self._store_delivery(delivery)
        return outcome.state

    def _store_delivery(self, delivery: Delivery) -> None:
        """Store the state of a hook. Raises StoreBusy if another process holds the decisions for too long.

        The outcome of an executed hook is known nowhere else, so storing it is tried for KEEP_FOR_S. For a hook of a
        promotion that is only about to be executed (SENT) it is tried once: the hook is then left to the next worker.
        What goes back does not wait for the decisions: outcomes that could not be stored are stored after all hooks.
        """
        is_about_to_act = delivery.outcome.state is IntentState.SENT
        if self.intent.action in PROMOTING:
            self._keep_trying(delivery, 0.0 if is_about_to_act else KEEP_FOR_S)
            return
        try:
            self._keep_trying(delivery, 0.0)
        except StoreError:
            if not is_about_to_act:
                self.not_stored.append(delivery)

    def _store_late(self) -> None:
        """Store the outcomes that could not be stored while hooks were executed. Raises StoreError."""
        while self.not_stored:
            self._keep_trying(self.not_stored[0], KEEP_FOR_S)
            del self.not_stored[0]

    def _keep_trying(self, delivery: Delivery, for_s: float) -> None:
        """Store the state of a hook, trying for `for_s` seconds while another process holds the decisions."""
        deadline = time.monotonic() + for_s
        while True:  # each attempt waits for the decisions
            try:
                self.store.control.deliver(delivery, self.intent.release, self.worker)
            except StoreBusy:
                if time.monotonic() >= deadline:
                    raise
            else:
                return

    def _read_deliveries(self) -> Mapping[int, Delivery]:
        """Read the intent's hooks that were begun, by their position."""
        return {delivery.position: delivery for delivery in self.store.control.deliveries(self.intent.id)}


def _combine_earlier(first_value: Any, last_value: Any) -> Any:
    """Return what undo has to restore: the value that the first attempt read, else that of the last attempt.

    None: the attempt read no value. Of mappings, keys that only the last value has are added: some hooks add keys after
    the execution, such as the revision that they wrote.
    """
    if first_value is None:
        return last_value
    if isinstance(first_value, dict) and isinstance(last_value, dict):
        return {**last_value, **first_value}
    return first_value


def _to_json(value: Any) -> str:
    """Write a value as JSON; None, of a hook without a value, as empty text."""
    return "" if value is None else json.dumps(value, sort_keys=True)
