"""Segments land: rolled up in a private engine, then written with their manifest rows in one short transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from evaluator.errors import SourceError, StoreError
from evaluator.records import Landed
from evaluator.segments import count_rows, segment_paths
from evaluator.store.engine import Engine, attach, open_engine, transaction
from evaluator.store.migrations import data_dir_of, empty_segment
from evaluator.store.rollup import HIGHEST_MS, find_grid_us, roll_up
from evaluator.store.rollup import count_rows as count_rolled_up

__all__ = ["Segment", "Target", "land", "write_cells", "write_manifest"]

_BATCH_ROWS = 20_000_000
_BATCH_SEGMENTS = 2000
"""Most rows and segments rolled up at a time, so that memory does not grow with the run."""


@dataclass(frozen=True, slots=True)
class Target:
    """The run that segments land in."""

    store: Path
    run: str
    code: int
    bucket_s: int
    folder: Path
    wait_s: float


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment before it lands; `problem` says why it cannot."""

    path: Path
    rows: int = 0
    sha256: str = ""
    problem: str = ""


def land(target: Target, known: Sequence[str]) -> Landed:
    """Land the segments in the target's folder that are not among the `known` names. Twice changes nothing."""
    fresh = [path for path in segment_paths(target.folder) if path.name not in set(known)]
    landed = Landed(already=len(known), runs=(target.run,))
    looked_at = [segment for path in fresh if (segment := _look_at(path)) is not None]
    for batch in _batches(looked_at):
        landed = _add(landed, _land_batch(target, batch))
    return landed


def _batches(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    batch: list[Segment] = []
    for segment in segments:
        full = len(batch) == _BATCH_SEGMENTS or sum(s.rows for s in batch) + segment.rows > _BATCH_ROWS
        if batch and full:
            yield batch
            batch = []
        batch.append(segment)
    if batch:
        yield batch


def _add(one: Landed, other: Landed) -> Landed:
    return Landed(
        rows=one.rows + other.rows,
        segments=one.segments + other.segments,
        quarantined=one.quarantined + other.quarantined,
        already=one.already + other.already,
        runs=one.runs,
    )


def _land_batch(target: Target, batch: Sequence[Segment]) -> Landed:
    segments = list(batch)
    with open_engine() as engine:
        while segments:
            segments = _roll_up_readable(engine, segments, target)
            taken = _write(engine, target, segments)
            if not taken:
                break
            segments = [segment for segment in segments if segment.path.name not in taken]
        return _report(segments)


def _report(segments: Sequence[Segment]) -> Landed:
    good = [segment for segment in segments if not segment.problem]
    bad = tuple(segment.path.name for segment in segments if segment.problem)
    return Landed(rows=sum(segment.rows for segment in good), segments=len(good), quarantined=bad)


def _look_at(path: Path) -> Segment | None:
    """Read a segment's footer and hash its bytes; `None` where another process landed and merged it just now."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"segment {path} cannot be read: {error.strerror}") from error
    try:
        return Segment(path, count_rows(path), sha256)
    except SourceError as error:
        return Segment(path, 0, sha256, error.message)


def _roll_up_readable(engine: Engine, segments: Sequence[Segment], target: Target) -> list[Segment]:
    """Roll up what can be read; the segments come back with the problems found."""
    good = [segment.path for segment in segments if not segment.problem]
    try:
        roll_up(engine, good or [empty_segment(target.store)], target.bucket_s)
    except duckdb.Error:
        problems = {path: _find_problem(engine, path) for path in good}
        if not any(problems.values()):
            raise
        return _roll_up_readable(engine, _mark(segments, problems), target)
    if count_rolled_up(engine) == sum(segment.rows for segment in segments):
        return list(segments)
    problems = {path: _find_problem(engine, path) for path in good}
    return _roll_up_readable(engine, _mark(segments, problems), target)


def _mark(segments: Sequence[Segment], problems: dict[Path, str]) -> list[Segment]:
    return [
        Segment(segment.path, 0, segment.sha256, problems[segment.path]) if problems.get(segment.path) else segment
        for segment in segments
    ]


def _find_problem(engine: Engine, path: Path) -> str:
    """Say why a segment cannot be rolled up; empty where it can."""
    try:
        roll_up(engine, [path], 1)
        bad = engine.execute(
            """SELECT response_time_ms FROM read_parquet(?)
            WHERE NOT (isfinite(response_time_ms) AND response_time_ms BETWEEN 0 AND ?) LIMIT 1""",
            [str(path), HIGHEST_MS],
        ).fetchall()
        missing = count_rows(path) - count_rolled_up(engine)
    except duckdb.Error as error:
        return " ".join(str(error).split())[:200]
    if bad:
        return f"segment {path} has a response time of {bad[0][0]} ms"
    return f"segment {path} has {missing} rows without a response time" if missing else ""


def _write(engine: Engine, target: Target, segments: Sequence[Segment]) -> set[str]:
    """Write cells and manifest, unless another process was faster: then write nothing and name what it landed."""
    grid_us = find_grid_us(engine)
    with attach(engine, target.store, write=True, wait_s=target.wait_s), transaction(engine):
        taken = _landed_names(engine, target.run) & {segment.path.name for segment in segments}
        if not taken:
            write_cells(engine, target.code, grid_us)
            write_manifest(engine, target, segments)
    if not taken:
        _set_aside([segment.path for segment in segments if segment.problem])
    return taken


def _landed_names(engine: Engine, run: str) -> set[str]:
    return {row[0] for row in engine.execute("SELECT name FROM store.segments WHERE run = ?", [run]).fetchall()}


def _set_aside(paths: Sequence[Path]) -> None:
    """Rename unreadable segments, so that they stay for inspection but break no reader of the folder."""
    for path in paths:
        path.rename(path.with_name(path.name + ".unreadable"))


def write_manifest(engine: Engine, target: Target, segments: Sequence[Segment]) -> None:
    """Note in the attached store which segments its cells are made of, and which could not be read."""
    now = datetime.now(UTC)
    data_dir = data_dir_of(target.store)
    rows = [
        (
            target.run,
            segment.path.name,
            None if segment.problem else segment.path.relative_to(data_dir).as_posix(),
            segment.sha256,
            segment.rows,
            "quarantined" if segment.problem else "landed",
            segment.problem or None,
            now,
        )
        for segment in segments
    ]
    engine.executemany("INSERT INTO store.segments VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)


_NAMES = """
INSERT INTO store.names
SELECT (SELECT coalesce(max(id), -1) FROM store.names) + row_number() OVER (ORDER BY kind, name), kind, name
FROM (
    SELECT 'arm' AS kind, arm AS name FROM series{part}
    UNION SELECT 'endpoint', endpoint FROM series{part}
    UNION SELECT 'instance', instance FROM series{part}
    UNION SELECT 'exception', exception FROM cells_failure_kinds{part}
)
ANTI JOIN store.names USING (kind, name)
"""

_CODES = """
WITH codes AS (
    SELECT DISTINCT
        series.* EXCLUDE (label), arms.id AS arm_id, endpoints.id AS endpoint_id, instances.id AS instance_id
    FROM series{part} AS series
    JOIN store.names AS arms ON arms.kind = 'arm' AND arms.name = series.arm
    JOIN store.names AS endpoints ON endpoints.kind = 'endpoint' AND endpoints.name = series.endpoint
    JOIN store.names AS instances ON instances.kind = 'instance' AND instances.name = series.instance
)
"""

_INSERTS = {
    "moments": """
        SELECT arm_id, endpoint_id, instance_id, cells.* EXCLUDE (series)
        FROM cells_moments{part} AS cells JOIN codes USING (series)""",
    "bin_lists": """
        SELECT arm_id, endpoint_id, cells.* EXCLUDE (pair)
        FROM cells_bins{part} AS cells JOIN (SELECT DISTINCT pair, arm_id, endpoint_id FROM codes) USING (pair)""",
    "instance_bin_lists": """
        SELECT arm_id, endpoint_id, instance_id, cells.* EXCLUDE (series)
        FROM cells_instance_bins{part} AS cells JOIN codes USING (series)""",
    "loads": """
        SELECT arm_id, cells.* EXCLUDE (arm)
        FROM cells_loads{part} AS cells JOIN (SELECT DISTINCT arm, arm_id FROM codes) USING (arm)""",
    "failure_kinds": """
        SELECT arm_id, endpoint_id, status, names.id AS exception, n
        FROM cells_failure_kinds{part} AS cells
        JOIN (SELECT DISTINCT arm, endpoint, arm_id, endpoint_id FROM codes) USING (arm, endpoint)
        JOIN store.names ON names.kind = 'exception' AND names.name = cells.exception""",
}
"""Table of the store → its rows without the run, in the order of its columns."""


def write_cells(engine: Engine, run_code: int, grid_us: int, part: str = "") -> None:
    """Add the cells just rolled up (into `part`) to the attached store. To be called inside a transaction."""
    engine.execute(_NAMES.format(part=part))
    for table, rows in _INSERTS.items():
        query = f"{_CODES} SELECT ? AS run, * FROM ({rows}) ORDER BY ALL".format(part=part)
        engine.execute(f"INSERT INTO store.{table} {query}", [run_code])
    engine.execute(
        "UPDATE store.runs SET landings = landings + 1, grid_us = gcd(grid_us, ?) WHERE code = ?", [grid_us, run_code]
    )
