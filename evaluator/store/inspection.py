"""The bytes of files, looked at beside their conversion: their hash, and whether they are sound.

Sound are quotes that all readers of CSV read alike, and what gzip compressed if it is whole: DuckDB does not compare
its checksum. It also passes over lines that are longer than its buffer, so these are refused here.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from evaluator.errors import InputError
from evaluator.records import FilePlan

__all__ = ["Inspection", "are_quotes_plain"]

_CHUNK_BYTES = 1 << 20
_LONGEST_LINE = 16
"""Chunks without the end of a line, after which a text is given up."""


@dataclass(frozen=True, slots=True)
class FileBytes:
    """What the bytes of a file tell."""

    sha256: str
    """Hash of what the file says: its bytes, its arm, and how its columns are read."""
    content: str
    """Hash of its bytes."""
    has_plain_quotes: bool
    """Do all readers of CSV read it alike?"""


class Inspection:
    """Reads files in a thread of its own."""

    def __init__(self, files: Sequence[FilePlan]) -> None:
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._looks = {file: self._pool.submit(_look, file, self._stop) for file in files}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def read(self, file: FilePlan) -> FileBytes:
        """Wait until the file has been read to its end. Raises InputError where it is cut short or damaged."""
        try:
            return self._looks[file].result()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{file.path} is cut short or damaged: {error}", hint="fetch it again") from error
        except OSError as error:
            raise InputError(f"{file.path} cannot be read: {error.strerror}") from error


def _look(file: FilePlan, stop: threading.Event) -> FileBytes:
    content, plain = hashlib.sha256(), True
    before, chunk, quotes = b"\n", b"", 0
    packed, is_text = file.path.endswith(".gz"), file.layout.reader in ("csv", "k6")
    lines = _Lines(file.path)
    with Path(file.path).open("rb") as opened:
        while not stop.is_set():
            after = opened.read(_CHUNK_BYTES)
            content.update(after)
            text = before + chunk + (after[:1] or b"\n")
            plain = plain and are_quotes_plain(text, file.layout.delimiter, opened=quotes % 2 == 1)
            quotes += chunk.count(b'"')
            if is_text and not packed:
                lines.check(after)
            if not after:
                break
            before, chunk = chunk[-1:] or before, after
    if packed:
        with gzip.open(file.path) as unpacked:
            while not stop.is_set() and (text := unpacked.read(_CHUNK_BYTES)):
                if is_text:
                    lines.check(text)
    columns = [dataclasses.asdict(column) for column in file.layout.columns]
    others = [dataclasses.asdict(rows) for rows in file.layout.others]
    described = json.dumps([content.hexdigest(), file.arm, columns, *([others] if others else [])], sort_keys=True)
    return FileBytes(hashlib.sha256(described.encode()).hexdigest(), content.hexdigest(), plain)


class _Lines:
    """Sees that lines end."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._endless = 0

    def check(self, chunk: bytes) -> None:
        self._endless = 0 if b"\n" in chunk or b"\r" in chunk else self._endless + 1
        if self._endless > _LONGEST_LINE:
            raise InputError(
                f"{self._path} has a line that is longer than {_LONGEST_LINE * _CHUNK_BYTES >> 20} MB",
                hint="request files have a line for each request",
            )


def are_quotes_plain(text: bytes, delimiter: str, *, opened: bool = False) -> bool:
    """Tell whether each quote opens a value at its start, closes it at its end, or is one of a pair.

    The first and last byte are neighbours; `opened`: a value was opened before and is not closed yet.
    """
    if b'"' not in text[1:-1]:
        return True
    codes = np.frombuffer(text, np.uint8)
    at = np.flatnonzero(codes[1:-1] == ord('"')) + 1
    edges = np.zeros(256, dtype=bool)
    edges[[ord(one) for one in (delimiter, "\n", "\r", '"')]] = True
    opens = (np.arange(len(at)) + int(opened)) % 2 == 0
    return bool(np.where(opens, edges[codes[at - 1]], edges[codes[at + 1]]).all())
