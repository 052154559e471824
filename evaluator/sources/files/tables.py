"""Any CSV and any Parquet, whose columns have the names of the request row or are named by `--column`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.errors import InputError
from evaluator.records import ColumnMap, FileLayout
from evaluator.sources.files.base import FileFormat, Head, build_layout, read_table
from evaluator.sources.files.columns import TARGETS, ColumnRequest


def _build_csv_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Map the columns named by `--column`, and further columns that have the name of a column of the request row."""
    table = read_table(head)
    requested = {column_request.target for column_request in column_requests}
    unrequested = (ColumnRequest(name, name) for name in TARGETS if name in table.header and name not in requested)
    return build_layout("csv", table, columns=(), column_requests=(*column_requests, *unrequested))


def _build_parquet_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Map the columns as for CSV; a response time whose type has a unit (a duration, a time of day) by that.

    Raises InputError for a column of a type that would be read wrongly, and for a unit (`--column`) that contradicts
    the type.
    """
    layout = _build_csv_layout(head, column_requests)
    with pq.ParquetFile(head.path) as file:
        schema, intervals = file.schema_arrow, _find_intervals(file)
    requested_units = {request.target: request.unit for request in column_requests}
    columns = []
    for column in layout.columns:
        types = [schema.field(source).type for source in column.sources]
        if column.target == "response_time_ms":
            column_type = pa.month_day_nano_interval() if column.sources[0] in intervals else types[0]
            columns.append(_read_by_type(head.path, column, column_type, requested_units.get(column.target, "")))
            continue
        for source, arrow_type in zip(column.sources, types, strict=True):
            if pa.types.is_duration(arrow_type) or pa.types.is_nested(arrow_type):
                # The engine would read a duration as a plain number, and a list as a text.
                raise InputError(
                    f"{head.path}: column '{source}' is of type {arrow_type}",
                    hint="write times as numbers or timestamps, names as text",
                )
        columns.append(column)
    return replace(layout, format="parquet", reader="parquet", columns=tuple(columns))


def _find_intervals(file: pq.ParquetFile) -> frozenset[str]:
    """Return the columns of a Parquet file that hold intervals, whose type Arrow does not show."""
    columns = (file.schema.column(position) for position in range(len(file.schema.names)))
    return frozenset(column.path for column in columns if column.converted_type == "INTERVAL")


def _read_by_type(path: Path, column: ColumnMap, arrow_type: pa.DataType, requested_unit: str) -> ColumnMap:
    """Choose how a column of response times is read, by its type; a number stays as it is.

    `requested_unit`: the unit that `--column` names; empty if it names none. Raises InputError for a type that is no
    duration, and for a unit that differs from that of the type.
    """
    types = pa.types
    if types.is_duration(arrow_type):
        if requested_unit in ("", arrow_type.unit):
            return replace(column, unit=arrow_type.unit)  # the engine reads a plain number in this unit
    elif types.is_time(arrow_type) or types.is_interval(arrow_type):
        if not requested_unit:
            return replace(column, kind="clock", unit="")
    elif types.is_nested(arrow_type) or types.is_temporal(arrow_type) or types.is_boolean(arrow_type):
        raise InputError(
            f"{path}: column '{column.sources[0]}' is of type {arrow_type}, which is no response time",
            hint="name the column that holds how long a request took: --column response_time_ms=COLUMN",
        )
    else:
        return column
    name = column.sources[0]
    raise InputError(
        f"{path}: column '{name}' is of type {arrow_type}, which has a unit, but --column names '{requested_unit}'",
        hint=f"leave the unit out: --column response_time_ms={name}",
    )


CSV = FileFormat(_build_csv_layout)
PARQUET = FileFormat(_build_parquet_layout, frozenset({"parquet"}))
