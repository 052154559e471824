"""`evaluator hooks`: test the hooks, list their results, execute them again, and run the worker."""

from __future__ import annotations

import json
import signal
import threading
from types import FrameType
from typing import Any, cast

import click

from evaluator.cli import Session, emit
from evaluator.cli.promote import describe_intents, execute_or_wait
from evaluator.cli.terminal import write_time
from evaluator.errors import HookError
from evaluator.reports import plain_text


@click.group("hooks")
def command() -> None:
    """Test the policy's hooks, and list the results of those that were executed."""


@command.command("test")
@click.argument("event", metavar="[EVENT]", required=False)
@click.pass_obj
def test(session: Session, event: str | None) -> int:
    """Check whether each hook could be executed; nothing is changed. EVENT: promote, hold, rollback or announce."""
    from evaluator.errors import UnknownName
    from evaluator.hooks import check_hook, make_step
    from evaluator.policy.selection import list_policies
    from evaluator.records.intents import UNDO

    labelled_entries = []  # label, event, hook
    for service, policy in list_policies(session.find_policy()).items():
        entries_of_event = policy.promotion.hooks
        if event is not None and event not in entries_of_event:
            raise UnknownName("event", event, entries_of_event)
        origin = f"{policy.origin}: " if service else ""  # named if each service has its own policy
        for event_name, entries in entries_of_event.items():
            if event in (None, event_name):
                # An entry `undo` is no hook: it takes back what the hooks of promotions changed.
                labelled_entries += [
                    (f"{origin}{event_name}", event_name, entry) for entry in entries if entry.kind != UNDO
                ]
    if not labelled_entries:
        session.say("the policy names no hooks" + (f" for {event}" if event else ""))
    failed_count = 0
    for label, event_name, entry in labelled_entries:
        step = make_step(entry.kind, entry.options)
        outcome = check_hook(step, cast("Any", event_name))  # one of the actions that a hook knows
        mark = "ok"
        if outcome.state != "acknowledged":
            failed_count += 1
            mark = "FAILED"
        emit(f"{mark:6}  {label}: {plain_text(step.hook.describe())}\n        {plain_text(outcome.did)}")
    if failed_count:
        message = f"{failed_count} of {len(labelled_entries)} hooks could not be executed"
        raise HookError(message, hint="the cause of each is above")
    return 0


@command.command("log")
@click.argument("release", metavar="[RELEASE]", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs, with the responses to the hooks.")
@click.pass_obj
def log(session: Session, release: str | None, as_json: bool) -> None:
    """List intents and the results of their hooks (of RELEASE, or of all releases), the oldest first."""
    store = session.open_store(decisions_only=True)
    if release is not None:
        store.control.release(release)  # raises UnknownName
    intents = store.control.intents(release)
    if as_json:
        intent_ids = {intent.id for intent in intents}
        rows = [
            {
                "intent": delivery.intent,
                "hook": delivery.position + 1,
                "event": delivery.event,
                "kind": delivery.hook,
                "attempts": delivery.attempts,
                "state": delivery.outcome.state,
                "text": delivery.outcome.text,
                "response": delivery.outcome.response,
                "at": write_time(delivery.at),
            }
            for delivery in store.control.deliveries()
            if delivery.intent in intent_ids
        ]
        emit(json.dumps(rows, indent=1))
        return
    emit("\n".join(describe_intents(store, intents)) or "there are no intents yet")


@command.command("retry")
@click.argument("intent", metavar="INTENT")
@click.option("--queue", is_flag=True, help="Leave the execution to the app, or to `evaluator hooks worker`.")
@click.pass_obj
def retry(session: Session, intent: str, queue: bool) -> int:
    """Execute the hooks of INTENT again that failed or whose outcome is unknown, with the same keys as before.

    A hook whose outcome is unknown may have been done. Check that first; if it was, use `resolve` instead.
    """
    from evaluator.intents import retry as retry_intent  # this command has the same name
    from evaluator.intents import system_person

    store = session.open_store(decisions_only=True)
    policy = session.load_policy(store.control.intent(intent).release)
    retried = retry_intent(store, policy, system_person(), intent)
    return execute_or_wait(session, store, retried.id, wait_s=None, queue=queue)


@command.command("resolve")
@click.argument("intent", metavar="INTENT")
@click.argument("hook_number", metavar="HOOK", type=int)
@click.argument("known", metavar="done|not-done", type=click.Choice(["done", "not-done"]))
@click.option("--reason", default="", help="How you know this; it is kept in the audit trail.")
@click.pass_obj
def resolve(session: Session, intent: str, hook_number: int, known: str, reason: str) -> None:
    """Record whether HOOK (its number in the log) of INTENT was done, if its outcome is unknown."""
    from evaluator.intents import resolve as resolve_hook  # this command has the same name
    from evaluator.intents import system_person

    store = session.open_store(decisions_only=True)
    policy = session.load_policy(store.control.intent(intent).release)
    was_done = known == "done"
    resolved = resolve_hook(store, policy, system_person(), intent, hook_number, done=was_done, reason=reason)
    emit(*describe_intents(store, [resolved]))


@command.command("worker")
@click.option("--once", is_flag=True, help="Execute the intents that wait, and end.")
@click.pass_obj
def worker(session: Session, once: bool) -> int:
    """Execute approved intents as they come, and continue those of killed workers; Ctrl-C ends it.

    The worker needs the policy, the store, and the secrets of the hooks in its environment. The app executes intents,
    too; only one process at a time does so for a service.
    """
    from evaluator.intents import execute_waiting, name_worker, run_worker
    from evaluator.policy.selection import list_policies

    store = session.open_store()
    list_policies(session.find_policy())  # a mistake in a policy is reported at the start
    if once:
        executed = execute_waiting(store, session.load_policy, name_worker())
        emit("\n".join(describe_intents(store, executed)) or "no intent waits for execution")
        return 0
    stop = threading.Event()

    def stop_worker(_signal_number: int, _frame: FrameType | None) -> None:
        """End the worker after the intent that it executes."""
        stop.set()

    signal.signal(signal.SIGTERM, stop_worker)  # completes the intent that is being executed
    session.say(f"{name_worker()} executes intents of {session.store_path}; Ctrl-C ends it")
    run_worker(store, session.load_policy, stop, say=lambda text: emit(plain_text(text)))
    return 0
