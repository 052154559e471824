"""`evaluator approve` and `reject`: decide on the requests of others."""

from __future__ import annotations

import click

from evaluator.cli import Session, emit
from evaluator.cli.promote import describe_intents, execute_or_wait
from evaluator.records.intents import Intent, IntentState
from evaluator.reports import plain_text


@click.command("approve")
@click.argument("intent", metavar="[INTENT]", required=False)
@click.option("--queue", is_flag=True, help="Leave the execution to the app, or to `evaluator hooks worker`.")
@click.pass_obj
def command(session: Session, intent: str | None, queue: bool) -> int:
    """Approve INTENT, and execute it if no approval is missing then; without INTENT list the requests that wait."""
    from evaluator.intents import approve, system_person

    store = session.open_store()
    if intent is None:
        waiting = [requested for requested in store.control.intents() if requested.state is IntentState.REQUESTED]
        descriptions = describe_intents(store, waiting)
        lines = [
            _add_request(description, requested) for description, requested in zip(descriptions, waiting, strict=True)
        ]
        emit("\n".join(lines) or "no request waits for approval")
        return 0
    policy = session.load_policy(store.control.intent(intent).release)
    approved = approve(store, policy, system_person(), intent)
    if approved.state is IntentState.REQUESTED:
        approvals = len(store.control.approvals(approved.id))
        emit(f"{approved.id}: {approvals} of {approved.approvals_needed} approvals")
        return 0
    return execute_or_wait(session, store, approved.id, wait_s=None, queue=queue)


def _add_request(description: str, intent: Intent) -> str:
    """Add who requested an intent, and why, to its description."""
    return f"{description}, requested by {plain_text(intent.requester)}: {plain_text(intent.reason)}"


@click.command("reject")
@click.argument("intent", metavar="INTENT")
@click.option("--reason", default="", help="Why, in a sentence; it is kept in the audit trail.")
@click.pass_obj
def reject(session: Session, intent: str, reason: str) -> None:
    """Reject INTENT, or withdraw your own, before it is executed."""
    from evaluator.intents import cancel, system_person

    store = session.open_store()
    policy = session.load_policy(store.control.intent(intent).release)
    emit(*describe_intents(store, [cancel(store, policy, system_person(), intent, reason)]))
