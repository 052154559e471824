"""CSV of hey (`hey -o csv`) and of oha (`oha --output-format csv`), which name neither the address nor the day.

Neither writes a row for a request without an answer (a refused connection, a timeout), and hey writes at most a million
rows. So a file cannot show that the failures in it are all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from evaluator.records import ColumnMap, FileLayout
from evaluator.sources.files.base import FileFormat, Head, Table, read_table, require
from evaluator.sources.files.columns import ColumnRequest
from evaluator.sources.files.rewriting import (
    ALL_REQUESTS,
    LINE,
    Row,
    build_rewritten_layout,
    make_unreadable_row,
    read_csv_rows,
)

_ENDPOINT = "endpoint"
_HEY = ("offset", "response-time", "status-code")
_OHA = ("request-start", "request-duration", "status", "bytes")
"""Columns that are read of each tool: seconds since the start of the test, seconds, status, and bytes."""

_OTHERS = ("DNS+dialup", "Response-delay")
"""Further columns that both write, by which their files are recognised."""


def _build_layout(
    head: Head, column_requests: Sequence[ColumnRequest], *, tool: str, names: Sequence[str]
) -> FileLayout:
    """Build the layout of the CSV of a tool. A request failed if its status is 400 or above. Raises InputError.

    `names`: columns of the start, of the duration and of the status, and of the bytes if the tool writes them.
    """
    require(Table(head.path, head.columns, {}), names, f"the CSV of {tool}")
    table = read_table(head)
    start, duration, status, *others = names
    # Of each column of a request row: its name, the columns of the file, how it is made of them, and its unit.
    columns = (
        ColumnMap("ts", (start,), "instant", "s"),
        ColumnMap("endpoint", (_ENDPOINT,), "text"),
        ColumnMap("response_time_ms", (duration,), "number", "s"),
        ColumnMap("failed", (status,), "status"),
        ColumnMap("status_code", (status,), "integer"),
        *(ColumnMap("response_bytes", (name,), "integer") for name in others),
    )
    # The start comes first, because a row that cannot be read keeps its text there.
    header = (start, *(name for name in table.header if name != start), _ENDPOINT, LINE)
    layout = build_rewritten_layout(tool, head, header, columns, column_requests, partial(_read_rows, table, start))
    unseen = f"requests without an answer (a refused connection, a timeout), of which {tool} writes no row"
    return replace(layout, unseen=unseen)


def _read_rows(table: Table, start: str, path: Path) -> Iterator[Row]:
    """Read the rows of CSV with the columns of `table`; the column `start` comes first. Raises InputError."""
    first = table.header.index(start)
    for number, (line, values) in enumerate(read_csv_rows(path, table.delimiter)):
        if number == 0:
            continue  # the header
        if len(values) == len(table.header):
            yield (values[first], *values[:first], *values[first + 1 :], ALL_REQUESTS, str(line))
        else:
            yield make_unreadable_row(table.delimiter.join(values), len(table.header) + 2, line)


def _claim(*names: str) -> Callable[[Head], bool]:
    return lambda head: set(names) <= set(head.columns)


HEY = FileFormat(partial(_build_layout, tool="hey", names=_HEY), claims=_claim(*_HEY, *_OTHERS))
OHA = FileFormat(partial(_build_layout, tool="oha", names=_OHA), claims=_claim(*_OHA, *_OTHERS))
