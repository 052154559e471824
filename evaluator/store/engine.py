"""DuckDB: a private engine for heavy work, and the shared file, attached for one transaction."""

from __future__ import annotations

import atexit
import glob
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from evaluator.errors import StoreBusy, StoreError
from evaluator.store.temporary import is_temporary_path_usable, name_temporary_path

Engine = duckdb.DuckDBPyConnection
Relation = duckdb.DuckDBPyRelation

MEMORY_LIMIT = "512MB"
"""Memory that a private engine may use before it spills to disk; the whole process stays below 0.8 GB."""

_STORAGE_VERSION = "v1.5.0"
_HOLDER = re.compile(r"held in (?P<process>\S+) \(PID (?P<pid>\d+)\)")
_FILE = re.compile(r'file \\?"([^"\\]+)\\?"')
_DISK_FULL = "No space left on device"
_COUNT_LEFT_BEHIND = """
SELECT
    (SELECT count(*) FROM duckdb_databases() WHERE NOT internal AND database_name <> 'memory'),
    (SELECT count(*) FROM duckdb_tables() WHERE NOT internal)
"""
"""Counts of attached files and of tables."""
_BUSY = ("Could not set lock", "Unique file handle conflict")


@contextmanager
def open_engine(*, search: Path | None = None, read: Path | None = None) -> Iterator[Engine]:
    """Open a private engine: in memory, or read-only on the file `read`. Queries find relative paths in `search`.

    An error of DuckDB in the body of the `with` statement becomes a StoreError.
    """
    try:
        path = str(read) if read else ":memory:"
        with duckdb.connect(path, read_only=read is not None) as engine:
            _limit(engine)
            _set_session(engine, search)
            yield engine
    except duckdb.Error as error:
        raise _translate(error) from error


_IDLE: list[tuple[Engine, Path]] = []
"""Engines that wait for their next use, each with its folder for what exceeds its memory."""
_MAX_IDLE = 4


@contextmanager
def reuse_engine(*, search: Path) -> Iterator[Engine]:
    """Open a private engine in memory like `open_engine`, but keep it for the next caller: opening takes 12 ms.

    Each caller gets a connection of its own, so temporary tables and registered frames end with it. An engine is kept
    only if the body raised nothing and left it clean.
    """
    engine = None
    try:
        engine, spill = _take_idle() or _open_in_memory()
        with engine.cursor() as connection:
            _set_session(connection, search)
            yield connection
        if len(_IDLE) < _MAX_IDLE and engine.execute(_COUNT_LEFT_BEHIND).fetchone() == (0, 0):
            _IDLE.append((engine, spill))
            engine = None
    except duckdb.Error as error:
        raise _translate(error) from error
    finally:
        if engine is not None:
            engine.close()


def _take_idle() -> tuple[Engine, Path] | None:
    """Take an engine that waits for its next use, with its folder; None if there is none.

    Those whose folder was deleted are closed: every query that needs more memory would fail.
    """
    with suppress(IndexError):  # there is none, or another thread took the last one
        while True:
            engine, spill = _IDLE.pop()
            if is_temporary_path_usable(spill):
                return engine, spill
            engine.close()
    return None


def _open_in_memory() -> tuple[Engine, Path]:
    """Open an engine without a file; returns it with its folder for what exceeds its memory."""
    engine: Engine = duckdb.connect(":memory:")
    return engine, _limit(engine)


def close_idle() -> None:
    """Close the engines that wait for their next use."""
    while _IDLE:
        _IDLE.pop()[0].close()


atexit.register(close_idle)
os.register_at_fork(before=close_idle)  # a child cannot use the engines of its parent


def open_shared(path: Path, *, search: Path) -> Engine:
    """Open an engine on the file `path`, read-only. Queries find relative paths in `search`.

    The engine closes when nothing refers to it or to one of its relations.
    """
    try:
        engine: Engine = duckdb.connect(str(path), read_only=True)
        _limit(engine)
        _set_session(engine, search)
    except duckdb.Error as error:
        raise _translate(error) from error
    return engine


def _limit(engine: Engine) -> Path:
    """Set what holds for all connections of an engine: its memory, and a folder of its own for what exceeds that.

    Returns that folder. The engine makes it when it first needs it, and deletes it when it closes. Raises StoreError.
    """
    try:
        spill = name_temporary_path()
    except OSError as error:
        raise StoreError(
            f"no temporary folder can be made: {error}",
            hint="free some space there, or name another folder in the environment variable TMPDIR",
        ) from error
    engine.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
    engine.execute(f"SET temp_directory = {quote(spill)}")
    engine.execute("SET preserve_insertion_order = false")  # keeping the order of rows costs memory and time
    return spill


def _set_session(connection: Engine, search: Path | None) -> None:
    """Set what holds for one connection: the time zone, and the folder for relative paths."""
    connection.execute("SET TimeZone = 'UTC'")
    if search is not None:
        connection.execute(f"SET file_search_path = {quote(search)}")


@contextmanager
def attach(engine: Engine, path: Path, *, write: bool, wait_s: float, create: bool = False) -> Iterator[None]:
    """Attach the file at `path` to `engine` as the database `store` for the body of the `with` statement.

    `create`: make the file if it does not exist; only with `write`. Waits up to `wait_s` seconds for a process that
    keeps the file open. Raises StoreBusy, which names that process, or StoreError.
    """
    # Without the type, DuckDB would read a file that is called .csv or .xlsx as that format.
    options = "" if write else ", READ_ONLY"
    if not path.exists():
        if not create:
            # Only a store that was there is opened here. DuckDB would make an empty file, which is no store.
            raise StoreError(
                f"the store {path} is gone: it was deleted or moved while it was used",
                hint="nothing was written; move it back, or restore it from a backup, and try again",
            )
        options = f", STORAGE_VERSION '{_STORAGE_VERSION}'"
    statement = f"ATTACH {quote(path)} AS store (TYPE duckdb{options})"
    try:
        try:
            engine.execute(statement)
        except duckdb.Error as error:
            if not _is_busy(error):
                raise
            _attach_when_free(engine, statement, path, wait_s)
    except duckdb.Error as error:
        raise _explain_not_attached(path, error, write=write) from error
    try:
        yield
    finally:
        try:
            engine.execute("DETACH store")
        except duckdb.Error as error:
            # A full disk does no harm here: committed changes are in the log, which the next opening applies.
            if _DISK_FULL not in str(error):
                raise


def _is_busy(error: BaseException) -> bool:
    """Whether DuckDB refused a file because another connection or process has it open."""
    return isinstance(error, duckdb.Error) and any(text in str(error) for text in _BUSY)


def _attach_when_free(engine: Engine, statement: str, path: Path, wait_s: float) -> None:
    """Repeat the ATTACH `statement` until the other process closes the file. Raises StoreBusy after `wait_s`."""
    # Imported only to wait: importing it takes longer than opening a store.
    from tenacity import RetryError, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

    retrying = Retrying(
        retry=retry_if_exception(_is_busy),
        stop=stop_after_delay(wait_s),
        wait=wait_random_exponential(multiplier=0.005, max=0.1),
    )
    try:
        retrying(engine.execute, statement)
    except RetryError as error:
        holder = _HOLDER.search(str(error.last_attempt.exception()))
        owner = "another part of this process"  # DuckDB names only other processes
        if holder:
            owner = f"process {holder['pid']} ({Path(holder['process']).name})"
        raise StoreBusy(
            f"the store {path} has been kept open by {owner} for more than {wait_s:g} s",
            hint="close the program that has it open, such as a DuckDB shell, and try again",
        ) from error


def _explain_not_attached(path: Path, error: duckdb.Error, *, write: bool) -> StoreError:
    """Make the error for a store that DuckDB could not attach; `write`: it was opened to write."""
    text = _first_line(error)
    if "Permission denied" in text or "Read-only file system" in text:
        verb, hint = "read", "check its permissions"
        if write:
            verb = "written"
            hint += "; without write permission, use only `evaluator verdict --dry-run` and `evaluator releases`"
        return StoreError(f"the store {path} cannot be {verb}: permission denied", hint=hint)
    if "not a valid DuckDB database" in text:
        return StoreError(f"{path} is not a store: it is not a DuckDB file", hint="give another path with --store")
    if "version number" in text:
        return StoreError(f"{path} was written by another version of DuckDB: {text}", hint="install a newer evaluator")
    return StoreError(f"the store {path} cannot be opened: {text}", hint="check the path, its permissions and the disk")


@contextmanager
def transaction(engine: Engine) -> Iterator[None]:
    """Commit all changes of the block, or none."""
    engine.execute("BEGIN TRANSACTION")
    try:
        yield
        engine.execute("COMMIT")
    except BaseException:
        with suppress(duckdb.TransactionException):  # a failed COMMIT has already ended the transaction
            engine.execute("ROLLBACK")
        raise


def _translate(error: duckdb.Error) -> StoreError:
    """Make the error that a user sees from an error of DuckDB."""
    text = " ".join(str(error).split())
    file_match = _FILE.search(text)
    name = file_match[1] if file_match else "a file"
    if _DISK_FULL in text:
        return StoreError(f"the disk is full: {name} could not be written", hint="free some space and try again")
    if "Permission denied" in text or "Read-only file system" in text:
        return StoreError(f"permission denied: {name} cannot be opened", hint="check the permissions of the folder")
    return StoreError(f"the data could not be processed: {_first_line(error)}")


def _first_line(error: duckdb.Error) -> str:
    """Return the first paragraph of a message of DuckDB on one line, shortened."""
    return " ".join(str(error).split("\n\n", maxsplit=1)[0].split())[:300]


def quote(text: str | Path) -> str:
    """Quote a text or a path for the few places of SQL that take no parameter (ATTACH, SET, COPY … TO)."""
    return "'" + os.fspath(text).replace("'", "''") + "'"


def path_for_engine(path: str | Path) -> str:
    """Return the path of a file in a form that DuckDB does not take for an address or a path in the home folder."""
    # Not normalised: `..` after a link is not the folder in which the link is.
    absolute = os.path.join(os.getcwd(), path)  # noqa: PTH118, PTH109 - see the line above
    if glob.has_magic(absolute):
        # DuckDB normalises a path in which it finds a pattern, so links are followed here.
        folder, name = os.path.split(absolute)
        return str(Path(os.path.realpath(folder), name))
    return absolute


def escape_file(path: str | Path) -> str:
    """Return a path as a parameter of a function of DuckDB that reads files, so that it reads exactly this file.

    Otherwise DuckDB takes `*`, `?` and `[` for a pattern, and reads the files of other folders that match.
    """
    return glob.escape(path_for_engine(path))


def quote_file(path: str | Path) -> str:
    """Quote a path for a function of DuckDB that reads files (`read_csv` …), as `escape_file` writes it."""
    return quote(escape_file(path))


def quote_files(paths: Iterable[str | Path]) -> str:
    """Write paths as a list of SQL, each quoted by `quote_file`."""
    return "[" + ", ".join(quote_file(path) for path in paths) + "]"


def quote_all(texts: Iterable[str | Path]) -> str:
    """Write texts as a list of SQL."""
    return "[" + ", ".join(quote(text) for text in texts) + "]"


def quote_name(name: str) -> str:
    """Quote the name of a column or a database."""
    return '"' + name.replace('"', '""') + '"'
