"""Outcomes of an A/B test: the rows of each stage as a file of its own, and the result of a query as a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from evaluator.errors import InputError
from evaluator.records import OutcomePlan
from evaluator.store.engine import open_engine, path_for_engine, quote, quote_files, quote_name
from evaluator.store.outcome_files import find_unreadable_row, opened_files, select_as_written, select_typed

_WITH_ZONE = r".*\d{2}:\d{2}.*(?:[Zz]| UTC| GMT|[+-]\d{2}(?::?\d{2})?)"
_SECONDS, _MILLISECONDS = r"\d{9,10}(?:\.\d+)?", r"\d{12,13}"
_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class PeriodRows:
    """The rows of one stage."""

    path: Path
    """File with these rows: CSV if the source is CSV, whose values stay as they are written; else Parquet."""
    rows: int
    first: datetime | None
    """Time of the first row; None: it has none."""
    last: datetime | None


@dataclass(frozen=True, slots=True)
class RowTimes:
    """When the rows of all stages happened."""

    periods: tuple[PeriodRows, ...]
    rows: int
    """Rows of the source, also of no stage."""
    without_zone: int
    """Rows whose time cannot be read, or names no zone."""
    newest: datetime | None


def split_by_time(
    plan: OutcomePlan, column: str, zone: str, periods: Sequence[tuple[float, float]], folder: Path
) -> RowTimes:
    """Write the rows of each period (begin and end, epoch s) into a file of its own.

    `column`: has the time of a row, as text, time, or seconds or milliseconds since 1970. `zone`: of times that name
    none; empty: these are no times. Raises InputError, also for a row of CSV that cannot be split into columns.
    """
    name, instant = quote_name(column), _write_instant(column, zone)
    files = []
    try:
        with opened_files(plan) as opened, open_engine() as engine:
            names = [str(row[0]) for row in engine.execute(f"DESCRIBE {select_typed(opened)}").fetchall()]
            if column not in names:
                raise InputError(
                    f"the outcomes have no column {column}", hint=f"their columns are {', '.join(names)[:200]}"
                )
            rows_as_written = select_as_written(opened, "store_rejects")
            engine.execute(
                f"CREATE TEMP TABLE timed_rows AS SELECT * REPLACE ({instant} AS {name}) FROM ({rows_as_written})"
            )
            is_csv = plan.reader == "csv" and not plan.query
            if is_csv and (problem := find_unreadable_row(engine, opened)):
                raise InputError(problem, hint="give each row as many values as the header has names")
            of_all = f"SELECT count(*), count(*) - count({name}), max(epoch({name})) FROM timed_rows"
            [(rows, without_zone, newest)] = engine.execute(of_all).fetchall()
            for number, (begin, end) in enumerate(periods):
                path = folder / f"outcomes-{number + 1}.{'csv' if is_csv else 'parquet'}"
                chosen = f"FROM timed_rows WHERE epoch({name}) >= {float(begin)!r} AND epoch({name}) < {float(end)!r}"
                how = "FORMAT csv, HEADER" if is_csv else "FORMAT parquet"
                engine.execute(f"COPY (SELECT * {chosen}) TO {quote(path_for_engine(str(path)))} ({how})")
                found = engine.execute(f"SELECT count(*), min(epoch({name})), max(epoch({name})) {chosen}").fetchall()
                count, first, last = found[0]
                files.append(PeriodRows(path, int(count), _to_time(first), _to_time(last)))
    except duckdb.Error as error:
        raise InputError(f"the outcomes cannot be read: {_shorten(error)}") from error
    return RowTimes(tuple(files), int(rows), int(without_zone), _to_time(newest))


def _write_instant(column: str, zone: str) -> str:
    """Write SQL for the time of a row; NULL if it cannot be read, or names no zone while `zone` is empty."""
    text = f"trim(CAST({quote_name(column)} AS VARCHAR))"
    in_zone = f"timezone({quote(zone)}, TRY_CAST({text} AS TIMESTAMP))" if zone else "NULL"
    return f"""CASE WHEN regexp_full_match({text}, {quote(_WITH_ZONE)}) THEN TRY_CAST({text} AS TIMESTAMPTZ)
        WHEN regexp_full_match({text}, {quote(_SECONDS)}) THEN to_timestamp(TRY_CAST({text} AS DOUBLE))
        WHEN regexp_full_match({text}, {quote(_MILLISECONDS)}) THEN to_timestamp(TRY_CAST({text} AS DOUBLE) / 1000)
        ELSE {in_zone} END"""


@dataclass(frozen=True, slots=True)
class AssignedUsers:
    """How the users of outcomes compare with those that were assigned."""

    units: int
    """Users in the outcomes."""
    strangers: int
    """Those of them that were not assigned."""
    elsewhere: int
    """Those of them that were assigned only to another arm."""
    assigned: int
    """Users that were assigned in the time that is judged."""
    missing: int
    """Those of them that have no outcomes."""


def compare_assigned(
    outcomes: OutcomePlan, assigned: Sequence[str], time: str, zone: str, period: tuple[float, float]
) -> AssignedUsers:
    """Compare the users of outcomes with those of files that say who was assigned to which arm.

    `time`: column of the time of an assignment, where the files have it: only users of this period (begin and end,
    epoch s) have to have outcomes. Raises InputError.
    """
    is_parquet = all(path.endswith(".parquet") for path in assigned)
    files = quote_files(assigned)
    table = f"read_parquet({files})" if is_parquet else f"read_csv({files}, header = true, all_varchar = true)"
    unit, arm = (f"trim(CAST({quote_name(name)} AS VARCHAR))" for name in (outcomes.unit, outcomes.arm))
    try:
        with opened_files(outcomes) as opened, open_engine() as engine:
            names = [str(row[0]) for row in engine.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()]
            lacking = [name for name in (outcomes.unit, outcomes.arm) if name not in names]
            if lacking:
                raise InputError(
                    f"{assigned[0]}, which says who was assigned, has no column {' and '.join(lacking)}",
                    hint="it needs the columns of user and arm under the names that the outcomes have",
                )
            begin, end = (repr(float(seconds)) for seconds in period)
            instant = f"epoch({_write_instant(time, zone)})" if time in names else "NULL"
            in_time = f"coalesce({instant} >= {begin} AND {instant} < {end}, {str(time not in names).lower()})"
            engine.execute(
                f"""CREATE TEMP TABLE assigned AS SELECT {unit} AS unit, {arm} AS arm, bool_or({in_time}) AS counts
                FROM {table} GROUP BY 1, 2"""
            )
            engine.execute(
                f"""CREATE TEMP TABLE seen AS SELECT DISTINCT {unit} AS unit, {arm} AS arm
                FROM ({select_as_written(opened)})"""
            )
            [row] = engine.execute(_COMPARE_ASSIGNED).fetchall()
    except duckdb.Error as error:
        raise InputError(f"{assigned[0]}, which says who was assigned, cannot be read: {_shorten(error)}") from error
    return AssignedUsers(*(int(count) for count in row))


_COMPARE_ASSIGNED = """
SELECT
    (SELECT count(DISTINCT unit) FROM seen),
    (SELECT count(DISTINCT unit) FROM seen WHERE unit NOT IN (SELECT unit FROM assigned)),
    (SELECT count(DISTINCT unit) FROM seen ANTI JOIN assigned USING (unit, arm)
        WHERE unit IN (SELECT unit FROM assigned)),
    (SELECT count(DISTINCT unit) FROM assigned WHERE counts),
    (SELECT count(DISTINCT unit) FROM assigned WHERE counts AND unit NOT IN (SELECT unit FROM seen))
"""


def write_query_result(query: str, database: str, times: Mapping[str, float], path: Path) -> None:
    """Write the result of a query as Parquet. Raises InputError, and StoreError for a database that is in use.

    `database`: a file of DuckDB; empty: none. `times`: name → epoch s, which the query may name as `$begin`.
    """
    if database and not Path(database).is_file():
        raise InputError(f"there is no database {database}", hint="rollout: {outcomes: {database: FILE}} names it")
    used = {
        name: datetime.fromtimestamp(seconds, UTC)
        for name, seconds in times.items()
        if re.search(rf"\${name}\b", query)
    }
    with open_engine(read=Path(database) if database else None) as engine:
        try:
            engine.sql(query.strip().rstrip(";"), params=used).write_parquet(path_for_engine(str(path)))
        except (duckdb.Error, AttributeError) as error:  # a statement that is no query has no result
            raise InputError(f"the query of the outcomes cannot be run: {_shorten(error)}") from error


def _to_time(seconds: float | None) -> datetime | None:
    """Make a time of seconds since 1970."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _shorten(error: Exception) -> str:
    """Write a message of DuckDB in one line."""
    return " ".join(str(error).split())[:_LONGEST_MESSAGE]
