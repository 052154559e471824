"""Files of Arrow IPC, in the file format (`.arrow`, Feather) or the stream format: opened, and rewritten as Parquet.

Arrow's own reader takes a stream that ends between two batches for a whole one, stops at the end of the first of two
streams, and unpacks buffers of any size into memory. All three are refused here, before it reads the rows.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.errors import InputError
from evaluator.textfiles import LARGEST_RATIO, UNPACKED_WITHOUT_TEST

_FILE = b"ARROW1"
"""First bytes of the file format."""
_STREAM_POSITION = 8
"""Where the stream begins that the file format has inside."""
_CONTINUED = b"\xff\xff\xff\xff"
"""First bytes of each message of a stream."""
_LONGEST_PADDING = 64
"""Most bytes that may be between parts of a file."""
_FEATHER_1 = b"FEA1"
_BYTES_OF_MAGIC = 16
_FETCH_AGAIN = "fetch it again, or write it again with the tool that made it"
_FAULTS = (pa.ArrowException, OSError, MemoryError, UnicodeError)
"""What Arrow raises for a damaged file."""


def is_arrow(path: Path) -> bool:
    """Whether a file is Arrow IPC, by its first bytes. Raises InputError for Feather of version 1."""
    with path.open("rb") as file:
        first_bytes = file.read(_BYTES_OF_MAGIC)
    if first_bytes.startswith(_FEATHER_1):
        raise InputError(f"{path} is Feather of version 1, which cannot be read", hint="write it as version 2")
    return begins_arrow(first_bytes)


def begins_arrow(first_bytes: bytes) -> bool:
    """Whether these first bytes of a file, eight or more, are those of Arrow IPC."""
    # In a stream, the length of the schema follows, which is far below 16 MB: its highest byte is zero.
    return first_bytes.startswith(_FILE) or (first_bytes.startswith(_CONTINUED) and first_bytes[7:8] == b"\0")


@contextmanager
def open_arrow(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Open a file of Arrow IPC: yields its schema, and an iterator over its batches of rows.

    Raises InputError for a file that is damaged, cut short, or unpacks to far more than its size; also while the
    batches are read.
    """
    with ExitStack() as stack:
        with _explaining_faults(path):
            _check_messages(path)
            source = stack.enter_context(pa.OSFile(str(path.absolute())))
            reader = pa.ipc.open_file(source) if _is_file_format(path) else pa.ipc.open_stream(source)
            stack.enter_context(reader)
        yield reader.schema, _read_batches(path, reader)


def rewrite_arrow(source: Path, target: Path, columns: Collection[str] | None = None) -> None:
    """Write a file of Arrow IPC as Parquet into `target`: all of it, or `columns`. Raises InputError and OSError."""
    with open_arrow(source) as (schema, batches):
        fields = [field for field in schema if columns is None or field.name in columns]
        try:
            writer = pq.ParquetWriter(target, pa.schema(fields))
        except pa.ArrowNotImplementedError as error:
            types = ", ".join(f"'{field.name}' ({field.type})" for field in fields)
            raise InputError(
                f"{source} has a column whose type cannot be read, among {types}",
                hint="write times as numbers, durations or timestamps, and names as text",
            ) from error
        with writer:
            for batch in batches:
                writer.write_batch(batch.select([field.name for field in fields]))


def _read_batches(
    path: Path, reader: pa.RecordBatchFileReader | pa.RecordBatchStreamReader
) -> Iterator[pa.RecordBatch]:
    """Read the batches of an opened file one after another. Raises InputError for a damaged one."""
    with _explaining_faults(path):
        if isinstance(reader, pa.RecordBatchFileReader):
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = iter(reader)
        for batch in batches:
            batch.validate(full=True)  # positions outside of the buffers would be read as they are
            yield batch


@contextmanager
def _explaining_faults(path: Path) -> Iterator[None]:
    """Make an InputError from what Arrow raises for a damaged file, in the body of the `with` statement."""
    try:
        yield
    except _FAULTS as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} is a broken Arrow file, cut short or damaged: {reason or type(error).__name__}", hint=_FETCH_AGAIN
        ) from error


def _is_file_format(path: Path) -> bool:
    """Whether a file of Arrow IPC is in the file format, not in the stream format."""
    with path.open("rb") as file:
        return file.read(len(_FILE)) == _FILE


# ------------------------------------------------------------------ messages


def _check_messages(path: Path) -> None:
    """Refuse a stream without an end or with more after it, and buffers that unpack to far more than their size.

    Raises InputError, and errors of `_FAULTS`.
    """
    unpacked_bytes = 0
    packed_bytes = path.stat().st_size
    with pa.OSFile(str(path.absolute())) as source:
        is_file_format = _is_file_format(path)
        if is_file_format:
            source.seek(_STREAM_POSITION)
        messages = pa.ipc.MessageReader.open_stream(source)
        while True:
            end_of_message = source.tell()
            try:
                message = messages.read_next_message()
            except StopIteration:
                break
            unpacked_bytes += _count_unpacked(message)
            if unpacked_bytes > max(UNPACKED_WITHOUT_TEST, LARGEST_RATIO * packed_bytes):
                raise InputError(
                    f"{path} is damaged, or unpacks to more than {LARGEST_RATIO} times its size, as no such file does",
                    hint="look what it holds; if it is what it should be, write it without compression",
                )
        end = source.tell()
        if is_file_format:  # a footer follows, its length, and the first bytes again
            source.seek(packed_bytes - len(_FILE) - 4)
            end += int.from_bytes(source.read(4), "little") + 4 + len(_FILE)
            if source.read(len(_FILE)) != _FILE:
                raise pa.ArrowInvalid("its end is missing")
        elif end == end_of_message:
            raise InputError(
                f"{path} is a stream of Arrow without an end: it is cut short, or still written", hint=_FETCH_AGAIN
            )
        if end + _LONGEST_PADDING < packed_bytes:
            raise InputError(
                f"{path} has more after the end of its rows",
                hint="are several files of Arrow joined in it? Give each as a file of its own",
            )


_LENGTH = struct.Struct("<q")
_BATCH, _DICTIONARY = 3, 2
"""Kinds of messages that have buffers (Message.fbs of Arrow, `MessageHeader`)."""


def _count_unpacked(message: pa.ipc.Message) -> int:
    """Count the bytes to which the packed buffers of a message unpack; 0 if none is packed.

    Each packed buffer begins with this number (-1: it is not packed). Where the buffers are is written in the metadata,
    tables of FlatBuffers (Message.fbs and Schema.fbs of Arrow). Raises ArrowInvalid for metadata that cannot be read.
    """
    try:
        metadata = memoryview(message.metadata)
        table = _FlatTable(metadata, _read_unsigned(metadata, 0))
        kind = table.read_byte(1)
        header = table.follow(2)
        if kind == _DICTIONARY and header is not None:
            header = header.follow(1)
        elif kind != _BATCH:
            return 0
        if header is None or header.follow(3) is None:  # not packed
            return 0
        body = memoryview(message.body)
        lengths = (_LENGTH.unpack_from(body, position)[0] for position in header.list_buffers(2))
        return sum(max(int(length), 0) for length in lengths)
    except (struct.error, IndexError) as error:
        raise pa.ArrowInvalid("the metadata of a message cannot be read") from error


def _read_unsigned(data: memoryview, position: int) -> int:
    """Read a whole number of four bytes."""
    return int(struct.unpack_from("<I", data, position)[0])


class _FlatTable:
    """A table of FlatBuffers: fields by their number, each of which may be missing."""

    def __init__(self, data: memoryview, position: int) -> None:
        self._data = data
        self._position = position
        self._fields = position - int(struct.unpack_from("<i", data, position)[0])
        """Where the list of the positions of fields begins, after two lengths of two bytes."""

    def _find(self, field: int) -> int:
        """Find the position of a field; 0 if it is missing."""
        entry = 4 + 2 * field
        if entry >= struct.unpack_from("<H", self._data, self._fields)[0]:
            return 0
        offset = int(struct.unpack_from("<H", self._data, self._fields + entry)[0])
        return self._position + offset if offset else 0

    def read_byte(self, field: int) -> int:
        """Read a field of one byte; 0 if it is missing."""
        position = self._find(field)
        return self._data[position] if position else 0

    def follow(self, field: int) -> _FlatTable | None:
        """Return the table to which a field points; `None` if it is missing."""
        position = self._find(field)
        return _FlatTable(self._data, position + _read_unsigned(self._data, position)) if position else None

    def list_buffers(self, field: int) -> Iterator[int]:
        """List the positions of buffers that are not empty: a field with pairs of a position and a length."""
        position = self._find(field)
        if not position:
            return
        start = position + _read_unsigned(self._data, position)
        for number in range(_read_unsigned(self._data, start)):
            offset, length = struct.unpack_from("<qq", self._data, start + 4 + 16 * number)
            if length > 0:
                yield int(offset)
