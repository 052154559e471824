"""k6's points, as `--out csv` or `--out json` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from evaluator.errors import InputError
from evaluator.records import ColumnMap, FileLayout
from evaluator.sources.files.base import FileFormat, Head, Table, lay_out, read_table, require
from evaluator.sources.files.columns import ColumnWish, tell_instant_unit

__all__ = ["K6", "refuse_json"]

_COLUMNS = ("metric_name", "timestamp", "metric_value", "method", "name", "status")
_TAGS = ("expected_response", "method", "name", "url", "status", "error")
_METRIC = "http_req_duration"


def refuse_json(head: Head) -> NoReturn:
    """Say why JSON is not taken. Raises InputError."""
    raise InputError(
        f"{head.path} is JSON, but not what `k6 run --out json` writes: it has no points",
        hint="of k6 the file of --out json or --out csv is taken, not its summary",
    )


def _claims(head: Head) -> bool:
    if head.written == "json":
        return '"metric"' in head.top and '"data"' in head.top
    return set(_COLUMNS) <= set(head.columns)


def _lay_out(head: Head, wishes: Sequence[ColumnWish]) -> FileLayout:
    if head.written == "json" and not _claims(head):
        refuse_json(head)
    if head.written == "json":
        header = ("metric", "time", "value", *_TAGS)
        layout = lay_out("k6", Table(head.path, header, {}), _to_columns("time", "value", "iso", header), wishes)
        return replace(layout, reader="k6", only=("metric", _METRIC))
    table = read_table(head)
    require(table, _COLUMNS, "what `k6 run --out csv` writes")
    unit = tell_instant_unit(table.typical.get("timestamp"))
    layout = lay_out("k6", table, _to_columns("timestamp", "metric_value", unit, table.header), wishes)
    return replace(layout, only=("metric_name", _METRIC))


def _to_columns(time: str, value: str, unit: str, header: Sequence[str]) -> list[ColumnMap]:
    """Map a point of http_req_duration, which is written when the request has ended."""
    names = tuple(name for name in ("name", "url") if name in header)
    judged = tuple(name for name in ("expected_response", "status") if name in header)
    columns = [
        ColumnMap("ts", (time, value), "ended", unit),
        ColumnMap("endpoint", ("method", *names), "route"),
        ColumnMap("response_time_ms", (value,), "number", "ms"),
        ColumnMap("failed", judged, "unexpected" if len(judged) > 1 else "status"),
        ColumnMap("status_code", ("status",), "integer"),
    ]
    return columns + ([ColumnMap("exception", ("error",), "text")] if "error" in header else [])


K6 = FileFormat(_lay_out, frozenset({"csv", "json"}), _claims)
