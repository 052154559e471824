"""What people ask for: intents to promote, hold or roll back, who approved them, and what the hooks answered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

__all__ = ["FINAL_STATES", "Action", "Approval", "AuditRow", "Delivery", "HookOutcome", "Intent", "IntentState"]


class Action(StrEnum):
    """What may be asked for."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLLBACK = "rollback"
    BREAK_GLASS = "break_glass"
    """Promote against the verdict."""


class IntentState(StrEnum):
    """Where an intent, or one delivery of it, stands."""

    REQUESTED = "requested"
    APPROVED = "approved"
    SENT = "sent"
    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It may or may not have happened: a person decides."""
    EXPIRED = "expired"
    CANCELLED = "cancelled"


FINAL_STATES = frozenset(
    {IntentState.ACKNOWLEDGED, IntentState.FAILED, IntentState.UNKNOWN, IntentState.EXPIRED, IntentState.CANCELLED}
)


@dataclass(frozen=True, slots=True)
class Intent:
    """A requested action and its life. The key is the same for each attempt to execute it."""

    id: str
    key: str
    release: str
    action: Action
    requester: str
    reason: str
    verdict_hash: str
    data_hash: str
    policy_hash: str
    requested_at: datetime
    expires_at: datetime
    approvals_needed: int = 0
    distinct: bool = False
    """The requester's own approval does not count."""
    state: IntentState = IntentState.REQUESTED
    claimed_by: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """One person's consent to an intent."""

    intent: str
    person: str
    at: datetime


@dataclass(frozen=True, slots=True)
class HookOutcome:
    """What one hook did: acknowledged, failed or unknown, what it says, and what undoes it."""

    state: IntentState
    text: str
    undo: str = ""
    """The earlier value, as the hook wrote it; empty where there is nothing to undo."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One hook of one intent and where it stands: `sent` until its outcome is known."""

    intent: str
    position: int
    hook: str
    attempts: int
    outcome: HookOutcome
    at: datetime


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Who did what. Each row's hash covers the row before."""

    number: int
    at: datetime
    actor: str
    event: str
    release: str
    intent: str
    text: str
    hash: str
