"""What is so now: the verdict, its data, the policy, and who may do what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

from evaluator.intents.checking import Situation
from evaluator.intents.people import may, may_act_alone, may_ask
from evaluator.pipeline.hindsight import runs_behind
from evaluator.pipeline.judging import choose_runs, service_of
from evaluator.pipeline.landing import land_release
from evaluator.pipeline.reviewing import is_live
from evaluator.policy import Policy, with_learnt
from evaluator.records import ReleaseSummary, StoredVerdict
from evaluator.records.intents import Approval, Delivery, Intent, IntentState, PersonRole
from evaluator.store import Store

__all__ = ["find_latest", "find_settled", "hash_data_now", "hash_policy_now", "observe", "read_undone"]


def observe(store: Store, policy: Policy, intent: Intent, now: datetime) -> Situation:
    """Read anew what an intent rests on."""
    land_release(store, intent.release)
    latest, rules = find_latest(store, intent.release), policy.promotion
    alone = intent.approvals_needed == 0 and may_act_alone(rules, intent.requester_names, intent.action)
    approvals = store.promotions.approvals(intent.id)
    able = {one.person for one in approvals if may(rules, one.names, PersonRole.APPROVER)}
    return Situation(
        now=now,
        latest=latest,
        data_hash=hash_data_now(store, latest) if latest else "",
        policy_hash=hash_policy_now(store, policy, intent.release),
        hooks_hash=rules.hash,
        approvers=_people(approvals),
        may_request={intent.requester} if may_ask(rules, intent.requester_names, intent.action) else set(),
        may_approve=able | ({intent.requester} if alone else set()),
        max_age=timedelta(seconds=rules.approvals.max_age_s),
    )


def _people(approvals: Sequence[Approval]) -> frozenset[str]:
    return frozenset(one.person for one in approvals)


def find_latest(store: Store, release_id: str) -> StoredVerdict | None:
    """Read the newest verdict of a release."""
    return next(reversed(store.verdicts(release_id)), None)


def find_settled(intents: Sequence[Intent], summaries: Sequence[ReleaseSummary]) -> frozenset[str]:
    """Releases that somebody has acted on since their latest verdict."""
    judged = {one.release.id: one.judged_at for one in summaries if one.judged_at}
    return frozenset(
        one.release
        for one in intents
        if one.state is IntentState.ACKNOWLEDGED and one.release in judged and one.requested_at >= judged[one.release]
    )


def hash_data_now(store: Store, verdict: StoredVerdict) -> str:
    """Hash what a verdict judged as it is now; empty where it changed, or something newer is there that it did not see.

    A verdict does not list its runs: they are found again by their hash.
    """
    judged = str(json.loads(verdict.json)["data_hash"])
    runs = store.runs(verdict.release)
    behind = runs_behind(store, verdict.release, judged)
    if behind is None or is_live(runs):
        return ""
    seen, newest = ([run.id for run in choose_runs(runs, name)] for name in (behind, "latest"))
    # A newer load of which nothing landed would not change the hash of all, and yet nobody has judged it.
    empty = store.data_hash(newest) == store.data_hash([])
    return judged if set(newest) <= set(seen) and not empty else ""


def hash_policy_now(store: Store, policy: Policy, release_id: str) -> str:
    """Hash the policy as the judge would use it now, with what was learnt of the service."""
    return with_learnt(policy, store.learnt(service_of(store.release(release_id)))).hash


def read_undone(store: Store, undoes: Sequence[str]) -> tuple[Delivery, ...]:
    """Deliveries of the promotions that are taken back: the newest promotion first, its last hook first."""
    return tuple(
        one
        for intent in undoes
        for one in sorted(store.promotions.deliveries(intent), key=lambda delivery: -delivery.position)
    )
