"""SQL over the lines of an access log: what each line says of one request, whatever its format.

The query has three layers: the texts of a line (by the pattern, or of a JSON object), their values, and what follows
from these: the arm, the endpoint, failures, and what is wrong with a line.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import get_args

from evaluator.errors import InputError
from evaluator.records import LogColumn, LogField, LogLayout, LogOptions
from evaluator.store.engine import quote, quote_all, quote_name
from evaluator.store.expressions import MICROS, SCALES
from evaluator.store.log_endpoints import write_endpoint, write_path
from evaluator.store.rollup import HIGHEST_MS

UNKNOWN_ENDPOINT = "no request line"
"""Endpoint of requests whose request line could not be read: what the client sent was no HTTP."""

_NAME_CHARACTERS = 80
"""Most characters of a server's name that are kept."""


def write_requests(layout: LogLayout, options: LogOptions, latest: datetime, is_outside: str = "false") -> str:
    """Write the query that makes a row of each line that is not blank, from the table `lines` (number, line).

    A request that ended after `latest` is a bad line. `is_outside`: condition for requests outside of the period, by
    the column `ts`. Columns of the rows:

    - `number`: of the line; `problem`: why it could not be read (a key of `PROBLEMS`), `other` for a line that is no
      request by the layout, else NULL. The following are right only without a problem;
    - `arm`: NULL if the request belongs to none; `server`: NULL if no server answered; `named`: what shows the arm;
    - `ts`: start, `ended`; `ms`: time the client waited, 0 if unknown; `endpoint`, `bytes`, `status`;
    - `failed`, `exception`; `kind`: `client_abort`, `stream`, `outside_period`, or NULL;
    - `servers`, `statuses`, `times`: lists of the attempts if there were several, else NULL. A text begins with `>` if
      the attempt followed a redirect inside of the router;
    - `retries`: how often the router tried again, if the log only counts; `moved`: whether it may have changed servers;
    - `grpc_unread`: is it a request of gRPC without a status?
    """
    fields = {field.column: field for field in layout.fields}
    return f"""
        SELECT
            number, problem, CASE WHEN problem IS NULL AND {_belongs(options)} THEN arm END AS arm, server,
            left(coalesce(named, ''), {_NAME_CHARACTERS}) AS named, ts, ended, coalesce(ms, 0) AS ms,
            coalesce({write_endpoint("method", "path", options.endpoint_rules)}, {quote(UNKNOWN_ENDPOINT)}) AS endpoint,
            bytes, status, failed, CASE WHEN failed THEN exception END AS exception,
            CASE WHEN {is_outside} THEN 'outside_period' WHEN is_abort THEN 'client_abort'
                WHEN is_stream THEN 'stream' END AS kind,
            servers, statuses, times, retries, moved, grpc_unread
        FROM (
            SELECT *, {express_arm("named", options)} AS arm, {_express_problem(latest)} AS problem
            FROM ({_write_outcomes(layout, fields, options)}))"""


PROBLEMS: Mapping[str, str] = {
    "format": "the line does not have the format '{format}'",
    "time": "its time cannot be read",
    "future": "its time is in the future: is `sources.access_log.time_zone` of the policy right?",
    "status": "its status is no HTTP status",
    "response_time": "it has no response time of 0 to 31 years",
}
"""Why a line could not be read → the sentence."""


def _belongs(options: LogOptions) -> str:
    """Write the condition that a request with the column `arm` is one of that arm.

    Without a server only failures are, and only if the arm does not come from the server: a backend whose servers are
    all down fails, while a redirect that the router makes is no answer of the arm.
    """
    return "server IS NOT NULL" if options.arm_from == "server" else "(server IS NOT NULL OR failed)"


def check_layout(layout: LogLayout, options: LogOptions) -> None:
    """Raise InputError if the lines do not show the arm of a request."""
    columns = {field.column for field in layout.fields}
    has_arm = options.arm_from in columns or (options.arm_from == "server" and "attempt_servers" in columns)
    if not has_arm:
        raise InputError(
            f"the lines of format '{layout.format}' do not have the column '{options.arm_from}', which shows the arm",
            hint="log it, or name another column with --arm-from",
        )


# ------------------------------------------------------------------ texts


def _write_texts(layout: LogLayout) -> str:
    """Write the query of the texts of each line: `number`, `line` (unwrapped), and a column for each field, or NULL.

    Of a text that does not match, all columns are empty; of a line that is no JSON, all are NULL.
    """
    source = "SELECT number, line FROM lines"
    if layout.wrapped_in:
        unwrapped = f"TRY(json_extract_string(line, {quote(layout.wrapped_in)}))"
        source = f"SELECT number, coalesce({unwrapped}, line) AS line FROM ({source})"
    if layout.reader == "text":
        names = quote_all(f"g{position}" for position in range(len(layout.groups)))
        extracted = f"regexp_extract(line, {quote(_anchor(layout.pattern))}, {names})"
        values = {field.column: f"texts.g{layout.groups.index(field.source)}" for field in layout.fields}
    else:
        json = "line"
        if layout.pattern:
            json = f"regexp_extract(line, {quote(_anchor(layout.pattern))}, {layout.groups.index('json') + 1})"
        extracted = f"TRY(json_extract_string({json}, {quote_all(field.source for field in layout.fields)}))"
        values = {field.column: f"texts[{position}]" for position, field in enumerate(layout.fields, 1)}
    columns = ", ".join(f"{text} AS {_text(column)}" for column, text in values.items())
    missing = ", ".join(
        f"CAST(NULL AS VARCHAR) AS {_text(column)}" for column in get_args(LogColumn) if column not in values
    )
    all_columns = ", ".join(filter(None, (columns, missing)))
    return f"SELECT number, line, {all_columns} FROM (SELECT *, {extracted} AS texts FROM ({source}))"


def _text(column: str) -> str:
    """Name of the column of a query that holds the text of a column of the log."""
    return quote_name(f"{column}_text")


def _anchor(pattern: str) -> str:
    """Write the pattern of a whole line, with its end of line."""
    body = pattern.removeprefix("^")
    if body.endswith("$") and not body.endswith(r"\$"):
        body = body.removesuffix("$")
    return rf"^(?:{body})\s*$"


# ------------------------------------------------------------------ values

_VISIBLE = r"[^\s\x00]"
"""Pattern of a character of a line that is not blank."""


_SIZE = (
    "TRY_CAST(bytes_text AS BIGINT) - least(greatest(coalesce(TRY_CAST(header_bytes_text AS BIGINT), 0), 0), "
    "greatest(TRY_CAST(bytes_text AS BIGINT), 0))"
)
"""Expression of the size of an answer, without its header where the line has the size of that."""


def _write_values(layout: LogLayout, fields: Mapping[LogColumn, LogField], options: LogOptions) -> str:
    """Write the query of the values of each line; NULL for what a line does not say or cannot be read."""
    time = fields.get("time")
    factor, divisor = SCALES[time.unit] if time else (1, 1)
    moment = fields.get("started") or fields["ended"]
    moment_sql = _express_moment(f"{moment.column}_text", moment.unit, options.time_zone)
    if "request" in fields:
        request = r"regexp_extract(request_text, '^([A-Za-z][A-Za-z_-]{0,19}) (\S+)', ['method', 'target'])"
    else:
        request = "{'method': method_text, 'target': target_text}"
    is_matched = "coalesce(time_text, '') <> ''" if layout.reader == "text" else "coalesce(status_text, '') <> ''"
    is_other = "false"
    if layout.other_lines:
        is_other = (
            f"CASE WHEN {is_matched} THEN false ELSE regexp_matches(line, {quote(_anchor(layout.other_lines))}) END"
        )
    # Lists of attempts are split only where there are several.
    has_several = "(contains(attempt_servers_text, ', ') OR contains(attempt_servers_text, ' : '))"
    lists = ", ".join(
        f"CASE WHEN {has_several} THEN string_split(replace(attempt_{name}_text, ' : ', ', >'), ', ') END AS {name}"
        for name in ("servers", "statuses", "times")
    )
    server = "server_text" if "server" in fields else f"CASE WHEN {has_several} THEN NULL ELSE attempt_servers_text END"
    status = "TRY_CAST(status_text AS SMALLINT)"
    return f"""
        SELECT
            number, {is_matched} AS is_matched, {is_other} AS is_other, {request} AS request,
            {moment_sql} AS moment,
            TRY_CAST(time_text AS DOUBLE) * {factor} / {divisor} AS raw_ms, time_text,
            {status} AS raw_status, nullif(greatest(raw_status, 0), 0) AS status, status_text,
            {_SIZE} AS bytes, {server} AS server_text, backend_text, arm_text,
            {lists}, attempt_statuses_text, retries_text, termination_text AS termination,
            nullif(nullif(grpc_status_text, ''), '-') AS grpc_status, lower(upgrade_text) AS upgrade
        FROM ({_write_texts(layout)}) WHERE regexp_matches(line, {quote(_VISIBLE)})"""


def _express_moment(text: str, unit: str, time_zone: str) -> str:
    """Write the expression for a moment: NULL if it cannot be read. A time without a zone is in `time_zone`.

    The engine must be set to this zone.
    """
    if unit in MICROS:
        micros = f"TRY_CAST({text} AS DOUBLE) * {MICROS[unit]}"
        bounded = f"CASE WHEN abs({micros}) < 9e18 THEN CAST(round({micros}) AS BIGINT) END"
        return f"make_timestamp({bounded}) AT TIME ZONE 'UTC'"
    if unit == "iso":
        return f"TRY_CAST({text} AS TIMESTAMPTZ)"  # a time without a zone is in that of the engine
    if "%z" in unit:
        return f"try_strptime({text}, {quote(unit)})"
    return f"try_strptime({text}, {quote(unit)}) AT TIME ZONE {quote(time_zone)}"


# ------------------------------------------------------------------ outcomes


def _write_outcomes(layout: LogLayout, fields: Mapping[LogColumn, LogField], options: LogOptions) -> str:
    """Write the query of what follows from the values of a line."""
    ms = f"CASE WHEN raw_ms BETWEEN 0 AND {HIGHEST_MS} THEN raw_ms END"
    duration = "to_microseconds(CAST(round(coalesce(ms, 0) * 1000) AS BIGINT))"
    start, end = ("moment", f"moment + {duration}") if "started" in fields else (f"moment - {duration}", "moment")
    server = f"CASE WHEN NOT regexp_full_match(last_server, {quote(layout.without_server)}) THEN last_server END"
    if "server" not in fields and "attempt_servers" not in fields:
        server = "nullif(nullif(named, ''), '-')"
    named = {"server": "last_server", "backend": "backend_text", "arm": "arm_text"}[options.arm_from]
    retries, moved = _express_retries(fields)
    return f"""
        SELECT
            *, {start} AS ts, {end} AS ended, {server} AS server,
            CASE WHEN request.method <> '' THEN upper(request.method) END AS method,
            CASE WHEN request.target <> '' THEN {write_path("request.target")} END AS path,
            {retries} AS retries, {moved} AS moved,
            client_left AND NOT term_fails AS is_abort,
            coalesce(status = 101 OR (status BETWEEN 200 AND 299 AND (upgrade = 'websocket'
                OR upper(request.method) = 'CONNECT')), false) AS is_stream,
            term_fails OR (NOT client_left AND (status IS NULL OR status_fails OR attempt_fails OR grpc_fails))
                AS failed,
            CASE
                WHEN term_fails THEN 'termination ' || left(termination, 20)
                WHEN grpc_fails THEN 'grpc-status ' || left(grpc_status, 20)
                WHEN status IS NULL THEN 'no answer'
            END AS exception,
            CASE WHEN grpc_status IS NULL AND status = 200 AND upper(request.method) = 'POST' THEN {_IS_GRPC_PATH}
                ELSE false END AS grpc_unread
        FROM (
            SELECT
                *, {ms} AS ms, {named} AS named,
                {write_status_test("status", options)} AS status_fails,
                coalesce({write_status_test(_LAST_ATTEMPT, options)}, false) AS attempt_fails,
                coalesce({_matches("termination", layout.failed_terminations)}, false) AS term_fails,
                coalesce(raw_status IN ({", ".join(map(str, layout.abort_statuses)) or "NULL"}), false)
                    OR coalesce({_matches("termination", layout.abort_terminations)}, false) AS client_left,
                coalesce(lower(grpc_status) NOT IN ('0', 'ok'), false) AS grpc_fails
            FROM (
                SELECT *, coalesce(server_text, ltrim(servers[-1], '>')) AS last_server
                FROM ({_write_values(layout, fields, options)})))"""


_IS_GRPC_PATH = r"regexp_full_match(request.target, '(https?://[^/]*)?/[A-Za-z_]\w*(\.[A-Za-z_]\w*)+/[A-Za-z_]\w*')"
"""Condition that a path is that of a method of gRPC: a service in a package, and a method."""

_LAST_ATTEMPT = "TRY_CAST(right(attempt_statuses_text, 3) AS SMALLINT)"
"""Status of the last attempt; NULL if the log has none."""


def _matches(column: str, pattern: str) -> str:
    """Write the condition that a whole value matches a pattern of a layout; false if that is empty."""
    return f"regexp_full_match({column}, {quote(pattern)})" if pattern else "false"


def write_status_test(status: str, options: LogOptions) -> str:
    """Write the condition that a status is a failure: NULL without a status."""
    tests = [
        f"{status} BETWEEN {text[0]}00 AND {text[0]}99" if text.endswith("xx") else f"{status} = {text}"
        for text in options.failures
    ]
    return f"({' OR '.join(tests) or 'false'})"


def _express_retries(fields: Mapping[LogColumn, LogField]) -> tuple[str, str]:
    """Write the expressions for the number of retries that are only counted, and for whether the server may differ."""
    if "retries" not in fields:
        return "0", "false"
    unit = fields["retries"].unit
    count = "coalesce(TRY_CAST(ltrim(retries_text, '+') AS INTEGER), 0)"
    if unit == "attempts":
        count = f"{count} - 1"
    moved = "starts_with(coalesce(retries_text, ''), '+')" if not unit else "true"
    return f"least(greatest({count}, 0), {_MOST_RETRIES})", moved


_MOST_RETRIES = 100
"""Most retries of one request that are counted; routers are set to a few."""


def express_arm(value: str, options: LogOptions) -> str:
    """Write the expression for the arm whose patterns match a value; NULL if none does."""
    cases = []
    for arm, patterns in options.arms.items():
        tests = [
            f"{value} LIKE {quote(_to_like(pattern))} ESCAPE '\\'"
            if "*" in pattern or "?" in pattern
            else f"{value} = {quote(pattern)}"
            for pattern in patterns
        ]
        cases.append(f"WHEN {' OR '.join(tests) or 'false'} THEN {quote(arm)}")
    return f"CASE {' '.join(cases)} END"


def _to_like(pattern: str) -> str:
    """Write a pattern with `*` and `?` as one of SQL's LIKE, with a backslash as the escape character."""
    for mark in ("\\", "%", "_"):
        pattern = pattern.replace(mark, "\\" + mark)
    return pattern.replace("*", "%").replace("?", "_")


def find_arm_of_others(options: LogOptions, arm: str, server: str) -> str | None:
    """Find the arm of all servers of the options other than `server`, which is one of `arm`; None if not clear."""
    arms = {
        other_arm
        for other_arm, patterns in options.arms.items()
        if any(other_arm != arm or pattern != server for pattern in patterns)
    }
    return arms.pop() if len(arms) == 1 else None


def _express_problem(latest: datetime) -> str:
    """Write the expression for what is wrong with a line: a key of `PROBLEMS`, `other`, or NULL."""
    return f"""
        CASE
            WHEN NOT is_matched AND is_other THEN 'other'
            WHEN NOT is_matched THEN 'format'
            WHEN ts IS NULL OR ts < TIMESTAMPTZ '1980-01-01 00:00:00+00' THEN 'time'
            WHEN ended > TIMESTAMPTZ '{latest.isoformat()}' THEN 'future'
            WHEN raw_status IS NULL AND status_text NOT IN ('', '-') OR status > 999 THEN 'status'
            WHEN ms IS NULL AND NOT (failed OR is_abort OR is_stream OR server IS NULL) THEN 'response_time'
        END"""
