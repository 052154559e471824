"""Files of outcomes are read: what their columns hold, and which rows cannot be used, with file, line and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from evaluator.errors import InputError
from evaluator.records import OutcomeColumn, OutcomePlan, SourceColumn
from evaluator.store.engine import Engine, open_engine, quote
from evaluator.store.foreign import find_line, word_rejection

__all__ = ["describe_outcomes", "quote_name", "read_rows"]

_EACH_ROW = "rows"
"""Unit of files in which every row is one."""

_NULLS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
_MISSING = "('', 'na', 'n/a', 'nan', 'null', 'none')"


# ------------------------------------------------------------------ what a file has


def describe_outcomes(plan: OutcomePlan) -> tuple[SourceColumn, ...]:
    """List the columns of a plan's files, or of its query over them. Raises InputError."""
    with open_engine() as engine:
        return tuple(SourceColumn(name, _kind_of(kind)) for name, kind in _describe(engine, _typed_source(plan), plan))


def _describe(engine: Engine, source: str, plan: OutcomePlan) -> list[tuple[str, str]]:
    try:
        rows = engine.execute(f"DESCRIBE {source}").fetchall()
    except duckdb.Error as error:
        raise _unreadable(plan, error) from error
    return [(str(row[0]), str(row[1])) for row in rows]


def _unreadable(plan: OutcomePlan, error: duckdb.Error) -> InputError:
    text = " ".join(str(error).split())[:300]
    if plan.query:
        return InputError(f"the query over {plan.paths[0]} cannot be run: {text}", hint="its table is called outcomes")
    return InputError(f"{plan.paths[0]} cannot be read: {text}", hint="outcomes are CSV or Parquet")


def _kind_of(kind: str) -> Any:
    if kind == "BOOLEAN":
        return "truth"
    if kind.startswith(("TIMESTAMP", "DATE", "TIME", "INTERVAL")):
        return "time"
    numbers = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "U", "FLOAT", "DOUBLE", "DECIMAL")
    return "number" if kind.startswith(numbers) and not kind.startswith("UUID") else "text"


def _list(paths: Sequence[str]) -> str:
    return "[" + ", ".join(quote(path) for path in paths) + "]"


def _typed_source(plan: OutcomePlan) -> str:
    """Write the query whose columns have their natural types."""
    if plan.reader == "parquet":
        table = f"SELECT * FROM read_parquet({_list(plan.paths)})"
    else:
        # A row that cannot be split is told when it is read to land; a query has no such second reading.
        lenient = "" if plan.query else ", ignore_errors = true"
        table = f"""SELECT * FROM read_csv({_list(plan.paths)}, header = true, delim = {quote(plan.delimiter)},
            quote = '"', escape = '"', nullstr = [{", ".join(quote(text) for text in _NULLS)}]{lenient})"""
    return f"WITH outcomes AS ({table}) SELECT * FROM ({plan.query.strip().rstrip(';')})" if plan.query else table


def _source(plan: OutcomePlan) -> str:
    """Write the query that lands: columns of a CSV come as text, so that each value can be checked."""
    if plan.reader == "parquet" or plan.query:
        return _typed_source(plan)
    columns = ", ".join(f"{quote(name)}: 'VARCHAR'" for name in plan.header)
    return f"""SELECT * FROM read_csv({_list(plan.paths)}, auto_detect = false, header = true,
        delim = {quote(plan.delimiter)}, quote = '"', escape = '"', columns = {{{columns}}}, store_rejects = true)"""


def quote_name(column: str) -> str:
    """Quote the name of a column."""
    return '"' + column.replace('"', '""') + '"'


def _text(column: str) -> str:
    return f"nullif(trim(CAST({quote_name(column)} AS VARCHAR)), '')"


def _unit(plan: OutcomePlan) -> str:
    return "CAST(row_number() OVER () AS VARCHAR)" if plan.unit == _EACH_ROW else _text(plan.unit)


def _number(column: str) -> str:
    text = f"lower(trim(CAST({quote_name(column)} AS VARCHAR)))"
    return f"""CASE WHEN {text} IN {_MISSING} THEN NULL WHEN {text} = 'true' THEN 1.0 WHEN {text} = 'false' THEN 0.0
        ELSE TRY_CAST({quote_name(column)} AS DOUBLE) END"""


def _is_bad(column: OutcomeColumn, k: int) -> str:
    text = f"lower(trim(CAST({quote_name(column.name)} AS VARCHAR)))"
    outside = f" OR (v{k} <> 0 AND v{k} <> 1)" if column.binary else ""
    return f"""(v{k} IS NULL AND {text} NOT IN {_MISSING}) OR isinf(v{k}) OR isnan(v{k}){outside}"""


def _marked(plan: OutcomePlan) -> str:
    """Write the query for all rows with their values, and in `problem` the column that makes a row bad."""
    values = ", ".join(f"{_number(column.name)} AS v{k}" for k, column in enumerate(plan.columns))
    bad = " ".join(f"WHEN {_is_bad(column, k)} THEN {quote(column.name)}" for k, column in enumerate(plan.columns))
    return f"""
        SELECT *, CASE WHEN unit_ IS NULL THEN {quote(plan.unit)} WHEN arm_ IS NULL THEN {quote(plan.arm)} {bad} END
            AS problem_
        FROM (
            SELECT *, {_unit(plan)} AS unit_, {_text(plan.arm)} AS arm_, hash(COLUMNS(*)) AS hash_, {values}
            FROM ({_source(plan)}))"""


def read_rows(engine: Engine, plan: OutcomePlan) -> Mapping[str, int]:
    """Read all rows into the table `outcome_rows`; returns the rows that were skipped, by arm (`""`: not known).

    Raises InputError for a bad row, unless such rows are to be skipped.
    """
    names = [name for name, _ in _describe(engine, _typed_source(plan), plan)]
    every = ", ".join(f"CAST({quote_name(name)} AS VARCHAR)" for name in names)
    values = ", ".join(f"v{k}" for k in range(len(plan.columns)))
    query = _marked(plan).replace("hash(COLUMNS(*))", f"hash({every})")
    try:
        engine.execute(
            f"""CREATE TEMP TABLE outcome_rows AS SELECT unit_ AS unit, arm_ AS arm, hash_ AS hash, problem_ AS problem,
            {values} FROM ({query})"""
        )
    except duckdb.Error as error:
        raise _unreadable(plan, error) from error
    rejected = _find_rejected(engine, plan)
    rows = engine.execute(
        "SELECT coalesce(arm, ''), count(*) FROM outcome_rows WHERE problem IS NOT NULL GROUP BY 1 ORDER BY 1"
    ).fetchall()
    bad = {str(arm): int(count) for arm, count in rows}
    if rejected:
        bad[""] = bad.get("", 0) + len(rejected)
    if bad and not plan.skip_bad_rows:
        raise _describe_bad_row(engine, plan, query, rejected, sum(bad.values()))
    engine.execute("DELETE FROM outcome_rows WHERE problem IS NOT NULL")
    return bad


def _find_rejected(engine: Engine, plan: OutcomePlan) -> list[tuple[str, int, str]]:
    """List the rows that the CSV reader could not split: file, line, why."""
    if plan.reader == "parquet" or plan.query:
        return []
    rows = engine.execute(
        """SELECT s.file_path, e.line, any_value(e.error_message) FROM reject_errors AS e
        JOIN reject_scans AS s USING (scan_id, file_id) GROUP BY ALL ORDER BY ALL"""
    ).fetchall()
    return [(str(path), int(line), word_rejection(str(why))) for path, line, why in rows]


def _describe_bad_row(
    engine: Engine, plan: OutcomePlan, query: str, rejected: Sequence[tuple[str, int, str]], count: int
) -> InputError:
    if rejected:
        path, record, why = rejected[0]
        text = f"{path}:{find_line(Path(path), plan.delimiter, record)}: {why}"
    else:
        text = _describe_bad_value(engine, plan, query)
    more = f"; {count} rows cannot be used" if count > 1 else ""
    return InputError(
        f"{text}{more}; nothing was imported", hint="mend the file, or leave such rows out with --skip-bad-rows"
    )


def _describe_bad_value(engine: Engine, plan: OutcomePlan, query: str) -> str:
    unit = [plan.unit] if plan.unit != _EACH_ROW else []
    used = dict.fromkeys([*unit, plan.arm, *(column.name for column in plan.columns)])
    value = " ".join(f"WHEN {quote(name)} THEN CAST({quote_name(name)} AS VARCHAR)" for name in used)
    engine.execute("SET preserve_insertion_order = true")
    for path in plan.paths:
        one = query.replace(_list(plan.paths), _list([path]))
        rows = engine.execute(
            f"""SELECT number, problem_, CASE problem_ {value} END FROM (
                SELECT *, row_number() OVER () AS number FROM ({one}))
            WHERE problem_ IS NOT NULL ORDER BY number LIMIT 1"""
        ).fetchall()
        if rows:
            number, column, given = rows[0]
            said = f"the value '{str(given)[:80]}'" if given not in (None, "") else "no value"
            wanted = "not a name" if column in (plan.unit, plan.arm) else _wanted(plan, column)
            return f"{path}:{_place(plan, Path(path), number)}: column '{column}' has {said}, {wanted}"
    return f"{plan.paths[0]} has rows that cannot be used"


def _wanted(plan: OutcomePlan, name: str) -> str:
    binary = next(column.binary for column in plan.columns if column.name == name)
    return "neither 0 nor 1" if binary else "not a finite number"


def _place(plan: OutcomePlan, path: Path, number: int) -> str:
    if plan.query:
        return f"row {number} of the query"
    return f"row {number}" if plan.reader == "parquet" else str(find_line(path, plan.delimiter, number + 1))
