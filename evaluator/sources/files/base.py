"""What a format of request files is, and what is read of a file before it lands: its top, its columns, some rows."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.errors import InputError
from evaluator.records import ColumnMap, FileLayout
from evaluator.sources.files.arrow import begins_arrow, is_arrow, open_arrow
from evaluator.sources.files.columns import REQUIRED, TARGETS, ColumnRequest, determine_instant_unit, map_column
from evaluator.sources.files.suggesting import explain_missing_columns, find_unknown
from evaluator.textfiles import open_bytes, open_text

FileType = Literal["csv", "json", "parquet", "arrow", "xml"]
"""Type of a file by its content. `csv` is any text that is neither JSON nor XML."""

_DELIMITERS = ",;\t|"
_TOP = 4096
"""Characters of the top of a file, unless its first line is longer."""
LONGEST_LINE = 1_000_000
"""Characters; a file without line ends is not read as a whole."""
_PARQUET = b"PAR1"
"""First bytes of a Parquet file."""
_BYTES_OF_MAGIC = 16
ROWS_OF_HEAD = 100
"""Rows from which the typical value of a column is chosen."""
_NO_REQUEST = "check that the tool recorded requests"


@dataclass(frozen=True, slots=True)
class Head:
    """The top of a file, from which its format is recognised."""

    path: Path
    file_type: FileType
    top: str = ""
    """The first line and some thousand characters; empty for Parquet and Arrow."""
    columns: tuple[str, ...] = ()
    """Names in the first line, or of the columns of Parquet or Arrow."""


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a file, and a typical value of each."""

    path: Path
    header: tuple[str, ...]
    typical: Mapping[str, object]
    delimiter: str = ","
    paths: tuple[tuple[str, ...], ...] = ()
    """Path to each column of the header, where columns may be inside of others; empty: none is."""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """One format of request files: how it is recognised, and how its columns become those of a request row."""

    build_layout: Callable[[Head, Sequence[ColumnRequest]], FileLayout]
    """Also takes the values of `--column`, which override the columns of the format. Raises InputError."""
    file_types: frozenset[FileType] = frozenset({"csv"})
    claims: Callable[[Head], bool] = lambda _head: False
    """Does a file have this format, if `--format` names none? Called only for files of its `file_types`."""


# ------------------------------------------------------------------ heads


def read_head(path: Path) -> Head:
    """Read the top of a file, packed or not. Raises InputError for a file that is neither text, Parquet nor Arrow."""
    if starts_with(path, _PARQUET):
        with _open_parquet(path) as file:
            return Head(path, "parquet", columns=tuple(file.schema_arrow.names))
    if is_arrow(path):
        with open_arrow(path) as (schema, _):
            return Head(path, "arrow", columns=tuple(schema.names))
    refuse_packed_table(path)
    with open_checked_text(path, errors="replace") as text:
        is_xml = text.read(200).lstrip().startswith("<")
    # Text must be UTF-8, except XML, which declares its own encoding.
    with open_checked_text(path, errors="replace" if is_xml else "strict") as text:
        first_line = text.readline(LONGEST_LINE)
        top = first_line + text.read(max(_TOP - len(first_line), 0))
    if not top:
        raise InputError(f"{path} is packed, and holds an empty file", hint=_NO_REQUEST)
    first_character = top.lstrip()[:1]
    if first_character == "<":
        return Head(path, "xml", top=top)
    if first_character in ("{", "["):
        return Head(path, "json", top=top)
    try:
        column_names = next(csv.reader([first_line], delimiter=find_delimiter(first_line)), [])
    except csv.Error:
        column_names = []  # any text: it may be a log of another tool
    return Head(path, "csv", top=top, columns=tuple(name.strip() for name in column_names))


def refuse_packed_table(path: Path) -> None:
    """Refuse Parquet and Arrow inside of a packed file, which can be read only as they are. Raises InputError."""
    with open_bytes(path) as opened:
        first_bytes = opened.read(_BYTES_OF_MAGIC)
    kind = "Parquet" if first_bytes.startswith(_PARQUET) else "Arrow" if begins_arrow(first_bytes) else ""
    if kind:
        raise InputError(f"{path} is a packed {kind} file", hint=f"unpack it; {kind} can compress its columns itself")


def read_table(head: Head) -> Table:
    """Read the columns of a CSV, Parquet or Arrow file, and a typical value of each.

    Raises InputError, also for a file without rows.
    """
    if head.file_type == "parquet":
        with _open_parquet(head.path) as file:
            first_rows = next(file.iter_batches(batch_size=ROWS_OF_HEAD), None)
    elif head.file_type == "arrow":
        with open_arrow(head.path) as (_, batches):
            first_rows = next((batch.slice(0, ROWS_OF_HEAD) for batch in batches if batch.num_rows), None)
    else:
        return _read_csv(head.path)
    if first_rows is None or not first_rows.num_rows:
        raise InputError(f"{head.path} has columns but no rows", hint=_NO_REQUEST)
    table = pa.Table.from_batches([first_rows])
    paths: list[tuple[str, ...]] = [(name,) for name in table.column_names]
    while any(pa.types.is_struct(field.type) for field in table.schema):
        # `flatten` puts the fields of a column in its place; their names begin with the name of the column and a dot.
        fields = zip(paths, table.schema, strict=True)
        paths = [inner for path, field in fields for inner in _list_inner_paths(path, field.type)]
        table = table.flatten()
    header = tuple(".".join(path) for path in paths)
    refuse_repeated_column(head.path, header)
    # Times with a type need no value that shows their unit, and Python cannot hold all of them.
    typical = {
        name: str(column.type) if pa.types.is_temporal(column.type) else choose_typical(column.to_pylist())
        for name, column in zip(header, table.columns, strict=True)
    }
    return Table(head.path, header, typical, paths=tuple(paths) if any(len(path) > 1 for path in paths) else ())


def _list_inner_paths(path: tuple[str, ...], arrow_type: pa.DataType) -> list[tuple[str, ...]]:
    """List the paths of the fields of a column of Parquet or Arrow at `path`; only its own if it has no fields."""
    if not pa.types.is_struct(arrow_type):
        return [path]
    return [(*path, arrow_type.field(position).name) for position in range(arrow_type.num_fields)]


def starts_with(path: Path, magic: bytes) -> bool:
    """Whether a file begins with the bytes `magic`."""
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def find_delimiter(line: str) -> str:
    """The delimiter (comma, semicolon, tab, bar) that is most frequent in a line; a comma if it has none."""
    return max(_DELIMITERS, key=line.count)


@contextmanager
def open_checked_text(path: Path, errors: str = "strict") -> Iterator[TextIO]:
    """Open a text, compressed or not; an error of reading, also within the `with` block, becomes an InputError.

    `errors`: what to do with bytes that are not UTF-8, as for `open`.
    """
    try:
        with open_text(path, errors) as file:
            yield file
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        if "field limit" in why:
            why = f"a value is longer than {csv.field_size_limit():,} characters"
        raise InputError(f"{path} cannot be read as text: {why}", hint="give UTF-8 text or Parquet") from error


_VALUE = re.compile(r"[+-]?\d[\d\s.,:/TZ+-]*|true|false|null", re.IGNORECASE)
"""A number, a time or a boolean, where the name of a column should be."""


def _read_csv(path: Path) -> Table:
    """Read the header of a CSV file and a typical value of each column from its first rows. Raises InputError."""
    rows: list[list[str]] = []
    with open_checked_text(path) as file:
        header_line = file.readline(LONGEST_LINE)
        if "\0" in header_line:
            raise InputError(f"{path} is not text", hint="give text or Parquet")
        # All lines of the file, each cut at the longest length; an empty text is the end of the file.
        lines = itertools.chain([header_line], iter(lambda: file.readline(LONGEST_LINE), ""))
        reader = csv.reader(lines, delimiter=find_delimiter(header_line))
        try:
            for row in itertools.islice(reader, ROWS_OF_HEAD + 1):
                rows.append(row)  # noqa: PERF402 one by one, so that the rows before an error stay
        except csv.Error:
            # A broken row ends the reading: it is reported with its line when the file lands.
            if len(rows) < 2:
                raise
    header = tuple(name.strip() for name in rows[0]) if rows else ()
    if not any(header):
        raise InputError(f"{path} starts with an empty line", hint="a line of column names must come first")
    # One name may look like a value by chance; if the first one does, or several do, the line is a row of data.
    names_like_values = [name for name in header if _VALUE.fullmatch(name)]
    if names_like_values and (header[0] in names_like_values or len(names_like_values) > 1):
        raise InputError(
            f"{path} has no header line: it starts with '{header[0][:80]}'",
            hint="for JMeter set jmeter.save.saveservice.print_field_names=true; else add a line of column names",
        )
    refuse_repeated_column(path, header)
    if len(rows) < 2:
        raise InputError(f"{path} has a header but no rows", hint=_NO_REQUEST)
    columns = itertools.zip_longest(*rows[1:], fillvalue="")
    typical = {name: choose_typical(values) for name, values in zip(header, columns, strict=False)}
    return Table(path, header, typical, find_delimiter(header_line))


def refuse_repeated_column(path: Path, header: Sequence[str]) -> None:
    """Refuse a header that has a column twice. Raises InputError."""
    repeated_name = next((name for name in header if header.count(name) > 1), None)
    if repeated_name is not None:
        raise InputError(f"{path}:1: column '{repeated_name}' appears twice")


def choose_typical(values: Sequence[object]) -> object:
    """Choose the value from which the unit of a column is determined, should the column hold times.

    It is the first value in the most frequent unit, so that one bad row does not decide.
    """
    units = [determine_instant_unit(value) for value in values]
    [(most_frequent_unit, _)] = Counter(units).most_common(1)
    return values[units.index(most_frequent_unit)]


@contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; an error of reading, also within the `with` block, becomes an InputError."""
    try:
        with pq.ParquetFile(path.absolute()) as file:  # a relative path may look like an address: `s3:…`
            yield file
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is a broken Parquet file: {' '.join(str(error).split())[:200]}") from error


# ------------------------------------------------------------------ layouts


def require(table: Table, names: Sequence[str], description: str) -> None:
    """Refuse a file that lacks a column of `names`, which its format needs. Raises InputError.

    `description`: of the format, for the message: 'a request log of Locust'.
    """
    missing = [name for name in names if name not in table.header]
    if missing:
        raise InputError(
            f"{table.path} is not {description}: it has no column '{missing[0]}'", hint=_list_columns(table)
        )


def build_layout(
    name: str,
    table: Table,
    columns: Sequence[ColumnMap],
    column_requests: Sequence[ColumnRequest],
    optional: Sequence[ColumnMap] = (),
) -> FileLayout:
    """Build the layout of a table whose format is `name`: which of its columns make which column of a request row.

    `columns`: those of the format. `optional`: further ones, used only if the file has them. `column_requests` (of
    `--column`) override both. The reader is that of CSV; other formats replace it. Raises one InputError for all
    columns that the file lacks.
    """
    present = [column for column in optional if column.sources[0] in table.header]
    known_targets = {column.target for column in (*columns, *present)}
    requested_targets = {request.target for request in column_requests}
    missing = [target for target in REQUIRED if target not in known_targets | requested_targets]
    if missing or any(find_unknown(request, table.header) for request in column_requests):
        raise explain_missing_columns(table.path, table.header, table.typical, column_requests, missing)
    requested = {request.target: map_column(request, table.header, table.typical) for request in column_requests}
    # Column of a request row → how it is made.
    column_by_target = {column.target: column for column in (*columns, *present)} | requested
    failed = column_by_target["failed"]
    # "filled": the text of a failure, which is empty if there was none. An error status (the second source) makes the
    # request a failure even without a text.
    if failed.kind == "filled" and len(failed.sources) == 1 and "status_code" in column_by_target:
        status_sources = column_by_target["status_code"].sources
        column_by_target["failed"] = replace(failed, sources=(*failed.sources, *status_sources))
    ordered = tuple(column_by_target[target] for target in TARGETS if target in column_by_target)
    return FileLayout(
        name, reader="csv", columns=ordered, delimiter=table.delimiter, header=table.header, paths=table.paths
    )


def _list_columns(table: Table) -> str:
    """A hint that lists the columns of a file."""
    return f"its columns are {', '.join(table.header)[:300]}; name others with --column TARGET=SOURCE"
