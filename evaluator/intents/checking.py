"""Whether an intent may be executed at this moment."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from evaluator.errors import Refused
from evaluator.records import StoredVerdict, VerdictWord
from evaluator.records.intents import PROMOTING, Action, Intent, IntentState
from evaluator.store.audit import hash_text

CLOCK_TOLERANCE = timedelta(minutes=1)
"""How much the clock of the machine that judged may be ahead of ours."""


@dataclass(frozen=True, slots=True)
class Situation:
    """The state at the moment of execution, read again."""

    now: datetime
    latest: StoredVerdict | None
    data_hash: str
    policy_hash: str
    hooks_hash: str
    approvers: frozenset[str]
    may_request: Collection[str]
    """Who may request this action now."""
    may_approve: Collection[str]
    """Who may approve it now, or request it where it needs no approval."""
    max_age: timedelta
    overtaken_by: str = ""
    """Why a later request forbids the intent; empty where none does."""
    other_versions: str = ""
    """How the versions that hooks get differ from those that the latest verdict judged; empty where they do not."""
    restarted_at: datetime | None = None
    """Until when decisions may be lost: the store was restored from a backup, or began with new ones. None: never."""


def hash_verdict(verdict: StoredVerdict) -> str:
    """Hash a verdict as it was stored ("sha256:…")."""
    return hash_text(verdict.json)


BEFORE_RESTART = "from before decisions were lost: the store was restored from a backup, or began with new decisions"


def is_before_restart(judged_at: datetime | None, restarted_at: datetime | None) -> bool:
    """Whether a verdict was given before decisions were lost, so that a newer one may be missing.

    `judged_at` None: it is not known when. `restarted_at` None: none were ever lost.
    """
    return restarted_at is not None and (judged_at is None or judged_at <= restarted_at)


def check_execution(intent: Intent, situation: Situation) -> None:
    """Refuse an intent whose grounds no longer hold, with the reason. Raises Refused."""
    obstacle = next(_find_obstacles(intent, situation), "")
    if obstacle:
        raise Refused(f"{intent.id} ({intent.action} {intent.release}) is not executed: {obstacle}")


def _find_obstacles(intent: Intent, situation: Situation) -> Iterator[str]:
    """Yield each reason why an intent must not be executed now; none if it may.

    First its state and its people; for a promotion also its verdict, which must be the latest and still hold.
    """
    # A worker that was killed leaves an intent in the state SENT: it is continued.
    if intent.state not in (IntentState.APPROVED, IntentState.SENT):
        yield f"it is {intent.state}"
    if situation.now >= intent.expires_at:
        yield "it has expired"
    if situation.hooks_hash != intent.hooks_hash:
        yield "the policy's hooks or approvals have changed since it was requested"
    if situation.overtaken_by:
        yield situation.overtaken_by
    # Without approvals, the requester must have the role to act alone, which `may_approve` takes into account.
    permitted_people = situation.may_request if intent.approvals_needed else situation.may_approve
    # Who started a rollout has agreed to its way back, whatever role they have now.
    is_agreed = intent.action is Action.ROLLBACK and intent.rollout and not intent.approvals_needed
    if intent.requester not in permitted_people and not is_agreed:
        yield f"{intent.requester} no longer has permission"
    # Only people who may still approve count, and not the requester if others have to agree.
    valid_approvers = situation.approvers & frozenset(situation.may_approve)
    if intent.distinct:
        valid_approvers -= {intent.requester}
    if len(valid_approvers) < intent.approvals_needed:
        yield f"{len(valid_approvers)} of {intent.approvals_needed} approvals are valid"
    if intent.action in PROMOTING:
        yield from _find_outdated_grounds(intent, situation)


def _find_outdated_grounds(intent: Intent, situation: Situation) -> Iterator[str]:
    """Yield each reason why the grounds of a promotion no longer hold: its verdict, data, policy and versions."""
    latest = situation.latest
    if latest is None or hash_verdict(latest) != intent.verdict_hash:
        yield "its verdict is not the latest"
        return
    if is_before_restart(latest.judged_at, situation.restarted_at):
        yield f"its verdict is {BEFORE_RESTART}"
    age = situation.now - latest.judged_at
    if age > situation.max_age:
        yield "its verdict is too old"
    if age < -CLOCK_TOLERANCE:
        yield "its verdict is from the future: the clock was set back"
    if intent.action is Action.PROMOTE and latest.word != VerdictWord.GO:
        yield "the verdict is not GO"
    if situation.data_hash != intent.data_hash:
        yield "data have landed or changed since it was approved"
    if situation.policy_hash != intent.policy_hash:
        yield "the policy has changed since it was approved"
    if situation.other_versions:
        yield situation.other_versions
