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
from evaluator.store.expressions import MICROS, SCALES, column_name, express, write_condition
from evaluator.store.foreign import LONGEST_SPAN, MARK_COLUMN, REQUEST_MARK
from evaluator.store.rollup import HIGHEST_MS
from evaluator.store.sub_results import FIRST_PART

_PIECE_BYTES = 8 << 20
_MOST_PIECES = 4
"""A file with a row of this many pieces, or more, is read by `foreign`."""

_THREADS = min(os.cpu_count() or 1, 4)
_ROWS_PER_WRITE = 500_000
_MOST_COMBINATIONS = 1 << 20
"""Most possible combinations of the texts of several columns that are written out."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEXT = pa.dictionary(pa.int32(), pa.string())
_INSTANT = pa.timestamp("us", tz="UTC")
_TYPES: Mapping[str, pa.DataType] = {
    "response_bytes": pa.int64(),
    "user_count": pa.int32(),
    "status_code": _TEXT,  # JMeter writes sentences into it
}
_TEXT_KINDS = frozenset({"text", "true", "false", "status", "filled"})


@dataclass(frozen=True, slots=True)
class CleanSegment:
    """What a written segment holds: requests, the times of the first and the last of them, and what was left out."""

    rows: int
    first_request: datetime
    last_request: datetime
    left_out: tuple[LeftOut, ...]


class _NotPlain(Exception):
    """The file must be read by `foreign`."""


def write_clean_segment(
    engine: Engine, file: FilePlan, path: Path, constants: Mapping[str, str], latest: datetime
) -> CleanSegment | None:
    """Write the requests of a CSV file as a segment (Parquet) at `path`.

    Returns `None`, and writes no segment, if any row or value of the file is unusual and must be read by `foreign`.
    `constants`: text of the columns run, arm and service in all rows. `engine` evaluates SQL over texts. A request
    after `latest` is unusual. Raises OSError if the segment cannot be written.
    """
    column_types = _find_column_types(file)
    if column_types is None:
        return None
    try:
        with (
            pq.ParquetWriter(path, REQUEST_SCHEMA, **_HOW_WRITTEN) as writer,
            closing(_convert_pieces(_RowConverter(engine, file, constants, latest), column_types)) as pieces,
        ):
            return _write_segment(writer, pieces, file.arm)
    except BaseException as error:
        path.unlink(missing_ok=True)
        # These mean that the file is unusual: Arrow rejects what it cannot parse, or what does not fit the type.
        if isinstance(error, (_NotPlain, pa.ArrowException, OverflowError)):
            return None
        raise


_HOW_WRITTEN: Mapping[str, Any] = {
    "compression": "lz4",
    "write_statistics": False,
    "use_dictionary": [field.name for field in REQUEST_SCHEMA if pa.types.is_dictionary(field.type)],
}


def _find_column_types(file: FilePlan) -> dict[str, pa.DataType] | None:
    """Find the Arrow type of each column of the file that is needed: its name in the file → type.

    `None` if this module cannot read the layout: only plain CSV, whose rows are requests or summaries that the text of
    one column identifies.
    """
    layout = file.layout
    if layout.reader != "csv" or layout.rewrite is not None or file.path.endswith(".gz"):
        return None
    for rows in layout.others:
        if rows.kind is not LeftOutKind.SUMMARY or len(rows.conditions) != 1 or rows.failed or rows.detail_column:
            return None
    # Column of the file and the type that one use of it needs; a column may have several uses.
    uses = [(condition.column, _TEXT) for rows in layout.others for condition in rows.conditions]
    if layout.sub_results:
        uses.append((layout.sub_results.label, _TEXT))
    if layout.count_column:
        uses.append((layout.count_column, pa.float64()))
    for column in layout.columns:
        if column.kind in _TEXT_KINDS:
            column_type = _TEXT
        elif column.kind == "instant":
            column_type = _INSTANT if column.unit == "iso" else pa.float64()
        elif column.kind == "number":
            column_type = pa.float64()
        elif column.kind == "integer":
            column_type = _TYPES[column.target]
        else:
            return None
        uses += [(source, column_type) for source in column.sources]
    types = dict(uses)
    # A column that two uses need as different types cannot be read once.
    return types if all(types[source] == column_type for source, column_type in uses) else None


# ------------------------------------------------------------------ pieces of a file, side by side


def _convert_pieces(converter: _RowConverter, column_types: Mapping[str, pa.DataType]) -> Generator[_Piece]:
    """Convert the pieces of a file in threads, a few ahead of the consumer, and yield them in order."""
    futures: deque[Future[_Piece]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for number, text in enumerate(_split_file(Path(converter.file.path))):
                future = pool.submit(_convert_piece, converter, column_types, text, has_header=number == 0)
                futures.append(future)
                # Not more: each piece takes memory until the consumer has it.
                if len(futures) > _THREADS + 1:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _convert_piece(
    converter: _RowConverter, column_types: Mapping[str, pa.DataType], text: memoryview, *, has_header: bool
) -> _Piece:
    """Parse the CSV text of whole rows and convert them to request rows.

    `has_header`: the first row of `text` is the header of the file. Raises ArrowException if Arrow cannot parse the
    text as `column_types` (name of a column → type), and _NotPlain for an unusual row.
    """
    layout = converter.file.layout
    table = pa.csv.read_csv(
        pa.BufferReader(pa.py_buffer(text)),
        pa.csv.ReadOptions(
            use_threads=False,
            block_size=len(text) + 1,  # one block, so one batch
            column_names=list(layout.header),
            skip_rows_after_names=1 if has_header else 0,
        ),
        pa.csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True),
        pa.csv.ConvertOptions(
            column_types=dict(column_types),
            include_columns=list(column_types),
            null_values=[""],
            strings_can_be_null=True,
            timestamp_parsers=[pa.csv.ISO8601],
        ),
    )
    batches = table.combine_chunks().to_batches()
    return converter.convert(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema))


def _split_file(path: Path) -> Iterator[memoryview]:
    """Yield a CSV file in pieces of whole rows. Raises _NotPlain if a row is longer than `_MOST_PIECES` pieces."""
    remainder = b""
    with path.open("rb") as opened:
        while piece := opened.read(_PIECE_BYTES):
            text = remainder + piece
            end = _find_end_of_rows(text)
            _require_plain(end > 0 or len(text) < _MOST_PIECES * _PIECE_BYTES)
            if end:
                yield memoryview(text)[:end]
            remainder = text[end:]  # the start of a row that continues in the next piece
    if remainder:
        yield memoryview(remainder)


def _find_end_of_rows(text: bytes) -> int:
    """Find where the last whole row of CSV text ends: the position after its line end; 0 if no row is whole."""
    end = text.rfind(b"\n") + 1
    if b'"' not in text:
        return end
    # After an odd number of quotes, a quote is open, so this line end is inside of a value: go back before that quote.
    while end and text.count(b'"', 0, end) % 2:
        last_quote = text.rfind(b'"', 0, end)
        end = text.rfind(b"\n", 0, last_quote) + 1
    return end


# ------------------------------------------------------------------ rows


@dataclass(frozen=True, slots=True)
class _Piece:
    """Request rows of a part of the file, and how many summaries were removed from them."""

    rows: pa.RecordBatch
    summaries: int
    failed_summaries: int
    labels: frozenset[str | None] = frozenset()
    """Labels of all rows, if labels identify sub-results."""
    first_us: int | None = None
    """Time of the first request, in microseconds since 1970; `None` without requests."""
    last_us: int | None = None


def _write_segment(writer: pq.ParquetWriter, pieces: Iterator[_Piece], arm: str) -> CleanSegment:
    """Write the request rows of all pieces of a file of `arm`, and sum up what was written.

    Raises _NotPlain (`foreign` then reads the file) if a row may be a sub-result, that is a part of another request, if
    there is no request, or if the times span more than a year.
    """
    requests = summaries = failed_summaries = 0
    first_times_us: list[int] = []
    last_times_us: list[int] = []
    unwritten_batches: list[pa.RecordBatch] = []
    labels: set[str | None] = set()
    for piece in pieces:
        requests += piece.rows.num_rows
        summaries += piece.summaries
        failed_summaries += piece.failed_summaries
        # A row labelled `Home-0` (with FIRST_PART) may be a part of a row labelled `Home`, in this or another piece.
        if not piece.labels <= labels:
            labels |= piece.labels
            has_first_part = any(label is not None and label + FIRST_PART in labels for label in labels)
            _require_plain(not has_first_part)
        if piece.first_us is not None and piece.last_us is not None:
            unwritten_batches.append(piece.rows)
            first_times_us.append(piece.first_us)
            last_times_us.append(piece.last_us)
        # Each write makes a row group of the Parquet file; small groups would be slow to read.
        if sum(rows.num_rows for rows in unwritten_batches) >= _ROWS_PER_WRITE:
            writer.write_table(pa.Table.from_batches(unwritten_batches).unify_dictionaries())
            unwritten_batches.clear()
    if unwritten_batches:
        writer.write_table(pa.Table.from_batches(unwritten_batches).unify_dictionaries())
    _require_plain(requests > 0)
    first = _EPOCH + timedelta(microseconds=min(first_times_us))
    last = _EPOCH + timedelta(microseconds=max(last_times_us))
    _require_plain(last - first <= LONGEST_SPAN)
    left_out = LeftOut(arm, LeftOutKind.SUMMARY, summaries, failed_summaries)
    return CleanSegment(requests, first, last, (left_out,) if summaries else ())


class _RowConverter:
    """Converts rows of one file to request rows, batch by batch."""

    def __init__(self, engine: Engine, file: FilePlan, constants: Mapping[str, str], latest: datetime) -> None:
        """`constants`: text of the columns run, arm and service in all rows. A request after `latest` is not plain."""
        self.file = file
        self._engine = engine
        self._lock = Lock()  # converting threads share the engine and the cache
        self._constants = {**constants, MARK_COLUMN: REQUEST_MARK}
        self._columns = {column.target: column for column in file.layout.columns}  # by column of a request row
        self._latest_us = int(latest.timestamp() * 1e6)
        # Cache: SQL expression → texts of its columns → value.
        self._known_values: dict[str, dict[tuple[str | None, ...], Any]] = {}

    def convert(self, batch: pa.RecordBatch) -> _Piece:
        """Convert rows to request rows, without those that sum up others. Raises _NotPlain for one that may be bad."""
        layout = self.file.layout
        # `_write_segment` compares the labels of all rows, to see whether one may be a sub-result of another.
        labels = frozenset(batch[layout.sub_results.label].dictionary.to_pylist() if layout.sub_results else ())
        rows_read, failed_summaries = batch.num_rows, 0
        if layout.others:
            batch, failed_summaries = self._remove_summaries(batch)
        rows = batch.num_rows
        if layout.count_column:
            sums_up_several = pc.greater(batch[layout.count_column], 1.0)
            _require_plain(not pc.any(sums_up_several).as_py())
        failed = self._evaluate_column(batch, "failed", pa.bool_())
        _require_plain(failed is not None and failed.null_count == 0)  # null: not known whether it failed
        times_us = self._convert_times(batch)
        columns = {
            **{name: _repeat_text(value, rows) for name, value in self._constants.items()},
            "ts": pa.array(times_us).view(_INSTANT),
            "endpoint": self._convert_endpoints(batch),
            "response_time_ms": self._convert_durations(batch, failed),
            "failed": failed,
            "instance": self._convert_instances(batch),
            "exception": self._convert_exceptions(batch, failed),
            "status_code": self._evaluate_column(batch, "status_code", pa.int16()),
        }
        for name in ("response_bytes", "user_count"):
            if name in self._columns:
                columns[name] = batch[self._columns[name].sources[0]]  # already of the right type
        # A column that the file does not have is null.
        arrays = [pa.nulls(rows, f.type) if columns.get(f.name) is None else columns[f.name] for f in REQUEST_SCHEMA]
        return _Piece(
            pa.RecordBatch.from_arrays(arrays, schema=REQUEST_SCHEMA),
            summaries=rows_read - rows,
            failed_summaries=failed_summaries,
            labels=labels,
            first_us=int(times_us.min()) if rows else None,
            last_us=int(times_us.max()) if rows else None,
        )

    def _convert_times(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        """Convert the times of requests to microseconds since 1970.

        Raises _NotPlain if a time is missing, before 1970 or after the latest that is allowed.
        """
        column = self._columns["ts"]
        values = batch[column.sources[0]]  # a time has a single source
        _require_plain(values.null_count == 0)
        if column.unit == "iso":
            micros = values.cast(pa.int64()).to_numpy()
        else:
            # floor(x + 0.5) is how SQL rounds a positive number; NaN and infinity fail the test of the range.
            micros = np.floor(values.to_numpy() * MICROS[column.unit] + 0.5)
        _require_plain(bool(((micros >= 0) & (micros <= self._latest_us)).all()))
        whole_micros: npt.NDArray[np.int64] = micros.astype(np.int64, copy=False)
        return whole_micros

    def _convert_durations(self, batch: pa.RecordBatch, failed: pa.Array) -> pa.Array:
        """Convert the response times to milliseconds; 0 for a failure without a time. `failed`: whether a row failed.

        Raises _NotPlain (`foreign` then reads the file) for a success without a time, or a time out of range.
        """
        column = self._columns["response_time_ms"]
        values = batch[column.sources[0]]  # a response time has a single source
        if values.null_count:
            is_success_without_time = pc.and_not(values.is_null(), failed)
            _require_plain(not pc.any(is_success_without_time).as_py())
            values = values.fill_null(0.0)
        factor, divisor = SCALES[column.unit]
        times = values.to_numpy() if factor == divisor else values.to_numpy() * factor / divisor
        _require_plain(bool(((times >= 0) & (times <= HIGHEST_MS)).all()))
        return pa.array(times)

    def _convert_endpoints(self, batch: pa.RecordBatch) -> pa.DictionaryArray:
        """Convert the names of endpoints. Raises _NotPlain if a name is missing, blank, or has several lines."""
        endpoints: Any = self._join_sources(batch, "endpoint")
        _require_plain(endpoints.null_count == 0)
        for name in endpoints.dictionary.drop_null().to_pylist():  # no row is null, so a null entry is unused
            _require_plain(bool(name.strip()) and "\n" not in name)
        return endpoints

    def _convert_instances(self, batch: pa.RecordBatch) -> pa.DictionaryArray:
        """Convert the names of instances; a row without one gets the name of the arm."""
        arm = self._constants["arm"]
        instances = self._join_sources(batch, "instance")
        if instances is None:
            return _repeat_text(arm, batch.num_rows)
        if instances.null_count:
            return instances.cast(pa.string()).fill_null(arm).dictionary_encode()
        return instances

    def _convert_exceptions(self, batch: pa.RecordBatch, failed: pa.Array) -> pa.DictionaryArray | None:
        """Convert the texts of exceptions; null for a success. `None` if the file has no column for them."""
        exceptions = self._join_sources(batch, "exception")
        if exceptions is None:
            return None
        codes = pc.if_else(failed, exceptions.indices, pa.scalar(None, pa.int32()))
        return pa.DictionaryArray.from_arrays(codes, exceptions.dictionary)

    def _join_sources(self, batch: pa.RecordBatch, target: str) -> pa.DictionaryArray | None:
        """Join, with spaces, the columns of the file that make the text column `target` of a request row.

        `None` if the file has no column for it. Raises _NotPlain if there are several columns and a value is missing.
        """
        if target not in self._columns:
            return None
        first_source, *other_sources = self._columns[target].sources
        texts = batch[first_source]
        for source in other_sources:
            texts = _join_texts(texts, batch[source])
        return texts

    def _evaluate_column(self, batch: pa.RecordBatch, target: str, value_type: pa.DataType) -> pa.Array | None:
        """Evaluate the SQL that makes the column `target` of a request row; `None` if the file has no column for it."""
        column = self._columns.get(target)
        if column is None:
            return None
        expression = express(self.file, column)
        if target == "status_code":
            expression = f"nullif({expression}, 0)"  # 0: no answer
        if column.kind == "filled" and len(column.sources) > 1:
            # The expression only tests whether the text of the first source is empty. These texts may all differ, so
            # there would be too many combinations with the other sources: replace each that is not empty by one word.
            source = column.sources[0]
            is_filled_sql = express(self.file, ColumnMap(target, (source,), column.kind))
            is_filled = self._evaluate_texts(batch, [source], is_filled_sql, pa.bool_())
            codes = is_filled.cast(pa.int32())
            texts = pa.DictionaryArray.from_arrays(codes, pa.array([None, "text"], pa.string()))
            batch = batch.set_column(batch.schema.get_field_index(source), source, texts)
        return self._evaluate_texts(batch, column.sources, expression, value_type)

    def _evaluate_texts(
        self, batch: pa.RecordBatch, sources: Sequence[str], expression: str, value_type: pa.DataType
    ) -> pa.Array:
        """Evaluate a SQL expression of the text columns `sources` in each row; returns an array of `value_type`.

        SQL is slow, so it evaluates each distinct combination of texts once, and the values are kept for later
        batches. Raises _NotPlain if too many combinations are possible.
        """
        combinations, combination_by_row = _combine_texts([batch[source] for source in sources])
        with self._lock:
            value_by_texts = self._known_values.setdefault(expression, {})
            unknown = [texts for texts in combinations if texts not in value_by_texts]
            if unknown:
                names = [column_name(self.file, source) for source in sources]
                # One row for each unknown combination: its texts, then its value.
                unnested = ", ".join(f"unnest(CAST(? AS VARCHAR[])) AS {name}" for name in names)
                query = f"SELECT {', '.join(names)}, {expression} FROM (SELECT {unnested})"
                rows = self._engine.execute(query, [list(texts) for texts in zip(*unknown, strict=True)]).fetchall()
                value_by_texts.update((tuple(texts), value) for *texts, value in rows)
        return pa.array([value_by_texts[texts] for texts in combinations], value_type).take(combination_by_row)

    def _remove_summaries(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, int]:
        """Remove rows that sum up other rows; returns the rows that stay, and how many removed rows were failures."""
        is_summary = pa.array(np.zeros(batch.num_rows, bool))
        for rows in self.file.layout.others:
            condition = write_condition(self.file, rows.conditions)  # of one column: `_find_column_types` ensures it
            meets = self._evaluate_texts(batch, [rows.conditions[0].column], condition, pa.bool_())
            is_summary = pc.or_(is_summary, meets)
        if not pc.any(is_summary).as_py():
            return batch, 0
        failed = self._evaluate_column(batch.filter(is_summary), "failed", pa.bool_())
        return batch.filter(pc.invert(is_summary)), int(pc.sum(failed).as_py() or 0)


def _require_plain(plain: bool) -> None:  # noqa: FBT001 - it has no other argument
    """Raise _NotPlain unless the condition holds: `foreign` then reads the file."""
    if not plain:
        raise _NotPlain


def _repeat_text(text: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [text])


def _combine_texts(columns: Sequence[pa.DictionaryArray]) -> tuple[list[tuple[str | None, ...]], pa.Array]:
    """Find the distinct combinations of texts that the rows of some columns have.

    Returns the combinations, a text (or `None`) for each column, and the position of each row's combination among
    them; of a single column also texts that no row has. Raises _NotPlain if too many combinations are possible.
    """
    # For each column: its texts, with null as the last, and for each row the position of its text among them.
    texts_by_column: list[list[str | None]] = [[*column.dictionary.to_pylist(), None] for column in columns]
    codes_by_column = [column.indices.fill_null(len(column.dictionary)) for column in columns]
    if len(columns) == 1:
        return [(text,) for text in texts_by_column[0]], codes_by_column[0]
    sizes = [len(texts) for texts in texts_by_column]
    possible = math.prod(sizes)
    _require_plain(possible <= _MOST_COMBINATIONS)
    # Number all possible combinations from 0, find the number of each row's combination, and keep those that occur.
    number_by_row = np.ravel_multi_index([codes.to_numpy(zero_copy_only=False) for codes in codes_by_column], sizes)
    kept_numbers = np.flatnonzero(np.bincount(number_by_row, minlength=possible))
    kept_codes = np.unravel_index(kept_numbers, sizes)  # an array of codes for each column
    kept_texts = [np.array(texts, object)[codes] for texts, codes in zip(texts_by_column, kept_codes, strict=True)]
    combinations = list(zip(*kept_texts, strict=True))
    position_by_number = np.zeros(possible, np.int64)
    position_by_number[kept_numbers] = np.arange(len(kept_numbers))
    return combinations, pa.array(position_by_number[number_by_row])


def _join_texts(first: pa.DictionaryArray, second: pa.DictionaryArray) -> pa.DictionaryArray:
    """Join the texts of two columns in each row, with a space between.

    Builds the dictionary from all combinations of texts, so no row is joined alone. Raises _NotPlain if a text is
    missing, if there are too many combinations, or if two combinations give the same text.
    """
    first_count, second_count = len(first.dictionary), len(second.dictionary)
    _require_plain(first.null_count == second.null_count == 0 and first_count * second_count <= _MOST_COMBINATIONS)
    # The combination of texts i and j is at i * second_count + j.
    texts = pc.binary_join_element_wise(
        first.dictionary.take(pa.array(np.repeat(np.arange(first_count), second_count))),
        second.dictionary.take(pa.array(np.tile(np.arange(second_count), first_count))),
        " ",
    )
    _require_plain(len(texts.unique()) == len(texts))  # a dictionary has each text once
    codes: npt.NDArray[np.int32] = first.indices.to_numpy() * np.int32(second_count) + second.indices.to_numpy()
    return pa.DictionaryArray.from_arrays(pa.array(codes), texts)
