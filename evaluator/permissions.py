"""Who may read files: those of a sensitive service are private, which means that only their owner can read them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE_UMASK = 0o077
"""Bits of the mode that a private file or folder does not have: all of the group and of others."""


class _Umask:
    """The umask of this process while blocks make private files, in any number of threads."""

    def __init__(self) -> None:
        self._counting = threading.Lock()
        self._blocks = 0
        """How many blocks make private files now."""
        self._usual = 0
        """The umask outside of these blocks, which the first of them has replaced."""

    def begin(self) -> None:
        with self._counting:
            if not self._blocks:
                self._usual = os.umask(PRIVATE_UMASK)
            self._blocks += 1

    def end(self) -> None:
        with self._counting:
            self._blocks -= 1
            if not self._blocks:
                os.umask(self._usual)

    def find_usual(self) -> int:
        """Return the umask outside of all blocks."""
        with self._counting:
            if self._blocks:
                return self._usual
            usual = os.umask(PRIVATE_UMASK)  # it can be read only by setting it
            os.umask(usual)
            return usual


_UMASK = _Umask()


@contextmanager
def private_files(*, when: bool = True) -> Iterator[None]:
    """Make all files and folders private that this process makes in the body of the `with` statement.

    `when` False: they have the usual modes. The files of other threads of the process become private as well.
    """
    if not when:
        yield
        return
    _UMASK.begin()
    try:
        yield
    finally:
        _UMASK.end()


def choose_file_mode(*, private: bool) -> int:
    """Return the mode of a new file, such as 0o600 if it is to be private, else by the umask."""
    return 0o666 & ~(PRIVATE_UMASK if private else _UMASK.find_usual())


def is_private(path: Path) -> bool:
    """Whether only the owner of a file or folder can read it; False if it does not exist."""
    try:
        return not path.stat().st_mode & PRIVATE_UMASK
    except OSError:
        return False


def make_private(path: Path) -> None:
    """Take all permissions from other users: of a file, or of a folder with all that is in it.

    What is deleted meanwhile is left out. Symbolic links inside of the folder are not followed. Raises OSError, also
    for files of other users.
    """
    # The folder itself last: as long as it is not private, it is known that files in it may not be, either.
    for folder, folder_names, file_names in os.walk(path, topdown=False):
        for name in (*folder_names, *file_names):
            inner = Path(folder, name)
            if not inner.is_symlink():
                _remove_permissions(inner)
    _remove_permissions(path)


def _remove_permissions(path: Path) -> None:
    """Take all permissions on one file or folder from other users; nothing if it does not exist. Raises OSError."""
    try:
        mode = path.stat().st_mode & 0o7777
        if mode & PRIVATE_UMASK:
            path.chmod(mode & ~PRIVATE_UMASK)
    except FileNotFoundError:
        return
