"""`evaluator verdict`: judge what has landed, and say so by exit code."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

import click

from evaluator.cli import Session
from evaluator.cli.outputs import FORMAT_HELP, parse_formats, write_outputs
from evaluator.errors import UnknownName
from evaluator.pipeline.judging import judge_release
from evaluator.records import Verdict, VerdictWord
from evaluator.reports import DRAWN

__all__ = ["command", "exit_code", "print_verdict"]

FAILING = {"no-go": VerdictWord.NO_GO, "inconclusive": VerdictWord.INCONCLUSIVE}
"""What `--fail-on` knows."""

CODES = {VerdictWord.GO: 0, VerdictWord.NO_GO: 1, VerdictWord.INCONCLUSIVE: 3}


def exit_code(verdict: Verdict, fail_on: Collection[VerdictWord] = tuple(FAILING.values())) -> int:
    """Tell the exit code of a verdict: 0 GO, 1 NO-GO, 3 INCONCLUSIVE; 0 where it is not to fail, or in shadow mode."""
    if verdict.mode == "shadow" or verdict.word not in fail_on:
        return 0
    return CODES[verdict.word]


def print_verdict(verdict: Verdict) -> int:
    """Show a verdict on stdout and return its exit code."""
    write_outputs(verdict, [("human", None)])
    return exit_code(verdict)


@click.command("verdict")
@click.argument("release", metavar="RELEASE")
@click.option("--run", "runs", default="latest", show_default=True, help="latest, all, or the id of a run or group.")
@click.option("--format", "formats", multiple=True, metavar="F[=PATH]", help=FORMAT_HELP)
@click.option("--figures", is_flag=True, help="Add to the JSON what figures are drawn from.")
@click.option("--fail-on", default=",".join(FAILING), show_default=True, help="Which verdicts are not exit code 0.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 whatever the verdict.")
@click.option("--dry-run", is_flag=True, help="Judge, but keep no verdict.")
@click.pass_obj
def command(
    session: Session,
    release: str,
    runs: str,
    formats: tuple[str, ...],
    figures: bool,
    fail_on: str,
    exit_zero: bool,
    dry_run: bool,
) -> int:
    """Judge RELEASE: is it safe to promote?

    Judges the newest load or import of RELEASE unless --run says otherwise.

    Exit codes: 0 GO, 1 NO-GO, 3 INCONCLUSIVE; 2 and 4 when there is no verdict.
    """
    outputs = parse_formats(formats)
    failing = () if exit_zero else _parse_fail_on(fail_on)
    policy = session.load_policy()
    verdict = judge_release(
        session.open_store(),
        release,
        policy,
        runs=runs,
        judged_at=datetime.now(UTC),
        save=not dry_run,
        figures=figures or any(name in DRAWN for name, _ in outputs),
    )
    write_outputs(verdict, outputs, figures=figures)
    return exit_code(verdict, failing)


def _parse_fail_on(text: str) -> tuple[VerdictWord, ...]:
    names = [name.strip().lower().replace("_", "-") for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FAILING:
            raise UnknownName("verdict to fail on", name, FAILING)
    return tuple(FAILING[name] for name in names)
