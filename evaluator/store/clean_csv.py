"""A CSV file without faults becomes a segment in one pass of Arrow's reader, in half of the time that SQL takes.

The first value or row that is not plain ends the pass: a value of the wrong kind, a row with too many or too few
columns, a stray quote, a bad row. `foreign` then reads the file again, and reports what is wrong and where. A value
means the same in both ways: texts are evaluated by the SQL of `foreign`, each distinct text once.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from evaluator.records import ColumnMap, FilePlan, LeftOut, LeftOutKind
from evaluator.segments import REQUEST_SCHEMA
from evaluator.store.engine import Engine
from evaluator.store.expressions import MICROS, SCALES, column_name, express, meet
from evaluator.store.foreign import GOOD, LONGEST
from evaluator.store.rollup import HIGHEST_MS
from evaluator.store.sub_results import FIRST_PART

_PIECE_BYTES = 8 << 20
_MOST_PIECES = 4
"""A row that is longer than this is not plain."""

_THREADS = min(os.cpu_count() or 1, 4)
_GROUP_ROWS = 500_000
_MOST_PAIRS = 1 << 20
"""Most combinations of two text columns that are written out."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEXT = pa.dictionary(pa.int32(), pa.string())
_INSTANT = pa.timestamp("us", tz="UTC")
_TYPES: Mapping[str, pa.DataType] = {
    "response_bytes": pa.int64(),
    "user_count": pa.int32(),
    "status_code": _TEXT,  # JMeter writes sentences into it
}
_OF_TEXT = frozenset({"text", "true", "false", "status", "filled"})


@dataclass(frozen=True, slots=True)
class CleanSegment:
    """What a written segment holds."""

    rows: int
    first: datetime
    last: datetime
    left_out: tuple[LeftOut, ...]


class _NotPlain(Exception):
    """The file must be read by `foreign`."""


def write_clean_segment(
    engine: Engine, file: FilePlan, path: Path, constants: Mapping[str, str], latest: datetime
) -> CleanSegment | None:
    """Write the rows of a CSV file as a segment at `path`; `None`, and no file, where it is not plain.

    `constants` are run, arm and service; `engine` evaluates texts. Raises OSError where nothing can be written.
    """
    kinds = _find_kinds(file)
    if kinds is None:
        return None
    try:
        with (
            pq.ParquetWriter(path, REQUEST_SCHEMA, **_HOW_WRITTEN) as writer,
            closing(_convert(_Rows(engine, file, constants, latest), kinds)) as pieces,
        ):
            return _write(writer, pieces, file.arm)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, (_NotPlain, pa.ArrowException, OverflowError)):
            return None
        raise


_HOW_WRITTEN: Mapping[str, Any] = {
    "compression": "lz4",
    "write_statistics": False,
    "use_dictionary": [field.name for field in REQUEST_SCHEMA if pa.types.is_dictionary(field.type)],
}


def _find_kinds(file: FilePlan) -> dict[str, pa.DataType] | None:
    """Find the type that each column of the file is read as; `None` where the file cannot be read this way.

    Rows that are no requests must be summaries that the text of one column identifies.
    """
    layout = file.layout
    if layout.reader != "csv" or layout.rewrite is not None or file.path.endswith(".gz"):
        return None
    for rows in layout.others:
        if rows.kind is not LeftOutKind.SUMMARY or len(rows.conditions) != 1 or rows.failed or rows.detail_column:
            return None
    sources = [(condition.column, _TEXT) for rows in layout.others for condition in rows.conditions]
    sources += [(layout.sub_results.label, _TEXT)] if layout.sub_results else []
    sources += [(layout.count_column, pa.float64())] if layout.count_column else []
    for column in layout.columns:
        if column.kind in _OF_TEXT:
            kind = _TEXT
        elif column.kind == "instant":
            kind = _INSTANT if column.unit == "iso" else pa.float64()
        elif column.kind == "number":
            kind = pa.float64()
        elif column.kind == "integer":
            kind = _TYPES[column.target]
        else:
            return None
        sources += [(name, kind) for name in column.sources]
    kinds = dict(sources)
    return kinds if all(kinds[name] == kind for name, kind in sources) else None


# ------------------------------------------------------------------ pieces of a file, side by side


def _convert(rows: _Rows, kinds: Mapping[str, pa.DataType]) -> Generator[_Piece]:
    """Convert the pieces of a file in threads, a few ahead of the consumer, and yield them in order."""
    waiting: deque[Future[_Piece]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for number, text in enumerate(_split(Path(rows.file.path))):
                waiting.append(pool.submit(_convert_piece, rows, kinds, text, header=number == 0))
                if len(waiting) > _THREADS + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _convert_piece(rows: _Rows, kinds: Mapping[str, pa.DataType], text: memoryview, *, header: bool) -> _Piece:
    layout = rows.file.layout
    table = pa.csv.read_csv(
        pa.BufferReader(pa.py_buffer(text)),
        pa.csv.ReadOptions(
            use_threads=False,
            block_size=len(text) + 1,
            column_names=list(layout.header),
            skip_rows_after_names=int(header),
        ),
        pa.csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True),
        pa.csv.ConvertOptions(
            column_types=dict(kinds),
            include_columns=list(kinds),
            null_values=[""],
            strings_can_be_null=True,
            timestamp_parsers=[pa.csv.ISO8601],
        ),
    )
    batches = table.combine_chunks().to_batches()
    return rows.convert(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema))


def _split(path: Path) -> Iterator[memoryview]:
    """Cut a file after line ends that are outside of quotes. Raises _NotPlain where a row is too long."""
    remainder = b""
    with path.open("rb") as opened:
        while piece := opened.read(_PIECE_BYTES):
            text = remainder + piece
            end = _find_end(text)
            _demand(end > 0 or len(text) < _MOST_PIECES * _PIECE_BYTES)
            if end:
                yield memoryview(text)[:end]
            remainder = text[end:]
    if remainder:
        yield memoryview(remainder)


def _find_end(text: bytes) -> int:
    """Find the end of the last whole row, where every opened quote is closed; 0 where there is none."""
    end = text.rfind(b"\n") + 1
    if b'"' not in text:
        return end
    while end and text.count(b'"', 0, end) % 2:
        end = text.rfind(b"\n", 0, text.rfind(b'"', 0, end)) + 1
    return end


# ------------------------------------------------------------------ rows


@dataclass(frozen=True, slots=True)
class _Piece:
    """Request rows of a part of the file; instants in microseconds, `None` without rows."""

    rows: pa.RecordBatch
    summaries: int
    failed_summaries: int
    labels: frozenset[str | None] = frozenset()
    """Labels of requests, which identify the parts of other requests."""
    first_us: int | None = None
    last_us: int | None = None


def _write(writer: pq.ParquetWriter, pieces: Iterator[_Piece], arm: str) -> CleanSegment:
    count = summaries = failed_summaries = 0
    firsts: list[int] = []
    lasts: list[int] = []
    waiting: list[pa.RecordBatch] = []
    labels: set[str | None] = set()
    for piece in pieces:
        count, summaries = count + piece.rows.num_rows, summaries + piece.summaries
        failed_summaries += piece.failed_summaries
        if not piece.labels <= labels:
            labels |= piece.labels
            _demand(not any(label is not None and label + FIRST_PART in labels for label in labels))
        if piece.first_us is not None and piece.last_us is not None:
            waiting.append(piece.rows)
            firsts.append(piece.first_us)
            lasts.append(piece.last_us)
        if sum(rows.num_rows for rows in waiting) >= _GROUP_ROWS:
            writer.write_table(pa.Table.from_batches(waiting).unify_dictionaries())
            waiting.clear()
    if waiting:
        writer.write_table(pa.Table.from_batches(waiting).unify_dictionaries())
    _demand(count > 0)
    first, last = (_EPOCH + timedelta(microseconds=micros) for micros in (min(firsts), max(lasts)))
    _demand(last - first <= LONGEST)
    left_out = LeftOut(arm, LeftOutKind.SUMMARY, summaries, failed_summaries)
    return CleanSegment(count, first, last, (left_out,) if summaries else ())


class _Rows:
    """Rows of one file become request rows, batch by batch."""

    def __init__(self, engine: Engine, file: FilePlan, constants: Mapping[str, str], latest: datetime) -> None:
        self.file = file
        self._engine, self._lock = engine, Lock()
        self._constants = {**constants, "worker": GOOD}
        self._columns = {column.target: column for column in file.layout.columns}
        self._latest_us = int(latest.timestamp() * 1e6)
        self._known: dict[str, dict[tuple[str | None, ...], Any]] = {}

    def convert(self, batch: pa.RecordBatch) -> _Piece:
        """Make request rows, without the rows that sum up others. Raises _NotPlain for a row that would be bad."""
        rows_read, layout = batch.num_rows, self.file.layout
        labels = frozenset(batch[layout.sub_results.label].dictionary.to_pylist() if layout.sub_results else ())
        batch, failed_summaries = self._leave_summaries_out(batch) if layout.others else (batch, 0)
        rows, summaries = batch.num_rows, rows_read - batch.num_rows
        failed = self._settle(batch, "failed", pa.bool_())
        _demand(failed is not None and failed.null_count == 0)
        # No row may sum up several requests.
        _demand(not layout.count_column or not pc.any(pc.greater(batch[layout.count_column], 1.0)).as_py())
        micros = self._instants(batch)
        endpoints: Any = self._texts(batch, "endpoint")
        _demand(endpoints.null_count == 0)
        _demand(all(text is None or (text.strip() and "\n" not in text) for text in endpoints.dictionary.to_pylist()))
        arm = self._constants["arm"]
        instances = self._texts(batch, "instance")
        if instances is None:
            instances = _repeat(arm, rows)
        elif instances.null_count:
            instances = instances.cast(pa.string()).fill_null(arm).dictionary_encode()
        exceptions = self._texts(batch, "exception")
        if exceptions is not None:
            codes = pc.if_else(failed, exceptions.indices, pa.scalar(None, pa.int32()))
            exceptions = pa.DictionaryArray.from_arrays(codes, exceptions.dictionary)
        columns = {
            **{name: _repeat(value, rows) for name, value in self._constants.items()},
            "ts": pa.array(micros).view(_INSTANT),
            "endpoint": endpoints,
            "response_time_ms": self._times(batch, failed),
            "failed": failed,
            "instance": instances,
            "exception": exceptions,
            "status_code": self._settle(batch, "status_code", pa.int16()),
        }
        for name in ("response_bytes", "user_count"):
            if name in self._columns:
                columns[name] = batch[self._columns[name].sources[0]]
        filled = [pa.nulls(rows, f.type) if columns.get(f.name) is None else columns[f.name] for f in REQUEST_SCHEMA]
        converted = pa.RecordBatch.from_arrays(filled, schema=REQUEST_SCHEMA)
        limits = (int(micros.min()), int(micros.max())) if rows else ()
        return _Piece(converted, summaries, failed_summaries, labels, *limits)

    # -------------------------------------------------------------- numbers

    def _instants(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        column = self._columns["ts"]
        values = batch[column.sources[0]]
        _demand(values.null_count == 0)
        if column.unit == "iso":
            micros = values.cast(pa.int64()).to_numpy()
        else:
            # floor(x + 0.5) is how SQL rounds a positive number; NaN and infinity are out of range.
            micros = np.floor(values.to_numpy() * MICROS[column.unit] + 0.5)
        _demand(bool(((micros >= 0) & (micros <= self._latest_us)).all()))
        in_range: npt.NDArray[np.int64] = micros.astype(np.int64, copy=False)
        return in_range

    def _times(self, batch: pa.RecordBatch, failed: pa.Array) -> pa.Array:
        column = self._columns["response_time_ms"]
        values = batch[column.sources[0]]
        if values.null_count:
            # A failure may have no time, a success must have one.
            _demand(not pc.any(pc.and_not(values.is_null(), failed)).as_py())
            values = values.fill_null(0.0)
        times = values.to_numpy()
        scale = SCALES[column.unit]
        times = times if scale == 1 else times * scale
        _demand(bool(((times >= 0) & (times <= HIGHEST_MS)).all()))
        return pa.array(times)

    # -------------------------------------------------------------- texts

    def _texts(self, batch: pa.RecordBatch, target: str) -> pa.DictionaryArray | None:
        """Join the sources of a text; where there are several, all must have a value. `None` without a source."""
        if target not in self._columns:
            return None
        names = self._columns[target].sources
        text = batch[names[0]]
        for name in names[1:]:
            text = _join(text, batch[name])
        return text

    def _settle(self, batch: pa.RecordBatch, target: str, kind: pa.DataType) -> pa.Array | None:
        """Evaluate texts as `foreign` does; `None` where the file has no such column."""
        column = self._columns.get(target)
        if column is None:
            return None
        expression = express(self.file, column)
        if column.kind == "filled" and len(column.sources) > 1:
            # It only matters whether the first text is empty, and each one may be different.
            filled = express(self.file, ColumnMap(target, column.sources[:1], column.kind))
            is_text = self._evaluate(batch, column.sources[:1], filled, pa.bool_())
            texts = pa.DictionaryArray.from_arrays(is_text.cast(pa.int32()), pa.array([None, "text"], pa.string()))
            batch = batch.set_column(batch.schema.get_field_index(column.sources[0]), column.sources[0], texts)
        return self._evaluate(
            batch, column.sources, f"nullif({expression}, 0)" if target == "status_code" else expression, kind
        )

    def _evaluate(self, batch: pa.RecordBatch, sources: Sequence[str], expression: str, kind: pa.DataType) -> pa.Array:
        """Evaluate an expression of text columns, each combination of their values once."""
        columns = [batch[name] for name in sources]
        texts: list[list[str | None]] = [[*column.dictionary.to_pylist(), None] for column in columns]
        codes = [column.indices.fill_null(len(column.dictionary)) for column in columns]
        if len(sources) == 1:
            combined = [(text,) for text in texts[0]]
            positions = codes[0]
        else:
            sizes = [len(words) for words in texts]
            _demand(math.prod(sizes) <= _MOST_PAIRS)
            cells = np.ravel_multi_index([each.to_numpy(zero_copy_only=False) for each in codes], sizes)
            met = np.flatnonzero(np.bincount(cells, minlength=math.prod(sizes)))
            indices = np.unravel_index(met, sizes)
            combined = list(
                zip(*(np.array(words, object)[k] for words, k in zip(texts, indices, strict=True)), strict=True)
            )
            position_of = np.zeros(math.prod(sizes), np.int64)
            position_of[met] = np.arange(len(met))
            positions = pa.array(position_of[cells])
        with self._lock:
            values = self._known.setdefault(expression, {})
            if fresh := [texts for texts in combined if texts not in values]:
                names = [column_name(self.file, name) for name in sources]
                unnested = ", ".join(f"unnest(CAST(? AS VARCHAR[])) AS {name}" for name in names)
                query = f"SELECT {', '.join(names)}, {expression} FROM (SELECT {unnested})"
                rows = self._engine.execute(query, [list(words) for words in zip(*fresh, strict=True)]).fetchall()
                values.update((tuple(texts), value) for *texts, value in rows)
        return pa.array([values[texts] for texts in combined], kind).take(positions)

    def _leave_summaries_out(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, int]:
        """Leave out rows that sum up others, and count the failures among them."""
        is_summary = pa.array(np.zeros(batch.num_rows, bool))
        for rows in self.file.layout.others:
            meets = meet(self.file, rows.conditions)
            is_summary = pc.or_(is_summary, self._evaluate(batch, [rows.conditions[0].column], meets, pa.bool_()))
        if not pc.any(is_summary).as_py():
            return batch, 0
        failed = self._settle(batch.filter(is_summary), "failed", pa.bool_())
        return batch.filter(pc.invert(is_summary)), int(pc.sum(failed).as_py() or 0)


def _demand(plain: bool) -> None:  # noqa: FBT001 - it has no other argument
    if not plain:
        raise _NotPlain


def _repeat(text: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [text])


def _join(first: pa.DictionaryArray, second: pa.DictionaryArray) -> pa.DictionaryArray:
    """Join two texts with a space; each combination is written once."""
    width = len(second.dictionary)
    _demand(first.null_count == second.null_count == 0 and len(first.dictionary) * width <= _MOST_PAIRS)
    texts = pc.binary_join_element_wise(
        first.dictionary.take(pa.array(np.repeat(np.arange(len(first.dictionary)), width))),
        second.dictionary.take(pa.array(np.tile(np.arange(width), len(first.dictionary)))),
        " ",
    )
    _demand(len(texts.unique()) == len(texts))
    codes: npt.NDArray[np.int32] = first.indices.to_numpy() * np.int32(width) + second.indices.to_numpy()
    return pa.DictionaryArray.from_arrays(pa.array(codes), texts)
