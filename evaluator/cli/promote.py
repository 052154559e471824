"""`evaluator promote`, `hold`, `rollback`: request an action on a release and execute it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from evaluator.cli import Session, emit
from evaluator.cli.amounts import DURATION
from evaluator.cli.completing import completing_hooks
from evaluator.cli.gathering import with_options
from evaluator.cli.request_texts import describe_intents, describe_steps
from evaluator.errors import EvaluatorError, OutcomeNotStored, Refused, StoreError, UnknownName, UsageError
from evaluator.records.intents import FINAL_STATES, PROMOTING, Action, Intent, IntentState
from evaluator.wording import quote_command

if TYPE_CHECKING:
    from evaluator.policy import Policy
    from evaluator.store import Store
    from evaluator.store.journal import Journal


EXIT_CODES = {IntentState.ACKNOWLEDGED: 0, IntentState.FAILED: 4, IntentState.UNKNOWN: 4}
"""Any other state is 3: not done yet, but still possible."""

POLL_S = 1.0
LOCK_WAIT_S = 60.0
GOING_BACK_WAIT_S = 5.0
"""How long what goes back waits for another process that writes the decisions, before it acts from the journal."""

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
    """Hold RELEASE: cancel promotions that wait, and execute the policy's hooks for hold.

    A rollout that is running waits instead, with its traffic as it is, until `evaluator rollout resume`.
    """
    return _go_back(session, Action.HOLD, release, **options)


@click.command("rollback")
@_options
@click.option(
    "--baseline-runs",
    is_flag=True,
    help="The servers of the baseline run, although acts of a rollout may have taken them down.",
)
@click.pass_obj
def rollback(session: Session, /, release: str, **options: Any) -> int:
    """Take back what the promotions of RELEASE changed, and execute the policy's hooks for rollback.

    A rollout that is running goes back: first all its traffic, then its acts. The last acts of one that was promoted
    may have taken down the servers of the baseline: users return to them if the router finds one up, if the policy's
    hooks before `undo` have deployed them again, or with --baseline-runs. If the decisions cannot be used (locked,
    damaged or gone, a full or read-only disk), what is needed is read from the journal, and what was done is added to
    the audit trail by a later command. What even that cannot do is printed as commands for a shell; then, `--dry-run`
    prints them for everything.
    """
    return _go_back(session, Action.ROLLBACK, release, **options)


def _go_back(session: Session, action: Action, release: str, **options: Any) -> int:
    """Hold or roll back a release: through the store, or from the journal if the store cannot be used."""
    session.is_journal_recorded = True  # `ask` records it, and nothing else waits for the decisions
    session.wait_s = GOING_BACK_WAIT_S
    requested: list[Intent] = []
    try:
        return _request_action(session, action, release, requested=requested, **options)
    except OutcomeNotStored as outcome:
        lines = [f"{action.label} {release}: {outcome.state}", *outcome.lines, *_introduce_by_hand(outcome.by_hand)]
        _emit_if_possible(_show_lines(lines))
        _say_if_possible(session, f"{outcome.message}; {outcome.hint}")
        return EXIT_CODES.get(IntentState(outcome.state), 4)
    except (StoreError, OSError) as error:
        if options["queue"]:
            raise
        problem = error if isinstance(error, StoreError) else StoreError(str(error))
        request = requested[-1].key if requested else ""
    except (Refused, UnknownName) as error:
        if action is not Action.ROLLBACK or not _is_only_in_journal(session, release):
            raise
        problem, request = StoreError(f"they do not know what the journal knows ({error.message})"), ""
    return _go_back_without_store(
        session, action, release, problem, request=request,
        reason=options["reason"], yes=options["yes"], dry_run=options["dry_run"],
        baseline_runs=options.get("baseline_runs", False),
    )  # fmt: skip


def _is_only_in_journal(session: Session, release: str) -> bool:
    """Whether the journal has a promotion of a release that is in effect, and that the decisions do not have.

    So it is if the decisions were restored from an older backup, or were lost and begun again.
    """
    from evaluator.intents.journal_records import list_promotions

    try:
        stored = {intent.key for intent in session.open_store(decisions_only=True).control.intents()}
        promotions = list_promotions(session.find_journal().read())
    except StoreError:
        return False
    return any(
        promotion.release.id == release and promotion.key not in stored and promotion.changed_something
        for promotion in promotions
    )


def _go_back_without_store(
    session: Session,
    action: Action,
    release: str,
    problem: StoreError,
    *,
    request: str,
    reason: str,
    yes: bool,
    dry_run: bool,
    baseline_runs: bool,
) -> int:
    """Hold or roll back a release from the journal, because of a problem of the store. Returns the exit code.

    `request`: key of the stored request that this executes; empty: it could not be stored. Raises the problem itself if
    there is no journal, after showing what the policy knows.
    """
    from evaluator.intents import system_person
    from evaluator.intents.emergency import act_from_journal, load_rules, preview_from_journal
    from evaluator.intents.journal_records import list_rollouts
    from evaluator.intents.notifying import notify_without_store
    from evaluator.intents.policy_by_hand import list_policy_by_hand
    from evaluator.intents.returning import return_traffic
    from evaluator.reports import plain_text

    def say(text: str) -> None:
        """Show progress, if that is possible."""
        _say_if_possible(session, text)

    say(f"the decisions cannot be used: {problem.message}")
    journal, person = session.find_journal(), system_person()
    rules = load_rules(session.find_policy, release, journal, say)
    reason = reason or f"the decisions cannot be used: {problem.message}"

    list_lines = partial(list_policy_by_hand, rules, action, person, release, reason)
    try:
        _read_or_make(session, journal)
    except StoreError as error:
        _show_policy_by_hand(session, list_lines())
        raise StoreError(f"{problem.message}; {error.message}", hint=problem.hint) from problem
    say(f"acting from the journal: {', '.join(map(str, journal.paths))}")
    _warn_of_unknown(session, journal, release)
    arguments = (session.store_path.absolute(), journal, rules, person, action, release, reason)
    if dry_run or not yes:
        with _showing_policy_by_hand(session, journal, release, list_lines):
            lines = preview_from_journal(*arguments)
        (emit if dry_run else say)(_show_lines(lines))
    if dry_run:
        return 0
    if not yes:
        _confirm(action, release)
    if action is Action.ROLLBACK:
        rollouts, store = list_rollouts(journal, release), session.store_path.absolute()
        return_traffic(store, release, rollouts, reason, person.name, lambda text: say(plain_text(text)))
    stop = threading.Event()
    with completing_hooks(session, stop), _showing_policy_by_hand(session, journal, release, list_lines):
        acted = act_from_journal(
            *arguments, lambda text: say(plain_text(text)), request=request, stop=stop, baseline_runs=baseline_runs
        )
    lines = [f"{action.label} {release}: {acted.state}", *acted.lines, *_introduce_by_hand(acted.by_hand)]
    _emit_if_possible(_show_lines(lines))
    keep_it = f"this could not be written anywhere, so keep it: {acted.not_written}"
    say(keep_it if acted.not_written else "the next command that can use the decisions adds this to the audit trail")
    notify_without_store(rules, action, release, person, reason, acted.state, "; ".join(acted.lines), say)
    return EXIT_CODES.get(acted.state, 4)


def _show_policy_by_hand(session: Session, lines: Sequence[str]) -> None:
    """Show the lines for a shell that the policy alone knows, where nothing else is left."""
    if lines:
        _say_if_possible(session, "nothing was done. As far as the policy knows, this does it by hand, in a shell:")
        _emit_if_possible(_show_lines(lines))


@contextmanager
def _showing_policy_by_hand(
    session: Session, journal: Journal, release: str, list_lines: Callable[[], list[str]]
) -> Iterator[None]:
    """Show what the policy alone knows if the action inside is refused, and the journal has no promotion of `release`.

    Then nothing knows what a promotion of it changed, if there was one. `list_lines`: lists lines for a shell.
    """
    from evaluator.intents.journal_records import list_releases

    try:
        yield
    except Refused:
        if release not in list_releases(journal):
            _show_policy_by_hand(session, list_lines())
        raise


def _warn_of_unknown(session: Session, journal: Journal, release: str) -> None:
    """Say that the journal has no promotion of a release, if it has others: the name may be mistyped."""
    from evaluator.intents.journal_records import list_releases

    known = list_releases(journal)
    if known and release not in known:
        _say_if_possible(session, f"the journal knows no promotion of {release}, but of {', '.join(known)}")


def _introduce_by_hand(lines: Sequence[str]) -> list[str]:
    """Write lines for a shell after a comment that says what they are; nothing if there are none."""
    return ["", "# what is left to do by hand, in a shell:", *lines] if lines else []


def _list_left_by_hand(session: Session, store: Store, intent: Intent) -> list[str]:
    """List the lines for a shell that do what hooks of a hold or a rollback did not do; empty for a promotion."""
    from evaluator.intents import list_left_by_hand

    if intent.action in PROMOTING:
        return []
    try:
        return list_left_by_hand(store, session.load_policy_to_go_back(intent.release), intent)
    except EvaluatorError:  # what was executed is shown all the same
        return []


def _read_or_make(session: Session, journal: Journal) -> None:
    """Read the journal, and make copies that are missing, if it has any or there is a store. Raises StoreError.

    The only copy that there is may be on a disk that is read-only now, and what is done has to be written.
    """
    try:
        journal.read()
    except StoreError:
        from evaluator.store.control_file import control_path

        if not (session.store_path.exists() or control_path(session.store_path.absolute()).exists()):
            raise
    with suppress(StoreError):
        journal.make()
    journal.read()


def _show_lines(lines: Iterable[str]) -> str:
    """Write lines for a terminal; tabs stay, because lines for a shell may write a file that has some."""
    from evaluator.reports import plain_text

    return "\n".join("\t".join(map(plain_text, line.split("\t"))) for line in lines)


def _say_if_possible(session: Session, text: str) -> None:
    """Show progress; if it cannot be written, as to a file on a full disk, the command goes on."""
    with suppress(OSError):
        session.say(text)


def _emit_if_possible(text: str) -> None:
    """Write a result to stdout; if that is not possible, send all further output nowhere: what was done stays done."""
    try:
        emit(text)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    requested: list[Intent] | None = None,
    baseline_runs: bool = False,
) -> int:
    """Request an action on a release, after a confirmation, and execute it if it is allowed. Returns the exit code.

    `yes`: do not ask for the confirmation. `dry_run`: only show what would happen. `queue`, `wait_s`: as
    `execute_or_wait`. `baseline_runs`: as in `ActionRequest`.
    The request is appended to `requested` when it is stored and approved. Raises UsageError without
    a confirmation, and the errors of `ask` if the action is not allowed.
    """
    from evaluator.intents import ActionRequest, ask, describe_missing, system_person

    # Going back, and holding, must not wait for what uses the data.
    goes_back = action not in PROMOTING
    store = session.open_store(decisions_only=goes_back)
    person = system_person()
    store.control.release(release)  # raises UnknownName
    policy = _load_policy(session, action, release)
    if dry_run:
        emit(_describe_action(session, store, action, release, baseline_runs=baseline_runs))
        return 0
    if not yes:
        session.say(_describe_action(session, store, action, release, baseline_runs=baseline_runs))
    default_reason = "the verdict is GO" if action is Action.PROMOTE else ""
    request = ActionRequest(action, release, reason or default_reason, baseline_runs)
    # Without a reason `ask` refuses the request, so a confirmation would be in vain.
    if not yes and request.reason:
        _confirm(action, release)
    intent = ask(store, policy, person, request)
    if requested is not None and intent.state is not IntentState.REQUESTED:
        requested.append(intent)
    if intent.state is IntentState.REQUESTED:
        missing = describe_missing(intent, store.control.approvals(intent.id))
        until = f"{intent.expires_at:%Y-%m-%d %H:%M} UTC"
        session.say(f"waits until {until}: {missing}: `{quote_command('approve', intent.id)}`")
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


def _load_policy(session: Session, action: Action, release: str) -> Policy:
    """Load the policy for an action on a release: mistakes in it do not stop what holds or goes back."""
    return session.load_policy(release) if action in PROMOTING else session.load_policy_to_go_back(release)


def _confirm(action: Action, release: str) -> None:
    """Let the user type the name of the release as confirmation of an action. Raises UsageError if it is another."""
    if not sys.stdin.isatty():
        raise UsageError(f"{action.label} needs a confirmation, and stdin is not a terminal", hint="confirm with --yes")
    prompt = f"Type {release} to confirm: {action.label}"
    typed = click.prompt(prompt, default="", show_default=False, err=True).strip()
    if typed != release:
        raise UsageError(f"{typed or 'nothing'} was typed, not {release}: nothing was done")


def _describe_action(session: Session, store: Store, action: Action, release: str, *, baseline_runs: bool) -> str:
    """Describe what an action on a release would do: its steps in order, with the values that they would replace."""
    from datetime import UTC, datetime, timedelta

    from evaluator.intents import (
        ActionRequest,
        describe_rollout_stop,
        explain_refusal,
        find_latest,
        plan_action,
        preview_action,
        read_release_to_preview,
        system_person,
    )
    from evaluator.reports import plain_text

    policy, verdict = _load_policy(session, action, release), find_latest(store, release)
    planned_hooks, irreversible = plan_action(store, policy, release, action, baseline_runs=baseline_runs)
    versions, until = read_release_to_preview(store, release, action), datetime.now(UTC) + timedelta(minutes=1)
    steps = preview_action(planned_hooks, action, versions, verdict, until, system_person().name)
    word = verdict.word.replace("_", "-").upper() if verdict else "not judged"
    lines = [f"{action.label} {plain_text(release)} (verdict: {word})"]
    lines += describe_steps(steps)
    lines += [f"  not taken back: {plain_text(text)}" for text in irreversible]
    approvals_needed = policy.promotion.needed(action)
    if stop := describe_rollout_stop(store, action, release):
        lines.append(f"  {plain_text(stop)}")
    elif not steps:
        lines.append("  no hook is executed: the policy names none for it")
    if refusal := explain_refusal(store, policy, ActionRequest(action, release, "")):
        lines.append(f"  would be refused now: {plain_text(refusal)}")
    if approvals_needed:
        exclusion = ", not by the requester" if policy.promotion.distinct(action) else ""
        lines.append(f"  needs {approvals_needed} approval{'s' if approvals_needed > 1 else ''}{exclusion}")
    return "\n".join(lines)


def execute_or_wait(
    session: Session, store: Store, intent_id: str, *, wait_s: float | None, queue: bool = False
) -> int:
    """Execute an intent, show its state and return the exit code.

    0: done, or left to others as requested; 4: failed, or the outcome is unknown; 3: nothing was executed, or not yet.
    `queue`: leave the execution to the app or a worker. `wait_s`: how long to wait (s) for approvals, or until another
    process has executed it; `None`: do not wait.
    """
    from evaluator.intents import execute, name_worker
    from evaluator.reports import plain_text

    deadline = time.monotonic() + (wait_s or 0.0)
    if (intent := store.control.intent(intent_id)).action is Action.STEP:
        emit(*describe_intents(store, [intent]))
        session.say(f"its rollout goes on with it: `{quote_command('rollout', 'status', intent.release)}`")
        return 0
    while True:
        intent = store.control.intent(intent_id)
        # SENT: a process executes it, or was killed while it did; then `execute` continues.
        if intent.state in (IntentState.APPROVED, IntentState.SENT) and not queue:
            stop = threading.Event()
            with completing_hooks(session, stop) as received:
                intent = execute(
                    store, session.load_policy, intent_id, name_worker(), wait_s=LOCK_WAIT_S, stop=stop,
                    load_to_go_back=session.load_policy_to_go_back,
                    say=lambda text: _say_if_possible(session, plain_text(text)),
                )  # fmt: skip
            if received and intent.state not in FINAL_STATES:  # it was not begun
                signal.raise_signal(received[0])
        remaining_s = deadline - time.monotonic()
        if intent.state in FINAL_STATES or remaining_s <= 0:
            break
        time.sleep(min(POLL_S, remaining_s))
    # What went back did so, whether or not its result can be written.
    show = emit if intent.action in PROMOTING else _emit_if_possible
    try:
        show(*describe_intents(store, [intent]))
    except StoreError:
        if intent.action in PROMOTING:
            raise
        show(f"{intent.id} {intent.label} {plain_text(intent.release)}: {intent.state}")
    if intent.state in FINAL_STATES:
        send_notifications(session, store)
    if intent.state in (IntentState.FAILED, IntentState.UNKNOWN) and (
        lines := _introduce_by_hand(_list_left_by_hand(session, store, intent))
    ):
        show(_show_lines(lines))
    if intent.state in (IntentState.FAILED, IntentState.UNKNOWN):
        if not store.control.deliveries(intent.id):
            _say_if_possible(session, "nothing was executed: fix the cause above, then request it again")
            return 3
        retry, take_back = quote_command("hooks", "retry", intent.id), quote_command("rollback", intent.release)
        alternative = f" or `{take_back} --reason WHY`" if intent.action in PROMOTING else ""
        _say_if_possible(session, f"check what was changed, then run `{retry}`{alternative}")
    # The caller wanted no more than to leave the execution to others: so this is a success.
    is_queued = queue and wait_s is None and intent.state in (IntentState.APPROVED, IntentState.SENT)
    return 0 if is_queued else EXIT_CODES.get(intent.state, 3)
