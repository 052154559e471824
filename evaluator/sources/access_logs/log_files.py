"""One log file that is read in blocks of whole lines while it grows, and up to where it was read.

What was read is recognised by the bytes before the position (its mark), not by the name of the file: a rotated file has
another name, and after compression another inode, but still the same bytes at the same place.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from evaluator.errors import InputError
from evaluator.textfiles import find_packing, open_bytes

BLOCK_BYTES = 4 << 20
"""Most bytes that are read at a time, so that memory does not grow with a backlog."""

LONGEST_LINE_BYTES = 1 << 20
"""A longer line is not read."""

MARK_BYTES = 4096
"""Most bytes before a position by which a file is recognised: several lines, which have times in them."""

FileId = tuple[int, int]
"""Device and inode of a file."""


@dataclass(frozen=True, slots=True)
class FilePosition:
    """Up to where a file was read. It is kept, so that a restart neither loses nor repeats a line."""

    path: str
    """Where the file was when it was opened, without symbolic links."""
    device: int
    inode: int
    offset: int
    """Bytes that were read, unpacked if the file is packed: up to the end of a line."""
    mark_bytes: int
    """Length of the mark, the bytes just before `offset`; 0 if nothing was read."""
    mark_hash: str
    """SHA-256 of the mark."""
    changed_ns: int
    """When the file had been changed last (ns since the epoch)."""
    is_skipping: bool = False
    """Is the position inside of a line that is too long?"""
    is_done: bool = False
    """The file was read to its end and will not grow."""
    generation: int | None = None
    """Number that the file system gave the file with its inode, which it uses again; `None`: it has none."""

    @property
    def file_id(self) -> FileId:
        """Device and inode."""
        return self.device, self.inode


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Whole lines of a file, without their ends."""

    path: Path
    """The path that is followed, not that of the rotated file."""
    file_id: FileId
    lines: list[bytes]
    is_fresh: bool
    """Were all of these lines written after the look before, so within the last second?"""


class Truncated(Exception):
    """The file no longer has what was read of it: it was emptied, or written again."""


class FollowedFile:
    """An open file, plain or packed, and the position up to which it was read."""

    def __init__(self, path: Path, position: FilePosition | None = None, *, at_end: bool = False) -> None:
        """Open a file at its start, at a `position` in it, or behind its last whole line (`at_end`).

        Raises OSError, and InputError for what is no file, or is packed in a way that cannot be read.
        """
        self.path = Path(os.path.realpath(path))
        # Not blocking: else opening a named pipe would wait for its writer.
        self._handle = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(self._handle)
            _check_kind(path, status.st_mode)
            packing = find_packing(self.path)
        except BaseException:
            os.close(self._handle)
            raise
        self.file_id: FileId = (status.st_dev, status.st_ino)
        self.generation = _read_generation(self._handle)
        self.changed_ns = status.st_mtime_ns
        self.offset = position.offset if position else 0
        self.is_skipping = position.is_skipping if position else False
        self.is_at_end = at_end
        """Was everything read that the file had at the last look, except a line that is not complete?"""
        self._packed = _PackedFile(self.path) if packing else None
        self._mark = b""
        self._state_at_end: tuple[int, int] | None = None
        """Size and time of change when the end was reached."""
        if position:
            self._mark = self._read_at(position.offset - position.mark_bytes, position.mark_bytes)
        elif at_end:
            self._go_to_end(status.st_size)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)
        if self._packed:
            self._packed.close()

    @property
    def is_packed(self) -> bool:
        """Was the file packed (gzip and so on) when it was opened?"""
        return self._packed is not None

    def make_position(self, *, is_done: bool = False) -> FilePosition:
        """Describe up to where the file was read. `is_done`: it will not be read again."""
        return FilePosition(
            path=str(self.path),
            device=self.file_id[0],
            inode=self.file_id[1],
            offset=self.offset,
            mark_bytes=len(self._mark),
            mark_hash=hashlib.sha256(self._mark).hexdigest(),
            changed_ns=self.changed_ns,
            is_skipping=self.is_skipping,
            is_done=is_done,
            generation=self.generation,
        )

    def has_mark_of(self, position: FilePosition) -> bool:
        """Does the file have the bytes that were read before `position`? True for a position at the start."""
        if position.mark_bytes == 0:
            return True
        mark = self._read_at(position.offset - position.mark_bytes, position.mark_bytes)
        return len(mark) == position.mark_bytes and hashlib.sha256(mark).hexdigest() == position.mark_hash

    def starts_like(self, other: FollowedFile) -> bool:
        """Are the first bytes those of another file, as far as both have them? False if one of the files is empty."""
        pairs = zip(self._read_at(0, MARK_BYTES), other._read_at(0, MARK_BYTES), strict=False)
        equal = [first == second for first, second in pairs]
        return bool(equal) and all(equal)

    def restart(self) -> None:
        """Go back to the start of a file that was emptied."""
        self.offset, self._mark, self._state_at_end, self.is_skipping = 0, b"", None, False

    def read_lines(self) -> tuple[list[bytes], int]:
        """Read the next whole lines, at most `BLOCK_BYTES` of them.

        Returns the lines without their ends, and how many lines were too long to be read. Raises Truncated if the file
        no longer has what was read of it, OSError and InputError.
        """
        too_long_total = 0
        while True:
            status = os.fstat(self._handle)
            state = (status.st_size, status.st_mtime_ns)
            if state == self._state_at_end:
                return [], too_long_total
            self.changed_ns = status.st_mtime_ns
            if not self._packed and status.st_size < self.offset:
                raise Truncated
            chunk = self._read_at(self.offset, BLOCK_BYTES)
            # After reading: a file that was emptied meanwhile gives bytes of both contents.
            if self._mark and self._read_at(self.offset - len(self._mark), len(self._mark)) != self._mark:
                raise Truncated
            self.is_at_end = len(chunk) < BLOCK_BYTES
            if self.is_at_end:
                self._state_at_end = state
            lines, too_long = self._cut_lines(chunk)
            too_long_total += too_long
            if lines or self.is_at_end:
                return lines, too_long_total
            # All of the block belongs to a line that is too long: read on.

    def read_rest(self) -> list[bytes]:
        """Read the last line of a file that will not grow, if the line has no end; an empty list if there is none."""
        rest = self._read_at(self.offset, LONGEST_LINE_BYTES)
        self._advance(rest)
        return [] if self.is_skipping or not rest.strip(b"\0\r\n ") else [rest]

    def _cut_lines(self, chunk: bytes) -> tuple[list[bytes], int]:
        """Cut the bytes after the position into whole lines, and go behind them. Returns as `read_lines` does."""
        too_long = 0
        whole = chunk[: chunk.rfind(b"\n") + 1]
        if not whole:
            if len(chunk) <= LONGEST_LINE_BYTES:
                return [], 0  # a line that is not complete yet
            # Zeros are no line: a program that does not append has gone on at its old place after the file was emptied.
            if not self.is_skipping and chunk.strip(b"\0"):
                too_long, self.is_skipping = 1, True
            self._advance(chunk)
            return [], too_long
        lines = whole[:-1].split(b"\n")
        if self.is_skipping:
            del lines[0]  # the end of the line that is too long
            self.is_skipping = False
        if any(len(line) > LONGEST_LINE_BYTES for line in lines):
            too_long = sum(len(line.lstrip(b"\0")) > LONGEST_LINE_BYTES for line in lines)
            lines = [line for line in lines if len(line.lstrip(b"\0")) <= LONGEST_LINE_BYTES]
        if lines and lines[0].startswith(b"\0"):
            lines[0] = lines[0].lstrip(b"\0")
        self._advance(whole)
        return lines, too_long

    def _advance(self, chunk: bytes) -> None:
        """Move the position behind bytes that were read."""
        self.offset += len(chunk)
        self._mark = (self._mark + chunk[-MARK_BYTES:])[-MARK_BYTES:]

    def _go_to_end(self, size: int) -> None:
        """Move the position behind the last whole line of the first `size` bytes, without reading the lines."""
        start = max(0, size - LONGEST_LINE_BYTES)
        last_bytes = self._read_at(start, size - start)
        self.offset = start + last_bytes.rfind(b"\n") + 1
        self._mark = last_bytes[: self.offset - start][-MARK_BYTES:]

    def _read_at(self, offset: int, size: int) -> bytes:
        """Read `size` bytes from `offset` on; fewer at the end of the file."""
        if self._packed:
            return self._packed.read_at(offset, size)
        parts: list[bytes] = []
        while size > 0 and (part := os.pread(self._handle, size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)


_GET_GENERATION = 0x80087601
"""FS_IOC_GETVERSION of Linux, on machines with 64 bits: ext4, XFS, Btrfs and others have it."""


def _read_generation(handle: int) -> int | None:
    """Read the generation of the inode of an open file: a new file gets another one. `None` if there is none."""
    try:
        return int.from_bytes(fcntl.ioctl(handle, _GET_GENERATION, bytes(8))[:4], sys.byteorder)
    except OSError:
        return None


def _check_kind(path: Path, mode: int) -> None:
    """Refuse a folder, a pipe or a device, by the `mode` of its status. Raises InputError."""
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is not a file", hint="let the router write its access log into a file, and give that")


class _PackedFile:
    """The unpacked bytes of a packed file, which are read forwards; the last block stays in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: IO[bytes] = open_bytes(path)
        self._buffer = b""
        self._buffer_start = 0

    def close(self) -> None:
        self._stream.close()

    def read_at(self, offset: int, size: int) -> bytes:
        """Read `size` bytes from `offset` on; fewer at the end. Raises InputError for a damaged file."""
        if offset < self._buffer_start:
            self._stream.close()
            self._stream, self._buffer, self._buffer_start = open_bytes(self._path), b"", 0
        while self._buffer_start + len(self._buffer) < offset + size:
            # What is before the mark of this position is not read again.
            unneeded = max(0, min(len(self._buffer), offset - MARK_BYTES - self._buffer_start))
            self._buffer, self._buffer_start = self._buffer[unneeded:], self._buffer_start + unneeded
            part = self._stream.read(BLOCK_BYTES)
            if not part:
                break
            self._buffer += part
        start = offset - self._buffer_start
        return self._buffer[start : start + size]


def read_first_lines(path: Path, most: int) -> list[str]:
    """Read the first whole lines of a file, at most `most`; an empty list if it does not exist. Raises InputError."""
    try:
        file = FollowedFile(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    with contextlib.closing(file):
        lines, _ = file.read_lines()
    return [line.decode("utf-8", "replace").rstrip("\r") for line in lines[:most] if line.strip()]
