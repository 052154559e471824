"""SQL over the columns of a foreign file: the columns of a request row, and conditions on rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from evaluator.records import ColumnMap, Condition, FilePlan
from evaluator.store.engine import quote, quote_all

SCALES = {"s": 1000.0, "ms": 1.0, "us": 0.001, "ns": 0.000001}
"""Unit of a time → milliseconds."""

MICROS = {"s": 1_000_000.0, "ms": 1000.0, "us": 1.0, "ns": 0.001}
"""Unit of an instant → microseconds."""


def read_texts(
    paths: Sequence[str], delimiter: str, header: Sequence[str], on_error: Literal["store_rejects", "ignore_errors"]
) -> str:
    """Write the table of CSV files with the columns of `header`, all of them as text."""
    columns = ", ".join(f"{quote(name)}: 'VARCHAR'" for name in header)
    return f"""read_csv(
        {quote_all(paths)}, auto_detect = false, header = true, delim = {quote(delimiter)}, quote = '"', escape = '"',
        columns = {{{columns}}}, {on_error} = true)"""


def column_name(file: FilePlan, source: str) -> str:
    """Name a column of the file as queries do."""
    return f"c{file.layout.header.index(source)}"


def express(file: FilePlan, column: ColumnMap) -> str:
    """Write the expression that makes a column of the request row; NULL where the file has no value for it."""
    names = [column_name(file, source) for source in column.sources]
    if column.kind == "instant":
        return _instant(names[0], column.unit)
    if column.kind == "ended":
        spent = f"to_microseconds(CAST(round(coalesce(TRY_CAST({names[1]} AS DOUBLE), 0) * 1000) AS BIGINT))"
        return f"({_instant(names[0], column.unit)}) - {spent}"
    if column.kind == "route":
        return _route(names)
    if column.kind == "filled":
        return _filled(names)
    if column.target == "status_code":
        return f"TRY_CAST({_status(names[0])} AS SMALLINT)"
    return _EXPRESSIONS[column.kind].format(
        name=names[0],
        true=_true(names[0]),
        status_fails=_status_fails(names[-1]),
        texts=", ".join(f"CAST({name} AS VARCHAR)" for name in names),
        integer=_INTEGERS.get(column.target),
        scale=SCALES.get(column.unit),
    )


_EXPRESSIONS = {
    "text": "concat_ws(' ', {texts})",
    "integer": "TRY_CAST({name} AS {integer})",
    "number": "TRY_CAST({name} AS DOUBLE) * {scale}",
    "true": "{true}",
    "false": "NOT {true}",
    "status": "{status_fails}",
    "unexpected": "coalesce(NOT {true}, {status_fails})",
    "zero": "TRY_CAST({name} AS DOUBLE) = 0",
    "nonzero": "TRY_CAST({name} AS DOUBLE) <> 0",
}

_INTEGERS = {"response_bytes": "BIGINT", "user_count": "INTEGER"}


def _true(name: str) -> str:
    """Write the expression for a boolean, in any of its spellings."""
    text = f"lower(trim(CAST({name} AS VARCHAR)))"
    return f"""(CASE WHEN {text} IN ('true', 't', 'yes', 'y', 'on', '1', '1.0') THEN true
        WHEN {text} IN ('false', 'f', 'no', 'n', 'off', '0', '0.0') THEN false END)"""


def _status(name: str) -> str:
    """Write the expression for a status of HTTP, which may be followed by words (`200 OK`)."""
    pattern = quote(r"^\s*(HTTP/\S+\s+)?(\d{1,5})(\.0*)?(\s.*)?$")
    return f"TRY_CAST(regexp_extract(CAST({name} AS VARCHAR), {pattern}, 2) AS INTEGER)"


def _status_fails(name: str) -> str:
    """Write the expression for failure by status: 0 is no answer; NULL for a text that is no status of HTTP."""
    status = _status(name)
    return f"(CASE WHEN {status} = 0 OR {status} >= 400 THEN true WHEN {status} >= 100 THEN false END)"


_WORDS_FOR_NOTHING = "'null', 'none', 'nan', 'na', 'n/a', '-'"
_METHODS = "('GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS', 'TRACE', 'CONNECT')"


def _filled(names: list[str]) -> str:
    """Write the expression for failure by a text, or by a status where there is one."""
    text = f"coalesce(CAST({names[0]} AS VARCHAR), '')"
    filled = f"({text} <> '' AND lower(trim({text})) NOT IN ({_WORDS_FOR_NOTHING}))"
    if len(names) == 1:
        return filled
    fails = _status_fails(names[1])
    of_http = f"coalesce(upper(CAST({names[2]} AS VARCHAR)) IN {_METHODS}, false)" if len(names) > 2 else "false"
    by_number = f"coalesce({_status(names[1])} >= 400, false)"
    return f"(CASE WHEN {filled} THEN true WHEN {of_http} THEN {fails} ELSE {by_number} END)"


def _route(names: list[str]) -> str:
    """Write the expression for a method and a path; a name that is no URL stays as it is."""
    filled = [f"nullif({name}, '')" for name in names[1:]]
    target = f"coalesce({', '.join(filled)})"
    path = f"regexp_replace(regexp_replace({target}, '^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*', ''), '[?#].*$', '')"
    is_url = f"regexp_matches({target}, '^[A-Za-z][A-Za-z0-9+.-]*://')"
    shown = f"CASE WHEN {is_url} THEN coalesce(nullif({path}, ''), '/') ELSE {target} END"
    return f"CASE WHEN {target} IS NOT NULL THEN concat_ws(' ', nullif({names[0]}, ''), {shown}) END"


_LAST_MICROS = 9e18


def _instant(name: str, unit: str) -> str:
    if unit == "iso":
        return f"TRY_CAST({name} AS TIMESTAMPTZ)"
    micros = f"TRY_CAST({name} AS DOUBLE) * {MICROS[unit]}"
    bounded = f"CASE WHEN abs({micros}) < {_LAST_MICROS} THEN CAST(round({micros}) AS BIGINT) END"
    return f"make_timestamp({bounded}) AT TIME ZONE 'UTC'"


def is_nothing(name: str) -> str:
    """Write the condition that a number is missing: empty, or a word that tools write for a missing value."""
    return f"coalesce(lower(trim(CAST({name} AS VARCHAR))), '') IN ('', {_WORDS_FOR_NOTHING})"


def meet(file: FilePlan, conditions: tuple[Condition, ...]) -> str:
    """Write the condition that a row meets all of `conditions`."""
    return " AND ".join(f"coalesce({_test(file, condition)}, false)" for condition in conditions)


def _test(file: FilePlan, condition: Condition) -> str:
    column = column_name(file, condition.column)
    if condition.test in {"starts", "starts_not"}:
        starts = " OR ".join(f"starts_with(coalesce({column}, ''), {quote(text)})" for text in condition.texts)
        return f"({starts})" if condition.test == "starts" else f"NOT ({starts})"
    if condition.test == "nonzero":
        return f"TRY_CAST({column} AS DOUBLE) <> 0"
    texts = ", ".join(quote(text) for text in condition.texts)
    return f"{column} {'NOT ' if condition.test == 'is_not' else ''}IN ({texts})"
