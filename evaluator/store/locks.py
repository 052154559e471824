"""Locks on files that a process works on. The operating system releases the locks of a process that was killed."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CLAIM = "landing.lock"
"""File in a folder whose files have not landed: locked while a process works on them, left behind by a killed one."""

_STEP_S = 0.02


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold a shared lock on `path`; wait while another process holds it exclusively. No file, no lock."""
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
    """Hold an exclusive lock on `path`; yields whether it was obtained within `wait_s`."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        yield False
        return
    deadline = time.monotonic() + wait_s
    held = False
    try:
        while not held:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            if held or time.monotonic() >= deadline:
                break
            time.sleep(_STEP_S)
        yield held
    finally:
        os.close(handle)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make a folder and claim it until the block ends. Deleting the file CLAIM marks the files of the folder as landed.

    A process that is killed leaves the file without the lock: its folder may be deleted. Raises OSError.
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
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(handle)):
                    return handle  # the open file is still the one of that name
            os.close(handle)
