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
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from evaluator.errors import EvaluatorError, OutcomeNotStored, Refused, StoreBusy, StoreError
from evaluator.hooks import Outcome, list_secrets, redact_outcome, run_hook, undo_hook
from evaluator.intents.baseline_servers import BaselineGate, find_teardowns
from evaluator.intents.checking import check_execution
from evaluator.intents.earlier_values import combine_earlier, write_earlier
from evaluator.intents.journal_records import JournalAction, explain_stop, list_actions, record_closed, record_hook
from evaluator.intents.journal_trail import ActionWriter, record_actions
from evaluator.intents.observing import explain_later_stop, find_latest, observe, services_of
from evaluator.intents.plans import explain_no_hooks, plan_intent
from evaluator.intents.returning import return_traffic
from evaluator.intents.steps import STILL_AT_CANDIDATE, HookId, PlannedHook, list_by_hand, make_context
from evaluator.intents.versions import read_hook_release
from evaluator.policy import Policy
from evaluator.records import Release, StoredVerdict
from evaluator.records.intents import (
    ANNOUNCE,
    CHANGE_NOTHING,
    FINAL_STATES,
    PROMOTING,
    UNDO,
    VERIFY,
    Action,
    Delivery,
    HookOutcome,
    Intent,
    IntentState,
)
from evaluator.store import Store
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
    load_to_go_back: LoadPolicy | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Intent:
    """Execute an approved intent, or continue one whose worker was killed. Returns the intent with its new state.

    An intent in another state is returned as it is, and so is a step of a rollout. `load` reads the current policy of a
    release; `load_to_go_back` does for what holds or goes back, also where the policy has mistakes (None: as `load`).
    `worker` is the name of this process. A refusal is not raised: the intent ends with its reason. Raises StoreBusy if
    another process executes an intent of the same services for longer than `wait_s` seconds, and OutcomeNotStored if an
    action that goes back was executed, but the decisions could not be written. If `stop` was set while it waited for
    that process, the intent is not begun. A rollback of a running rollout first lets the guard return its traffic;
    `say` gets what came of that.
    """
    intent = store.control.intent(intent_id)
    if intent.action is Action.STEP:  # only the process that drives its rollout executes it
        return intent
    is_rollback = intent.action is Action.ROLLBACK and intent.rollout and intent.state in _EXECUTABLE_STATES
    if is_rollback and not find_teardowns(store, intent.rollout):  # otherwise its hooks look first who would serve
        return_traffic(store.path, intent.release, [intent.rollout], intent.reason, intent.requester, say)
    with store.control.alone(services_of(store, intent.release), wait_s) as is_locked:
        if not is_locked:
            raise StoreBusy(
                f"another process is executing an intent of {intent.release}", hint="see `evaluator hooks log`"
            )
        intent = store.control.intent(intent_id)  # another process may have executed it meanwhile
        if intent.state in _EXECUTABLE_STATES and not (stop and stop.is_set()):
            release = read_hook_release(store, intent.release, intent.action, intent.verdict_hash, intent.undoes)
            goes_back = intent.action not in PROMOTING
            Execution(store, worker, intent, release).run(load_to_go_back or load if goes_back else load)
        return store.control.intent(intent_id)


def execute_waiting(
    store: Store,
    load: LoadPolicy,
    worker: str,
    *,
    stop: threading.Event | None = None,
    failed: Callable[[Intent, Exception], None] | None = None,
    load_to_go_back: LoadPolicy | None = None,
) -> tuple[Intent, ...]:
    """Execute all approved intents, and continue those of killed workers; skip those that another process executes.

    After `stop` was set, no other intent is begun; None: all are executed.
    `load_to_go_back`: as in `execute`. An intent whose execution raises an error is passed to `failed` with the error,
    and the next one follows; without `failed` the error is raised. Returns the executed intents, the oldest first.
    """
    store.control.expire(datetime.now(UTC))
    executed = []
    for intent in store.control.waiting():
        if stop is not None and stop.is_set():
            break
        if intent.action is Action.STEP:
            continue
        try:
            executed.append(execute(store, load, intent.id, worker, load_to_go_back=load_to_go_back))
        except StoreBusy:
            continue
        except Exception as error:  # hooks of other packages raise anything
            if failed is None:
                raise
            failed(intent, error)
    return tuple(executed)


class _StoppedError(Exception):
    """A hold or a rollback was requested while a promotion was executed: its next hook is not executed."""


@dataclass(slots=True)
class Execution:
    """The execution of one intent by this process, which holds the lock of its services.

    Once it has begun, what holds or goes back needs the decisions no more: where they cannot be written, the journal
    gets what was done.
    """

    store: Store
    worker: str
    intent: Intent
    release: Release
    """With the versions that hooks get, whatever is imported while they are executed."""
    journal: Journal = field(default_factory=lambda: Journal(()))
    """What a rollback needs in an emergency; its copies are known with the policy."""
    verdict: StoredVerdict | None = None
    """The newest of the release."""
    deliveries: dict[int, Delivery] = field(default_factory=dict)
    """Position → the last state of each hook that was begun."""
    promotion_keys: dict[str, str] = field(default_factory=dict)
    """Id → key of the promotions that it undoes, the newest first."""
    undone_hooks: dict[int, tuple[HookId, ...]] = field(default_factory=dict)
    """Position → which hooks it undoes: of each the id of the promotion, and the position in it."""
    kept: ActionWriter | None = None
    """What writes into the journal what was done; None: the decisions can be written."""
    not_stored: list[Delivery] = field(default_factory=list)
    """Outcomes of hooks that went back, while the decisions could not be written."""
    by_hand: list[str] = field(default_factory=list)
    """Lines for a shell by which a person does what hooks that go back did not do."""
    stopped_by: str = ""
    """Which later request has stopped this promotion; empty: none."""
    gate: BaselineGate = field(default_factory=BaselineGate)
    """Looks, before users return, whether a server is there that can serve them."""
    secrets: Sequence[str] = ()
    """Those of all its hooks: what one of them has sent, the receiver of another one may repeat."""

    def run(self, load: LoadPolicy) -> None:
        """Check that the intent may still be executed, claim it, and execute its hooks. Raises StoreBusy.

        If it may not, it ends with the reason. Nothing is done if another worker claims it first, or if it was executed
        from the journal already.
        """
        control = self.store.control
        try:
            policy = load(self.intent.release)
            self.journal = find_journal(self.store.path, policy.promotion.journal)
            self._settle_with_journal()
            if self.intent.state in FINAL_STATES:
                return
            check_execution(self.intent, observe(self.store, policy, self.intent, self.release, datetime.now(UTC)))
            if self.intent.action in PROMOTING:  # what goes back to the baseline does so whatever was changed
                control.verify_release(self.intent.release)
                self.journal.make()  # without it, nothing could be undone in an emergency
            planned, irreversible = plan_intent(self.store, policy.promotion, self.intent, self.release)
        except StoreBusy:  # no refusal: the intent can be executed later
            raise
        except EvaluatorError as error:
            self._end_refused(error)
            return
        self.verdict = find_latest(self.store, self.intent.release)
        self.promotion_keys = {promotion_id: control.intent(promotion_id).key for promotion_id in self.intent.undoes}
        self.deliveries = self._read_deliveries()
        if not control.claim(self.intent, self.worker):
            return
        self.intent = replace(self.intent, state=IntentState.SENT, claimed_by=self.worker)
        self._run_all(planned, irreversible)

    def _settle_with_journal(self) -> None:
        """Store what was executed from the journal, which may have executed or stopped this intent.

        Raises Refused for a promotion that is stopped, and StoreBusy for an action while another process goes back.
        """
        record_actions(self.store, self.journal)
        self.intent = self.store.control.intent(self.intent.id)
        actions = self._list_journal_actions()
        if self.intent.action in PROMOTING:
            if reason := explain_stop((action for action in actions if action.is_open), self.intent):
                what = f"{self.intent.id} ({self.intent.action} {self.intent.release})"
                raise Refused(f"{what} is not executed: {reason}")
            return
        for action in actions:
            if action.is_open and action.release.id == self.intent.release:
                raise StoreBusy(
                    f"{action.person.name} has begun a {action.action.label} of {action.release.id} from the journal"
                )

    def _list_journal_actions(self) -> list[JournalAction]:
        """List the actions in the journal; none if it cannot be read."""
        try:
            return list_actions(self.journal.read())
        except StoreError:
            return []

    def _check_not_stopped(self) -> None:
        """Look whether a hold or a rollback was requested since the promotion began. Raises _StoppedError.

        The state of its next hook is in the journal already. What goes back without the database first writes that it
        begins, then reads these states: so one of both sees the other.
        """
        reason = explain_stop(self._list_journal_actions(), self.intent)
        if not reason:
            with suppress(StoreError):  # then the journal alone counts
                reason = self._explain_later_stop()
        if reason:
            self.stopped_by = reason
            raise _StoppedError

    def _explain_later_stop(self) -> str:
        """Say what was requested since a promotion began, and stops it; empty: nothing was. Raises StoreError."""
        return explain_later_stop(self.store, self.intent)

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
            text = f"{error.message}; {count_of(acknowledged, 'hook')} done before"
        self.store.control.settle(self.intent.id, intent_state, self.worker, text)

    def _run_all(self, planned: Sequence[PlannedHook], irreversible: Sequence[str]) -> None:
        """Execute the hooks of an action in order, announce the result, and end the intent with a summary.

        A required hook that is not acknowledged stops all after it, except those that announce. A rollback goes on; but
        where users may still be at the candidate, nothing is undone that was done before they came there.
        `irreversible`: sentences about what a rollback cannot undo, for the summary.
        """
        self.secrets = list_secrets(hook.step for hook in planned)
        hooks = [hook for hook in planned if hook.event != ANNOUNCE]
        failed_hooks: list[str] = []
        states: list[IntentState] = []
        is_returned = True
        broken: set[str] = set()
        for hook in hooks:
            if (not is_returned and hook.needs_returned_traffic) or hook.chain in broken:
                continue
            states.append(self._run_hook(hook))
            self.gate.note(hook, states[-1])
            if states[-1] is not IntentState.ACKNOWLEDGED:
                is_returned = is_returned and not (hook.returns_traffic or hook.chain)
                broken |= {hook.chain} - {""}
                failed_hooks.append(f"hook {hook.position + 1} ({hook.entry.kind}) {states[-1]}")
                if self.stopped_by:
                    failed_hooks.append(self.stopped_by)
                if self.stopped_by or self._ends_with(hook):
                    break
        intent_state = IntentState.ACKNOWLEDGED
        summary = [f"{count_of(len(states), 'hook')} done" if states else explain_no_hooks(self.intent)]
        if failed_hooks:
            intent_state = IntentState.UNKNOWN if IntentState.UNKNOWN in states else IntentState.FAILED
            summary = failed_hooks
            if not_executed := len(hooks) - len(states):
                why = "" if is_returned else f", because {STILL_AT_CANDIDATE}"
                summary = [*failed_hooks, f"{not_executed} after it not executed{why}"]
        for hook in planned:
            if hook.event == ANNOUNCE:
                self._run_hook(hook, outcome=intent_state)
        self._settle(intent_state, "; ".join([*summary, *irreversible]))

    def _ends_with(self, hook: PlannedHook) -> bool:
        """Whether no hook is executed after this one, which was not acknowledged."""
        return hook.step.required and self.intent.action is not Action.ROLLBACK

    def _settle(self, state: IntentState, text: str) -> None:
        """Store how the intent ended, also outcomes of hooks that could not be stored before; else in the journal.

        Raises OutcomeNotStored if only the journal has it, and StoreError for a promotion that cannot be stored.
        """
        is_undone = self.intent.action is Action.ROLLBACK and state is IntentState.ACKNOWLEDGED
        undone = list(self.promotion_keys.values()) if is_undone else []
        if self.intent.action in PROMOTING:
            self.store.control.settle(self.intent.id, state, self.worker, text)
            return
        if self.kept:
            text = f"{text}; {self.kept.describe()}"
        try:
            for delivery in self.not_stored:
                self.store.control.deliver(delivery, self.intent.release, self.worker)
            self.store.control.settle(self.intent.id, state, self.worker, text)
        except StoreError as error:
            self._keep().end(state, undone)
            raise self._explain_kept(error, state) from error
        if self.kept:
            self.kept.end(state, undone)
            self.kept.record()
        with suppress(StoreError):  # then the journal undoes them once more, which changes nothing
            record_closed(self.journal, undone)

    def _keep(self) -> ActionWriter:
        """Return what writes into the journal what this intent does; it begins with the hooks that were executed."""
        if self.kept is None:
            self.kept = ActionWriter(self.journal, self.intent, self.release, tuple(self.promotion_keys.values()))
            for delivery in self.deliveries.values():
                self.kept.add(delivery, self._find_undone(delivery))
        return self.kept

    def _find_undone(self, delivery: Delivery) -> list[HookId]:
        """Find which hooks of promotions a hook undoes: of each the promotion's key, and a position."""
        undone = self.undone_hooks.get(delivery.position, ())
        return [(self.promotion_keys[intent_id], position) for intent_id, position in undone]

    def _explain_kept(self, error: StoreError, state: IntentState) -> OutcomeNotStored:
        """Explain that the intent was executed, and where its outcome is."""
        lines = [
            f"{delivery.event}: {delivery.hook}  {delivery.outcome.state}: {delivery.outcome.text}"
            for delivery in self.deliveries.values()
        ]
        kept = self._keep()
        where = f"nor can the journal: {kept.problem}" if kept.problem else "the journal has it"
        hint = "the next command that can use the decisions adds it to the audit trail"
        if kept.problem:
            hint = "keep what is above, and add it when the decisions can be used: `evaluator audit note`"
        message = (
            f"{self.intent.id} ({self.intent.label} {self.intent.release}) was executed ({state}), but the "
            f"decisions cannot be written ({error.message}); {where}"
        )
        return OutcomeNotStored(message, state=state.value, lines=lines, by_hand=self.by_hand, hint=hint)

    def _run_hook(self, hook: PlannedHook, *, outcome: str = "") -> IntentState:
        """Execute a hook and store its outcome; returns its state. A hook whose outcome is known is not executed again.

        Nor is a hook that a killed worker had begun, unless it may be repeated (idempotent): its outcome is unknown.
        Before the hook changes a value, the value is stored, so that it can be restored even if this process is killed.
        `outcome`: how the action ended, for a hook that announces it; else empty.
        """
        delivery = self.deliveries.get(hook.position)  # of an earlier attempt; None: this is the first
        if hook.undoes:
            self.undone_hooks[hook.position] = (hook.undoes, *hook.also_undoes)
        state = delivery.outcome.state if delivery else IntentState.REQUESTED
        if state in FINAL_STATES:
            return state
        may_be_repeated = hook.step.hook.idempotent or hook.event == VERIFY
        if delivery and state is IntentState.SENT and not may_be_repeated:
            may_be_done = replace(delivery.outcome, state=IntentState.UNKNOWN, text=_MAY_BE_DONE_TEXT)
            return self._store_outcome(hook, may_be_done, attempts=0)
        context = make_context(self.intent, self.release, self.verdict, hook, outcome=outcome)
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
            self._store_outcome(hook, HookOutcome(IntentState.SENT, "", write_earlier(to_restore)), attempts=1)
            is_counted = True
            is_stopped_by_others = self.intent.action in PROMOTING and not self.intent.is_final
            if is_stopped_by_others and hook.event not in CHANGE_NOTHING:
                self._check_not_stopped()

        try:
            if to_nothing := self.gate.explain(hook, context):
                hook_outcome = Outcome("failed", to_nothing)
            elif hook.event == UNDO:
                store_earlier_value(None)  # what takes a change back is not taken back itself
                hook_outcome = undo_hook(hook.step, context, hook.earlier)
            else:
                hook_outcome = run_hook(hook.step, context, store_earlier_value)
        except _StoppedError:
            hook_outcome = Outcome("failed", f"it was not executed: {self.stopped_by}", earlier=first_value)
        hook_outcome = redact_outcome(hook.name_not_restored(hook_outcome), self.secrets)
        if hook_outcome.state != "acknowledged" and self.intent.action not in PROMOTING and hook.event != ANNOUNCE:
            self.by_hand += [f"# {hook.describe(context)}: {hook_outcome.did}", *list_by_hand(hook, context)]
        # `store_earlier_value` was not called if the value could not be read: then this attempt is counted below.
        attempts = 0 if is_counted else 1
        state = IntentState(hook_outcome.state)
        text = hook_outcome.did
        if hook.event == VERIFY and state is IntentState.UNKNOWN:
            state = IntentState.FAILED  # it changes nothing, and has not said that the step succeeded
        elif hook.event != VERIFY and may_be_done_before and state is IntentState.FAILED:
            # An earlier attempt may have been done, and a failure now does not undo it.
            state, text = IntentState.UNKNOWN, f"{text}; an earlier attempt may have been done"
        to_restore = combine_earlier(first_value, hook_outcome.earlier)
        undo = "" if state is IntentState.FAILED else write_earlier(to_restore)  # a failed hook changed nothing
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
        if self.intent.action in PROMOTING and not self.intent.is_final and hook.event not in CHANGE_NOTHING:
            is_about_to_act = outcome.state is IntentState.SENT
            with nullcontext() if is_about_to_act else suppress(StoreError):
                record_hook(self.journal, self.intent, self.release, delivery, hook.words)
        self._store_delivery(delivery)
        return outcome.state

    def _store_delivery(self, delivery: Delivery) -> None:
        """Store the state of a hook. Raises StoreBusy if another process holds the decisions for too long.

        The outcome of an executed hook is known nowhere else, so storing it is tried for KEEP_FOR_S. For a hook of a
        promotion that is only about to be executed (SENT) it is tried once: the hook is then left to the next worker.
        What goes back waits for the decisions once; then the journal gets its outcomes, and they are stored after all
        hooks.
        """
        is_about_to_act = delivery.outcome.state is IntentState.SENT
        if self.intent.action in PROMOTING:
            self._keep_trying(delivery, 0.0 if is_about_to_act else KEEP_FOR_S)
            self.deliveries[delivery.position] = delivery
            return
        if self.kept is None:
            try:
                self.store.control.deliver(delivery, self.intent.release, self.worker)
            except StoreError:
                self._keep()
        if self.kept:
            self.kept.add(delivery, self._find_undone(delivery))
            if not is_about_to_act:
                self.not_stored.append(delivery)
        self.deliveries[delivery.position] = delivery

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

    def _read_deliveries(self) -> dict[int, Delivery]:
        """Read the intent's hooks that were begun, by their position."""
        return {delivery.position: delivery for delivery in self.store.control.deliveries(self.intent.id)}
