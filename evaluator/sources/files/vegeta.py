"""Vegeta's results, as `vegeta encode --to json` or `--to csv` writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from evaluator.errors import InputError
from evaluator.records import ColumnMap, FileLayout
from evaluator.sources.files.base import FileFormat, Head
from evaluator.sources.files.columns import ColumnRequest
from evaluator.sources.files.rewriting import (
    ALL_REQUESTS,
    LINE,
    UNREADABLE,
    Row,
    build_rewritten_layout,
    make_unreadable_row,
    read_csv_rows,
    read_lines,
)

_HEADER = ("timestamp", "method", "url", "latency", "success", "code", "error", "bytes_in", UNREADABLE, LINE)
"""Columns of the rewritten file: those of Vegeta, and `success`, which is false if there is an error, else empty."""

_CSV_COLUMNS = (12, 9, 7)
"""Numbers of columns of CSV: since version 12.8, which also writes method and URL; since 8; before."""

# Nanoseconds since 1970, status, nanoseconds, bytes out, bytes in.
_CSV_START = re.compile(r"\d{19},\d{1,3},\d+,\d+,\d+,")


def _claims(head: Head) -> bool:
    """Are these results of Vegeta?"""
    if head.file_type == "json":
        return all(f'"{name}"' in head.top for name in ("timestamp", "latency", "code", "bytes_in"))
    return _CSV_START.match(head.top) is not None


def _build_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Build the layout of Vegeta's results. A request failed if it has an error, or a status of 0 or 400 and above."""
    if not _claims(head):
        raise InputError(
            f"{head.path} is not what `vegeta encode` writes", hint="leave --format out to have it recognised"
        )
    is_json = head.file_type == "json"
    if is_json and not _is_object(head.top.lstrip().splitlines()[0]):
        raise InputError(
            f"{head.path} is of Vegeta, but its first line is not a request",
            hint="write each request on one line: `vegeta encode FILE`, or `jq -c` if jq has filtered it",
        )
    # Of each column of a request row: its name, the columns of the file, how it is made of them, and its unit.
    # "unexpected": false is a failure, and without a value the status decides.
    columns = (
        ColumnMap("ts", ("timestamp",), "instant", "iso" if is_json else "ns"),
        ColumnMap("endpoint", ("method", "url"), "route"),
        ColumnMap("response_time_ms", ("latency",), "number", "ns"),
        ColumnMap("failed", ("success", "code"), "unexpected"),
        ColumnMap("response_bytes", ("bytes_in",), "integer"),
        ColumnMap("status_code", ("code",), "integer"),
        ColumnMap("exception", ("error",), "text"),
    )
    read_rows = _read_json if is_json else _read_csv
    return build_rewritten_layout("vegeta", head, _HEADER, columns, column_requests, read_rows)


def _is_object(line: str) -> bool:
    """Is this line of JSON an object? A line that is cut may be one."""
    return line.lstrip().startswith("{") and ":" in line


def _read_json(path: Path) -> Iterator[Row]:
    """Read the rows of JSON, a request a line. Raises InputError."""
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            # Numbers stay texts, so that no digit is lost.
            request = json.loads(line, parse_float=str, parse_int=str)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            yield make_unreadable_row(line, len(_HEADER), number)
            continue
        names = ("timestamp", "method", "url", "latency", "code", "error", "bytes_in", "attack")
        texts = {name: _to_text(request.get(name)) for name in names}
        yield _make_row(texts, number)


def _to_text(value: object) -> str:
    """A text or a number (read as a text) as it is; anything else, which Vegeta does not write, becomes its JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _read_csv(path: Path) -> Iterator[Row]:
    """Read the rows of CSV, which has no header line. Raises InputError."""
    for number, values in read_csv_rows(path):
        if len(values) not in _CSV_COLUMNS:
            yield make_unreadable_row(",".join(values), len(_HEADER), number)
            continue
        names = ("timestamp", "code", "latency", "bytes_out", "bytes_in", "error", "body", "attack", "seq", "method")
        yield _make_row(dict(zip((*names, "url", "headers"), values, strict=False)), number)


def _make_row(texts: dict[str, str], line: int) -> Row:
    """Make the row of a request from its values by their names in Vegeta; old versions have no method and URL."""
    error = texts.get("error", "")
    url = texts.get("url") or texts.get("attack") or ALL_REQUESTS
    success = "false" if error else ""
    return (
        texts["timestamp"], texts.get("method", ""), url, texts["latency"], success, texts["code"], error,
        texts["bytes_in"], "", str(line),
    )  # fmt: skip


VEGETA = FileFormat(_build_layout, frozenset({"csv", "json"}), _claims)
