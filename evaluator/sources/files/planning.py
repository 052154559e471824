"""From options to a landing plan: the files, the arm of each, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from evaluator.errors import InputError, UsageError
from evaluator.records import FileLayout, FilePlan, FilesAre, LandingPlan
from evaluator.sources.files.columns import ColumnRequest, parse_columns
from evaluator.sources.files.paths import find_files_of_arms
from evaluator.sources.files.recognising import recognise


def plan_landing(
    arms: Mapping[str, Sequence[str]],
    *,
    patterns: Mapping[str, Sequence[str]] | None = None,
    format: str = "auto",  # noqa: A002 - the option is called so
    columns: Sequence[str] = (),
    skip_bad_rows: bool = False,
    all_answered: bool = False,
    service: str = "",
    sensitive: bool = False,
    files_are: FilesAre | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> LandingPlan:
    """Plan the landing of request files: the arm of each file, and how it is read.

    `arms`: arm → paths of its files. `patterns`: arm → patterns of further files, such as `run-*.csv`. `columns`:
    values of `--column`, such as `response_time_ms=elapsed:ms`. How several files of one arm form runs is determined
    from their times when they land (`arrange_files`), unless `files_are` sets it. Only requests from `start` on and
    before `end` land. `all_answered`: the user knows that every request got an answer, so none is missing in files of
    a tool that writes no others.

    Raises InputError for a file that cannot be used, UnknownName for a column or format that does not exist, and
    UsageError if `start` is not before `end`.
    """
    if start is not None and end is not None and start >= end:
        raise UsageError(f"--from {start:%Y-%m-%dT%H:%M:%SZ} is not before --to", hint="swap them")
    column_requests = parse_columns(columns)
    files = [
        FilePlan(
            path=str(path),
            arm=arm,
            number=number,
            layout=_plan_layout(path, format, column_requests, all_answered=all_answered),
            sensitive=sensitive,
        )
        for arm, paths in find_files_of_arms(arms, patterns or {}).items()
        for number, path in enumerate(paths)
    ]
    if not files:
        raise InputError("no files were given", hint="give them with --baseline FILE and --canary FILE")
    return LandingPlan(
        tuple(files), skip_bad_rows=skip_bad_rows, service=service, files_are=files_are, start=start, end=end
    )


def _plan_layout(
    path: Path, format_name: str, column_requests: Sequence[ColumnRequest], *, all_answered: bool
) -> FileLayout:
    """Recognise a file; if the user knows that all requests were answered, its format hides none. Raises InputError."""
    layout = recognise(path, format_name, column_requests)
    return replace(layout, unseen="") if all_answered else layout
