"""`evaluator import`: request files of other tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evaluator.cli import Session, emit, mask_control_characters
from evaluator.cli.access_logs import ACCESS_LOG_OPTIONS, AccessLogs
from evaluator.cli.amounts import MOMENT
from evaluator.cli.gathering import gathered
from evaluator.cli.outcomes import (
    OUTCOME_FILE_OPTIONS,
    OUTCOME_OPTIONS,
    OutcomeFiles,
    describe_next_step,
    describe_outcomes,
)
from evaluator.cli.steps import StepOptions, step_options
from evaluator.cli.subject import Subject, subject_options
from evaluator.errors import UnknownName, UsageError
from evaluator.records import BASELINE, CANDIDATE, FilesAre, Landed, LandingPlan, LogPlan, OutcomeOptions, Release
from evaluator.wording import count_of, list_left_out

if TYPE_CHECKING:
    from evaluator.policy import Policy
    from evaluator.store import Store


@dataclass(frozen=True, slots=True)
class RequestFiles:
    """Values of the options that give request files."""

    baseline: tuple[str, ...]
    baseline_glob: tuple[str, ...]
    canary: tuple[str, ...]
    canary_glob: tuple[str, ...]
    arms: tuple[str, ...]
    """Texts NAME=FILE."""
    arms_glob: tuple[str, ...]
    """Texts NAME=PATTERN."""

    def list_paths(self) -> dict[str, list[str]]:
        """List the paths of each arm that has any. Raises UsageError."""
        return _list_values_by_arm(self.baseline, self.canary, self.arms, "--arm")

    def list_patterns(self) -> dict[str, list[str]]:
        """List the patterns of each arm that has any. Raises UsageError."""
        return _list_values_by_arm(self.baseline_glob, self.canary_glob, self.arms_glob, "--arm-glob")


FILE_OPTIONS = (
    click.option("--baseline", metavar="FILE", multiple=True, help="Requests of the baseline; may be repeated."),
    click.option("--baseline-glob", metavar="PATTERN", multiple=True, help="The same, in all files that match."),
    click.option("--canary", metavar="FILE", multiple=True, help="Requests of the candidate; may be repeated."),
    click.option("--canary-glob", metavar="PATTERN", multiple=True, help="The same, in all files that match."),
    click.option(
        "--arm", "arms", metavar="NAME=FILE", multiple=True, help="Requests of a further candidate; may be repeated."
    ),
    click.option(
        "--arm-glob", "arms_glob", metavar="NAME=PATTERN", multiple=True, help="The same, in all files that match."
    ),
)


@click.command("import", context_settings={"allow_extra_args": True})  # they are refused with a hint
@click.argument("release", metavar="RELEASE")
@gathered("files", RequestFiles, *FILE_OPTIONS)
@click.option(
    "--format",
    "format_name",
    default="auto",
    show_default=True,
    metavar="FORMAT",
    help="auto, locust, jtl, jtl-transactions, k6, vegeta, gatling, hey, oha, pyperf, google-benchmark, csv, json, "
    "parquet, arrow, or a source of another package.",
)
@click.option(
    "--column",
    "columns",
    metavar="TARGET=SOURCE[:UNIT]",
    multiple=True,
    help="Where a column comes from, for example response_time_ms=elapsed:s; SOURCE is a column, several joined by +,"
    " or const:VALUE. May be repeated.",
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
@gathered("access_logs", AccessLogs, *ACCESS_LOG_OPTIONS)
@step_options(
    "Share of the requests that a router sent to an arm, canary=5%, if it chose the arm of each; may be repeated."
)
@gathered("outcome_files", OutcomeFiles, *OUTCOME_FILE_OPTIONS)
@gathered("outcome_options", OutcomeOptions, *OUTCOME_OPTIONS)
@click.option("--skip-bad-rows", is_flag=True, help="Count rows that cannot be used instead of refusing the file.")
@click.option(
    "--all-answered",
    is_flag=True,
    help="You know that every request got an answer: hey and oha write no row for others, so their files alone never "
    "give a GO.",
)
@subject_options("Name of the service.")
@click.pass_obj
def command(
    session: Session,
    release: str,
    files: RequestFiles,
    format_name: str,
    columns: tuple[str, ...],
    files_are: FilesAre | None,
    start: datetime | None,
    end: datetime | None,
    access_logs: AccessLogs,
    step: StepOptions,
    outcome_files: OutcomeFiles,
    outcomes_query: str,
    outcome_options: OutcomeOptions,
    skip_bad_rows: bool,
    all_answered: bool,
    subject: Subject,
) -> int:
    """Import request files as runs of RELEASE, access logs of a router, or outcomes of units.

    FILE is a path, whatever characters it has; an option is repeated for each further file. PATTERN has *, ?, [abc] or
    ** (folders of any depth) and is quoted: --baseline-glob 'old-*.csv'.

    Several files of one arm are parts of one run if they overlap in time, or if one continues where another ends. They
    are one run each if at least 5 seconds, and at least twice the longest pause within them, lie between them, or if
    their times count from the start of a test.

    A request row needs ts, endpoint, response_time_ms and failed; instance, response_bytes, status_code, exception and
    user_count are optional. UNIT is s, ms, us or ns for times (ts: also iso, or a format such as %d/%b/%Y:%H:%M:%S %z);
    without it, response times have the unit of their type in Parquet and Arrow, or that in which the name of the column
    ends (took_ns), else ms. For failed it is failure (true is a failure), success (true is a success), status (0, and
    400 or more, is a failure) or text (any text is a failure). docs/formats.md lists for each format what is read, and
    what is left out and named.

    An access log has the requests of production, of all arms: --access-log haproxy.log --arm-server baseline='b*'
    --arm-server canary='c*'. Its FORMAT is auto, haproxy, nginx, envoy, apache, traefik, caddy or json, or TEXT gives
    it; --column names a field, for example time=duration:ms. Several files are parts of one run (docs/access-logs.md).

    Outcomes are compared by the metrics outcome_proportion, outcome_mean, outcome_ratio and outcome_quantile of the
    policy. Each unit (a user, a session) counts once, however many rows it has.
    """
    from evaluator.pipeline.importing import import_outcomes
    from evaluator.sources.files import plan_landing
    from evaluator.sources.files.paths import option_of_arm, refuse_left_over

    refuse_left_over(click.get_current_context().args, option_of_arm(BASELINE))
    arm_outcomes = _list_values_by_arm((), (), outcome_files.arm_outcomes, "--arm-outcomes")
    arm_patterns = _list_values_by_arm((), (), outcome_files.arm_outcomes_glob, "--arm-outcomes-glob")
    has_outcomes = outcome_files != OutcomeFiles()
    _check_outcome_options(outcome_files, has_options=bool(outcomes_query) or outcome_options != OutcomeOptions())
    paths, patterns = files.list_paths(), files.list_patterns()
    has_requests, has_access_logs = bool(paths or patterns), access_logs.has_files()
    _check_together(
        files_are, has_requests=has_requests, has_access_logs=has_access_logs, has_period=bool(start or end)
    )
    policy = session.load_policy(release, service=subject.service)
    if has_access_logs:
        log_plan = _plan_access_logs(policy, access_logs, format_name, columns, subject.service, start, end, step,
            skip_bad_rows=skip_bad_rows)  # fmt: skip
    plan = None
    if has_requests or not (has_outcomes or has_access_logs):  # with neither, `plan_landing` raises InputError
        plan = plan_landing(
            paths, patterns=patterns, format=format_name, columns=columns, skip_bad_rows=skip_bad_rows,
            all_answered=all_answered, service=subject.service, sensitive=policy.promotion.sensitive,
            files_are=files_are, start=start, end=end)  # fmt: skip
        plan = replace(plan, step=step.step, shares=step.shares)
    # The requests of an access log are those of one service, as the run says.
    target_release = subject.to_release(session, release, policy.service if has_access_logs else "")
    store = session.open_store(create=True)
    if plan:
        _import_requests(session, store, target_release, plan)
    if has_access_logs:
        _import_access_logs(session, store, target_release, log_plan)
    if has_outcomes:
        landed_outcomes, facts, outcome_plan = import_outcomes(
            store, target_release, outcome_files.outcomes, outcome_options, patterns=outcome_files.outcomes_glob,
            arm_files=arm_outcomes, arm_patterns=arm_patterns, query=outcomes_query,
            skip_bad_rows=skip_bad_rows, step=step.step)  # fmt: skip
        emit(mask_control_characters(describe_outcomes(release, landed_outcomes, facts, outcome_plan)))
        if hint := describe_next_step(policy, store, landed_outcomes):
            session.say(hint)
    session.say(f"next: `{policy.command(release)}`")
    return 0


def _check_outcome_options(files: OutcomeFiles, *, has_options: bool) -> None:
    """Raise UsageError for files of outcomes that exclude each other, and for options of outcomes without a file."""
    if (files.arm_outcomes or files.arm_outcomes_glob) and (files.outcomes or files.outcomes_glob):
        raise UsageError(
            "--outcomes and --arm-outcomes exclude each other",
            hint="give all files with --arm-outcomes NAME=FILE, or all with --outcomes, if a column has the arm",
        )
    if has_options and files == OutcomeFiles():
        raise UsageError("options about outcomes need --outcomes FILE, or --arm-outcomes NAME=FILE for each arm")


def _check_together(files_are: FilesAre | None, *, has_requests: bool, has_access_logs: bool, has_period: bool) -> None:
    """Raise UsageError for request files together with access logs, and for options of files that are not given."""
    if has_requests and has_access_logs:
        raise UsageError(
            "--access-log excludes --baseline, --canary and --arm",
            hint="import them one after another: an access log has the requests of all arms",
        )
    if not has_requests and (files_are or (has_period and not has_access_logs)):
        raise UsageError("--files-are, --from and --to need request files: --baseline FILE and --canary FILE")


def _list_values_by_arm(
    baseline: Iterable[str], canary: Iterable[str], further_arms: Iterable[str], option: str
) -> dict[str, list[str]]:
    """List the values (paths or patterns) of each arm that has any, from those of three options.

    `further_arms`: texts NAME=VALUE; the name ends at the first `=`. `option`: the option that gave them. Raises
    UsageError for any other text.
    """
    values_by_arm: dict[str, list[str]] = {BASELINE: list(baseline), CANDIDATE: list(canary)}
    for text in further_arms:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(
                f"{option} {text} has no arm before its file",
                hint=f"give {option} NAME={'PATTERN' if option.endswith('-glob') else 'FILE'}",
            )
        values_by_arm.setdefault(name, []).append(value)
    return {name: values for name, values in values_by_arm.items() if values}


def _import_requests(session: Session, store: Store, release: Release, plan: LandingPlan) -> None:
    """Land the files of a plan, and show what has landed, with warnings about what is doubtful or not comparable."""
    from evaluator.pipeline.importing import import_release

    for sentence in _describe_time_columns(plan):
        session.say(sentence)
    for sentence in _describe_unread_columns(plan):
        session.say(sentence)
    _show_warnings(session, _find_incomparable(plan))
    landed = import_release(store, release, plan)
    _show_warnings(session, landed.doubts)
    emit(mask_control_characters(describe_landed(release.id, landed)))


def _plan_access_logs(
    policy: Policy,
    access_logs: AccessLogs,
    format_name: str,
    columns: tuple[str, ...],
    service: str,
    start: datetime | None,
    end: datetime | None,
    step: StepOptions,
    *,
    skip_bad_rows: bool,
) -> LogPlan:
    """Plan the import of access logs by the policy and the options. Raises InputError and UsageError."""
    from evaluator.sources.access_logs.options import combine_settings
    from evaluator.sources.access_logs.planning import plan_access_logs

    settings = combine_settings(
        policy.access_log,
        format=format_name,
        log_format=access_logs.log_format,
        columns=columns,
        arm_servers=access_logs.arm_server,
        arm_from=access_logs.arm_from,
        service=service or policy.service,
        sensitive=policy.promotion.sensitive,
    )
    for arm in step.shares:
        if arm not in settings.options.arms:
            raise UnknownName("arm", arm, list(settings.options.arms))
    return plan_access_logs(
        access_logs.access_log, access_logs.access_log_glob, settings, skip_bad_rows=skip_bad_rows,
        start=start, end=end, step=step.step, shares=step.shares)  # fmt: skip


def _import_access_logs(session: Session, store: Store, release: Release, plan: LogPlan) -> None:
    """Land the access logs of a plan, and show what has landed, with warnings about what is doubtful."""
    from evaluator.pipeline.importing import import_access_logs

    for format_name, response_time in dict.fromkeys(
        (file.layout.format, file.layout.response_time) for file in plan.files
    ):
        session.say(f"read as access log of format {format_name}; the response time is {response_time}")
    landed = import_access_logs(store, release, plan)
    _show_warnings(session, landed.doubts)
    emit(mask_control_characters(describe_landed(release.id, landed)))


_GENERAL_FORMATS = frozenset({"csv", "json", "parquet", "arrow"})
"""Formats whose columns have any names."""

_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def _describe_time_columns(plan: LandingPlan) -> tuple[str, ...]:
    """Say from which columns response times are read, and in which unit, if the files name the columns in their way.

    The unit may come from the name or the type of a column, or be the default: a wrong one is seen here.
    """
    columns = [column for file in plan.files for column in file.layout.columns if column.target == "response_time_ms"]
    is_general = {file.layout.format for file in plan.files} <= _GENERAL_FORMATS
    return tuple(
        dict.fromkeys(
            f"response times are read from the column '{' + '.join(column.sources)}' in "
            + _UNIT_NAMES.get(column.unit, "the unit of its type")
            for column in columns
            if is_general and column.sources != (column.target,)
        )
    )


def _describe_unread_columns(plan: LandingPlan) -> tuple[str, ...]:
    """Say which options would also read the instances and the kinds of failures, if files name them in their way."""
    from evaluator.sources.files.suggesting import suggest_unread

    options = dict.fromkeys(
        option
        for file in plan.files
        if file.layout.format in _GENERAL_FORMATS
        for option in suggest_unread(file.layout)
    )
    if not options:
        return ()
    return (f"instances or kinds of failures are not read; to read them too, add {' '.join(options)}",)


def _show_warnings(session: Session, warnings: Iterable[str]) -> None:
    """Show each warning on stderr."""
    for warning in warnings:
        session.say(f"warning: {warning}")


def _find_incomparable(plan: LandingPlan) -> Iterable[str]:
    """Describe what can be imported but not compared, such as one file for several arms, or an arm that is alone."""
    arms_and_paths = {(file.arm, file.path) for file in plan.files}
    arm_count_by_path = Counter(Path(path).resolve() for _, path in arms_and_paths)
    for path, arm_count in arm_count_by_path.items():
        if arm_count > 1:
            yield f"{path} is given for several arms, and the same requests cannot show a difference"
    for unseen in dict.fromkeys(file.layout.unseen for file in plan.files if file.layout.unseen):
        yield f"the files do not show {unseen}, so they cannot give a GO (if all were answered, give --all-answered)"
    columns = [column for file in plan.files for column in file.layout.columns]
    constant = next((c.constant for c in columns if c.target == "failed" and c.kind == "constant"), None)
    if constant is not None:
        yield f"by failed=const:{constant} all requests count the same, so no verdict can show more failures"
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
