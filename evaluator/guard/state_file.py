"""The file of one rollout: what is needed to go on guarding it, or to return its traffic, after any kill.

The file has two slots, whose space is reserved when it is made, so that a full disk stops no write. A new state goes
into the slot that is not in use: its header is cleared, its body written, and then its header. So a write that a kill
cuts off leaves the state before, and a slot with a header and another body is damage. Each write is flushed to the
disk. A copy may be on another file system; the state with the highest number of either is the current one.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluator.errors import HookError

SUFFIX = ".guard"
ENDED_SUFFIX = ".ended"
"""Of the file of a rollout that went back and has ended."""
SLOT_BYTES = 1 << 16
"""Bytes of a slot; setups that need more have larger ones."""
_ROOM_TO_GROW = 1 << 14
"""Bytes that a state may grow by after its file was made: shares and reasons, not options."""
_MAGIC = b"evaluator guard\n"
_HEADER = struct.Struct(">16sQIII")
"""Start of a slot: magic, number of the state, length of its JSON, its checksum, checksum of the header before."""

State = Mapping[str, Any]
"""What is kept, as plain JSON."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """A state as it was read."""

    number: int
    """Counts the states of a rollout, from 1."""
    state: State
    is_damaged: bool = False
    """A slot was damaged: a newer state may be lost."""


@dataclass(slots=True)
class StateFile:
    """The file of a rollout in all its copies. One that can be written is enough."""

    paths: tuple[Path, ...]
    _handles: dict[Path, int] = field(default_factory=dict)
    """Open copies: they can be written although their folder was deleted."""
    _current: set[Path] = field(default_factory=set)
    """Copies that have the state that was read or written last."""
    _number: int = 0
    """Number of the state that was read or written last."""

    def make(self, state: State) -> None:
        """Make the copies, with their space reserved, and write a first state. Raises HookError if none can be."""
        self.read()  # the new state has to be newer than that of a copy that could not be deleted
        self.close()
        slot_bytes = max(SLOT_BYTES, len(json.dumps(state)) + _ROOM_TO_GROW)
        problems = []
        for path in self.paths:
            try:
                self._handles[path] = _make_file(path, 2 * slot_bytes)
            except OSError as error:
                problems.append(f"{path}: {error.strerror or error}")
        if not self._handles:
            raise HookError(
                f"the guard's file of the rollout cannot be made: {'; '.join(problems)}",
                hint="free some space, and let this user write there",
            )
        self.write(state)

    def write(self, state: State, *, twice: bool = False) -> None:
        """Write a state to every copy, and flush it. `twice`: into both slots, so that no older state is left.

        Raises HookError if no copy can be written.
        """
        body = json.dumps(state, separators=(",", ":")).encode()
        for _ in range(2 if twice else 1):
            self._number += 1
            problems = []
            self._current = set(self._handles)
            for path, handle in self._handles.items():
                try:
                    _write_slot(handle, self._number, body)
                except OSError as error:
                    self._current.discard(path)
                    problems.append(f"{path}: {error.strerror or error}")
            if len(problems) == len(self._handles):
                raise HookError(f"the guard cannot write its files: {'; '.join(problems)}", hint="check the disk")

    def read(self) -> StoredState | None:
        """Read the newest state of all copies, and keep those open that can be written; None if there is none."""
        found: dict[Path, StoredState] = {}
        is_damaged = False
        for path in self.paths:
            try:
                if path not in self._handles:
                    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                    self._handles[path] = handle
                    _check_owner(handle)
                stored, is_wrong = _read_slots(self._handles[path])
            except OSError:
                continue
            is_damaged |= is_wrong
            if stored is not None:
                found[path] = stored
        if not found:
            return None
        newest = max(found.values(), key=lambda stored: stored.number)
        self._current = {path for path, stored in found.items() if stored.number == newest.number}
        self._number = max(self._number, newest.number)
        return StoredState(newest.number, newest.state, is_damaged)

    def read_newer(self) -> StoredState | None:
        """Read a state that another process has written since; None if there is none."""
        known = self._number
        stored = self.read()
        return stored if stored and stored.number > known else None

    def close(self) -> None:
        """Close all copies."""
        for handle in self._handles.values():
            with contextlib.suppress(OSError):
                os.close(handle)
        self._handles.clear()

    def rename(self, suffix: str) -> None:
        """Close all copies, and give them another suffix; that needs no space."""
        self.close()
        for path in self.paths:
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(suffix))

    def forget(self, state: State) -> None:
        """Delete the copies of a rollout that has ended, as `state` says, which was written last.

        Those of one that went back get another name: it stays refused. If a copy cannot be deleted that does not say
        that it has ended, the others stay: theirs is the newer state.
        """
        if state["is_back"]:
            self.rename(ENDED_SUFFIX)
            return
        older = [path for path in self.paths if path not in self._current]
        self.close()
        for path in (*older, *self._current):
            if path in self._current and any(each.exists() for each in older):
                return
            with contextlib.suppress(OSError):
                path.unlink()


def find_state_files(folders: Sequence[Path]) -> dict[str, StateFile]:
    """Find the files of all rollouts in some folders: id of a rollout → its file, with a copy in each folder."""
    names: set[str] = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            names |= {path.stem for path in folder.iterdir() if path.suffix == SUFFIX}
    return {name: StateFile(tuple(folder / f"{name}{SUFFIX}" for folder in folders)) for name in sorted(names)}


def _make_file(path: Path, size: int) -> int:
    """Make a file with its space reserved, and open it; a file that is there is kept if it is as large. Raises OSError.

    Without enough space, no file is left.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _check_owner(handle)
        if os.fstat(handle).st_size < size:
            os.ftruncate(handle, 0)
            try:
                os.posix_fallocate(handle, 0, size)
            except OSError:
                path.unlink()
                raise
    except OSError:
        os.close(handle)
        raise
    return handle


def _check_owner(handle: int) -> None:
    """Refuse a file of another user. Raises OSError."""
    if (owner := os.fstat(handle).st_uid) not in (os.getuid(), 0):
        raise OSError(f"it belongs to the user with the id {owner}")


def _write_slot(handle: int, number: int, body: bytes) -> None:
    """Write a state into the slot of its number, and flush it. Raises OSError."""
    slot_bytes = os.fstat(handle).st_size // 2
    start = slot_bytes * (number % 2)
    if _HEADER.size + len(body) > slot_bytes:
        raise OSError("the state is too long for the reserved space")
    os.pwrite(handle, bytes(_HEADER.size), start)
    os.pwrite(handle, body, start + _HEADER.size)
    os.fsync(handle)
    os.pwrite(handle, _make_header(number, body), start)
    os.fsync(handle)


def _make_header(number: int, body: bytes) -> bytes:
    """Make the header of a slot with this body."""
    checked = _HEADER.pack(_MAGIC, number, len(body), zlib.crc32(body), 0)
    return _HEADER.pack(_MAGIC, number, len(body), zlib.crc32(body), zlib.crc32(checked))


def _read_slots(handle: int) -> tuple[StoredState | None, bool]:
    """Read the newest state of an open copy, and whether one of its slots is damaged."""
    slot_bytes = os.fstat(handle).st_size // 2
    found, is_damaged = [], not slot_bytes
    for start in (0, slot_bytes):
        slot = os.pread(handle, slot_bytes, start)
        if not slot[: _HEADER.size].strip(b"\0"):
            continue  # never written, or a kill has cut off the write
        stored = _read_slot(slot)
        if stored is None:
            is_damaged = True
        else:
            found.append(stored)
    return max(found, key=lambda stored: stored.number, default=None), is_damaged


def _read_slot(slot: bytes) -> StoredState | None:
    """Read the state of a slot; None if it is damaged."""
    if len(slot) < _HEADER.size:
        return None
    magic, number, length, _, _ = _HEADER.unpack_from(slot)
    body = slot[_HEADER.size : _HEADER.size + length]
    if magic != _MAGIC or slot[: _HEADER.size] != _make_header(number, body):
        return None
    try:
        state = json.loads(body)
    except ValueError:
        return None
    return StoredState(number, state) if isinstance(state, dict) else None
