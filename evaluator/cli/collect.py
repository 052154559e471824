"""`evaluator collect`: readings of the policy's metrics from Prometheus, or a compatible server."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from evaluator.cli import Session, emit
from evaluator.cli.amounts import DURATION, MOMENT
from evaluator.cli.subject import Subject, subject_options
from evaluator.errors import UsageError
from evaluator.wording import count_of


@click.command("collect")
@click.argument("release", metavar="RELEASE")
@click.option("--from", "start", type=MOMENT, metavar="T", help="Start of the window: 2026-11-25T10:00:00Z, or -1h.")
@click.option("--to", "end", type=MOMENT, metavar="T", help="End of the window.  [default: now]")
@click.option("--follow", is_flag=True, help="Collect readings as they come.")
@click.option("--run-time", type=DURATION, help="How long to follow.  [default: the policy's max_duration]")
@subject_options("Name of the service.  [default: the policy's]")
@click.pass_obj
def command(
    session: Session,
    release: str,
    start: datetime | None,
    end: datetime | None,
    follow: bool,
    run_time: float | None,
    subject: Subject,
) -> int:
    """Collect the readings of RELEASE that the policy's metrics need.

    The policy names the server, and a selector for each arm, under sources: prometheus. Without --from the window is
    that of the newest load of RELEASE, so that both are judged together. With --follow readings are collected as they
    come, and `evaluator verdict RELEASE` judges those collected by then.

    Exit code 0 if the server answered: an arm without readings is stored as silent, and the verdict is INCONCLUSIVE.
    Exit code 4 if the server cannot be reached or its answer is not usable; then nothing is stored.
    """
    from evaluator.pipeline.collecting import CollectionInterval, collect_load, collect_release, follow_release

    if follow and end is not None:
        raise UsageError("--to cannot be used with --follow", hint="give the duration with --run-time")
    if end is not None and start is None:
        raise UsageError("--to needs --from", hint="give both, or neither to take the window of the newest load")
    if run_time is not None and not follow:
        raise UsageError("--run-time needs --follow", hint="give the window with --from and --to")
    policy = session.load_policy(release, service=subject.service)
    target_release = subject.to_release(session, release, policy.service)
    store = session.open_store(create=True)
    if follow:
        run, rows = follow_release(store, target_release, policy, start=start, seconds=run_time, say=session.say)
    elif start is None:
        run, rows = collect_load(store, target_release, policy, say=session.say)
    else:
        interval = CollectionInterval(start, end or datetime.now(UTC))
        if interval.seconds <= 0:
            raise UsageError(f"--from {start:%Y-%m-%dT%H:%M:%SZ} is not before --to", hint="swap them")
        run, rows = collect_release(store, target_release, policy, interval, say=session.say)
    emit(f"{release}: {count_of(rows, 'reading')} in run {run.id}")
    session.say(f"next: `{policy.command(release)}`")
    return 0
