"""Going back without any database: what promotions changed stands in the journal, and is undone from there.

An action writes into the journal that it begins, then acts, and looks again when it has acted. A promotion that is
being executed meanwhile sees that it has begun, and stops before its next hook; what its last hook changed is undone.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from evaluator.errors import EvaluatorError, Refused, StoreError
from evaluator.guard.returning import is_guarded
from evaluator.hooks import (
    HookContext,
    Outcome,
    list_secrets,
    redact_outcome,
    run_hook,
    undo_hook,
)
from evaluator.intents.baseline_servers import BaselineGate, mark_teardowns
from evaluator.intents.journal_records import (
    HookId,
    JournalAction,
    JournalPromotion,
    list_actions,
    list_kept,
    list_promotions,
    list_teardowns,
    name_process,
    overall_state,
    record_began,
    record_did,
    record_ended,
)
from evaluator.intents.people import may_act_alone, why_not
from evaluator.intents.steps import STILL_AT_CANDIDATE, PlannedHook, list_by_hand, make_context, plan_steps
from evaluator.policy.going_back import choose_policy_to_go_back
from evaluator.policy.promotion import PromotionRules
from evaluator.records import Release
from evaluator.records.intents import (
    ANNOUNCE,
    PROMOTING,
    UNDO,
    Action,
    Delivery,
    HookOutcome,
    Intent,
    IntentState,
    Person,
    PersonRole,
)
from evaluator.store.control_file import ControlFile
from evaluator.store.journal import Journal, Record, write_now
from evaluator.store.locks import locked_services
from evaluator.wording import quote_command

_TIME_S = 600.0
"""How long a hook from the journal may take, and how long one that is being executed is waited for at the end."""
_SHORT_WAIT_S = 15.0
"""How long to wait for the hook of a promotion that is being executed, before it is undone all the same."""
_OTHERS_WAIT_S = 60.0
"""How long to wait for another process that goes back, too."""
_MOST_ROUNDS = 10
"""How often an action looks for what a promotion has changed meanwhile."""
_POLL_S = 0.1

Say = Callable[[str], None]


def load_rules(find: Callable[[], Path | None], release_id: str, journal: Journal, say: Say) -> PromotionRules:
    """Load the policy's rules of promotion without a database: by the services that the journal has of a release.

    `find`: finds the policy. A mistake in a policy is no obstacle: see `choose_policy_to_go_back`.
    """
    services: list[str] = []
    with suppress(StoreError):
        for promotion in list_promotions(journal.read()):
            if promotion.release.id == release_id:
                services = [service.name for service in promotion.release.services]
    return choose_policy_to_go_back(find, lambda: services or [""], say).promotion


@dataclass(frozen=True, slots=True)
class Acted:
    """What was done without the database."""

    state: IntentState
    lines: tuple[str, ...]
    """A sentence about each hook."""
    by_hand: tuple[str, ...] = ()
    """What is left to do by hand: lines for a shell, each hook's after a comment that says what it does."""
    not_written: str = ""
    """Why the journal does not have what was done; empty: it has."""


def act_from_journal(
    store: Path,
    journal: Journal,
    rules: PromotionRules,
    person: Person,
    action: Action,
    release_id: str,
    reason: str,
    say: Say,
    *,
    request: str = "",
    stop: threading.Event | None = None,
    baseline_runs: bool = False,
) -> Acted:
    """Roll back or hold a release without a database, and write into the journal what was done.

    `store`: path of the store. `rules`: those of the policy. Hooks of promotions are undone in the same order as
    otherwise, and hooks of the policy for this action are executed, too. Approvals are not asked for: they could not be
    kept, and going back must not wait for them; so the person needs the role to act alone. `say` gets a sentence before
    each hook. `request`: key of the request in the database that this executes. `stop`: when it is set, nothing is
    waited for any more. `baseline_runs`: as in `ActionRequest`.
    Raises Refused if the person may not do this, if there is nothing to undo, or if another
    release of the service was promoted later, and StoreError if no copy of the journal can be read.
    """
    going_back, _ = _plan(
        store, journal, rules, person, action, release_id, reason, say,
        request=request, stop=stop, baseline_runs=baseline_runs,
    )  # fmt: skip
    return going_back.run()


def preview_from_journal(
    store: Path, journal: Journal, rules: PromotionRules, person: Person, action: Action, release_id: str, reason: str
) -> list[str]:
    """List what `act_from_journal` would do, hook by hook, with the commands by which a person does the same.

    Raises the errors of `act_from_journal`.
    """
    going_back, planned = _plan(store, journal, rules, person, action, release_id, reason, lambda _text: None)
    lines = [f"# {action.label} {release_id}, from the journal"]
    if going_back.is_guarded:
        lines.append("# a rollout of it keeps its traffic as it is, and no hook is executed")
    for hook in planned:
        context = make_journal_context(going_back.own, hook, hook.position, "")
        lines.append(f"# {hook.position + 1}. {hook.event}: {hook.describe(context)}")
        lines += list_by_hand(hook, context) if hook.event != ANNOUNCE else []
    return [*lines, *(f"# not taken back: {text}" for text in going_back.irreversible)]


def _plan(
    store: Path,
    journal: Journal,
    rules: PromotionRules,
    person: Person,
    action: Action,
    release_id: str,
    reason: str,
    say: Say,
    *,
    request: str = "",
    stop: threading.Event | None = None,
    baseline_runs: bool = False,
) -> tuple[_GoingBack, list[PlannedHook]]:
    """Prepare an action from the journal: returns it with its hooks; arguments and errors of `act_from_journal`."""
    if action in PROMOTING:
        raise Refused(f"{action.label} needs the database")
    if not may_act_alone(rules, person.names, action):
        role = PersonRole.ANALYST if action is Action.HOLD else PersonRole.APPROVER
        raise Refused(why_not(rules, person, role, f"{action.label} without approvals"))
    promotions = list_promotions(journal.read())
    own = [promotion for promotion in promotions if promotion.release.id == release_id]
    release = _combine_versions(release_id, own)
    if action is Action.ROLLBACK:
        _refuse_overtaken(promotions, own)
    going_back = _GoingBack(
        ControlFile(store, 0.0),
        journal,
        rules,
        JournalAction(
            secrets.token_hex(8),
            action,
            release,
            person,
            reason,
            write_now(),
            tuple(promotion.key for promotion in reversed(own)) if action is Action.ROLLBACK else (),
            request,
            name_process(),
        ),
        say,
        stop or threading.Event(),
        baseline_runs=baseline_runs,
        is_guarded=action is Action.HOLD and is_guarded(store, release_id),
    )
    planned = going_back.plan()
    is_undone = all(hook.event == ANNOUNCE for hook in planned)
    if action is Action.ROLLBACK and is_undone and not any(promotion.list_running() for promotion in own):
        why = "; ".join(going_back.irreversible) or _explain_nothing(journal, release_id)
        raise Refused(
            f"the journal has no hook of {release_id} to undo: {why}",
            hint=f"`{quote_command('hold', release_id)}` stops a promotion that waits or is being executed; if traffic "
            "must go back, change the router by hand",
        )
    return going_back, planned


def _explain_nothing(journal: Journal, release_id: str) -> str:
    """Say why the journal has nothing of a release to undo: by whom it was rolled back, or that nothing is known."""
    for action in reversed(list_actions(journal.read())):
        is_rolled_back = action.action is Action.ROLLBACK and action.state is IntentState.ACKNOWLEDGED
        if is_rolled_back and action.release.id == release_id:
            return f"{action.person.name} rolled it back at {action.at[:19].replace('T', ' ')} UTC"
    return "no promotion of it is in effect, or none is known"


def _combine_versions(release_id: str, promotions: Sequence[JournalPromotion]) -> Release:
    """Combine versions of promotions, the oldest first: what the newest put live, and what was before the oldest."""
    if not promotions:
        return Release(release_id)
    baselines = {service.name: service.baseline for service in promotions[0].release.services}
    services = (
        replace(service, baseline=baselines.get(service.name, service.baseline))
        for service in promotions[-1].release.services
    )
    return Release(release_id, tuple(services))


def _refuse_overtaken(promotions: Sequence[JournalPromotion], own: Sequence[JournalPromotion]) -> None:
    """Raise Refused if another release of the service was promoted after the last of these promotions (`own`).

    It builds on what they changed, so it is rolled back first. `promotions`: all, the oldest first.
    """
    if not own:
        return
    services = _list_services(own[-1].release)
    for later in promotions[promotions.index(own[-1]) + 1 :]:
        if later.changed_something and services & _list_services(later.release):
            raise Refused(
                f"{later.release.id} was promoted after {own[-1].release.id}",
                hint=f"roll back {later.release.id} first, or instead",
            )


def _list_services(release: Release) -> set[str]:
    """List the names of the services of a release; its own name if it has none."""
    return {service.name for service in release.services if service.name} or {release.id}


@dataclass(slots=True)
class _GoingBack:
    """A hold or a rollback that is executed from the journal."""

    control: ControlFile
    """Where the decisions are, which may not be used."""
    journal: Journal
    rules: PromotionRules
    own: JournalAction
    say: Say
    stop: threading.Event
    baseline_runs: bool = False
    """Has the person said that the servers of the baseline run?"""
    is_guarded: bool = False
    """Is a rollout of the release held that a guard watches? Its traffic stays as it is, so no hook is executed."""
    gate: BaselineGate = field(default_factory=BaselineGate)
    """Looks, before users return, whether a server is there that can serve them."""
    records: Sequence[Record] = ()
    """What was read of the journal last."""
    deliveries: list[Delivery] = field(default_factory=list)
    """The hooks that were executed, with their outcomes."""
    lines: list[str] = field(default_factory=list)
    irreversible: tuple[str, ...] = ()
    by_hand: list[str] = field(default_factory=list)
    not_written: str = ""
    """Why something could not be written into the journal; empty: all was."""
    planned: dict[HookId, datetime] = field(default_factory=dict)
    """Hooks of promotions that are planned to be undone, and when their state was written."""
    undone: dict[HookId, datetime] = field(default_factory=dict)
    """Those of them that were undone, or tried: they are tried again only if they have acted since."""
    is_traffic_left: bool = False
    """Could a router not be taken back? Then undoing acts could take down servers with users."""
    broken: set[str] = field(default_factory=set)
    """Chains of hooks that restore instances, of which one has failed."""
    secrets: Sequence[str] = ()
    """Those of all its hooks: what one of them has sent, the receiver of another one may repeat."""

    def plan(self, *, only_undo: bool = False) -> list[PlannedHook]:
        """Plan the hooks that are to be executed now, by what the journal has; with `only_undo`, only those that undo.

        A hook that cannot be made any more is left to a person, and stops no other.
        """
        own = self._list_promotions()
        to_undo = []
        if self.own.action is Action.ROLLBACK:
            for promotion in reversed(own):
                to_undo += [delivery for delivery in promotion.to_deliveries() if self._is_to_be_undone(delivery)]
        promoted = {promotion.key: promotion.release for promotion in own}
        words = {hook: of_hook for promotion in own for hook, of_hook in promotion.list_words().items()}
        planned, irreversible = plan_steps(self.rules, self.own.action, to_undo, self.own.release, promoted, words)
        self.irreversible = self.irreversible or (*irreversible, *list_kept(self.records, own if to_undo else []))
        if self.is_guarded:
            planned = tuple(hook for hook in planned if hook.event != self.own.action)
        if not self.baseline_runs:
            planned = mark_teardowns(planned, list_teardowns(self.records, own), to_undo)
        self.secrets = list({*self.secrets, *list_secrets(hook.step for hook in planned)})
        return [hook for hook in planned if hook.event == UNDO or not only_undo]

    def _is_to_be_undone(self, delivery: Delivery) -> bool:
        """Whether a hook of a promotion is still to be undone by this action."""
        hook_id = (delivery.intent, delivery.position)
        if self.undone.get(hook_id) == delivery.at:
            return False
        self.planned[hook_id] = delivery.at
        return True

    def run(self) -> Acted:
        """Write that it begins, act, look again at what a promotion has changed meanwhile, and write how it ended."""
        self._write(lambda: record_began(self.journal, self.own))
        if other := self._wait_for_others():
            return self._end_repeated(other)
        with ExitStack() as locks:
            if self._lock(locks):
                self._wait_for_hooks(_SHORT_WAIT_S)
            state = self._run_hooks()
        is_undone = self.own.action is Action.ROLLBACK and state is IntentState.ACKNOWLEDGED
        self._write(lambda: record_ended(self.journal, self.own.id, state, self.own.undoes if is_undone else ()))
        return Acted(state, (*self.lines, *self.irreversible), tuple(self.by_hand), self.not_written)

    def _run_hooks(self) -> IntentState:
        """Execute the hooks, then those that undo what a promotion has changed meanwhile; returns how it ended."""
        planned = self.plan()
        acting = [hook for hook in planned if hook.event != ANNOUNCE]
        for _ in range(_MOST_ROUNDS):
            for hook in acting:
                is_left_out = self.is_traffic_left and hook.needs_returned_traffic
                if not is_left_out and hook.chain not in self.broken:
                    self._execute(hook)
            if self.own.action is not Action.ROLLBACK:
                break
            self._wait_for_hooks(_TIME_S)
            if self.is_traffic_left or not (acting := self.plan(only_undo=True)):
                break
        self.lines += [f"what was done before it is not undone: {STILL_AT_CANDIDATE}"] if self.is_traffic_left else []
        if self.is_guarded:
            self.lines.append(
                "the rollout keeps its traffic as it is, and no hook is executed; its driver waits once it can use the "
                "decisions, and goes back after its lease if it cannot"
            )
        state = overall_state([delivery.outcome.state for delivery in self.deliveries])
        for hook in planned:
            if hook.event == ANNOUNCE:
                self._execute(hook, outcome=state.value)
        return state

    def _lock(self, locks: ExitStack) -> bool:
        """Lock the services of the release, as processes do that execute requests; returns whether that was possible.

        It is waited for a little, for the hook that another process is executing. Going back goes on without the lock.
        """
        for wait_s in (0.0, _SHORT_WAIT_S):
            try:
                with ExitStack() as attempt:
                    if attempt.enter_context(locked_services(self.control, self._list_services(), wait_s)):
                        locks.push(attempt.pop_all())
                        return True
            except (StoreError, OSError):  # a full disk, or a folder that is gone
                return True
            if not wait_s:
                self.say("waits for the hook that another process is executing")
        return False

    def _list_services(self) -> tuple[str, ...]:
        """List the services that processes lock which execute requests of the release."""
        return tuple(sorted({service.name for service in self.own.release.services})) or (self.own.release.id,)

    def _execute(self, hook: PlannedHook, *, outcome: str = "") -> None:
        """Execute a hook, and write its state into the journal before and after. `outcome`: for one that announces."""
        position = len(self.deliveries)
        context = make_journal_context(self.own, hook, position, outcome)
        description = hook.describe(context)
        self.say(description)
        undone = [hook.undoes, *hook.also_undoes] if hook.undoes else []
        self.undone |= {hook_id: self.planned[hook_id] for hook_id in undone}
        is_half_done = not hook.step.hook.idempotent and bool(self._list_half_undone() & set(undone))
        delivery = Delivery(
            "", position, hook.entry.kind, 1, HookOutcome(IntentState.SENT, ""), datetime.now(UTC), hook.event,
            json.dumps(dict(hook.entry.options), sort_keys=True),
        )  # fmt: skip
        if to_nothing := self.gate.explain(hook, context):
            result = Outcome("failed", to_nothing)
        elif is_half_done:
            result = Outcome("unknown", "a process that undid it ended before it wrote the outcome; it may be undone")
        else:
            self._write(lambda: record_did(self.journal, self.own.id, delivery, undone))
            undoing = hook.event == UNDO
            result = undo_hook(hook.step, context, hook.earlier) if undoing else run_hook(hook.step, context)
            result = redact_outcome(hook.name_not_restored(result), self.secrets)
        done = replace(delivery, outcome=HookOutcome(IntentState(result.state), result.did), at=datetime.now(UTC))
        self._write(lambda: record_did(self.journal, self.own.id, done, undone))
        self.deliveries.append(done)
        self.gate.note(hook, done.outcome.state)
        self.lines.append(f"{hook.event}: {hook.entry.kind}  {result.state}: {result.did}")
        if result.state != "acknowledged" and hook.event != ANNOUNCE:
            self.broken |= {hook.chain} - {""}
            self.is_traffic_left = self.is_traffic_left or hook.returns_traffic or bool(hook.chain)
            self.by_hand += [f"# {description}: {result.did}", *list_by_hand(hook, context)]

    def _list_promotions(self) -> list[JournalPromotion]:
        """List the promotions of the release in the journal, the oldest first."""
        return [promotion for promotion in list_promotions(self._read()) if promotion.release.id == self.own.release.id]

    def _list_half_undone(self) -> set[HookId]:
        """List the hooks whose undoing another process has begun, of which it is not known whether it was done."""
        return {
            (promotion.key, position) for promotion in self._list_promotions() for position in promotion.half_undone
        }

    def _read(self) -> Sequence[Record]:
        """Read the journal; what was read last if it cannot be read any more."""
        with suppress(StoreError):
            self.records = self.journal.read()
        return self.records

    def _write(self, write: Callable[[], None]) -> None:
        """Write into the journal; going back goes on without it."""
        try:
            write()
        except EvaluatorError as error:
            self.not_written = error.message

    # -------------------------------------------------------------- who acts at the same time

    def _wait_for_others(self) -> JournalAction | None:
        """Wait until other processes that hold or roll back the same release, and began before, have ended.

        Returns the one that has done what this one was to do; None: there is none.
        """
        earlier = None
        deadline = time.monotonic() + _OTHERS_WAIT_S
        while True:
            actions = list_actions(self._read())
            ids = [action.id for action in actions]
            before = actions[: ids.index(self.own.id)] if self.own.id in ids else actions
            running = [action for action in before if action.release.id == self.own.release.id and action.is_open]
            if earlier is not None and not running:
                ended = next(action for action in actions if action.id == earlier.id)
                is_same = ended.action is self.own.action and ended.state is IntentState.ACKNOWLEDGED
                return ended if is_same else None
            if not running or time.monotonic() >= deadline or self.stop.is_set():
                return None
            if earlier is None:
                earlier = running[-1]
                self.say(f"waits for the {earlier.action.label} that {earlier.person.name} has begun")
            time.sleep(_POLL_S)

    def _end_repeated(self, other: JournalAction) -> Acted:
        """End without a hook, because another process has done the same meanwhile."""
        self._write(lambda: record_ended(self.journal, self.own.id, IntentState.ACKNOWLEDGED, ()))
        line = f"{other.person.name} has done it meanwhile, so nothing was left to do"
        return Acted(IntentState.ACKNOWLEDGED, (line,), (), self.not_written)

    def _wait_for_hooks(self, wait_s: float) -> None:
        """Wait until hooks of the release's promotions that are being executed have ended, `wait_s` seconds at most.

        No other hook of them begins, because it is in the journal that this action has begun.
        """
        deadline = time.monotonic() + wait_s
        is_said = False
        while not self.stop.is_set() and time.monotonic() < deadline:
            running = [record for promotion in self._list_promotions() for record in promotion.list_running()]
            if not running:
                return
            if not is_said:
                self.say(f"waits for the hook {running[0]['hook']} of the promotion, which is being executed")
                is_said = True
            time.sleep(_POLL_S)


def make_journal_context(own: JournalAction, hook: PlannedHook, position: int, outcome: str) -> HookContext:
    """Make what a hook of an action is given. What undoes the same hook has the same key in each attempt.

    `position`: of the hook among those that are executed. `outcome`: how the action ended, for one that announces it.
    """
    now = datetime.now(UTC)
    intent = Intent(
        id="", key=f"evt_{own.id}", release=own.release.id, action=own.action, requester=own.person.name,
        reason=own.reason, verdict_hash="", data_hash="", policy_hash="", requested_at=now,
        expires_at=now + timedelta(seconds=_TIME_S), requester_names=own.person.names,
    )  # fmt: skip
    context = make_context(intent, own.release, None, replace(hook, position=position), outcome=outcome)
    if hook.undoes:
        key, of_position = hook.undoes
        context = replace(context, idempotency_key=f"{key}-{of_position}-undone")
    return context
