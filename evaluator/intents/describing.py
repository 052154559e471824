"""What a request asks, and for whom it waits, in sentences for people."""

from __future__ import annotations

from collections.abc import Sequence

from evaluator.records.intents import Action, Approval, Intent

_ASKS = {
    Action.PROMOTE: "asks to promote {release} to all users",
    Action.HOLD: "asks to hold {release}",
    Action.ROLLBACK: "asks to roll back {release}",
    Action.BREAK_GLASS: "asks to promote {release} to all users against its verdict",
}


def describe_ask(intent: Intent) -> str:
    """Say who asks for what: `ana asks to promote cart@1.5.0 to all users`."""
    if intent.action is not Action.STEP:
        return f"{intent.requester} {_ASKS[intent.action].format(release=intent.release)}"
    where = f"step {intent.step + 1} of the rollout {intent.rollout} of {intent.release}"
    if intent.is_question:
        return f"the rollout {intent.rollout} of {intent.release} asks whether it goes on with step {intent.step + 1}"
    return f"{intent.requester} asks to execute {where}"


def describe_missing(intent: Intent, approvals: Sequence[Approval]) -> str:
    """Say how many people still have to approve a request that waits, and whether that may be the requester."""
    missing = intent.approvals_needed - len(approvals)
    more = "one more" if approvals else "one"
    who = f"{more} person" if missing == 1 else f"{missing} {'more ' if approvals else ''}people"
    has = "has" if missing == 1 else "have"
    if intent.distinct:
        return f"{who} other than {intent.requester} {has} to approve"
    return f"{who} {has} to approve, and {intent.requester} may be one of them"
