"""Options and exit codes of all commands that end with a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import click

from evaluator.cli import Session
from evaluator.cli.gathering import gathered
from evaluator.cli.outputs import FORMAT_HELP, Output, parse_formats, write_outputs
from evaluator.errors import UnknownName
from evaluator.records import Verdict, VerdictWord
from evaluator.reports import DRAWN

FAILING = {"no-go": VerdictWord.NO_GO, "inconclusive": VerdictWord.INCONCLUSIVE}
"""Values of `--fail-on`."""

CODES = {VerdictWord.GO: 0, VerdictWord.NO_GO: 1, VerdictWord.INCONCLUSIVE: 3}

_OPTIONS = (
    click.option(
        "--run",
        "runs",
        default="latest",
        show_default=True,
        help="Runs to judge: latest, all, or the id of a run or group.",
    ),
    click.option(
        "--step", metavar="NAME", default="", help="Judge this step of a rollout alone.  [default: the newest step]"
    ),
    click.option("--format", "formats", multiple=True, metavar="F[=PATH]", help=FORMAT_HELP),
    click.option("--figures", is_flag=True, help="Add the data of the figures to the JSON."),
    click.option("--fail-on", default=",".join(FAILING), show_default=True, help="Verdicts whose exit code is not 0."),
    click.option("--exit-zero", is_flag=True, help="Exit with 0 whatever the verdict."),
    click.option("--dry-run", is_flag=True, help="Judge without keeping the verdict."),
)
"""Options of every command that ends with a verdict, in the order of its help."""


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """The options of a judging command, checked before anything is judged."""

    runs: str = "latest"
    step: str = ""
    outputs: tuple[Output, ...] = (("human", None),)
    failing: tuple[VerdictWord, ...] = tuple(FAILING.values())
    keep: bool = True
    figures: bool = False
    """Add the data of the figures to the JSON."""

    @property
    def draws(self) -> bool:
        """Does a requested output need figures?"""
        return self.figures or any(name in DRAWN for name, _ in self.outputs)

    def answer(self, verdict: Verdict, session: Session) -> int:
        """Write a verdict in every requested format and return its exit code.

        0 GO, 1 NO-GO, 3 INCONCLUSIVE; 0 where `--fail-on` does not name it, or in shadow mode. Files are private if a
        policy that applies to the session is sensitive.
        """
        from evaluator.intents.report_life import adapt_next, add_life

        if session.store_path.exists():  # a verdict that was waited for may be without one
            store, present = session.open_store(), datetime.now(UTC)
            verdict = adapt_next(store, verdict, present)
            if self.draws:
                verdict = add_life(store, verdict, present)
        write_outputs(
            verdict,
            self.outputs,
            figures=self.figures,
            private=session.has_sensitive_policy(),
            command_options=session.given_options,
        )
        if verdict.mode == "shadow" or verdict.word not in self.failing:
            return 0
        return CODES[verdict.word]


def _make_judge_options(
    runs: str, step: str, formats: tuple[str, ...], figures: bool, fail_on: str, exit_zero: bool, dry_run: bool
) -> JudgeOptions:
    """Check the values of the options on the command line. Raises UnknownName and UsageError.

    `runs`: the selection of runs to judge (latest, all, or an id). `step`: a step of a rollout, or empty. `formats`:
    texts F[=PATH]. `fail_on`: names of verdicts whose exit code is not 0, separated by commas.
    """
    names = [name.strip().lower().replace("_", "-") for name in fail_on.split(",") if name.strip()]
    for name in names:
        if name not in FAILING:
            raise UnknownName("verdict", name, FAILING, hint="`--fail-on` takes no-go, inconclusive, or both")
    failing = () if exit_zero else tuple(FAILING[name] for name in names)
    outputs = tuple(parse_formats(formats))
    return JudgeOptions(runs, step, outputs, failing, keep=not dry_run, figures=figures)


judging_options = gathered("options", _make_judge_options, *_OPTIONS)
"""Gives a command the options of all commands that end with a verdict; it receives them as `options`."""
