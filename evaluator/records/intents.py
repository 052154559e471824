"""What people ask for: intents to promote, hold or roll back, who approved them, and what the hooks answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

UNDO = "undo"
"""Stands among the hooks of an event for: take back what the last promotion changed."""

GROUP = "group:"
"""Before the name of a group, among the names of a person."""

ANNOUNCE = "announce"
"""Event after each action: its hooks tell of it."""


class Action(StrEnum):
    """What may be asked for."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLLBACK = "rollback"
    BREAK_GLASS = "break_glass"
    """Promote against the verdict."""

    @property
    def label(self) -> str:
        """For people."""
        return self.value.replace("_", " ")


PROMOTING = (Action.PROMOTE, Action.BREAK_GLASS)
"""What brings a candidate to everybody: it acts on a verdict, and a rollback takes it back."""


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


class PersonRole(StrEnum):
    """What a person may do; each may do what those before it may."""

    VIEWER = "viewer"
    """Read."""
    ANALYST = "analyst"
    """Write notes, ask for actions, hold a release."""
    APPROVER = "approver"
    """Approve or turn down, promote and roll back, try hooks again."""
    ADMIN = "admin"
    """Say how a hook ended that nobody knows of."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who acts, and all names that the policy's roles may know them by: account, address, `group:…`."""

    name: str
    names: tuple[str, ...]


def are_same_person(names: Iterable[str], others: Iterable[str]) -> bool:
    """Are these names of one person? Somebody may be called by their address here and by another name there."""
    return bool({name for name in names if not name.startswith(GROUP)} & set(others))


@dataclass(frozen=True, slots=True)
class HookEntry:
    """One hook of an event as the policy has it; `undo` has no options."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


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
    requester_names: tuple[str, ...] = ()
    """What the requester was known by: their permission is looked at again when it is executed."""
    hooks_hash: str = ""
    """Of the hooks and approvals that were shown to whoever agreed."""
    undoes: tuple[str, ...] = ()
    """The promotions whose changes a rollback takes back, the newest first."""

    @property
    def stops(self) -> bool:
        """Is it a hold or a rollback that was not taken back? Promotions before it are not executed any more."""
        void = (IntentState.EXPIRED, IntentState.CANCELLED)
        return self.action not in PROMOTING and self.state not in void


@dataclass(frozen=True, slots=True)
class Approval:
    """One person's consent to an intent."""

    intent: str
    person: str
    at: datetime
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HookOutcome:
    """What one hook did: acknowledged, failed or unknown, what it says, and what undoes it."""

    state: IntentState
    text: str
    undo: str = ""
    """The earlier value as JSON; empty where there is nothing to undo."""
    response: str = ""
    """What was answered: shortened, without secrets."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One hook of one intent and where it stands: `sent` until its outcome is known."""

    intent: str
    position: int
    hook: str
    attempts: int
    outcome: HookOutcome
    at: datetime
    event: str = ""
    """promote, hold, rollback, undo or announce."""
    options: str = ""
    """The hook's options as JSON, as they were: with them it is undone, whatever the policy says by then."""


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
