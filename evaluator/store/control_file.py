"""The SQLite file next to the DuckDB file, which keeps decisions. It is opened for one transaction, then closed.

Unlike DuckDB, SQLite lets others read while one process writes, and a reader stops no writer: an analyst's open shell
does not keep anyone from holding or rolling back a release. Every commit is flushed to the disk (`synchronous = FULL`).
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from evaluator.errors import EvaluatorError, StoreBusy, StoreError
from evaluator.permissions import is_private, private_files
from evaluator.segments import data_folder
from evaluator.store.temporary import temporary_folder

Connection = sqlite3.Connection

SUFFIX = ".control.sqlite"

SCHEMA: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE releases (
            id TEXT PRIMARY KEY, services TEXT NOT NULL, labels TEXT NOT NULL, created_at TEXT)""",
        """CREATE TABLE verdicts (
            number INTEGER PRIMARY KEY, release TEXT NOT NULL, judged_at TEXT NOT NULL, word TEXT NOT NULL,
            verdict TEXT NOT NULL, hash TEXT NOT NULL, figures TEXT, outcomes_run TEXT NOT NULL DEFAULT '',
            outcomes_paid TEXT NOT NULL DEFAULT '', mode TEXT NOT NULL DEFAULT 'block')""",
        "CREATE INDEX verdicts_of_release ON verdicts (release, number)",
        """CREATE TABLE learnt (
            service TEXT PRIMARY KEY, sd_latency REAL, sd_failures REAL, comparisons INTEGER NOT NULL,
            runs INTEGER NOT NULL, df REAL NOT NULL, between_arms_latency REAL, between_arms_failures REAL,
            between_arms_comparisons INTEGER NOT NULL DEFAULT 0, between_arms_runs INTEGER NOT NULL DEFAULT 0)""",
        """CREATE TABLE intents (
            number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL, release TEXT NOT NULL,
            action TEXT NOT NULL, requester TEXT NOT NULL, reason TEXT NOT NULL, verdict_hash TEXT NOT NULL,
            data_hash TEXT NOT NULL, policy_hash TEXT NOT NULL, requested_at TEXT NOT NULL, expires_at TEXT NOT NULL,
            approvals_needed INTEGER NOT NULL, distinct_people INTEGER NOT NULL, state TEXT NOT NULL,
            claimed_by TEXT NOT NULL, requester_names TEXT NOT NULL, hooks_hash TEXT NOT NULL, undoes TEXT NOT NULL)""",
        "CREATE INDEX intents_of_release ON intents (release)",
        "CREATE INDEX intents_by_state ON intents (state)",
        """CREATE TABLE approvals (
            intent TEXT NOT NULL, person TEXT NOT NULL, happened_at TEXT NOT NULL, names TEXT NOT NULL,
            PRIMARY KEY (intent, person))""",
        """CREATE TABLE deliveries (
            intent TEXT NOT NULL, position INTEGER NOT NULL, hook TEXT NOT NULL, attempts INTEGER NOT NULL,
            state TEXT NOT NULL, text TEXT NOT NULL, undo TEXT NOT NULL, response TEXT NOT NULL,
            happened_at TEXT NOT NULL, event TEXT NOT NULL, options TEXT NOT NULL, PRIMARY KEY (intent, position))""",
        """CREATE TABLE audit (
            number INTEGER PRIMARY KEY, happened_at TEXT NOT NULL, actor TEXT NOT NULL, event TEXT NOT NULL,
            release TEXT NOT NULL, intent TEXT NOT NULL, text TEXT NOT NULL, covers TEXT NOT NULL,
            hash TEXT NOT NULL)""",
        "CREATE INDEX audit_of_release ON audit (release)",
        "CREATE TABLE imported (from_store TEXT NOT NULL, happened_at TEXT NOT NULL)",
    ),
    (
        """CREATE TABLE restarts (
            number INTEGER PRIMARY KEY, happened_at TEXT NOT NULL, event TEXT NOT NULL, last_intent INTEGER NOT NULL,
            salt TEXT NOT NULL)""",
        """CREATE TABLE notifications (
            row INTEGER NOT NULL, position INTEGER NOT NULL, state TEXT NOT NULL, happened_at TEXT NOT NULL,
            attempts INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (row, position))""",
    ),
    (
        """CREATE TABLE rollouts (
            number INTEGER PRIMARY KEY, release TEXT NOT NULL, plan TEXT NOT NULL, plan_hash TEXT NOT NULL,
            policy TEXT NOT NULL, person TEXT NOT NULL, names TEXT NOT NULL, reason TEXT NOT NULL,
            started_at TEXT NOT NULL, is_queued INTEGER NOT NULL, has_ended INTEGER NOT NULL DEFAULT 0)""",
        "CREATE INDEX rollouts_of_release ON rollouts (release)",
        """CREATE TABLE rollout_events (
            rollout INTEGER NOT NULL, number INTEGER NOT NULL, event TEXT NOT NULL, PRIMARY KEY (rollout, number))""",
        "ALTER TABLE intents ADD COLUMN rollout TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE intents ADD COLUMN step INTEGER NOT NULL DEFAULT -1",
    ),
)
"""Statements of each step. Steps are never edited once released: a change is a new step."""

VERSION = len(SCHEMA)

CHECK = "check the path, its permissions and the disk"
_BUSY = ("database is locked", "database table is locked")
_DAMAGED = ("file is not a database", "malformed", "disk image")
_READ_ONLY = ("readonly", "unable to open database file")


def control_path(store: Path) -> Path:
    """Path of the file of decisions that belongs to a store: `x.duckdb` → `x.control.sqlite`."""
    return store.with_suffix(SUFFIX)


def to_text(moment: datetime) -> str:
    """Write a time as it is stored: texts sort as times do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def to_time(text: str) -> datetime:
    """Read a time as it is stored."""
    return datetime.fromisoformat(text)


@dataclass(frozen=True, slots=True)
class ControlFile:
    """Where the decisions of a store are, and how long (s) to wait for other processes that write them."""

    store: Path
    """The DuckDB file of the store."""
    wait_s: float

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return control_path(self.store)

    @property
    def locks_folder(self) -> Path:
        """Folder of the files that processes lock while they execute intents."""
        return data_folder(self.store) / ".promotion"

    def is_private(self) -> bool:
        """Whether only the owner may read the decisions: as the store, or as they are already."""
        return is_private(self.store) or is_private(self.path)

    @contextmanager
    def opened(self, *, write: bool = False) -> Iterator[Connection]:
        """Open the file to read from it, all from one moment, or for one transaction.

        Raises StoreBusy if another process keeps it locked, StoreError if it cannot be used.
        """
        with private_files(when=self.is_private()), explained(self.path, self.wait_s):
            if not self.path.exists():
                raise explain_missing(self.path)
            if not write:
                with self._opened_for_reading() as connection:
                    yield connection
                return
            connection = _connect(self.path, "rw", self.wait_s)
            try:
                connection.execute("BEGIN IMMEDIATE")
                read_version(connection, self.path)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a failed COMMIT may have ended the transaction
                    connection.execute("ROLLBACK")
                raise
            finally:
                connection.close()

    @contextmanager
    def _opened_for_reading(self) -> Iterator[Connection]:
        """Open the file to read from it; a copy of it where SQLite cannot even read without writing next to it."""
        with _reading(self.path, self.wait_s) as connection:
            if connection is not None:
                yield connection
                return
        # On a full disk or a read-only one, SQLite cannot make the index of its log. A copy can be read.
        with temporary_folder() as folder:
            copy = folder / self.path.name
            for source in (self.path, _log_of(self.path)):
                with suppress(FileNotFoundError):
                    shutil.copyfile(source, copy.with_name(source.name))
            with _reading(copy, self.wait_s) as connection:
                if connection is None:
                    raise StoreError(f"{self.path} cannot be read, nor can a copy of it in {folder}")
                yield connection

    def copy(self, target: Path) -> None:
        """Copy the file, as it is at one moment, into the new file `target`, which needs no other file next to it.

        Others may read and write meanwhile. Raises StoreBusy and StoreError.
        """
        with self.opened() as source, explained(target, self.wait_s):
            copy = sqlite3.connect(target, isolation_level=None)
            try:
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
            finally:
                copy.close()

    def make(self) -> None:
        """Make the file if it is missing, and bring its schema up to date. Raises StoreBusy and StoreError."""
        with private_files(when=self.is_private()), explained(self.path, self.wait_s):
            if self.path.exists():
                with self._opened_for_reading() as connection:  # also where it cannot be written
                    if read_version(connection, self.path) == VERSION:
                        return
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                connection = _connect(self.path, "rwc", self.wait_s)
            except (sqlite3.OperationalError, OSError) as error:
                raise StoreError(
                    f"the store {self.store} cannot be made: {self.path} cannot be written",
                    hint="with --store, give a path in a folder that you may write to",
                ) from error
            try:
                connection.execute("PRAGMA journal_mode = WAL")  # kept in the file
                connection.execute("BEGIN IMMEDIATE")
                # Another process may have been faster.
                for step in SCHEMA[read_version(connection, self.path) :]:
                    for statement in step:
                        connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute("COMMIT")
            finally:
                connection.close()


@contextmanager
def _reading(path: Path, wait_s: float) -> Iterator[Connection | None]:
    """Open a transaction that reads the file at `path`; yields `None` if SQLite cannot read it without writing."""
    try:
        connection = _connect(path, "ro", wait_s)
    except sqlite3.OperationalError as error:
        if any(text in str(error) for text in _BUSY):  # another process writes to it, and lets no other read
            raise
        yield None
        return
    try:
        try:
            connection.execute("BEGIN")
            read_version(connection, path)
        except sqlite3.OperationalError as error:
            if any(text in str(error) for text in _BUSY):
                raise
            yield None
            return
        yield connection
    finally:
        connection.close()


def _connect(path: Path, mode: str, wait_s: float) -> Connection:
    """Open a connection; `mode`: `ro`, `rw`, or `rwc`, which makes the file."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=wait_s, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _log_of(path: Path) -> Path:
    """Path of SQLite's log of commits that are not in the file yet."""
    return path.with_name(path.name + "-wal")


def read_version(connection: Connection, path: Path) -> int:
    """Read the version of the schema of the file; 0 for a new one.

    Raises StoreError for another database, and for a file of a newer version.
    """
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise StoreError(
            f"{path} was written by a newer evaluator (schema {version}, this one knows {VERSION})",
            hint="upgrade the evaluator; the file was left unchanged",
        )
    if not version and connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise StoreError(
            f"{path} is not a file of decisions of the evaluator", hint="restore it from a backup, or move it elsewhere"
        )
    return int(version)


@contextmanager
def explained(path: Path, wait_s: float) -> Iterator[None]:
    """Turn an error of SQLite in the body of the `with` statement into a StoreError or a StoreBusy.

    So is a ValueError: a value that the evaluator did not write, such as a time that is none.
    """
    try:
        yield
    except ValueError as error:
        raise StoreError(
            f"{path} was changed by hand: {' '.join(str(error).split())[:200]}", hint="restore it from a backup"
        ) from error
    except sqlite3.Error as error:
        raise _translate(error, path, wait_s) from error
    except OSError as error:
        raise StoreError(f"{path} cannot be used: {error.strerror or error}", hint=CHECK) from error


def _translate(error: sqlite3.Error, path: Path, wait_s: float) -> EvaluatorError:
    """Make the error that a user sees from an error of SQLite."""
    text = " ".join(str(error).split())
    if any(part in text for part in _BUSY):
        return StoreBusy(
            f"{path} has been kept locked by another process for more than {wait_s:g} s",
            hint="end the program that writes to it, such as an SQLite shell with an open transaction, and try again",
        )
    if "full" in text:
        return StoreError(f"the disk is full: {path} could not be written", hint="free some space and try again")
    if any(part in text for part in _READ_ONLY):
        return StoreError(f"{path} cannot be written: permission denied", hint="check its permissions and the disk")
    if any(part in text for part in _DAMAGED):
        return StoreError(
            f"{path} is damaged: {text}",
            hint="restore a backup with `evaluator data restore`; if there is none, move the file to another folder, "
            "and begin with new decisions with `evaluator data new-decisions`",
        )
    return StoreError(f"{path} cannot be used: {text}", hint=CHECK)


def explain_missing(path: Path) -> StoreError:
    """Make the error for a file of decisions that should be there."""
    return StoreError(
        f"{path}, which has the decisions of the store, is gone: it was deleted or moved",
        hint="move it back, or restore a backup with `evaluator data restore`; if there is none, begin with new "
        "decisions with `evaluator data new-decisions`",
    )
