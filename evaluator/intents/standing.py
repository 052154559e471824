"""What users of each service meet, as far as it is recorded: promotions and rollouts, without what was taken back.

What is not known stays so: after an action whose outcome is unknown, it is open which release users have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from evaluator.errors import PlanNotReadable
from evaluator.intents.life_facts import NOUNS, LifeFacts, explain_restart, find_time, is_open
from evaluator.intents.rollout_plans import read_plan
from evaluator.intents.rollout_progress import MAY_HAVE_ACTED, RolloutProgress, fold
from evaluator.records.intents import Action, Intent, IntentState
from evaluator.records.life import ServiceLife
from evaluator.records.rollouts import Act, Event, EventKind, Rollout, RolloutOutcome, RolloutPlan
from evaluator.wording import format_number


@dataclass(frozen=True, slots=True)
class Placement:
    """One release that was given to the users of a service."""

    release: str
    at: datetime
    by: str
    why: str
    intent: str = ""
    rollout: str = ""
    doubt: Intent | None = None
    """What leaves it open whether users have it: its own promotion, or a rollback; None: they have it."""
    restored_by: str = ""
    """The later release whose rollback gave it to users again."""
    restored_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _TrafficChange:
    """An action or a rollout that gave a release to the users, took it back, or may have."""

    at: datetime
    """By which they are ordered; what is being executed comes last."""
    release: str
    placed: Placement | None = None
    """What it gave; None: it went back."""
    undoes: tuple[str, ...] | None = None
    """Of one that went back: the promotions that it undoes; None: all of the release."""
    doubt: Intent | None = None
    """Of one that went back: what leaves it open whether it did; None: it did."""


_LATEST = datetime.max.replace(tzinfo=UTC)

Standing = Mapping[str, Sequence[Placement]]
"""Service → the releases that were given to its users and not taken back; the newest, which is live, is the last."""


def find_standing(facts: LifeFacts) -> Standing:
    """Find the releases that were given to the users of each service and not taken back."""
    standing: dict[str, list[Placement]] = {service: [] for services in facts.services.values() for service in services}
    for change in sorted(_list_changes(facts), key=lambda change: change.at):
        for service in facts.services.get(change.release, ()):
            placements = standing[service]
            if change.placed is not None:
                placements.append(change.placed)
                continue
            undone = [entry for entry in placements if _is_undone(entry, change)]
            if change.doubt is not None:
                standing[service] = [
                    replace(entry, doubt=change.doubt) if entry in undone else entry for entry in placements
                ]
                continue
            remaining = [entry for entry in placements if entry not in undone]
            if remaining and placements[-1] in undone:
                remaining[-1] = replace(remaining[-1], restored_by=change.release, restored_at=change.at)
            standing[service] = remaining
    return standing


def _is_undone(placement: Placement, change: _TrafficChange) -> bool:
    """Does a change that goes back take back what was given to users?"""
    return placement.release == change.release and (change.undoes is None or placement.intent in change.undoes)


def _list_changes(facts: LifeFacts) -> list[_TrafficChange]:
    """List what gave releases to users, or took them back, in the order of the requests."""
    changes = []
    for intent in facts.intents:
        doubt = intent if is_open(facts, intent) else None
        if intent.action in (Action.STEP, Action.HOLD) or (intent.state is not IntentState.ACKNOWLEDGED and not doubt):
            continue
        at, ending = find_time(facts, intent), facts.endings.get(intent.id)
        since = _LATEST if intent.state is IntentState.SENT else ending.at if ending is not None else at
        if intent.action is Action.ROLLBACK:
            # That of a rollout undoes its steps, which are no placements of their own.
            undoes = intent.undoes if intent.rollout else None
            changes.append(_TrafficChange(since, intent.release, undoes=undoes, doubt=doubt))
        else:
            placed = Placement(intent.release, at, intent.requester, intent.reason, intent.id, doubt=doubt)
            changes.append(_TrafficChange(since, intent.release, placed))
    for rollout, events in facts.rollouts:
        ended = find_end(events)
        if ended is not None and ended.outcome is RolloutOutcome.PROMOTED:
            at = datetime.fromtimestamp(ended.at, UTC)
            placed = Placement(rollout.release, at, rollout.person, rollout.reason, rollout=rollout.id)
            changes.append(_TrafficChange(at, rollout.release, placed))
    return changes


def describe_doubt(intent: Intent) -> str:
    """Say what leaves it open what users meet."""
    noun = f"the {NOUNS[intent.action]} of {intent.release} ({intent.id})"
    match intent.state:
        case IntentState.SENT:
            return f"{noun} is being executed"
        case IntentState.FAILED:
            return f"{noun} failed after it had begun"
        case IntentState.UNKNOWN:
            return f"the outcome of {noun} is not known"
        case _:
            return f"{noun} was begun and is {intent.state}"


def find_service(facts: LifeFacts, service: str, placements: Sequence[Placement]) -> ServiceLife:
    """Find what is live of a service."""
    lost = explain_restart(facts, placements[-1].at if placements else None)
    if not placements:
        return ServiceLife(service, doubt=lost)
    newest = placements[-1]
    return ServiceLife(
        service,
        release=newest.release,
        at=newest.restored_at or newest.at,
        by=newest.by,
        why=newest.why,
        restored_by=newest.restored_by,
        doubt=describe_doubt(newest.doubt) if newest.doubt else lost,
    )


# ------------------------------------------------------------------ rollouts


def find_end(events: Sequence[Event]) -> Event | None:
    """Find the event by which a rollout ended; None: it has not ended."""
    return next((event for event in events if event.kind is EventKind.ENDED), None)


def read_progress(rollout: Rollout, events: Sequence[Event]) -> tuple[RolloutPlan, RolloutProgress] | tuple[None, None]:
    """Read the plan of a rollout and how far it is; None twice if this version cannot read the plan."""
    try:
        plan = read_plan(rollout)
        return plan, fold(plan, events)
    except (PlanNotReadable, IndexError):
        return None, None


def find_shares(plan: RolloutPlan | None, progress: RolloutProgress | None) -> dict[str, float] | None:
    """Find the share of each service's users that may meet the candidate of a rollout; None if it is not known."""
    if plan is None or progress is None:
        return None
    shares = dict.fromkeys(plan.services, 0.0)
    for step, state in zip(plan.steps, progress.states, strict=True):
        if isinstance(step, Act) and step.share is not None and state in MAY_HAVE_ACTED and not progress.returned:
            shares |= {service: max(shares.get(service, 0.0), step.share) for service in step.services}
    return shares


def describe_shares(shares: Mapping[str, float] | None, candidate: str) -> str:
    """Say which share of the users of each service may meet a candidate; `shares` None: it is not known."""
    if shares is None:
        return f"it is not known whether users meet {candidate}"
    met = [f"{format_number(100 * share)} % of {service}'s users" for service, share in shares.items() if share]
    return f"{' and '.join(met)} may meet it" if met else "no user meets it now"
