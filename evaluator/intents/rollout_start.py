"""Whether a person may start a rollout of a release now."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress

from evaluator.errors import UnknownName
from evaluator.intents.conditions import explain_change_by_hand
from evaluator.intents.observing import services_of
from evaluator.intents.people import may, why_not
from evaluator.intents.rollout_plans import explain_missing_agreement
from evaluator.policy import Policy
from evaluator.records.intents import PROMOTING, Action, IntentState, Person, PersonRole
from evaluator.store import Store
from evaluator.wording import quote_command

_UNDER_WAY = (IntentState.APPROVED, IntentState.SENT)


def explain_obstacle_to_start(
    store: Store, policy: Policy, person: Person, release: str, services: Collection[str]
) -> str:
    """Say why a person may not start a rollout of a release now, and what to do; empty if they may.

    `services`: those that are rolled out. The store may not have the release yet. Raises StoreError.
    """
    return next((text for text in _find_obstacles(store, policy, person, release, set(services)) if text), "")


def _find_obstacles(store: Store, policy: Policy, person: Person, release: str, services: set[str]) -> Iterator[str]:
    """Yield each reason why a person may not start a rollout; texts may be empty."""
    if not may(policy.promotion, person.names, PersonRole.APPROVER):
        yield why_not(policy.promotion, person, PersonRole.APPROVER, "starting a rollout")
    yield from _find_missing_agreement(policy)
    for intent in store.control.intents():
        is_promotion = intent.action in PROMOTING and intent.action is not Action.STEP
        is_open = intent.state in _UNDER_WAY or (is_promotion and intent.state is IntentState.REQUESTED)
        if intent.action is Action.STEP or not is_open or not services & set(services_of(store, intent.release)):
            continue
        what = "waits for approval" if intent.state is IntentState.REQUESTED else "is being executed or waits for it"
        remedy = quote_command("reject", intent.id) if intent.state is IntentState.REQUESTED else "wait for its end"
        yield f"{intent.id} ({intent.label} {intent.release}) {what}: {remedy}"
    with suppress(UnknownName):  # it is new
        yield explain_change_by_hand(store, release)


def _find_missing_agreement(policy: Policy) -> Iterator[str]:
    """Yield why users would meet the candidate with fewer agreements than a promotion needs."""
    exposed = (
        next((stage for stage in policy.rollout.stages if stage.share is not None), None) if policy.rollout else None
    )
    if exposed and (missing := explain_missing_agreement(policy.promotion, f"stage {exposed.name}", exposed.agree)):
        yield missing
