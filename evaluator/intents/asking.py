"""Asking for an action, agreeing to it, taking it back, trying it again, and saying how it ended.

Whatever is refused is refused with its reason, and the refusal is in the audit trail.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from unicodedata import category

from evaluator.errors import Refused, UnknownName, UsageError
from evaluator.intents.checking import CLOCK, hash_verdict
from evaluator.intents.observing import (
    find_in_effect,
    find_latest,
    hash_data_now,
    hash_policy_now,
    read_undone,
    services_of,
)
from evaluator.intents.people import may, may_ask, why_not
from evaluator.intents.steps import Planned, plan_steps
from evaluator.pipeline.landing import land_release
from evaluator.pipeline.reviewing import Condition, check_promotable
from evaluator.policy import Policy
from evaluator.records import StoredVerdict, Verdict, VerdictWord
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
    are_one,
)
from evaluator.reports import from_json
from evaluator.store import Store
from evaluator.wording import format_duration

__all__ = [
    "Wish",
    "approve",
    "ask",
    "cancel",
    "find_promoted",
    "list_conditions",
    "plan_action",
    "resolve",
    "retry",
    "write_note",
]

LONGEST_REASON = 1000
LONGEST_NOTE = 2000
_UNSAID = ("Cc", "Cs")
"""Categories of characters that no reason needs: controls, and halves of others."""
_VOID = (IntentState.EXPIRED, IntentState.CANCELLED)
_VERBS = {
    Action.PROMOTE: "promoting",
    Action.HOLD: "holding",
    Action.ROLLBACK: "rolling back",
    Action.BREAK_GLASS: "promoting against the verdict",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for."""

    action: Action
    release: str
    reason: str


def ask(store: Store, policy: Policy, person: Person, wish: Wish) -> Intent:
    """Record an intent; it is approved already where nobody else has to agree. Raises Refused, UsageError.

    What stands is returned where the same was asked for before: a double click, or two people, make one intent.
    """
    reason = _read_reason(wish.reason)
    land_release(store, wish.release)
    with _refusals(store, person, wish.release, wish.action):
        rules = policy.promotion
        if not may_ask(rules, person.names, wish.action):
            role = PersonRole.ANALYST if rules.needed(wish.action) else PersonRole.APPROVER
            raise Refused(why_not(rules, person, role, _VERBS[wish.action]), hint="ask somebody who may")
        latest = find_latest(store, wish.release)
        _refuse_on_grounds(store, policy, wish, latest)
        undoes = _find_undone(store, policy, wish)
    intent = _draft(store, policy, person, replace(wish, reason=reason), latest, undoes)
    return store.promotions.request(intent, consents=may(rules, person.names, PersonRole.APPROVER))


def _read_reason(text: str, *, needed: bool = True) -> str:
    """What a person says, in one line without control characters. Raises UsageError."""
    reason = " ".join("".join(" " if category(one) in _UNSAID else one for one in text).split())
    if len(reason) > LONGEST_REASON or (needed and not reason):
        raise UsageError(
            f"the reason has more than {LONGEST_REASON} characters" if reason else "the reason is missing",
            hint="say in a sentence why, or how you know; it stays in the audit trail",
        )
    return reason


@contextmanager
def _refusals(store: Store, person: Person, release: str, what: str, intent: str = "") -> Iterator[None]:
    """Keep what was refused, and why."""
    try:
        yield
    except (Refused, UsageError) as error:
        if not isinstance(error, UnknownName):
            store.promotions.note(person.name, "refused", release, f"{what}: {error.message}", intent)
        raise


def _draft(
    store: Store, policy: Policy, person: Person, wish: Wish, latest: StoredVerdict | None, undoes: tuple[str, ...]
) -> Intent:
    rules, now = policy.promotion, datetime.now(UTC)
    return Intent(
        id="",
        key="",
        release=wish.release,
        action=wish.action,
        requester=person.name,
        reason=wish.reason,
        verdict_hash=hash_verdict(latest) if latest else "",
        data_hash=hash_data_now(store, latest) if latest else "",
        policy_hash=hash_policy_now(store, policy, wish.release),
        requested_at=now,
        expires_at=now + timedelta(seconds=rules.approvals.expires_s),
        approvals_needed=rules.needed(wish.action),
        distinct=rules.distinct(wish.action),
        requester_names=person.names,
        hooks_hash=rules.hash,
        undoes=undoes,
    )


# ------------------------------------------------------------------ on which grounds


def list_conditions(
    store: Store, policy: Policy, verdict: Verdict | None, stored: StoredVerdict | None
) -> tuple[Condition, ...]:
    """What has to be so before a release is promoted, and whether it is."""
    if verdict is None or stored is None:
        return check_promotable((), None, "", "")
    release = verdict.release.id
    again = f"judge it again: `{policy.command(release)}`"
    found = check_promotable(store.runs(release), verdict, hash_policy_now(store, policy, release), again)
    age_s = (datetime.now(UTC) - stored.judged_at).total_seconds()
    most_s = policy.promotion.approvals.max_age_s
    same, young = bool(hash_data_now(store, stored)), -CLOCK.total_seconds() <= age_s <= most_s
    within = f"it was judged within the last {format_duration(most_s)}"
    hooks = bool(policy.promotion.hooks.get(Action.PROMOTE))
    return (
        *found,
        Condition("its data are as they were judged", same, "its data changed, or there are newer", again),
        Condition(within, young, _tell_age(age_s), again),
        Condition("the policy names hooks that promote", hooks, "the policy names no hooks that promote", _NO_HOOKS),
    )


def _tell_age(age_s: float) -> str:
    if age_s < 0:
        return f"it was judged {format_duration(round(-age_s))} from now: the clock was set back"
    return f"it was judged {format_duration(round(age_s))} ago"


_NO_HOOKS = "add hooks to evaluator.yaml, or promote it where it is deployed: docs/promotion.md"


def _refuse_on_grounds(store: Store, policy: Policy, wish: Wish, latest: StoredVerdict | None) -> None:
    if wish.action not in PROMOTING:
        return
    if latest is None:
        raise Refused(f"{wish.release} was not judged yet", hint=f"judge it: {policy.command(wish.release)}")
    verdict = from_json(latest.json, f"the verdict of {wish.release}")
    if wish.action is Action.BREAK_GLASS:
        _refuse_needless_glass(policy, verdict)
        return
    unmet = [one for one in list_conditions(store, policy, verdict, latest) if not one.met]
    if unmet:
        raise Refused(
            f"{wish.release} is not promoted: " + "; ".join(one.says for one in unmet),
            hint=unmet[0].remedy.replace("`", "") or None,
            no_go=verdict.word is VerdictWord.NO_GO,
        )


def _refuse_needless_glass(policy: Policy, verdict: Verdict) -> None:
    if verdict.word is VerdictWord.GO:
        raise Refused(f"{verdict.release.id} is GO: no glass has to be broken", hint="promote it")
    if not policy.promotion.hooks.get(Action.PROMOTE):
        raise Refused("the policy names no hooks that promote", hint=_NO_HOOKS)


# ------------------------------------------------------------------ what it comes to


def find_promoted(store: Store, release: str) -> tuple[Intent, ...]:
    """Promotions of a release that may have changed something and were not rolled back since, the newest first."""
    return tuple(find_in_effect(store, store.promotions.intents(release)))


def plan_action(
    store: Store, policy: Policy, release: str, action: Action, undoes: Sequence[str] | None = None
) -> tuple[tuple[Planned, ...], tuple[str, ...]]:
    """Hooks that an action would execute, and what it cannot take back. Raises PolicyError or HookError.

    `undoes`: what a rollback takes back; by default what is in effect.
    """
    if undoes is None:
        undoes = [one.id for one in find_promoted(store, release)] if action is Action.ROLLBACK else []
    return plan_steps(policy.promotion, action, read_undone(store, undoes))


def _find_undone(store: Store, policy: Policy, wish: Wish) -> tuple[str, ...]:
    """The promotions that a rollback takes back. Raises Refused where it would do nothing, or undo a later one."""
    if wish.action is not Action.ROLLBACK:
        return ()
    found = find_promoted(store, wish.release)
    promoted, begun = tuple(one.id for one in found), any(one.state is IntentState.SENT for one in found)
    planned, left = plan_action(store, policy, wish.release, wish.action, promoted)
    # What a worker is at just now may have no hook to take back yet; it has when the rollback is executed.
    if not begun and all(one.event == ANNOUNCE for one in planned):
        why = "; ".join(left) if left else "no promotion of it was executed, and the policy names no hooks for rollback"
        raise Refused(f"there is nothing to roll back for {wish.release}: {why}", hint=_how_else(store, wish.release))
    _refuse_out_of_order(store, wish.release, promoted)
    return promoted


def _how_else(store: Store, release: str) -> str:
    """What stops a release that cannot be rolled back."""
    waits = [one for one in store.promotions.intents(release) if one.state not in FINAL_STATES]
    if any(one.action in PROMOTING for one in waits):
        return f"a promotion of it waits, which this cancels: evaluator hold {shlex.quote(release)}"
    return "name hooks for rollback"


def _refuse_out_of_order(store: Store, release: str, promoted: Sequence[str]) -> None:
    """What was promoted later of the same service stands on what this one changed: it goes back first."""
    services = set(services_of(store, release))
    for later in find_in_effect(store, store.promotions.intents()):
        if later.id in promoted or not promoted:
            return
        if services & set(services_of(store, later.release)):
            raise Refused(
                f"{later.release} was promoted after {release}",
                hint=f"roll that back first, or instead: {later.release}",
            )


# ------------------------------------------------------------------ agreeing, and the rest


def approve(store: Store, policy: Policy, person: Person, intent_id: str) -> Intent:
    """Agree to an intent. Raises Refused, UsageError."""
    intent = store.promotions.intent(intent_id)
    with _refusals(store, person, intent.release, f"approve {intent.action}", intent.id):
        _demand(policy, person, PersonRole.APPROVER, "approving")
        if intent.hooks_hash != policy.promotion.hash:
            raise Refused(
                f"the policy's hooks or approvals have changed since {intent.id} was asked for", hint="ask for it again"
            )
        return store.promotions.approve(intent.id, person)


def cancel(store: Store, policy: Policy, person: Person, intent_id: str, reason: str) -> Intent:
    """Take back, or turn down, an intent that was not executed yet. Raises Refused, UsageError."""
    intent, said = store.promotions.intent(intent_id), _read_reason(reason, needed=False)
    with _refusals(store, person, intent.release, f"cancel {intent.action}", intent.id):
        if not are_one((*person.names, person.name), (*intent.requester_names, intent.requester)):
            _demand(policy, person, PersonRole.APPROVER, "turning down what others asked for")
        return store.promotions.cancel(intent.id, person.name, said or "no reason given")


def retry(store: Store, policy: Policy, person: Person, intent_id: str) -> Intent:
    """Let hooks that failed, or of which nobody knows, be executed again, with the same keys. Raises Refused."""
    intent = store.promotions.intent(intent_id)
    with _refusals(store, person, intent.release, f"retry {intent.action}", intent.id):
        _demand(policy, person, PersonRole.APPROVER, "trying hooks again")
        if datetime.now(UTC) >= intent.expires_at:
            raise Refused(f"{intent.id} has expired", hint=_what_instead(intent))
        later = [one for one in _list_later(store, intent) if one.state not in _VOID]
        if later:
            raise Refused(
                f"{later[-1].id} ({later[-1].action.said}) came after {intent.id}", hint=_what_instead(intent)
            )
        return store.promotions.reopen(intent.id, person.name, "hooks that were not acknowledged are executed again")


def _list_later(store: Store, intent: Intent) -> tuple[Intent, ...]:
    """What was asked for of the same release after an intent."""
    intents = store.promotions.intents(intent.release)
    return intents[[one.id for one in intents].index(intent.id) + 1 :]


def _what_instead(intent: Intent) -> str:
    if intent.state is not IntentState.UNKNOWN:
        return "ask for it again"
    return f"say what became of its hooks, `evaluator hooks resolve {intent.id}`; then ask for it again"


def resolve(
    store: Store, policy: Policy, person: Person, intent_id: str, number: int, *, done: bool, reason: str
) -> Intent:
    """Say of a hook (counted from 1) whether it was done, where nobody could tell. Raises Refused, UsageError."""
    intent, reason = store.promotions.intent(intent_id), _read_reason(reason)
    with _refusals(store, person, intent.release, f"resolve {intent.action}", intent.id):
        _demand(policy, person, PersonRole.ADMIN, "saying what a hook did")
        one = _find_unknown(store, intent, number)
    rest = _count_missing(store, policy, intent)
    state = IntentState.ACKNOWLEDGED if done else IntentState.FAILED
    said = HookOutcome(state, f"{person.name} says: {reason}", one.outcome.undo if done else "", one.outcome.response)
    store.promotions.deliver(replace(one, attempts=0, outcome=said, at=datetime.now(UTC)), intent.release, person.name)
    return _settle_anew(store, intent, person, rest)


def _find_unknown(store: Store, intent: Intent, number: int) -> Delivery:
    """The hook that nobody knows of. Raises UnknownName, UsageError, Refused."""
    deliveries = {one.position + 1: one for one in store.promotions.deliveries(intent.id)}
    if number not in deliveries:
        raise UnknownName("hook", str(number), [str(one) for one in deliveries])
    one = deliveries[number]
    if one.outcome.state is not IntentState.UNKNOWN or intent.state not in FINAL_STATES:
        raise UsageError(f"hook {number} of {intent.id} is {one.outcome.state}, so there is nothing to resolve")
    for later in _list_later(store, intent):
        # The hooks of a rollback are counted by what it takes back, which must not change under it.
        if intent.id in later.undoes and later.state not in _VOID:
            raise Refused(f"{later.id} takes back {intent.id}, done or not", hint=f"look at {later.id} instead")
    return one


def _count_missing(store: Store, policy: Policy, intent: Intent) -> int | None:
    """How many hooks of an intent were not reached; `None` where the policy is no longer that of the request."""
    if intent.hooks_hash != policy.promotion.hash:
        return None
    planned, _left = plan_action(store, policy, intent.release, intent.action, intent.undoes)
    known = [one for one in store.promotions.deliveries(intent.id) if one.event != ANNOUNCE]
    return sum(one.event != ANNOUNCE for one in planned) - len(known)


def _settle_anew(store: Store, intent: Intent, person: Person, missing: int | None) -> Intent:
    """What an intent has come to, now that one of its hooks is known."""
    known = [one for one in store.promotions.deliveries(intent.id) if one.event != ANNOUNCE]
    states = {one.outcome.state for one in known}
    if IntentState.UNKNOWN in states:
        return intent
    state = IntentState.ACKNOWLEDGED if states == {IntentState.ACKNOWLEDGED} and missing == 0 else IntentState.FAILED
    store.promotions.settle(intent.id, state, person.name, _tell_missing(missing))
    return store.promotions.intent(intent.id)


def _tell_missing(missing: int | None) -> str:
    if missing is None:
        return "the policy's hooks have changed since: whether any came after it is not known"
    return "hooks after it were not executed: `evaluator hooks retry` does" if missing else "every hook is known now"


def write_note(store: Store, policy: Policy, person: Person, release: str, text: str) -> AuditRow:
    """Add a note to a release. Raises UsageError, Refused, UnknownName."""
    lines = "".join(one if one == "\n" or category(one) not in _UNSAID else " " for one in text).strip()
    if not lines or len(lines) > LONGEST_NOTE:
        raise UsageError(
            f"the note has more than {LONGEST_NOTE} characters" if lines else "the note is empty",
            hint='for example: evaluator audit note cart@1.5.0 "slow disk in pod 3"',
        )
    store.release(release)
    with _refusals(store, person, release, "note"):
        _demand(policy, person, PersonRole.ANALYST, "writing notes")
    return store.promotions.note(person.name, "note", release, lines)


def _demand(policy: Policy, person: Person, role: PersonRole, what: str) -> None:
    if not may(policy.promotion, person.names, role):
        raise Refused(why_not(policy.promotion, person, role, what), hint="ask somebody who may")
