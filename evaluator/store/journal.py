"""The journal: what a rollback needs when no database can be used, in a file whose space is reserved.

Before a hook of a promotion changes anything, its options and the value that it replaces are written here. Where the
databases are locked, damaged or gone, or the disk is full or read-only, `rollback` and `hold` read this file, and write
into it what they did; the next command that can use the database moves that into the audit trail.

The file has two areas of equal size. One is in use: records are appended to it, each with its length and a checksum,
so that a record that was cut by a crash ends the area. When it is full, the records that are still needed go into the
other area, which is in use from then on. The space of both is reserved when the file is made, so a full disk stops no
write. Every write is flushed to the disk.

There are several copies. A copy that could not be written for a while gets what it lacks with the next write.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluator.errors import StoreError
from evaluator.permissions import is_private, private_files
from evaluator.second_disk import find_second_path
from evaluator.store.control_file import SUFFIX as CONTROL_SUFFIX

SUFFIX = ".journal"
AREA_BYTES = 1 << 18
"""Bytes of one area: some hundred hooks that can still be undone."""
_MAGIC = b"evaluator journal 1\n"
_MAGIC_OF_ALL_VERSIONS = b"evaluator journal "
_HEADER = struct.Struct(">20sQI")
"""Start of an area: magic, generation, checksum of both. The area with the higher generation is in use."""
_FRAME = struct.Struct(">II")
"""Before each record: its length in bytes, and its checksum. A length of 0 ends the area."""
_LOCK_WAIT_S = 5.0
"""How long to wait for another process that writes a copy: one that hangs must not stop a rollback."""
_LOCK_STEP_S = 0.01
_AREA = "area"
"""Kind of the first record of an area: what is older, and not in the area, was left out of it."""

Record = Mapping[str, Any]
"""What is written: JSON with a key `at`, the time as text."""


def write_now() -> str:
    """Write this moment as records have it: these texts sort as times do."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True, slots=True)
class Journal:
    """The journal of a store, in one or several copies: each write goes to all, and one copy is enough to read."""

    paths: tuple[Path, ...]
    required: Path | None = None
    """The copy that the policy names: without it, the journal cannot be made."""

    def make(self) -> tuple[Path, ...]:
        """Make the copies that are missing, with their space reserved; returns the paths of those that can be used.

        Raises StoreError if none can, or not the one that is required.
        """
        usable = []
        problems = []
        for path in self.paths:
            try:
                _make(path)
                usable.append(path)
            except OSError as error:
                problems.append(f"{path}: {error.strerror or error}")
        if not usable or (self.required is not None and self.required not in usable):
            raise StoreError(
                f"the journal that a rollback needs in an emergency cannot be written: {'; '.join(problems)}",
                hint="name another file with `journal:` in the policy, on a disk that can be written",
            )
        return tuple(usable)

    def append(self, record: Record, keep: Callable[[Sequence[Record]], Sequence[Record]] = tuple) -> None:
        """Append a record to every copy that can be written, and flush it to the disk.

        All copies are locked meanwhile, so all have the same order. A copy that lacks records gets them. `keep`:
        chooses from all records those that are kept when an area is full. Raises StoreError if no copy can be written.
        """
        problems = []
        with ExitStack() as locks:
            handles: dict[Path, int] = {}
            for path in self.paths:
                try:
                    handles[path] = locks.enter_context(_locked(path))
                except OSError as error:
                    problems.append(f"{path}: {error.strerror or error}")
            everything = _merge(self._read_copies([]))
            for path, handle in handles.items():
                try:
                    _append(handle, record, everything, keep)
                except OSError as error:
                    problems.append(f"{path}: {error.strerror or error}")
        if len(problems) == len(self.paths):
            raise StoreError(f"the journal cannot be written: {'; '.join(problems)}", hint="check the disk")

    def read(self) -> tuple[Record, ...]:
        """Read all records of all copies, the oldest first. Raises StoreError if no copy can be read."""
        problems: list[str] = []
        copies = self._read_copies(problems)
        if not copies:
            raise StoreError(f"the journal cannot be read: {'; '.join(problems)}")
        return tuple(record for record in _merge(copies) if record.get("kind") != _AREA)

    def _read_copies(self, problems: list[str]) -> list[list[Record]]:
        """Read the records of each copy that can be read; why others cannot is appended to `problems`."""
        copies: list[list[Record]] = []
        for path in self.paths:
            try:
                with path.open("rb") as file:
                    _check_owner(file.fileno(), path)
                    copies.append(_find_area_in_use(file.fileno())[1])
            except OSError as error:
                problems.append(f"{path}: {error.strerror or error}")
        return copies


def _merge(copies: Sequence[Sequence[Record]]) -> list[Record]:
    """Merge the records of all copies: those of the copy with the newest record, and what only others have.

    What is older than the area of that copy was left out of it on purpose.
    """
    if not copies:
        return []
    newest = max(copies, key=lambda records: (_newest_time(records), _area_time(records)))
    since = _area_time(newest)
    known = [_frame(record) for record in newest]
    others = [
        record
        for records in copies
        if records is not newest
        for record in records
        if record.get("kind") != _AREA and record.get("at", "") > since and _frame(record) not in known
    ]
    if not others:
        return list(newest)
    unique = {_frame(record): record for record in others}
    # A stable sort: records of one time stay in the order in which they were written.
    return sorted([*newest, *unique.values()], key=lambda record: record.get("at", ""))


def _newest_time(records: Sequence[Record]) -> str:
    """Time of the newest record; empty without records."""
    return max((record.get("at", "") for record in records), default="")


def _area_time(records: Sequence[Record]) -> str:
    """Time of the newest record when the area of these records was written; empty for the first area of a journal."""
    return str(records[0].get("at", "")) if records and records[0].get("kind") == _AREA else ""


def find_journal(store: Path, path: str = "") -> Journal:
    """Find the journal of a store: at the default paths, and in the file `path` of the policy, unless it is empty.

    The copies at the default paths are found without the policy, which may be unreadable in an emergency.
    """
    named = Path(path) if path else None
    return Journal(tuple(dict.fromkeys([*default_paths(store), *([named] if named else [])])), named)


def own_path(store: Path) -> Path:
    """Path of the copy next to a store."""
    return store.with_suffix(SUFFIX)


def default_paths(store: Path) -> tuple[Path, ...]:
    """Paths of the journal of a store: next to it, and one on another file system, where there is one."""
    second = find_second_path(store, SUFFIX)
    return own_path(store), *([second] if second else [])


# ------------------------------------------------------------------ one file


def _make(path: Path) -> None:
    """Make one copy with both areas reserved, unless it is there. Raises OSError.

    Only its owner may read it, unless it is in a folder with a store that others may read, too.
    """
    if path.exists():
        with _locked(path) as handle:
            _find_area_in_use(handle)
        return
    decisions = path.with_suffix(CONTROL_SUFFIX)
    is_shared = path.suffix == SUFFIX and decisions.exists() and not is_private(decisions)
    with private_files(when=not is_shared):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        _lock(handle)
        if os.fstat(handle).st_size == 0:
            os.posix_fallocate(handle, 0, 2 * AREA_BYTES)
            _write_area(handle, 0, 1, ())
    finally:
        os.close(handle)


def _check_owner(handle: int, path: Path) -> None:
    """Refuse a file that another user made in a folder that everyone can write to. Raises OSError.

    Who may write to another folder, and who owns a folder, can do everything there anyway.
    """
    owner, folder = os.fstat(handle).st_uid, path.parent.stat()
    if folder.st_mode & stat.S_IWOTH and owner not in (os.getuid(), 0, folder.st_uid):
        raise OSError(f"it belongs to the user with the id {owner}")


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open a copy to write to it, while no other process does. Raises OSError."""
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        _check_owner(handle, path)
        _lock(handle)
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    """Lock an open copy. Raises OSError if another process keeps it locked for too long."""
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise OSError("another process keeps it locked") from None
            time.sleep(_LOCK_STEP_S)
        else:
            return


def _append(
    handle: int, record: Record, everything: Sequence[Record], keep: Callable[[Sequence[Record]], Sequence[Record]]
) -> None:
    """Append a record to the area in use; if it is full, go on in the other area with the records that are needed.

    `everything`: the records of all copies. If this one lacks some, it goes on in the other area, too.
    """
    generation, records, end = _find_area_in_use(handle)
    frame = _frame(record)
    own = {_frame(known) for known in records}
    is_complete = all(_frame(known) in own for known in everything if known.get("kind") != _AREA)
    # The frame of length 0 after it ends the area, whatever an earlier use of the area left there.
    if is_complete and end + len(frame) + _FRAME.size <= _area_of(generation) + AREA_BYTES:
        os.pwrite(handle, frame + _FRAME.pack(0, 0), end)
        os.fsync(handle)
        return
    kept = keep([known for known in everything if known.get("kind") != _AREA])
    area = {"kind": _AREA, "at": _newest_time(everything)}
    _write_area(handle, _area_of(generation + 1), generation + 1, (area, *kept, record))


def _area_of(generation: int) -> int:
    """Position of the area that a generation is in: the first generation is in the first."""
    return AREA_BYTES * ((generation - 1) % 2)


def _write_area(handle: int, start: int, generation: int, records: Sequence[Record]) -> None:
    """Write a whole area; it is in use only when its header is written, which is last."""
    body = b"".join(map(_frame, records)) + _FRAME.pack(0, 0)
    if _HEADER.size + len(body) > AREA_BYTES:
        count = sum(record.get("kind") != _AREA for record in records)
        raise OSError(f"it is full: {count} hooks can still be undone")
    os.pwrite(handle, body, start + _HEADER.size)
    os.fsync(handle)
    checksum = zlib.crc32(_MAGIC + generation.to_bytes(8, "big"))
    os.pwrite(handle, _HEADER.pack(_MAGIC, generation, checksum), start)
    os.fsync(handle)


def _frame(record: Record) -> bytes:
    """Write a record with its length and checksum."""
    body = json.dumps(record, separators=(",", ":"), sort_keys=True).encode()
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def _find_area_in_use(handle: int) -> tuple[int, list[Record], int]:
    """Find the area with the highest generation: that generation, its records, and where the next record goes.

    Raises OSError if neither area has a header.
    """
    generations = []
    for start in (0, AREA_BYTES):
        header = os.pread(handle, _HEADER.size, start)
        if header.startswith(_MAGIC_OF_ALL_VERSIONS) and not header.startswith(_MAGIC):
            raise OSError("it was written by a newer evaluator: upgrade this one; it was left unchanged")
        if len(header) == _HEADER.size:
            magic, generation, checksum = _HEADER.unpack(header)
            if magic == _MAGIC and checksum == zlib.crc32(_MAGIC + generation.to_bytes(8, "big")):
                generations.append(generation)
    if not generations:
        raise OSError("it is not a journal of the evaluator, or it is damaged")
    generation = max(generations)
    start = _area_of(generation)
    area = os.pread(handle, AREA_BYTES, start)
    records: list[Record] = []
    position = _HEADER.size
    while position + _FRAME.size <= len(area):
        length, checksum = _FRAME.unpack_from(area, position)
        body = area[position + _FRAME.size : position + _FRAME.size + length]
        if not length or len(body) < length or zlib.crc32(body) != checksum:
            break  # the end, or a record that was cut by a crash
        records.append(json.loads(body))
        position += _FRAME.size + length
    return generation, records, start + position
