"""Any CSV and any Parquet, whose columns have the names of the request row or are named by `--column`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.errors import InputError
from evaluator.records import FileLayout
from evaluator.sources.files.base import FileFormat, Head, Table, build_layout, read_table
from evaluator.sources.files.columns import TARGETS, ColumnRequest


def _build_csv_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Map the columns named by `--column`, and further columns that have the name of a column of the request row."""
    table = read_table(head)
    return build_layout("csv", table, columns=(), column_requests=add_columns_by_name(table, column_requests))


def add_columns_by_name(table: Table, column_requests: Sequence[ColumnRequest]) -> tuple[ColumnRequest, ...]:
    """Add to the requests of `--column` the columns of a table that have the name of a column of the request row."""
    requested = {column_request.target for column_request in column_requests}
    unrequested = (ColumnRequest(name, name) for name in TARGETS if name in table.header and name not in requested)
    return (*column_requests, *unrequested)


def _build_parquet_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Map the columns as for CSV. Raises InputError for a column of a type that would be read wrongly."""
    layout = _build_csv_layout(head, column_requests)
    schema = pq.read_schema(head.path.absolute())  # a relative path may look like an address: `s3:…`
    for source in (source for column in layout.columns for source in column.sources):
        path = layout.paths[layout.header.index(source)] if layout.paths else (source,)
        _refuse_names_in_other_case(head, schema, path)
        arrow_type = schema.field(path[0]).type
        for name in path[1:]:
            arrow_type = arrow_type.field(name).type
        if pa.types.is_duration(arrow_type) or pa.types.is_nested(arrow_type):
            # The engine would read any duration as milliseconds, whatever its unit, and a list as a text.
            raise InputError(
                f"{head.path}: column '{source}' is of type {arrow_type}",
                hint="write times as numbers (--column response_time_ms=COLUMN:UNIT sets their unit), names as text",
            )
    return replace(layout, format="parquet", reader="parquet")


def _refuse_names_in_other_case(head: Head, schema: pa.Schema, path: Sequence[str]) -> None:
    """Refuse a column if another has the same name in other case: the engine would read the first of them.

    `path`: of the column, with the columns that it is inside of. Raises InputError.
    """
    arrow_type: pa.DataType = pa.struct(list(schema))
    for name in path:
        names = [arrow_type.field(position).name for position in range(arrow_type.num_fields)]
        same = [other for other in names if other.lower() == name.lower()]
        if len(same) > 1:
            raise InputError(
                f"{head.path} has the columns {' and '.join(repr(other) for other in same)}, which differ only in case",
                hint="rename one of them",
            )
        arrow_type = arrow_type.field(name).type


CSV = FileFormat(_build_csv_layout)
PARQUET = FileFormat(_build_parquet_layout, frozenset({"parquet"}))
