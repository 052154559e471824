"""The lines of a log file, some hundred thousand at a time, without a loop over lines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evaluator.errors import InputError
from evaluator.textfiles import open_utf8

CHUNK_BYTES = 48 << 20
"""Bytes that are read at a time."""

LONGEST_LINE = 16 << 20
"""Most bytes of a line."""

_MARK_OF_UTF8 = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class LineChunk:
    """Some lines of a file."""

    first_number: int
    """Number of the first line, from 1."""
    lines: pa.Array
    """Texts with their line ends."""
    is_cut: bool = False
    """Has the line, which is then alone, no end? It is the last of the file, which may still be written."""


class LogFileReader:
    """Reads a log file, which may be packed and in any encoding of Unicode."""

    def __init__(self, path: Path, chunk_bytes: int = CHUNK_BYTES) -> None:
        """`chunk_bytes`: how much is read at a time."""
        self.path, self.chunk_bytes = path, chunk_bytes
        self.sha256 = ""
        """Hash of its unpacked bytes, as UTF-8, once it has been read to its end."""
        self._number = 1

    def read(self) -> Iterator[LineChunk]:
        """Yield all lines, reading ahead. Raises InputError for a damaged file and for a line that is too long."""
        chunks = self._read_chunks()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(next, chunks, None)
            while (chunk := waiting.result()) is not None:
                waiting = pool.submit(next, chunks, None)
                yield chunk

    def _read_chunks(self) -> Iterator[LineChunk]:
        content = hashlib.sha256()
        unfinished = b""
        try:
            with open_utf8(self.path) as opened:
                while read := opened.read(self.chunk_bytes):
                    content.update(read)
                    block = unfinished + (read.removeprefix(_MARK_OF_UTF8) if self._number == 1 else read)
                    end = block.rfind(b"\n") + 1
                    unfinished = block[end:]
                    self._check_length(block, end)
                    if end:
                        yield self._take(block[:end])
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from error
        self.sha256 = content.hexdigest()
        if unfinished.strip(b"\0 \t\r"):
            yield self._take(unfinished, is_cut=True)

    def _check_length(self, block: bytes, end: int) -> None:
        """Raise InputError if a line of a block, whose last line ends at `end`, is too long; also if it has no end."""
        if len(block) - end > LONGEST_LINE:
            number = self._number + block.count(b"\n")
            raise InputError(
                f"{self.path}:{number}: the line is longer than {LONGEST_LINE >> 20} MB",
                hint="write each request on a line of its own; is this an access log?",
            )

    def _take(self, block: bytes, *, is_cut: bool = False) -> LineChunk:
        """Make the lines of a block, and count them."""
        lines = split_lines(block)
        chunk = LineChunk(self._number, lines, is_cut)
        self._number += len(lines)
        return chunk


def split_lines(block: bytes) -> pa.Array:
    """Split bytes into texts of one line each, with their line ends.

    Zero bytes, which a truncated file may have, are removed. Bytes that are no UTF-8 are escaped.
    """
    if b"\0" in block:
        block = block.replace(b"\0", b"")
    if not block.isascii():
        try:
            block.decode()
        except UnicodeDecodeError:
            block = block.decode(errors="backslashreplace").encode()
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
    if not block.endswith(b"\n") and block:
        ends = np.append(ends, len(block))
    offsets: Any = np.concatenate(([0], ends)).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(block)])
