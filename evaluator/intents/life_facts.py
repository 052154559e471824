"""What is recorded of all releases: the facts from which their lives are found."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from evaluator.intents.observing import find_begun
from evaluator.records.intents import Action, Approval, AuditRow, Intent, IntentState
from evaluator.records.rollouts import Event, Rollout
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

NOUNS = {
    Action.PROMOTE: "promotion",
    Action.BREAK_GLASS: "promotion against the verdict",
    Action.HOLD: "hold",
    Action.ROLLBACK: "rollback",
}


@dataclass(frozen=True, slots=True)
class LifeFacts:
    """What is recorded of all releases of a store."""

    services: Mapping[str, tuple[str, ...]]
    """Release → names of its services; its own name if it has none."""
    judged: Mapping[str, tuple[str, datetime]] = field(default_factory=dict)
    """Release → word and time of its newest verdict."""
    intents: Sequence[Intent] = ()
    """Of all releases, the oldest first."""
    endings: Mapping[str, AuditRow] = field(default_factory=dict)
    """Id of an intent → the newest row of the audit trail that says how it ended."""
    approvals: Mapping[str, Sequence[Approval]] = field(default_factory=dict)
    """Id of an intent → who approved it."""
    begun: Collection[str] = frozenset()
    """Ids of the intents of which a hook that may have changed something was executed."""
    rollouts: Sequence[tuple[Rollout, Sequence[Event]]] = ()
    """The rollouts with their events, the oldest first."""
    restarted_at: datetime | None = None
    """Until when decisions may be lost; None: none were."""
    now: datetime | None = None
    """A request that waits and has expired by now is void, also if that is not recorded yet; None: as recorded."""


def read_life_facts(store: Store, now: datetime) -> LifeFacts:
    """Read what is recorded of all releases up to the moment `now`. It needs no data."""
    control = store.control
    summaries = control.releases()
    approvals: dict[str, list[Approval]] = {}
    for approval in control.approvals():
        approvals.setdefault(approval.intent, []).append(approval)
    names = {
        summary.release.id: sorted({service.name for service in summary.release.services}) for summary in summaries
    }
    return LifeFacts(
        services={release: tuple(services) or (release,) for release, services in names.items()},
        judged={
            summary.release.id: (summary.verdict, summary.judged_at)
            for summary in summaries
            if summary.verdict and summary.judged_at
        },
        intents=control.intents(),
        endings=control.endings(),
        approvals=approvals,
        begun=find_begun(store),
        rollouts=Rollouts(control.file).read_all(),
        restarted_at=control.restarted_at(),
        now=now,
    )


def is_open(facts: LifeFacts, intent: Intent) -> bool:
    """May an intent have changed something, so that it is not known what users meet?"""
    if intent.state in (IntentState.UNKNOWN, IntentState.SENT):
        return True
    return intent.id in facts.begun and intent.state is not IntentState.ACKNOWLEDGED


def find_time(facts: LifeFacts, intent: Intent) -> datetime:
    """Find when an intent came into its state; the time of its request if that is not recorded."""
    ending = facts.endings.get(intent.id)
    return ending.at if ending is not None and ending.event == intent.state else intent.requested_at


def explain_restart(facts: LifeFacts, at: datetime | None) -> str:
    """Say that decisions after a moment (None: none is known) may be lost; empty if none were."""
    if facts.restarted_at is None or (at is not None and at > facts.restarted_at):
        return ""
    return f"decisions of before {facts.restarted_at:%Y-%m-%d %H:%M} UTC may be lost"
