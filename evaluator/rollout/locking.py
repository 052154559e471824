"""One driver per service: a locked file names the process that drives its rollout.

The operating system releases the locks of a process that was killed, so a driver that is gone blocks no other.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from evaluator.errors import Refused, StoreError
from evaluator.permissions import private_files
from evaluator.store import Store

LOOK_S = 0.3
"""How long a file may be locked by a process that only looks who drives the rollout (s)."""


@dataclass(frozen=True, slots=True)
class DriverProcess:
    """The process that drives a rollout, or did."""

    rollout: str
    release: str
    host: str
    pid: int
    since: str
    """When it began: ISO 8601, UTC."""
    is_there: bool = False
    """Does it still hold the lock?"""

    def describe(self) -> str:
        """Name it for people."""
        return f"process {self.pid} on {self.host}, since {self.since[:16].replace('T', ' ')} UTC"


@contextmanager
def driving_alone(store: Store, rollout: str, release: str, services: Sequence[str]) -> Iterator[None]:
    """Be the only driver of some services in the body of the `with` statement. Raises Refused, which names the other.

    Raises StoreError if the files that are locked cannot be made.
    """
    process = DriverProcess(rollout, release, socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat())
    handles: list[int] = []
    try:
        for service in sorted(services):  # all processes lock in the same order
            handles.append(_lock(store, service, process))  # noqa: PERF401 - those before an error are closed
        yield
    finally:
        for handle in handles:
            os.close(handle)


def _lock(store: Store, service: str, process: DriverProcess) -> int:
    """Lock the file of a service, write who has locked it, and return its open handle. Raises Refused, StoreError."""
    path = _find_path(store, service)
    try:
        with private_files(when=store.control.file.is_private()):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror}", hint="drive rollouts as a user who may write to the store"
        ) from error
    try:
        _lock_soon(handle)
        text = json.dumps({name: value for name, value in asdict(process).items() if name != "is_there"})
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)
    except BlockingIOError:
        os.close(handle)
        other = find_driver(store, service)
        who = f"{other.describe()} drives {other.release} ({other.rollout})" if other else "another process drives it"
        raise Refused(
            f"the rollout of {service} has a driver already: {who}",
            hint="`evaluator rollout status` shows how it stands; end that process first to continue here",
        ) from None
    except OSError as error:
        os.close(handle)
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
    return handle


def _lock_soon(handle: int) -> None:
    """Lock a file within a moment: who only looks at it holds it for less. Raises BlockingIOError."""
    until = time.monotonic() + LOOK_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(LOOK_S / 10)
        else:
            return


def find_driver(store: Store, service: str) -> DriverProcess | None:
    """Find who drives the rollout of a service, or did last; None if it is not known."""
    path = _find_path(store, service)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        is_there = False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            is_there = True
        with suppress(OSError, ValueError, TypeError):
            values: Mapping[str, str] = json.loads(os.pread(handle, 10_000, 0))
            return DriverProcess(**values, is_there=is_there)  # type: ignore[arg-type]
        return None
    finally:
        os.close(handle)


def find_driver_of(store: Store, rollout: str, services: Sequence[str]) -> DriverProcess | None:
    """Find who drives a rollout, or did last; None if no process ever did, or another rollout came later."""
    found = [driver for service in services if (driver := find_driver(store, service)) and driver.rollout == rollout]
    return next((driver for driver in found if driver.is_there), found[0] if found else None)


def _find_path(store: Store, service: str) -> Path:
    """Path of the file that the driver of a service locks."""
    # The name of a service may have characters that a file name must not have.
    return store.control.file.locks_folder / f"driver-{hashlib.sha256(service.encode()).hexdigest()[:24]}.lock"
