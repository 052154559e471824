"""The bytes of files, looked at beside their conversion: their hash, and whether their quotes are plain."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np

from evaluator.errors import InputError
from evaluator.records import FilePlan

__all__ = ["Inspection", "are_quotes_plain"]

_CHUNK_BYTES = 1 << 20


class Inspection:
    """Reads files in a thread of its own; an answer that is not there yet is waited for."""

    def __init__(self, files: Sequence[FilePlan]) -> None:
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._looks = {file: self._pool.submit(_look, file, self._stop) for file in files}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def hashes(self) -> dict[FilePlan, str]:
        """Hash what each file says: its bytes, its arm, and how its columns are read. Raises InputError."""
        return {file: _result(file, look)[0] for file, look in self._looks.items()}

    def has_plain_quotes(self, file: FilePlan) -> bool:
        """Tell whether all readers of CSV read the file alike. Raises InputError."""
        return _result(file, self._looks[file])[1]


def _result(file: FilePlan, look: Future[tuple[str, bool]]) -> tuple[str, bool]:
    try:
        return look.result()
    except OSError as error:
        raise InputError(f"{file.path} cannot be read: {error.strerror}") from error


def _look(file: FilePlan, stop: threading.Event) -> tuple[str, bool]:
    content, plain = hashlib.sha256(), True
    before, chunk = b"\n", b""
    with Path(file.path).open("rb") as opened:
        while not stop.is_set():
            after = opened.read(_CHUNK_BYTES)
            content.update(after)
            plain = plain and are_quotes_plain(before + chunk + (after[:1] or b"\n"), file.layout.delimiter)
            if not after:
                break
            before, chunk = chunk[-1:] or before, after
    columns = [dataclasses.asdict(column) for column in file.layout.columns]
    others = [dataclasses.asdict(rows) for rows in file.layout.others]
    told = [content.hexdigest(), file.arm, columns, *([others] if others else [])]
    text = json.dumps(told, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest(), plain


def are_quotes_plain(text: bytes, delimiter: str) -> bool:
    """Tell whether each quote opens or closes a value, or is one of a pair; the first and last byte are neighbours."""
    if b'"' not in text[1:-1]:
        return True
    codes = np.frombuffer(text, np.uint8)
    at = np.flatnonzero(codes[1:-1] == ord('"')) + 1
    edges = np.zeros(256, dtype=bool)
    edges[[ord(one) for one in (delimiter, "\n", "\r", '"')]] = True
    return bool((edges[codes[at - 1]] | edges[codes[at + 1]]).all())
