"""Reading of outcome files: what their columns hold, and which rows cannot be used, with file, line and column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import duckdb

from evaluator.errors import InputError
from evaluator.records import ARM_OF_FILE, OutcomePlan, SourceColumn
from evaluator.store.engine import (
    Engine,
    open_engine,
    path_for_engine,
    quote,
    quote_all,
    quote_files,
    quote_name,
)
from evaluator.store.expressions import read_texts
from evaluator.store.readable import made_readable
from evaluator.store.rejections import count_swallowed, refuse_rows, word_rejection
from evaluator.textfiles import find_line

_PATH_COLUMN = "evaluator: path of the file"
"""Column in which DuckDB writes the path of a row's file; no file has a column of this name."""

BASELINE_NAMES = ("baseline", "control", "ctrl", "a", "0", "old", "off", "false")
"""Names of an arm that make it the baseline, where none is given."""

_EACH_ROW = "rows"
"""`unit` of files in which every row is a unit."""

_NULLS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "U", "FLOAT", "DOUBLE", "DECIMAL")
_LARGEST_VALUE = "1e60"
"""Largest value of an outcome, as SQL and people write it: third powers of deviations are summed up, too."""
_LONGEST_MESSAGE = 300
"""Most characters of a message of DuckDB that are shown."""
_MISSING = "('', 'na', 'n/a', 'nan', 'null', 'none')"


# ------------------------------------------------------------------ what a file has


def describe_outcomes(plan: OutcomePlan) -> tuple[SourceColumn, ...]:
    """List the columns of files of outcomes, or of the result of a query over them. Raises InputError."""
    columns = []
    with opened_files(plan) as opened, open_engine() as engine:
        for name, sql_type in _describe(engine, opened):
            if sql_type == "BOOLEAN":
                columns.append(SourceColumn(name, "truth"))
            elif sql_type.startswith(("TIMESTAMP", "DATE", "TIME", "INTERVAL")):
                columns.append(SourceColumn(name, "time"))
            elif sql_type.startswith(_NUMBERS) and not sql_type.startswith("UUID"):  # "U…" are unsigned integers
                columns.append(SourceColumn(name, "number"))
            else:
                columns.append(SourceColumn(name, "text"))
    return tuple(columns)


@contextmanager
def opened_files(plan: OutcomePlan) -> Iterator[OutcomePlan]:
    """Yield the plan with the paths of what the store reads: the files, or copies of those that it cannot read itself.

    The copies are deleted when the `with` statement ends. Raises InputError for a file that cannot be read.
    """
    with made_readable(plan.paths, plan.rewrite) as readable:
        yield replace(plan, readable=readable)


def _name_file(plan: OutcomePlan, readable: str) -> str:
    """Return the path that the user gave for a file which the engine calls `readable`."""
    paths = {path_for_engine(own): path for own, path in zip(plan.readable, plan.paths, strict=True)}
    return paths.get(readable, readable)


def _describe(engine: Engine, plan: OutcomePlan) -> list[tuple[str, str]]:
    """List name and SQL type of each column, as DuckDB recognises them. Raises InputError."""
    try:
        rows = engine.execute(f"DESCRIBE {select_typed(plan)}").fetchall()
    except duckdb.Error as error:
        raise _explain_unreadable(engine, plan, error) from error
    return [(str(name), str(sql_type)) for name, sql_type, *_ in rows]


def _explain_unreadable(engine: Engine, plan: OutcomePlan, error: duckdb.Error) -> InputError:
    """Make the error for files, or a query over them, that DuckDB refused."""
    if plan.reader == "csv" and any(word in str(error) for word in ("sniffing", "CSV Error", "Possible fixes")):
        problem = _read_unreadable_row(engine, plan) or f"{plan.paths[0]} cannot be split into rows and columns"
        return InputError(
            problem, hint="close each quote in the file, and give each row as many values as the header has names"
        )
    text = " ".join(str(error).split())
    for readable, path in zip(plan.readable, plan.paths, strict=True):
        text = text.replace(path_for_engine(readable), path)
    text = text[:_LONGEST_MESSAGE]
    if plan.query:
        return InputError(
            f"the query over {plan.paths[0]} cannot be run: {text}",
            hint="in the query, the files are the table `outcomes`",
        )
    return InputError(f"{plan.paths[0]} cannot be read: {text}", hint="give CSV, Parquet or Arrow files")


def _read_unreadable_row(engine: Engine, plan: OutcomePlan) -> str:
    """Read CSV files as texts, and find the first row that cannot be split; empty if none is, or nothing can be read.

    The tables of DuckDB with such rows are deleted again.
    """
    texts = read_texts(plan.readable, plan.delimiter, plan.header, "store_rejects")
    try:
        engine.execute(f"SELECT count(COLUMNS(*)) FROM {texts}").fetchall()
        problem = find_unreadable_row(engine, plan)
        engine.execute("DROP TABLE reject_errors")
        engine.execute("DROP TABLE reject_scans")
    except duckdb.Error:
        return ""
    return problem


def find_unreadable_row(engine: Engine, plan: OutcomePlan) -> str:
    """Find the first row of CSV files, read with `store_rejects`, that was not split: `file:line: reason`; or empty."""
    rows = engine.execute(_REJECTED).fetchall()
    if not rows:
        return ""
    readable, record, message, _, _ = rows[0]
    path = _name_file(plan, readable)
    return f"{path}:{find_line(Path(path), plan.delimiter, int(record))}: {word_rejection(str(message))}"


_REJECTED = """
SELECT s.file_path, e.line, any_value(e.error_message), any_value(e.error_type), any_value(coalesce(e.csv_line, ''))
FROM reject_errors AS e JOIN reject_scans AS s USING (scan_id, file_id) GROUP BY s.file_path, e.line ORDER BY ALL
"""
"""Rows that the CSV reader could not split: file, number with the header as 1, message, kind of the message, text."""


def select_typed(plan: OutcomePlan) -> str:
    """Write the query for all columns of the files, with the types that DuckDB recognises.

    If the plan has a query of the user, that query runs over the files as the table `outcomes`.
    """
    columns, with_path = _select_columns(plan)
    if plan.reader == "parquet":
        table = (
            f"SELECT {columns} FROM read_parquet({quote_files(plan.readable)}, hive_partitioning = false{with_path})"
        )
    else:
        # A row that cannot be split is ignored here: `read_rows` reads the file as texts and reports it. With a
        # query, the file is read only here, so DuckDB must refuse such a row.
        lenient = "" if plan.query else ", ignore_errors = true"
        # The names are given, because DuckDB would choose others for columns without a name.
        table = f"""SELECT {columns} FROM read_csv({quote_files(plan.readable)}, header = true,
            names = {quote_all(plan.header)}, delim = {quote(plan.delimiter)},
            quote = '"', escape = '"', nullstr = {quote_all(_NULLS)},
            compression = 'none', hive_partitioning = false{lenient}{with_path})"""
    if not plan.query:
        return table
    return f"WITH outcomes AS ({table}) SELECT * FROM ({plan.query.strip().rstrip(';')})"


def select_as_written(plan: OutcomePlan, on_error: Literal["store_rejects", "ignore_errors"] = "ignore_errors") -> str:
    """Write the query for all columns of the files, those of CSV as texts: ids such as `007` stay as they are.

    `on_error`: see `read_texts`. Types of Parquet and of the result of a query are known, and are kept.
    """
    if plan.reader == "parquet" or plan.query:
        return select_typed(plan)
    columns, with_path = _select_columns(plan)
    return f"SELECT {columns} FROM {read_texts(plan.readable, plan.delimiter, plan.header, on_error, with_path)}"


def _select_columns(plan: OutcomePlan) -> tuple[str, str]:
    """Write what is selected from the files, and the option of the reading function that it needs (empty: none).

    These are all columns, and `ARM_OF_FILE` if each file belongs to one arm.
    """
    if not plan.arm_of_file:
        return "*", ""
    path_column = quote_name(_PATH_COLUMN)
    cases = " ".join(
        f"WHEN {quote(path_for_engine(path))} THEN {quote(arm)}"
        for path, arm in zip(plan.readable, plan.arm_of_file, strict=True)
    )
    columns = f"* EXCLUDE ({path_column}), CASE {path_column} {cases} END AS {quote_name(ARM_OF_FILE)}"
    return columns, f", filename = {quote(_PATH_COLUMN)}"


def _mark_rows(plan: OutcomePlan, names: Sequence[str]) -> str:
    """Write the query that adds to all rows of the files what is read of them, and which column makes a row bad.

    It adds `unit_` and `arm_`; `hash_` of all columns (`names`), by which equal rows are found; `v0`, `v1`, … for the
    columns of the plan, as numbers; and `problem_`, the name of the first bad column, NULL for a good row. The values
    of a CSV file are read as texts, so that each can be checked.
    """
    rows_query = select_as_written(plan, "store_rejects")
    unit = f"nullif(trim(CAST({quote_name(plan.unit)} AS VARCHAR)), '')"
    if plan.unit == _EACH_ROW:  # each row is a unit
        unit = "CAST(row_number() OVER () AS VARCHAR)"
    arm = f"nullif(trim(CAST({quote_name(plan.arm)} AS VARCHAR)), '')"
    all_columns = ", ".join(f"CAST({quote_name(name)} AS VARCHAR)" for name in names)
    values_sql, problem_cases = "", ""
    for k, column in enumerate(plan.columns):
        name = quote_name(column.name)
        text = f"lower(trim(CAST({name} AS VARCHAR)))"
        not_finite = f"isinf(v{k}) OR isnan(v{k}) OR abs(v{k}) > {_LARGEST_VALUE}"
        or_not_binary = f" OR (v{k} <> 0 AND v{k} <> 1)" if column.binary else ""
        values_sql += f""", CASE WHEN {text} IN {_MISSING} THEN NULL WHEN {text} = 'true' THEN 1.0
            WHEN {text} = 'false' THEN 0.0 ELSE TRY_CAST({name} AS DOUBLE) END AS v{k}"""
        problem_cases += f""" WHEN (v{k} IS NULL AND {text} NOT IN {_MISSING}) OR {not_finite}{or_not_binary}
            THEN {quote(column.name)}"""
    with_values = (
        f"SELECT *, {unit} AS unit_, {arm} AS arm_, hash({all_columns}) AS hash_ {values_sql} FROM ({rows_query})"
    )
    return f"""
        SELECT *, CASE WHEN unit_ IS NULL THEN {quote(plan.unit)} WHEN arm_ IS NULL THEN {quote(plan.arm)}
            {problem_cases} END AS problem_
        FROM ({with_values})"""


def _list_named_arms(engine: Engine, plan: OutcomePlan) -> Mapping[str, Sequence[str]]:
    """List the different values that the column `named_arm` of a plan has in the files of each arm, at most three.

    Empty if the plan has no such column.
    """
    if not plan.named_arm:
        return {}
    value = f"nullif(trim(CAST({quote_name(plan.named_arm)} AS VARCHAR)), '')"
    rows = engine.execute(
        f"""SELECT arm, list(value ORDER BY value)[:3] FROM
        (SELECT DISTINCT {quote_name(ARM_OF_FILE)} AS arm, {value} AS value FROM ({select_typed(plan)}))
        WHERE value IS NOT NULL GROUP BY arm ORDER BY arm"""
    ).fetchall()
    return dict(rows)


def refuse_contradiction(engine: Engine, plan: OutcomePlan, baseline_label: str) -> None:
    """Refuse files of one arm each in which the column of the arm says something else. Raises InputError.

    `baseline_label`: which of the arms is the baseline.
    """
    first_arm_by_value: dict[str, str] = {}
    for arm, values in _list_named_arms(engine, plan).items():
        other_arms = {other.lower() for other in plan.arm_of_file if other != arm}
        found = " and ".join(f"'{value}'" for value in values)
        problem = ""
        if len(values) > 1:
            problem = f"has {found} there"
        elif first_arm_by_value.setdefault(values[0], arm) != arm:
            problem = f"has {found} there, as arm '{first_arm_by_value[values[0]]}' has"
        elif values[0].lower() in other_arms or (arm != baseline_label and values[0].lower() in BASELINE_NAMES):
            problem = f"has {found} there, which is another arm"
        if problem:
            raise InputError(
                f"column '{plan.named_arm}' contradicts --arm-outcomes: arm '{arm}' {problem}",
                hint="give the files with --outcomes, if that column is right; if it is no arm, rename it",
            )


def read_rows(engine: Engine, plan: OutcomePlan) -> Mapping[str, int]:
    """Read the usable rows of the files into the table `outcome_rows`.

    Its columns are unit, arm, hash (of all columns of the file), problem (NULL), and v0, v1, … for the columns of the
    plan. Returns arm, as the files name it → bad rows, which were skipped (`""`: rows of an unknown arm). Raises
    InputError for a bad row, unless the plan skips such rows.
    """
    query = _mark_rows(plan, [name for name, _ in _describe(engine, plan)])
    values = "".join(f", v{k}" for k in range(len(plan.columns)))
    try:
        engine.execute(
            f"""CREATE TEMP TABLE outcome_rows AS SELECT unit_ AS unit, arm_ AS arm, hash_ AS hash, problem_ AS problem
            {values} FROM ({query})"""
        )
    except duckdb.Error as error:
        raise _explain_unreadable(engine, plan, error) from error
    rejected = []
    if plan.reader != "parquet" and not plan.query:
        rejected = engine.execute(_REJECTED).fetchall()
    rows = engine.execute(
        "SELECT coalesce(arm, ''), count(*) FROM outcome_rows WHERE problem IS NOT NULL GROUP BY 1 ORDER BY 1"
    ).fetchall()
    bad_rows_by_arm = {str(arm): int(count) for arm, count in rows}
    for readable, record, message, error_type, text in rejected:
        path = _name_file(plan, readable)
        swallowed = count_swallowed(path, plan.delimiter, int(record), str(message), error_type, text)
        bad_rows_by_arm[""] = bad_rows_by_arm.get("", 0) + swallowed
    if bad_rows_by_arm and not plan.skip_bad_rows:
        if rejected:
            readable, record, message, _, _ = rejected[0]
            path = _name_file(plan, readable)
            line = find_line(Path(path), plan.delimiter, int(record))
            first_problem = f"{path}:{line}: {word_rejection(str(message))}"
        else:
            first_problem = _describe_bad_value(engine, plan, query)
        count = sum(bad_rows_by_arm.values())
        raise refuse_rows(first_problem, f"{count} rows" if count > 1 else "")
    engine.execute("DELETE FROM outcome_rows WHERE problem IS NOT NULL")
    return bad_rows_by_arm


def _describe_bad_value(engine: Engine, plan: OutcomePlan, checking_query: str) -> str:
    """Say where the first bad row is (file, line, column), which value makes it bad and why.

    `checking_query` gives all rows of the files with `problem_`, the name of their bad column. It is executed again.
    """
    unit = [plan.unit] if plan.unit != _EACH_ROW else []
    used_columns = dict.fromkeys([*unit, plan.arm, *(column.name for column in plan.columns)])
    value_cases = " ".join(f"WHEN {quote(name)} THEN CAST({quote_name(name)} AS VARCHAR)" for name in used_columns)
    engine.execute("SET preserve_insertion_order = true")  # numbers of rows are in the order of the file
    # File by file, because the number of a row is counted within its file.
    for path, readable in zip(plan.paths, plan.readable, strict=True):
        # The query names the files as `quote_files` writes them all.
        query_of_file = checking_query.replace(quote_files(plan.readable), quote_files([readable]))
        numbered = f"SELECT *, row_number() OVER () AS number FROM ({query_of_file})"
        rows = engine.execute(
            f"""SELECT number, problem_, CASE problem_ {value_cases} END FROM ({numbered})
            WHERE problem_ IS NOT NULL ORDER BY number LIMIT 1"""
        ).fetchall()
        if not rows:
            continue
        number, column, value = rows[0]
        if plan.query:
            position = f"row {number} of the query"
        elif plan.reader == "parquet":
            position = f"row {number}"
        else:
            position = f"{find_line(Path(path), plan.delimiter, number + 1)}"  # the header is record 1
        problem = "not a name"
        if column not in (plan.unit, plan.arm):
            binary = next(column_plan.binary for column_plan in plan.columns if column_plan.name == column)
            problem = "neither 0 nor 1" if binary else f"not a finite number of at most {_LARGEST_VALUE}"
        shown = f"the value '{str(value)[:80]}'" if value not in (None, "") else "no value"
        return f"{path}:{position}: column '{column}' has {shown}, {problem}"
    return f"{plan.paths[0]} has rows that cannot be used"
