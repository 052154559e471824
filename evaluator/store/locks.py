"""Locks on files that a process works on. The operating system releases the locks of a process that was killed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from evaluator.errors import StoreError
from evaluator.permissions import private_files
from evaluator.store.control_file import ControlFile

CLAIM = "landing.lock"
"""File in a folder whose files have not landed: locked while a process works on them, left behind by a killed one."""

_STEP_S = 0.02


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold a shared lock on the file `path`; wait while another process has an exclusive lock on it.

    If the file does not exist, nothing is locked.
    """
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
    """Hold an exclusive lock on the file `path`; yields whether the lock was obtained within `wait_s` seconds.

    Without the lock, also because the file does not exist, the body of the `with` statement still runs.
    """
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
    """Make a folder and hold a lock on the file CLAIM in it, until the body of the `with` statement ends.

    The caller deletes that file when the files of the folder have landed. A process that is killed leaves the file
    without a lock, which shows that its folder may be deleted. Raises OSError.
    """
    handle = _lock_claim(folder)
    try:
        yield
    finally:
        os.close(handle)


def _lock_claim(folder: Path) -> int:
    """Make a folder with the file CLAIM, lock that file and return its open handle.

    Repeats this until no other process has deleted the folder or the file meanwhile.
    """
    path = folder / CLAIM
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # the folder was deleted before the file was made
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):  # the file was deleted before it was locked
                # Another process may have deleted the file, and a third may have made a new one.
                is_same_file = os.path.samestat(path.stat(), os.fstat(handle))
                if is_same_file:
                    return handle
            os.close(handle)


@contextmanager
def locked_services(file: ControlFile, services: Sequence[str], wait_s: float) -> Iterator[bool]:
    """Lock services for the body of the `with` statement; yields whether all were locked within `wait_s` seconds.

    Raises StoreError if the files that are locked cannot be made.
    """
    folder = file.locks_folder
    deadline = time.monotonic() + wait_s
    with ExitStack() as locks:
        # All processes lock in the same order, so that no two wait for each other.
        for service in sorted(services):
            # The name of a service may have characters that a file name must not have.
            path = folder / f"{hashlib.sha256(service.encode()).hexdigest()[:24]}.lock"
            try:
                with private_files(when=file.is_private()):
                    folder.mkdir(parents=True, exist_ok=True)
                    path.touch()
            except OSError as error:
                raise StoreError(
                    f"{path} cannot be written: {error.strerror}",
                    hint="execute intents as a user who may write to the store",
                ) from error
            if not locks.enter_context(exclusive(path, max(deadline - time.monotonic(), 0.0))):
                yield False
                return
        yield True
