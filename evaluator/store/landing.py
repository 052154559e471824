"""Landing of segments: rolled up in a private engine; cells and manifest are then written in one short transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from evaluator.errors import SourceError, StoreError
from evaluator.records import NANOSECONDS, Landed, Run
from evaluator.segments import count_rows, segment_paths
from evaluator.store.engine import Engine, escape_file, open_engine, quote
from evaluator.store.file import StoreFile
from evaluator.store.rollup import HIGHEST_MS, MOST_TEXTS, OTHER_TEXTS, choose_units_per_ms, find_grid, roll_up
from evaluator.store.rollup import count_rows as count_rolled_up

_BATCH_ROWS = 20_000_000
_BATCH_SEGMENTS = 2000
"""Most rows and segments rolled up at a time, so that memory does not grow with the run."""

_LONGEST_MESSAGE = 200
"""Most characters of a message of DuckDB that are kept."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment before it lands; `problem` says why it cannot (empty: it can)."""

    path: Path
    rows: int = 0
    sha256: str = ""
    problem: str = ""


def read_bucket_s(engine: Engine, run_id: str) -> int:
    """Read the length (s) of a run's buckets."""
    query = """SELECT bucket_s FROM store.runs JOIN store.groups ON groups.id = runs."group" WHERE runs.id = ?"""
    return int(engine.execute(query, [run_id]).fetchall()[0][0])


def read_units_per_ms(engine: Engine, run_id: str) -> int | None:
    """Read the unit of a run's times, as the number of units in a millisecond; `None` if no time has landed."""
    [(units_per_ms,)] = engine.execute("SELECT units_per_ms FROM store.runs WHERE id = ?", [run_id]).fetchall()
    return int(units_per_ms) if units_per_ms else None


def hash_file(path: Path) -> str:
    """Hash the bytes of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def land(file: StoreFile, run: Run, bucket_s: int, landed_names: Collection[str]) -> Landed:
    """Land the segments in the folder of a run, except those with `landed_names`, which have landed before.

    Returns what landed now. A segment that cannot be read is quarantined. Landing segments again changes nothing.
    """
    folder = file.run_folder(run.release, run.id)
    inspected = [_inspect(path) for path in segment_paths(folder) if path.name not in landed_names]
    new_segments = [segment for segment in inspected if segment is not None]
    landed = Landed(already=len(landed_names), runs=(run.id,))
    for batch in _split_into_batches(new_segments):
        segments = _land_batch(file, run, bucket_s, batch)
        readable = [segment for segment in segments if not segment.problem]
        unreadable = tuple(segment.path.name for segment in segments if segment.problem)
        landed = replace(
            landed,
            rows=landed.rows + sum(segment.rows for segment in readable),
            segments=landed.segments + len(readable),
            quarantined=landed.quarantined + unreadable,
        )
    return landed


def _split_into_batches(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Split segments into batches of at most `_BATCH_SEGMENTS` segments and `_BATCH_ROWS` rows.

    A segment with more rows than that is a batch of its own.
    """
    batches: list[list[Segment]] = []
    rows_of_batch = 0
    for segment in segments:
        rows_of_batch += segment.rows  # rows of the last batch, if the segment joins it
        if not batches or len(batches[-1]) == _BATCH_SEGMENTS or rows_of_batch > _BATCH_ROWS:
            batches.append([])
            rows_of_batch = segment.rows
        batches[-1].append(segment)
    return batches


def _inspect(path: Path) -> Segment | None:
    """Count the rows of a segment and hash its bytes; note the problem of a segment that is no Parquet file.

    `None` if the file is gone, because another process has just landed and merged it. Raises StoreError.
    """
    try:
        sha256 = hash_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"segment {path} cannot be read: {error.strerror}") from error
    try:
        return Segment(path, count_rows(path), sha256)
    except SourceError as error:
        return Segment(path, 0, sha256, error.message)


def _land_batch(file: StoreFile, run: Run, bucket_s: int, segments: list[Segment]) -> list[Segment]:
    """Land segments of a run in one transaction, except those that another process has landed meanwhile.

    Returns the segments that landed, and with their problems those that cannot be read. These are renamed, so that
    they can be inspected but break no reader of the folder. `bucket_s`: length of a bucket of the cells.
    """
    with open_engine() as engine:
        with file.attached(engine):
            units_per_ms = read_units_per_ms(engine, run.id)  # `None` if these segments decide it
        while segments:
            segments, units_rolled_up = _roll_up_readable(engine, file, segments, bucket_s, units_per_ms)
            grid = find_grid(engine)  # largest step of which all times of the cells are multiples
            with file.attached(engine, write=True):
                rows = engine.execute("SELECT name FROM store.segments WHERE run = ?", [run.id]).fetchall()
                landed_meanwhile = {name for (name,) in rows} & {segment.path.name for segment in segments}
                # Another process that landed the first segments of the run may have chosen another unit.
                units_per_ms = read_units_per_ms(engine, run.id)
                is_unit_of_run = units_per_ms in (None, units_rolled_up)
                if is_unit_of_run and not landed_meanwhile:
                    write_cells(engine, run.id, grid, units_rolled_up)
                    write_manifest(engine, file, run.id, segments)
            if is_unit_of_run and not landed_meanwhile:
                for segment in segments:
                    if segment.problem:
                        segment.path.rename(segment.path.with_name(segment.path.name + ".unreadable"))
                break
            # The roll-up has another unit, or includes rows that must not count twice: the segments that have not
            # landed are rolled up again.
            segments = [segment for segment in segments if segment.path.name not in landed_meanwhile]
    return segments


def _roll_up_readable(
    engine: Engine, file: StoreFile, segments: list[Segment], bucket_s: int, units_per_ms: int | None
) -> tuple[list[Segment], int]:
    """Roll up the segments that can be read, into tables of `engine` with their cells in buckets of `bucket_s` seconds.

    `units_per_ms`: unit of the times of the run; `None`: chosen from these segments. Returns all segments, those that
    cannot be read with their problem and 0 rows; and the unit.
    """
    while True:
        readable = [segment.path for segment in segments if not segment.problem]
        # What is raised if the counts differ, although each segment alone can be read.
        failure: Exception = StoreError(
            "the number of rows of the segments changed while they were read", hint="try again when nothing writes them"
        )
        paths = readable or [file.empty_segment]  # the roll-up needs at least one file
        try:
            unit = units_per_ms or choose_units_per_ms(engine, paths)
            roll_up(engine, paths, bucket_s, unit)
            # A segment with a problem counts 0 rows.
            if count_rolled_up(engine) == sum(segment.rows for segment in segments):
                return segments, unit
        except duckdb.Error as error:
            failure = error
        # The roll-up failed or left rows out: test each segment alone, then roll up again without those with a problem.
        problems = {path: _explain_unrollable(engine, path) for path in readable}
        if not any(problems.values()):
            raise failure
        segments = [
            replace(segment, rows=0, problem=problems[segment.path]) if problems.get(segment.path) else segment
            for segment in segments
        ]


def _explain_unrollable(engine: Engine, path: Path) -> str:
    """Say why a segment cannot be rolled up with all its rows; empty if it can.

    Rolls it up alone, in the tables of `engine`, which the next roll-up replaces. Rows without a response time, or with
    one that cannot be right, are not rolled up.
    """
    try:
        roll_up(engine, [path], bucket_s=1, units_per_ms=NANOSECONDS)
        bad_times = engine.execute(
            """SELECT response_time_ms FROM read_parquet(?)
            WHERE NOT (isfinite(response_time_ms) AND response_time_ms BETWEEN 0 AND ?) LIMIT 1""",
            [escape_file(path), HIGHEST_MS],
        ).fetchall()
        dropped = count_rows(path) - count_rolled_up(engine)
    except duckdb.Error as error:
        return " ".join(str(error).split())[:_LONGEST_MESSAGE]
    if bad_times:
        return f"segment {path} has a response time of {bad_times[0][0]} ms"
    return f"segment {path} has {dropped} rows without a response time" if dropped else ""


def write_manifest(engine: Engine, file: StoreFile, run_id: str, segments: Sequence[Segment]) -> None:
    """Write to the attached store which segments the cells of a run are made of, and which could not be read."""
    now = datetime.now(UTC)
    for segment in segments:
        problem = segment.problem
        state = "quarantined" if problem else "landed"
        file_of_rows = None if problem else segment.path.relative_to(file.folder).as_posix()
        engine.execute(
            "INSERT INTO store.segments VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [run_id, segment.path.name, file_of_rows, segment.sha256, segment.rows, state, problem or None, now],
        )


_NAMES = """
INSERT INTO store.names
SELECT (SELECT coalesce(max(id), -1) FROM store.names) + row_number() OVER (ORDER BY kind, name), kind, name
FROM (
    SELECT 'arm' AS kind, arm AS name FROM series{suffix}
    UNION SELECT 'endpoint', endpoint FROM series{suffix}
    UNION SELECT 'instance', instance FROM series{suffix}
    UNION SELECT 'exception', exception FROM cells_failure_kinds{suffix}
)
ANTI JOIN store.names USING (kind, name)
"""

_CODES = """
WITH codes AS (
    SELECT DISTINCT
        series.* EXCLUDE (label), arms.id AS arm_id, endpoints.id AS endpoint_id, instances.id AS instance_id
    FROM series{suffix} AS series
    JOIN store.names AS arms ON arms.kind = 'arm' AND arms.name = series.arm
    JOIN store.names AS endpoints ON endpoints.kind = 'endpoint' AND endpoints.name = series.endpoint
    JOIN store.names AS instances ON instances.kind = 'instance' AND instances.name = series.instance
)
"""

_INSERTS = {
    "moments": """
        SELECT arm_id, endpoint_id, instance_id, cells.* EXCLUDE (series)
        FROM cells_moments{suffix} AS cells JOIN codes USING (series)""",
    "bin_lists": """
        SELECT arm_id, endpoint_id, cells.* EXCLUDE (pair)
        FROM cells_bins{suffix} AS cells JOIN (SELECT DISTINCT pair, arm_id, endpoint_id FROM codes) USING (pair)""",
    "instance_bin_lists": """
        SELECT arm_id, endpoint_id, instance_id, cells.* EXCLUDE (series)
        FROM cells_instance_bins{suffix} AS cells JOIN codes USING (series)""",
    "loads": """
        SELECT arm_id, cells.* EXCLUDE (arm)
        FROM cells_loads{suffix} AS cells JOIN (SELECT DISTINCT arm, arm_id FROM codes) USING (arm)""",
    "failure_kinds": """
        SELECT arm_id, endpoint_id, status, names.id AS exception, n, instance_id
        FROM cells_failure_kinds{suffix} AS cells JOIN codes USING (arm, endpoint, instance)
        JOIN store.names ON names.kind = 'exception' AND names.name = cells.exception""",
}
"""Table of the store → its rows without the run, in the order of its columns."""


_KNOWN_TEXTS = """
SELECT DISTINCT names.name FROM store.failure_kinds AS kinds JOIN store.names AS names ON names.id = kinds.exception
WHERE kinds.run = (SELECT code FROM store.runs WHERE id = ?)
"""

_FEWER_TEXTS = f"""
CREATE OR REPLACE TEMP TABLE cells_failure_kinds{{suffix}} AS
WITH new_texts AS (
    SELECT exception FROM cells_failure_kinds{{suffix}} WHERE exception NOT IN (SELECT unnest($known))
    GROUP BY exception ORDER BY sum(n) DESC, exception LIMIT {{most}}
)
SELECT
    arm, endpoint, instance, status, CAST(sum(n) AS BIGINT) AS n,
    CASE WHEN kinds.exception IN (SELECT unnest($known)) OR kinds.exception IN (FROM new_texts) THEN kinds.exception
        ELSE {quote(OTHER_TEXTS)} END AS exception
FROM cells_failure_kinds{{suffix}} AS kinds GROUP BY ALL
"""
"""Counts together the texts of exceptions that would be more than `MOST_TEXTS` with those that the run already has."""


def write_cells(engine: Engine, run_id: str, grid: int, units_per_ms: int, suffix: str = "") -> None:
    """Add the cells of a run that were just rolled up to the attached store. Call it inside a transaction.

    `suffix`: suffix of the tables with the cells. `grid`: largest step of which all their times are multiples; 0 if no
    success has a time. `units_per_ms`: unit of times and step; it must be that of the run, if one is stored.
    """
    known = [text for (text,) in engine.execute(_KNOWN_TEXTS, [run_id]).fetchall()]
    if known:
        engine.execute(_FEWER_TEXTS.format(suffix=suffix, most=max(MOST_TEXTS - len(known), 0)), {"known": known})
    engine.execute(_NAMES.format(suffix=suffix))  # new names get ids
    run_code = "SELECT code FROM store.runs WHERE id = ?"
    # `_INSERTS`: table → query for its rows, in which `_CODES` gives the ids of names.
    for table, cells in _INSERTS.items():
        query = f"{_CODES} SELECT ({run_code}) AS run, * FROM ({cells}) ORDER BY ALL".format(suffix=suffix)
        engine.execute(f"INSERT INTO store.{table} {query}", [run_id])
    # The number of landings shows whether cells have to be merged when they are read.
    # Without a success the unit stays open: later segments decide it.
    has_times = engine.execute(f"SELECT 1 FROM cells_moments{suffix} WHERE n > failures LIMIT 1").fetchall()
    engine.execute(
        """UPDATE store.runs
        SET landings = landings + 1, grid = gcd(grid, ?), units_per_ms = coalesce(units_per_ms, ?) WHERE id = ?""",
        [grid, units_per_ms if has_times else None, run_id],
    )
