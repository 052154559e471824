"""Files that the store cannot read itself, rewritten row by row as a table (Parquet) whose values are all texts.

A format gives the rows. A row that cannot be read has only its text, in a column of its own: so it is a bad row, and
the error shows the text.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.errors import InputError
from evaluator.records import ColumnMap, Condition, FileLayout, LeftOutKind, OtherRows
from evaluator.sources.files.base import Head, Table, build_layout
from evaluator.sources.files.columns import ColumnRequest
from evaluator.textfiles import open_text

LINE = "line"
"""Column with the line of a row."""

UNREADABLE = "unreadable"
"""Column with the start of a row that cannot be read; empty for other rows."""

KIND = "kind"
"""Column with the kind of a row that is left out; empty for a request."""

DETAIL = "detail"
"""Column with the name of a row that is no request, where its kind does not say what it is."""

ALL_REQUESTS = "all requests"
"""Endpoint of the requests of a tool that loads a single address and does not write it."""

_BATCH_ROWS = 50_000
LONGEST_LINE = 16 << 20
"""Most characters of a line."""
_SHOWN_OF_ROW = 80
"""Characters of a row that cannot be read which are kept."""

Row = Sequence[str | None]
"""The values of a row, in the order of the header of its format."""


def build_rewritten_layout(
    name: str,
    head: Head,
    header: Sequence[str],
    columns: Sequence[ColumnMap],
    column_requests: Sequence[ColumnRequest],
    read_rows: Callable[[Path], Iterable[Row]],
    optional: Sequence[ColumnMap] = (),
) -> FileLayout:
    """Build the layout of a file that is rewritten as a table with the columns `header`. Raises InputError.

    `columns`, `optional` and `column_requests`: as for `build_layout`. `read_rows` reads the rows of a file. If the
    header has the columns KIND and DETAIL, rows with a kind are left out under it. If it ends in the columns UNREADABLE
    and LINE, errors name the line of a row, else its number.
    """
    table = Table(head.path, tuple(header), {})
    layout = build_layout(name, table, columns, column_requests, optional)
    others: tuple[OtherRows, ...] = ()
    if KIND in header:
        kinds = (LeftOutKind.SUMMARY, LeftOutKind.OTHER_KIND, LeftOutKind.WARM_UP)
        others = tuple(OtherRows(kind, (Condition(KIND, "is", (kind.value,)),), DETAIL) for kind in kinds)
    rewrite = partial(_rewrite, table.header, read_rows)
    if LINE in header:
        layout = replace(layout, line_column=LINE, unreadable_column=UNREADABLE)
    return replace(layout, reader="parquet", rewrite=rewrite, others=others)


def _rewrite(header: Sequence[str], read_rows: Callable[[Path], Iterable[Row]], source: Path, target: Path) -> None:
    """Write the rows of `source` as a table with the columns `header` into `target`. Raises InputError and OSError."""
    schema = pa.schema([(name, pa.string()) for name in header])
    with pq.ParquetWriter(target, schema) as writer:
        rows: list[Row] = []

        def write() -> None:
            columns = zip(*rows, strict=True) if rows else [()] * len(header)
            writer.write_table(pa.table([_make_array(column) for column in columns], schema=schema))
            rows.clear()

        for row in read_rows(source):
            rows.append(row)
            if len(rows) >= _BATCH_ROWS:
                write()
        write()


def _make_array(texts: Sequence[str | None]) -> pa.Array:
    """Make a column of texts; halves of characters, which JSON can escape but no text can hold, are replaced."""
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        whole = [
            text if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            for text in texts
        ]
        return pa.array(whole, pa.string())


def make_unreadable_row(text: str, columns: int, line: int) -> Row:
    """Make the row for a line that cannot be read. `columns`: their number; the last are UNREADABLE and LINE."""
    return (*[None] * (columns - 2), text.strip().replace("\t", " ")[:_SHOWN_OF_ROW] or "?", str(line))


def read_lines(path: Path) -> Iterator[str]:
    """Read the lines of a text with their ends, packed or not. Raises InputError for a line that is too long."""
    with open_text(path, errors="replace") as opened:
        number = 0
        while line := opened.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise InputError(
                    f"{path}:{number} is longer than {LONGEST_LINE >> 20} MB",
                    hint="write each request on a line of its own",
                )
            yield line


def read_csv_rows(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Read the rows of CSV, each with the number of its last line. Empty lines are skipped.

    Raises InputError for a quote that is not closed, or that does not end where its value ends.
    """
    limit_before = csv.field_size_limit(LONGEST_LINE)  # Vegeta writes the bodies of answers
    reader = csv.reader(read_lines(path), delimiter=delimiter, strict=True)
    try:
        for values in reader:
            if values:
                yield reader.line_num, values
    except csv.Error as error:
        raise InputError(
            f"{path}:{reader.line_num}: the row cannot be read: {error}",
            hint="write the file again with the tool that made it",
        ) from error
    finally:
        csv.field_size_limit(limit_before)
