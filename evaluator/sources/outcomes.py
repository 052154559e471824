"""Files of outcomes: which column is the unit, which the arm, and what is compared. Told by name unless it is said."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TextIO, cast

from evaluator.errors import InputError, UnknownName
from evaluator.records import OutcomeColumn, OutcomeOptions, OutcomePlan, SourceColumn
from evaluator.sources.files.planning import expand_files

__all__ = ["ROWS", "plan_outcomes"]

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
_TIMES = ("timestamp", "time", "ts", "date", "day", "hour")
_KINDS = {"": None, "binary": True, "numeric": False}
_CHUNK = 1 << 20
_DELIMITERS = ",;\t|"
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
        _check_compressed(Path(path))
    reader = _tell_reader(paths)
    header, delimiter = _read_header(Path(paths[0])) if reader == "csv" else ((), ",")
    plan = OutcomePlan(paths, reader, "", "", (), query, options.baseline, skip_bad_rows, header, delimiter)
    columns = {column.name: column for column in describe(plan)}
    unit = (
        ROWS
        if options.unit == ROWS
        else _choose(options.unit, _UNITS, columns, "--unit", "the unit (a user, a session)")
    )
    arm = _choose(options.arm, _ARMS, columns, "--arm-column", "the arm")
    if unit == arm:
        raise InputError(f"column '{unit}' cannot be both the unit and the arm")
    return replace(plan, unit=unit, arm=arm, columns=_choose_columns(options, columns, {unit, arm}))


def _tell_reader(paths: Sequence[str]) -> Literal["csv", "parquet"]:
    readers: set[Literal["csv", "parquet"]] = {"parquet" if _is_parquet(Path(path)) else "csv" for path in paths}
    if len(readers) > 1:
        raise InputError("files of outcomes must be all CSV or all Parquet")
    return readers.pop()


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _check_compressed(path: Path) -> None:
    """Read a compressed file to its end, checksum included: what is cut off or damaged would else be read in part."""
    if path.suffix != ".gz":
        return
    try:
        with gzip.open(path) as file:
            while file.read(_CHUNK):
                pass
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(f"{path} is damaged or no gzip file: {error}", hint="copy or export the file again") from error


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast("TextIO", gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _read_header(path: Path) -> tuple[tuple[str, ...], str]:
    """Read the first line of a CSV file: its columns and what is between them."""
    try:
        with _open_text(path) as file:
            top = file.readline(1_000_000)
    except (UnicodeDecodeError, OSError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise InputError(f"{path} cannot be read as text: {why}", hint="outcomes are UTF-8 CSV or Parquet") from error
    delimiter = max(_DELIMITERS, key=top.count)
    try:
        header = tuple(name.strip() for name in next(csv.reader([top], delimiter=delimiter), []))
    except csv.Error as error:
        raise InputError(
            f"{path}:1: the header line cannot be read: {error}", hint="outcomes are CSV with column names, or Parquet"
        ) from error
    if not top.strip() or "\0" in top:
        raise InputError(f"{path} has no header line", hint="outcomes are CSV with column names, or Parquet")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}:1: column '{twice}' appears twice")
    return header, delimiter


def _choose(said: str, usual: Sequence[str], columns: dict[str, SourceColumn], option: str, what: str) -> str:
    """Find one column: what was said, or the first usual name that is there."""
    if said:
        if said not in columns:
            raise UnknownName("column in the file", said, columns)
        return said
    lower = {name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in columns}
    found = next((lower[name] for name in usual if name in lower), None)
    if found is None:
        raise InputError(
            f"no column is clearly {what}; there are {', '.join(columns)[:300]}",
            hint=f"name it with {option}" + (", or --unit rows where every row is one" if option == "--unit" else ""),
        )
    return found


def _choose_columns(
    options: OutcomeOptions, columns: dict[str, SourceColumn], taken: set[str]
) -> tuple[OutcomeColumn, ...]:
    covariates = [name for name in options.covariates if _known(name, columns)]
    outcomes = [_parse_outcome(text, columns) for text in options.outcomes]
    free = [column for column in columns.values() if column.name not in taken | set(covariates)]
    numbers = [column for column in free if column.kind in ("number", "truth") and not _is_no_outcome(column.name)]
    if not options.outcomes:
        outcomes = [OutcomeColumn(column.name) for column in numbers if not _looks_before(column.name)]
    if not options.covariates:
        named = {column.name for column in outcomes}
        covariates = [c.name for c in numbers if _looks_before(c.name) and c.name not in named]
    _check(outcomes, covariates, taken)
    return (*outcomes, *(OutcomeColumn(name, "covariate", binary=False) for name in covariates))


def _check(outcomes: Sequence[OutcomeColumn], covariates: Sequence[str], taken: set[str]) -> None:
    names = [*(column.name for column in outcomes), *covariates]
    if not outcomes:
        raise InputError("no column holds an outcome: there is no other column of numbers", hint="name it: --outcome")
    twice = next((name for name in names if names.count(name) > 1 or name in taken), None)
    if twice is not None:
        raise InputError(f"column '{twice}' is asked for in two ways")
    reserved = next((name for name in names if name == ROWS or name.endswith("?")), None)
    if reserved is not None:
        raise InputError(
            f"an outcome cannot be called '{reserved}'", hint="rename the column, for example with --outcomes-query"
        )


def _known(name: str, columns: dict[str, SourceColumn]) -> str:
    if name not in columns:
        raise UnknownName("column in the file", name, columns)
    return name


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
    """Tell whether a name says that the column was measured before the test."""
    lower = name.lower()
    return lower.startswith(_COVARIATE_MARKS) or lower.endswith(_COVARIATE_ENDS)


def _is_no_outcome(name: str) -> bool:
    """Tell times, and the row numbers that pandas leaves in a file, by their names."""
    return name.lower() in _TIMES or name.lower().startswith("unnamed")
