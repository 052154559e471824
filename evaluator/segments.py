"""The Parquet schemas of requests and readings; writing, reading and merging segments. Needs pyarrow only.

A segment is an immutable Parquet file of request rows. It appears under its name only when it is whole (`.tmp` and an
atomic rename), its number counts up per worker, and it holds about one second of one worker's requests. If a process
is killed, every segment before its last second is readable.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.errors import SourceError, StoreError

_NAME = pa.dictionary(pa.int32(), pa.string())

REQUEST_SCHEMA = pa.schema(
    [
        pa.field("run", _NAME, nullable=False),
        pa.field("arm", _NAME, nullable=False),
        pa.field("service", _NAME, nullable=False),
        pa.field("instance", _NAME, nullable=False),
        pa.field("worker", _NAME, nullable=False),
        pa.field("ts", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("endpoint", _NAME, nullable=False),
        pa.field("response_time_ms", pa.float64(), nullable=False),
        pa.field("response_bytes", pa.int64()),
        pa.field("status_code", pa.int16()),
        pa.field("failed", pa.bool_(), nullable=False),
        pa.field("exception", _NAME),
        pa.field("user_count", pa.int32()),
        pa.field("context", pa.map_(pa.string(), pa.string())),
    ]
)
"""Columns of a request row. `ts` is the start of the request; `user_count` is how many users the row's arm had then."""

READING_SCHEMA = pa.schema(
    [
        pa.field("run", _NAME, nullable=False),
        pa.field("query", _NAME, nullable=False),
        pa.field("arm", _NAME, nullable=False),
        pa.field("instance", _NAME, nullable=False),
        pa.field("endpoint", _NAME, nullable=False),
        pa.field("part", _NAME, nullable=False),
        pa.field("le", pa.float64()),
        pa.field("labels", _NAME, nullable=False),
        pa.field("ts", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
"""Columns of a reading. `labels` is JSON; `le` is null except in the buckets of a histogram."""

READINGS_SUFFIX = ".readings"
"""Suffix of Parquet files of readings, so that readers of requests skip them."""

VERSION = 1
"""Version of these files. One of a later version has it in its metadata, under the key VERSION_KEY."""
VERSION_KEY = b"evaluator_version_of_file"

REQUIRED_COLUMNS = ("ts", "endpoint", "response_time_ms", "failed")
"""Columns that a file of request rows must have."""

MERGED_BYTES = 64 * 1024 * 1024
"""Compaction writes files of at least this size."""

MERGED_FOLDER = "merged"
"""Folder of merged files in the folder of a run."""

STAGED_SUFFIX = ".staged"
"""Suffix of whole segments that are not to be read before what belongs to them is on the disk, too."""

_MERGED_GROUP_ROWS = 500_000
_PATTERN = re.compile(r"seg-(?P<worker>.+)-(?P<seq>\d{6,})\.parquet")


def data_folder(store: Path) -> Path:
    """Folder of the segments that belong to a store file: `x.duckdb` → `x.data`."""
    return store.with_suffix(".data")


def run_folder(data: Path, release: str, run: str) -> Path:
    """Folder of one run's segments, in the folder `data` of a store."""
    return data / to_folder_name(release) / to_folder_name(run)


def to_folder_name(name: str) -> str:
    """Make a folder name of any name: readable, and different names stay different."""
    safe_name = re.sub(r"[^A-Za-z0-9._@-]+", "_", name).lstrip(".")[:80]
    return safe_name if safe_name == name else f"{safe_name}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def segment_name(worker: str, seq: int) -> str:
    """File name of segment number `seq` of a worker, or of an arm; their names may have any characters."""
    return f"seg-{to_folder_name(worker)}-{seq:06d}.parquet"


def segment_paths(folder: Path) -> tuple[Path, ...]:
    """Whole segments in `folder`, sorted by worker and number; without unfinished ones (`.tmp`)."""
    return tuple(sorted(path for path in folder.glob("seg-*.parquet") if _PATTERN.fullmatch(path.name)))


def read_segment_number(name: str) -> int | None:
    """Read the number in the name of a segment, which may have folders before it; `None` for another file."""
    match = _PATTERN.fullmatch(name.rpartition("/")[2])
    return int(match["seq"]) if match else None


def make_table(schema: pa.Schema, columns: Mapping[str, Sequence[Any] | pa.Array | None], rows: int) -> pa.Table:
    """Build a table of `rows` rows with the columns of a schema.

    `columns`: values by name of column; a text fills all rows, and a nullable column that is None or left out is null.
    """
    arrays = []
    for field in schema:
        values: Any = columns.get(field.name)
        if values is None:
            array = pa.nulls(rows, field.type)
        elif isinstance(values, str):
            array = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), [values])
        elif isinstance(values, pa.Array) and values.type == field.type:
            array = values
        elif pa.types.is_dictionary(field.type):  # a column of names
            array = pa.array(values, pa.string()).dictionary_encode()
        else:
            array = pa.array(values, field.type)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it is renamed to `path` when the block ends, and deleted after an error."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


class SegmentWriter:
    """Writes numbered segments of one worker into one folder.

    Raises OSError if the folder cannot be written (a full disk, a missing permission); earlier segments stay.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        """Make the folder if it is missing. `worker`: the process that writes; its name is in those of the segments."""
        self.folder, self.worker = folder, worker
        self.rows = 0
        """Rows written."""
        self._unsynced: list[Path] = []
        """Segments that may not be on the disk yet."""
        folder.mkdir(parents=True, exist_ok=True)
        self._next_seq = _find_free_number(folder, worker)

    def write(self, table: pa.Table) -> Path:
        """Write a table as the next segment, which is whole when it appears. Returns its path."""
        path = self.folder / segment_name(self.worker, self._next_seq)
        with written_whole(path) as unfinished:
            _write_parquet(table, unfinished)
        self._next_seq += 1
        self.rows += table.num_rows
        self._unsynced.append(path)
        return path

    @staticmethod
    def warm_up(table: pa.Table) -> None:
        """Write a sample into memory, because the first Parquet write of a process blocks it for most of a second."""
        _write_parquet(table, pa.BufferOutputStream())

    def close(self) -> None:
        """Flush all segments to the disk."""
        for path in [*self._unsynced, self.folder]:
            _flush_to_disk(path)
        self._unsynced.clear()


def stage_segment(table: pa.Table, folder: Path, worker: str, seq: int) -> Path:
    """Write a table as a segment that readers do not see yet, and wait until it is on the disk. Returns its path.

    `publish_segment` gives it its name. Raises OSError; the unfinished file is deleted then.
    """
    path = folder / (segment_name(worker, seq) + STAGED_SUFFIX)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _write_parquet(table, path)
        _flush_to_disk(path)
        _flush_to_disk(folder)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def publish_segment(staged: Path) -> None:
    """Give a staged segment its name; nothing if it has it already. Raises OSError."""
    with suppress(FileNotFoundError):
        staged.rename(staged.with_name(staged.name.removesuffix(STAGED_SUFFIX)))


def _find_free_number(folder: Path, worker: str) -> int:
    """The first number from which on no segment of a worker in `folder` has been numbered, now or in the past."""
    matches = [_PATTERN.fullmatch(path.name) for path in segment_paths(folder)]
    used_numbers = [int(match["seq"]) for match in matches if match and match["worker"] == to_folder_name(worker)]
    # Merged segments are deleted, so their numbers are not known. A worker writes at most one segment a second:
    # no used number is as high as the current time.
    lowest = int(time.time()) if (folder / MERGED_FOLDER).exists() else 0
    return max([lowest, *(number + 1 for number in used_numbers)])


def _write_parquet(table: pa.Table, sink: Path | pa.NativeFile) -> None:
    """Write request rows as a segment: fast, rather than as small as possible."""
    # Times rarely repeat: a dictionary of them would take a third of the time to write, and more space than the times.
    repeated = [name for name in table.column_names if name not in ("ts", "response_time_ms")]
    pq.write_table(table, sink, compression="lz4", write_statistics=False, store_schema=True, use_dictionary=repeated)


def _flush_to_disk(path: Path) -> None:
    """Wait until a file, or the list of files in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_segment(path: Path) -> pa.Table:
    """Read one segment, with the columns of REQUEST_SCHEMA. Raises SourceError if the file is not a segment."""
    try:
        with pq.ParquetFile(path) as file:
            check_version(path, file)
            table = file.read()
        return table.select(REQUEST_SCHEMA.names).cast(REQUEST_SCHEMA)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise _explain_unreadable(path, error) from error


def count_rows(path: Path) -> int:
    """Count the rows of a segment, from its footer alone. Raises SourceError if the file is not a segment."""
    try:
        with pq.ParquetFile(path) as file:
            check_version(path, file)
            names, rows = file.schema_arrow.names, int(file.metadata.num_rows)
    except (OSError, pa.ArrowException) as error:
        raise _explain_unreadable(path, error) from error
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if missing:
        raise SourceError(f"segment {path} has no column '{missing[0]}'")
    return rows


def check_version(path: Path, file: pq.ParquetFile) -> None:
    """Raise StoreError for a file that a newer evaluator wrote: what this one cannot know may change what rows mean."""
    version = (file.metadata.metadata or {}).get(VERSION_KEY, b"1")
    if version != str(VERSION).encode():
        raise StoreError(
            f"{path} was written by a newer evaluator (version {version.decode(errors='replace')}, this one knows "
            f"{VERSION})",
            hint="upgrade the evaluator; the file was left unchanged",
        )


def _explain_unreadable(path: Path, error: Exception) -> SourceError:
    return SourceError(f"segment {path} cannot be read: {' '.join(str(error).split())[:200]}")


def compact(paths: Iterable[Path], folder: Path, *, worker: str, min_bytes: int = MERGED_BYTES) -> dict[Path, Path]:
    """Merge the segments `paths` into files in `folder` of at least `min_bytes` (the last may be smaller).

    The segments stay unchanged. The merged files are named after `worker`, with numbers that no file in `folder` has.
    Memory holds about one row group. Returns segment → the merged file that holds its rows, in the order of the
    segments.
    """
    waiting = list(paths)
    merged_file_by_segment: dict[Path, Path] = {}
    while waiting:
        merged_file = folder / segment_name(worker, _find_free_number(folder, worker))
        taken = 0  # how many of the segments are in this file
        with written_whole(merged_file) as unfinished:
            with unfinished.open("wb") as sink, pq.ParquetWriter(sink, REQUEST_SCHEMA, compression="zstd") as writer:
                while taken < len(waiting) and (taken == 0 or sink.tell() < min_bytes):
                    row_group: list[pa.Table] = []
                    while taken < len(waiting) and sum(table.num_rows for table in row_group) < _MERGED_GROUP_ROWS:
                        row_group.append(read_segment(waiting[taken]))
                        taken += 1
                    writer.write_table(pa.concat_tables(row_group), row_group_size=_MERGED_GROUP_ROWS)
            _flush_to_disk(unfinished)
        merged_file_by_segment |= dict.fromkeys(waiting[:taken], merged_file)
        del waiting[:taken]
    return merged_file_by_segment
