"""Foreign files are read: one query per file gives request rows, with a mark on those that are none."""

from __future__ import annotations

import csv
import gzip
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO, cast

from evaluator.errors import InputError
from evaluator.records import ColumnMap, FilePlan
from evaluator.store.engine import Engine, quote
from evaluator.store.rollup import HIGHEST_MS

__all__ = [
    "BAD",
    "GOOD",
    "MICROS",
    "SCALES",
    "SUMMARY",
    "Rejected",
    "column_name",
    "express",
    "find_bad_row",
    "find_line",
    "find_rejected",
    "is_summary",
    "open_text",
    "select_rows",
    "word_rejection",
]

GOOD, BAD, SUMMARY = "import", "bad row", "summary row"
"""Marks, written to the column `worker`, which foreign files do not have."""

SCALES = {"s": 1000.0, "ms": 1.0, "us": 0.001, "ns": 0.000001}
"""Unit of a time → milliseconds."""

MICROS = {"s": 1_000_000.0, "ms": 1000.0, "us": 1.0, "ns": 0.001}
"""Unit of an instant → microseconds."""


def select_rows(file: FilePlan, latest: datetime) -> str:
    """Write the query for all rows of a file; `run`, `arm` and `service` are its parameters."""
    exprs = _expressions(file)
    return f"""
        SELECT
            CAST($run AS VARCHAR) AS run, CAST($arm AS VARCHAR) AS arm, CAST($service AS VARCHAR) AS service,
            coalesce(nullif({exprs.get("instance", "''")}, ''), $arm) AS instance,
            {_mark(file, exprs, latest)} AS worker,
            ts, {_PATH if file.sensitive else "endpoint"} AS endpoint, coalesce(ms, 0) AS response_time_ms,
            {exprs.get("response_bytes", "CAST(NULL AS BIGINT)")} AS response_bytes,
            nullif({exprs.get("status_code", "CAST(NULL AS SMALLINT)")}, 0) AS status_code,
            failed,
            CASE WHEN failed THEN {_express_exception(file, exprs)} END AS exception,
            {exprs.get("user_count", "CAST(NULL AS INTEGER)")} AS user_count,
            CAST(NULL AS MAP(VARCHAR, VARCHAR)) AS context
        FROM ({_select_required(file)})"""


_PATH = "regexp_replace(endpoint, '[?#;].*$', '', 's')"
"""An endpoint without what follows its path."""


def _express_exception(file: FilePlan, exprs: Mapping[str, str]) -> str:
    """What is kept of an exception: nothing where it may quote what was sent or answered."""
    return "'failure'" if file.sensitive else f"nullif({exprs.get('exception', 'CAST(NULL AS VARCHAR)')}, '')"


def _select_required(file: FilePlan, *, whole: bool = False) -> str:
    """Write the query that adds the required columns under names of their own to those of the file.

    `whole`: with the rows that are not of requests, as lines are counted.
    """
    exprs = _expressions(file)
    return f"""
        SELECT
            {exprs["ts"]} AS ts, {exprs["endpoint"]} AS endpoint, {exprs["response_time_ms"]} AS ms,
            {exprs["failed"]} AS failed, raw.*
        FROM ({_read(file)}) AS raw {"" if whole else f"WHERE {_wanted(file)}"}"""


def _wanted(file: FilePlan) -> str:
    """Write the condition for rows of requests; a row that cannot be told is one, so that it is found to be bad."""
    if file.layout.only is None:
        return "true"
    name, value = file.layout.only
    return f"coalesce({column_name(file, name)} = {quote(value)}, true)"


def _read(file: FilePlan) -> str:
    """Write the query that reads a file; its columns come out as c0, c1, … so that no name clashes with ours."""
    layout = file.layout
    renamed = ", ".join(f"{_identifier(name)} AS c{k}" for k, name in enumerate(layout.header) if _is_read(file, name))
    if layout.reader == "parquet":
        return f"SELECT {renamed} FROM read_parquet({quote(file.rewritten or file.path)})"
    if layout.reader == "k6":
        return f"SELECT {renamed} FROM ({_read_k6(file)})"
    columns = ", ".join(f"{quote(name)}: 'VARCHAR'" for name in layout.header)
    return f"""
        SELECT {renamed}
        FROM read_csv(
            {quote(file.path)}, auto_detect = false, header = true, delim = {quote(layout.delimiter)}, quote = '"',
            escape = '"', columns = {{{columns}}}, store_rejects = true)"""


def _read_k6(file: FilePlan) -> str:
    """Write the query for lines of k6's JSON; one that is no JSON has NULL everywhere. Definitions are no points."""
    tags = [name for name in file.layout.header if name not in ("metric", "time", "value")]
    struct = ", ".join(f"{_identifier(name)} VARCHAR" for name in tags)
    picked = ", ".join(f"data.tags.{_identifier(name)} AS {_identifier(name)}" for name in tags)
    return f"""
        SELECT CASE WHEN type = 'Metric' THEN '' ELSE metric END AS metric, data."time" AS "time", data.value AS value,
            {picked}
        FROM read_json(
            {quote(file.path)}, format = 'newline_delimited', ignore_errors = true,
            columns = {{type: 'VARCHAR', metric: 'VARCHAR',
                data: 'STRUCT("time" VARCHAR, value VARCHAR, tags STRUCT({struct}))'}})"""


def _is_read(file: FilePlan, name: str) -> bool:
    used = {source for column in file.layout.columns for source in column.sources}
    marks = {column for column, _ in (*file.layout.summary_rows, *([file.layout.only] if file.layout.only else []))}
    return name in used | marks | {file.layout.line_column}


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def column_name(file: FilePlan, source: str) -> str:
    """Name a column of the file as queries do."""
    return f"c{file.layout.header.index(source)}"


# ------------------------------------------------------------------ columns


def _expressions(file: FilePlan) -> dict[str, str]:
    return {column.target: express(file, column) for column in file.layout.columns}


def express(file: FilePlan, column: ColumnMap) -> str:
    """Write the expression that makes a column of the request row."""
    names = [column_name(file, source) for source in column.sources]
    if column.kind == "instant":
        return _instant(names[0], column.unit)
    if column.kind == "ended":
        spent = f"to_microseconds(CAST(round(coalesce(TRY_CAST({names[1]} AS DOUBLE), 0) * 1000) AS BIGINT))"
        return f"({_instant(names[0], column.unit)}) - {spent}"
    if column.kind == "route":
        return _route(names)
    return _EXPRESSIONS[column.kind].format(
        name=names[0],
        second=names[-1],
        texts=", ".join(f"CAST({name} AS VARCHAR)" for name in names),
        integer=_INTEGERS.get(column.target),
        scale=SCALES.get(column.unit),
    )


_EXPRESSIONS = {
    "text": "concat_ws(' ', {texts})",
    "integer": "TRY_CAST({name} AS {integer})",
    "number": "TRY_CAST({name} AS DOUBLE) * {scale}",
    "true": "TRY_CAST({name} AS BOOLEAN)",
    "false": "NOT TRY_CAST({name} AS BOOLEAN)",
    "status": "coalesce(TRY_CAST({name} AS INTEGER) NOT BETWEEN 1 AND 399, true)",
    "unexpected": (
        "coalesce(NOT TRY_CAST({name} AS BOOLEAN), TRY_CAST({second} AS INTEGER) NOT BETWEEN 1 AND 399, true)"
    ),
    "filled": "coalesce(CAST({name} AS VARCHAR), '') <> ''",
}

_INTEGERS = {"response_bytes": "BIGINT", "status_code": "SMALLINT", "user_count": "INTEGER"}


def _route(names: list[str]) -> str:
    """Write the expression for a method and a path; a name that is no URL stays as it is."""
    filled = [f"nullif({name}, '')" for name in names[1:]]
    target = f"coalesce({', '.join(filled)})"
    path = f"regexp_replace(regexp_replace({target}, '^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*', ''), '[?#].*$', '')"
    is_url = f"regexp_matches({target}, '^[A-Za-z][A-Za-z0-9+.-]*://')"
    shown = f"CASE WHEN {is_url} THEN coalesce(nullif({path}, ''), '/') ELSE {target} END"
    return f"CASE WHEN {target} IS NOT NULL THEN concat_ws(' ', nullif({names[0]}, ''), {shown}) END"


_LAST_MICROS = 9e18
_EARLIEST = "TIMESTAMPTZ '1970-01-01 00:00:00+00'"


def _instant(name: str, unit: str) -> str:
    if unit == "iso":
        return f"TRY_CAST({name} AS TIMESTAMPTZ)"
    micros = f"TRY_CAST({name} AS DOUBLE) * {MICROS[unit]}"
    whole = f"CASE WHEN abs({micros}) < {_LAST_MICROS} THEN CAST(round({micros}) AS BIGINT) END"
    return f"make_timestamp({whole}) AT TIME ZONE 'UTC'"


# ------------------------------------------------------------------ marks


def _problem(file: FilePlan, exprs: dict[str, str], latest: datetime) -> str:
    """Write the expression for the target that makes a row bad; NULL where it is good."""
    optional = " ".join(
        f"WHEN {exprs[target]} IS NULL AND nullif(CAST({_source(file, target)} AS VARCHAR), '') IS NOT NULL"
        f" THEN '{target}'"
        for target in ("response_bytes", "user_count")
        if target in exprs
    )
    return f"""
        CASE
            WHEN ts IS NULL OR ts NOT BETWEEN {_EARLIEST} AND TIMESTAMPTZ '{latest.isoformat()}' THEN 'ts'
            WHEN coalesce(endpoint, '') = '' THEN 'endpoint'
            WHEN failed IS NULL THEN 'failed'
            WHEN ms IS NULL AND NOT (failed AND {_is_empty(file, "response_time_ms")}) THEN 'response_time_ms'
            WHEN NOT (isfinite(ms) AND ms BETWEEN 0 AND {HIGHEST_MS}) THEN 'response_time_ms'
            {optional}
        END"""


def _source(file: FilePlan, target: str) -> str:
    return column_name(file, _sources(file, target)[0])


def _sources(file: FilePlan, target: str) -> tuple[str, ...]:
    return next(column.sources for column in file.layout.columns if column.target == target)


def _is_empty(file: FilePlan, target: str) -> str:
    return f"nullif(CAST({_source(file, target)} AS VARCHAR), '') IS NULL"


def _summary(file: FilePlan) -> str:
    return " AND ".join(is_summary(file, name, text) for name, text in file.layout.summary_rows) or "false"


def is_summary(file: FilePlan, name: str, text: str) -> str:
    """Write one condition of rows that sum up others: the column starts with the text; without one it is empty."""
    column = column_name(file, name)
    return f"starts_with(coalesce({column}, ''), {quote(text)})" if text else f"coalesce({column}, '') = ''"


def _mark(file: FilePlan, exprs: dict[str, str], latest: datetime) -> str:
    return f"""
        CASE
            WHEN {_summary(file)} THEN '{SUMMARY}'
            WHEN ({_problem(file, exprs, latest)}) IS NOT NULL THEN '{BAD}'
            ELSE '{GOOD}'
        END"""


# ------------------------------------------------------------------ what is wrong with a row


@dataclass(frozen=True, slots=True)
class Rejected:
    """Rows that the reader could not even split into columns."""

    count: int = 0
    record: int = 0
    """Number of the first, counted from the header, which is 1."""
    column: str = ""
    reason: str = ""


def find_rejected(engine: Engine, file: FilePlan) -> Rejected:
    """Tell which rows the last reading of a CSV file rejected, and forget them."""
    if file.layout.reader != "csv":
        return Rejected()
    rows = engine.execute(
        "SELECT line, coalesce(column_name, ''), error_message FROM reject_errors ORDER BY ALL"
    ).fetchall()
    engine.execute("DROP TABLE reject_errors")
    engine.execute("DROP TABLE reject_scans")
    if not rows:
        return Rejected()
    line, column, message = rows[0]
    return Rejected(len({row[0] for row in rows}), int(line), column, word_rejection(message))


def word_rejection(message: str) -> str:
    """Say in our words what DuckDB's CSV reader says of a row that it cannot split."""
    counts = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    if counts:
        wanted, found = (int(number) for number in counts.groups())
        return f"the row has {found} value{'s' if found != 1 else ''}, the header {wanted}"
    if "unterminated quote" in message.lower():
        return "a quote is opened and never closed, here or in a row before"
    return " ".join(message.split())[:200]


def find_bad_row(engine: Engine, file: FilePlan, latest: datetime, rejected: Rejected, count: int) -> InputError:
    """Describe the first bad row of a file: file, line, column and value."""
    if rejected.count:
        where = f"{file.path}:{find_line(Path(file.path), file.layout.delimiter, rejected.record)}"
        text = f"{where}: {rejected.reason}" + (f" (column '{rejected.column}')" if rejected.column else "")
    else:
        text = _describe_bad_value(engine, file, latest)
    more = f"; {count} rows of this file cannot be used" if count > 1 else ""
    return InputError(
        f"{text}{more}; nothing was imported", hint="mend the file, or leave such rows out with --skip-bad-rows"
    )


def _describe_bad_value(engine: Engine, file: FilePlan, latest: datetime) -> str:
    exprs = _expressions(file)
    values = " ".join(
        f"WHEN '{column.target}' THEN concat_ws(' ', {', '.join(column_name(file, s) for s in _shown(column))})"
        for column in file.layout.columns
    )
    line = column_name(file, file.layout.line_column) if file.layout.line_column else "number"
    engine.execute("SET preserve_insertion_order = true")
    rows = engine.execute(
        f"""SELECT {line}, problem, CASE problem {values} END
        FROM (
            SELECT *, {_problem(file, exprs, latest)} AS problem FROM (
                SELECT *, row_number() OVER () AS number FROM ({_select_required(file, whole=True)})))
        WHERE problem IS NOT NULL AND {_wanted(file)} AND NOT ({_summary(file)}) ORDER BY number LIMIT 1"""
    ).fetchall()
    engine.execute("SET preserve_insertion_order = false")
    number, target, value = rows[0]
    source = " + ".join(_shown(next(column for column in file.layout.columns if column.target == target)))
    place = _place(file, int(number))
    if file.layout.reader == "k6" and not value and target == "ts":
        return f"{file.path}:{place}: the line is no point of k6"
    return f"{file.path}:{place}: column '{source}' has {_say(value)}, {_REASONS[target]}"


def _shown(column: ColumnMap) -> tuple[str, ...]:
    """Name the sources that a message is about."""
    return column.sources[:1] if column.kind == "ended" else column.sources


def _place(file: FilePlan, number: int) -> str:
    """Say where a row stands: its line, or its number where there are no lines."""
    if file.layout.line_column or file.layout.reader == "k6":
        return str(number)
    return (
        f"row {number}"
        if file.layout.reader == "parquet"
        else str(find_line(Path(file.path), file.layout.delimiter, number + 1))
    )


def _say(value: str | None) -> str:
    return "no value" if value in (None, "") else f"the value '{str(value)[:80]}'"


_REASONS = {
    "ts": "not a time from 1970 up to now, as a number or like 2026-11-24 16:00:00",
    "endpoint": "not the name of an endpoint",
    "failed": "neither true nor false",
    "response_time_ms": "not a time of 0 to 31 years",
    "response_bytes": "not a number of bytes",
    "user_count": "not a number of users",
}


def find_line(path: Path, delimiter: str, record: int) -> int:
    """Find the line on which a record begins; a quoted value may span several. The record where that cannot be told."""
    try:
        with open_text(path) as opened:
            reader = csv.reader(opened, delimiter=delimiter)
            for _ in itertools.islice(reader, record - 1):
                pass
            return reader.line_num + 1
    except (OSError, csv.Error):
        return record


def open_text(path: Path) -> TextIO:
    """Open a text file, compressed or not, however badly it is encoded."""
    if path.suffix == ".gz":
        return cast("TextIO", gzip.open(path, "rt", encoding="utf-8-sig", newline="", errors="replace"))
    return path.open(encoding="utf-8-sig", newline="", errors="replace")
