"""`evaluator import`: request files of other tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evaluator.cli import Session, emit, mask_control_characters
from evaluator.cli.amounts import MOMENT
from evaluator.cli.gathering import gathered
from evaluator.cli.outcomes import OUTCOME_OPTIONS, describe_next_step, describe_outcomes
from evaluator.cli.subject import Subject, subject_options
from evaluator.errors import UsageError
from evaluator.records import BASELINE, CANDIDATE, FilesAre, Landed, LandingPlan, OutcomeOptions, Release
from evaluator.wording import count_of, list_left_out

if TYPE_CHECKING:
    from evaluator.store import Store


@click.command("import")
@click.argument("release", metavar="RELEASE")
@click.option("--baseline", metavar="FILE[,FILE…]", multiple=True, help="Requests of the baseline; globs are allowed.")
@click.option("--canary", metavar="FILE[,FILE…]", multiple=True, help="Requests of the candidate.")
@click.option("--arm", "arms", metavar="NAME=FILE[,FILE…]", multiple=True, help="Requests of a further candidate.")
@click.option(
    "--format",
    "format_name",
    default="auto",
    show_default=True,
    metavar="FORMAT",
    help="auto, locust, jtl, jtl-transactions, k6, csv, parquet, or a source of another package.",
)
@click.option(
    "--column",
    "columns",
    metavar="TARGET=SOURCE[:UNIT]",
    multiple=True,
    help="Where a column comes from, for example response_time_ms=elapsed:s; may be repeated.",
)
@click.option(
    "--files-are",
    type=click.Choice(["parts", "replicates"]),
    help="Whether several files of one arm are parts of one run, or one run each.  [default: by their times]",
)
@click.option(
    "--from", "start", type=MOMENT, metavar="T", help="Only requests from this time on: 2026-11-25T10:00:00Z, or -1h."
)
@click.option("--to", "end", type=MOMENT, metavar="T", help="Only requests before this time.")
@gathered("outcome_options", OutcomeOptions, *OUTCOME_OPTIONS)
@click.option("--skip-bad-rows", is_flag=True, help="Count rows that cannot be used instead of refusing the file.")
@subject_options("Name of the service.")
@click.pass_obj
def command(
    session: Session,
    release: str,
    baseline: tuple[str, ...],
    canary: tuple[str, ...],
    arms: tuple[str, ...],
    format_name: str,
    columns: tuple[str, ...],
    files_are: FilesAre | None,
    start: datetime | None,
    end: datetime | None,
    outcomes: tuple[str, ...],
    outcomes_query: str,
    outcome_options: OutcomeOptions,
    skip_bad_rows: bool,
    subject: Subject,
) -> int:
    """Import request files as runs of RELEASE, or outcomes of units.

    Several files of one arm are parts of one run if they overlap in time, or if one continues where another ends. They
    are one run each if at least 5 seconds, and at least twice the longest pause within them, lie between them, or if
    their times count from the start of a test.

    A request row needs ts, endpoint, response_time_ms and failed; instance, response_bytes, status_code, exception and
    user_count are optional. UNIT is s, ms, us or ns for times (ts: also iso); without it, response times have the unit
    of their type in Parquet, or that in which the column's name ends (took_ns), else ms. For failed it is failure (true
    is a failure), success (true is a success), status (0, and 400 or more, is a failure) or text (any text is a
    failure).
    docs/formats.md lists for each format what is read, and what is left out and named.

    Outcomes are compared by the metrics outcome_proportion, outcome_mean, outcome_ratio and outcome_quantile of the
    policy. Each unit (a user, a session) counts once, however many rows it has.
    """
    from evaluator.pipeline.importing import import_outcomes
    from evaluator.sources.files import plan_landing

    if not outcomes and (outcomes_query or outcome_options != OutcomeOptions()):
        raise UsageError("options about outcomes need --outcomes FILE")
    files = _list_files_by_arm(baseline, canary, arms)
    if not files and (files_are or start or end):
        raise UsageError("--files-are, --from and --to need request files: --baseline FILE and --canary FILE")
    policy = session.load_policy(release, service=subject.service)
    plan = None
    if files or not outcomes:  # with neither, `plan_landing` raises InputError
        plan = plan_landing(
            files, format=format_name, columns=columns, skip_bad_rows=skip_bad_rows, service=subject.service,
            sensitive=policy.promotion.sensitive, files_are=files_are, start=start, end=end)  # fmt: skip
    target_release = subject.to_release(session, release)
    store = session.open_store(create=True)
    if plan:
        _import_requests(session, store, target_release, plan)
    if outcomes:
        landed_outcomes, facts, outcome_plan = import_outcomes(
            store, target_release, outcomes, outcome_options, query=outcomes_query, skip_bad_rows=skip_bad_rows
        )
        emit(mask_control_characters(describe_outcomes(release, landed_outcomes, facts, outcome_plan)))
        if hint := describe_next_step(policy, store, landed_outcomes):
            session.say(hint)
    session.say(f"next: `{policy.command(release)}`")
    return 0


def _list_files_by_arm(
    baseline: Iterable[str], canary: Iterable[str], further_arms: Iterable[str]
) -> dict[str, list[str]]:
    """List the files of each arm that has any, from the values of `--baseline`, `--canary` and `--arm`.

    `further_arms`: texts NAME=FILE[,FILE…]. Comma lists stay as they are. Raises UsageError for any other text.
    """
    files_by_arm: dict[str, list[str]] = {BASELINE: list(baseline), CANDIDATE: list(canary)}
    for text in further_arms:
        name, equals, files = text.partition("=")
        if not (name and equals and files):
            raise UsageError(f"--arm {text} is not NAME=FILE[,FILE…]")
        files_by_arm.setdefault(name, []).append(files)
    return {name: files for name, files in files_by_arm.items() if files}


def _import_requests(session: Session, store: Store, release: Release, plan: LandingPlan) -> None:
    """Land the files of a plan, and show what has landed, with warnings about what is doubtful or not comparable."""
    from evaluator.pipeline.importing import import_release

    for sentence in _describe_time_columns(plan):
        session.say(sentence)
    _show_warnings(session, _find_incomparable(plan))
    landed = import_release(store, release, plan)
    _show_warnings(session, landed.doubts)
    emit(mask_control_characters(describe_landed(release.id, landed)))


_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def _describe_time_columns(plan: LandingPlan) -> tuple[str, ...]:
    """Say from which columns response times are read, and in which unit, if the files name the columns in their way.

    The unit may come from the name or the type of a column, or be the default: a wrong one is seen here.
    """
    columns = [column for file in plan.files for column in file.layout.columns if column.target == "response_time_ms"]
    is_general = {file.layout.format for file in plan.files} <= {"csv", "parquet"}
    return tuple(
        dict.fromkeys(
            f"response times are read from the column '{column.sources[0]}' in "
            + _UNIT_NAMES.get(column.unit, "the unit of its type")
            for column in columns
            if is_general and column.sources != (column.target,)
        )
    )


def _show_warnings(session: Session, warnings: Iterable[str]) -> None:
    """Show each warning on stderr."""
    for warning in warnings:
        session.say(f"warning: {warning}")


def _find_incomparable(plan: LandingPlan) -> Iterable[str]:
    """Find what can be imported but not compared, and describe it: one file for several arms, and an arm alone."""
    arms_and_paths = {(file.arm, file.path) for file in plan.files}
    arm_count_by_path = Counter(Path(path).resolve() for _, path in arms_and_paths)
    for path, arm_count in arm_count_by_path.items():
        if arm_count > 1:
            yield f"{path} is given for several arms, and the same requests cannot show a difference"
    arms = {file.arm for file in plan.files}
    if BASELINE not in arms or len(arms) < 2:
        missing_arm = CANDIDATE if BASELINE in arms else BASELINE
        yield (
            f"nothing to compare without {missing_arm}; give all arms in one import, since each import is judged alone"
        )


def describe_landed(release: str, landed: Landed) -> str:
    """Describe what an import of requests has landed, in one line."""
    if not landed.rows:  # the same files had landed before
        files = "this file has" if landed.already == 1 else f"these {landed.already} files have"
        further = f" and {len(landed.runs) - 1} more" if len(landed.runs) > 1 else ""
        return f"{release}: {files} landed already (run {landed.runs[0]}{further}); no row was added"
    text = (
        f"{release}: {count_of(landed.rows, 'request')} from {count_of(landed.segments, 'file')}"
        f" in {count_of(len(landed.runs), 'run')}"
    )
    file_counts = landed.parts  # how many files an arm has in a run: each number that occurs, the smallest first
    if len(file_counts) > 1:
        text += f" of {file_counts[0]} to {file_counts[-1]} files an arm"
    elif file_counts and file_counts[0] > 1:
        text += f" of {count_of(file_counts[0], 'file')} an arm"
    if landed.why:  # how it was determined which files belong to which run
        text += f" ({landed.why})"
    if landed.left_out:
        text += f"; left out: {list_left_out(landed.left_out)}"
    return text
