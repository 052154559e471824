"""`evaluator promote`, `hold`, `rollback`: request an action on a release and execute it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from evaluator.cli import Session, emit
from evaluator.cli.amounts import DURATION
from evaluator.cli.completing import completing_hooks
from evaluator.cli.gathering import with_options
from evaluator.errors import StoreError, UsageError
from evaluator.records.intents import FINAL_STATES, PROMOTING, Action, Delivery, Intent, IntentState
from evaluator.wording import quote_command

if TYPE_CHECKING:
    from evaluator.intents import Preview
    from evaluator.store import Store


EXIT_CODES = {IntentState.ACKNOWLEDGED: 0, IntentState.FAILED: 4, IntentState.UNKNOWN: 4}
"""Any other state is 3: not done yet, but still possible."""

POLL_S = 1.0
LOCK_WAIT_S = 60.0

_options = with_options(
    click.argument("release", metavar="RELEASE"),
    click.option("--reason", default="", help="Why, in a sentence; it is kept in the audit trail."),
    click.option("--yes", is_flag=True, help="Do not ask for the release's name as confirmation."),
    click.option("--dry-run", is_flag=True, help="Show what would happen, and do nothing."),
    click.option("--queue", is_flag=True, help="Leave the execution to the app, or to `evaluator hooks worker`."),
    click.option("--wait", "wait_s", type=DURATION, metavar="DURATION", help="How long to wait until it is done."),
)
"""Gives a command the options that all three have."""


@click.command("promote")
@_options
@click.option("--break-glass", is_flag=True, help="Override the verdict: at least two other people have to approve.")
@click.pass_obj
def command(session: Session, /, release: str, break_glass: bool, **options: Any) -> int:
    """Promote RELEASE: execute the policy's hooks for promotion, once that is allowed.

    The newest verdict has to be GO, on all data and under the policy that applies now. Where the policy requires
    approvals, the request waits for them: `evaluator approve`. Exit codes: 0 done, 1 the verdict is NO-GO, 3 not
    allowed, or not yet done, 4 a hook failed or its outcome is unknown.
    """
    action = Action.BREAK_GLASS if break_glass else Action.PROMOTE
    return _request_action(session, action, release, **options)


@click.command("hold")
@_options
@click.pass_obj
def hold(session: Session, /, release: str, **options: Any) -> int:
    """Hold RELEASE: cancel promotions that wait, and execute the policy's hooks for hold."""
    return _go_back(session, Action.HOLD, release, **options)


@click.command("rollback")
@_options
@click.pass_obj
def rollback(session: Session, /, release: str, **options: Any) -> int:
    """Take back what the promotions of RELEASE changed, and execute the policy's hooks for rollback.

    If the decisions cannot be used (locked, damaged or gone, a full or read-only disk), what is needed is read from the
    journal, and what was done is added to the audit trail by a later command.
    """
    return _go_back(session, Action.ROLLBACK, release, **options)


def _go_back(session: Session, action: Action, release: str, **options: Any) -> int:
    """Hold or roll back a release: through the store, or from the journal if the store cannot be used."""
    try:
        return _request_action(session, action, release, **options)
    except StoreError as error:
        if options["dry_run"] or options["queue"]:
            raise
        return _go_back_without_store(session, action, release, error, reason=options["reason"], yes=options["yes"])


def _go_back_without_store(
    session: Session, action: Action, release: str, problem: StoreError, *, reason: str, yes: bool
) -> int:
    """Hold or roll back a release from the journal, because of a problem of the store. Returns the exit code.

    Raises the problem itself if there is no journal.
    """
    from evaluator.intents import system_person
    from evaluator.intents.emergency import act_from_journal, load_rules
    from evaluator.intents.notifying import notify_without_store
    from evaluator.reports import plain_text
    from evaluator.store.journal import find_journal

    store = session.store_path.absolute()
    session.say(f"the decisions cannot be used: {problem.message}")
    rules = load_rules(session.find_policy, release, store, session.say)
    journal = find_journal(store, rules.journal)
    try:
        journal.read()
    except StoreError as error:
        raise StoreError(f"{problem.message}; {error.message}", hint=problem.hint) from problem
    session.say(f"acting from the journal: {', '.join(map(str, journal.paths))}")
    if not yes:
        _confirm(action, release)
    acted = act_from_journal(
        journal,
        rules,
        system_person(),
        action,
        release,
        reason or problem.message,
        say=lambda text: session.say(plain_text(text)),
    )
    emit("\n".join([f"{action.label} {plain_text(release)}: {acted.state}", *map(plain_text, acted.lines)]))
    if acted.by_hand:
        session.say("do this by hand:\n" + "\n".join(f"  {plain_text(text)}" for text in acted.by_hand))
    session.say("the next command that can use the decisions adds this to the audit trail")
    did = "; ".join(acted.lines)
    notify_without_store(
        rules, action, release, system_person(), reason or problem.message, acted.state, did, session.say
    )
    return EXIT_CODES.get(acted.state, 4)


def _request_action(
    session: Session,
    action: Action,
    release: str,
    *,
    reason: str,
    yes: bool,
    dry_run: bool,
    queue: bool,
    wait_s: float | None,
) -> int:
    """Request an action on a release, after a confirmation, and execute it if it is allowed. Returns the exit code.

    `yes`: do not ask for the confirmation. `dry_run`: only show what would happen. `queue`, `wait_s`: as
    `execute_or_wait`. Raises UsageError without a confirmation, and the errors of `ask` if the action is not allowed.
    """
    from evaluator.intents import ActionRequest, ask, system_person

    # Going back, and holding, must not wait for what uses the data.
    store, person = session.open_store(decisions_only=action not in PROMOTING), system_person()
    store.control.release(release)  # raises UnknownName
    policy = session.load_policy(release)
    if dry_run:
        emit(_describe_action(session, store, action, release))
        return 0
    if not yes:
        session.say(_describe_action(session, store, action, release))
    default_reason = "the verdict is GO" if action is Action.PROMOTE else ""
    request = ActionRequest(action, release, reason or default_reason)
    # Without a reason `ask` refuses the request, so a confirmation would be in vain.
    if not yes and request.reason:
        _confirm(action, release)
    intent = ask(store, policy, person, request)
    if intent.state is IntentState.REQUESTED:
        missing = intent.approvals_needed - len(store.control.approvals(intent.id))
        who = "people other than " + intent.requester if intent.distinct else "people who may approve"
        until = f"{intent.expires_at:%Y-%m-%d %H:%M} UTC"
        approvals = f"{missing} more of {intent.approvals_needed} approvals by {who}"
        session.say(f"waits until {until} for {approvals}: `{quote_command('approve', intent.id)}`")
        send_notifications(session, store)
    return execute_or_wait(session, store, intent.id, wait_s=wait_s, queue=queue)


def send_notifications(session: Session, store: Store) -> None:
    """Notify people of what happened to requests, by the policy's hooks for that. Says what could not be sent."""
    from evaluator.intents import notify_people
    from evaluator.reports import plain_text

    # The policy must be found without waiting for what uses the data.
    needed_no_data, session.needs_no_data = session.needs_no_data, True
    try:
        notify_people(store, session.load_policy, lambda text: session.say(plain_text(text)))
    finally:
        session.needs_no_data = needed_no_data


def _confirm(action: Action, release: str) -> None:
    """Let the user type the name of the release as confirmation of an action. Raises UsageError if it is another."""
    if not sys.stdin.isatty():
        raise UsageError(f"{action.label} needs a confirmation, and stdin is not a terminal", hint="confirm with --yes")
    prompt = f"Type {release} to confirm: {action.label}"
    typed = click.prompt(prompt, default="", show_default=False, err=True).strip()
    if typed != release:
        raise UsageError(f"{typed or 'nothing'} was typed, not {release}: nothing was done")


def _describe_action(session: Session, store: Store, action: Action, release: str) -> str:
    """Describe what an action on a release would do: its steps in order, with the values that they would replace."""
    from datetime import UTC, datetime, timedelta

    from evaluator.intents import find_latest, plan_action, preview_action, read_release_to_preview
    from evaluator.reports import plain_text

    policy, verdict = session.load_policy(release), find_latest(store, release)
    planned_hooks, irreversible = plan_action(store, policy, release, action)
    until = datetime.now(UTC) + timedelta(minutes=1)
    steps = preview_action(planned_hooks, action, read_release_to_preview(store, release, action), verdict, until)
    word = verdict.word.replace("_", "-").upper() if verdict else "not judged"
    lines = [f"{action.label} {plain_text(release)} (verdict: {word})"]
    lines += describe_steps(steps)
    lines += [f"  not taken back: {plain_text(text)}" for text in irreversible]
    approvals_needed = policy.promotion.needed(action)
    if not steps:
        lines.append("  no hook is executed: the policy names none for it")
    if approvals_needed:
        exclusion = ", not by the requester" if policy.promotion.distinct(action) else ""
        lines.append(f"  needs {approvals_needed} approval{'s' if approvals_needed > 1 else ''}{exclusion}")
    return "\n".join(lines)


def describe_steps(steps: Sequence[Preview]) -> list[str]:
    """Describe hooks that would be executed: a numbered line for each, with the value that it would replace."""
    from evaluator.reports import plain_text

    lines = []
    for number, step in enumerate(steps, 1):
        current_value = f" (now: {plain_text(step.current_value)})" if step.current_value else ""
        required = ", required" if step.required else ""
        lines.append(f"  {number}. {step.event}: {plain_text(step.description)}{current_value}{required}")
        if step.obstacle:
            lines.append(f"     would be refused now: {plain_text(step.obstacle)}")
    return lines


def execute_or_wait(
    session: Session, store: Store, intent_id: str, *, wait_s: float | None, queue: bool = False
) -> int:
    """Execute an intent, show its state and return the exit code.

    0: done, or left to others as requested; 4: failed, or the outcome is unknown; 3: nothing was executed, or not yet.
    `queue`: leave the execution to the app or a worker. `wait_s`: how long to wait (s) for approvals, or until another
    process has executed it; `None`: do not wait.
    """
    from evaluator.intents import execute, name_worker

    deadline = time.monotonic() + (wait_s or 0.0)
    while True:
        intent = store.control.intent(intent_id)
        # SENT: a process executes it, or was killed while it did; then `execute` continues.
        if intent.state in (IntentState.APPROVED, IntentState.SENT) and not queue:
            stop = threading.Event()
            with completing_hooks(session, stop) as received:
                intent = execute(store, session.load_policy, intent_id, name_worker(), wait_s=LOCK_WAIT_S, stop=stop)
            if received and intent.state not in FINAL_STATES:  # it was not begun
                signal.raise_signal(received[0])
        remaining_s = deadline - time.monotonic()
        if intent.state in FINAL_STATES or remaining_s <= 0:
            break
        time.sleep(min(POLL_S, remaining_s))
    emit(*describe_intents(store, [intent]))
    if intent.state in FINAL_STATES:
        send_notifications(session, store)
    if intent.state in (IntentState.FAILED, IntentState.UNKNOWN):
        if not store.control.deliveries(intent.id):
            session.say("nothing was executed: fix the cause above, then request it again")
            return 3
        retry, take_back = quote_command("hooks", "retry", intent.id), quote_command("rollback", intent.release)
        session.say(f"check what was changed, then run `{retry}` or `{take_back} --reason WHY`")
    # The caller wanted no more than to leave the execution to others: so this is a success.
    is_queued = queue and wait_s is None and intent.state in (IntentState.APPROVED, IntentState.SENT)
    return 0 if is_queued else EXIT_CODES.get(intent.state, 3)


def describe_intents(store: Store, intents: Sequence[Intent]) -> list[str]:
    """Describe the state of each intent and of its hooks: a text of several lines for each."""
    from evaluator.reports import plain_text

    # Read in two queries, not in two for each intent. `None` reads all that are stored.
    single = intents[0] if len(intents) == 1 else None
    audit_rows = store.control.audit(single.release if single else None)
    deliveries = store.control.deliveries(single.id if single else None)
    last_text_by_intent = {row.intent: row.text for row in audit_rows}  # a later row replaces an earlier row
    deliveries_by_intent: dict[str, list[Delivery]] = {intent.id: [] for intent in intents}
    for delivery in deliveries:
        if delivery.intent in deliveries_by_intent:
            deliveries_by_intent[delivery.intent].append(delivery)
    texts = []
    for intent in intents:
        head = f"{intent.id} {intent.action.label} {plain_text(intent.release)}: {intent.state}"
        ending = last_text_by_intent.get(intent.id, "")  # of an intent that has ended: how
        lines = [f"{head}: {plain_text(ending)}" if intent.state in FINAL_STATES and ending else head]
        for delivery in sorted(deliveries_by_intent[intent.id], key=lambda delivery: delivery.position):
            hook = f"  {delivery.position + 1}. {delivery.event}: {delivery.hook}  {delivery.outcome.state}"
            lines.append(plain_text(f"{hook}: {delivery.outcome.text}" if delivery.outcome.text else hook))
        texts.append("\n".join(lines))
    return texts
