"""What is done to a store beside landing and judging: compact, purge, export, query a snapshot."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from evaluator.errors import StoreError, UsageError
from evaluator.segments import compact
from evaluator.store.engine import Engine, attach, open_engine, quote, transaction

__all__ = [
    "EXPORTED",
    "Files",
    "compact_run",
    "export_release",
    "open_snapshot",
    "purge_release",
    "render",
    "run_query",
]


class Files:
    """Where a store keeps its files, and how long to wait for it."""

    __slots__ = ("data_dir", "store", "wait_s")

    def __init__(self, store: Path, data_dir: Path, wait_s: float) -> None:
        self.store, self.data_dir, self.wait_s = store, data_dir, wait_s

    @contextmanager
    def opened(self, *, write: bool) -> Iterator[Engine]:
        """Open the store with its folder as the place of relative files."""
        with (
            open_engine(search=self.store.parent) as engine,
            attach(engine, self.store, write=write, wait_s=self.wait_s),
        ):
            yield engine


# ------------------------------------------------------------------ compact


def compact_run(files: Files, run_id: str, folder: Path) -> int:
    """Merge the landed segments of a run into large files; the manifest keeps the original names and hashes.

    The rows change place in one transaction. Killed before it, merged files are left over that nobody looks at; killed
    after it, the small ones are, and they never land again, since the manifest knows their names. Returns how many
    segments were merged.
    """
    with files.opened(write=False) as engine:
        small = _unmerged_files(engine, run_id)
    if len(small) < _WORTH_MERGING:
        return 0
    moved = _merge(files.data_dir, small, folder / "merged")
    with files.opened(write=True) as engine, transaction(engine):
        if not set(small) <= set(_unmerged_files(engine, run_id)):
            return 0
        engine.executemany("UPDATE store.segments SET file = ? WHERE run = ? AND file = ?", _rows(moved, run_id))
    _delete(files.data_dir, small)
    return len(small)


_WORTH_MERGING = 2


def _unmerged_files(engine: Engine, run_id: str) -> list[str]:
    rows = engine.execute(
        """SELECT file FROM store.segments
        WHERE run = ? AND state = 'landed' AND NOT contains(file, '/merged/') ORDER BY file""",
        [run_id],
    ).fetchall()
    return [file for (file,) in rows]


def _merge(data_dir: Path, small: Sequence[str], place: Path) -> dict[str, str]:
    """Merge files and tell where the rows of each are now."""
    try:
        place.mkdir(exist_ok=True)
        merged = compact([data_dir / file for file in small], place, worker="merged")
    except OSError as error:
        raise StoreError(f"the segments in {place.parent} cannot be merged: {error.strerror}") from error
    return {
        source.relative_to(data_dir).as_posix(): part.path.relative_to(data_dir).as_posix()
        for part in merged
        for source in part.sources
    }


def _rows(moved: Mapping[str, str], run_id: str) -> list[tuple[str, str, str]]:
    return [(new, run_id, old) for old, new in moved.items()]


def _delete(data_dir: Path, names: Sequence[str]) -> None:
    try:
        for name in names:
            (data_dir / name).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{error.filename} cannot be deleted: {error.strerror}") from error


# ------------------------------------------------------------------ purge


def purge_release(files: Files, release_id: str) -> int:
    """Delete the request rows of a release that have landed; cells, hashes and verdicts stay. Returns the rows gone."""
    with files.opened(write=True) as engine, transaction(engine):
        landed = engine.execute(
            """SELECT file, s.rows FROM store.segments AS s JOIN store.runs ON runs.id = s.run
            WHERE release = ? AND s.state = 'landed'""",
            [release_id],
        ).fetchall()
        engine.execute(
            """UPDATE store.segments SET state = 'purged', file = NULL
            WHERE state = 'landed' AND run IN (SELECT id FROM store.runs WHERE release = ?)""",
            [release_id],
        )
    _delete(files.data_dir, sorted({file for file, _ in landed}))
    return sum(rows for _, rows in landed)


# ------------------------------------------------------------------ export

EXPORTED: Mapping[str, str] = {
    "requests": "SELECT * FROM requests WHERE run IN (SELECT id FROM runs WHERE release = {release})",
    "runs": "SELECT * FROM runs WHERE release = {release}",
    "segments": """SELECT s.* FROM segments AS s JOIN runs ON runs.id = s.run WHERE release = {release}""",
    "verdicts": "SELECT * FROM verdicts WHERE release = {release}",
    "outcome_moments": """
        SELECT m.*, o.variables FROM outcome_moments AS m JOIN outcomes AS o ON o.run = m.run
        JOIN runs ON runs.id = m.run WHERE release = {release}""",
    "moments": """
        SELECT r.id AS run, a.name AS arm, e.name AS endpoint, i.name AS instance,
            c.* EXCLUDE (run, arm, endpoint, instance)
        FROM moments AS c JOIN runs AS r ON r.code = c.run AND r.release = {release}
        JOIN names AS a ON a.id = c.arm JOIN names AS e ON e.id = c.endpoint
        JOIN names AS i ON i.id = c.instance""",
    "bins": """
        SELECT r.id AS run, a.name AS arm, e.name AS endpoint, c.* EXCLUDE (run, arm, endpoint)
        FROM bins AS c JOIN runs AS r ON r.code = c.run AND r.release = {release}
        JOIN names AS a ON a.id = c.arm JOIN names AS e ON e.id = c.endpoint""",
}
"""File of an export → what is in it."""


def export_release(files: Files, release_id: str, folder: Path) -> tuple[Path, ...]:
    """Write what is stored of a release as Parquet files into `folder`, which must not hold any of them."""
    paths = {name: folder / f"{name}.parquet" for name in EXPORTED}
    taken = next((path for path in paths.values() if path.exists()), None)
    if taken is not None:
        raise UsageError(f"{taken} exists already; nothing was exported", hint="give another folder with --to")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror}") from error
    with open_snapshot(files) as engine:
        for name, query in EXPORTED.items():
            rows = query.format(release=quote(release_id))
            engine.execute(f"COPY ({rows}) TO {quote(str(paths[name]))} (FORMAT parquet)")
    return tuple(paths.values())


# ------------------------------------------------------------------ query


@contextmanager
def open_snapshot(files: Files) -> Iterator[Engine]:
    """Open a copy of the store, so that a long query keeps nobody from writing; `requests` reads the segments."""
    with tempfile.TemporaryDirectory(prefix="evaluator-") as place:
        copy = Path(place) / files.store.name
        with files.opened(write=False):
            _copy(files.store, copy)
        with open_engine(search=files.store.parent, read=copy) as engine:
            yield engine


def _copy(store: Path, copy: Path) -> None:
    try:
        shutil.copyfile(store, copy)
        log = store.with_name(store.name + ".wal")
        if log.exists():
            shutil.copyfile(log, copy.with_name(copy.name + ".wal"))
    except OSError as error:
        raise StoreError(f"the store {store} cannot be copied: {error.strerror}") from error


def run_query(files: Files, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
    """Run a query over a snapshot: the tables of the store and the view `requests`. Raises UsageError for bad SQL."""
    with open_snapshot(files) as engine:
        return _run(engine, sql, parameters).to_arrow_table()


def render(files: Files, sql: str, rows: int) -> str:
    """Run a query over a snapshot and draw its result as a table of at most `rows` rows."""
    with open_snapshot(files) as engine:
        try:
            drawn = _run(engine, sql, ()).limit(rows)
            return str(drawn)
        except duckdb.Error as error:
            raise _bad_sql(error) from error


def _run(engine: Engine, sql: str, parameters: Sequence[Any]) -> duckdb.DuckDBPyRelation:
    try:
        relation = engine.sql(sql, params=list(parameters)) if parameters else engine.sql(sql)
    except duckdb.Error as error:
        raise _bad_sql(error) from error
    if relation is None:
        raise UsageError("the query has no result", hint="queries read: SELECT, DESCRIBE, SHOW, SUMMARIZE")
    return relation


def _bad_sql(error: duckdb.Error) -> UsageError:
    return UsageError(
        f"the query cannot be run: {str(error).splitlines()[0]}", hint="`evaluator data sql 'SHOW TABLES'` lists tables"
    )
