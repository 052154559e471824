"""A store: a DuckDB file with a folder of segments next to it, and an SQLite file; each is a part with an interface.

`Store.data` keeps what was measured: runs with their segments, cells, readings and outcomes, and SQL over them; tables
groups, runs, segments, names, moments, bin_lists, instance_bin_lists, loads, failure_kinds, outcomes, outcome_moments,
readings_of and reading_cells of the DuckDB file. `Store.control` keeps what was decided: releases, verdicts, what
calibration learnt for them, promotions and the audit trail; tables releases, verdicts, learnt, intents, approvals,
deliveries and audit of the SQLite file. DuckDB lets no process write while another reads, so what acts on traffic
must not wait for it.

No transaction writes to both. A new release is added before its run lands; a known one gets the services and labels of
a run after it. A process that is killed in between leaves a release without runs, or without the services and labels of
its last run. Queries and exports read copies of both files.
"""

from __future__ import annotations

import glob
import logging
import shlex
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from evaluator.errors import StoreError
from evaluator.permissions import is_private, make_private, private_files
from evaluator.records import ReleaseSummary
from evaluator.segments import data_folder
from evaluator.store.control import Control
from evaluator.store.control_file import ControlFile, control_path
from evaluator.store.data import StoredData
from evaluator.store.file import WAIT_S, StoreFile
from evaluator.store.journal import own_path
from evaluator.store.migrations import bring_up_to_date

_log = logging.getLogger("evaluator")

Stamp = tuple[tuple[int, int], ...]


def stamp_of(path: Path) -> Stamp:
    """Read the time of change (ns) and size (bytes) of each file of the store at `path`, without opening the store.

    The files are both databases and their write-ahead logs; zeros for a file that is missing. If a later call returns
    the same, the store has not changed.
    """
    stamps = []
    control = control_path(path)
    for file in (path, path.with_name(path.name + ".wal"), control, control.with_name(control.name + "-wal")):
        try:
            status = file.stat()
        except OSError:
            stamps.append((0, 0))
        else:
            stamps.append((status.st_mtime_ns, status.st_size))
    return tuple(stamps)


def check_data_are_there(path: Path) -> None:
    """Raise StoreError if the DuckDB file at `path` is gone, but not the decisions that stand on its data."""
    control = ControlFile(path, WAIT_S)
    if path.exists() or not control.path.exists():
        return
    with control.opened() as connection:
        # A file without both was made by a process that is just making the store, or was killed before it had.
        is_used = connection.execute("SELECT 1 FROM audit UNION ALL SELECT 1 FROM releases LIMIT 1").fetchone()
    if is_used:
        raise StoreError(
            f"{path}, which has the data of the store, is gone: it was deleted or moved; its decisions are in "
            f"{control.path}",
            hint="move it back, or restore a backup with `evaluator data restore --replace`; to begin with other data, "
            f"move {control.path.name} and {data_folder(path).name} to another folder",
        )


_UNUSABLE = ("?", ",")
"""What DuckDB does not take for a part of a name: it puts the name of its log before a `?`, and a comma in the path of
the folder separates two folders that it searches."""


def check_path(path: Path) -> None:
    """Raise StoreError if no store can be at this absolute path."""
    if path.is_dir():
        raise StoreError(f"the store {path} is a directory", hint="give the path of a file with --store")
    if path == data_folder(path):
        raise StoreError(
            f"the store cannot be called {path.name}: its requests go into a folder of that name",
            hint="give another path with --store, such as evaluator.duckdb",
        )
    unusable = next((sign for sign in _UNUSABLE if sign in str(path if sign == "?" else path.parent)), "")
    if unusable:
        raise StoreError(
            f"DuckDB cannot keep a store under a path with '{unusable}': {path}",
            hint="rename the folder, or give a path without this character with --store",
        )


@dataclass(frozen=True, slots=True)
class Store:
    """A store that has been checked. Holds no connection: each call opens the file for as long as it needs.

    Every method raises StoreBusy where another process keeps the file, StoreError where it cannot be used, and
    UnknownName for a release or run that is not there.
    """

    file: StoreFile
    control: Control
    data: StoredData

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool = False,
        private: bool = False,
        decisions_only: bool = False,
        wait_s: float = WAIT_S,
    ) -> Self:
        """Check the store at `path` and bring its schema up to date; with `create`, make a store that does not exist.

        `private`: let only its owner read the store and what is recorded in its folder, now and later.
        `decisions_only`: do not look at the DuckDB file, which another process may keep, and which may be gone; data
        are checked when they are used. `wait_s`: how long each use of the store waits for another process.
        """
        path = Path(path).absolute()
        file = StoreFile(path, wait_s)
        check_path(path)
        control = Control(ControlFile(path, wait_s))
        if decisions_only and control.file.path.exists():
            control.file.make()
            return cls(file, control, StoredData(file, control))
        check_data_are_there(path)
        if not create and not path.exists():
            raise StoreError(
                f"there is no store at {path}",
                hint="`evaluator load`, `import` and `demo` make one; or give another path with --store",
            )
        with private_files(when=private or is_private(path)):
            bring_up_to_date(file, control.file)
        if private:
            _make_store_private(file)
        return cls(file, control, StoredData(file, control))

    @property
    def path(self) -> Path:
        """The DuckDB file."""
        return self.file.path

    def reading(self) -> AbstractContextManager[None]:
        """Open the file once for several reads, because opening takes longer than most reads.

        Writers wait meanwhile, so compute nothing inside. Nothing can be written inside.
        """
        return self.file.reading()

    def releases(self) -> tuple[ReleaseSummary, ...]:
        """List the releases with what has landed and the latest verdict, the newest first."""
        with self.reading():
            counts_of_release = self.data.count_landed()
            summaries = self.control.releases()
        return tuple(replace(summary, **counts_of_release.get(summary.release.id, {})) for summary in summaries)


def _make_store_private(file: StoreFile) -> None:
    """Let only the owner read the files of a store. If that is not possible, log a warning that says what to do."""
    if is_private(file.path) and is_private(file.folder):
        return
    # The store itself last: as long as it is not private, this is repeated.
    # Their logs, and backups of older schemas.
    others = [
        other
        for path in (file.path, control_path(file.path))
        for other in path.parent.glob(f"{glob.escape(path.name)}?*")
    ]
    others += [path for path in (own_path(file.path),) if path.exists()]
    try:
        for path in (*others, control_path(file.path), file.folder.resolve(), file.path):
            make_private(path)
    except OSError as error:
        _log.warning(
            "other users can read the store %s of a sensitive service: the permissions of %s cannot be changed (%s); "
            "let its owner run: %s",
            file.path,
            error.filename,
            error.strerror,
            shlex.join(["chmod", "-R", "go=", str(file.path), str(file.folder)]),
        )
