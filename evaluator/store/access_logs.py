"""Lines of an access log become request rows, and counts of what else they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow as pa

from evaluator.errors import UsageError
from evaluator.records import (
    LeftOut,
    LeftOutKind,
    LogCounts,
    LogLayout,
    LogOptions,
    RouterFacts,
    check_log_options,
    sum_counts,
)
from evaluator.records.access_logs import HIDDEN_NAMES
from evaluator.records.arrays import FloatArray
from evaluator.segments import REQUEST_SCHEMA
from evaluator.stats.shaping.rare import OTHER_ENDPOINTS
from evaluator.store.engine import Engine, open_engine, quote, quote_name
from evaluator.store.log_attempts import EXCEPTION, list_attempts
from evaluator.store.log_lines import PROBLEMS, check_layout, write_requests

MOST_ENDPOINTS = 500
"""Most endpoints of a run that keep their names."""

AHEAD = timedelta(hours=1)
"""How far the clock of a router may be ahead of ours."""

WORKER = "access_log"
"""Column `worker` of the rows."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """The first line of a batch that could not be read."""

    number: int
    """Position in the batch, from 0."""
    problem: str
    """What is wrong with it, as a part of a sentence."""


@dataclass(frozen=True, slots=True)
class ReadLines:
    """What some lines said, except for their rows."""

    counts: LogCounts
    watermark: datetime | None
    """When the last request of the lines ended; None without a request."""
    bad_line: BadLine | None


@dataclass(frozen=True, slots=True)
class LogBatch(ReadLines):
    """What some lines became."""

    rows: pa.Table
    """Rows of REQUEST_SCHEMA: requests and failed attempts."""
    starts: FloatArray
    """When the request of each line began (epoch s), NaN for lines that are none: shape (lines,)."""
    ends: FloatArray
    """When it ended."""
    unassigned: pa.Table
    """Rows, without arm and instance, of attempts of which the log does not say which server failed."""


class LogReader:
    """Reads lines of an access log, in a private engine. Use it in a `with` statement."""

    def __init__(
        self,
        layout: LogLayout,
        options: LogOptions,
        run_id: str,
        kept_endpoints: Iterable[str] = (),
        *,
        most_endpoints: int = MOST_ENDPOINTS,
        start: datetime | None = None,
        end: datetime | None = None,
        threads: int | None = None,
    ) -> None:
        """Prepare to read lines for the run `run_id`.

        `kept_endpoints`: endpoints that keep their names, such as those of the run's earlier lines. Endpoints that are
        first seen once there are `most_endpoints` become `other endpoints`. Requests that began before `start`, or at
        `end` or later, are left out. `threads`: most threads that are used; None: as many as the machine has cores.
        Raises UsageError for options that fit no line, and InputError for a layout that does not show the arm.
        """
        check_log_options(options)
        check_layout(layout, options)
        self._layout, self._options, self._run_id = layout, options, run_id
        self._kept = dict.fromkeys(kept_endpoints)
        self._most_endpoints = most_endpoints
        limits = [("<", start), (">=", end)]
        tests = [f"ts {sign} TIMESTAMPTZ '{moment.isoformat()}'" for sign, moment in limits if moment is not None]
        self._is_outside = f"({' OR '.join(tests)})" if tests else "false"
        self._opening = open_engine()
        self._engine: Engine = self._opening.__enter__()
        try:
            self._engine.execute(f"SET TimeZone = {quote(options.time_zone)}")
        except duckdb.Error as error:
            self._opening.__exit__(None, None, None)
            raise UsageError(
                f"the time zone '{options.time_zone}' is not known", hint="give a name such as Europe/Berlin"
            ) from error
        if threads is not None:
            self._engine.execute(f"SET threads = {threads}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opening.__exit__(kind, error, trace)

    @property
    def kept_endpoints(self) -> tuple[str, ...]:
        """Endpoints that keep their names: those of lines that were read until now, at most 500."""
        return tuple(self._kept)

    def read_lines(self, lines: pa.Array | Sequence[bytes]) -> LogBatch:
        """Read whole lines, with or without their line ends. Blank lines do not count."""
        read = self._stage(lines)
        rows = self._read_rows(self._write_rows())
        unassigned = self._read_rows(self._write_attempts("unknown", "''", "''"))
        starts, ends = self._read_times(len(lines))
        self._clear()
        return LogBatch(read.counts, read.watermark, read.bad_line, rows, starts, ends, unassigned)

    def _read_rows(self, query: str) -> pa.Table:
        """Read the rows of a query as a table of REQUEST_SCHEMA."""
        return self._engine.sql(query).to_arrow_table().select(REQUEST_SCHEMA.names).cast(REQUEST_SCHEMA)

    def _read_times(self, lines: int) -> tuple[FloatArray, FloatArray]:
        """Read when the request of each of `lines` lines began and ended (epoch s); NaN for lines that are none."""
        columns = self._engine.execute(
            "SELECT number, epoch_us(ts) AS starts, epoch_us(ended) AS ends FROM requests WHERE problem IS NULL"
        ).fetchnumpy()
        starts, ends = np.full(lines, np.nan), np.full(lines, np.nan)
        starts[columns["number"]] = columns["starts"] / 1e6
        ends[columns["number"]] = columns["ends"] / 1e6
        return starts, ends

    def convert_lines(self, lines: pa.Array, path: Path) -> ReadLines:
        """Read whole lines like `read_lines`, and write their rows to a Parquet file at `path`."""
        read = self._stage(lines)
        names = ", ".join(map(quote_name, REQUEST_SCHEMA.names))
        self._engine.execute(f"COPY (SELECT {names} FROM ({self._write_rows()})) TO {quote(path)} (FORMAT parquet)")
        self._clear()
        return read

    def _clear(self) -> None:
        """Remove the lines from the engine, with all that was made of them."""
        self._engine.execute("DROP TABLE requests; DROP TABLE attempts; DROP TABLE IF EXISTS pooled")
        self._engine.unregister("lines")

    def _stage(self, lines: pa.Array | Sequence[bytes]) -> ReadLines:
        """Make the tables `requests`, `attempts` and, if there are too many endpoints, `pooled` of lines.

        Returns their counts, the latest end of a request, and the first line that could not be read.
        """
        engine, options = self._engine, self._options
        engine.register("lines", _to_table(lines))
        query = write_requests(self._layout, options, datetime.now(UTC) + AHEAD, self._is_outside)
        engine.execute(f"CREATE TEMP TABLE requests AS {query}")
        groups = engine.execute(_COUNT).fetchall()
        listed, counted = any(group[-2] for group in groups), any(group[-1] for group in groups)
        list_attempts(engine, self._layout, options, listed=listed, counted=counted)
        counts = sum_counts([*map(_to_counts, groups), self._count_attempts(), self._count_others(groups)])
        hidden = RouterFacts(retries_hidden=self._layout.retries_hidden and counts.router.answers > 0)
        counts = sum_counts([counts, self._pool_endpoints(), LogCounts(router=hidden)])
        watermark = max((group[4] for group in groups if group[4] is not None), default=None)
        bad_lines = any(group[0] in PROBLEMS for group in groups)
        watermark = watermark and watermark.astimezone(UTC)
        return ReadLines(counts, watermark, self._find_bad_line() if bad_lines else None)

    def _count_attempts(self) -> LogCounts:
        """Count the attempts that failed before the router tried again."""
        rows = self._engine.execute("SELECT arm, unknown, count(*) FROM attempts GROUP BY ALL ORDER BY ALL").fetchall()
        retried = {arm: count for arm, _, count in rows if arm is not None}
        unknown = sum(count for _, is_unknown, count in rows if is_unknown)
        return LogCounts(read=retried, router=RouterFacts(retried=retried, retried_by_unknown=unknown))

    def _count_others(self, groups: Sequence[Sequence[Any]]) -> LogCounts:
        """Count the requests of servers that belong to no arm, by their names."""
        if not any(_is_other_server(group) for group in groups):
            return LogCounts()
        rows = self._engine.execute(
            f"SELECT named, count(*) AS n FROM requests WHERE {_OTHER_SERVER} GROUP BY named ORDER BY n DESC, named"
        ).fetchall()
        if self._options.sensitive and self._options.arm_from == "arm":  # values of a field, such as a header
            rows = [(HIDDEN_NAMES, sum(count for _, count in rows))]
        return LogCounts(router=RouterFacts(other_servers=dict(rows)))

    def _pool_endpoints(self) -> LogCounts:
        """Find endpoints of the rows that keep their names, and count the requests of the others (table `pooled`)."""
        rows = self._engine.execute(
            f"""SELECT endpoint, sum(n) FROM (
                SELECT endpoint, min(number) AS first, count(*) AS n FROM requests WHERE {_LANDED} GROUP BY endpoint
                UNION ALL
                SELECT endpoint, min(number), count(*) FROM attempts WHERE arm IS NOT NULL GROUP BY endpoint)
            GROUP BY endpoint ORDER BY min(first)"""
        ).fetchall()
        pooled = {}
        for endpoint, count in rows:
            if endpoint in self._kept:
                continue
            if len(self._kept) < self._most_endpoints:
                self._kept[endpoint] = None
            else:
                pooled[endpoint] = int(count)
        if not pooled:
            return LogCounts()
        names = pa.table({"endpoint": pa.array(pooled, pa.string())})
        self._engine.register("pooled_names", names)
        self._engine.execute("CREATE TEMP TABLE pooled AS SELECT * FROM pooled_names")
        self._engine.unregister("pooled_names")
        facts = RouterFacts(endpoints_pooled=sum(pooled.values()), pooled_example=next(iter(pooled)))
        return LogCounts(router=facts)

    def _find_bad_line(self) -> BadLine:
        """Find the first line that could not be read."""
        problems = ", ".join(map(quote, PROBLEMS))
        [(number, problem)] = self._engine.execute(
            f"SELECT number, problem FROM requests WHERE problem IN ({problems}) ORDER BY number LIMIT 1"
        ).fetchall()
        return BadLine(number, PROBLEMS[problem].format(format=self._layout.format))

    def _write_rows(self) -> str:
        """Write the query of all rows: requests, and attempts that failed before the router tried again."""
        return f"""
            SELECT {self._write_constants()}, arm, coalesce(server, arm) AS instance, ts, {self._express_endpoint()},
                ms AS response_time_ms, bytes AS response_bytes, status AS status_code, failed, exception
            FROM requests WHERE {_LANDED}
            UNION ALL BY NAME {self._write_attempts("arm IS NOT NULL", "arm", "coalesce(server, arm)")}"""

    def _write_attempts(self, condition: str, arm: str, instance: str) -> str:
        """Write the query of the rows of attempts for which a condition holds."""
        return f"""
            SELECT {self._write_constants()}, {arm} AS arm, {instance} AS instance, ts, {self._express_endpoint()},
                ms AS response_time_ms, CAST(NULL AS BIGINT) AS response_bytes, status AS status_code, true AS failed,
                {quote(EXCEPTION)} AS exception
            FROM attempts WHERE {condition}"""

    def _write_constants(self) -> str:
        """Write the columns that are the same in all rows."""
        return f"""{quote(self._run_id)} AS run, {quote(self._options.service)} AS service, {quote(WORKER)} AS worker,
            CAST(NULL AS INTEGER) AS user_count, CAST(NULL AS MAP(VARCHAR, VARCHAR)) AS context"""

    def _express_endpoint(self) -> str:
        """Write the column `endpoint`."""
        if self._engine.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'pooled'").fetchall():
            pooled = "endpoint IN (SELECT endpoint FROM pooled)"
            return f"CASE WHEN {pooled} THEN {quote(OTHER_ENDPOINTS)} ELSE endpoint END AS endpoint"
        return "endpoint"


_LANDED = "problem IS NULL AND arm IS NOT NULL AND kind IS NULL"
"""Condition for requests that become rows."""

_OTHER_SERVER = "problem IS NULL AND kind IS DISTINCT FROM 'outside_period' AND arm IS NULL AND server IS NOT NULL"
"""Condition for requests of servers that belong to no arm."""

_COUNT = """
SELECT
    coalesce(problem, ''), arm, server IS NOT NULL AS has_server, kind, max(ended), count(*), count(*) FILTER (failed),
    count(*) FILTER (grpc_unread), count(servers), count(*) FILTER (retries > 0)
FROM requests GROUP BY ALL ORDER BY ALL"""
"""Query that counts lines by what they are."""


def _is_other_server(group: Sequence[Any]) -> bool:
    """Are the lines of a row of `_COUNT` requests of servers that belong to no arm?"""
    problem, arm, has_server, kind, *_ = group
    return not problem and kind != LeftOutKind.OUTSIDE_PERIOD and arm is None and has_server


def _to_counts(group: Sequence[Any]) -> LogCounts:
    """Make the counts of the lines of one row of `_COUNT`, without attempts and the names of other servers."""
    problem, arm, has_server, kind, _, lines, failures, grpc_unread, _, _ = group
    if problem == "other":
        return LogCounts(lines)
    if problem:
        return LogCounts(lines, {"": lines}, (LeftOut("", LeftOutKind.BAD_ROW, lines),))
    facts = RouterFacts(answers=lines, failed_answers=failures)
    if kind == LeftOutKind.OUTSIDE_PERIOD:
        left_out = (LeftOut(arm, LeftOutKind.OUTSIDE_PERIOD, lines, failures),) if arm is not None else ()
        return LogCounts(lines, {arm: lines} if arm is not None else {}, left_out)
    if arm is None:
        if not has_server:
            facts = replace(facts, without_server=lines, without_server_failures=failures)
        return LogCounts(lines, router=facts)
    if kind is not None:
        return LogCounts(lines, {arm: lines}, (LeftOut(arm, LeftOutKind(kind), lines, failures),), facts)
    if grpc_unread:
        facts = replace(facts, grpc_unread={arm: grpc_unread})
    return LogCounts(lines, {arm: lines}, router=facts)


_BATCH_LINES = 4096
"""Lines that a thread takes at a time."""


def _to_table(lines: pa.Array | Sequence[bytes]) -> pa.Table:
    """Make the table `lines`: the position of each line, from 0, and its text. Bytes that are no UTF-8 are escaped."""
    array = lines if isinstance(lines, pa.Array) else pa.array(lines, pa.binary())
    try:
        texts = array.cast(pa.string())
    except pa.ArrowInvalid:
        texts = pa.array([line.decode(errors="backslashreplace") for line in array.to_pylist()], pa.string())
    table = pa.table({"number": pa.array(np.arange(len(texts))), "line": texts})
    # Each thread of the engine takes batches: of one batch, a single thread would read all lines.
    return pa.Table.from_batches(table.to_batches(_BATCH_LINES), table.schema)
