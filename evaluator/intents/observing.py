"""The current state: the verdict, its data, the policy, and who may do what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from evaluator.intents.checking import Situation
from evaluator.intents.people import may, may_act_alone, may_ask
from evaluator.intents.rollout_plans import find_of_services
from evaluator.intents.versions import explain_other_versions
from evaluator.pipeline.landing import land_release
from evaluator.pipeline.runs import choose_runs, find_judged, is_live, service_of
from evaluator.policy import Policy, with_learnt
from evaluator.records import EvidenceKind, Release, StoredVerdict
from evaluator.records.intents import (
    CHANGE_NOTHING,
    PROMOTING,
    Action,
    Approval,
    Delivery,
    Intent,
    IntentState,
    PersonRole,
    are_same_person,
)
from evaluator.reports import read_stored
from evaluator.store import Store

_UNCHANGED_STATES = (IntentState.FAILED, IntentState.APPROVED)
"""States of a hook that changed nothing; failed hooks are approved again when they are tried again."""


def observe(store: Store, policy: Policy, intent: Intent, release: Release, now: datetime) -> Situation:
    """Read what decides now whether an intent may be executed: verdict, data, policy, and permissions of its people.

    `release`: that of the intent, with the versions that its hooks will get.
    """
    if intent.action not in PROMOTING:
        return _read_situation(store, policy, intent, release, now)
    land_release(store, intent.release)  # data that have just arrived make a verdict outdated
    with store.reading():
        return _read_situation(store, policy, intent, release, now)


def _read_situation(store: Store, policy: Policy, intent: Intent, release: Release, now: datetime) -> Situation:
    """Read the situation of an intent; the arguments are those of `observe`. Only promotions need data."""
    latest, rules = find_latest(store, intent.release), policy.promotion
    needs_data = latest is not None and intent.action in PROMOTING
    approvals = store.control.approvals(intent.id)
    # Those who approved it and still have the role; if no approval is needed, also a requester who may act alone.
    valid_approvals = [approval for approval in approvals if may(rules, approval.names, PersonRole.APPROVER)]
    may_approve = _list_approvers(intent, valid_approvals)
    if intent.approvals_needed == 0 and may_act_alone(rules, intent.requester_names, intent.action):
        may_approve |= {intent.requester}
    other_versions = ""  # a rollback is executed whatever its verdict says
    if latest and intent.action in PROMOTING:
        other_versions = explain_other_versions(read_stored(latest).release, release)
    return Situation(
        now=now,
        latest=latest,
        data_hash=hash_data_now(store, intent.release, latest.data_hash) if latest and needs_data else "",
        policy_hash=hash_policy_now(store, policy, intent.release),
        hooks_hash=rules.hash,
        approvers=_list_approvers(intent, approvals),
        may_request={intent.requester} if may_ask(rules, intent.requester_names, intent.action) else set(),
        may_approve=may_approve,
        max_age=timedelta(seconds=rules.approvals.max_age),
        overtaken_by=_explain_overtaking(store, intent),
        other_versions=other_versions,
        restarted_at=store.control.restarted_at(),
    )


def _list_approvers(intent: Intent, approvals: Sequence[Approval]) -> frozenset[str]:
    """List the names of the people who approved an intent.

    A requester who approved under another name (an account instead of an address) is listed by the name of the request.
    """
    requester_names = (*intent.requester_names, intent.requester)
    return frozenset(
        intent.requester if are_same_person((*approval.names, approval.person), requester_names) else approval.person
        for approval in approvals
    )


def services_of(store: Store, release: str) -> tuple[str, ...]:
    """Names of the services of a release, sorted; the release's own name if it has no service."""
    names = {service.name for service in store.control.release(release).services}
    return tuple(sorted(names)) or (release,)


def find_in_effect(store: Store, intents: Sequence[Intent]) -> Iterator[Intent]:
    """Yield what may have changed something, or is being executed, and was not rolled back: promotions and steps.

    Steps of rollouts that no rollback undoes are not among them. `intents`: those to search, with their rollbacks, the
    oldest first. Yields the newest first.
    """
    rolled_back = {
        promotion_id
        for intent in intents
        if intent.action is Action.ROLLBACK and intent.state is IntentState.ACKNOWLEDGED
        for promotion_id in intent.undoes
    }
    changed_something = find_begun(store)
    being_executed = {intent.id for intent in intents if intent.state is IntentState.SENT}
    for intent in reversed(intents):
        if not intent.is_undoable or intent.id in rolled_back:
            continue
        if intent.id in changed_something or intent.id in being_executed:
            yield intent


def find_begun(store: Store) -> set[str]:
    """Find the ids of the intents of which a hook has changed something, or may have."""
    return {
        delivery.intent
        for delivery in store.control.deliveries()
        if delivery.event not in CHANGE_NOTHING and delivery.outcome.state not in _UNCHANGED_STATES
    }


def _explain_overtaking(store: Store, intent: Intent) -> str:
    """Say why a later request forbids to execute an intent; empty if none does.

    A promotion is not executed after its release was held or rolled back. A promotion or a rollback is not executed
    after another release of the same service was promoted: it would change what that promotion is based on.
    """
    intents = store.control.intents()  # the oldest first
    position = [entry.id for entry in intents].index(intent.id)
    later_intents = intents[position + 1 :]
    if reason := explain_later_stop(store, intent):
        return reason
    if intent.action is Action.HOLD:
        return ""
    services = set(services_of(store, intent.release))
    if intent.action in PROMOTING and (rollout := find_of_services(store, intent.release, tuple(services))):
        return f"the rollout {rollout.id} of {rollout.release} has not ended"
    for promotion in find_in_effect(store, intents):  # the newest first
        if promotion not in later_intents:
            return ""  # those that follow are older still
        if promotion.release != intent.release and services & set(services_of(store, promotion.release)):
            return f"{promotion.release} was promoted after it was requested ({promotion.id})"
    return ""


def explain_later_stop(store: Store, intent: Intent) -> str:
    """Say which hold or rollback of its release was requested after a promotion; empty if none was."""
    intents = store.control.intents(intent.release)  # the oldest first
    position = [entry.id for entry in intents].index(intent.id)
    for later in intents[position + 1 :]:
        if intent.action in PROMOTING and later.stops:
            return f"{later.id} ({later.action.label}) was requested after it"
    return ""


def find_latest(store: Store, release_id: str) -> StoredVerdict | None:
    """Read the newest verdict of a release."""
    return next(reversed(store.control.verdicts(release_id)), None)


def hash_data_now(store: Store, release_id: str, judged_hash: str) -> str:
    """Check whether a verdict on a release would judge the same data now as an earlier one, on data with `judged_hash`.

    Returns `judged_hash` if it would, else "": data changed, a run is still recorded, or a newer run was not judged.
    """
    with store.reading():
        runs = store.data.runs(release_id)
        # A verdict lists no runs: the hash of their data shows which they were.
        selection_and_step = find_judged(store, release_id, judged_hash)
        if selection_and_step is None or is_live(runs):
            return ""
        judged_runs = {run.id for run in choose_runs(runs, *selection_and_step)}
        newest = choose_runs(runs, "latest")
        newest_runs = [run.id for run in newest]
        # A newer run of which nothing landed does not change the hash of the data, but it was not judged.
        is_newest_empty = store.data.content_hash(newest_runs) == store.data.content_hash([])
        # Nor do runs of production requests without any, next to a load.
        live = [run for run in newest if run.kind is EvidenceKind.LIVE]
        is_newest_empty = is_newest_empty or (bool(live) and not any(run.landed for run in live))
    return judged_hash if set(newest_runs) <= judged_runs and not is_newest_empty else ""


def hash_policy_now(store: Store, policy: Policy, release_id: str) -> str:
    """Hash the policy as the judge would use it now, with what was learnt about the release's service."""
    learnt = store.control.learnt(service_of(store.control.release(release_id)))
    return with_learnt(policy, learnt).hash


def read_deliveries_to_undo(store: Store, promotion_ids: Sequence[str]) -> tuple[Delivery, ...]:
    """Read the executed hooks of promotions in the order in which they are undone: of each, the last hook first.

    `promotion_ids`: ids of the promotions, the newest first.
    """
    return tuple(
        delivery
        for promotion_id in promotion_ids
        for delivery in sorted(store.control.deliveries(promotion_id), key=lambda delivery: -delivery.position)
    )
