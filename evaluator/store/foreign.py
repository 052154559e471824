"""Reading of foreign files: one query per file gives request rows, with a mark on rows that are no requests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from evaluator.errors import InputError
from evaluator.records import FilePlan, LeftOutKind
from evaluator.store.engine import Engine, escape_file, quote, quote_file, quote_name
from evaluator.store.expressions import access_column, column_name, express, is_nothing, read_texts, write_condition
from evaluator.store.rejections import count_swallowed, refuse_rows, word_rejection
from evaluator.store.rollup import HIGHEST_MS
from evaluator.store.sub_results import write_sub_results_query
from evaluator.textfiles import find_line

MARK_COLUMN = "worker"
"""Column of a request row that holds its mark while a file is converted: foreign files name no worker."""

REQUEST_MARK = "import"
"""Mark of a request. The mark of any other row is its kind, a separator, and a name that may be empty."""

_SEPARATOR = "\x1f"
_BAD_ROW_MARK = f"{LeftOutKind.BAD_ROW}{_SEPARATOR}"


def split_mark(mark: str) -> tuple[LeftOutKind, str]:
    """Split the mark of a row that is no request into the kind of the row and its name, which may be empty."""
    kind, _, detail = mark.partition(_SEPARATOR)
    return LeftOutKind(kind), detail


def select_rows(file: FilePlan, latest: datetime) -> str:
    """Write the SQL query that makes rows of the request schema from all rows of a file, requests or not.

    The column MARK_COLUMN says what each row is: a request, a bad row, or another kind of row; rows that only describe
    another row are left out. A request after `latest` is bad. Texts of sensitive requests that may quote a request or
    its answer are dropped. The query has the parameters `run`, `arm` and `service`.
    """
    exprs = _express_columns(file)
    exception = "'failure'" if file.sensitive else f"nullif({exprs.get('exception', 'CAST(NULL AS VARCHAR)')}, '')"
    # Defaults: an instance without a name is the arm; a failure may have no time; status 0 means no answer.
    return f"""
        SELECT
            CAST($run AS VARCHAR) AS run, CAST($arm AS VARCHAR) AS arm, CAST($service AS VARCHAR) AS service,
            coalesce(nullif({exprs.get("instance", "''")}, ''), $arm) AS instance,
            CASE
                {_mark_others(file)}
                WHEN ({_express_problem(file, exprs, latest)}) IS NOT NULL THEN {quote(_BAD_ROW_MARK)}
                ELSE '{REQUEST_MARK}'
            END AS {MARK_COLUMN},
            ts, {_PATH_OF_ENDPOINT if file.sensitive else "endpoint"} AS endpoint, coalesce(ms, 0) AS response_time_ms,
            {exprs.get("response_bytes", "CAST(NULL AS BIGINT)")} AS response_bytes,
            nullif({exprs.get("status_code", "CAST(NULL AS SMALLINT)")}, 0) AS status_code,
            failed,
            CASE WHEN failed THEN {exception} END AS exception,
            {exprs.get("user_count", "CAST(NULL AS INTEGER)")} AS user_count,
            CAST(NULL AS MAP(VARCHAR, VARCHAR)) AS context
        FROM ({_select_required(file, exprs)}) WHERE {_is_counted(file)}"""


_PATH_OF_ENDPOINT = "regexp_replace(endpoint, '[?#;].*$', '', 's')"
"""An endpoint without what follows its path."""


def _express_columns(file: FilePlan) -> dict[str, str]:
    """Return column of a request row → SQL expression that makes it from columns of the file."""
    return {column.target: express(file, column) for column in file.layout.columns}


def _select_required(file: FilePlan, exprs: Mapping[str, str]) -> str:
    """Write the query that reads the columns of a file, and adds the required ones: `ts`, `endpoint`, `ms`, `failed`.

    `exprs`: column of a request row → SQL expression that makes it from columns of the file.
    """
    # Some rows that are no requests, such as checks of k6, show failure in their own way.
    cases = [
        f"WHEN {write_condition(file, rows.conditions)} THEN {express(file, rows.failed)}"
        for rows in file.layout.others
        if rows.failed is not None
    ]
    failed = f"CASE {' '.join(cases)} ELSE {exprs['failed']} END" if cases else exprs["failed"]
    return f"""
        SELECT
            {exprs["ts"]} AS ts, {exprs["endpoint"]} AS endpoint, {exprs["response_time_ms"]} AS ms,
            {failed} AS failed, raw.*
        FROM ({_select_raw(file, exprs)}) AS raw"""


def _is_counted(file: FilePlan) -> str:
    """Write the condition for rows that count as read: all except those that only describe another row."""
    conditions = [f"NOT ({write_condition(file, rows.conditions)})" for rows in file.layout.others if rows.kind is None]
    return " AND ".join(conditions) or "true"


def _select_raw(file: FilePlan, exprs: Mapping[str, str]) -> str:
    """Write the query that reads the needed columns of a file as they are, by its kind of reader: Parquet, k6 or CSV.

    The columns are named c0, c1, … by their position in the file, so that no name clashes with ours. If the layout can
    have sub-results, the column `is_sub_result` is added. `exprs`: column of a request row → SQL expression over c0, …
    """
    layout = file.layout
    used_columns = {source for column in layout.columns for source in column.sources}
    used_columns |= {condition.column for rows in layout.others for condition in rows.conditions}
    used_columns |= {source for rows in layout.others if rows.failed for source in rows.failed.sources}
    used_columns |= {rows.detail_column for rows in layout.others}
    used_columns |= {layout.line_column, layout.count_column, layout.kind_column, layout.unreadable_column}
    if layout.sub_results:
        used_columns |= {layout.sub_results.label, layout.sub_results.thread}
    # The set has an empty name for each column that the layout does not have; no column of the header has that name.
    renamed = ", ".join(
        f"{access_column(layout, position)} AS c{position}"
        for position, name in enumerate(layout.header)
        if name in used_columns
    )
    if layout.reader == "parquet":
        return f"SELECT {renamed} FROM read_parquet({quote_file(file.readable_path)}, hive_partitioning = false)"
    if layout.reader == "json":
        # A line that is no JSON has NULL everywhere.
        return f"""
            SELECT {renamed} FROM read_json_objects(
                {quote_file(file.readable_path)}, format = 'newline_delimited', ignore_errors = true,
                compression = 'none', hive_partitioning = false)"""
    if layout.reader == "k6":
        # A line that is no JSON has NULL everywhere. A line of type Metric only defines a metric: an empty name makes
        # it a row that does not count.
        tags = [quote_name(name) for name in layout.header if name not in ("metric", "time", "value")]
        tag_types = ", ".join(f"{tag} VARCHAR" for tag in tags)
        picked_tags = ", ".join(f"data.tags.{tag} AS {tag}" for tag in tags)
        return f"""
            SELECT {renamed} FROM (
                SELECT CASE WHEN type = 'Metric' THEN '' ELSE metric END AS metric, data."time" AS "time",
                    data.value AS value, {picked_tags}
                FROM read_json(
                    {quote_file(file.readable_path)}, format = 'newline_delimited', ignore_errors = true,
                    compression = 'none', hive_partitioning = false,
                    columns = {{type: 'VARCHAR', metric: 'VARCHAR',
                        data: 'STRUCT("time" VARCHAR, value VARCHAR, tags STRUCT({tag_types}))'}}))"""
    rows = read_texts([file.readable_path], layout.delimiter, layout.header, "store_rejects")
    table = f"SELECT {renamed} FROM {rows}"
    if layout.sub_results is None:
        return table
    transactions = [
        write_condition(file, rows.conditions) for rows in layout.others if rows.kind is LeftOutKind.SUMMARY
    ]
    return write_sub_results_query(
        file,
        table,
        start_sql=exprs["ts"],
        duration_ms_sql=exprs["response_time_ms"],
        is_transaction_sql=" OR ".join(transactions) or "false",
    )


# ------------------------------------------------------------------ marks

_EARLIEST = "TIMESTAMPTZ '1970-01-01 00:00:00+00'"


_LONGEST_NAME = 60
"""Most characters of the name of a row that is no request."""


def _mark_others(file: FilePlan) -> str:
    """Write the WHEN branches of a CASE that give rows that are no requests their mark: kind, separator and name.

    The name says what the row is, where the kind alone does not. Empty if all rows are requests.
    """
    cases = []
    for rows in file.layout.others:
        if rows.kind is not None:  # None: rows that only describe another row, and get no mark
            name = "''"
            if rows.detail_column:
                name = f"coalesce(left({column_name(file, rows.detail_column)}, {_LONGEST_NAME}), '')"
            cases.append(
                f"WHEN {write_condition(file, rows.conditions)} THEN {quote(rows.kind + _SEPARATOR)} || {name}"
            )
    if file.layout.sub_results is not None:
        cases.append(f"WHEN is_sub_result THEN {quote(LeftOutKind.PART + _SEPARATOR)}")
    return " ".join(cases)


def _express_problem(
    file: FilePlan, exprs: Mapping[str, str], latest: datetime, median_time: datetime | None = None
) -> str:
    """Write the SQL expression for what makes a row bad; NULL for a good row.

    Its value is the name of a column of a request row, or a key of `_REASONS`. The query around it has the converted
    columns `ts`, `ms`, `failed` and `endpoint`, NULL where they cannot be read, and the columns of the file.

    Args:
        file: The file, with its layout: which of its columns a request row is made from.
        exprs: Column of a request row → SQL expression.
        latest: Latest time that is allowed.
        median_time: Time from which no request may be far; `None`: no test.
    """
    # Column of a request row → name of the first column of the file that it is made from; constants have none.
    source_of = {c.target: column_name(file, c.sources[0]) for c in file.layout.columns if c.sources}
    # An optional column may be empty, but not hold what cannot be read.
    optional = " ".join(
        f"WHEN {exprs[target]} IS NULL AND nullif(CAST({source_of[target]} AS VARCHAR), '') IS NOT NULL THEN '{target}'"
        for target in ("response_bytes", "user_count")
        if target in source_of
    )
    # A name that is made of several columns needs a text in each.
    endpoint = next(column for column in file.layout.columns if column.target == "endpoint")
    has_empty_part = " OR ".join(
        f"coalesce(trim(CAST({column_name(file, source)} AS VARCHAR)), '') = ''"
        for source in (endpoint.sources if endpoint.kind == "text" else ())
    )
    duration = next(column for column in file.layout.columns if column.target == "response_time_ms")
    has_no_duration = " AND ".join(is_nothing(column_name(file, source)) for source in duration.sources)
    layout = file.layout
    # The column that says how many requests a row sums up, and the one that says what the row is (request or other).
    sums_up_several = f"TRY_CAST({column_name(file, layout.count_column)} AS DOUBLE) > 1" if layout.count_column else ""
    lacks_kind = f"coalesce({column_name(file, layout.kind_column)}, '') = ''" if layout.kind_column else ""
    is_unreadable = (
        f"coalesce({column_name(file, layout.unreadable_column)}, '') <> ''" if layout.unreadable_column else ""
    )
    # Of several problems, the first counts. A row without a time is no row of the tool: its kind is not tested.
    # A failure may have no response time, if its column is empty.
    return f"""
        CASE
            {f"WHEN {is_unreadable} THEN 'unreadable'" if is_unreadable else ""}
            {f"WHEN {sums_up_several} THEN 'count'" if sums_up_several else ""}
            {f"WHEN ts IS NOT NULL AND {lacks_kind} THEN 'kind'" if lacks_kind else ""}
            WHEN ts IS NULL OR ts < {_EARLIEST} THEN 'ts'
            WHEN ts > {_quote_time(latest)} THEN 'future'
            {f"WHEN {_is_far(median_time)} THEN 'stray'" if median_time else ""}
            WHEN coalesce(trim(endpoint), '') = '' OR {has_empty_part or "false"} THEN 'endpoint'
            WHEN contains(endpoint, chr(10)) THEN 'lines'
            WHEN failed IS NULL THEN 'failed'
            WHEN ms IS NULL AND NOT (failed AND {has_no_duration}) THEN 'response_time_ms'
            WHEN NOT (isfinite(ms) AND ms BETWEEN 0 AND {HIGHEST_MS}) THEN 'response_time_ms'
            {optional}
        END"""


def _quote_time(time: datetime) -> str:
    return f"TIMESTAMPTZ '{time.isoformat()}'"


# ------------------------------------------------------------------ times far from all others

LONGEST_SPAN = timedelta(days=366)
"""Longest time that the requests of a file span. A request further than this from their median time is a bad row."""

_YEAR_2000 = "TIMESTAMPTZ '2000-01-01 00:00:00+00'"


def find_median_time(engine: Engine, staged: Path, file: FilePlan) -> datetime | None:
    """Find the median time of the requests in a staged file, to recognise times far from it.

    Returns `None` if all requests are within a year of each other: then no time is far. Times that count from the start
    of a test are in 1970: if there are times since 2000, only these count. Raises InputError if `file`, from which the
    rows were read, has times that the statistics in it rule out, so that these rows could not be recognised as bad.
    """
    from_requests = f"FROM read_parquet(?) WHERE {MARK_COLUMN} = ?"
    parameters = [escape_file(staged), REQUEST_MARK]
    [(earliest, latest)] = engine.execute(f"SELECT min(ts), max(ts) {from_requests}", parameters).fetchall()
    # DuckDB gives a time as text if it is too far away for Python.
    if any(isinstance(time, str) for time in (earliest, latest)):
        raise InputError(
            f"{file.path} is damaged: it has times that its own statistics rule out", hint="fetch it again"
        )
    if earliest is None or latest - earliest <= LONGEST_SPAN:
        return None
    query = f"SELECT quantile_disc(ts, 0.5) FILTER (ts >= {_YEAR_2000}), quantile_disc(ts, 0.5) {from_requests}"
    [(median_since_2000, median_of_all)] = engine.execute(query, parameters).fetchall()
    median_time: datetime = median_since_2000 or median_of_all
    return median_time


def _is_far(median_time: datetime) -> str:
    """Write the condition that a request is more than a year from `median_time`, the median time of its file."""
    return f"ts NOT BETWEEN {_quote_time(median_time - LONGEST_SPAN)} AND {_quote_time(median_time + LONGEST_SPAN)}"


def write_final_mark(median_time: datetime | None) -> str:
    """Write the SQL expression for the final mark of a staged row, which has a first mark in MARK_COLUMN.

    It differs for a request that is far from the `median_time` of the file: a bad row. `None`: no request is far.
    """
    if median_time is None:
        return MARK_COLUMN
    is_stray = f"{MARK_COLUMN} = '{REQUEST_MARK}' AND {_is_far(median_time)}"
    return f"CASE WHEN {is_stray} THEN {quote(_BAD_ROW_MARK)} ELSE {MARK_COLUMN} END"


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
    """Read which rows of a CSV file DuckDB could not split when it last read the file, and clear DuckDB's list of them.

    A quote that is never closed swallows the rows after it, and these are counted, too. Raises InputError if they are
    too many to count.
    """
    if file.layout.reader != "csv":
        return Rejected()
    rows = engine.execute(
        "SELECT line, coalesce(column_name, ''), error_message, error_type, coalesce(csv_line, '')"
        " FROM reject_errors ORDER BY ALL"
    ).fetchall()
    engine.execute("DROP TABLE reject_errors")
    engine.execute("DROP TABLE reject_scans")
    if not rows:
        return Rejected()
    # Number of a row → how many rows it swallowed, itself included. DuckDB may list several errors of one row, and cuts
    # the text of a row.
    rows_by_record = {}
    for record, _, message, error_type, text in rows:
        rows_by_record[record] = count_swallowed(file.path, file.layout.delimiter, record, message, error_type, text)
    first_record, column, message, _, _ = rows[0]
    return Rejected(sum(rows_by_record.values()), int(first_record), column, word_rejection(message))


def refuse_bad_rows(
    engine: Engine, file: FilePlan, latest: datetime, median_time: datetime | None, rejected: Rejected, count: int
) -> InputError:
    """Make the error for the bad rows of a file: where the first is (file, line, column), its value, and the `count`.

    `latest`: requests after it were marked as bad; `median_time`: also those far from it, unless it is `None`.
    `rejected`: rows that could not be split into columns.
    """
    if rejected.count:
        position = f"{file.path}:{find_line(Path(file.path), file.layout.delimiter, rejected.record)}"
        text = f"{position}: {rejected.reason}" + (f" (column '{rejected.column}')" if rejected.column else "")
    else:
        text = _describe_bad_value(engine, file, latest, median_time)
    return refuse_rows(text, f"{count} rows of this file" if count > 1 else "")


def _describe_bad_value(engine: Engine, file: FilePlan, latest: datetime, median_time: datetime | None) -> str:
    """Say where the first bad row of a file is, which value makes it bad and why. The file is read again."""
    layout = file.layout
    # Problem (a column of a request row, or a key of `_REASONS`) → columns of the file that the message is about: all
    # sources of a column, except that only the first source of `ended` is a time, and only the first two of `filled`
    # show failure.
    shown_sources = {"ended": 1, "filled": 2}
    columns_by_problem = {column.target: column.sources[: shown_sources.get(column.kind)] for column in layout.columns}
    columns_by_problem |= {
        "stray": columns_by_problem["ts"],
        "future": columns_by_problem["ts"],
        "lines": columns_by_problem["endpoint"],
        "count": (layout.count_column,),
        "kind": (layout.kind_column,),
        "unreadable": (layout.unreadable_column,),
    }
    number, problem, value = _find_first_bad_row(engine, file, latest, median_time, columns_by_problem)
    if layout.line_column or layout.reader == "k6":
        position = f"{int(number)}"  # already the number of a line
    elif layout.reader in ("parquet", "json"):
        position = f"row {number}"
    else:
        position = f"{find_line(Path(file.path), layout.delimiter, int(number) + 1)}"  # the header is record 1
    if layout.reader == "k6" and not value and problem == "ts":
        return f"{file.path}:{position}: the line is not a point of k6"
    if problem == "unreadable":
        return f"{file.path}:{position}: '{value}' is not a whole row of format '{layout.format}'"
    if layout.reader == "json" and not value and problem == "ts":
        names = " and ".join(columns_by_problem["ts"])
        return f"{file.path}:{position}: the line is no JSON object, or has no value of '{names}'"
    in_one_line = value.replace("\r", "\\r").replace("\n", "\\n")
    shown_value = f"the value '{in_one_line[:80]}'" if value.strip() else "no value"
    reason = _give_reason(problem, value, median_time)
    if layout.reader == "k6" and problem == "failed":
        reason += " (k6 writes expected_response and status unless --system-tags leaves them out)"
    return f"{file.path}:{position}: column '{' + '.join(columns_by_problem[problem])}' has {shown_value}, {reason}"


def _find_first_bad_row(
    engine: Engine,
    file: FilePlan,
    latest: datetime,
    median_time: datetime | None,
    columns_by_problem: Mapping[str, Sequence[str]],
) -> tuple[int | str, str, str]:
    """Read a file again to find its first bad row.

    `columns_by_problem`: problem → columns of the file that it is about. Returns the number of the row's line if the
    layout shows it, else of the row, from 1; its problem, a key of `columns_by_problem`; and its values of these
    columns, joined by spaces.
    """
    layout, exprs = file.layout, _express_columns(file)
    value_cases = " ".join(
        f"WHEN '{problem}' THEN concat_ws(' ', {', '.join(column_name(file, source) for source in sources)})"
        for problem, sources in columns_by_problem.items()
        if sources and all(sources)  # a constant has none, and a layout without such a column has an empty name
    )
    shown_number = column_name(file, layout.line_column) if layout.line_column else "number"
    # The query for sub-results of a CSV file has numbered the rows already.
    row_number = "record" if layout.sub_results and layout.reader == "csv" else "row_number() OVER ()"
    # Rows get their numbers before any row is removed. Then only requests remain, with their problems.
    other_mark = f"CASE {_mark_others(file)} WHEN true THEN '' END"  # empty for a request
    numbered = f"SELECT *, {row_number} AS number FROM ({_select_required(file, exprs)})"
    requests = f"""SELECT *, {_express_problem(file, exprs, latest, median_time)} AS problem FROM ({numbered})
        WHERE {_is_counted(file)} AND {other_mark} = ''"""
    engine.execute("SET preserve_insertion_order = true")  # numbers of rows are in the order of the file
    rows = engine.execute(
        f"""SELECT {shown_number}, problem, CASE problem {value_cases} END FROM ({requests})
        WHERE problem IS NOT NULL ORDER BY number LIMIT 1"""
    ).fetchall()
    engine.execute("SET preserve_insertion_order = false")
    if not rows:  # bad rows were counted before, but statistics in a damaged Parquet file may hide them now
        raise InputError(f"{file.path} is damaged: it has bad rows that cannot be found again", hint="write it again")
    number, problem, value = rows[0]
    return number, problem, value or ""


def _give_reason(problem: str, value: str, median_time: datetime | None) -> str:
    """Say why a value makes a row bad: `problem` is a key of `_REASONS`, or `stray` (a time far from all others).

    `median_time`: the median time of the file, if the row is too far from it.
    """
    if problem == "stray" and median_time is not None:
        return f"a year or more from the other times of the file, around {median_time:%Y-%m-%d}"
    if problem == "failed" and not value.strip():
        return "so it is not known whether the request failed"
    if problem == "response_time_ms" and _DURATION_AS_TEXT.search(value):
        return (
            "a duration as text: write all as numbers in one unit, and name it by --column response_time_ms=COLUMN:UNIT"
        )
    is_number = re.fullmatch(r"\s*\d[\d.,' \u00a0]*\s*", value)
    if is_number and re.search(r"[,' \u00a0]", value.strip()):
        return f"{_REASONS[problem]}: write numbers with a decimal point and no separator of thousands"
    return _REASONS[problem]


_DURATION_AS_TEXT = re.compile(
    r"\d:\d|\bdays?\b|^\s*-?P(T|\d)|\d\s*(ns|[uµμ]s|ms|s|m|h|d|nanos|micros|millis|msecs?|secs?|mins?|\w*seconds?"
    r"|minutes?|hours?)(?![a-z])",
    re.IGNORECASE,
)
"""A text such as `00:00:01.5`, `0 days`, `PT1.5S` (ISO 8601), `1m2.5s` and `12µs` (Go): its unit may differ in each
row, so it is not read."""

_REASONS = {
    "ts": "not a time from 1970 up to now, as a number, like 2026-11-24 16:00:00, or in the format that was given",
    "future": "a time in the future",
    "kind": "so it is not known what the row is",
    "count": "so the row sums up several requests; let JMeter send each sample (sample sender mode Standard)",
    "lines": "which has several lines: a quote before it is not closed",
    "endpoint": "not the name of an endpoint",
    "failed": "which does not show whether the request failed (true and false, 1 and 0, yes and no, or a status do)",
    "response_time_ms": "not a time of 0 to 31 years",
    "response_bytes": "not a number of bytes",
    "user_count": "not a number of users",
}
