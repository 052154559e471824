"""Requesting an action, agreeing to it, cancelling it, retrying it, and resolving how it ended.

Each refusal has its reason, and is in the audit trail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from unicodedata import category

from evaluator.errors import PlanNotReadable, Refused, UnknownName, UsageError
from evaluator.intents.baseline_servers import BASELINE_RUNS
from evaluator.intents.checking import BEFORE_RESTART, hash_verdict, is_before_restart
from evaluator.intents.conditions import NO_HOOKS, explain_change_by_hand, list_conditions
from evaluator.intents.journal_trail import record_actions
from evaluator.intents.observing import (
    find_in_effect,
    find_latest,
    hash_data_now,
    hash_policy_now,
    services_of,
)
from evaluator.intents.people import may, may_ask, why_not
from evaluator.intents.plans import Plan, plan_hooks, plan_intent
from evaluator.intents.previews import refuse_missing_baseline
from evaluator.intents.rollout_plans import explain_end, find_of_services, find_running, read_plan, read_rollout
from evaluator.intents.steps import PlannedHook
from evaluator.intents.versions import explain_other_versions, read_hook_release
from evaluator.pipeline.landing import land_release
from evaluator.policy import Policy
from evaluator.records import Release, StoredVerdict, VerdictWord
from evaluator.records.intents import (
    ANNOUNCE,
    FINAL_STATES,
    PROMOTING,
    Action,
    AuditRow,
    Delivery,
    HookOutcome,
    Intent,
    IntentState,
    Person,
    PersonRole,
    are_same_person,
)
from evaluator.reports import read_stored
from evaluator.store import Store
from evaluator.store.journal import find_journal
from evaluator.store.rollouts import Rollouts
from evaluator.wording import quote_command

LONGEST_REASON = 1000
LONGEST_NOTE = 2000
_INVISIBLE_CATEGORIES = ("Cc", "Cs")
"""Unicode categories of characters that no text of a person needs: control characters and surrogates."""
_VOID_STATES = (IntentState.EXPIRED, IntentState.CANCELLED)
_ACTION_AS_ACTIVITY = {
    Action.PROMOTE: "promoting",
    Action.HOLD: "holding",
    Action.ROLLBACK: "rolling back",
    Action.BREAK_GLASS: "promoting against the verdict",
}


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """What a person requests."""

    action: Action
    release: str
    reason: str
    baseline_runs: bool = False
    """Of a rollback: the person says that the servers of the baseline run, whatever acts may have taken down."""


def ask(store: Store, policy: Policy, person: Person, request: ActionRequest) -> Intent:
    """Record the intent of a person who requests an action. Raises Refused, UsageError.

    It is approved at once if no other person has to agree. If the same request is in effect already, the earlier intent
    is returned: a double click, or two people, make one intent. A hold or a rollback whose hooks failed is to be
    executed again by this, as by `retry`: the cause may be gone, and nothing went back because of it.
    """
    reason = _clean_reason(request.reason)
    rules, action = policy.promotion, request.action
    record_actions(store, find_journal(store.path, rules.journal))
    if action in PROMOTING:
        land_release(store, request.release)  # the verdict must be on all data, also on those that have just arrived
    undoes: tuple[str, ...] = ()  # ids of the promotions that a rollback undoes
    # What holds or goes back needs no data, and must not wait for what uses them.
    reading = store.reading() if action in PROMOTING else nullcontext()
    with _audit_refusals(store, person, request.release, action), reading:
        if not may_ask(rules, person.names, action):
            role = PersonRole.ANALYST if rules.needed(action) else PersonRole.APPROVER
            raise Refused(why_not(rules, person, role, _ACTION_AS_ACTIVITY[action]), hint="ask a person with that role")
        latest = find_latest(store, request.release)
        if action in PROMOTING:
            _check_promotion(store, policy, request, latest)
        if action is Action.ROLLBACK:
            undoes = _find_promotions_to_undo(store, policy, request)
        # A promotion is executed only if its verdict, data, policy and hooks are then the same as now.
        data_hash = ""
        if latest and action in PROMOTING:
            data_hash = hash_data_now(store, request.release, latest.data_hash)
        policy_hash = hash_policy_now(store, policy, request.release)
    now = datetime.now(UTC)
    intent = Intent(
        id="",  # the store sets id and key
        key="",
        release=request.release,
        action=action,
        requester=person.name,
        reason=reason,
        verdict_hash=hash_verdict(latest) if latest else "",
        data_hash=data_hash,
        policy_hash=policy_hash,
        requested_at=now,
        expires_at=now + timedelta(seconds=rules.approvals.expires),
        approvals_needed=rules.needed(action),
        distinct=rules.distinct(action),
        requester_names=person.names,
        hooks_hash=rules.hash,
        undoes=undoes,
    )
    if request.baseline_runs:  # before a worker can execute it
        store.control.note(person.name, BASELINE_RUNS, request.release, "the servers of the baseline run")
    # An approver who requests an action agrees to it, too.
    is_approver = may(rules, person.names, PersonRole.APPROVER)
    asked = store.control.request(intent, consents=is_approver)
    is_allowed = is_approver or not asked.approvals_needed
    if action not in PROMOTING and asked.state is IntentState.FAILED and is_allowed:
        with suppress(UsageError):  # another process was faster
            return store.control.reopen(asked.id, person.name, f"requested again: {reason}")
        return store.control.intent(asked.id)
    return asked


def _clean_reason(text: str, *, required: bool = True) -> str:
    """Make the text of a reason one line without control characters. Raises UsageError if it is too long or missing.

    `required`: whether an empty text is refused.
    """
    visible = "".join(" " if category(character) in _INVISIBLE_CATEGORIES else character for character in text)
    reason = " ".join(visible.split())
    if len(reason) > LONGEST_REASON or (required and not reason):
        raise UsageError(
            f"the reason has more than {LONGEST_REASON} characters" if reason else "the reason is missing",
            hint="give the reason in one sentence; it stays in the audit trail",
        )
    return reason


@contextmanager
def _audit_refusals(store: Store, person: Person, release: str, activity: str, intent_id: str = "") -> Iterator[None]:
    """Write a refusal inside the `with` block to the audit trail, then raise it: Refused, UsageError.

    `activity`: what the person tried, such as "approve promote".
    """
    try:
        yield
    except (Refused, UsageError) as error:
        if not isinstance(error, UnknownName):  # a typing mistake is no refusal
            store.control.note(person.name, "refused", release, f"{activity}: {error.message}", intent_id)
        raise


def _check_promotion(store: Store, policy: Policy, request: ActionRequest, latest: StoredVerdict | None) -> None:
    """Check that a release may be promoted on its latest verdict (None: it has none). Raises Refused.

    A promotion needs all conditions. A promotion against the verdict (break-glass) needs none of them, but a verdict
    other than GO on the versions that hooks get, and hooks that promote.
    """
    if rollout := find_of_services(store, request.release, services_of(store, request.release)):
        raise Refused(
            f"the rollout {rollout.id} of {rollout.release} has not ended, and it moves the traffic",
            hint=f"see `{quote_command('rollout', 'status', rollout.release)}`",
        )
    if latest is None:
        raise Refused(f"{request.release} was not judged yet", hint=f"judge it: `{policy.command(request.release)}`")
    verdict = read_stored(latest)
    if request.action is Action.BREAK_GLASS and verdict.word is not VerdictWord.GO:
        if not policy.promotion.hooks.get(Action.PROMOTE):
            raise Refused("the policy names no hooks that promote", hint=NO_HOOKS)
        if other_versions := explain_other_versions(verdict.release, store.control.release(request.release)):
            raise Refused(other_versions, hint=f"judge it again: {policy.command(request.release)}")
        if changed_by_hand := explain_change_by_hand(store, request.release):
            raise Refused(changed_by_hand)
        if is_before_restart(verdict.judged_at, store.control.restarted_at()):
            raise Refused(f"the verdict is {BEFORE_RESTART}", hint=f"judge it again: {policy.command(request.release)}")
        return
    unmet = [condition for condition in list_conditions(store, policy, verdict) if not condition.met]
    remedy = unmet[0].remedy.replace("`", "") if unmet else ""
    if request.action is Action.BREAK_GLASS:
        raise Refused(f"{request.release} is GO: it needs no override", hint=remedy or "promote it")
    if unmet:
        raise Refused(
            f"{request.release} is not promoted: " + "; ".join(condition.description for condition in unmet),
            hint=remedy or None,
            no_go=verdict.word is VerdictWord.NO_GO,
        )


def explain_refusal(store: Store, policy: Policy, request: ActionRequest) -> str:
    """Say why no person may promote now; empty if that is allowed to some, or for another action."""
    if request.action not in PROMOTING:
        return ""
    try:
        _check_promotion(store, policy, request, find_latest(store, request.release))
    except Refused as error:
        return error.message
    return ""


# ------------------------------------------------------------------ what an action changes


def find_promoted(store: Store, release: str) -> tuple[Intent, ...]:
    """Find the promotions of a release that may have changed something and were not rolled back, the newest first."""
    return tuple(find_in_effect(store, store.control.intents(release)))


def plan_action(
    store: Store,
    policy: Policy,
    release: str,
    action: Action,
    undoes: Sequence[str] | None = None,
    *,
    baseline_runs: bool = False,
) -> tuple[tuple[PlannedHook, ...], tuple[str, ...]]:
    """Plan the hooks of an action: returns them, and sentences about what a rollback cannot undo.

    `undoes`: ids of the promotions that a rollback undoes, the newest first; None: those of the release that are in
    effect. `baseline_runs`: as in `ActionRequest`. Raises PolicyError or HookError.
    """
    if undoes is None:
        undoes = _list_undone(store, release, action)
    rollout = find_running(store, release)
    return plan_hooks(
        store, policy.promotion, action, store.control.release(release), undoes,
        rollout=rollout.id if rollout else "", baseline_runs=baseline_runs,
    )  # fmt: skip


def read_release_to_preview(store: Store, release: str, action: Action) -> Release:
    """Read a release with the versions that the hooks of an action get if it is requested now."""
    latest = find_latest(store, release)
    verdict_hash = hash_verdict(latest) if latest else ""
    return read_hook_release(store, release, action, verdict_hash, _list_undone(store, release, action))


def _list_undone(store: Store, release: str, action: Action) -> tuple[str, ...]:
    """List the ids of the promotions that an action on a release would undo now, the newest first."""
    return tuple(promotion.id for promotion in find_promoted(store, release)) if action is Action.ROLLBACK else ()


def _find_promotions_to_undo(store: Store, policy: Policy, request: ActionRequest) -> tuple[str, ...]:
    """Find the ids of the promotions that a rollback undoes, the newest first; empty if its own hooks do all.

    Raises Refused if it would do nothing, or if another release of the service was promoted later.
    """
    promotions = find_promoted(store, request.release)
    promotion_ids = tuple(promotion.id for promotion in promotions)
    is_being_executed = any(promotion.state is IntentState.SENT for promotion in promotions)
    planned, irreversible = plan_action(
        store, policy, request.release, request.action, promotion_ids, baseline_runs=request.baseline_runs
    )
    if any(hook.teardowns for hook in planned):
        versions = read_release_to_preview(store, request.release, request.action)
        refuse_missing_baseline(planned, versions, find_latest(store, request.release))
    # A promotion that is being executed may have no hook to undo yet; it has when the rollback is executed.
    running = find_running(store, request.release)  # a rollout can be turned back before it has changed anything
    if not running and not is_being_executed and all(hook.event == ANNOUNCE for hook in planned):
        intents = store.control.intents(request.release)
        why, hint = "; ".join(irreversible), "add hooks for rollback to the policy"
        if not why:
            why, hint = _explain_nothing(intents, hint)
        if any(intent.action in PROMOTING and intent.state not in FINAL_STATES for intent in intents):
            hint = f"cancel the promotion that waits: `{quote_command('hold', request.release)}`"
        raise Refused(f"there is nothing to roll back for {request.release}: {why}", hint=hint)
    if not promotion_ids:
        return ()
    # A later promotion of the same service builds on what this one changed: it is rolled back first.
    services = set(services_of(store, request.release))
    for promotion in find_in_effect(store, store.control.intents()):  # the newest first
        if promotion.id in promotion_ids:
            break
        if services & set(services_of(store, promotion.release)):
            raise Refused(
                f"{promotion.release} was promoted after {request.release}",
                hint=f"roll back {promotion.release} first, or instead",
            )
    return promotion_ids


def _explain_nothing(intents: Sequence[Intent], hint: str) -> tuple[str, str]:
    """Say why a rollback would undo nothing, and what to do: `hint`, if nothing was promoted.

    `intents`: all of the release, the oldest first.
    """
    for intent in reversed(intents):
        if intent.action is Action.ROLLBACK and intent.state is IntentState.ACKNOWLEDGED and intent.undoes:
            why = f"{intent.requester} rolled it back at {intent.requested_at:%Y-%m-%d %H:%M} UTC ({intent.id})"
            return why, f"`{quote_command('hooks', 'log', intent.release)}` shows what that restored"
    return "no promotion of it was executed, and the policy names no hooks for rollback", hint


# ------------------------------------------------------------------ agreeing, and the rest


def approve(store: Store, policy: Policy, person: Person, intent_id: str) -> Intent:
    """Add a person's approval to an intent; it is approved with the last that it needs. Raises Refused, UsageError."""
    intent = store.control.intent(intent_id)
    with _audit_refusals(store, person, intent.release, f"approve {intent.action}", intent.id):
        _require_role(policy, person, PersonRole.APPROVER, "approving")
        if other_hooks := explain_other_hooks(store, policy, intent):
            hint = f"`{_show_status(intent)}`" if intent.action is Action.STEP else "request it again"
            raise Refused(f"{intent.id}: {other_hooks}", hint=hint)
        if intent.action is Action.STEP and datetime.now(UTC) >= intent.expires_at:
            raise UsageError(
                f"{intent.id} has expired: the rollout went on without an answer", hint=f"`{_show_status(intent)}`"
            )
        approved = store.control.approve(intent.id, person)
        if approved.is_question and approved.state is IntentState.APPROVED:  # it has no hooks
            store.control.settle(intent.id, IntentState.ACKNOWLEDGED, person.name, "agreed")
            return store.control.intent(intent.id)
        return approved


def explain_other_hooks(store: Store, policy: Policy, intent: Intent) -> str:
    """Say why the hooks of an intent are not those that were shown when it was requested; empty if they are.

    A step has those of the plan of its rollout, which must not have ended or gone back. Raises StoreError.
    """
    if intent.action is not Action.STEP:
        is_same = intent.hooks_hash == policy.promotion.hash
        return "" if is_same else "the policy's hooks or approvals have changed since it was requested"
    try:
        rollout = read_rollout(store, intent)
        plan = read_plan(rollout)
    except (PlanNotReadable, UnknownName) as error:
        return error.message
    if rollout.plan_hash != intent.hooks_hash:
        return "the plan of the rollout is another one than when it was requested"
    return explain_end(plan, Rollouts(store.control.file).events(rollout.id))


def _show_status(intent: Intent) -> str:
    """Write the command that shows how a rollout stands."""
    return quote_command("rollout", "status", intent.release)


def plan_request(store: Store, policy: Policy, intent: Intent) -> Plan:
    """Plan the hooks of a request, and what a rollback cannot undo, as `plan_intent`."""
    return plan_intent(store, policy.promotion, intent, read_request_release(store, intent))


def read_request_release(store: Store, intent: Intent) -> Release:
    """Read the release of a request with the versions that its hooks get."""
    return read_hook_release(store, intent.release, intent.action, intent.verdict_hash, intent.undoes)


def cancel(store: Store, policy: Policy, person: Person, intent_id: str, reason: str) -> Intent:
    """Cancel an intent that was not executed yet. Raises Refused, UsageError.

    Requesters may withdraw their own; an approver may reject any.
    """
    intent = store.control.intent(intent_id)
    one_line_reason = _clean_reason(reason, required=False)
    with _audit_refusals(store, person, intent.release, f"cancel {intent.action}", intent.id):
        if intent.is_final:
            raise Refused(f"{intent.id} is executed however the rollout ends, so it cannot be rejected")
        if not are_same_person((*person.names, person.name), (*intent.requester_names, intent.requester)):
            _require_role(policy, person, PersonRole.APPROVER, "rejecting the requests of others")
        return store.control.cancel(intent.id, person.name, one_line_reason or "no reason given")


def retry(store: Store, policy: Policy, person: Person, intent_id: str) -> Intent:
    """Let a worker execute hooks that failed, or whose outcome is unknown, again; returns the reopened intent.

    The hooks get the same idempotency keys as before. Raises Refused, also if the intent has expired or the same
    release has a later request.
    """
    intent = store.control.intent(intent_id)
    hint = "request it again"
    if intent.state is IntentState.UNKNOWN:
        hint = f"record how its hooks ended with `evaluator hooks resolve {intent.id}`, then request it again"
    with _audit_refusals(store, person, intent.release, f"retry {intent.action}", intent.id):
        _require_role(policy, person, PersonRole.APPROVER, "trying hooks again")
        if datetime.now(UTC) >= intent.expires_at:
            raise Refused(f"{intent.id} has expired", hint=hint)
        if later_intents := _list_later(store, intent):
            newest = later_intents[-1]
            raise Refused(f"{newest.id} ({newest.action.label}) was requested after {intent.id}", hint=hint)
        return store.control.reopen(intent.id, person.name, "hooks that were not acknowledged are executed again")


def _list_later(store: Store, intent: Intent) -> list[Intent]:
    """List later intents of the same release, the oldest first, without those that expired or were cancelled."""
    intents = store.control.intents(intent.release)
    position = [entry.id for entry in intents].index(intent.id)
    return [later for later in intents[position + 1 :] if later.state not in _VOID_STATES]


def resolve(
    store: Store, policy: Policy, person: Person, intent_id: str, hook_number: int, *, done: bool, reason: str
) -> Intent:
    """Record whether a hook whose outcome is unknown was done; `hook_number` counts the hooks of the intent from 1.

    Returns the intent: it ends as acknowledged or failed once no outcome is unknown. Raises Refused, UsageError.
    """
    intent = store.control.intent(intent_id)
    one_line_reason = _clean_reason(reason)
    with _audit_refusals(store, person, intent.release, f"resolve {intent.action}", intent.id):
        _require_role(policy, person, PersonRole.ADMIN, "resolving a hook")
        unresolved = _find_unresolved(store, intent, hook_number)
    # Hooks that announce the result do not count: they are executed however the action ends.
    begun = [delivery for delivery in store.control.deliveries(intent.id) if delivery.event != ANNOUNCE]
    never_begun: int | None = None  # number of hooks; None: not known, because the policy's hooks have changed
    if not explain_other_hooks(store, policy, intent):
        planned, _irreversible = plan_request(store, policy, intent)
        never_begun = sum(hook.event != ANNOUNCE for hook in planned) - len(begun)
    hook_outcome = HookOutcome(
        state=IntentState.ACKNOWLEDGED if done else IntentState.FAILED,
        text=f"{person.name} says: {one_line_reason}",
        undo=unresolved.outcome.undo if done else "",  # a hook that did nothing leaves nothing to undo
        response=unresolved.outcome.response,
    )
    resolved = replace(unresolved, attempts=0, outcome=hook_outcome, at=datetime.now(UTC))  # adds no attempt
    store.control.deliver(resolved, intent.release, person.name)
    # Read again, because one state has changed.
    states = {delivery.outcome.state for delivery in store.control.deliveries(intent.id) if delivery.event != ANNOUNCE}
    if IntentState.UNKNOWN in states:
        return intent
    intent_state = IntentState.FAILED
    if states == {IntentState.ACKNOWLEDGED} and never_begun == 0:
        intent_state = IntentState.ACKNOWLEDGED
    if never_begun is None:
        text = "the policy's hooks have changed since, so it is not known whether any came after it"
    elif never_begun:
        text = "hooks after it were not executed; `evaluator hooks retry` executes them"
    else:
        text = "the outcome of every hook is known now"
    store.control.settle(intent.id, intent_state, person.name, text)
    return store.control.intent(intent.id)


def _find_unresolved(store: Store, intent: Intent, hook_number: int) -> Delivery:
    """Find the delivery of hook `hook_number` (counted from 1), whose outcome a person may resolve.

    Raises UnknownName, UsageError if its outcome is known or not final, and Refused if a later rollback undoes it.
    """
    delivery_by_number = {delivery.position + 1: delivery for delivery in store.control.deliveries(intent.id)}
    if hook_number not in delivery_by_number:
        raise UnknownName("hook", str(hook_number), [str(known_number) for known_number in delivery_by_number])
    delivery = delivery_by_number[hook_number]
    if delivery.outcome.state is not IntentState.UNKNOWN or intent.state not in FINAL_STATES:
        raise UsageError(
            f"hook {hook_number} of {intent.id} is {delivery.outcome.state}, so there is nothing to resolve"
        )
    for later in _list_later(store, intent):
        # The numbers of a rollback's hooks depend on which hooks were done: that must not change after its request.
        if intent.id in later.undoes:
            raise Refused(f"{later.id} takes back {intent.id}, done or not", hint=f"see {later.id} instead")
    return delivery


def write_note(store: Store, policy: Policy, person: Person, release: str, text: str) -> AuditRow:
    """Add a note about a release to the audit trail. Raises UsageError, Refused, UnknownName."""
    note = "".join(
        " " if category(character) in _INVISIBLE_CATEGORIES and character != "\n" else character for character in text
    ).strip()
    if not note or len(note) > LONGEST_NOTE:
        raise UsageError(
            f"the note has more than {LONGEST_NOTE} characters" if note else "the note is empty",
            hint='for example: `evaluator audit note cart@1.5.0 "slow disk in pod 3"`',
        )
    store.control.release(release)  # raises UnknownName
    with _audit_refusals(store, person, release, "note"):
        _require_role(policy, person, PersonRole.ANALYST, "writing notes")
    return store.control.note(person.name, "note", release, note)


def _require_role(policy: Policy, person: Person, role: PersonRole, activity: str) -> None:
    """Raise Refused if the policy does not give a person this role, or a higher one, which `activity` needs."""
    if not may(policy.promotion, person.names, role):
        raise Refused(why_not(policy.promotion, person, role, activity), hint="ask a person with that role")
