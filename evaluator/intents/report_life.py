"""What became of a release, for its report: how it stands, what happened to it, notes of people, what comes next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from evaluator.intents.life import read_lives
from evaluator.records import Verdict
from evaluator.records.life import LifeState
from evaluator.reports.base import write_verdict_command
from evaluator.reports.life import choose_next, describe_life
from evaluator.store import Store

MOST_EVENTS = 200
"""Newest events that a report lists; the audit trail has all of them."""
NOTE = "note"
"""Event of the audit trail that is a note."""


def add_life(store: Store, verdict: Verdict, now: datetime) -> Verdict:
    """Add to the data of a verdict's figures what is recorded of its release; a verdict without them stays as it is."""
    if verdict.figures is None:
        return verdict
    return replace(verdict, figures={**verdict.figures, "life": trace_life(store, verdict.release.id, now)})


def adapt_next(store: Store, verdict: Verdict, now: datetime) -> Verdict:
    """Let a verdict say what to do next with a release that is live, held, rolled back, or in a rollout.

    The stored verdict keeps what follows from its evidence alone. `now`: the moment at which the decisions are read.
    """
    life = read_lives(store, now).releases.get(verdict.release.id)
    if life is None:
        return verdict
    next_action = choose_next(life, verdict.word, verdict.next_action, write_verdict_command(verdict))
    return replace(verdict, next_action=next_action)


def trace_life(store: Store, release: str, now: datetime) -> Mapping[str, Any]:
    """Read what is recorded of a release. `now`: the moment at which it is read."""
    life = read_lives(store, now).releases.get(release)
    events = life.events if life is not None else ()
    state = ""
    if life is not None and life.state not in (LifeState.NOT_JUDGED, LifeState.JUDGED):
        state = describe_life(life)
    notes = [row for row in store.control.audit() if row.event == NOTE and row.release == release]
    return {
        "read_at": now.isoformat(),
        "state": state,
        "hidden_events": max(len(events) - MOST_EVENTS, 0),
        "events": [
            {"at": event.at.isoformat(), "what": event.text, "by": event.by, "why": event.why}
            for event in events[-MOST_EVENTS:]
        ],
        "notes": [{"at": row.at.isoformat(), "by": row.actor, "text": row.text} for row in notes],
    }
