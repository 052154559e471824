"""`evaluator hooks`: test the hooks, list their results, execute them again, and run the worker."""

from __future__ import annotations

import json
import signal
import threading
from typing import TYPE_CHECKING, Any, cast

import click

from evaluator.cli import Session, emit
from evaluator.cli.completing import completing_hooks
from evaluator.cli.promote import execute_or_wait, send_notifications
from evaluator.cli.request_texts import describe_intents
from evaluator.cli.terminal import write_time
from evaluator.errors import EvaluatorError, HookError, PolicyError
from evaluator.reports import plain_text

if TYPE_CHECKING:
    from evaluator.records.rollouts import Rollout
    from evaluator.rollout.queue import QueuedRollouts
    from evaluator.rollout.starting import DriverSettings
    from evaluator.store import Store


@click.group("hooks")
def command() -> None:
    """Test the policy's hooks, and list the results of those that were executed."""


@command.command("test")
@click.argument("event", metavar="[EVENT]", required=False)
@click.pass_obj
def test(session: Session, event: str | None) -> int:
    """Check whether each hook could be executed; nothing is changed.

    EVENT: promote, hold, rollback, announce or notify.

    Exit code 4: a hook could not be executed; 2: the options of one cannot be read, and all others could be executed.
    """
    from evaluator.hooks import check_hook, make_step
    from evaluator.policy.hook_entries import list_hooks
    from evaluator.records.intents import UNDO

    # An entry `undo` is no hook: it takes back what the hooks of promotions changed.
    listed = [hook for hook in list_hooks(session.find_policy(), event) if not hook.entry or hook.entry.kind != UNDO]
    if not listed:
        session.say("the policy names no hooks" + (f" for {event}" if event else ""))
    exit_code = failed_count = 0
    for hook in listed:
        mark, description = "FAILED", "its options cannot be read" if hook.event else "it cannot be used"
        try:
            if hook.entry is None:
                raise PolicyError(hook.mistakes)
            step = make_step(hook.entry.kind, hook.entry.options)
            description = plain_text(step.hook.describe())
            outcome = check_hook(step, cast("Any", hook.event))  # one of the actions that a hook knows
            if outcome.state != "acknowledged":
                raise HookError(outcome.did)
            mark, result = "ok", outcome.did
        except EvaluatorError as error:
            result = f"{error.message} ({error.hint})" if error.hint else error.message
            exit_code = max(exit_code, error.exit_code)
            failed_count += bool(hook.event)
        lines = [f"        {plain_text(line)}" for line in result.splitlines()]
        emit("\n".join([f"{mark:6}  {hook.label}: {description}", *lines]))
    if exit_code:
        hook_count = sum(bool(hook.event) for hook in listed)
        message = f"{failed_count} of {hook_count} hooks could not be executed"
        if not failed_count:
            message = "the policy has mistakes, so no hook of it is executed"
        error_class = PolicyError if exit_code == PolicyError.exit_code else HookError
        raise error_class(message, hint="the cause of each is above")
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
    send_notifications(session, store)


@command.command("worker")
@click.option("--once", is_flag=True, help="Execute the intents that wait, and end.")
@click.pass_obj
def worker(session: Session, once: bool) -> int:
    """Execute approved intents as they come, and continue those of killed workers; Ctrl-C ends it.

    It also drives rollouts that were started with --queue, each to its end, and with --once ends after them. The worker
    needs the policy, the store, and the secrets of the hooks in its environment. The app executes intents, too; only
    one process at a time does so for a service.
    """
    from evaluator.intents import execute_waiting, name_worker, run_worker
    from evaluator.policy.selection import list_policies

    # Holds and rollbacks need no data, and must not wait for what uses them.
    store = session.open_store(decisions_only=True)
    list_policies(session.find_policy())  # a mistake in a policy is reported at the start
    stop = threading.Event()
    rollouts = _queue_rollouts(session, store, stop)
    if once:
        with completing_hooks(session, stop):
            executed = execute_waiting(
                store, session.load_policy, name_worker(), stop=stop, load_to_go_back=session.load_policy_to_go_back
            )
            rollouts.drive_once()
        emit("\n".join(describe_intents(store, executed)) or "no intent waits for execution")
        send_notifications(session, store)
        return 0
    session.say(f"{name_worker()} executes intents of {session.store_path}; Ctrl-C ends it")
    with completing_hooks(session, stop) as received:
        rollouts.start()
        run_worker(
            store,
            session.load_policy,
            stop,
            say=lambda text: emit(plain_text(text)),
            load_to_go_back=session.load_policy_to_go_back,
        )
        rollouts.end()
    return 128 + signal.SIGINT if signal.SIGINT in received else 0  # as for any command that Ctrl-C ends


def _queue_rollouts(session: Session, store: Store, stop: threading.Event) -> QueuedRollouts:
    """Make what drives rollouts that were started with `--queue`."""
    from evaluator.cli.rollout import RolloutReport, make_settings
    from evaluator.rollout.queue import QueuedRollouts

    def make_driver(rollout: Rollout) -> DriverSettings:
        """Make what the driver of a rollout works with."""
        return make_settings(session, stop, RolloutReport(session, f"{rollout.id} ({rollout.release}): "))

    return QueuedRollouts(store, make_driver, stop, session.say)
