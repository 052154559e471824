"""The current state: the verdict, its data, the policy, and who may do what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from evaluator.intents.checking import Situation
from evaluator.intents.people import may, may_act_alone, may_ask
from evaluator.pipeline.landing import land_release
from evaluator.pipeline.runs import choose_runs, find_judged, is_live, service_of
from evaluator.policy import Policy, with_learnt
from evaluator.records import StoredVerdict
from evaluator.records.intents import (
    ANNOUNCE,
    PROMOTING,
    Action,
    Approval,
    Delivery,
    Intent,
    IntentState,
    PersonRole,
    are_same_person,
)
from evaluator.store import Store

_NOTHING_DONE = (IntentState.FAILED, IntentState.APPROVED)
"""States of a hook that changed nothing; failed hooks are approved again when they are tried again."""


def observe(store: Store, policy: Policy, intent: Intent, now: datetime) -> Situation:
    """Read the current state of all that an intent rests on."""
    land_release(store, intent.release)
    with store.reading():
        return _read_situation(store, policy, intent, now)


def _read_situation(store: Store, policy: Policy, intent: Intent, now: datetime) -> Situation:
    latest, rules = find_latest(store, intent.release), policy.promotion
    alone = intent.approvals_needed == 0 and may_act_alone(rules, intent.requester_names, intent.action)
    approvals = store.control.approvals(intent.id)
    able = _people(intent, [approval for approval in approvals if may(rules, approval.names, PersonRole.APPROVER)])
    return Situation(
        now=now,
        latest=latest,
        data_hash=hash_data_now(store, intent.release, latest.data_hash) if latest else "",
        policy_hash=hash_policy_now(store, policy, intent.release),
        hooks_hash=rules.hash,
        approvers=_people(intent, approvals),
        may_request={intent.requester} if may_ask(rules, intent.requester_names, intent.action) else set(),
        may_approve=able | ({intent.requester} if alone else set()),
        max_age=timedelta(seconds=rules.approvals.max_age),
        overtaken_by=_find_overtaking(store, intent),
    )


def _people(intent: Intent, approvals: Sequence[Approval]) -> frozenset[str]:
    """Who approved; the requester by the name in the request, whatever name they approved under."""
    requester_names = (*intent.requester_names, intent.requester)
    return frozenset(
        intent.requester if are_same_person((*approval.names, approval.person), requester_names) else approval.person
        for approval in approvals
    )


def services_of(store: Store, release: str) -> tuple[str, ...]:
    """The services of a release, which other releases may share; the release itself where it has none."""
    return tuple(sorted({service.name for service in store.control.release(release).services})) or (release,)


def find_in_effect(store: Store, intents: Sequence[Intent]) -> Iterator[Intent]:
    """Promotions that may have changed something, or are about to, and were not rolled back, the newest first."""
    rollbacks = [
        intent for intent in intents if intent.action is Action.ROLLBACK and intent.state is IntentState.ACKNOWLEDGED
    ]
    over = {name for rollback in rollbacks for name in rollback.undoes}
    # Those that changed something, or that a worker is executing.
    begun = {
        delivery.intent
        for delivery in store.control.deliveries()
        if delivery.event != ANNOUNCE and delivery.outcome.state not in _NOTHING_DONE
    } | {intent.id for intent in intents if intent.state is IntentState.SENT}
    for intent in reversed(intents):
        if intent.action in PROMOTING and intent.id not in over and intent.id in begun:
            yield intent


def _find_overtaking(store: Store, intent: Intent) -> str:
    """Why a later request forbids an intent; empty where none does.

    A promotion does not continue after its release was held or rolled back. No intent changes what a later promotion
    of another release of the service builds on.
    """
    intents = store.control.intents()
    later = intents[[entry.id for entry in intents].index(intent.id) + 1 :]
    if intent.action in PROMOTING:
        for newer in later:
            if newer.release == intent.release and newer.stops:
                return f"{newer.id} ({newer.action.label}) was requested after it"
    if intent.action is Action.HOLD:
        return ""
    services = set(services_of(store, intent.release))
    for promotion in find_in_effect(store, intents):
        if promotion not in later:
            return ""
        if promotion.release != intent.release and services & set(services_of(store, promotion.release)):
            return f"{promotion.release} was promoted after it was requested ({promotion.id})"
    return ""


def find_latest(store: Store, release_id: str) -> StoredVerdict | None:
    """Read the newest verdict of a release."""
    return next(reversed(store.control.verdicts(release_id)), None)


def hash_data_now(store: Store, release_id: str, judged: str) -> str:
    """Return the hash `judged` of a verdict's data as long as a verdict would judge the same data now, else "".

    A verdict does not list its runs: they are found again by their hash.
    """
    with store.reading():
        runs = store.data.runs(release_id)
        selection = find_judged(store, release_id, judged)
        if selection is None or is_live(runs):
            return ""
        judged_runs, newest = ([run.id for run in choose_runs(runs, name)] for name in (selection, "latest"))
        # A newer load of which nothing landed does not change the hash of all, but it was not judged.
        empty = store.data.content_hash(newest) == store.data.content_hash([])
    return judged if set(newest) <= set(judged_runs) and not empty else ""


def hash_policy_now(store: Store, policy: Policy, release_id: str) -> str:
    """Hash the policy as the judge would use it now, with what was learnt about the service."""
    return with_learnt(policy, store.control.learnt(service_of(store.control.release(release_id)))).hash


def read_undone(store: Store, undoes: Sequence[str]) -> tuple[Delivery, ...]:
    """Deliveries of the promotions that are taken back: the newest promotion first, its last hook first."""
    return tuple(
        delivery
        for intent in undoes
        for delivery in sorted(store.control.deliveries(intent), key=lambda delivery: -delivery.position)
    )
