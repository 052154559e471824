"""Requesting an action, agreeing to it, cancelling it, retrying it, and resolving how it ended.

Each refusal has its reason, and is in the audit trail.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from unicodedata import category

from evaluator.errors import Refused, UnknownName, UsageError
from evaluator.intents.checking import hash_verdict
from evaluator.intents.conditions import NO_HOOKS, list_conditions
from evaluator.intents.observing import (
    find_in_effect,
    find_latest,
    hash_data_now,
    hash_policy_now,
    read_undone,
    services_of,
)
from evaluator.intents.people import may, may_ask, why_not
from evaluator.intents.steps import PlannedHook, plan_steps
from evaluator.pipeline.landing import land_release
from evaluator.policy import Policy
from evaluator.records import StoredVerdict, VerdictWord
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

LONGEST_REASON = 1000
LONGEST_NOTE = 2000
_UNSAID = ("Cc", "Cs")
"""Categories of characters that no reason needs: control characters and surrogates."""
_VOID = (IntentState.EXPIRED, IntentState.CANCELLED)
_VERBS = {
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


def ask(store: Store, policy: Policy, person: Person, request: ActionRequest) -> Intent:
    """Record an intent; it is approved at once where no other person has to agree. Raises Refused, UsageError.

    Returns the earlier intent where the same request is in effect: a double click, or two people, make one intent.
    """
    reason = _read_reason(request.reason)
    land_release(store, request.release)
    rules, action = policy.promotion, request.action
    undoes: tuple[str, ...] = ()
    with _refusals(store, person, request.release, action), store.reading():
        if not may_ask(rules, person.names, action):
            role = PersonRole.ANALYST if rules.needed(action) else PersonRole.APPROVER
            raise Refused(why_not(rules, person, role, _VERBS[action]), hint="ask a person with that role")
        latest = find_latest(store, request.release)
        if action in PROMOTING:
            _refuse_on_grounds(store, policy, request, latest)
        if action is Action.ROLLBACK:
            undoes = _find_undone(store, policy, request)
        data_hash = hash_data_now(store, request.release, latest.data_hash) if latest else ""
        policy_hash = hash_policy_now(store, policy, request.release)
    now = datetime.now(UTC)
    intent = Intent(
        id="",
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
    return store.control.request(intent, consents=may(rules, person.names, PersonRole.APPROVER))


def _read_reason(text: str, *, needed: bool = True) -> str:
    """A reason in one line without control characters. Raises UsageError."""
    reason = " ".join("".join(" " if category(character) in _UNSAID else character for character in text).split())
    if len(reason) > LONGEST_REASON or (needed and not reason):
        raise UsageError(
            f"the reason has more than {LONGEST_REASON} characters" if reason else "the reason is missing",
            hint="give the reason in one sentence; it stays in the audit trail",
        )
    return reason


@contextmanager
def _refusals(store: Store, person: Person, release: str, what: str, intent: str = "") -> Iterator[None]:
    """Record a refusal and its reason in the audit trail."""
    try:
        yield
    except (Refused, UsageError) as error:
        if not isinstance(error, UnknownName):
            store.control.note(person.name, "refused", release, f"{what}: {error.message}", intent)
        raise


def _refuse_on_grounds(store: Store, policy: Policy, request: ActionRequest, latest: StoredVerdict | None) -> None:
    """Refuse a promotion whose conditions are not met, and an override of a GO, which needs none. Raises Refused."""
    if latest is None:
        raise Refused(f"{request.release} was not judged yet", hint=f"judge it: {policy.command(request.release)}")
    verdict = read_stored(latest)
    if request.action is Action.BREAK_GLASS:
        if verdict.word is VerdictWord.GO:
            raise Refused(f"{request.release} is GO: it needs no override", hint="promote it")
        if not policy.promotion.hooks.get(Action.PROMOTE):
            raise Refused("the policy names no hooks that promote", hint=NO_HOOKS)
        return
    unmet = [condition for condition in list_conditions(store, policy, verdict) if not condition.met]
    if unmet:
        raise Refused(
            f"{request.release} is not promoted: " + "; ".join(condition.description for condition in unmet),
            hint=unmet[0].remedy.replace("`", "") or None,
            no_go=verdict.word is VerdictWord.NO_GO,
        )


# ------------------------------------------------------------------ what an action changes


def find_promoted(store: Store, release: str) -> tuple[Intent, ...]:
    """Promotions of a release that may have changed something and were not rolled back since, the newest first."""
    return tuple(find_in_effect(store, store.control.intents(release)))


def plan_action(
    store: Store, policy: Policy, release: str, action: Action, undoes: Sequence[str] | None = None
) -> tuple[tuple[PlannedHook, ...], tuple[str, ...]]:
    """Hooks that an action would execute, and what it cannot take back. Raises PolicyError or HookError.

    `undoes`: what a rollback takes back; by default what is in effect.
    """
    if undoes is None:
        undoes = [promotion.id for promotion in find_promoted(store, release)] if action is Action.ROLLBACK else []
    return plan_steps(policy.promotion, action, read_undone(store, undoes))


def _find_undone(store: Store, policy: Policy, request: ActionRequest) -> tuple[str, ...]:
    """The promotions that a rollback takes back. Raises Refused where it would do nothing, or undo a later one."""
    promotions = find_promoted(store, request.release)
    promoted, begun = (
        tuple(promotion.id for promotion in promotions),
        any(promotion.state is IntentState.SENT for promotion in promotions),
    )
    planned, irreversible = plan_action(store, policy, request.release, request.action, promoted)
    # A promotion that is being executed may have no hook to take back yet; it has when the rollback is executed.
    if not begun and all(hook.event == ANNOUNCE for hook in planned):
        why = (
            "; ".join(irreversible)
            if irreversible
            else "no promotion of it was executed, and the policy names no hooks for rollback"
        )
        open_yet = [intent for intent in store.control.intents(request.release) if intent.state not in FINAL_STATES]
        hint = "add hooks for rollback to the policy"
        if any(intent.action in PROMOTING for intent in open_yet):
            hint = f"cancel the promotion that waits: `evaluator hold {shlex.quote(request.release)}`"
        raise Refused(f"there is nothing to roll back for {request.release}: {why}", hint=hint)
    # A later promotion of the same service builds on what this one changed: it is rolled back first.
    services = set(services_of(store, request.release))
    for later in find_in_effect(store, store.control.intents()):
        if later.id in promoted or not promoted:
            break
        if services & set(services_of(store, later.release)):
            raise Refused(
                f"{later.release} was promoted after {request.release}",
                hint=f"roll back {later.release} first, or instead",
            )
    return promoted


# ------------------------------------------------------------------ agreeing, and the rest


def approve(store: Store, policy: Policy, person: Person, intent_id: str) -> Intent:
    """Agree to an intent. Raises Refused, UsageError."""
    intent = store.control.intent(intent_id)
    with _refusals(store, person, intent.release, f"approve {intent.action}", intent.id):
        _demand(policy, person, PersonRole.APPROVER, "approving")
        if intent.hooks_hash != policy.promotion.hash:
            raise Refused(
                f"the policy's hooks or approvals have changed since {intent.id} was requested", hint="request it again"
            )
        return store.control.approve(intent.id, person)


def cancel(store: Store, policy: Policy, person: Person, intent_id: str, reason: str) -> Intent:
    """Withdraw, or reject, an intent that was not executed yet. Raises Refused, UsageError."""
    intent, stated_reason = store.control.intent(intent_id), _read_reason(reason, needed=False)
    with _refusals(store, person, intent.release, f"cancel {intent.action}", intent.id):
        if not are_same_person((*person.names, person.name), (*intent.requester_names, intent.requester)):
            _demand(policy, person, PersonRole.APPROVER, "rejecting the requests of others")
        return store.control.cancel(intent.id, person.name, stated_reason or "no reason given")


def retry(store: Store, policy: Policy, person: Person, intent_id: str) -> Intent:
    """Let hooks that failed, or whose outcome is unknown, be executed again, with the same keys. Raises Refused."""
    intent = store.control.intent(intent_id)
    instead = "request it again"
    if intent.state is IntentState.UNKNOWN:
        instead = f"record how its hooks ended with `evaluator hooks resolve {intent.id}`, then request it again"
    with _refusals(store, person, intent.release, f"retry {intent.action}", intent.id):
        _demand(policy, person, PersonRole.APPROVER, "trying hooks again")
        if datetime.now(UTC) >= intent.expires_at:
            raise Refused(f"{intent.id} has expired", hint=instead)
        if later := _list_later(store, intent):
            raise Refused(f"{later[-1].id} ({later[-1].action.label}) was requested after {intent.id}", hint=instead)
        return store.control.reopen(intent.id, person.name, "hooks that were not acknowledged are executed again")


def _list_later(store: Store, intent: Intent) -> list[Intent]:
    """The requests for the same release after an intent that have neither expired nor been cancelled."""
    intents = store.control.intents(intent.release)
    position = [entry.id for entry in intents].index(intent.id)
    return [later for later in intents[position + 1 :] if later.state not in _VOID]


def resolve(
    store: Store, policy: Policy, person: Person, intent_id: str, number: int, *, done: bool, reason: str
) -> Intent:
    """Record whether a hook (counted from 1) was done, where that is unknown. Raises Refused, UsageError."""
    intent, reason = store.control.intent(intent_id), _read_reason(reason)
    with _refusals(store, person, intent.release, f"resolve {intent.action}", intent.id):
        _demand(policy, person, PersonRole.ADMIN, "resolving a hook")
        unresolved = _find_unknown(store, intent, number)
    attempted = [delivery for delivery in store.control.deliveries(intent.id) if delivery.event != ANNOUNCE]
    missing = None  # number of hooks that were not reached; unknown where the policy has changed since
    if intent.hooks_hash == policy.promotion.hash:
        planned, _irreversible = plan_action(store, policy, intent.release, intent.action, intent.undoes)
        missing = sum(hook.event != ANNOUNCE for hook in planned) - len(attempted)
    state = IntentState.ACKNOWLEDGED if done else IntentState.FAILED
    outcome = HookOutcome(
        state, f"{person.name} says: {reason}", unresolved.outcome.undo if done else "", unresolved.outcome.response
    )
    store.control.deliver(
        replace(unresolved, attempts=0, outcome=outcome, at=datetime.now(UTC)), intent.release, person.name
    )
    hook_deliveries = [delivery for delivery in store.control.deliveries(intent.id) if delivery.event != ANNOUNCE]
    states = {delivery.outcome.state for delivery in hook_deliveries}
    if IntentState.UNKNOWN in states:
        return intent
    state = IntentState.ACKNOWLEDGED if states == {IntentState.ACKNOWLEDGED} and missing == 0 else IntentState.FAILED
    text = (
        "hooks after it were not executed; `evaluator hooks retry` executes them"
        if missing
        else "the outcome of every hook is known now"
    )
    if missing is None:
        text = "the policy's hooks have changed since, so it is not known whether any came after it"
    store.control.settle(intent.id, state, person.name, text)
    return store.control.intent(intent.id)


def _find_unknown(store: Store, intent: Intent, number: int) -> Delivery:
    """The hook whose outcome is unknown. Raises UnknownName, UsageError, Refused."""
    deliveries = {delivery.position + 1: delivery for delivery in store.control.deliveries(intent.id)}
    if number not in deliveries:
        raise UnknownName("hook", str(number), [str(position) for position in deliveries])
    delivery = deliveries[number]
    if delivery.outcome.state is not IntentState.UNKNOWN or intent.state not in FINAL_STATES:
        raise UsageError(f"hook {number} of {intent.id} is {delivery.outcome.state}, so there is nothing to resolve")
    for later in _list_later(store, intent):
        # The numbers of a rollback's hooks depend on what it takes back, which must not change meanwhile.
        if intent.id in later.undoes:
            raise Refused(f"{later.id} takes back {intent.id}, done or not", hint=f"see {later.id} instead")
    return delivery


def write_note(store: Store, policy: Policy, person: Person, release: str, text: str) -> AuditRow:
    """Add a note to a release. Raises UsageError, Refused, UnknownName."""
    lines = "".join(
        character if character == "\n" or category(character) not in _UNSAID else " " for character in text
    ).strip()
    if not lines or len(lines) > LONGEST_NOTE:
        raise UsageError(
            f"the note has more than {LONGEST_NOTE} characters" if lines else "the note is empty",
            hint='for example: evaluator audit note cart@1.5.0 "slow disk in pod 3"',
        )
    store.control.release(release)
    with _refusals(store, person, release, "note"):
        _demand(policy, person, PersonRole.ANALYST, "writing notes")
    return store.control.note(person.name, "note", release, lines)


def _demand(policy: Policy, person: Person, role: PersonRole, what: str) -> None:
    if not may(policy.promotion, person.names, role):
        raise Refused(why_not(policy.promotion, person, role, what), hint="ask a person with that role")
