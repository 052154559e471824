"""Files of outcomes: the columns of unit, arm, outcomes and covariates, from options or else from their names."""

from __future__ import annotations

import codecs
import csv
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Literal

from evaluator.errors import InputError, UnknownName
from evaluator.records import ARM_OF_FILE, BASELINE, OutcomeColumn, OutcomeOptions, OutcomePlan, SourceColumn
from evaluator.sources.files.arrow import is_arrow, rewrite_arrow
from evaluator.sources.files.base import find_delimiter, refuse_packed_table, refuse_repeated_column, starts_with
from evaluator.sources.files.paths import OUTCOMES, find_files, find_files_of_arms, option_of_arm_outcomes
from evaluator.textfiles import open_text, open_utf8, refuse_long_lines

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
_SURE_ARMS = ("arm", "variant", "variation", "test_group", "experiment_group", "treatment")
"""Those of these names that hardly mean anything else."""
_COVARIATE_MARKS = ("pre_", "pre.", "covariate_", "covariate.")
_COVARIATE_ENDS = ("_pre", "_covariate", "_before")
_NO_OUTCOME = re.compile("timestamp|time|ts|date|day|hour|unnamed.*", re.IGNORECASE | re.DOTALL)
"""Times, and the row numbers that pandas leaves in a file."""
_KINDS = {"": None, "binary": True, "numeric": False}
_CHUNK_BYTES = 1 << 20
_LONGEST_LINE = 1_000_000
ROWS = "rows"
"""`--unit rows`: every row is a unit of its own."""


def plan_outcomes(
    files: Sequence[str],
    options: OutcomeOptions,
    describe: Describe,
    *,
    patterns: Sequence[str] = (),
    arm_files: Mapping[str, Sequence[str]] = MappingProxyType({}),
    arm_patterns: Mapping[str, Sequence[str]] = MappingProxyType({}),
    query: str = "",
    skip_bad_rows: bool = False,
) -> OutcomePlan:
    """Plan the landing of outcome files: which column is the unit, the arm, an outcome, a covariate.

    `files`: their paths; `patterns`: patterns of further files. `arm_files` and `arm_patterns`, by arm: the same for
    files of one arm each, instead of the others. `describe` lists the columns of the files, or of `query`, an SQL query
    over them. Raises InputError and UnknownName.
    """
    if arm_files or arm_patterns:
        paths, arm_of_file = _list_files_of_arms(arm_files, arm_patterns)
    else:
        paths, arm_of_file = tuple(str(path) for path in find_files(files, patterns, OUTCOMES)), ()
    types = {_recognise(Path(path)) for path in paths}
    if len(types) > 1:
        raise InputError("files of outcomes must be all CSV, all Parquet or all Arrow")
    reader: Literal["csv", "parquet"] = "csv" if "csv" in types else "parquet"
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
        arm_of_file=arm_of_file,
        rewrite=rewrite_arrow if "arrow" in types else None,
    )
    _refuse_other_columns(plan, describe)
    columns = {column.name: column for column in describe(plan)}
    unit = ROWS
    if options.unit != ROWS:
        unit = _choose_column(options.unit, _UNITS, columns, "--unit", "the unit (a user, a session)")
    if arm_of_file:
        _check_arm_of_file(options, columns)
        arm = ARM_OF_FILE
        by_plain_name = {_simplify(name): name for name in columns}
        plan = replace(plan, named_arm=next((by_plain_name[name] for name in _SURE_ARMS if name in by_plain_name), ""))
    else:
        arm = _choose_column(options.arm_column, _ARMS, columns, "--arm-column", "the arm")
    if unit == arm:
        raise InputError(f"column '{unit}' cannot be both the unit and the arm")
    key_columns = {unit, arm, plan.named_arm}
    return replace(plan, unit=unit, arm=arm, columns=_choose_value_columns(options, columns, key_columns))


def _list_files_of_arms(
    arm_files: Mapping[str, Sequence[str]], arm_patterns: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """List the files of all arms, and the arm of each. `arm_files`, `arm_patterns`: arm → its paths, its patterns.

    Raises InputError for a single arm, for a file of several arms, and for files with equal content: units would count
    twice, or as units of several arms.
    """
    files_by_arm = find_files_of_arms(arm_files, arm_patterns, option_of_arm_outcomes)
    if len(files_by_arm) < 2:
        arm = next(iter(files_by_arm))
        other_arm = "treatment" if arm == BASELINE else BASELINE
        raise InputError(
            f"there are only files of arm '{arm}', and nothing to compare them with",
            hint=f"give those of all arms in one import: {option_of_arm_outcomes(other_arm).write('FILE')}",
        )
    arm_and_path_by_content: dict[str, tuple[str, Path]] = {}
    for arm, paths in files_by_arm.items():
        for path in paths:
            with open_utf8(path) as file:  # a packed file has the content of the file in it
                content = _hash(file)
            first_arm, first_path = arm_and_path_by_content.setdefault(content, (arm, path))
            if (first_arm, first_path) != (arm, path):
                both = f"{first_path} of arm '{first_arm}' and {path} of arm '{arm}' have the same content"
                if first_path == path:
                    both = f"{path} is given for the arms '{first_arm}' and '{arm}'"
                raise InputError(both, hint="give each file once, for the arm to which its units were assigned")
    paths_and_arms = [(str(path), arm) for arm, paths in files_by_arm.items() for path in paths]
    return tuple(path for path, _ in paths_and_arms), tuple(arm for _, arm in paths_and_arms)


def _hash(file: IO[bytes]) -> str:
    """Hash the bytes of an opened file. Raises InputError for a damaged one."""
    content = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        content.update(chunk)
    return content.hexdigest()


def _check_arm_of_file(options: OutcomeOptions, columns: Mapping[str, SourceColumn]) -> None:
    """Raise InputError if files of one arm each cannot be read so: by the options, or because a query drops the arm.

    `columns`: those of the table that is read, by name.
    """
    if options.arm_column:
        raise InputError(
            "--arm-column cannot be used with --arm-outcomes, which names the arm of each file",
            hint="leave out --arm-column; or give the files with --outcomes, if a column has the arm",
        )
    if ARM_OF_FILE not in columns:
        raise InputError(
            f"the result of --outcomes-query has no column {ARM_OF_FILE}, the arm of a row's file",
            hint=f"add the column {ARM_OF_FILE} of the table `outcomes` to the columns of the result",
        )


def _refuse_other_columns(plan: OutcomePlan, describe: Describe) -> None:
    """Refuse files whose columns are not those of the first one, in its order. Raises InputError.

    All files are read as one table: the values of other columns would be lost, or taken for those of the first file.
    """
    first_path, *other_paths = plan.paths

    def list_columns(path: str) -> tuple[str, ...]:
        """List the names of a file's columns in their order."""
        if plan.reader == "csv":
            return _read_header(Path(path))[0]
        one_file = replace(plan, paths=(path,), arm_of_file=(), query="")
        return tuple(column.name for column in describe(one_file))

    columns = list_columns(first_path)
    if ARM_OF_FILE in columns and plan.arm_of_file:
        raise InputError(f"{first_path} has a column {ARM_OF_FILE}, a name that is reserved", hint="rename the column")
    for path in other_paths:
        columns_of_path = list_columns(path)
        if columns_of_path == columns:
            continue
        lacking = [name for name in columns if name not in columns_of_path]
        additional = [name for name in columns_of_path if name not in columns]
        differences = [f"lacks {', '.join(lacking)}"] if lacking else []
        differences += [f"also has {', '.join(additional)}"] if additional else []
        how = " and ".join(differences) or "has them in another order"
        raise InputError(
            f"{path} does not have the columns of {first_path}: it {how}"[:500],
            hint="write all files with the same columns in the same order",
        )


def _recognise(path: Path) -> Literal["csv", "parquet", "arrow"]:
    """Return the type of a file, by its bytes; CSV may be packed. Raises InputError for what cannot be read."""
    if starts_with(path, b"PAR1"):
        return "parquet"
    if is_arrow(path):
        return "arrow"
    refuse_packed_table(path)
    with open_utf8(path) as file:
        if file.read(_CHUNK_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"["):
            raise InputError(
                f"{path} is JSON, which cannot be read as outcomes",
                hint="write CSV, Parquet or Arrow; for example, DuckDB makes Parquet of JSON lines: "
                f"COPY (FROM read_json('{path}')) TO 'outcomes.parquet'",
            )
    refuse_long_lines(path)
    return "csv"


def _read_header(path: Path) -> tuple[tuple[str, ...], str]:
    """Read the first line of a CSV file. Returns the names of its columns, and their delimiter. Raises InputError."""
    try:
        with open_text(path) as file:
            header_line = file.readline(_LONGEST_LINE)
    except (UnicodeDecodeError, OSError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise InputError(
            f"{path} cannot be read as text: {why}", hint="save it as UTF-8, or give Parquet or Arrow"
        ) from error
    delimiter = find_delimiter(header_line)
    try:
        header = tuple(name.strip() for name in next(csv.reader([header_line], delimiter=delimiter), []))
    except csv.Error as error:
        raise InputError(
            f"{path}:1: the header line cannot be read: {error}", hint="give CSV with column names, Parquet or Arrow"
        ) from error
    if not header_line.strip() or "\0" in header_line:
        raise InputError(f"{path} has no header line", hint="give CSV with column names, Parquet or Arrow")
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
    by_plain_name = {_simplify(name): name for name in columns}
    usual_column = next((by_plain_name[name] for name in usual_names if name in by_plain_name), None)
    if usual_column is None:
        raise InputError(
            f"no column is clearly {purpose}; the columns are {', '.join(columns)[:300]}",
            hint=f"name it with {option}"
            + (", or use --unit rows if each row is a unit" if option == "--unit" else ""),
        )
    return usual_column


def _simplify(name: str) -> str:
    """Simplify the name of a column, so that spellings such as "User ID" and "user-id" are equal."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


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
