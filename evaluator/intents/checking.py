"""Whether an intent may be executed at this moment."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from evaluator.errors import Refused
from evaluator.records import StoredVerdict, VerdictWord
from evaluator.records.intents import PROMOTING, Action, Intent, IntentState
from evaluator.store.intents import hash_text

__all__ = ["CLOCK", "Situation", "check_execution", "hash_verdict"]

CLOCK = timedelta(minutes=1)
"""How much the clock of who judged may be ahead of ours."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What is so at the moment of execution, read anew."""

    now: datetime
    latest: StoredVerdict | None
    data_hash: str
    policy_hash: str
    hooks_hash: str
    approvers: frozenset[str]
    may_request: Collection[str]
    """Who may ask for this action now."""
    may_approve: Collection[str]
    """Who may approve it now, and ask for it where it needs no approval."""
    max_age: timedelta
    overtaken_by: str = ""
    """What came after the intent and must not be overturned by it."""


def hash_verdict(verdict: StoredVerdict) -> str:
    """Hash a verdict as it was stored ("sha256:…")."""
    return hash_text(verdict.json)


def check_execution(intent: Intent, situation: Situation) -> None:
    """Refuse an intent whose grounds no longer hold, with the reason. Raises Refused."""
    reason = _why_not_now(intent, situation) or _why_not_by_them(intent, situation)
    if not reason and intent.action in PROMOTING:
        reason = _why_not_on_this_verdict(intent, situation)
    if reason:
        raise Refused(f"{intent.id} ({intent.action} {intent.release}) is not executed: {reason}")


def _why_not_now(intent: Intent, situation: Situation) -> str:
    if intent.state not in (IntentState.APPROVED, IntentState.SENT):
        return f"it is {intent.state}"
    if situation.now >= intent.expires_at:
        return "it has expired"
    if situation.hooks_hash != intent.hooks_hash:
        return "the policy's hooks or approvals have changed since it was asked for"
    return situation.overtaken_by


def _why_not_by_them(intent: Intent, situation: Situation) -> str:
    if intent.requester not in (situation.may_request if intent.approvals_needed else situation.may_approve):
        return f"{intent.requester} has no permission any more"
    counted = {
        person
        for person in situation.approvers
        if person in situation.may_approve and not (intent.distinct and person == intent.requester)
    }
    if len(counted) < intent.approvals_needed:
        return f"{len(counted)} of {intent.approvals_needed} approvals hold"
    return ""


def _why_not_on_this_verdict(intent: Intent, situation: Situation) -> str:
    latest = situation.latest
    if latest is None or hash_verdict(latest) != intent.verdict_hash:
        return "its verdict is not the latest"
    age = situation.now - latest.judged_at
    if age > situation.max_age:
        return "its verdict is too old"
    if age < -CLOCK:
        return "its verdict is of the future: the clock was set back"
    if intent.action is Action.PROMOTE and latest.word != VerdictWord.GO:
        return "the verdict is not GO"
    if situation.data_hash != intent.data_hash:
        return "data have landed or changed since it was approved"
    return "" if situation.policy_hash == intent.policy_hash else "the policy has changed since it was approved"
