"""From options to a landing plan: the files, the arm of each, and how it is read."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from evaluator.errors import InputError, UsageError
from evaluator.records import FileLayout, FilePlan, FilesAre, LandingPlan
from evaluator.sources.files.columns import ColumnRequest, parse_columns
from evaluator.sources.files.recognising import recognise


def plan_landing(
    arms: Mapping[str, Sequence[str]],
    *,
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

    `arms`: for each arm its files, as paths, globs and comma lists. `columns`: values of `--column`, such as
    `response_time_ms=elapsed:ms`. How several files of one arm form runs is determined from their times when they land
    (`arrange_files`), unless `files_are` sets it. Only requests from `start` on and before `end` land. `all_answered`:
    the user knows that every request got an answer, so none is missing in files of a tool that writes no others.

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
        for arm, paths in arms.items()
        for number, path in enumerate(expand_files(paths, arm))
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


def expand_files(values: Sequence[str], arm: str) -> tuple[Path, ...]:
    """Resolve paths, globs and comma lists (`values`) of one arm to files, in the order given.

    Raises InputError for a file that is missing, empty, a directory, or given twice.
    """
    paths = [path for value in values for path in _expand_value(value)]
    repeated_path = next((path for index, path in enumerate(paths) if path in paths[:index]), None)
    if repeated_path is not None:
        raise InputError(
            f"{repeated_path} is given twice for arm '{arm}'",
            hint="its requests would count twice: give each file once",
        )
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path} is a directory", hint=f"give its files, for example '{path}/*.csv'")
        try:
            with path.open("rb") as file:
                first_byte = file.read(1)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        if not first_byte:
            raise InputError(
                f"{path} is empty",
                hint="the tool that wrote it has probably recorded nothing; leave it out if there was nothing to "
                "record",
            )
    return tuple(paths)


def _expand_value(value: str) -> list[Path]:
    """Resolve one path, glob or comma list to paths; a file whose name has a comma comes first. Raises InputError."""
    if Path(value).exists():
        return [Path(value)]
    if "," in value:
        return [path for part in value.split(",") if part.strip() for path in _expand_value(part.strip())]
    if not glob.has_magic(value):
        raise InputError(f"there is no file {value}", hint="check the path")
    paths = sorted(Path(name) for name in glob.glob(value, recursive=True))  # noqa: PTH207 - a pattern, not a folder
    if not paths:
        raise InputError(f"no file matches '{value}'", hint="check the pattern; quote it if the shell expands it")
    return paths
