"""What Locust's CsvRequestLogger writes."""

from __future__ import annotations

from collections.abc import Sequence

from evaluator.errors import InputError
from evaluator.records import ColumnMap, FileLayout
from evaluator.sources.files.base import FileFormat, Head, build_layout, read_table, require
from evaluator.sources.files.columns import ColumnRequest

_COLUMNS = ("timestamp", "request_type", "name", "response_time_ms", "response_length", "status_code", "exception")
_STATS = {"Request Count", "Failure Count", "Median Response Time"}
_HISTORY = {"User Count", "Total Request Count", "Total Failure Count"}


def refuse_aggregates(head: Head) -> None:
    """Refuse Locust's files of statistics, which hold no single requests. Raises InputError."""
    for columns, file_name in ((_STATS, "_stats.csv"), (_HISTORY, "_stats_history.csv")):
        if columns <= set(head.columns):
            raise InputError(
                f"{head.path} is Locust's {file_name}: its percentiles are rounded to two digits and the arms are "
                "merged, so it cannot be compared",
                hint="record with `evaluator load`, or import the file of Locust's CsvRequestLogger",
            )


def _build_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Build the layout of a request log. A request failed if it has an exception or a status of 400 and above."""
    table = read_table(head)
    require(table, _COLUMNS, "a request log of Locust")
    # Of each column of a request row: its name, the columns of the file, how it is made of them, and its unit.
    # "filled": a text, or a status of 400 and above, is a failure. An HTTP method without both leaves it unknown.
    columns = (
        ColumnMap("ts", ("timestamp",), "instant", "s"),
        ColumnMap("endpoint", ("request_type", "name"), "text"),
        ColumnMap("response_time_ms", ("response_time_ms",), "number", "ms"),
        ColumnMap("failed", ("exception", "status_code", "request_type"), "filled"),
        ColumnMap("response_bytes", ("response_length",), "integer"),
        ColumnMap("status_code", ("status_code",), "integer"),
        ColumnMap("exception", ("exception",), "text"),
    )
    return build_layout("locust", table, columns, column_requests)


LOCUST = FileFormat(_build_layout, claims=lambda head: set(_COLUMNS) <= set(head.columns))
