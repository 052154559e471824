"""Checks of the bytes of files during their conversion: their hash, whether they are sound, and whether they are new.

A file is sound if all readers of CSV read its quotes in the same way. DuckDB also skips lines that are longer than its
buffer, so these are refused here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
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
from evaluator.textfiles import open_utf8

_CHUNK_BYTES = 1 << 20
_MOST_CHUNKS_OF_LINE = 16
"""A file with more chunks in a row without the end of a line is refused."""


@dataclass(frozen=True, slots=True)
class FileBytes:
    """What was found in the bytes of a file."""

    sha256: str
    """Hash of its unpacked bytes, its arm, and how its columns are read."""
    content_sha256: str
    """Hash of its unpacked bytes, as UTF-8: a file and its packed copy have the same."""
    has_plain_quotes: bool
    """Do all readers of CSV read its quotes in the same way?"""


class Inspection:
    """Reads the bytes of files in a separate thread, while the files are converted."""

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
        """Wait until a file has been read to its end, and return its hashes and tests.

        Raises InputError if the file is damaged or cannot be read.
        """
        try:
            return self._results[file].result()
        except OSError as error:
            raise InputError(f"{file.path} cannot be read: {error.strerror}") from error


def _inspect(file: FilePlan, stop: threading.Event) -> FileBytes:
    """Hash the bytes of a file, and test its quotes and the length of its lines.

    If `stop` is set meanwhile, it ends early, and the result is not used. Raises InputError for a line that is too
    long and for damaged bytes, and the errors of the operating system.
    """
    bytes_hash = hashlib.sha256()
    has_plain_quotes = True
    # Quotes of a chunk are tested in the next round, when the byte after it is known; the first round tests none.
    # `byte_before` is the last byte of the chunk before.
    byte_before, chunk = b"\n", b""
    quotes_before = 0
    chunks_without_line_end = 0
    with open_utf8(Path(file.path)) as opened:
        while not stop.is_set():
            next_chunk = opened.read(_CHUNK_BYTES)
            bytes_hash.update(next_chunk)
            text = byte_before + chunk + (next_chunk[:1] or b"\n")
            is_quote_open = quotes_before % 2 == 1
            has_plain_quotes = has_plain_quotes and are_quotes_plain(
                text, file.layout.delimiter, starts_open=is_quote_open
            )
            quotes_before += chunk.count(b'"')
            chunks_without_line_end = _count_without_line_end(file, chunks_without_line_end, next_chunk)
            if not next_chunk:
                break
            byte_before = chunk[-1:] or byte_before
            chunk = next_chunk
    content_sha256 = bytes_hash.hexdigest()
    return FileBytes(_hash_reading(file, content_sha256), content_sha256, has_plain_quotes)


def _hash_reading(file: FilePlan, content_sha256: str) -> str:
    """Hash the hash of a file's bytes together with how they are read: their arm, and the layout of their columns."""
    columns = [dataclasses.asdict(column) for column in file.layout.columns]
    for column in columns:
        if not column["constant"]:  # so that files without constants keep the hash that earlier versions stored
            del column["constant"]
    parts: list[object] = [content_sha256, file.arm, columns]
    if file.layout.others:  # rows that are not requests
        parts.append([dataclasses.asdict(rows) for rows in file.layout.others])
    if file.layout.unseen:  # what the file cannot show
        parts.append(file.layout.unseen)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _count_without_line_end(file: FilePlan, chunks_before: int, chunk: bytes) -> int:
    """Count the chunks since the last end of a line: `chunks_before`, and `chunk`; 0 if `chunk` has the end of a line.

    Raises InputError if they are too many: the line is too long for DuckDB. Parquet files have no lines.
    """
    if file.layout.reader not in ("csv", "k6", "json") or b"\n" in chunk or b"\r" in chunk:
        return 0
    if chunks_before == _MOST_CHUNKS_OF_LINE:
        raise InputError(
            f"{file.path} has a line that is longer than {_MOST_CHUNKS_OF_LINE * _CHUNK_BYTES >> 20} MB",
            hint="write each request on a line of its own",
        )
    return chunks_before + 1


def are_quotes_plain(text: bytes, delimiter: str, *, starts_open: bool = False) -> bool:
    """Whether each quote opens a value at its start, closes it at its end, or is one of two (`""`, a quote in a value).

    The first and the last byte of `text` are only the neighbours of the bytes that are tested. `starts_open`: the
    second byte of `text`, the first that is tested, is inside of a quoted value.
    """
    if b'"' not in text[1:-1]:
        return True
    codes = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(codes[1:-1] == ord('"')) + 1  # positions in the text
    # Byte → whether it may be outside of a value, next to its quote. Two quotes in a value count as closing and opening
    # it again: each is outside of the value for the other.
    is_edge = np.zeros(256, dtype=bool)
    is_edge[[ord(mark) for mark in (delimiter, "\n", "\r", '"')]] = True
    # Quotes open and close in turn. The byte before a quote that opens must be outside of a value, and so must the byte
    # after a quote that closes.
    opens = (np.arange(len(quotes)) + int(starts_open)) % 2 == 0
    return bool(np.where(opens, is_edge[codes[quotes - 1]], is_edge[codes[quotes + 1]]).all())


# ------------------------------------------------------------------ files that landed before, or have the same content


def hash_files(plan: LandingPlan, inspection: Inspection) -> dict[FilePlan, str]:
    """Return file → hash of its bytes, its arm, how it is read, and the period: equal hashes mean equal rows."""
    hashes = {file: inspection.read(file).sha256 for file in plan.files}
    if plan.start is None and plan.end is None:
        return hashes
    period = f"{plan.start} {plan.end}"
    return {file: hashlib.sha256(f"{sha256} {period}".encode()).hexdigest() for file, sha256 in hashes.items()}


def find_same(files: Sequence[FilePlan], inspection: Inspection) -> list[str]:
    """Return a sentence for each file with the content of a file of another arm.

    Raises InputError for two files of one arm with the same content.
    """
    doubts = []
    first_with_content: dict[str, FilePlan] = {}
    first_of_arm_with_content: dict[tuple[str, str], FilePlan] = {}
    for file in files:
        content_sha256 = inspection.read(file).content_sha256
        same_in_arm = first_of_arm_with_content.setdefault((file.arm, content_sha256), file)
        if same_in_arm is not file:
            raise InputError(
                f"{same_in_arm.path} and {file.path} have the same content: their requests would count twice",
                hint="give one of them",
            )
        same = first_with_content.setdefault(content_sha256, file)
        # The same path in two arms is the comparison of a file with itself, which the user meant.
        if same.path != file.path:
            doubts.append(f"{same.path} and {file.path} have the same content, so they cannot show a difference")
    return doubts


def find_landed(store: StoreFile, release_id: str, plan: LandingPlan, inspection: Inspection) -> Landed | None:
    """Find what landed earlier from the files of a plan in a release; `None` if none of them has landed.

    There is a doubt if they landed as parts of a run, but the plan says that they are replicates, or the reverse.
    Raises InputError if only some of them have landed.
    """
    with store.opened() as engine:
        if not engine.execute("SELECT 1 FROM store.runs WHERE release = ? LIMIT 1", [release_id]).fetchall():
            return None  # nothing has landed; waiting for the hashes of the files would take time
    hashes = hash_files(plan, inspection)
    with store.opened() as engine:
        landed = match_landed(engine, release_id, hashes)
    if landed is None:
        return None
    # Parts are all in one run; of replicates, each run has one file of each arm. (`landed.parts`: the numbers of files
    # that an arm has in a run.)
    landed_as = {"parts": len(landed.runs) == 1, "replicates": landed.parts == (1,)}
    if plan.files_are is None or landed_as[plan.files_are]:
        return landed
    doubt = (
        f"the files have landed before, not as {plan.files_are}; import them under another release id to change that"
    )
    return dataclasses.replace(landed, doubts=(doubt,))


def match_landed(engine: Engine, release_id: str, hashes: Mapping[FilePlan, str]) -> Landed | None:
    """Find the run group of a release in which all these files have landed, in any order and in any of its runs.

    `hashes`: hash of each file. Returns what landed in that group; `None` if none of the files has landed. Raises
    InputError if only some have.
    """
    rows = engine.execute(
        """SELECT runs."group", runs.id, sha256, rows FROM store.segments
        JOIN store.runs ON runs.id = segments.run WHERE release = ? ORDER BY runs."group", replicate, sha256""",
        [release_id],
    ).fetchall()
    arm_by_hash = {sha256: file.arm for file, sha256 in hashes.items()}
    segments_by_group: dict[str, list[tuple[str, str, int]]] = {}
    for group, run, sha256, row_count in rows:
        segments_by_group.setdefault(group, []).append((run, sha256, row_count))
    for segments in segments_by_group.values():
        if arm_by_hash.keys() <= {sha256 for _, sha256, _ in segments}:
            # How many of the files, except those without rows, each arm has in each run.
            files_by_run_and_arm = Counter(
                (run, arm_by_hash[sha256]) for run, sha256, row_count in segments if sha256 in arm_by_hash and row_count
            )
            runs = tuple(dict.fromkeys(run for run, _, _ in segments))
            return Landed(already=len(hashes), runs=runs, parts=tuple(sorted(set(files_by_run_and_arm.values()))))
    run_by_hash = {sha256: run for _, run, sha256, _ in rows}
    for file, sha256 in hashes.items():
        if sha256 in run_by_hash:
            raise InputError(
                f"{file.path} has been imported into '{release_id}' already (run {run_by_hash[sha256]});"
                " together with the other files it would count twice",
                hint="give only the new files, or import all of them under another release id",
            )
    return None
