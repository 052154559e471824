"""`evaluator watch`: judge repeatedly as data land, and stop when it is decided."""

from __future__ import annotations

import click

from evaluator.cli import Session
from evaluator.cli.amounts import DURATION
from evaluator.cli.judging import JudgeOptions, judging_options
from evaluator.cli.waiting import await_verdict


@click.command("watch")
@click.argument("release", metavar="RELEASE")
@judging_options
@click.option(
    "--wait", "wait_s", type=DURATION, metavar="DURATION", help="How long to wait.  [default: until it is decided]"
)
@click.pass_obj
def command(session: Session, release: str, options: JudgeOptions, wait_s: float | None) -> int:
    """Judge RELEASE repeatedly as data land, until it is decided.

    Ends with the verdict, as `evaluator verdict` gives it: NO-GO as soon as it is shown, GO at the planned end (or
    earlier where the policy sets early_go), INCONCLUSIVE when the load has ended undecided or the time is up. It also
    waits for a release that does not exist yet. Only the last verdict is kept.

    Exit codes: 0 GO, 1 NO-GO, 3 INCONCLUSIVE or too late, 130 interrupted; 2 and 4 when there is no verdict.
    """
    return options.answer(await_verdict(session, release, options, wait_s), session)
