"""Who is at work on which files. The system keeps these locks, and lets go of those of a process that was killed."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["CLAIM", "claimed", "exclusive", "shared"]

CLAIM = "landing.lock"
"""File in a folder whose files have not landed: locked while a process works on them, left behind by a killed one."""

_STEP_S = 0.02


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Keep others from holding `path` exclusively; wait while one does. Nothing to keep where it is not there."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextmanager
def exclusive(path: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold `path` alone; tells whether it could be had within `wait_s`."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        yield False
        return
    try:
        yield _lock(handle, wait_s)
    finally:
        os.close(handle)


def _lock(handle: int, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_STEP_S)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make a folder and claim it until the block ends; who deletes the file CLAIM then says that its files landed.

    A process that is killed leaves the file without the lock: its folder may be removed. Raises OSError.
    """
    handle = _claim(folder)
    try:
        yield
    finally:
        os.close(handle)


def _claim(folder: Path) -> int:
    path = folder / CLAIM
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process removed an empty folder just now
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, path):
                return handle
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Tell whether the open file is still the one of that name."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(handle))
