"""What a format of request files is, and what is read of a file before it lands: its top, its columns, some rows."""

from __future__ import annotations

import csv
import gzip
import itertools
import re
import zlib
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
from evaluator.sources.files.columns import REQUIRED, TARGETS, ColumnRequest, determine_instant_unit, map_column
from evaluator.textfiles import open_text

FileType = Literal["csv", "json", "parquet", "xml"]
"""Type of a file by its content. `csv` is any text that is neither JSON nor XML."""

_DELIMITERS = ",;\t|"
_TOP = 4096
"""Characters of the top of a file, unless its first line is longer."""
_LONGEST_LINE = 1_000_000
"""Characters; a file without line ends is not read as a whole."""
ROWS_OF_HEAD = 100
"""Rows from which the typical value of a column is chosen."""
_NO_REQUEST = "check that the tool recorded requests"


@dataclass(frozen=True, slots=True)
class Head:
    """The top of a file, from which its format is recognised."""

    path: Path
    file_type: FileType
    top: str = ""
    """The first line and some thousand characters; empty for Parquet."""
    columns: tuple[str, ...] = ()
    """Names in the first line, or of Parquet's columns."""


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a file, and a typical value of each."""

    path: Path
    header: tuple[str, ...]
    typical: Mapping[str, object]
    delimiter: str = ","


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
    """Read the top of a file, compressed or not. Raises InputError for a file that is neither text nor Parquet."""
    if starts_with(path, b"PAR1"):
        with _open_parquet(path) as file:
            return Head(path, "parquet", columns=tuple(file.schema_arrow.names))
    with _open_checked_text(path, errors="replace") as text:
        is_xml = text.read(200).lstrip().startswith("<")
    # Text must be UTF-8, except XML, which declares its own encoding.
    with _open_checked_text(path, errors="replace" if is_xml else "strict") as text:
        first_line = text.readline(_LONGEST_LINE)
        top = first_line + text.read(max(_TOP - len(first_line), 0))
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


def read_table(head: Head) -> Table:
    """Read the columns of a CSV or Parquet file, and a typical value of each. Raises InputError, also without rows."""
    if head.file_type != "parquet":
        return _read_csv(head.path)
    with _open_parquet(head.path) as file:
        first_rows = next(file.iter_batches(batch_size=ROWS_OF_HEAD), None)
    if first_rows is None or not first_rows.num_rows:
        raise InputError(f"{head.path} has columns but no rows", hint=_NO_REQUEST)
    # Times with a type need no value that shows their unit, and Python cannot hold all of them.
    has_values = {field.name: not pa.types.is_temporal(field.type) for field in first_rows.schema}
    typical = {
        name: _choose_typical(first_rows[name].to_pylist()) if has_values[name] else str(first_rows[name].type)
        for name in first_rows.schema.names
    }
    return Table(head.path, tuple(typical), typical)


def starts_with(path: Path, magic: bytes) -> bool:
    """Whether a file begins with the bytes `magic`."""
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def find_delimiter(line: str) -> str:
    """The delimiter (comma, semicolon, tab, bar) that is most frequent in a line; a comma if it has none."""
    return max(_DELIMITERS, key=line.count)


@contextmanager
def _open_checked_text(path: Path, errors: str = "strict") -> Iterator[TextIO]:
    """Open a text, compressed or not; an error of reading, also within the `with` block, becomes an InputError.

    `errors`: what to do with bytes that are not UTF-8, as for `open`.
    """
    try:
        with open_text(path, errors) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        if not starts_with(path, b"\x1f\x8b"):  # the magic number of gzip
            raise InputError(
                f"{path} is not compressed, though its name ends in .gz", hint="rename it without .gz"
            ) from error
        raise InputError(f"{path} is cut short or damaged: {error}", hint="fetch it again") from error
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
    with _open_checked_text(path) as file:
        header_line = file.readline(_LONGEST_LINE)
        if "\0" in header_line:
            raise InputError(f"{path} is not text", hint="give text or Parquet")
        # All lines of the file, each cut at the longest length; an empty text is the end of the file.
        lines = itertools.chain([header_line], iter(lambda: file.readline(_LONGEST_LINE), ""))
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
    typical = {name: _choose_typical(values) for name, values in zip(rows[0], columns, strict=False)}
    return Table(path, header, typical, find_delimiter(header_line))


def refuse_repeated_column(path: Path, header: Sequence[str]) -> None:
    """Refuse a header that has a column twice. Raises InputError."""
    repeated_name = next((name for name in header if header.count(name) > 1), None)
    if repeated_name is not None:
        raise InputError(f"{path}:1: column '{repeated_name}' appears twice")


def _choose_typical(values: Sequence[object]) -> object:
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
        with pq.ParquetFile(path) as file:
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
    `--column`) override both. The reader is that of CSV; other formats replace it. Raises InputError if a required
    column is not known.
    """
    requested = {request.target: map_column(request, table.header, table.typical) for request in column_requests}
    present = (column for column in optional if column.sources[0] in table.header)
    # Column of a request row → how it is made.
    column_by_target = {column.target: column for column in (*columns, *present)} | requested
    missing = [target for target in REQUIRED if target not in column_by_target]
    if missing:
        raise InputError(f"{table.path} has no column '{missing[0]}'", hint=_list_columns(table))
    failed = column_by_target["failed"]
    # "filled": the text of a failure, which is empty if there was none. An error status (the second source) makes the
    # request a failure even without a text.
    if failed.kind == "filled" and len(failed.sources) == 1 and "status_code" in column_by_target:
        status_sources = column_by_target["status_code"].sources
        column_by_target["failed"] = replace(failed, sources=(*failed.sources, *status_sources))
    ordered = tuple(column_by_target[target] for target in TARGETS if target in column_by_target)
    return FileLayout(name, reader="csv", columns=ordered, delimiter=table.delimiter, header=table.header)


def _list_columns(table: Table) -> str:
    """A hint that lists the columns of a file."""
    return f"its columns are {', '.join(table.header)[:300]}; name others with --column TARGET=SOURCE"
