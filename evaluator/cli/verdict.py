"""`evaluator verdict`: judge what has landed, and say so by exit code."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import click

from evaluator.cli import Session
from evaluator.cli.amounts import Duration, Moment
from evaluator.cli.outputs import FORMAT_HELP, Output, parse_formats, write_outputs
from evaluator.errors import UnknownName, UsageError
from evaluator.pipeline.judging import judge_release
from evaluator.records import Period, Verdict, VerdictWord
from evaluator.reports import DRAWN

__all__ = ["Asked", "command", "exit_code", "judging_options", "print_verdict"]

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


JUDGING_OPTIONS = (
    click.option(
        "--run", "runs", default="latest", show_default=True, help="latest, all, or the id of a run or group."
    ),
    click.option(
        "--format",
        "formats",
        multiple=True,
        metavar="F[=PATH]",
        help=FORMAT_HELP,
    ),
    click.option("--figures", is_flag=True, help="Add to the JSON what figures are drawn from."),
    click.option("--fail-on", default=",".join(FAILING), show_default=True, help="Which verdicts are not exit code 0."),
    click.option("--exit-zero", is_flag=True, help="Exit with 0 whatever the verdict."),
    click.option("--dry-run", is_flag=True, help="Judge, but keep no verdict."),
)
"""Options of every command that ends with a verdict, in the order of its help."""


def judging_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options that all commands share which end with a verdict."""
    for option in reversed(JUDGING_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options of a judging command ask for, checked before anything is judged."""

    runs: str
    outputs: tuple[Output, ...]
    failing: tuple[VerdictWord, ...]
    keep: bool
    figures: bool = False
    """Add to the JSON what figures are drawn from."""

    @classmethod
    def parse(
        cls, runs: str, formats: tuple[str, ...], fail_on: str, *, figures: bool, exit_zero: bool, dry_run: bool
    ) -> Self:
        """Read the options. Raises UsageError."""
        failing = _parse_fail_on(fail_on)
        return cls(runs, tuple(parse_formats(formats)), () if exit_zero else failing, not dry_run, figures)

    @property
    def draws(self) -> bool:
        """Does anything that is asked for need figures?"""
        return self.figures or any(name in DRAWN for name, _ in self.outputs)

    def answer(self, verdict: Verdict) -> int:
        """Write a verdict in every format that was asked for and return its exit code."""
        write_outputs(verdict, self.outputs, figures=self.figures)
        return exit_code(verdict, self.failing)


@click.command("verdict")
@click.argument("release", metavar="RELEASE")
@judging_options
@click.option("--from", "start", type=Moment(), metavar="T", help="Judge only from this time on.")
@click.option("--to", "end", type=Moment(), metavar="T", help="Judge only until this time: 2026-11-25T10:00:00Z.")
@click.option("--wait", "wait_s", type=Duration(), metavar="DURATION", help="Wait so long until it is decided.")
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
    start: datetime | None,
    end: datetime | None,
    wait_s: float | None,
) -> int:
    """Judge RELEASE: is it safe to promote?

    Judges the newest load or import of RELEASE unless --run says otherwise, and all of its time unless --from and --to
    name a part. They are rounded to whole blocks of four buckets; what lies outside is named in the verdict.

    Exit codes: 0 GO, 1 NO-GO, 3 INCONCLUSIVE; 2 and 4 when there is no verdict.
    """
    asked = Asked.parse(runs, formats, fail_on, figures=figures, exit_zero=exit_zero, dry_run=dry_run)
    if start is not None and end is not None and start >= end:
        raise UsageError(f"--from {start:%Y-%m-%dT%H:%M:%SZ} is not before --to", hint="swap them")
    if wait_s is not None and (start or end):
        raise UsageError(
            "--wait judges data as they come, not a part of them", hint="leave out --from and --to, or --wait"
        )
    policy = session.load_policy(release)
    if wait_s is not None:
        from evaluator.cli.watch import await_verdict

        return asked.answer(await_verdict(session, release, policy, asked, wait_s))
    verdict = judge_release(
        session.open_store(),
        release,
        policy,
        runs=runs,
        judged_at=datetime.now(UTC),
        save=asked.keep,
        figures=asked.draws,
        period=Period(start, end),
    )
    return asked.answer(verdict)


def _parse_fail_on(text: str) -> tuple[VerdictWord, ...]:
    names = [name.strip().lower().replace("_", "-") for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FAILING:
            raise UnknownName("verdict to fail on", name, FAILING)
    return tuple(FAILING[name] for name in names)
