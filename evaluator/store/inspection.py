"""Checks of the bytes of files during their conversion: their hash, whether they are sound, and whether they are new.

A file is sound if all readers of CSV read its quotes in the same way, and if its gzip data are complete: DuckDB does
not compare their checksum. DuckDB also skips lines that are longer than its buffer, so these are refused here.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import threading
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from evaluator.errors import InputError
from evaluator.records import FilePlan, Landed, LandingPlan
from evaluator.store.engine import Engine
from evaluator.store.file import StoreFile

_CHUNK_BYTES = 1 << 20
_LONGEST_LINE = 16
"""A text with a line of more chunks than this is refused."""


@dataclass(frozen=True, slots=True)
class FileBytes:
    """What was found in the bytes of a file."""

    sha256: str
    """Hash of its bytes, its arm, and how its columns are read."""
    content: str
    """Hash of its bytes."""
    has_plain_quotes: bool
    """Do all readers of CSV read its quotes in the same way?"""


class Inspection:
    """Reads files in a separate thread."""

    def __init__(self, files: Sequence[FilePlan]) -> None:
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._results = {file: self._pool.submit(_inspect, file, self._stop) for file in files}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def read(self, file: FilePlan) -> FileBytes:
        """Wait until the file has been read to its end. Raises InputError where it is cut short or damaged."""
        try:
            return self._results[file].result()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{file.path} is cut short or damaged: {error}", hint="fetch it again") from error
        except OSError as error:
            raise InputError(f"{file.path} cannot be read: {error.strerror}") from error


def _inspect(file: FilePlan, stop: threading.Event) -> FileBytes:
    content, plain = hashlib.sha256(), True
    before, chunk, quotes, endless = b"\n", b"", 0, 0
    packed = file.path.endswith(".gz")
    with Path(file.path).open("rb") as opened:
        while not stop.is_set():
            after = opened.read(_CHUNK_BYTES)
            content.update(after)
            text = before + chunk + (after[:1] or b"\n")
            plain = plain and are_quotes_plain(text, file.layout.delimiter, opened=quotes % 2 == 1)
            quotes += chunk.count(b'"')
            endless = 0 if packed else _count_endless(file, endless, after)
            if not after:
                break
            before, chunk = chunk[-1:] or before, after
    if packed:
        with gzip.open(file.path) as unpacked:
            while not stop.is_set() and (text := unpacked.read(_CHUNK_BYTES)):
                endless = _count_endless(file, endless, text)
    columns = [dataclasses.asdict(column) for column in file.layout.columns]
    others = [dataclasses.asdict(rows) for rows in file.layout.others]
    described = json.dumps([content.hexdigest(), file.arm, columns, *([others] if others else [])], sort_keys=True)
    return FileBytes(hashlib.sha256(described.encode()).hexdigest(), content.hexdigest(), plain)


def _count_endless(file: FilePlan, endless: int, chunk: bytes) -> int:
    """Count the chunks of a text since the end of a line. Raises InputError where they are too many."""
    if file.layout.reader not in ("csv", "k6") or b"\n" in chunk or b"\r" in chunk:
        return 0
    if endless == _LONGEST_LINE:
        raise InputError(
            f"{file.path} has a line that is longer than {_LONGEST_LINE * _CHUNK_BYTES >> 20} MB",
            hint="write each request on a line of its own",
        )
    return endless + 1


def are_quotes_plain(text: bytes, delimiter: str, *, opened: bool = False) -> bool:
    """Whether each quote opens a value at its start, closes it at its end, or is one of a pair.

    The first and last byte only give the neighbours of the others; `opened`: a quote before this text is still open.
    """
    if b'"' not in text[1:-1]:
        return True
    codes = np.frombuffer(text, np.uint8)
    at = np.flatnonzero(codes[1:-1] == ord('"')) + 1
    edges = np.zeros(256, dtype=bool)
    edges[[ord(mark) for mark in (delimiter, "\n", "\r", '"')]] = True
    opens = (np.arange(len(at)) + int(opened)) % 2 == 0
    return bool(np.where(opens, edges[codes[at - 1]], edges[codes[at + 1]]).all())


# ------------------------------------------------------------------ files that landed before, or have the same content


def hash_files(plan: LandingPlan, inspection: Inspection) -> dict[FilePlan, str]:
    """Hash each file together with the period that is read of it."""
    hashes = {file: inspection.read(file).sha256 for file in plan.files}
    if plan.start is None and plan.end is None:
        return hashes
    period = f"{plan.start} {plan.end}"
    return {file: hashlib.sha256(f"{sha256} {period}".encode()).hexdigest() for file, sha256 in hashes.items()}


def find_same(files: Sequence[FilePlan], inspection: Inspection) -> list[str]:
    """Point out files of several arms with the same content. Raises InputError for two such files of one arm."""
    doubts = []
    by_content: dict[str, FilePlan] = {}
    by_arm: dict[tuple[str, str], FilePlan] = {}
    for file in files:
        content = inspection.read(file).content
        twin = by_arm.setdefault((file.arm, content), file)
        if twin is not file:
            raise InputError(
                f"{twin.path} and {file.path} have the same content: their requests would count twice",
                hint="give one of them",
            )
        first = by_content.setdefault(content, file)
        if first.path != file.path:
            doubts.append(f"{first.path} and {file.path} have the same content, so they cannot show a difference")
    return doubts


def find_landed(store: StoreFile, release_id: str, plan: LandingPlan, inspection: Inspection) -> Landed | None:
    """Find the runs of a release in which the files of a plan have landed; `None` where none has landed.

    Raises InputError where only some have.
    """
    with store.opened() as engine:
        if not engine.execute("SELECT 1 FROM store.runs WHERE release = ? LIMIT 1", [release_id]).fetchall():
            return None  # a file need not be hashed before it is read
    hashes = hash_files(plan, inspection)
    with store.opened() as engine:
        landed = match_landed(engine, release_id, hashes)
    if landed is None:
        return None
    as_declared = {"parts": len(landed.runs) == 1, "replicates": landed.parts == (1,)}
    if plan.files_are is None or as_declared[plan.files_are]:
        return landed
    doubt = (
        f"the files have landed before, not as {plan.files_are}; import them under another release id to change that"
    )
    return dataclasses.replace(landed, doubts=(doubt,))


def match_landed(engine: Engine, release_id: str, hashes: Mapping[FilePlan, str]) -> Landed | None:
    """Find these files where they landed as one group, in any order and in any runs.

    `None` where none has landed. Raises InputError where only some have.
    """
    rows = engine.execute(
        """SELECT runs."group", runs.id, sha256, rows FROM store.segments
        JOIN store.runs ON runs.id = segments.run WHERE release = ? ORDER BY runs."group", replicate, sha256""",
        [release_id],
    ).fetchall()
    arms = {sha256: file.arm for file, sha256 in hashes.items()}
    for group in dict.fromkeys(row[0] for row in rows):
        own = [(run, sha256, count) for of, run, sha256, count in rows if of == group]
        if arms.keys() <= {sha256 for _, sha256, _ in own}:
            counts = Counter((run, arms[sha256]) for run, sha256, count in own if sha256 in arms and count)
            runs = tuple(dict.fromkeys(run for run, *_ in own))
            return Landed(already=len(hashes), runs=runs, parts=tuple(sorted(set(counts.values()))))
    landed = {sha256: run for _, run, sha256, _ in rows}
    for file, sha256 in hashes.items():
        if sha256 in landed:
            raise InputError(
                f"{file.path} has been imported into '{release_id}' already (run {landed[sha256]});"
                " together with the other files it would count twice",
                hint="give only the new files, or import all of them under another release id",
            )
    return None
