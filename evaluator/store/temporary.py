"""Temporary files of this process: in one folder that only its user can read, removed when the process ends.

A process that is killed cannot remove its folder; the next one of the same user does. Each process holds a lock on its
folder. The operating system releases the lock when the process is gone, however it ended, so a lock that is free shows
that no process uses the folder. This also holds where containers share the folder for temporary files, or process ids
are used again.
"""

from __future__ import annotations

import atexit
import fcntl
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "evaluator-tmp-"
MARK = "removed-by-the-next-evaluator"
"""File in each of our folders. A folder of the user that happens to have our prefix has no such file, and stays."""

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class _ProcessFolder:
    """The folder of this process, made at its first use."""

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._path: Path | None = None
        self._handle = -1
        """Open handle of the folder, which holds the lock on it."""
        self._numbers = itertools.count()

    def name_path(self) -> Path:
        """Return the path of a file or folder that does not exist yet. Raises OSError if no folder can be made."""
        with self._making:
            # A program that cleans up old temporary files may have deleted the folder of a process that runs for days.
            if self._path is None or not (self._path / MARK).exists():
                self._release()
                remove_abandoned()
                self._path, self._handle = _make_locked_folder()
            return self._path / str(next(self._numbers))

    def holds(self, path: Path) -> bool:
        """Is this a path in the folder that is used now? Not if that was deleted since `name_path` returned it."""
        with self._making:
            return path.parent == self._path and (path.parent / MARK).exists()

    def remove(self) -> None:
        """Delete the folder with all that is in it."""
        with self._making:
            if self._path is not None:
                shutil.rmtree(self._path, ignore_errors=True)
            self._release()

    def forget(self) -> None:
        """Leave the folder to the parent process, which this process was forked from."""
        self._making = threading.Lock()  # another thread of the parent may have held it
        self._release()

    def _release(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._path, self._handle = None, -1


_FOLDER = _ProcessFolder()
atexit.register(_FOLDER.remove)
os.register_at_fork(after_in_child=_FOLDER.forget)


def name_temporary_path() -> Path:
    """Return a path for temporary files, at which nothing exists yet; what is put there lasts until the process ends.

    Only this user can read it. Raises OSError.
    """
    return _FOLDER.name_path()


def is_temporary_path_usable(path: Path) -> bool:
    """Can files be put at a path of `name_temporary_path`? Not if a program that cleans up has deleted its folder."""
    return _FOLDER.holds(path)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that only this user can read, and delete it when the `with` statement ends. Raises OSError."""
    path = name_temporary_path()
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_process_folder() -> None:
    """Delete all temporary files of this process now: for an end at which Python calls no exit functions."""
    _FOLDER.remove()


def remove_abandoned(parent: Path | None = None, prefix: str = PREFIX) -> None:
    """Delete the folders of processes of this user that were killed, in `parent` (`None`: the folder for such files).

    `prefix`: how their names begin.
    """
    found: list[str] = []
    with suppress(OSError), os.scandir(parent or tempfile.gettempdir()) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(prefix)]
    for path in found:
        with suppress(OSError):
            _remove_if_abandoned(path)


def _remove_if_abandoned(path: str) -> None:
    """Delete a folder if it is ours and no process holds the lock on it. Raises OSError, also for what is no folder."""
    handle = os.open(path, _FOLDER_FLAGS)  # not through a symbolic link, which may lead anywhere
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            return
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if its process lives
        if MARK in os.listdir(handle):  # noqa: PTH208 - of the locked folder, whatever has its path now
            shutil.rmtree(path)
        else:
            Path(path).rmdir()  # empty if its process was killed before it made the mark; fails if it is not ours
    finally:
        os.close(handle)


@contextmanager
def unfinished_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder in `parent` whose name begins with `prefix`, and delete it when the `with` statement ends.

    It may be gone then, because it was renamed. Folders with this prefix that killed processes have left behind are
    deleted first. Raises OSError.
    """
    remove_abandoned(parent, prefix)
    path, handle = _make_locked_folder(parent, prefix)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def _make_locked_folder(parent: Path | None = None, prefix: str = PREFIX) -> tuple[Path, int]:
    """Make a folder with our mark and lock it. Returns its path and its open handle, which holds the lock."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))  # readable by this user only
        # Fails if another process takes the new folder for an abandoned one and deletes it before it is locked.
        with suppress(FileNotFoundError):
            handle = os.open(path, _FOLDER_FLAGS)
            try:
                with suppress(OSError):  # a file system without locks: then no process can lock it, and none deletes it
                    fcntl.flock(handle, fcntl.LOCK_EX)
                (path / MARK).touch()
            except OSError:
                os.close(handle)
                raise
            return path, handle
