"""Files of outcomes: the columns of unit, arm, outcomes and covariates, from options or else from their names."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from evaluator.errors import InputError, UnknownName
from evaluator.records import OutcomeColumn, OutcomeOptions, OutcomePlan, SourceColumn
from evaluator.sources.files.base import find_delimiter, refuse_twice, starts_with
from evaluator.sources.files.planning import expand_files
from evaluator.textfiles import open_bytes, open_text

Describe = Callable[[OutcomePlan], Sequence[SourceColumn]]
"""Lists the columns of a plan's files, or of its query over them."""

_UNITS = ("unit", "unit_id", "user_id", "user", "userid", "visitor_id", "visitor", "session_id", "session", "id")
_ARMS = (
    "arm",
    "variant",
    "variation",
    "group",
    "test_group",
    "experiment_group",
    "treatment",
    "version",
    "condition",
    "bucket",
)
_COVARIATE_MARKS = ("pre_", "pre.", "covariate_", "covariate.")
_COVARIATE_ENDS = ("_pre", "_covariate", "_before")
_NO_OUTCOME = re.compile("timestamp|time|ts|date|day|hour|unnamed.*", re.IGNORECASE | re.DOTALL)
"""Times, and the row numbers that pandas leaves in a file."""
_KINDS = {"": None, "binary": True, "numeric": False}
_CHUNK = 1 << 20
ROWS = "rows"
"""`--unit rows`: every row is a unit of its own."""


def plan_outcomes(
    files: Sequence[str],
    options: OutcomeOptions,
    describe: Describe,
    *,
    query: str = "",
    skip_bad_rows: bool = False,
) -> OutcomePlan:
    """Plan the landing of outcome files, given as paths, globs and comma lists. Raises InputError and UnknownName."""
    paths = tuple(str(path) for path in expand_files(files, "outcomes"))
    for path in paths:
        if path.endswith(".gz"):
            _check_compressed(Path(path))
    readers = {"parquet" if starts_with(Path(path), b"PAR1") else "csv" for path in paths}
    if len(readers) > 1:
        raise InputError("files of outcomes must be all CSV or all Parquet")
    reader: Literal["csv", "parquet"] = "csv" if "csv" in readers else "parquet"
    header, delimiter = _read_header(Path(paths[0])) if reader == "csv" else ((), ",")
    plan = OutcomePlan(paths, reader, "", "", (), query, options.baseline_arm, skip_bad_rows, header, delimiter)
    columns = {column.name: column for column in describe(plan)}
    unit = (
        ROWS
        if options.unit == ROWS
        else _choose(options.unit, _UNITS, columns, "--unit", "the unit (a user, a session)")
    )
    arm = _choose(options.arm_column, _ARMS, columns, "--arm-column", "the arm")
    if unit == arm:
        raise InputError(f"column '{unit}' cannot be both the unit and the arm")
    return replace(plan, unit=unit, arm=arm, columns=_choose_columns(options, columns, {unit, arm}))


def _check_compressed(path: Path) -> None:
    """Read a compressed file to its end and check it; otherwise a damaged file would be read in part."""
    try:
        with open_bytes(path) as file:
            while file.read(_CHUNK):
                pass
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(
            f"{path} is damaged or not a gzip file: {error}", hint="copy or export the file again"
        ) from error


def _read_header(path: Path) -> tuple[tuple[str, ...], str]:
    """Read the first line of a CSV file: its columns and their delimiter."""
    try:
        with open_text(path) as file:
            top = file.readline(1_000_000)
    except (UnicodeDecodeError, OSError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise InputError(f"{path} cannot be read as text: {why}", hint="give UTF-8 CSV or Parquet") from error
    delimiter = find_delimiter(top)
    try:
        header = tuple(name.strip() for name in next(csv.reader([top], delimiter=delimiter), []))
    except csv.Error as error:
        raise InputError(
            f"{path}:1: the header line cannot be read: {error}", hint="give CSV with column names, or Parquet"
        ) from error
    if not top.strip() or "\0" in top:
        raise InputError(f"{path} has no header line", hint="give CSV with column names, or Parquet")
    refuse_twice(path, header)
    return header, delimiter


def _choose(option_value: str, usual: Sequence[str], columns: dict[str, SourceColumn], option: str, what: str) -> str:
    """Find one column: the one of the option, or the first usual name in the file."""
    if option_value:
        if option_value not in columns:
            raise UnknownName("column in the file", option_value, columns)
        return option_value
    lower = {name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in columns}
    usual_column = next((lower[name] for name in usual if name in lower), None)
    if usual_column is None:
        raise InputError(
            f"no column is clearly {what}; the columns are {', '.join(columns)[:300]}",
            hint=f"name it with {option}"
            + (", or use --unit rows if each row is a unit" if option == "--unit" else ""),
        )
    return usual_column


def _choose_columns(
    options: OutcomeOptions, columns: dict[str, SourceColumn], key_columns: set[str]
) -> tuple[OutcomeColumn, ...]:
    unknown = next((name for name in options.covariates if name not in columns), None)
    if unknown is not None:
        raise UnknownName("column in the file", unknown, columns)
    covariates = list(options.covariates)
    outcomes = [_parse_outcome(text, columns) for text in options.outcome_names]
    free = [column for column in columns.values() if column.name not in key_columns | set(covariates)]
    numbers = [
        column for column in free if column.kind in ("number", "truth") and not _NO_OUTCOME.fullmatch(column.name)
    ]
    if not options.outcome_names:
        outcomes = [OutcomeColumn(column.name) for column in numbers if not _looks_before(column.name)]
    if not options.covariates:
        named = {column.name for column in outcomes}
        covariates = [c.name for c in numbers if _looks_before(c.name) and c.name not in named]
    names = [*(column.name for column in outcomes), *covariates]
    if not outcomes:
        raise InputError(
            "no column holds an outcome: there is no other column of numbers", hint="name one with --outcome"
        )
    twice = next((name for name in names if names.count(name) > 1 or name in key_columns), None)
    if twice is not None:
        raise InputError(
            f"column '{twice}' is used twice", hint="use each column once: unit, arm, outcome or covariate"
        )
    reserved = next((name for name in names if name == ROWS or name.endswith("?")), None)
    if reserved is not None:
        raise InputError(
            f"an outcome cannot be called '{reserved}'", hint="rename the column, for example with --outcomes-query"
        )
    return (*outcomes, *(OutcomeColumn(name, "covariate", binary=False) for name in covariates))


def _parse_outcome(text: str, columns: dict[str, SourceColumn]) -> OutcomeColumn:
    if text in columns:
        return OutcomeColumn(text)
    name, _, kind = text.rpartition(":")
    if name not in columns:
        raise UnknownName("column in the file", name or text, columns)
    if kind not in _KINDS:
        raise UnknownName("kind of outcome", kind, [kind for kind in _KINDS if kind])
    return OutcomeColumn(name, binary=_KINDS[kind])


def _looks_before(name: str) -> bool:
    """Whether the name of a column shows that it was measured before the test."""
    return name.lower().startswith(_COVARIATE_MARKS) or name.lower().endswith(_COVARIATE_ENDS)
