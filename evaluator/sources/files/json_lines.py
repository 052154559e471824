"""Any JSON lines: one object a line, whose fields have the names of the request row or are named by `--column`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluator.errors import InputError
from evaluator.records import FileLayout
from evaluator.sources.files.base import (
    LONGEST_LINE,
    ROWS_OF_HEAD,
    FileFormat,
    Head,
    Table,
    build_layout,
    choose_typical,
    open_checked_text,
    refuse_repeated_column,
)
from evaluator.sources.files.columns import ColumnRequest, list_sources
from evaluator.sources.files.tables import add_columns_by_name

_LINES_OF_HEAD = 10_000
"""Lines from which the fields are listed. Fields that `--column` names are looked for in the whole file."""
_MOST_FIELDS = 10_000
_DEEPEST = 20
"""Fields inside of more objects than this are not listed."""


def _build_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Map the fields named by `--column`, and fields with the name of a column of the request row.

    A field inside of another is named with a dot: `http.status`. Raises InputError if no line is an object.
    """
    if head.top.lstrip().startswith("["):
        raise _refuse_no_lines(head, "it is one list")
    values: dict[tuple[str, ...], list[object]] = {}  # path of a field → its values
    wanted = {name for request in column_requests for name in list_sources(request, ())}
    for number, row in enumerate(_read_objects(head.path)):
        if number >= _LINES_OF_HEAD and wanted <= {".".join(path) for path in values}:
            break
        for path, value in _list_fields(row):
            if len(known := values.setdefault(path, [])) < ROWS_OF_HEAD:
                known.append(value)
        if len(values) > _MOST_FIELDS:
            raise InputError(
                f"{head.path} has more than {_MOST_FIELDS:,} fields, and each has to have the same name in all lines",
                hint="write one object a line, with the same fields in each",
            )
    if not values:
        raise _refuse_no_lines(head, "no line is an object")
    header = tuple(".".join(path) for path in values)
    refuse_repeated_column(head.path, header)
    typical = {name: choose_typical(known) for name, known in zip(header, values.values(), strict=True)}
    table = Table(head.path, header, typical, paths=tuple(values))
    layout = build_layout("json", table, (), add_columns_by_name(table, column_requests))
    return replace(layout, reader="json")


def _refuse_no_lines(head: Head, why: str) -> InputError:
    """Make the error for JSON of another form, and `why` it is that."""
    return InputError(
        f"{head.path} is JSON, but not JSON lines: {why}",
        hint="write one object a line, for example with `jq -c '.[]'`; of k6, import the file of --out json or "
        "--out csv, not the summary",
    )


def _read_objects(path: Path) -> Iterator[Mapping[str, Any]]:
    """Read the objects of the lines; what is no object is skipped here, and is a bad row when the file lands."""
    with open_checked_text(path) as file:
        for line in iter(lambda: file.readline(LONGEST_LINE), ""):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def _list_fields(row: Mapping[str, Any], outer: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """List the fields of an object with their paths, also those of objects in it; lists are no fields."""
    for name, value in row.items():
        path = (*outer, name)
        if isinstance(value, Mapping):
            if len(path) < _DEEPEST:
                yield from _list_fields(value, path)
        elif not isinstance(value, list):
            yield path, value


JSON = FileFormat(_build_layout, frozenset({"json"}))
