"""Intents to promote, hold or roll back a release: who requested and approved them, and what the hooks answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

JUDGED = "judged"
"""Event of the audit trail that covers a verdict."""
UNDO = "undo"
"""An entry among the hooks of an event: undo what promotions of the release changed."""

GROUP = "group:"
"""Prefix of a group among the names of a person."""

NOTIFY = "notify"
"""Event of each request: its hooks notify people when it waits for them, and of how it ended."""

ANNOUNCE = "announce"
"""Event after each action: its hooks notify people of the action."""

VERIFY = "verify"
"""Event after a step of a rollout: its hooks look whether the step has succeeded."""

CHANGE_NOTHING = (ANNOUNCE, VERIFY)
"""Events whose hooks change nothing, so that nothing of them is undone."""

QUESTION_KEY = "ask_"
"""Begin of the key of an intent that only asks people about a step of a rollout, and has no hooks."""
FINAL_KEY = "final_"
"""Begin of the key of a step that is executed however a rollout ends. No rollback cancels or undoes it."""
IRREVERSIBLE_KEY = "oneway_"
"""Begin of the key of a step that no rollback undoes, because there is no way back after it."""


class Action(StrEnum):
    """An action that a person can request."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLLBACK = "rollback"
    BREAK_GLASS = "break_glass"
    """Promote against the verdict."""
    STEP = "step"
    """Execute a step of a rollout, or ask people about it."""

    @property
    def label(self) -> str:
        """Name of the action for people."""
        return {Action.BREAK_GLASS: "override", Action.STEP: "rollout step"}.get(self, self.value)


PROMOTING = (Action.PROMOTE, Action.BREAK_GLASS, Action.STEP)
"""Actions that give users the candidate, or prepare that. They act on a verdict, and a rollback undoes them."""


class IntentState(StrEnum):
    """State of an intent, or of one delivery."""

    REQUESTED = "requested"
    APPROVED = "approved"
    SENT = "sent"
    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It may have happened or not: a person decides."""
    EXPIRED = "expired"
    CANCELLED = "cancelled"


FINAL_STATES = frozenset(
    {IntentState.ACKNOWLEDGED, IntentState.FAILED, IntentState.UNKNOWN, IntentState.EXPIRED, IntentState.CANCELLED}
)


class PersonRole(StrEnum):
    """What a person may do. Each role includes the roles before it."""

    VIEWER = "viewer"
    """Read."""
    ANALYST = "analyst"
    """Write notes, request actions, hold a release."""
    APPROVER = "approver"
    """Approve or decline, promote and roll back, retry hooks."""
    ADMIN = "admin"
    """Settle a hook whose outcome is unknown."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person who acts, with all names that roles in the policy may use: account, address, `group:…`."""

    name: str
    names: tuple[str, ...]


def are_same_person(names: Iterable[str], others: Iterable[str]) -> bool:
    """Do these names share one that is not a group? A person may have an address here and an account there."""
    return bool({name for name in names if not name.startswith(GROUP)} & set(others))


@dataclass(frozen=True, slots=True)
class HookEntry:
    """One hook of an event in the policy; `undo` has no options."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Intent:
    """A requested action and its state."""

    id: str
    key: str
    """The same for each attempt to execute the intent."""
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
    """All names of the requester: their permission is checked again before the intent is executed."""
    hooks_hash: str = ""
    """Hash of the hooks and approvals that were shown to the approvers."""
    undoes: tuple[str, ...] = ()
    """Intents of the promotions that a rollback undoes, the newest first."""
    rollout: str = ""
    """The rollout (`r1`) of which it is a step, or which it holds or turns back; empty: none."""
    step: int = -1
    """Position of its step in the plan of the rollout; -1: it is no step."""

    @property
    def label(self) -> str:
        """Name of what is requested, for people: the action, or which step of a rollout."""
        if self.action is not Action.STEP:
            return self.action.label
        step = f"step {self.step + 1} of rollout {self.rollout}"
        return f"question about {step}" if self.is_question else step

    @property
    def is_question(self) -> bool:
        """Does it only ask people about a step of a rollout? Then it has no hooks."""
        return self.key.startswith(QUESTION_KEY)

    @property
    def is_final(self) -> bool:
        """Is it a step that is executed however the rollout ends?"""
        return self.key.startswith(FINAL_KEY)

    @property
    def is_undoable(self) -> bool:
        """Does a rollback undo it?"""
        return self.action in PROMOTING and not self.key.startswith((QUESTION_KEY, FINAL_KEY, IRREVERSIBLE_KEY))

    @property
    def stops(self) -> bool:
        """Is it a hold or a rollback that is still valid? Then promotions requested before it are not executed."""
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
    """What one hook did: acknowledged, failed or unknown, its message, and what undoes it."""

    state: IntentState
    text: str
    undo: str = ""
    """The earlier value as JSON; empty if there is nothing to undo."""
    response: str = ""
    """The answer that the hook received: shortened, without secrets."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One hook of one intent and its state: `sent` until its outcome is known."""

    intent: str
    position: int
    hook: str
    attempts: int
    outcome: HookOutcome
    at: datetime
    event: str = ""
    """promote, hold, rollback, undo or announce."""
    options: str = ""
    """The hook's options as JSON when it was sent. It is undone with these, also if the policy has changed."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Who did what. Each row's hash includes the hash of the row before."""

    number: int
    at: datetime
    actor: str
    event: str
    release: str
    intent: str
    text: str
    hash: str
    covers: str = ""
    """Hash of the verdict, intent or approval that the row stands for; empty: it stands for none."""
