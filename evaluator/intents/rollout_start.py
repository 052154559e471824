"""Whether a person may start a rollout of a release now."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime

from evaluator.errors import UnknownName
from evaluator.intents.conditions import explain_change_by_hand
from evaluator.intents.observing import find_latest, services_of
from evaluator.intents.people import may, why_not
from evaluator.intents.rollout_plans import explain_full_share, explain_missing_agreement
from evaluator.policy import Policy
from evaluator.records import VerdictWord
from evaluator.records.intents import PROMOTING, Action, IntentState, Person, PersonRole
from evaluator.records.rollouts import EventKind, RolloutOutcome
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts
from evaluator.wording import quote_command

_UNDER_WAY = (IntentState.APPROVED, IntentState.SENT)


def explain_obstacle_to_start(
    store: Store, policy: Policy, person: Person, release: str, services: Collection[str], *, is_again: bool = False
) -> str:
    """Say why a person may not start a rollout of a release now, and what to do; empty if they may.

    `services`: those that are rolled out. `is_again`: they know what the release has shown
    before. The store may not have the release yet. Raises StoreError.
    """
    if obstacle := next((text for text in _find_obstacles(store, policy, person, release, set(services)) if text), ""):
        return obstacle
    with suppress(UnknownName):  # it is new
        return "" if is_again else next(_find_earlier_harm(store, release), "")
    return ""


def _find_earlier_harm(store: Store, release: str) -> Iterator[str]:
    """Yield why a release was rolled back, and that its newest verdict is NO-GO: to try it once more is a decision."""
    remedy = "roll out a new version; --again starts it all the same"
    rollouts = Rollouts(store.control.file)
    for rollout in rollouts.rollouts(release)[-1:]:
        events = rollouts.events(rollout.id)
        stopped = next((event for event in events if event.kind is EventKind.STOPPED), None)
        outcome = next((event.outcome for event in events if event.kind is EventKind.ENDED), None)
        if outcome in (RolloutOutcome.ROLLED_BACK, RolloutOutcome.ROLLED_BACK_PARTLY):
            at = f"{datetime.fromtimestamp(events[-1].at, UTC):%Y-%m-%d %H:%M} UTC"
            why = f", because {stopped.text}" if stopped and stopped.text else ""
            by = f" by {stopped.person}" if stopped and stopped.person else ""
            yield f"{rollout.id} of this release was rolled back{by} at {at}{why}: {remedy}"
        back = [intent for intent in store.control.intents(release) if intent.action is Action.ROLLBACK]
        if outcome is RolloutOutcome.PROMOTED and back and back[-1].requested_at > rollout.started_at:
            at = f"{back[-1].requested_at:%Y-%m-%d %H:%M} UTC"
            yield f"{rollout.id} was promoted, and {back[-1].requester} rolled it back at {at}: {remedy}"
    latest = find_latest(store, release)
    if latest is not None and latest.word == VerdictWord.NO_GO:
        yield f"its newest verdict, of {latest.judged_at:%Y-%m-%d %H:%M} UTC, is NO-GO: {remedy}"


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
    exposed = next((stage for stage in policy.rollout.stages if stage.has_users), None) if policy.rollout else None
    if exposed and (missing := explain_missing_agreement(policy.promotion, f"stage {exposed.name}", exposed.agree)):
        yield missing
    # The last stage with users is that with all of them, whatever the strategy.
    stages = reversed(policy.rollout.stages) if policy.rollout else ()
    full = next((stage for stage in stages if stage.has_users), None)
    if full and (missing := explain_full_share(policy.promotion, full.name, full.agree)):
        yield missing
