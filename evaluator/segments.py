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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.errors import SourceError

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

REQUIRED_COLUMNS = ("ts", "endpoint", "response_time_ms", "failed")
"""Columns that a file of request rows must have."""

MERGED_BYTES = 64 * 1024 * 1024
"""Compaction writes files of at least this size."""

MERGED_FOLDER = "merged"
"""Folder of merged files in the folder of a run."""

_MERGED_GROUP_ROWS = 500_000
_PATTERN = re.compile(r"seg-(?P<worker>.+)-(?P<seq>\d{6,})\.parquet")


def data_folder(store: Path) -> Path:
    """Folder of the segments that belong to a store file: `x.duckdb` → `x.data`."""
    return store.with_suffix(".data")


def run_folder(data: Path, release: str, run: str) -> Path:
    """Folder of one run's segments."""
    return data / slug(release) / slug(run)


def slug(name: str) -> str:
    """Make a folder name of any name: readable, and different names stay different."""
    safe = re.sub(r"[^A-Za-z0-9._@-]+", "_", name).lstrip(".")[:80]
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def segment_name(worker: str, seq: int) -> str:
    """File name of a worker's segment number `seq`."""
    return f"seg-{worker}-{seq:06d}.parquet"


def segment_paths(folder: Path) -> tuple[Path, ...]:
    """Whole segments in `folder`, sorted by worker and number; without unfinished ones (`.tmp`)."""
    return tuple(sorted(path for path in folder.glob("seg-*.parquet") if _PATTERN.fullmatch(path.name)))


def make_table(schema: pa.Schema, columns: Mapping[str, Sequence[Any] | pa.Array | None], rows: int) -> pa.Table:
    """Build a table of a schema; a single text fills all rows, and a nullable column that is left out is null."""
    arrays = []
    for field in schema:
        values: Any = columns.get(field.name)
        if values is None:
            values = pa.nulls(rows, field.type)
        elif isinstance(values, str):
            values = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), [values])
        elif not isinstance(values, pa.Array) or values.type != field.type:
            is_name = pa.types.is_dictionary(field.type)
            values = pa.array(values, pa.string()).dictionary_encode() if is_name else pa.array(values, field.type)
        arrays.append(values)
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
    """Numbered segments of one worker in one folder.

    Raises OSError where the folder cannot be written (a full disk, a missing permission); earlier segments stay.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self.folder, self.worker = folder, worker
        self.rows = 0
        self._unsynced: list[Path] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._seq = _next_number(folder, worker)

    def write(self, table: pa.Table) -> Path:
        """Write one segment; it is whole when it appears."""
        path = self.folder / segment_name(self.worker, self._seq)
        with written_whole(path) as unfinished:
            _write(table, unfinished)
        self._seq += 1
        self.rows += table.num_rows
        self._unsynced.append(path)
        return path

    @staticmethod
    def warm_up(table: pa.Table) -> None:
        """Write a sample into memory, because the first Parquet write of a process blocks it for most of a second."""
        _write(table, pa.BufferOutputStream())

    def close(self) -> None:
        """Flush all segments to the disk."""
        for path in [*self._unsynced, self.folder]:
            _sync(path)
        self._unsynced.clear()


def _next_number(folder: Path, worker: str) -> int:
    numbers = [
        int(m["seq"]) for p in segment_paths(folder) if (m := _PATTERN.fullmatch(p.name)) and m["worker"] == worker
    ]
    # Merged segments are deleted, so their numbers are not known. A worker writes at most one segment a second:
    # no used number is as high as the current time.
    first = int(time.time()) if (folder / MERGED_FOLDER).exists() else 0
    return max([*numbers, first - 1]) + 1


def _write(table: pa.Table, sink: Path | pa.NativeFile) -> None:
    # Times rarely repeat: a dictionary of them would take a third of the time to write, and more space than the times.
    repeated = [name for name in table.column_names if name not in ("ts", "response_time_ms")]
    pq.write_table(table, sink, compression="lz4", write_statistics=False, store_schema=True, use_dictionary=repeated)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_segment(path: Path) -> pa.Table:
    """Read one segment. Raises SourceError where the file is not a segment."""
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        return table.select(REQUEST_SCHEMA.names).cast(REQUEST_SCHEMA)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise _unreadable(path, error) from error


def count_rows(path: Path) -> int:
    """Rows of a segment, from its footer alone. Raises SourceError where the file is not a segment."""
    try:
        with pq.ParquetFile(path) as file:
            names, rows = file.schema_arrow.names, int(file.metadata.num_rows)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if missing:
        raise SourceError(f"segment {path} has no column '{missing[0]}'")
    return rows


def _unreadable(path: Path, error: Exception) -> SourceError:
    return SourceError(f"segment {path} cannot be read: {' '.join(str(error).split())[:200]}")


def compact(paths: Iterable[Path], folder: Path, *, worker: str, min_bytes: int = MERGED_BYTES) -> dict[Path, Path]:
    """Merge segments into files of at least `min_bytes` (the last may be smaller); the segments stay unchanged.

    The merged files get numbers of `worker` that no file in `folder` has. Memory holds about one row group. Returns
    segment → the merged file that holds its rows, in the order of the segments.
    """
    queue = list(paths)
    merged: dict[Path, Path] = {}
    while queue:
        path = folder / segment_name(worker, _next_number(folder, worker))
        used = 0
        with written_whole(path) as unfinished:
            with unfinished.open("wb") as sink, pq.ParquetWriter(sink, REQUEST_SCHEMA, compression="zstd") as writer:
                while used < len(queue) and (used == 0 or sink.tell() < min_bytes):
                    group: list[pa.Table] = []
                    while used < len(queue) and sum(table.num_rows for table in group) < _MERGED_GROUP_ROWS:
                        group.append(read_segment(queue[used]))
                        used += 1
                    writer.write_table(pa.concat_tables(group), row_group_size=_MERGED_GROUP_ROWS)
            _sync(unfinished)
        merged |= dict.fromkeys(queue[:used], path)
        del queue[:used]
    return merged
