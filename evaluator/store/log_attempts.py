"""Attempts that failed before a router tried again: each is a failed request of the arm that was tried.

Otherwise a router hides a dead server: its users get the answer of another one.
"""

from __future__ import annotations

from evaluator.records import LogLayout, LogOptions
from evaluator.store.engine import Engine, quote
from evaluator.store.log_lines import express_arm, find_arm_of_others, write_status_test

EXCEPTION = "retried by the router"
"""Column `exception` of the rows."""

TRIED = "problem IS NULL AND kind IS DISTINCT FROM 'outside_period'"
"""Condition for requests whose attempts count."""

_NONE = """SELECT NULL::BIGINT AS number, NULL::VARCHAR AS arm, NULL::VARCHAR AS server, NULL::TIMESTAMPTZ AS ts,
    NULL::DOUBLE AS ms, NULL::VARCHAR AS endpoint, NULL::SMALLINT AS status, false AS unknown WHERE false"""


def list_attempts(engine: Engine, layout: LogLayout, options: LogOptions, *, listed: bool, counted: bool) -> None:
    """Make the table `attempts` of those of the table `requests`, and take their times from those of the requests.

    Its rows: `number` of the line; `arm`, NULL if it is not known or none; `server`, `ts`, `ms`, `endpoint`, `status`;
    `unknown`: the log does not say which arm was tried. `listed`: lines have lists of attempts; `counted`: lines have
    numbers of retries.
    """
    engine.execute(f"CREATE TEMP TABLE attempts AS {_NONE}")
    if listed:
        engine.execute(f"INSERT INTO attempts {_write_listed(layout, options)}")
        engine.execute(
            """UPDATE requests
            SET ts = ts + to_microseconds(CAST(least(ms, before) * 1000 AS BIGINT)), ms = greatest(ms - before, 0)
            FROM (SELECT number, sum(ms) AS before FROM attempts GROUP BY number) AS earlier
            WHERE requests.number = earlier.number"""
        )
    if counted:
        engine.execute(f"INSERT INTO attempts {_write_counted(engine, layout, options)}")


def _write_listed(layout: LogLayout, options: LogOptions) -> str:
    """Write the query of the attempts before the last in lists, which are failures where the next server was tried.

    An attempt before a redirect inside of the router is one only by its status: else it has made the redirect.
    """
    arm = {"server": express_arm("server", options), "backend": "line_arm", "arm": "NULL"}[options.arm_from]
    time = next((field for field in layout.fields if field.column == "attempt_times"), None)
    factor = {"s": 1000.0, "ms": 1.0, "us": 0.001, "ns": 1e-6}[time.unit if time else "ms"]
    return f"""
        SELECT number, {arm}, server, ts + to_microseconds(CAST(coalesce(before, 0) * 1000 AS BIGINT)), ms, endpoint,
            status, {"true" if options.arm_from == "arm" else "false"}
        FROM (
            SELECT *, sum(ms) OVER (
                PARTITION BY number ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
            FROM (
                SELECT
                    number, line_arm, ts, endpoint, position, ltrim(server, '>') AS server,
                    position < len(servers) AND (NOT starts_with(servers[position + 1], '>')
                        OR coalesce({write_status_test("TRY_CAST(ltrim(status, '>') AS SMALLINT)", options)}, false)
                    ) AS failed,
                    TRY_CAST(ltrim(status, '>') AS SMALLINT) AS status,
                    greatest(coalesce(TRY_CAST(ltrim(time, '>') AS DOUBLE), 0) * {factor}, 0) AS ms
                FROM (
                    SELECT number, arm AS line_arm, ts, endpoint, servers, unnest(servers) AS server,
                        unnest(statuses) AS status, unnest(times) AS time, generate_subscripts(servers, 1) AS position
                    FROM requests WHERE servers IS NOT NULL AND {TRIED}))
            WHERE failed)
        WHERE NOT regexp_full_match(server, {quote(layout.without_server)})"""


def _write_counted(engine: Engine, layout: LogLayout, options: LogOptions) -> str:
    """Write the query of attempts that the log only counts, and which have no time.

    They failed at the server of the request, unless the router may have changed servers.
    """
    arm, server = "CASE WHEN NOT moved THEN arm END", "CASE WHEN NOT moved THEN server END"
    if options.arm_from == "backend":
        arm = "arm"
    says_moved = any(field.column == "retries" and not field.unit for field in layout.fields)
    if options.arm_from == "server" and says_moved:
        moved = engine.execute(
            f"SELECT DISTINCT arm, server FROM requests WHERE {TRIED} AND retries > 0 AND moved AND arm <> ''"
        ).fetchall()
        others = [(tried, other) for own, tried in moved if (other := find_arm_of_others(options, own, tried))]
        if others:
            cases = " ".join(f"WHEN {quote(tried)} THEN {quote(other)}" for tried, other in others)
            arm = f"CASE WHEN NOT moved THEN arm ELSE CASE server {cases} END END"
    return f"""
        SELECT number, {arm}, {server}, ts, 0, endpoint, NULL, moved AND ({arm}) IS NULL
        FROM (SELECT *, unnest(range(retries)) FROM requests WHERE {TRIED} AND retries > 0)"""
