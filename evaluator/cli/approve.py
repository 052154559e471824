"""`evaluator approve` and `reject`: decide on the requests of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from evaluator.cli import Session, emit
from evaluator.cli.promote import execute_or_wait, send_notifications
from evaluator.cli.request_texts import describe_intents, describe_steps
from evaluator.errors import EvaluatorError, UnknownName, UsageError
from evaluator.records.intents import Action, Intent, IntentState
from evaluator.reports import plain_text
from evaluator.wording import quote_command

if TYPE_CHECKING:
    from evaluator.store import Store


@click.command("approve")
@click.argument("intent", metavar="[INTENT]", required=False)
@click.option("--queue", is_flag=True, help="Leave the execution to the app, or to `evaluator hooks worker`.")
@click.pass_obj
def command(session: Session, intent: str | None, queue: bool) -> int:
    """Approve INTENT, and execute it if no approval is missing then; without INTENT list the requests that wait."""
    from evaluator.intents import approve, system_person

    store = session.open_store(decisions_only=True)
    if intent is None:
        waiting = [requested for requested in store.control.intents() if requested.state is IntentState.REQUESTED]
        descriptions = describe_intents(store, waiting)
        lines = []
        for description, requested in zip(descriptions, waiting, strict=True):
            lines += [_add_request(description, requested), *_list_steps(session, store, requested)]
        emit("\n".join(lines) or "no request waits for approval")
        return 0
    policy = session.load_policy(_read_request(store, intent, "approve").release)
    approved = approve(store, policy, system_person(), intent)
    if approved.state is IntentState.REQUESTED:
        approvals = len(store.control.approvals(approved.id))
        emit(f"{approved.id}: {approvals} of {approved.approvals_needed} approvals")
        return 0
    if approved.action is Action.STEP:
        status = quote_command("rollout", "status", approved.release)
        emit(f"{approved.id}: agreed; the rollout {approved.rollout} goes on: {status}")
        send_notifications(session, store)
        return 0
    return execute_or_wait(session, store, approved.id, wait_s=None, queue=queue)


def _read_request(store: Store, name: str, verb: str) -> Intent:
    """Read a request. Raises UnknownName; for the name of a release UsageError, with the commands that answer.

    A release may have another question by now than the one that was shown, so its name answers none.
    """
    try:
        return store.control.intent(name)
    except UnknownName as unknown:
        try:
            store.control.release(name)
        except UnknownName:
            raise unknown from None
    waiting = [asked for asked in store.control.intents(name) if asked.state is IntentState.REQUESTED]
    if not waiting:
        raise UsageError(f"{name} is a release, and no request of it waits for an answer", hint="nothing is to be done")
    texts = [f"{asked.id} ({asked.label}: {plain_text(asked.reason)})" for asked in waiting]
    commands = [f"`{quote_command(verb, asked.id)}`" for asked in waiting]
    raise UsageError(
        f"{name} is a release, and requests are answered one by one: {'; '.join(texts)}", hint=" or ".join(commands)
    )


def _add_request(description: str, intent: Intent) -> str:
    """Add who requested an intent, and why, to its description."""
    until = f" until {intent.expires_at:%Y-%m-%d %H:%M} UTC"
    return f"{description}{until}, requested by {plain_text(intent.requester)}: {plain_text(intent.reason)}"


def _list_steps(session: Session, store: Store, intent: Intent) -> list[str]:
    """List what an intent would do, hook by hook, or why it cannot be executed as it was requested."""
    from evaluator.intents import (
        describe_request,
        explain_other_hooks,
        find_latest,
        plan_request,
        preview_intent,
        read_request_release,
    )

    try:
        policy = session.load_policy(intent.release)
        if other_hooks := explain_other_hooks(store, policy, intent):
            return [f"  it will be refused: {plain_text(other_hooks)}"]
        planned, _irreversible = plan_request(store, policy, intent)
        lines = describe_request(store, intent) if intent.action is Action.STEP else []
    except EvaluatorError as error:
        return [f"  its hooks cannot be shown: {plain_text(error.message)}"]
    release, verdict = read_request_release(store, intent), find_latest(store, intent.release)
    hooks = describe_steps(preview_intent(planned, intent, release, verdict))
    return [*hooks, *(f"  {plain_text(line)}" for line in lines)]


@click.command("reject")
@click.argument("intent", metavar="INTENT")
@click.option("--reason", default="", help="Why, in a sentence; it is kept in the audit trail.")
@click.pass_obj
def reject(session: Session, intent: str, reason: str) -> None:
    """Reject INTENT, or withdraw your own, before it is executed."""
    from evaluator.intents import cancel, system_person

    store = session.open_store(decisions_only=True)
    policy = session.load_policy(_read_request(store, intent, "reject").release)
    emit(*describe_intents(store, [cancel(store, policy, system_person(), intent, reason)]))
    send_notifications(session, store)
