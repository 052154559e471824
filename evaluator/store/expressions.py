"""SQL over the columns of a foreign file: the columns of a request row, and conditions on rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from evaluator.records import ColumnMap, Condition, FileLayout, FilePlan
from evaluator.store.engine import quote, quote_files, quote_name

SCALES = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}
"""Unit of a time → two numbers: milliseconds are a time multiplied by the first and divided by the second.

Multiplied by 0.001 instead, many times would differ in their last digit.
"""

MICROS = {"s": 1_000_000.0, "ms": 1000.0, "us": 1.0, "ns": 0.001}
"""Unit of an instant → microseconds."""


def read_texts(
    paths: Sequence[str],
    delimiter: str,
    header: Sequence[str],
    on_error: Literal["store_rejects", "ignore_errors"],
    further_options: str = "",
) -> str:
    """Write the call of DuckDB's `read_csv` that reads CSV files with the columns `header`, each as text.

    `on_error`: rows that cannot be split are stored in the table `reject_errors`, or ignored.
    `further_options`: SQL of options, after a comma.
    """
    columns = ", ".join(f"{quote(name)}: 'VARCHAR'" for name in header)
    return f"""read_csv(
        {quote_files(paths)}, auto_detect = false, header = true, delim = {quote(delimiter)}, quote = '"',
        escape = '"', columns = {{{columns}}}, compression = 'none', hive_partitioning = false,
        {on_error} = true{further_options})"""


def access_column(layout: FileLayout, position: int) -> str:
    """Write the SQL expression for a column of a file, by its position in the header."""
    if layout.reader == "json":
        # A JSON pointer: it needs no quotes, and only these two characters of a name are written in another way.
        pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in layout.paths[position])
        return f"json_extract_string(json, {quote(pointer)})"
    if not layout.paths:
        return quote_name(layout.header[position])
    first, *others = layout.paths[position]
    expression = quote_name(first)
    for name in others:
        expression = f"struct_extract({expression}, {quote(name)})"
    return expression


def column_name(file: FilePlan, source: str) -> str:
    """Return the name of a column of the file in queries: c0, c1, … by its position in the header."""
    return f"c{file.layout.header.index(source)}"


def express(file: FilePlan, column: ColumnMap) -> str:
    """Write the SQL expression that makes a column of a request row from its `sources`, columns of the file.

    The column's `kind` says how, such as "number" or "route". The expression is NULL where the file has no value that
    can be read.
    """
    if column.kind == "constant":
        return f"CAST({quote(column.constant)} AS {_TYPES[column.target]})"
    names = [column_name(file, source) for source in column.sources]
    if column.kind == "instant":
        return _express_time(names[0] if len(names) == 1 else _join_all(names), column.unit)
    if column.kind == "ended":
        # The time of the end (first source) minus the milliseconds that the request took (second source).
        duration = f"to_microseconds(CAST(round(coalesce(TRY_CAST({names[1]} AS DOUBLE), 0) * 1000) AS BIGINT))"
        return f"({_express_time(names[0], column.unit)}) - {duration}"
    if column.kind == "route":
        return _express_route(names)
    if column.kind == "filled":
        return _express_failure_by_text(names)
    if column.target == "status_code":
        return f"TRY_CAST({_express_status(names[0])} AS SMALLINT)"
    factor, divisor = SCALES.get(column.unit, (1, 1))  # to milliseconds
    # Each template uses only some of these.
    return _EXPRESSIONS[column.kind].format(
        name=names[0],
        true=_express_boolean(names[0]),  # a text such as "yes"
        status_fails=_express_failure_by_status(names[-1]),  # the only source of `status`, the second of `unexpected`
        texts=", ".join(f"CAST({name} AS VARCHAR)" for name in names),
        integer=_INTEGERS.get(column.target),  # SQL type
        factor=factor,
        divisor=divisor,
        sum=" + ".join(f"TRY_CAST({name} AS DOUBLE)" for name in names),
    )


_EXPRESSIONS = {
    "text": "concat_ws(' ', {texts})",
    "integer": "TRY_CAST({name} AS {integer})",
    "number": "({sum}) * {factor} / {divisor}",
    "clock": "epoch_ns({name}) / 1000000",
    "true": "{true}",
    "false": "NOT {true}",
    "status": "{status_fails}",
    "unexpected": "coalesce(NOT {true}, {status_fails})",
    "zero": "TRY_CAST({name} AS DOUBLE) = 0",
    "nonzero": "TRY_CAST({name} AS DOUBLE) <> 0",
}

_INTEGERS = {"response_bytes": "BIGINT", "user_count": "INTEGER"}
_TYPES = {
    **dict.fromkeys(("endpoint", "instance", "exception"), "VARCHAR"),
    **_INTEGERS,
    "failed": "BOOLEAN",
    "status_code": "SMALLINT",
}
"""Column of a request row that may be a constant → its SQL type."""


def _join_all(names: list[str]) -> str:
    """Write the expression that joins texts with a space; NULL if one of them is missing."""
    return " || ' ' || ".join(f"nullif(trim(CAST({name} AS VARCHAR)), '')" for name in names)


def _express_boolean(name: str) -> str:
    """Write the expression for a boolean, in any of its spellings; NULL for another text."""
    text = f"lower(trim(CAST({name} AS VARCHAR)))"
    return f"""(CASE WHEN {text} IN ('true', 't', 'yes', 'y', 'on', '1', '1.0') THEN true
        WHEN {text} IN ('false', 'f', 'no', 'n', 'off', '0', '0.0') THEN false END)"""


def _express_status(name: str) -> str:
    """Write the expression for an HTTP status as a number, from texts such as `200`, `200 OK` and `HTTP/1.1 200 OK`."""
    pattern = quote(r"^\s*(HTTP/\S+\s+)?(\d{1,5})(\.0*)?(\s.*)?$")
    return f"TRY_CAST(regexp_extract(CAST({name} AS VARCHAR), {pattern}, 2) AS INTEGER)"


def _express_failure_by_status(name: str) -> str:
    """Write the expression for whether a request failed by its status; NULL for a text that is no HTTP status.

    Failures are 0 (no answer) and 400 and above.
    """
    status = _express_status(name)
    return f"(CASE WHEN {status} = 0 OR {status} >= 400 THEN true WHEN {status} >= 100 THEN false END)"


_WORDS_FOR_NOTHING = "'null', 'none', 'nan', 'na', 'n/a', '-'"
_METHODS = "('GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS', 'TRACE', 'CONNECT')"


def _express_failure_by_text(names: list[str]) -> str:
    """Write the expression for whether a request failed: because it has a text of an error, or by its status.

    `names`: columns of the text, of the status, and of the HTTP method. The last, or the last two, may be missing.
    """
    text = f"coalesce(CAST({names[0]} AS VARCHAR), '')"
    has_text = f"({text} <> '' AND lower(trim({text})) NOT IN ({_WORDS_FOR_NOTHING}))"
    if len(names) == 1:
        return has_text
    # An HTTP request without a status is unknown (NULL); a request of another protocol has none, and is a success.
    is_http = f"coalesce(upper(CAST({names[2]} AS VARCHAR)) IN {_METHODS}, false)" if len(names) > 2 else "false"
    http_fails = _express_failure_by_status(names[1])
    other_fails = f"coalesce({_express_status(names[1])} >= 400, false)"
    return f"(CASE WHEN {has_text} THEN true WHEN {is_http} THEN {http_fails} ELSE {other_fails} END)"


def _express_route(names: list[str]) -> str:
    """Write the expression for a method and a path, such as `GET /cart`; NULL if no column has a URL.

    `names`: the column of the method, then one or more of the URL, of which the first that is not empty counts. A URL
    loses its host and its query; a text that is no URL stays as it is.
    """
    urls = [f"nullif({name}, '')" for name in names[1:]]
    url = f"coalesce({', '.join(urls)})"
    # Without scheme and host, then without query and fragment.
    path = f"regexp_replace(regexp_replace({url}, '^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*', ''), '[?#].*$', '')"
    is_url = f"regexp_matches({url}, '^[A-Za-z][A-Za-z0-9+.-]*://')"
    shown = f"CASE WHEN {is_url} THEN coalesce(nullif({path}, ''), '/') ELSE {url} END"
    return f"CASE WHEN {url} IS NOT NULL THEN concat_ws(' ', nullif({names[0]}, ''), {shown}) END"


_LAST_MICROS = 9e18
"""Longest time (us) since 1970 that fits into 64 bits, rounded down."""


def _express_time(name: str, unit: str) -> str:
    """Write the expression for a time: NULL if it cannot be read or is out of range.

    `name`: a column, or an expression. `unit`: iso or a format for a text, else of a number since 1970.
    """
    if unit == "iso":
        return f"TRY_CAST({name} AS TIMESTAMPTZ)"
    if is_text_time(unit):  # without a zone it is UTC, as the engine is set
        return f"CAST(try_strptime(trim(CAST({name} AS VARCHAR)), {quote(unit)}) AS TIMESTAMPTZ)"
    micros = f"TRY_CAST({name} AS DOUBLE) * {MICROS[unit]}"
    bounded = f"CASE WHEN abs({micros}) < {_LAST_MICROS} THEN CAST(round({micros}) AS BIGINT) END"
    return f"make_timestamp({bounded}) AT TIME ZONE 'UTC'"


def is_text_time(unit: str) -> bool:
    """Whether times in a `unit` are texts, so that they may be local: iso, or a format."""
    return unit not in MICROS


def is_nothing(name: str) -> str:
    """Write the condition that a number is missing: empty, or a word that tools write for a missing value."""
    return f"coalesce(lower(trim(CAST({name} AS VARCHAR))), '') IN ('', {_WORDS_FOR_NOTHING})"


def write_condition(file: FilePlan, conditions: tuple[Condition, ...]) -> str:
    """Write the SQL condition that a row meets all `conditions`; a value that cannot be tested does not meet it."""
    return " AND ".join(f"coalesce({_write_test(file, condition)}, false)" for condition in conditions)


def _write_test(file: FilePlan, condition: Condition) -> str:
    """Write the SQL condition for one test of a column: `condition.test` says how it compares with `condition.texts`.

    NULL for a row whose column has no value, except for `starts` and `starts_not`: there it counts as an empty text.
    """
    column = column_name(file, condition.column)
    if condition.test in {"starts", "starts_not"}:
        starts = " OR ".join(f"starts_with(coalesce({column}, ''), {quote(text)})" for text in condition.texts)
        return f"({starts})" if condition.test == "starts" else f"NOT ({starts})"
    if condition.test == "nonzero":
        return f"TRY_CAST({column} AS DOUBLE) <> 0"
    texts = ", ".join(quote(text) for text in condition.texts)
    comparison = "NOT IN" if condition.test == "is_not" else "IN"
    return f"{column} {comparison} ({texts})"
