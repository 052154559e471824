"""`evaluator collect`: readings of the policy's metrics from Prometheus, or a compatible server."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from evaluator.cli import Session, emit
from evaluator.cli.amounts import DURATION, MOMENT, WINDOW
from evaluator.cli.steps import STEP_OPTION, check_step
from evaluator.cli.subject import Subject, subject_options
from evaluator.errors import UsageError
from evaluator.records import BASELINE, CANDIDATE
from evaluator.wording import count_of

if TYPE_CHECKING:
    from evaluator.pipeline.collecting import CollectionInterval

Windows = tuple[tuple[datetime, datetime], ...]
"""Start and end of each."""


@click.command("collect")
@click.argument("release", metavar="RELEASE")
@click.option("--from", "start", type=MOMENT, metavar="T", help="Start of the window: 2026-11-25T10:00:00Z, or -1h.")
@click.option("--to", "end", type=MOMENT, metavar="T", help="End of the window.  [default: now]")
@click.option(
    "--baseline-window",
    "baseline_windows",
    type=WINDOW,
    metavar="T/T",
    multiple=True,
    help="When the baseline ran, if the arms ran one after the other: -3h/-2h. Repeat it for each time.",
)
@click.option(
    "--canary-window",
    "canary_windows",
    type=WINDOW,
    metavar="T/T",
    multiple=True,
    help="When the candidate ran: -2h/-1h. As many as of the baseline.",
)
@click.option("--arm-window", "arm_windows", metavar="NAME=T/T", multiple=True, help="When a further candidate ran.")
@STEP_OPTION
@click.option("--follow", is_flag=True, help="Collect readings as they come.")
@click.option("--run-time", type=DURATION, help="How long to follow.  [default: the policy's max_duration]")
@subject_options("Name of the service.  [default: the policy's]")
@click.pass_obj
def command(
    session: Session,
    release: str,
    start: datetime | None,
    end: datetime | None,
    baseline_windows: Windows,
    canary_windows: Windows,
    arm_windows: tuple[str, ...],
    step: str,
    follow: bool,
    run_time: float | None,
    subject: Subject,
) -> int:
    """Collect the readings of RELEASE that the policy's metrics need.

    The policy names the server, and a selector for each arm, under sources: prometheus. Without --from the window is
    that of the newest load of RELEASE (or of its step --step), so that both are judged together. With --follow readings
    are collected as they come, and `evaluator verdict RELEASE` judges those collected by then.

    If the arms ran one after the other, for example on one server before and after the deployment, give each arm its
    own windows. They are never compared as if they had run together, and fewer than three windows of each arm, in
    turns, give no GO.

    Exit code 0 if the server answered: an arm without readings is stored as silent, and the verdict is INCONCLUSIVE.
    Exit code 4 if the server cannot be reached or its answer is not usable; then nothing is stored.
    """
    from evaluator.pipeline.collecting import (
        CollectionInterval,
        collect_load,
        collect_release,
        collect_windows,
        follow_release,
    )

    windows = _list_windows(baseline_windows, canary_windows, arm_windows)
    if windows and (follow or start or end):
        raise UsageError(
            "windows of single arms cannot be used with --from, --to or --follow",
            hint="give --from and --to if all arms ran at the same time, and else a window for each arm",
        )
    if follow and end is not None:
        raise UsageError("--to cannot be used with --follow", hint="give the duration with --run-time")
    if end is not None and start is None:
        raise UsageError("--to needs --from", hint="give both, or neither to take the window of the newest load")
    if run_time is not None and not follow:
        raise UsageError("--run-time needs --follow", hint="give the window with --from and --to")
    check_step(step)
    policy = session.load_policy(release, service=subject.service)
    target_release = subject.to_release(session, release, policy.service)
    store = session.open_store(create=True)
    if windows:
        run, rows = collect_windows(store, target_release, policy, windows, step=step, say=session.say)
    elif follow:
        run, rows = follow_release(
            store, target_release, policy, start=start, seconds=run_time, step=step, say=session.say
        )
    elif start is None:
        run, rows = collect_load(store, target_release, policy, step=step, say=session.say)
    else:
        interval = CollectionInterval(start, end or datetime.now(UTC))
        if interval.seconds <= 0:
            raise UsageError(f"--from {start:%Y-%m-%dT%H:%M:%SZ} is not before --to", hint="swap them")
        run, rows = collect_release(store, target_release, policy, interval, step=step, say=session.say)
    emit(f"{release}: {count_of(rows, 'reading')} in run {run.id}")
    session.say(f"next: `{policy.command(release)}`")
    return 0


def _list_windows(
    baseline: Windows, canary: Windows, further_arms: Iterable[str]
) -> dict[str, list[CollectionInterval]]:
    """List the windows of each arm that has any; `further_arms`: texts NAME=START/END. Raises UsageError."""
    from evaluator.pipeline.collecting import CollectionInterval

    windows_by_arm: dict[str, list[tuple[datetime, datetime]]] = {BASELINE: list(baseline), CANDIDATE: list(canary)}
    for text in further_arms:
        name, equals, window_text = text.partition("=")
        if not (name and equals and window_text):
            raise UsageError(f"--arm-window {text} is not NAME=START/END")
        try:
            windows_by_arm.setdefault(name, []).append(WINDOW.parse(window_text))
        except ValueError as error:
            raise UsageError(f"--arm-window {text}: {error}") from error
    return {
        arm: [CollectionInterval(start, end) for start, end in windows]
        for arm, windows in windows_by_arm.items()
        if windows
    }
