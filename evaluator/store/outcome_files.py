"""Reading of outcome files: what their columns hold, and which rows cannot be used, with file, line and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from evaluator.errors import InputError
from evaluator.records import OutcomePlan, SourceColumn
from evaluator.store.engine import Engine, open_engine, quote, quote_all, quote_name
from evaluator.store.expressions import read_texts
from evaluator.store.foreign import find_line, refuse_rows, word_rejection

_EACH_ROW = "rows"
"""`unit` of files in which every row is a unit."""

_NULLS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "U", "FLOAT", "DOUBLE", "DECIMAL")
_MISSING = "('', 'na', 'n/a', 'nan', 'null', 'none')"


# ------------------------------------------------------------------ what a file has


def describe_outcomes(plan: OutcomePlan) -> tuple[SourceColumn, ...]:
    """List the columns of files of outcomes, or of a query over them (as table `outcomes`). Raises InputError."""
    columns = []
    with open_engine() as engine:
        for name, kind in _describe(engine, plan):
            if kind == "BOOLEAN":
                columns.append(SourceColumn(name, "truth"))
            elif kind.startswith(("TIMESTAMP", "DATE", "TIME", "INTERVAL")):
                columns.append(SourceColumn(name, "time"))
            elif kind.startswith(_NUMBERS) and not kind.startswith("UUID"):
                columns.append(SourceColumn(name, "number"))
            else:
                columns.append(SourceColumn(name, "text"))
    return tuple(columns)


def _describe(engine: Engine, plan: OutcomePlan) -> list[tuple[str, str]]:
    """List names and natural types of columns."""
    try:
        rows = engine.execute(f"DESCRIBE {_typed_source(plan)}").fetchall()
    except duckdb.Error as error:
        raise _unreadable(plan, error) from error
    return [(str(row[0]), str(row[1])) for row in rows]


def _unreadable(plan: OutcomePlan, error: duckdb.Error) -> InputError:
    text = " ".join(str(error).split())[:300]
    if plan.query:
        return InputError(
            f"the query over {plan.paths[0]} cannot be run: {text}",
            hint="in the query, the files are the table `outcomes`",
        )
    return InputError(f"{plan.paths[0]} cannot be read: {text}", hint="give CSV or Parquet files")


def _typed_source(plan: OutcomePlan) -> str:
    """Write the query whose columns have their natural types."""
    if plan.reader == "parquet":
        table = f"SELECT * FROM read_parquet({quote_all(plan.paths)})"
    else:
        # A row that cannot be split is reported when the file is read to land; a query is not read a second time.
        lenient = "" if plan.query else ", ignore_errors = true"
        table = f"""SELECT * FROM read_csv({quote_all(plan.paths)}, header = true, delim = {quote(plan.delimiter)},
            quote = '"', escape = '"', nullstr = {quote_all(_NULLS)}{lenient})"""
    return f"WITH outcomes AS ({table}) SELECT * FROM ({plan.query.strip().rstrip(';')})" if plan.query else table


def _mark_rows(plan: OutcomePlan, names: Sequence[str]) -> str:
    """Write the query for all rows with their values, and in `problem_` the column that makes a row bad.

    Columns of a CSV are read as text, so that each value can be checked.
    """
    if plan.reader == "parquet" or plan.query:
        source = _typed_source(plan)
    else:
        source = f"SELECT * FROM {read_texts(plan.paths, plan.delimiter, plan.header, 'store_rejects')}"
    name_of = "nullif(trim(CAST({} AS VARCHAR)), '')".format
    unit = "CAST(row_number() OVER () AS VARCHAR)" if plan.unit == _EACH_ROW else name_of(quote_name(plan.unit))
    every = ", ".join(f"CAST({quote_name(name)} AS VARCHAR)" for name in names)
    values, bad = "", ""
    for k, column in enumerate(plan.columns):
        name = quote_name(column.name)
        text = f"lower(trim(CAST({name} AS VARCHAR)))"
        outside = f" OR (v{k} <> 0 AND v{k} <> 1)" if column.binary else ""
        values += f""", CASE WHEN {text} IN {_MISSING} THEN NULL WHEN {text} = 'true' THEN 1.0
            WHEN {text} = 'false' THEN 0.0 ELSE TRY_CAST({name} AS DOUBLE) END AS v{k}"""
        bad += f""" WHEN (v{k} IS NULL AND {text} NOT IN {_MISSING}) OR isinf(v{k}) OR isnan(v{k}){outside}
            THEN {quote(column.name)}"""
    return f"""
        SELECT *, CASE WHEN unit_ IS NULL THEN {quote(plan.unit)} WHEN arm_ IS NULL THEN {quote(plan.arm)} {bad} END
            AS problem_
        FROM (
            SELECT *, {unit} AS unit_, {name_of(quote_name(plan.arm))} AS arm_, hash({every}) AS hash_ {values}
            FROM ({source}))"""


def read_rows(engine: Engine, plan: OutcomePlan) -> Mapping[str, int]:
    """Read all rows into the table `outcome_rows`; returns the rows that were skipped, by arm (`""`: not known).

    Raises InputError for a bad row, unless such rows are to be skipped.
    """
    query = _mark_rows(plan, [name for name, _ in _describe(engine, plan)])
    values = "".join(f", v{k}" for k in range(len(plan.columns)))
    try:
        engine.execute(
            f"""CREATE TEMP TABLE outcome_rows AS SELECT unit_ AS unit, arm_ AS arm, hash_ AS hash, problem_ AS problem
            {values} FROM ({query})"""
        )
    except duckdb.Error as error:
        raise _unreadable(plan, error) from error
    # The rows that the CSV reader could not split.
    rejected = []
    if plan.reader != "parquet" and not plan.query:
        rejected = engine.execute(
            """SELECT s.file_path, e.line, any_value(e.error_message) FROM reject_errors AS e
            JOIN reject_scans AS s USING (scan_id, file_id) GROUP BY ALL ORDER BY ALL"""
        ).fetchall()
    rows = engine.execute(
        "SELECT coalesce(arm, ''), count(*) FROM outcome_rows WHERE problem IS NOT NULL GROUP BY 1 ORDER BY 1"
    ).fetchall()
    bad = {str(arm): int(count) for arm, count in rows}
    if rejected:
        bad[""] = bad.get("", 0) + len(rejected)
    if bad and not plan.skip_bad_rows:
        if rejected:
            path, record, why = rejected[0]
            text = f"{path}:{find_line(Path(path), plan.delimiter, int(record))}: {word_rejection(str(why))}"
        else:
            text = _describe_bad_value(engine, plan, query)
        count = sum(bad.values())
        raise refuse_rows(text, f"{count} rows" if count > 1 else "")
    engine.execute("DELETE FROM outcome_rows WHERE problem IS NOT NULL")
    return bad


def _describe_bad_value(engine: Engine, plan: OutcomePlan, query: str) -> str:
    unit = [plan.unit] if plan.unit != _EACH_ROW else []
    used = dict.fromkeys([*unit, plan.arm, *(column.name for column in plan.columns)])
    cases = " ".join(f"WHEN {quote(name)} THEN CAST({quote_name(name)} AS VARCHAR)" for name in used)
    engine.execute("SET preserve_insertion_order = true")
    for path in plan.paths:
        of_file = query.replace(quote_all(plan.paths), quote_all([path]))
        rows = engine.execute(
            f"""SELECT number, problem_, CASE problem_ {cases} END FROM (
                SELECT *, row_number() OVER () AS number FROM ({of_file}))
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
            position = f"{find_line(Path(path), plan.delimiter, number + 1)}"
        problem = "not a name"
        if column not in (plan.unit, plan.arm):
            binary = next(column_plan.binary for column_plan in plan.columns if column_plan.name == column)
            problem = "neither 0 nor 1" if binary else "not a finite number"
        shown = f"the value '{str(value)[:80]}'" if value not in (None, "") else "no value"
        return f"{path}:{position}: column '{column}' has {shown}, {problem}"
    return f"{plan.paths[0]} has rows that cannot be used"
