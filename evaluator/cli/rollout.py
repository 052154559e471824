"""`evaluator rollout`: plan, start, follow and continue a rollout, which takes a release to its users step by step."""

from __future__ import annotations

import json
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from evaluator.cli import Session, emit, mask_control_characters
from evaluator.cli.completing import completing_hooks
from evaluator.cli.rollout_report import report_command
from evaluator.cli.subject import Subject, subject_options
from evaluator.cli.terminal import make_page
from evaluator.errors import Refused, UnknownName, UsageError
from evaluator.records import Release, Service
from evaluator.records.rollouts import Rollout, RolloutPlan, to_plain
from evaluator.reports.base import write_line
from evaluator.wording import format_duration, quote_command

if TYPE_CHECKING:
    from evaluator.policy import Policy
    from evaluator.rollout.outlook import Outlook
    from evaluator.rollout.starting import DriverSettings
    from evaluator.store import Store


@click.group("rollout")
def command() -> None:
    """Take a release through its stages, each allowed by evidence."""


command.add_command(report_command)


@command.command("plan")
@click.argument("release")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.pass_obj
def plan_command(session: Session, release: str, as_json: bool) -> None:
    """Show each step of the rollout of RELEASE with what it needs. Changes nothing.

    Chances are those of an unchanged release, by the stored runs of its service. A policy whose stages contradict each
    other, or can never show what they need, is refused, with the line.
    """
    from evaluator.cli.rollout_plan import to_plain_outlook
    from evaluator.rollout.planning import make_plan

    policy = session.load_policy(release)
    plan = make_plan(policy, release)
    if as_json:
        outlook = to_plain_outlook(_look_ahead(session, policy, plan))
        emit(json.dumps({**to_plain(plan), "hash": plan.hash(), "outlook": outlook}, indent=2))
        return
    emit(_describe_plan(session, policy, plan))


def _look_ahead(session: Session, policy: Policy, plan: RolloutPlan) -> Outlook:
    """Find the chances of a plan by the stored runs; a step that can never show what it needs is refused."""
    from evaluator.pipeline.adopting import is_store_there
    from evaluator.rollout.outlook import look_ahead

    store = session.open_store() if is_store_there(session.store_path) else None
    return look_ahead(store, policy, plan)


def _describe_plan(session: Session, policy: Policy, plan: RolloutPlan) -> str:
    """Describe each step of a plan with what it needs, and the rules that hold meanwhile."""
    from evaluator.cli.rollout_plan import write_plan

    page = make_page()
    lines = write_plan(plan, _look_ahead(session, policy, plan), page)
    return "\n".join(line if line.startswith("  ") else write_line(line, page) for line in lines)


# ------------------------------------------------------------------ starting and driving


@command.command("start")
@click.argument("release", metavar="RELEASE")
@click.option("--reason", default="", help="Why, in a sentence; it is kept in the audit trail.")
@click.option("--yes", is_flag=True, help="Do not ask for the release's name as confirmation.")
@click.option("--dry-run", is_flag=True, help="Show what would happen, and do nothing.")
@click.option("--queue", is_flag=True, help="Let `evaluator hooks worker` drive it.")
@click.option("--again", is_flag=True, help="Although RELEASE was rolled back before, or its newest verdict is NO-GO.")
@subject_options("Name of the service.  [default: the policy's]")
@click.option(
    "--arm-version",
    "arm_versions",
    metavar="ARM=V",
    multiple=True,
    help="Version of an arm of an A/B test; may be repeated.",
)
@click.pass_obj
def start_command(
    session: Session,
    release: str,
    reason: str,
    yes: bool,
    dry_run: bool,
    queue: bool,
    again: bool,
    subject: Subject,
    arm_versions: tuple[str, ...],
) -> int:
    """Start the rollout of RELEASE, and drive it to its end.

    The plan that is shown is what is executed: it and the policy are kept as they are now. Who starts a rollout
    agrees to its automatic way back. If a rollout of RELEASE is running whose driver is gone, it is continued.

    Exit codes: 0 promoted; 1 rolled back because of a NO-GO or the guard; 3 rolled back because people declined, did
    not answer or stopped it, or because no arm of an A/B test has won; 4 a hook failed or its outcome is unknown, no
    data came, or not everything could be taken back; 130 the driver was ended before.
    """
    from evaluator.rollout.planning import make_plan
    from evaluator.rollout.starting import find_running_rollout

    policy = session.load_policy(release, service=subject.service)
    plan = make_plan(policy, release)
    if dry_run:
        emit(_describe_plan(session, policy, plan))
        return 0
    store = session.open_store(create=True)
    running = find_running_rollout(store, release)
    if running is not None:
        session.say(f"the rollout {running.id} of {release} was started before, and is continued")
        return _drive(session, store, running)
    if not reason.strip():
        raise UsageError("the reason is missing", hint="give --reason in one sentence; it stays in the audit trail")
    rollout = _store_rollout(
        session,
        store,
        plan,
        subject,
        reason=" ".join(reason.split()),
        yes=yes,
        queue=queue,
        again=again,
        arm_versions=arm_versions,
    )
    if queue:
        session.say(f"{rollout.id} is started, and waits for `evaluator hooks worker`")
        return 0
    return _drive(session, store, rollout)


def _store_rollout(
    session: Session,
    store: Store,
    plan: RolloutPlan,
    subject: Subject,
    *,
    reason: str,
    yes: bool,
    queue: bool,
    again: bool,
    arm_versions: tuple[str, ...],
) -> Rollout:
    """Check, show, confirm and store a rollout; returns it as it is stored. Raises UsageError, Refused, HookError."""
    from evaluator.intents import explain_obstacle_to_start, system_person
    from evaluator.rollout.starting import check_not_followed, check_start, draft_rollout
    from evaluator.store.rollouts import Rollouts

    policy = session.load_policy(plan.release, service=subject.service)
    release = _add_arm_versions(subject.to_release(session, plan.release, policy.service), plan, arm_versions)
    if obstacle := explain_obstacle_to_start(
        store, policy, system_person(), plan.release, plan.services, is_again=again
    ):
        raise Refused(f"the rollout of {plan.release} is not started: {obstacle}")
    draft = draft_rollout(policy, plan, system_person(), reason, is_queued=queue)
    check_start(store, plan, draft, release)
    check_not_followed(store, plan.release, plan.services)
    if not yes:
        session.say(_describe_plan(session, policy, plan))
        _confirm(plan.release)
    store.control.add_release(release)
    rollouts = Rollouts(store.control.file)
    return rollouts.rollout(rollouts.start(draft).id)


def _add_arm_versions(release: Release, plan: RolloutPlan, texts: tuple[str, ...]) -> Release:
    """Add the versions of further arms to the service of a release; `texts`: ARM=VERSION. Raises UsageError."""
    versions = {}
    for text in texts:
        arm, _, version = text.partition("=")
        if not (arm and version and version.isprintable()):
            raise UsageError(f"--arm-version {text} is not ARM=VERSION")
        if arm not in plan.candidates:
            raise UnknownName("arm", arm, plan.candidates, hint="the stages of the policy name the arms")
        versions[arm] = version
    if not versions:
        return release
    services = release.services or (Service(plan.services[0]),)
    return replace(release, services=tuple(replace(service, arms=versions) for service in services))


def _confirm(release: str) -> None:
    """Let the user type the name of the release as confirmation. Raises UsageError if it is another."""
    if not sys.stdin.isatty():
        raise UsageError("a rollout needs a confirmation, and stdin is not a terminal", hint="confirm with --yes")
    typed = click.prompt(f"Type {release} to start its rollout", default="", show_default=False, err=True).strip()
    if typed != release:
        raise UsageError(f"{typed or 'nothing'} was typed, not {release}: nothing was done")


@command.command("resume")
@click.argument("release", metavar="RELEASE")
@click.option("--reason", default="", help="Why a rollout that is held may continue.")
@click.pass_obj
def resume_command(session: Session, release: str, reason: str) -> int:
    """Continue the rollout of RELEASE: one that is held, or whose driver is gone.

    No step is repeated that was acknowledged. Exit codes: as `evaluator rollout start`; 0 if another process drives it,
    and it was only held.
    """
    from evaluator.intents import system_person
    from evaluator.rollout.locking import find_driver_of
    from evaluator.rollout.starting import continue_held, find_running_rollout
    from evaluator.rollout.status import read_status

    store = session.open_store(decisions_only=True)
    rollout = find_running_rollout(store, release)
    if rollout is None:
        raise UsageError(f"no rollout of {release} is running", hint="`evaluator rollout status` lists those that are")
    progress = read_status(store, rollout).progress
    driver = find_driver_of(store, rollout.id, rollout.plan["services"])
    is_held = progress is not None and progress.held
    if is_held:
        rules = session.load_policy_to_go_back(release).promotion
        continue_held(store, rollout, rules, system_person(), reason)
        session.say(f"{rollout.id} continues")
    if driver is not None and driver.is_there:
        if not is_held:
            raise Refused(
                f"the rollout of {release} has a driver: {driver.describe()}",
                hint=f"`{quote_command('rollout', 'status', release)}` shows how it stands",
            )
        session.say(f"it is driven by {driver.describe()}")
        return 0
    return _drive(session, store, rollout)


@command.command("status")
@click.argument("release", metavar="[RELEASE]", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.pass_obj
def status_command(session: Session, release: str | None, as_json: bool) -> None:
    """Show how the rollout of RELEASE stands, or those that are running. Changes nothing."""
    from evaluator.rollout.status import choose_rollout, describe_status, read_status, to_json

    store = session.open_store(decisions_only=True)
    if release is not None:
        store.control.release(release)  # raises UnknownName
    statuses = [read_status(store, rollout) for rollout in choose_rollout(store, release)]
    if not statuses:
        of_release = f" of {release}" if release else ""
        raise UsageError(
            f"there is no rollout{of_release} yet", hint="`evaluator rollout plan RELEASE` shows what it does"
        )
    if as_json:
        emit(json.dumps([to_json(status) for status in statuses], indent=2))
        return
    page = make_page()
    texts = []
    for status in statuses:
        lines = [mask_control_characters(line) for line in describe_status(status)]
        texts.append("\n".join(line if line.startswith("  ") else write_line(line, page) for line in lines))
    emit(session.complete_commands("\n\n".join(texts)))


@command.command("guard")
@click.pass_obj
def guard_command(session: Session) -> None:
    """Run the guard of the rollouts of this store, until Ctrl-C.

    The driver of a rollout starts one where none runs; run it as a service of its own to keep it apart from the driver
    (docs/rollouts.md). When it ends, traffic of rollouts in which users meet a candidate returns to the baseline.
    """
    from evaluator.guard.server import run_guard

    run_guard(session.store_path.absolute(), session.say)


def _drive(session: Session, store: Store, rollout: Rollout) -> int:
    """Drive a rollout in the foreground; returns the exit code."""
    from evaluator.rollout.driving import DriverStopped
    from evaluator.rollout.starting import drive_rollout

    stop, report = threading.Event(), RolloutReport(session)
    with completing_hooks(session, stop) as received:
        try:
            code = drive_rollout(store, rollout, make_settings(session, stop, report))
        except DriverStopped:
            report.clear()
            session.say(_explain_stop(rollout))
            return 128 + (received[0] if received and received[0] != signal.SIGTERM else signal.SIGINT)
    report.clear()
    return code


def _explain_stop(rollout: Rollout) -> str:
    """Say what becomes of a rollout whose driver was ended."""
    lease = format_duration(float(rollout.plan.get("lease_s", 60.0)))
    resume = quote_command("rollout", "resume", rollout.release)
    return (
        f"the driver has ended, and the rollout has not: `{resume}` continues it. Where users meet the candidate, the "
        f"guard returns the traffic to the baseline after {lease} without a driver"
    )


def make_settings(session: Session, stop: threading.Event, report: RolloutReport) -> DriverSettings:
    """Make what a driver in this process works with."""
    from evaluator.rollout.starting import DriverSettings

    path = session.find_policy()
    return DriverSettings(
        load_policy=session.load_policy,
        load_to_go_back=session.load_policy_to_go_back,
        policy_path=str(path.absolute()) if path is not None else "",
        stop=stop,
        report=report,
    )


class RolloutReport:
    """Shows a rollout: a line for each event, and on a terminal one line below them that says how it stands now."""

    def __init__(self, session: Session, prefix: str = "") -> None:
        """`prefix`: of each line, where several rollouts are shown."""
        self.session, self.prefix = session, prefix
        self.is_terminal = sys.stderr.isatty() and session.verbosity >= 0 and not prefix
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """Show a line about what has happened."""
        with self._lock, suppress(OSError):
            self._clear()
            self.session.say(self.prefix + text)

    def show(self, text: str) -> None:
        """Show how it stands now, in place of what was shown last."""
        if not self.is_terminal:
            return
        width = make_page().width - 1
        line = mask_control_characters(text)
        with self._lock, suppress(OSError):
            self._clear()
            click.echo(line if len(line) <= width else line[: width - 1] + "…", err=True, nl=False)

    def clear(self) -> None:
        """Remove the line that says how it stands."""
        with self._lock, suppress(OSError):
            self._clear()

    def _clear(self) -> None:
        """Go to the begin of the line, and delete it."""
        if self.is_terminal:
            click.echo("\r\x1b[K", err=True, nl=False)
