"""Where the guard of a store is found: its socket, the lock that it holds, and the folders of its files.

The socket is in a folder that only this user can use. Its path depends on the environment (a unit of systemd has
another `XDG_RUNTIME_DIR` than a shell), so the guard writes it into its lock file, where clients look first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import stat
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluator.errors import HookError
from evaluator.second_disk import find_second_path

FOLDER = ".rollouts"
_LOCK = "guard.lock"
LOG = "guard.log"
"""What a guard that a driver started has to say."""
_LONGEST_SOCKET_PATH = 100
"""Bytes: systems allow 103 or 107."""
_OTHERS = 0o077
"""Bits of the mode of what others than the owner may do."""


def find_folder(store: Path) -> Path:
    """Find the folder of the guard's files, in the store's folder of data. It may not exist yet."""
    # As `segments.data_folder`, which needs pyarrow.
    return store.absolute().with_suffix(".data") / FOLDER


def find_copies_folder(store: Path) -> Path | None:
    """Find the folder of the copies of these files, on another file system; None where there is none."""
    return find_second_path(store, FOLDER)


def make_private_folder(folder: Path) -> None:
    """Make a folder that only this user can use, unless it is there. Raises HookError if it is not ours alone."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        check_private_folder(folder)
    except OSError as error:
        raise HookError(
            f"the guard's folder {folder} cannot be made: {error.strerror or error}", hint="check the folder"
        ) from None


def check_private_folder(folder: Path) -> None:
    """Raise HookError for a folder that another user may have put there; OSError if there is none."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise HookError(f"{folder} is no folder, and may be a trap of another user", hint=f"remove {folder}")
    if status.st_uid != os.getuid():
        raise HookError(
            f"{folder} belongs to another user (id {status.st_uid})",
            hint="run guard and rollouts as one user; remove the folder if that user has no business there",
        )
    if status.st_mode & _OTHERS:
        raise HookError(f"other users may use {folder}", hint=f"chmod 700 {folder}")


def choose_socket_path(store: Path) -> Path:
    """Choose the path of the socket of a store's guard: in `XDG_RUNTIME_DIR`, else in a private folder of /tmp."""
    name = f"guard-{hashlib.sha256(os.fsencode(store.absolute().resolve())).hexdigest()[:16]}.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    path = Path(runtime, "evaluator", name)
    is_usable = bool(runtime) and os.access(runtime, os.W_OK | os.X_OK)
    if is_usable and len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    path = Path(tempfile.gettempdir(), f"evaluator-{os.getuid()}", name)
    return path if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH else Path("/tmp", path.parent.name, name)  # noqa: S108 - the folder is checked


def list_socket_paths(store: Path) -> list[Path]:
    """List where the socket of a running guard may be, the likeliest first."""
    named = read_lock(store).get("socket")
    return list(dict.fromkeys([*([Path(named)] if isinstance(named, str) else []), choose_socket_path(store)]))


def is_same_user(connection: socket.socket) -> bool:
    """Does the program at the other end belong to this user? Where the system does not say, the folder protects."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return bool(user == os.getuid())


# ------------------------------------------------------------------ one guard for a store


class GuardLock:
    """The lock of the one guard of a store. The system frees it when the process ends, however it ends."""

    def __init__(self, store: Path) -> None:
        """Take the lock. Raises HookError if another guard has it, or its file cannot be made."""
        folder = find_folder(store)
        make_private_folder(folder)
        self._path = folder / _LOCK
        try:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HookError(f"{self._path} cannot be opened: {error.strerror}", hint="check the folder") from None
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._handle)
            holder = read_lock(store)
            who = f"process {holder['pid']} on {holder.get('host')}" if holder.get("pid") else "another process"
            raise HookError(
                f"{who} already guards the rollouts of {store}",
                hint="one guard is enough: it guards all rollouts of the store",
            ) from None

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Write who has the lock, and where the socket is. A full disk does not stop that: clients look elsewhere."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, json.dumps(facts).encode(), 0)

    def is_lost(self) -> bool:
        """Was the file deleted or replaced, as with the store? Then another guard may have its own."""
        try:
            status, own = self._path.lstat(), os.fstat(self._handle)
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != (own.st_dev, own.st_ino)

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._handle)


def read_lock(store: Path) -> dict[str, Any]:
    """Read what the guard of a store wrote into its lock file: pid, host, socket; empty if there is nothing."""
    try:
        facts = json.loads((find_folder(store) / _LOCK).read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
