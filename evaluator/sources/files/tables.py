"""Any CSV, Parquet and Arrow, whose columns have the names of the request row or are named by `--column`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.errors import InputError
from evaluator.records import ColumnMap, FileLayout
from evaluator.sources.files.arrow import open_arrow, rewrite_arrow
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
    """Map the columns of a Parquet file as those of `_build_typed_layout`. Raises InputError."""
    with pq.ParquetFile(head.path.absolute()) as file:  # a relative path may look like an address: `s3:…`
        schema, intervals = file.schema_arrow, _find_intervals(file)
    return _build_typed_layout(head, column_requests, schema, intervals)


def _build_arrow_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Map the columns of an Arrow file as those of `_build_typed_layout`; it lands as Parquet. Raises InputError."""
    with open_arrow(head.path) as (schema, _):
        layout = _build_typed_layout(head, column_requests, schema, intervals=())
    used = (source for column in layout.columns for source in column.sources)
    paths = layout.paths or tuple((name,) for name in layout.header)
    outermost = frozenset(paths[layout.header.index(source)][0] for source in used)
    return replace(layout, format="arrow", rewrite=partial(rewrite_arrow, columns=outermost))


def _build_typed_layout(
    head: Head, column_requests: Sequence[ColumnRequest], schema: pa.Schema, intervals: Collection[str]
) -> FileLayout:
    """Map the columns as for CSV; a response time whose type has a unit (a duration, a time of day) by that.

    `intervals`: columns of intervals, which are not in the `schema`. Raises InputError for a column of a type that
    would be read wrongly, and for a unit (`--column`) that contradicts the type.
    """
    layout = _build_csv_layout(head, column_requests)
    requested_units = {request.target: request.unit for request in column_requests}
    columns = []
    for column in layout.columns:
        types = {}  # column of the file → its type
        for source in column.sources:
            path = layout.paths[layout.header.index(source)] if layout.paths else (source,)
            _refuse_names_in_other_case(head, schema, path)
            is_interval = ".".join(path) in intervals
            types[source] = pa.month_day_nano_interval() if is_interval else _find_type(schema, path)
        if column.target == "response_time_ms":
            columns.append(_read_by_type(head.path, column, types, requested_units.get(column.target, "")))
            continue
        for source, arrow_type in types.items():
            if pa.types.is_duration(arrow_type) or pa.types.is_nested(arrow_type):
                # The engine would read a duration as a plain number, and a list as a text.
                raise InputError(
                    f"{head.path}: column '{source}' is of type {arrow_type}",
                    hint="write times as numbers or timestamps, names as text",
                )
        columns.append(column)
    return replace(layout, format="parquet", reader="parquet", columns=tuple(columns))


def _find_type(schema: pa.Schema, path: Sequence[str]) -> pa.DataType:
    """Find the type of a column, or of the values of a dictionary.

    `path`: its name, after those of the columns that it is inside of.
    """
    arrow_type = schema.field(path[0]).type
    for name in path[1:]:
        arrow_type = arrow_type.field(name).type
    return arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type


def _find_intervals(file: pq.ParquetFile) -> frozenset[str]:
    """Return the columns of a Parquet file that hold intervals, whose type Arrow does not show."""
    columns = (file.schema.column(position) for position in range(len(file.schema.names)))
    return frozenset(column.path for column in columns if column.converted_type == "INTERVAL")


def _read_by_type(
    path: Path, column: ColumnMap, types_by_source: Mapping[str, pa.DataType], requested_unit: str
) -> ColumnMap:
    """Choose how a column of response times is read, by its type; a number stays as it is.

    `types_by_source`: column of the file → its type; of several, which are summed up, all have the same unit.
    `requested_unit`: the unit that `--column` names; empty if it names none. Raises InputError for a type that is no
    duration, and for a unit that differs from that of the type.
    """
    types = pa.types
    arrow_type, *other_types = types_by_source.values()
    if other_types and any(types.is_temporal(one) for one in (arrow_type, *other_types)):
        is_one_duration = types.is_duration(arrow_type) and all(one == arrow_type for one in other_types)
        if not is_one_duration:
            raise InputError(
                f"{path}: the columns {', '.join(column.sources)} differ in type or are no durations: they have no sum",
                hint="name one column: --column response_time_ms=COLUMN",
            )
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
ARROW = FileFormat(_build_arrow_layout, frozenset({"arrow"}))
