"""Files of outcomes: the columns of unit, arm, outcomes and covariates, from options or else from their names."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from evaluator.errors import InputError, UnknownName
from evaluator.records import OutcomeColumn, OutcomeOptions, OutcomePlan, SourceColumn
from evaluator.sources.files.base import find_delimiter, refuse_repeated_column, starts_with
from evaluator.sources.files.paths import OUTCOMES, find_files
from evaluator.textfiles import find_packing, is_plain, open_bytes, open_text

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
_LONGEST_LINE = 1_000_000
ROWS = "rows"
"""`--unit rows`: every row is a unit of its own."""


def plan_outcomes(
    files: Sequence[str],
    options: OutcomeOptions,
    describe: Describe,
    *,
    patterns: Sequence[str] = (),
    query: str = "",
    skip_bad_rows: bool = False,
) -> OutcomePlan:
    """Plan the landing of outcome files: which column is the unit, the arm, an outcome, a covariate.

    `files`: their paths; `patterns`: patterns of further files. `describe` lists the columns of the files, or of
    `query`, an SQL query over them. Raises InputError and UnknownName.
    """
    paths = tuple(str(path) for path in find_files(files, patterns, OUTCOMES))
    for path in paths:
        _check_packing(Path(path))
    readers = {"parquet" if starts_with(Path(path), b"PAR1") else "csv" for path in paths}
    if len(readers) > 1:
        raise InputError("files of outcomes must be all CSV or all Parquet")
    reader: Literal["csv", "parquet"] = "csv" if "csv" in readers else "parquet"  # the only one
    header, delimiter = _read_header(Path(paths[0])) if reader == "csv" else ((), ",")
    # The columns are chosen once they are known; the plan without them is enough to list them.
    plan = OutcomePlan(
        paths,
        reader,
        unit="",
        arm="",
        columns=(),
        query=query,
        baseline=options.baseline_arm,
        skip_bad_rows=skip_bad_rows,
        header=header,
        delimiter=delimiter,
    )
    columns = {column.name: column for column in describe(plan)}
    unit = ROWS
    if options.unit != ROWS:
        unit = _choose_column(options.unit, _UNITS, columns, "--unit", "the unit (a user, a session)")
    arm = _choose_column(options.arm_column, _ARMS, columns, "--arm-column", "the arm")
    if unit == arm:
        raise InputError(f"column '{unit}' cannot be both the unit and the arm")
    return replace(plan, unit=unit, arm=arm, columns=_choose_value_columns(options, columns, {unit, arm}))


def _check_packing(path: Path) -> None:
    """Refuse a file that the engine would not read, or only in part. Raises InputError.

    The engine reads plain UTF-8, and gzip under a name that ends in .gz, but does not compare its checksum.
    """
    packing = find_packing(path)
    is_gzip = packing == "gzip" and path.suffix == ".gz"
    if packing and not is_gzip:
        raise InputError(
            f"{path} is packed ({packing})",
            hint="unpack it; a file of outcomes may be packed with gzip only, under a name that ends in .gz",
        )
    if path.suffix == ".gz" and not is_gzip:
        raise InputError(f"{path} is not packed, though its name ends in .gz", hint="rename it without .gz")
    if is_gzip:
        with open_bytes(path) as file:
            while file.read(_CHUNK):
                pass
    elif not is_plain(path):
        raise InputError(f"{path} is text of UTF-16 or UTF-32", hint="save it as UTF-8")


def _read_header(path: Path) -> tuple[tuple[str, ...], str]:
    """Read the first line of a CSV file. Returns the names of its columns, and their delimiter. Raises InputError."""
    try:
        with open_text(path) as file:
            header_line = file.readline(_LONGEST_LINE)
    except (UnicodeDecodeError, OSError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise InputError(f"{path} cannot be read as text: {why}", hint="give UTF-8 CSV or Parquet") from error
    delimiter = find_delimiter(header_line)
    try:
        header = tuple(name.strip() for name in next(csv.reader([header_line], delimiter=delimiter), []))
    except csv.Error as error:
        raise InputError(
            f"{path}:1: the header line cannot be read: {error}", hint="give CSV with column names, or Parquet"
        ) from error
    if not header_line.strip() or "\0" in header_line:
        raise InputError(f"{path} has no header line", hint="give CSV with column names, or Parquet")
    refuse_repeated_column(path, header)
    return header, delimiter


def _choose_column(
    option_value: str, usual_names: Sequence[str], columns: dict[str, SourceColumn], option: str, purpose: str
) -> str:
    """Choose the column that serves a purpose ("the arm"): the one that the option names, else the first usual name.

    `columns`: those of the file, by name. `option`: its name for the error. Raises UnknownName and InputError.
    """
    if option_value:
        if option_value not in columns:
            raise UnknownName("column in the file", option_value, columns)
        return option_value
    by_plain_name = {name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in columns}
    usual_column = next((by_plain_name[name] for name in usual_names if name in by_plain_name), None)
    if usual_column is None:
        raise InputError(
            f"no column is clearly {purpose}; the columns are {', '.join(columns)[:300]}",
            hint=f"name it with {option}"
            + (", or use --unit rows if each row is a unit" if option == "--unit" else ""),
        )
    return usual_column


def _choose_value_columns(
    options: OutcomeOptions, columns: dict[str, SourceColumn], key_columns: set[str]
) -> tuple[OutcomeColumn, ...]:
    """Choose outcomes and covariates: those that the options name, else the columns of numbers that are left.

    `columns`: those of the file, by name. `key_columns`: the unit and the arm, which are neither. Of the numbers left
    over, names such as `pre_orders` are covariates, measured before the test. Raises UnknownName and InputError.
    """
    unknown = next((name for name in options.covariates if name not in columns), None)
    if unknown is not None:
        raise UnknownName("column in the file", unknown, columns)
    covariates = list(options.covariates)
    outcomes = [_parse_outcome(text, columns) for text in options.outcome_names]
    # Columns of numbers or booleans ("truth") that may be an outcome or a covariate, although no option names them;
    # times and row numbers cannot.
    numbers = [
        name
        for name, column in columns.items()
        if name not in key_columns | set(covariates)
        and column.kind in ("number", "truth")
        and not _NO_OUTCOME.fullmatch(name)
    ]
    if not options.outcome_names:
        outcomes = [OutcomeColumn(name) for name in numbers if not _is_covariate_name(name)]
    if not options.covariates:
        outcome_names = {column.name for column in outcomes}
        covariates = [name for name in numbers if _is_covariate_name(name) and name not in outcome_names]
    names = [*(column.name for column in outcomes), *covariates]
    if not outcomes:
        raise InputError(
            "no column holds an outcome: there is no other column of numbers", hint="name one with --outcome"
        )
    reused = next((name for name in names if names.count(name) > 1 or name in key_columns), None)
    if reused is not None:
        raise InputError(
            f"column '{reused}' is used twice", hint="use each column once: unit, arm, outcome or covariate"
        )
    # Metrics use `rows` for the number of rows, and `NAME?` for whether an outcome was ever 1.
    reserved = next((name for name in names if name == ROWS or name.endswith("?")), None)
    if reserved is not None:
        raise InputError(
            f"an outcome cannot be called '{reserved}'", hint="rename the column, for example with --outcomes-query"
        )
    # A covariate is used as a number, also if it is only ever 0 or 1.
    return (*outcomes, *(OutcomeColumn(name, "covariate", binary=False) for name in covariates))


def _parse_outcome(text: str, columns: dict[str, SourceColumn]) -> OutcomeColumn:
    """Parse a value of `--outcome`, COLUMN[:binary|numeric]; without a kind, the values decide. Raises UnknownName.

    `columns`: those of the file, by name.
    """
    if text in columns:
        return OutcomeColumn(text)
    name, _, kind = text.rpartition(":")
    if name not in columns:
        raise UnknownName("column in the file", name or text, columns)
    if kind not in _KINDS:
        raise UnknownName("kind of outcome", kind, [kind for kind in _KINDS if kind])
    return OutcomeColumn(name, binary=_KINDS[kind])


def _is_covariate_name(name: str) -> bool:
    """Whether the name of a column shows that it was measured before the test."""
    return name.lower().startswith(_COVARIATE_MARKS) or name.lower().endswith(_COVARIATE_ENDS)
