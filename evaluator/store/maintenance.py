"""Maintenance of a store: compact, purge, export, query a snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from evaluator.errors import StoreBusy, StoreError, UsageError
from evaluator.records import Run
from evaluator.segments import MERGED_BYTES, MERGED_FOLDER, compact, segment_paths
from evaluator.store.control_copies import copy_decisions
from evaluator.store.control_file import ControlFile
from evaluator.store.copying import copy_database
from evaluator.store.engine import Engine, Relation, open_engine, open_shared, quote, quote_name
from evaluator.store.file import StoreFile
from evaluator.store.landing import hash_file
from evaluator.store.locks import exclusive, shared
from evaluator.store.migrations import VIEWS
from evaluator.store.temporary import temporary_folder

_LOCK = "compaction.lock"
_FEWEST_TO_MERGE = 2


# ------------------------------------------------------------------ compact


def compact_run(file: StoreFile, run: Run) -> int:
    """Merge the landed segments of a run into large files; the manifest keeps the original names and hashes.

    Returns how many files were merged; 0 also if another process compacts the run. One transaction points the manifest
    to the merged files. Merged files that are still small are merged again. If the process is killed before the
    transaction, unused merged files stay; if it is killed after it, the small files stay, and do not land again because
    the manifest has their names. The next compaction deletes both. Files that a reader may have open stay as well.
    """
    folder = file.run_folder(run.release, run.id)
    lock = folder / _LOCK
    try:
        lock.touch()
    except OSError as error:
        raise StoreError(f"the segments in {folder} cannot be merged: {error.strerror}") from error
    with exclusive(lock) as alone:
        if not alone:
            return 0
        # Deleting segments needs an exclusive lock on this file, so none is deleted meanwhile.
        with shared(file.empty_segment):
            count = _merge_small(file, run.id, folder)
        _remove_replaced(file, run.id, folder)
    return count


def is_compaction_due(
    folder: Path, landed: Mapping[str, tuple[str | None, datetime]], older_than: datetime | None
) -> bool:
    """Whether segments in `folder` wait to be merged, or wait to be deleted because they were merged.

    `landed`: name of a segment → the file with its rows now (`None`: quarantined or purged), and when it landed. With
    `older_than`, segments are merged only if one of them landed before that time.
    """
    # Segments whose rows are in merged files; the others wait since they landed.
    merged_names = {name for name, (file, _) in landed.items() if file is not None and f"/{MERGED_FOLDER}/" in file}
    waiting_since = [
        landed_at for name, (file, landed_at) in landed.items() if file is not None and name not in merged_names
    ]
    if len(waiting_since) >= _FEWEST_TO_MERGE and (older_than is None or min(waiting_since) < older_than):
        return True
    return any(path.name in merged_names for path in segment_paths(folder))


def _merge_small(file: StoreFile, run_id: str, folder: Path) -> int:
    """Merge the small files of a run into files below `folder`, and write to the manifest where rows are now.

    Returns how many files were merged; 0 if there are too few small ones. The small files stay.
    """
    with file.opened() as engine:
        rows = engine.execute(
            "SELECT DISTINCT file FROM store.segments WHERE run = ? AND state = 'landed' ORDER BY file", [run_id]
        ).fetchall()
    try:
        small_files = [file.folder / name for (name,) in rows if (file.folder / name).stat().st_size < MERGED_BYTES]
    except OSError as error:
        raise StoreError(f"{error.filename} cannot be merged: {error.strerror}") from error
    if len(small_files) < _FEWEST_TO_MERGE:
        return 0
    try:
        (folder / MERGED_FOLDER).mkdir(exist_ok=True)
        # `worker` is the first part of the names of the merged files.
        merged_file_by_small = compact(small_files, folder / MERGED_FOLDER, worker="merged")
    except OSError as error:
        raise StoreError(f"the segments in {folder} cannot be merged: {error.strerror}") from error
    old_names = [path.relative_to(file.folder).as_posix() for path in merged_file_by_small]
    new_names = [path.relative_to(file.folder).as_posix() for path in merged_file_by_small.values()]
    with file.opened(write=True) as engine:
        engine.execute(
            """UPDATE store.segments SET file = moved.new
            FROM (SELECT unnest(?) AS old, unnest(?) AS new) AS moved
            WHERE run = ? AND state = 'landed' AND file = moved.old""",
            [old_names, new_names, run_id],
        )
    return len(small_files)


def _remove_replaced(file: StoreFile, run_id: str, folder: Path) -> None:
    """Delete files of a run whose rows are in other files; none if a process reads request rows.

    They are segments that landed with this name and content, and merged files that the manifest does not name. A
    segment with other content than what landed under its name stays: its rows are nowhere else.
    """
    # Readers of request rows hold a shared lock on this file.
    with exclusive(file.empty_segment) as no_readers:
        if not no_readers:
            return
        with file.opened() as engine:
            rows = engine.execute(
                "SELECT name, sha256, file FROM store.segments WHERE run = ? AND state <> 'quarantined'", [run_id]
            ).fetchall()
        hash_by_name = {name: sha256 for name, sha256, _ in rows}
        in_use = {file.folder / file_name for *_, file_name in rows if file_name is not None}  # None: purged
        candidates = [path for path in segment_paths(folder) if hash_by_name.get(path.name) == hash_file(path)]
        candidates += (folder / MERGED_FOLDER).glob("*.parquet")
        candidates += (folder / MERGED_FOLDER).glob("*.tmp")
        _delete([path for path in candidates if path not in in_use])


def _delete(paths: Sequence[Path]) -> None:
    """Delete files, also if some are gone. Raises StoreError."""
    try:
        for path in paths:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{error.filename} cannot be deleted: {error.strerror}") from error


# ------------------------------------------------------------------ purge


def purge_release(file: StoreFile, release_id: str) -> int:
    """Delete the landed request rows of a release and return how many; cells, hashes and verdicts stay.

    Raises StoreBusy if other processes read request rows for longer than the wait time.
    """
    # Readers of request rows hold a shared lock on this file.
    with exclusive(file.empty_segment, file.wait_s) as no_readers:
        if not no_readers:
            raise StoreBusy(
                f"request rows of the store {file.path} have been read for more than {file.wait_s:g} s",
                hint="wait for the query to end and try again",
            )
        with file.opened(write=True) as engine:
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
        # The small files of merged segments may not have been deleted yet.
        recorded_files = {file.run_folder(release_id, run) / name for run, name, _, _ in landed}
        current_files = {file.folder / file_name for _, _, file_name, _ in landed}
        _delete(sorted(recorded_files | current_files))
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
"""File of an export → query for its rows."""


def export_release(file: StoreFile, release_id: str, folder: Path) -> tuple[Path, ...]:
    """Write what is stored of a release as Parquet files into `folder`, and return their paths.

    Raises UsageError if one of the files exists already, StoreError if they cannot be written.
    """
    paths = {name: folder / f"{name}.parquet" for name in EXPORTED}
    existing = next((path for path in paths.values() if path.exists()), None)
    if existing is not None:
        raise UsageError(f"{existing} exists already; nothing was exported", hint="give another folder with --to")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror}") from error
    with open_snapshot(file, " ".join(EXPORTED.values())) as engine:
        for name, query in EXPORTED.items():
            rows = query.format(release=quote(release_id))
            engine.execute(f"COPY ({rows}) TO {quote(paths[name])} (FORMAT parquet)")
    return tuple(paths.values())


# ------------------------------------------------------------------ query


@contextmanager
def _copied(file: StoreFile) -> Iterator[Path]:
    """Copy the DuckDB file, and yield the copy: a long query on it does not block writers.

    The copy is deleted when the `with` statement ends.
    """
    with temporary_folder() as folder:
        copy = folder / file.path.name
        with file.opened():  # no process writes to the files meanwhile
            copy_database(file, copy)
        yield copy


@contextmanager
def open_snapshot(file: StoreFile, query: str) -> Iterator[Engine]:
    """Open a copy of the DuckDB file, with copies of the tables of decisions that `query` names.

    Its view `requests` reads the segments, which are not deleted meanwhile.
    """
    with (
        shared(file.empty_segment),
        _copied(file) as copy,
        open_engine(search=file.path.parent, read=copy) as engine,
    ):
        copy_decisions(ControlFile(file.path, file.wait_s), engine, query)
        yield engine


def relate(file: StoreFile, sql: str, parameters: Sequence[Any], release: str | None) -> Relation:
    """Run a query over a copy of the store. The copy lives as long as the relation, and blocks no other process.

    With `release` (a name), the views `requests` and `readings` show only its rows. Raises UsageError for bad SQL.
    """
    with _copied(file) as copy:
        # The copy is deleted when this block ends, but the engine that has it open can still read it. The relation
        # keeps the engine open.
        engine = open_shared(copy, search=file.path.parent)
    copy_decisions(ControlFile(file.path, file.wait_s), engine, sql)
    if release is not None:
        [(database,)] = engine.execute("SELECT current_database()").fetchall()
        for view in VIEWS:
            # A temporary view hides the view of the same name in the database.
            engine.execute(
                f"""CREATE TEMP VIEW {view} AS SELECT * FROM {quote_name(database)}.main.{view}
                WHERE run IN (SELECT id FROM runs WHERE release = {quote(release)})"""
            )
    return run_sql(engine, sql, parameters)


def run_sql(engine: Engine, sql: str, parameters: Sequence[Any] = ()) -> Relation:
    """Run a query. Raises UsageError if it cannot be run, or if it has no result, as a statement that changes data."""
    try:
        relation = engine.sql(sql, params=list(parameters)) if parameters else engine.sql(sql)
    except duckdb.Error as error:
        raise _explain_bad_sql(error) from error
    if relation is None:
        raise UsageError("the query has no result", hint="use SELECT, DESCRIBE, SHOW or SUMMARIZE")
    return relation


def draw(engine: Engine, sql: str, rows: int) -> str:
    """Run a query and draw its result as a table of at most `rows` rows. Raises UsageError."""
    try:
        return str(run_sql(engine, sql).limit(rows))
    except duckdb.Error as error:
        raise _explain_bad_sql(error) from error


def _explain_bad_sql(error: duckdb.Error) -> UsageError:
    """Make the error for a query of the user that DuckDB refused."""
    return UsageError(
        f"the query cannot be run: {str(error).splitlines()[0]}", hint="`evaluator data sql 'SHOW TABLES'` lists tables"
    )
