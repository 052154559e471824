"""Backups: a folder with copies of all files of a store, of one moment, and a manifest of them.

While the DuckDB file is copied, nothing can land: so all data that a verdict among the copied decisions stands on are
in the copied data. Decisions can be written all the time. Request rows are never changed, and none is deleted while
they are copied. The names differ from those of a store: no command takes a backup for one, and acts on what waits in
it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluator.errors import EvaluatorError, StoreError
from evaluator.permissions import is_private, private_files
from evaluator.segments import STAGED_SUFFIX, read_segment_number, to_folder_name
from evaluator.store import audit, control_file, covering
from evaluator.store.base import Store
from evaluator.store.control_file import explained
from evaluator.store.copying import copy_database
from evaluator.store.engine import open_engine
from evaluator.store.journal import Journal
from evaluator.store.landing import hash_file
from evaluator.store.locks import CLAIM, shared
from evaluator.store.migrations import SCHEMA_VERSION
from evaluator.store.temporary import MARK, unfinished_folder
from evaluator.version import find_version

FORMAT = 1
"""Version of the folder and its manifest."""
MANIFEST = "manifest.json"
DATA, DECISIONS, JOURNAL, ROWS = "data.duckdb", "decisions.sqlite", "rollback.journal", "rows"
"""Names in a backup: copies of the DuckDB file, the SQLite file, the journal, and the folder of request rows."""

LONGEST_WAIT_S = 300.0
"""How long to wait for a process that lands data."""
LONGEST_PAUSE_S = 20.0
"""How long nothing may land while the DuckDB file is copied: other processes wait for 30 s."""

_LEFT_OUT_SUFFIXES = (".tmp", ".unfinished", ".lock")
"""Files that are being written, and files that are only locked."""
_MOST_TRIES = 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup has."""

    format: int
    evaluator: str
    """Version of the evaluator that made it."""
    made_at: str
    store: str
    """Name of the DuckDB file that it is of."""
    private: bool
    """Only the owner may read the store."""
    schemas: Mapping[str, int]
    """`data` and `decisions`: versions of their schemas."""
    audit_head: str
    """Hash of the last row of the audit trail."""
    audit_rows: int
    changed_by_hand: str
    """What is wrong with the audit trail, or with what it covers; empty: nothing."""
    files: Mapping[str, tuple[int, str]]
    """Path in the backup → size in bytes, and SHA-256."""

    def write(self, path: Path) -> None:
        """Write it as JSON, and flush it to the disk. Raises OSError."""
        with path.open("x", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class BackupReport:
    """How a backup was made."""

    manifest: Manifest
    paused_s: float
    """How long (s) nothing could land."""
    missing: tuple[str, ...] = ()
    """Files of request rows that the data name, and that are gone."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.manifest.files.values())


class _Changed(Exception):
    """A file was replaced while it was copied."""


def make_backup(store: Store, target: Path, journal: Journal, *, pause_s: float = LONGEST_PAUSE_S) -> BackupReport:
    """Write a backup of a store into the new folder `target`, which appears when it is complete.

    `journal`: that of the store. `pause_s`: how long (s) nothing may land meanwhile. Raises StoreError.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - links stay
    _check_target(store, target)
    try:
        for attempt in range(1, _MOST_TRIES + 1):
            with private_files(), unfinished_folder(target.parent, f".{target.name[:40]}.unfinished-") as folder:
                try:
                    report = _fill(store, folder, journal, pause_s)
                except _Changed as error:
                    if attempt == _MOST_TRIES:
                        raise StoreError(f"{error} changed again and again while it was copied") from None
                    continue
                _check_target(store, target)
                (folder / MARK).unlink()
                folder.rename(target)
                _flush_folder(target.parent)
                return report
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise StoreError(
            f"the backup {target} cannot be made: {error.strerror or error}{where}; nothing of it was left",
            hint="check the permissions, and the space on the disk, or give another folder",
        ) from error
    raise AssertionError  # the last attempt returns or raises


def _check_target(store: Store, target: Path) -> None:
    """Raise StoreError if a backup must not be written to `target`."""
    if os.path.lexists(target):
        raise StoreError(f"{target} exists already; nothing was written", hint="give the path of a new folder")
    if not target.parent.is_dir():
        raise StoreError(
            f"there is no folder {target.parent}; nothing was written", hint="make it first: it may be a disk to mount"
        )
    rows = store.file.folder.resolve()
    if rows == target.parent.resolve() or rows in target.parent.resolve().parents:
        raise StoreError(
            f"{target} would be in {store.file.folder}, which is part of the store; nothing was written",
            hint="give a folder elsewhere, best on another disk",
        )


def _fill(store: Store, folder: Path, journal: Journal, pause_s: float) -> BackupReport:
    """Copy all files of a store into a folder, and write the manifest. Raises _Changed, StoreError and OSError."""
    file = replace(store.file, wait_s=LONGEST_WAIT_S)
    made_at = datetime.now(UTC)
    with shared(file.empty_segment):  # no request rows are deleted
        with file.opened():  # nothing lands, and no process completes an import
            began = time.monotonic()
            moment = _read_moment(file.folder)
            store.control.file.copy(folder / DECISIONS)
            copy_database(file, folder / DATA, pause_s)
            paused_s = time.monotonic() - began
        runs, named_files = _read_data(folder)
        hashes: dict[str, tuple[int, str]] = {}
        for name in _choose_files(moment, runs):
            target = folder / ROWS / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name in moment.texts:
                target.write_bytes(moment.texts[name])
            else:
                hashes[f"{ROWS}/{name}"] = _copy_unchanged(file.folder / name, moment.files[name], target)
    newest_journal = _read_newest(journal)
    if newest_journal is not None:
        (folder / JOURNAL).write_bytes(newest_journal)
    with _opened_copy(folder / DECISIONS) as connection:
        rows = audit.read(connection)
        manifest = Manifest(
            format=FORMAT,
            evaluator=find_version(),
            made_at=made_at.isoformat(timespec="seconds"),
            store=file.path.name,
            private=is_private(file.path),
            schemas={"data": SCHEMA_VERSION, "decisions": control_file.read_version(connection, folder / DECISIONS)},
            audit_head=rows[-1].hash if rows else "",
            audit_rows=len(rows),
            changed_by_hand=_find_change(connection),
            files={
                path.relative_to(folder).as_posix(): hashes.get(path.relative_to(folder).as_posix()) or _hash(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.name != MARK
            },
        )
    os.sync()  # one call for many files: after a power failure, a whole manifest must not name empty ones
    manifest.write(folder / MANIFEST)
    missing = tuple(sorted(name for name in named_files if name not in moment.files))
    return BackupReport(manifest, paused_s, missing)


# ------------------------------------------------------------------ the folder of request rows


@dataclass(frozen=True, slots=True)
class _Moment:
    """What is in the folder of request rows at one moment; paths in this folder."""

    texts: Mapping[str, bytes]
    """JSON files, which are replaced again and again → what they have."""
    files: Mapping[str, tuple[int, int, int]]
    """Other files, which are never changed → inode, size and time of change: a file that was replaced has others."""
    claimed: frozenset[str]
    """Folders of runs whose import has not landed, or has just landed."""


def _read_moment(root: Path) -> _Moment:
    """Read what is in the folder of request rows. Raises OSError.

    The position up to which `evaluator tail` has read a log must be that of the rows: neither a row more, which would
    be read again, nor less. So segments that were written after the position are left out.
    """
    # Facts of recorders are those from before the list: a recorder that has ended since counts as running.
    texts = _read_texts(root)
    names = dict(_list_files(root))
    end_by_run: dict[str, int] = {}  # folder of a run → number of the first segment that is left out
    for name, text in texts.items():
        if _is_position(name):
            with suppress(ValueError, TypeError, KeyError, AttributeError):  # a file that was damaged before
                state, release = json.loads(text), Path(name).parent
                end_by_run |= {f"{release}/{to_folder_name(run['run'])}": run["next_segment"] for run in state["runs"]}
                for staged in state["staged"]:
                    segment = f"{release}/{staged}".removesuffix(STAGED_SUFFIX)
                    with suppress(FileNotFoundError):  # it has got its name, maybe while the list was made
                        names[segment] = (root / segment).stat()
    files = {
        name: _identify(status)
        for name, status in names.items()
        if not name.endswith(".json") and not _is_beyond(name, end_by_run) and Path(name).name != CLAIM
    }
    return _Moment(texts, files, frozenset(str(Path(name).parent) for name in names if Path(name).name == CLAIM))


def _is_position(name: str) -> bool:
    """Whether a file says up to where `evaluator tail` has read a log: `RELEASE/tail.json`, or `tail-SERVICE.json`."""
    return name.count("/") == 1 and Path(name).name.startswith("tail")


def _is_beyond(name: str, end_by_run: Mapping[str, int]) -> bool:
    """Whether a file is a segment that was written after the position of `evaluator tail`."""
    end, number = end_by_run.get(str(Path(name).parent)), read_segment_number(name.removesuffix(STAGED_SUFFIX))
    return end is not None and number is not None and number >= end


def _read_texts(root: Path) -> dict[str, bytes]:
    """Read the JSON files in the folder of request rows."""
    texts = {}
    for name, _ in _list_files(root):
        if name.endswith(".json"):
            with suppress(FileNotFoundError):
                texts[name] = (root / name).read_bytes()
    return texts


def _list_files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """List the files in the folder of request rows that a backup has, with their states; links are followed.

    Hidden folders have only locks, and what the guard of rollouts does at this moment. A file that is deleted meanwhile
    is left out; so is what is no file, such as a pipe.
    """
    visited: set[tuple[int, int]] = set()
    for folder, folder_names, file_names in os.walk(root, followlinks=True):
        status = os.stat(folder)  # noqa: PTH116 - as text, which is faster for many
        if (status.st_dev, status.st_ino) in visited:  # a link that leads back
            folder_names.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folder_names[:] = sorted(name for name in folder_names if not name.startswith("."))
        for name in file_names:
            if name.endswith(_LEFT_OUT_SUFFIXES) and name != CLAIM:
                continue
            path = os.path.join(folder, name)  # noqa: PTH118 - as above
            with suppress(FileNotFoundError):
                file_status = os.stat(path)  # noqa: PTH116 - as above
                if stat.S_ISREG(file_status.st_mode):
                    yield Path(path).relative_to(root).as_posix(), file_status


def _identify(status: os.stat_result) -> tuple[int, int, int]:
    """Inode, size and time of change of a file."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _choose_files(moment: _Moment, runs: frozenset[str]) -> list[str]:
    """Choose the files that belong to a backup whose data have these `runs` (names of their folders).

    Not those of an import that has not landed: they would look like a recording.
    """
    unfinished = {folder for folder in moment.claimed if Path(folder).name not in runs}
    names = [*moment.texts, *moment.files]
    return [name for name in names if not any(str(parent) in unfinished for parent in Path(name).parents)]


def _copy_unchanged(source: Path, identity: tuple[int, int, int], target: Path) -> tuple[int, str]:
    """Copy a file that must be the one with this identity; returns its size and SHA-256. Raises _Changed, OSError."""
    try:
        opened = source.open("rb")
    except FileNotFoundError:
        if source.suffix != STAGED_SUFFIX:
            raise _Changed(str(source)) from None
        opened = source.with_suffix("").open("rb")  # it has got its name meanwhile
    with opened as reader, target.open("xb") as writer:
        if _identify(os.fstat(reader.fileno())) != identity:
            raise _Changed(str(source))
        return copy_and_hash(reader, writer)


def copy_and_hash(reader: Any, writer: Any) -> tuple[int, str]:
    """Copy an open file into another; returns the size in bytes and the SHA-256. Raises OSError."""
    sha256, size = hashlib.sha256(), 0
    while chunk := reader.read(1 << 20):
        writer.write(chunk)
        sha256.update(chunk)
        size += len(chunk)
    return size, sha256.hexdigest()


# ------------------------------------------------------------------ the rest


def _read_data(folder: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Read from the copied data the names of the folders of all runs, and the files that have their rows."""
    with open_engine(read=folder / DATA) as engine:
        runs = engine.execute("SELECT id FROM runs").fetchall()
        files = engine.execute("SELECT DISTINCT file FROM segments WHERE file IS NOT NULL").fetchall()
    return frozenset(to_folder_name(run) for (run,) in runs), frozenset(name for (name,) in files)


def _read_newest(journal: Journal) -> bytes | None:
    """Read the copy of the journal with the newest record; `None` if there is none that can be read."""
    newest: tuple[str, bytes] | None = None
    for path in journal.paths:
        with suppress(EvaluatorError, OSError), path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH)  # no process writes to it meanwhile
            records = Journal((path,)).read()
            last = max((str(record.get("at", "")) for record in records), default="")
            if newest is None or last > newest[0]:
                newest = last, file.read()
    return newest[1] if newest else None


@contextmanager
def _opened_copy(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the copied decisions to read from them. Raises StoreError."""
    with (
        explained(path, 0.0),
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection,
    ):
        [(problem,)] = connection.execute("PRAGMA quick_check(1)").fetchall()
        if problem != "ok":
            raise StoreError(f"the decisions of the store are damaged: {problem}", hint="restore an earlier backup")
        yield connection


def _find_change(connection: sqlite3.Connection) -> str:
    """Say what is wrong with the audit trail, or with what it covers; empty: nothing."""
    try:
        audit.verify(audit.read(connection))
        covering.verify_records(connection)
    except StoreError as error:
        return error.message
    return ""


def _hash(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file. Raises OSError."""
    return path.stat().st_size, hash_file(path)


def _flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
