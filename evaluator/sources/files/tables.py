"""Any CSV and any Parquet, whose columns have the names of the request row or are named by `--column`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.errors import InputError
from evaluator.records import FileLayout
from evaluator.sources.files.base import FileFormat, Head, build_layout, read_table
from evaluator.sources.files.columns import TARGETS, ColumnRequest


def _build_csv_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Map the columns named by `--column`, and further columns that have the name of a column of the request row."""
    table = read_table(head)
    requested = {column_request.target for column_request in column_requests}
    unrequested = (ColumnRequest(name, name) for name in TARGETS if name in table.header and name not in requested)
    return build_layout("csv", table, columns=(), column_requests=(*column_requests, *unrequested))


def _build_parquet_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Map the columns as for CSV. Raises InputError for a column of a type that would be read wrongly."""
    layout = _build_csv_layout(head, column_requests)
    schema = pq.read_schema(head.path.absolute())  # a relative path may look like an address: `s3:…`
    for source in (source for column in layout.columns for source in column.sources):
        arrow_type = schema.field(source).type
        if pa.types.is_duration(arrow_type) or pa.types.is_nested(arrow_type):
            # The engine would read any duration as milliseconds, whatever its unit, and a list as a text.
            raise InputError(
                f"{head.path}: column '{source}' is of type {arrow_type}",
                hint="write times as numbers (--column response_time_ms=COLUMN:UNIT sets their unit), names as text",
            )
    return replace(layout, format="parquet", reader="parquet")


CSV = FileFormat(_build_csv_layout)
PARQUET = FileFormat(_build_parquet_layout, frozenset({"parquet"}))
