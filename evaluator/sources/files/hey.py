"""CSV of hey (`hey -o csv`) and of oha (`oha --output-format csv`), which name neither the address nor the day.

Neither writes a row for a request without an answer (a refused connection, a timeout). So a file cannot show that the
failures in it are all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from evaluator.errors import InputError
from evaluator.records import ColumnMap, FileLayout
from evaluator.sources.files.base import FileFormat, Head, Table, read_table, require
from evaluator.sources.files.columns import ColumnRequest
from evaluator.sources.files.rewriting import (
    ALL_REQUESTS,
    LINE,
    UNREADABLE,
    Row,
    build_rewritten_layout,
    make_unreadable_row,
    read_csv_rows,
)

_ENDPOINT = "endpoint"
_HEY = ("offset", "response-time", "status-code")
_OHA = ("request-start", "request-duration", "status", "bytes")
"""Columns that are read of each tool: seconds since the start of the test, seconds, status, and bytes."""

_MOST_OF_HEY = 1_000_000
"""Rows that hey writes at most."""

_BOTH = "DNS+dialup"
"""A column that both write, by which their files are recognised."""


def _build_layout(
    head: Head, column_requests: Sequence[ColumnRequest], *, tool: str, names: Sequence[str]
) -> FileLayout:
    """Build the layout of the CSV of a tool. A request failed if its status is 400 or above. Raises InputError.

    `names`: columns of the start, of the duration and of the status, and of the bytes if the tool writes them.
    """
    require(Table(head.path, head.columns, {}), names, f"the CSV of a current {tool}")
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
    added = (UNREADABLE, LINE) if _ENDPOINT in table.header else (_ENDPOINT, UNREADABLE, LINE)
    header = (*table.header, *added)
    layout = build_rewritten_layout(
        tool, head, header, columns, column_requests, partial(_read_rows, tool, table, header)
    )
    unseen = f"requests without an answer (a refused connection, a timeout), of which {tool} writes no row"
    return replace(layout, unseen=unseen)


def _read_rows(tool: str, table: Table, header: Sequence[str], path: Path) -> Iterator[Row]:
    """Read the rows of CSV with the columns of `table` as rows with the columns `header`. Raises InputError.

    Without a column of endpoints, which a user may have added, all requests have the same endpoint.
    """
    rows = read_csv_rows(path, table.delimiter)
    next(rows, None)  # the header
    count = 0
    for line, values in rows:
        count += 1
        if len(values) == len(table.header):
            endpoint = () if _ENDPOINT in table.header else (ALL_REQUESTS,)
            yield (*values, *endpoint, "", str(line))
        else:
            yield make_unreadable_row(table.delimiter.join(values), len(header), line)
    if tool == "hey" and count >= _MOST_OF_HEY:
        raise InputError(
            f"{path} has {count:,} rows, the most that hey writes: it does not have the requests after them",
            hint="load with fewer requests (-n, or a shorter -z), several times",
        )


def _claim(*names: str) -> Callable[[Head], bool]:
    return lambda head: set(names) <= set(head.columns)


HEY = FileFormat(partial(_build_layout, tool="hey", names=_HEY), claims=_claim(_BOTH, "response-time"))
OHA = FileFormat(partial(_build_layout, tool="oha", names=_OHA), claims=_claim(_BOTH, "request-start"))
