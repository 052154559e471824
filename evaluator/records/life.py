"""The life of a release: judged, requested, approved, executed, live, held or rolled back; who did it, when and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class LifeState(StrEnum):
    """How far a release is."""

    NOT_JUDGED = "not judged"
    JUDGED = "judged"
    """It has a verdict, and no action on it had any effect."""
    REQUESTED = "waits for approval"
    APPROVED = "approved"
    """An action waits to be executed."""
    EXECUTING = "being executed"
    ROLLING_OUT = "being rolled out"
    """Its rollout has not ended: a part of the users may meet it."""
    GOING_BACK = "going back"
    """Its rollout returns to the baseline."""
    LIVE = "live"
    REPLACED = "replaced"
    """It was live, until a later release of its services was promoted."""
    HELD = "held"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"
    """Its newest action failed."""
    UNKNOWN = "outcome unknown"
    """Its newest action, or one on a later release of its service, may have been executed or not."""

    @property
    def mark(self) -> str:
        """A mark before the word, so that a state is not shown by its colour alone."""
        return _MARKS[self]


_MARKS = {
    LifeState.NOT_JUDGED: "·",
    LifeState.JUDGED: "·",
    LifeState.REQUESTED: "…",
    LifeState.APPROVED: "…",
    LifeState.EXECUTING: "→",
    LifeState.ROLLING_OUT: "→",
    LifeState.GOING_BACK: "↩",
    LifeState.LIVE: "●",
    LifeState.REPLACED: "○",
    LifeState.HELD: "‖",
    LifeState.ROLLED_BACK: "↩",
    LifeState.FAILED: "✗",
    LifeState.UNKNOWN: "?",
}


@dataclass(frozen=True, slots=True)
class LifeEvent:
    """One thing that happened to a release."""

    at: datetime
    text: str
    """What: `promotion requested`, `live`, `rolled back`."""
    by: str = ""
    why: str = ""
    intent: str = ""
    rollout: str = ""


@dataclass(frozen=True, slots=True)
class Life:
    """How far a release is, and how it came there."""

    release: str
    state: LifeState
    what: str
    """What happened last, as the beginning of a sentence that goes on with when, by whom and why."""
    at: datetime | None = None
    """When that was; None: it is not known, or nothing happened."""
    by: str = ""
    why: str = ""
    notes: tuple[str, ...] = ()
    """What else holds: parts of a sentence, such as what is still live while a request waits."""
    intent: str = ""
    """The request that made it so; empty: none did."""
    rollout: str = ""
    """The rollout that made it so; empty: none did."""
    shares: Mapping[str, float] | None = field(default_factory=dict)
    """Service → share of its users that may meet it now, by a rollout that is running; None: it is not known."""
    replaced_by: str = ""
    is_live: bool | None = False
    """Is it what users of all its services meet, as far as promotions are recorded? None: that is not known."""
    judged_since: bool = False
    """Was it judged again since its last hold or rollback?"""
    events: tuple[LifeEvent, ...] = ()
    """All that happened to it, the oldest first."""


@dataclass(frozen=True, slots=True)
class ServiceLife:
    """What users of a service meet, as far as promotions are recorded."""

    service: str
    release: str = ""
    """The release that is live; empty: none was promoted, or each promotion was rolled back."""
    at: datetime | None = None
    """Since when."""
    by: str = ""
    """Who promoted it."""
    why: str = ""
    restored_by: str = ""
    """The release whose rollback made it live again; empty: its own promotion did."""
    doubt: str = ""
    """Why it is not known what is live; empty: it is known."""
    rollout: str = ""
    """The rollout that is running."""
    candidate: str = ""
    """The release that this rollout gives to a part of the users."""
    share: float | None = 0.0
    """Share of the users that may meet the candidate of the rollout; None: it is not known."""
