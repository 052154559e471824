"""What is done to a store beside landing and judging: compact, purge, export, query a snapshot."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from evaluator.errors import StoreBusy, StoreError, UsageError
from evaluator.segments import MERGED_BYTES, MERGED_FOLDER, compact, run_folder, segment_paths
from evaluator.store.engine import Engine, attach, open_engine, open_lasting, quote, transaction
from evaluator.store.locks import exclusive, shared
from evaluator.store.migrations import VIEWS, empty_segment

__all__ = [
    "EXPORTED",
    "Files",
    "compact_run",
    "export_release",
    "is_compaction_due",
    "open_snapshot",
    "purge_release",
    "relate",
    "render",
    "run_query",
]


class Files:
    """Where a store keeps its files, and how long to wait for it."""

    __slots__ = ("data_dir", "store", "wait_s")

    def __init__(self, store: Path, data_dir: Path, wait_s: float) -> None:
        self.store, self.data_dir, self.wait_s = store, data_dir, wait_s

    @property
    def gate(self) -> Path:
        """The file that readers of request rows lock together, and who deletes rows locks alone."""
        return empty_segment(self.store)

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

    The rows change place in one transaction. What was merged before and is still small is merged again. Killed before
    the transaction, merged files are left over that nobody looks at; killed after it, the small ones are, and they
    never land again, since the manifest knows their names: both go with the next compaction. Files that a reader may
    still want stay as long. Returns how many files were merged; none where another process does the same just now.
    """
    lock = folder / _LOCK
    try:
        lock.touch()
    except OSError as error:
        raise StoreError(f"the segments in {folder} cannot be merged: {error.strerror}") from error
    with exclusive(lock) as alone:
        if not alone:
            return 0
        with shared(files.gate):
            count = _merge_small(files, run_id, folder / MERGED_FOLDER)
        _remove_replaced(files, run_id, folder)
    return count


def is_compaction_due(folder: Path, places: Mapping[str, tuple[str | None, datetime]], since: datetime | None) -> bool:
    """Tell whether segments in `folder` wait to be merged, or to be deleted because they were.

    `places` are the file and the time of landing of each segment; with `since` those wait that landed before it.
    """
    elsewhere = {name for name, (file, _) in places.items() if file is not None and f"/{MERGED_FOLDER}/" in file}
    waiting = [at for name, (file, at) in places.items() if file is not None and name not in elsewhere]
    if len(waiting) >= _WORTH_MERGING and (since is None or min(waiting) < since):
        return True
    return any(path.name in elsewhere for path in segment_paths(folder))


_LOCK = "compaction.lock"
_WORTH_MERGING = 2


def _merge_small(files: Files, run_id: str, place: Path) -> int:
    small = _small_files(files, run_id)
    if len(small) < _WORTH_MERGING:
        return 0
    moved = _merge(files.data_dir, small, place)
    with files.opened(write=True) as engine, transaction(engine):
        engine.execute(
            """UPDATE store.segments SET file = moved.new
            FROM (SELECT unnest(?) AS old, unnest(?) AS new) AS moved
            WHERE run = ? AND state = 'landed' AND file = moved.old""",
            [list(moved), list(moved.values()), run_id],
        )
    return len(small)


def _small_files(files: Files, run_id: str) -> list[str]:
    with files.opened(write=False) as engine:
        rows = engine.execute(
            "SELECT DISTINCT file FROM store.segments WHERE run = ? AND state = 'landed' ORDER BY file", [run_id]
        ).fetchall()
    try:
        return [file for (file,) in rows if (files.data_dir / file).stat().st_size < MERGED_BYTES]
    except OSError as error:
        raise StoreError(f"{error.filename} cannot be merged: {error.strerror}") from error


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


def _remove_replaced(files: Files, run_id: str, folder: Path) -> None:
    """Delete files of a run whose rows are elsewhere, unless somebody reads."""
    with exclusive(files.gate) as alone:
        if not alone:
            return
        with files.opened(write=False) as engine:
            rows = engine.execute(
                "SELECT name, sha256, file FROM store.segments WHERE run = ? AND state <> 'quarantined'", [run_id]
            ).fetchall()
        hashes, kept = {name: sha256 for name, sha256, _ in rows}, {file for *_, file in rows}
        old = [path for path in segment_paths(folder) if hashes.get(path.name) == _hash(path)]
        old += [*(folder / MERGED_FOLDER).glob("*.parquet"), *(folder / MERGED_FOLDER).glob("*.tmp")]
        found = [path.relative_to(files.data_dir).as_posix() for path in old]
        _delete(files.data_dir, [name for name in found if name not in kept])


def _hash(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _delete(data_dir: Path, names: Sequence[str]) -> None:
    try:
        for name in names:
            (data_dir / name).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{error.filename} cannot be deleted: {error.strerror}") from error


# ------------------------------------------------------------------ purge


def purge_release(files: Files, release_id: str) -> int:
    """Delete the request rows of a release that have landed; cells, hashes and verdicts stay. Returns the rows gone.

    Raises StoreBusy where somebody reads request rows for too long.
    """
    with exclusive(files.gate, files.wait_s) as alone:
        if not alone:
            raise StoreBusy(
                f"request rows of the store {files.store} have been read for more than {files.wait_s:g} s",
                hint="wait for the query to end and try again",
            )
        return _purge(files, release_id)


def _purge(files: Files, release_id: str) -> int:
    with files.opened(write=True) as engine, transaction(engine):
        landed = engine.execute(
            """SELECT runs.id, name, file, s.rows FROM store.segments AS s JOIN store.runs ON runs.id = s.run
            WHERE release = ? AND s.state = 'landed'""",
            [release_id],
        ).fetchall()
        engine.execute(
            """UPDATE store.segments SET state = 'purged', file = NULL
            WHERE state = 'landed' AND run IN (SELECT id FROM store.runs WHERE release = ?)""",
            [release_id],
        )
    folders = {run: run_folder(files.data_dir, release_id, run) for run, *_ in landed}
    as_recorded = {(folders[run] / name).relative_to(files.data_dir).as_posix() for run, name, *_ in landed}
    _delete(files.data_dir, sorted(as_recorded | {file for *_, file, _ in landed}))
    return sum(rows for *_, rows in landed)


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


def relate(files: Files, sql: str, parameters: Sequence[Any], release: str | None) -> duckdb.DuckDBPyRelation:
    """Run a query over a copy of the store of its own. The copy lives as long as the relation, and keeps nobody out.

    With `release` the views `requests` and `readings` show rows of that release only. Raises UsageError for bad SQL.
    """
    with tempfile.TemporaryDirectory(prefix="evaluator-") as place:
        copy = Path(place) / files.store.name
        with files.opened(write=False):
            _copy(files.store, copy)
        # The file goes with its folder, and stays readable for who has it open. Relations keep their connection.
        engine = open_lasting(copy, search=files.store.parent)
    if release is not None:
        _show_only(engine, release)
    return _run(engine, sql, parameters)


def _show_only(engine: Engine, release: str) -> None:
    name = str(engine.execute("SELECT current_database()").fetchall()[0][0]).replace('"', '""')
    for view in VIEWS:
        engine.execute(
            f"""CREATE TEMP VIEW {view} AS SELECT * FROM "{name}".main.{view}
            WHERE run IN (SELECT id FROM runs WHERE release = {quote(release)})"""
        )


@contextmanager
def open_snapshot(files: Files) -> Iterator[Engine]:
    """Open a copy of the store, so that a long query keeps nobody from writing; `requests` reads the segments."""
    with shared(files.gate), tempfile.TemporaryDirectory(prefix="evaluator-") as place:
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
