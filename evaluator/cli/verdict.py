"""`evaluator verdict`: judge what has landed; the exit code is the verdict."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from evaluator.cli import Session
from evaluator.cli.amounts import DURATION, MOMENT
from evaluator.cli.judging import JudgeOptions, judging_options
from evaluator.errors import UsageError
from evaluator.pipeline.judging import judge_release
from evaluator.records import Period


@click.command("verdict")
@click.argument("release", metavar="RELEASE")
@judging_options
@click.option("--from", "start", type=MOMENT, metavar="T", help="Judge only from this time on.")
@click.option("--to", "end", type=MOMENT, metavar="T", help="Judge only until this time: 2026-11-25T10:00:00Z.")
@click.option("--wait", "wait_s", type=DURATION, metavar="DURATION", help="How long to wait until it is decided.")
@click.pass_obj
def command(
    session: Session,
    release: str,
    options: JudgeOptions,
    start: datetime | None,
    end: datetime | None,
    wait_s: float | None,
) -> int:
    """Judge RELEASE: is it safe to promote?

    Judges the newest load or import of RELEASE, and its newest production requests, or the runs given with --run.
    --step judges what was recorded in one step of a rollout: load, production requests and readings. --from and --to
    select a part of the time, rounded to whole blocks of four buckets; the verdict names what is left out.

    Exit codes: 0 GO, 1 NO-GO, 3 INCONCLUSIVE; 2 and 4 when there is no verdict.
    """
    if start is not None and end is not None and start >= end:
        raise UsageError(f"--from {start:%Y-%m-%dT%H:%M:%SZ} is not before --to", hint="swap them")
    if wait_s is not None and (start or end):
        raise UsageError(
            "--wait judges all data as they come, not a part of them", hint="leave out --from and --to, or --wait"
        )
    if wait_s is not None:
        from evaluator.cli.waiting import await_verdict

        return options.answer(await_verdict(session, release, options, wait_s), session)
    policy = session.load_policy(release)
    verdict = judge_release(
        session.open_store(),
        release,
        policy,
        runs=options.runs,
        step=options.step,
        judged_at=datetime.now(UTC),
        save=options.keep,
        figures=options.draws,
        period=Period(start, end),
    )
    return options.answer(verdict, session)
