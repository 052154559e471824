"""Steps of a rollout as intents: each act, each shift of traffic and each question to people is one.

The process that drives a rollout requests the intent of a step, and executes it when no agreement is missing. The
key of an intent derives from the rollout and the position of the step, so requesting it twice gives the same intent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from evaluator.errors import EvaluatorError, Refused, StepWaits, StoreBusy, UsageError
from evaluator.hooks import Router, Step
from evaluator.intents.baseline_servers import is_promoted_for_good, may_take_down
from evaluator.intents.checking import BEFORE_RESTART, hash_verdict, is_before_restart
from evaluator.intents.executing import Execution, LoadPolicy
from evaluator.intents.journal_records import JournalAction, record_teardown
from evaluator.intents.observing import find_in_effect, find_latest, services_of
from evaluator.intents.people import may
from evaluator.intents.rollout_plans import (
    count_agreements,
    explain_end,
    explain_full_share,
    explain_hold,
    explain_missing_agreement,
    find_grounds,
    find_seen_until,
    find_winner,
    plan_act,
    read_plan,
    read_rollout,
    read_rules,
)
from evaluator.intents.steps import PlannedHook
from evaluator.intents.versions import read_hook_release
from evaluator.policy.promotion import PromotionRules
from evaluator.records import VerdictWord
from evaluator.records.intents import (
    FINAL_KEY,
    FINAL_STATES,
    IRREVERSIBLE_KEY,
    QUESTION_KEY,
    Action,
    Delivery,
    HookEntry,
    Intent,
    IntentState,
    PersonRole,
    are_same_person,
)
from evaluator.records.rollouts import Act, Rollout, RolloutPlan, Unanswered
from evaluator.store import Store
from evaluator.store.journal import find_journal
from evaluator.store.rollouts import Rollouts
from evaluator.store.stopping import request_rollback
from evaluator.wording import format_duration

Wrap = Callable[[HookEntry, Step], Step]
"""Replaces the router of a shift by one that lets the guard set the shares."""

PROGRAM = "command"
"""Kind of the hook whose answer is what its program printed."""
MOST_OF_LINE = 200
"""Characters of a line of a program that are shown."""
_NO_LIMIT = timedelta(days=365)
"""How long a step is valid that waits for no answer, or whose question may stay unanswered."""


def request_step(store: Store, rollout: Rollout, plan: RolloutPlan, position: int, question: str = "") -> Intent:
    """Request the intent of a step, or of a question about it; returns the stored one if it was requested before.

    `question`: why people are asked, a part of a sentence; empty: the step itself, which needs the agreements of its
    act. A question needs one agreement, as a promotion does: by another person than who started the rollout, unless
    the policy lets one person promote alone. An answer counts until `answer_within_s` has passed.
    Raises PlanNotReadable.
    """
    rollouts, now = Rollouts(store.control.file), datetime.now(UTC)
    step = plan.steps[position]
    key = _make_key(rollout, step, position, is_question=bool(question))
    known = rollouts.find_step(key)  # mostly: then nothing is written
    if known and (known.state in FINAL_STATES or now < known.expires_at):
        return known
    rules = read_rules(rollout)
    is_final = isinstance(step, Act) and step.final
    approvals_needed = 1 if question else step.agree if isinstance(step, Act) else 0
    is_distinct = _is_distinct(rules, rules.needed(Action.PROMOTE) if question else approvals_needed)
    verdict, data_hash = find_grounds(store.control.verdicts(rollout.release), rollouts.events(rollout.id), position)
    draft = Intent(
        id="",
        key=key,
        release=rollout.release,
        action=Action.STEP,
        requester=rollout.person,
        reason=_describe_step(rollout, plan, position, question),
        verdict_hash=hash_verdict(verdict) if verdict else "",
        data_hash=data_hash,
        policy_hash=plan.policy_hash,
        requested_at=now,
        expires_at=now + _find_validity(plan, step, approvals_needed, is_question=bool(question)),
        approvals_needed=0 if is_final else approvals_needed,
        distinct=is_distinct,
        requester_names=rollout.names,
        hooks_hash=rollout.plan_hash,
        rollout=rollout.id,
        step=position,
    )
    return rollouts.request_step(draft)


def _describe_step(rollout: Rollout, plan: RolloutPlan, position: int, question: str) -> str:
    """Say which step is requested, and why people are asked."""
    name = f"{plan.steps[position].name} (step {position + 1} of {len(plan.steps)} of {rollout.id})"
    if not question:
        return f"{name}: {rollout.reason}"
    return f"{name}: {question}. With an agreement the rollout goes on all the same"


def describe_request(store: Store, intent: Intent) -> list[str]:
    """Say what follows from the answer to a step that people are asked about; without what its hooks do.

    Raises PlanNotReadable and UnknownName.
    """
    rollout = read_rollout(store, intent)
    plan = read_plan(rollout)
    step = plan.steps[intent.step]
    silence = "the rollout goes back to the baseline"
    lines = [f"who declines it turns the rollout {rollout.id} back: all traffic to the baseline, and its acts undone"]
    if plan.unanswered is Unanswered.STAY:
        silence = "the rollout goes on waiting"
    lines.append(f"without an answer within {format_duration(plan.answer_within_s)}, {silence}")
    if isinstance(step, Act) and step.irreversible and not intent.is_question:
        lines.append("there is no way back after it")
    return lines


def _is_distinct(rules: PromotionRules, approvals_needed: int) -> bool:
    """Do agreements to an act have to come from other people than who started the rollout? As for a promotion."""
    return approvals_needed > 1 or not rules.approvals.self_approval


def _find_validity(plan: RolloutPlan, step: object, approvals_needed: int, *, is_question: bool) -> timedelta:
    """Find how long a step can be agreed to and executed."""
    if not approvals_needed or plan.unanswered is Unanswered.STAY:
        return _NO_LIMIT
    retry_for_s = step.retry_for_s if isinstance(step, Act) and not is_question else 0.0
    return timedelta(seconds=plan.answer_within_s + retry_for_s)


def _make_key(rollout: Rollout, step: object, position: int, *, is_question: bool) -> str:
    """Make the key of a step, which says how a rollback treats it. No rollout of another store has the same one."""
    identity = json.dumps([rollout.id, rollout.release, rollout.started_at.isoformat(), position])
    prefix = "evt_"
    if is_question:
        prefix = QUESTION_KEY
    elif isinstance(step, Act) and step.final:
        prefix = FINAL_KEY
    elif isinstance(step, Act) and step.irreversible:
        prefix = IRREVERSIBLE_KEY
    return prefix + hashlib.sha256(identity.encode()).hexdigest()[:32]


# ------------------------------------------------------------------ executing


def execute_step(
    store: Store,
    load_policy: LoadPolicy,
    intent_id: str,
    worker: str,
    *,
    wrap: Wrap = lambda _entry, step: step,
    wait_s: float = 0.0,
) -> Intent:
    """Execute the hooks of a step that is approved, or go on with one whose process was killed; returns its intent.

    An intent in another state is returned as it is. Hooks that were acknowledged are not executed again, and each has
    the same key in every attempt. `load_policy` reads the current policy, whose roles say who may agree; if it cannot
    be read, those at the start count. `wrap` gets the entry and the hook of each router of a shift, and returns what is
    executed instead: what that reads has to be what the router itself reads, because going back restores it by the
    options of the entry. A refusal is not raised: the intent fails with its reason. Raises StepWaits while a person
    holds the rollout, and StoreBusy while another process executes an intent of its services for longer than `wait_s`.
    """
    intent = store.control.intent(intent_id)
    with store.control.alone(services_of(store, intent.release), wait_s) as is_locked:
        if not is_locked:
            raise StoreBusy(
                f"another process is executing an intent of {intent.release}", hint="see `evaluator hooks log`"
            )
        intent = store.control.intent(intent_id)  # another process may have executed it meanwhile
        if intent.state in (IntentState.APPROVED, IntentState.SENT) and not intent.is_question:
            release = read_hook_release(store, intent.release, intent.action, intent.verdict_hash, intent.undoes)
            StepExecution(store, worker, intent, release, wrap=wrap).run(load_policy)
        return store.control.intent(intent_id)


def reopen_step(store: Store, intent_id: str, worker: str) -> Intent:
    """Let a step that failed be executed again with the same keys; returns its intent, unchanged in another state."""
    intent = store.control.intent(intent_id)
    if intent.state is not IntentState.FAILED or intent.is_question:
        return intent
    try:
        return store.control.reopen(intent_id, worker, "the step is tried again")
    except UsageError:  # another process was faster
        return store.control.intent(intent_id)


def describe_problems(store: Store, intent: Intent) -> str:
    """Say why a step failed or is not known: what its hooks said, else why it was refused; empty if neither is so."""
    if intent.state not in (IntentState.FAILED, IntentState.UNKNOWN, IntentState.EXPIRED, IntentState.CANCELLED):
        return ""
    problems = [
        f"{delivery.hook}: {delivery.outcome.text}{_write_last_line(delivery)}"
        for delivery in store.control.deliveries(intent.id)
        if delivery.outcome.state in (IntentState.FAILED, IntentState.UNKNOWN)
    ]
    if problems:
        return "; ".join(problems)
    rows = [row for row in store.control.audit(intent.release) if row.intent == intent.id and row.event in FINAL_STATES]
    return rows[-1].text if rows else ""


def _write_last_line(delivery: Delivery) -> str:
    """Write the last line that a program printed, which says why it failed; empty if it printed nothing."""
    lines = delivery.outcome.response.strip().splitlines() if delivery.hook == PROGRAM else []
    return f" (it wrote: {lines[-1][:MOST_OF_LINE]})" if lines else ""


@dataclass(slots=True)
class StepExecution(Execution):
    """The execution of one step of a rollout."""

    wrap: Wrap = lambda _entry, step: step

    def run(self, load: LoadPolicy) -> None:
        """Check that the step may be executed now, claim it, and execute its hooks. Raises StoreBusy, StepWaits.

        If it may not, the intent ends with the reason.
        """
        control = self.store.control
        try:
            rollout = read_rollout(self.store, self.intent)
            plan, rules = read_plan(rollout), read_rules(rollout)
            self.journal = find_journal(self.store.path, rules.journal)
            if not self.intent.is_final:
                self._settle_with_journal()
            if self.intent.state in FINAL_STATES:
                return
            self._check(rollout, plan, rules, load)
            control.verify_release(self.intent.release)
            self.journal.make()  # without it, nothing could be undone in an emergency
            winner = find_winner(Rollouts(control.file).events(rollout.id))
            planned = [
                self._wrap_router(hook) for hook in plan_act(rollout, self._read_act(plan), self.release, winner)
            ]
            if may_take_down(rollout, self.intent.step) and is_promoted_for_good(self.store, rollout.id):
                record_teardown(self.journal, self.intent, plan.steps[self.intent.step].name)
        except StoreBusy:  # no refusal: the intent can be executed later
            raise
        except EvaluatorError as error:
            self._end_refused(error)
            return
        self.verdict = find_latest(self.store, self.intent.release)
        self.deliveries = self._read_deliveries()
        if not control.claim(self.intent, self.worker):
            return
        self.intent = replace(self.intent, state=IntentState.SENT, claimed_by=self.worker)
        self._run_all(planned, ())

    def _read_act(self, plan: RolloutPlan) -> Act:
        """Return the act of the intent in the plan. Raises Refused if it is none."""
        step = plan.steps[self.intent.step] if 0 <= self.intent.step < len(plan.steps) else None
        if not isinstance(step, Act):
            raise Refused(f"{self.intent.id} is not executed: step {self.intent.step + 1} of its rollout is no act")
        return step

    def _wrap_router(self, hook: PlannedHook) -> PlannedHook:
        """Replace the router of a shift by what `wrap` returns for it."""
        is_guarded = hook.words.get("share") or (hook.words.get("instances") and isinstance(hook.step.hook, Router))
        return replace(hook, step=self.wrap(hook.entry, hook.step)) if is_guarded else hook

    def _check(self, rollout: Rollout, plan: RolloutPlan, rules: PromotionRules, load: LoadPolicy) -> None:
        """Check that the step may be executed now. Raises Refused, and StepWaits while a person holds the rollout."""
        events = Rollouts(self.store.control.file).events(rollout.id)
        obstacle = self._find_obstacle(rollout, plan, rules, load)
        if not obstacle and not self.intent.is_final:
            obstacle = explain_end(plan, events) or self._find_outdated_grounds(rollout)
        if obstacle:
            raise Refused(f"{self.intent.id} (step {self.intent.step + 1} of {rollout.id}) is not executed: {obstacle}")
        if not self.intent.is_final and (why := explain_hold(events)):
            raise StepWaits(f"{self.intent.id} waits: {why}", hint=f"`evaluator rollout resume {rollout.release}`")

    def _find_obstacle(self, rollout: Rollout, plan: RolloutPlan, rules: PromotionRules, load: LoadPolicy) -> str:
        """Say why the intent itself may not be executed, whatever the rollout has shown; empty if it may."""
        act = self._read_act(plan)
        if self.intent.hooks_hash != rollout.plan_hash:
            return "it was agreed to for another plan"
        if datetime.now(UTC) >= self.intent.expires_at:
            return "it has expired"
        if self.intent.is_final:
            return "" if act.final else "it is no final act of its plan"
        if is_before_restart(rollout.started_at, self.store.control.restarted_at()):
            return f"the rollout is {BEFORE_RESTART}"
        first = next(step for step in plan.steps if isinstance(step, Act) and step.is_shift) if act.is_shift else act
        if act.is_shift and (missing := explain_missing_agreement(rules, f"stage {first.stage}", first.agree)):
            return missing
        agree = count_agreements(plan, act)
        if act.share == 1.0 and (missing := explain_full_share(rules, act.stage, agree)):
            return missing
        needed = max(self.intent.approvals_needed, act.agree)
        valid = self._count_approvals(rules, load) if needed else 0
        return f"{valid} of {needed} approvals are valid" if valid < needed else ""

    def _count_approvals(self, rules: PromotionRules, load: LoadPolicy) -> int:
        """Count the approvals of people who may approve now. `rules`: those at the start."""
        try:
            current = load(self.intent.release).promotion
        except EvaluatorError:  # a mistake in the file does not turn back what is under way
            current = rules
        requester = (*self.intent.requester_names, self.intent.requester)
        return sum(
            may(current, approval.names, PersonRole.APPROVER)
            and not (self.intent.distinct and are_same_person((*approval.names, approval.person), requester))
            for approval in self.store.control.approvals(self.intent.id)
        )

    def _find_outdated_grounds(self, rollout: Rollout) -> str:
        """Say which verdict after the grounds of the step forbids it; empty if none does.

        Neither the age of the grounds nor later data of users matter, but a NO-GO does.
        """
        verdicts = self.store.control.verdicts(rollout.release)
        hashes = [hash_verdict(verdict) for verdict in verdicts]
        if self.intent.verdict_hash and self.intent.verdict_hash not in hashes:
            return "the verdict that it is based on is gone"
        if self.intent.verdict_hash:
            last = len(hashes) - 1 - hashes[::-1].index(self.intent.verdict_hash)
            later = list(verdicts[last:])  # also the grounds themselves
        else:
            later = [verdict for verdict in verdicts if verdict.judged_at > rollout.started_at]
        seen_until = find_seen_until(read_plan(rollout), Rollouts(self.store.control.file).events(rollout.id))
        no_go = next(
            (
                verdict
                for verdict in later
                if verdict.word == VerdictWord.NO_GO and verdict.judged_at.timestamp() >= seen_until
            ),
            None,
        )
        return f"a verdict at {no_go.judged_at:%Y-%m-%d %H:%M} UTC is NO-GO" if no_go else ""

    def _explain_later_stop(self) -> str:
        """Say that the rollout goes back since the step began; empty: it does not. A hold lets the step end."""
        if self.intent.is_final:
            return ""
        rollout = read_rollout(self.store, self.intent)
        return explain_end(read_plan(rollout), Rollouts(self.store.control.file).events(rollout.id))

    def _list_journal_actions(self) -> list[JournalAction]:
        """List the rollbacks in the journal: a hold lets a step end."""
        return [
            action for action in super(StepExecution, self)._list_journal_actions() if action.action is Action.ROLLBACK
        ]

    def _ends_with(self, hook: PlannedHook) -> bool:  # noqa: ARG002 - as the method that it replaces
        """No hook follows one that failed, except in an act that is executed however the rollout ends."""
        return not self.intent.is_final


# ------------------------------------------------------------------ back


def request_rollback_of(
    store: Store, load_policy: LoadPolicy, rollout: Rollout, person_name: str, reason: str
) -> Intent:
    """Request the rollback by which a rollout goes back, and return it: the one that it has already, if it has one.

    It needs no approval: who started the rollout has agreed to it. It undoes the steps that may have changed
    something, the newest first, without those that are executed however the rollout ends and those without a way back.
    `load_policy` reads the policy of what goes back. A rollback that failed is reopened, so that `execute` tries it
    again. Raises StoreError.
    """
    rules = load_policy(rollout.release).promotion
    latest = find_latest(store, rollout.release)
    steps = find_in_effect(store, store.control.intents(rollout.release))
    now = datetime.now(UTC)
    draft = Intent(
        id="",
        key="",
        release=rollout.release,
        action=Action.ROLLBACK,
        requester=person_name,
        reason=reason or "the rollout goes back",
        verdict_hash=hash_verdict(latest) if latest else "",
        data_hash="",
        policy_hash="",
        requested_at=now,
        expires_at=now + _NO_LIMIT,
        requester_names=rollout.names,
        hooks_hash=rules.hash,
        undoes=tuple(step.id for step in steps if step.rollout == rollout.id),
        rollout=rollout.id,
    )
    stored = request_rollback(store.control.file, draft)
    if stored.state is not IntentState.FAILED:
        return stored
    try:
        return store.control.reopen(stored.id, person_name, f"requested again: {draft.reason}")
    except UsageError:  # another process was faster
        return store.control.intent(stored.id)


def list_answers(store: Store, intent: Intent) -> tuple[tuple[str, ...], str]:
    """List who agreed to a step or a question, and who declined it (empty: no person did)."""
    agreed = tuple(approval.person for approval in store.control.approvals(intent.id))
    if intent.state is not IntentState.CANCELLED:
        return agreed, ""
    rows: Sequence[str] = [
        row.actor
        for row in store.control.audit(intent.release)
        if row.intent == intent.id and row.event == IntentState.CANCELLED
    ]
    return agreed, rows[-1] if rows else "a person"
