"""k6's points, as `--out csv` or `--out json` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NoReturn

from evaluator.errors import InputError
from evaluator.records import ColumnMap, Condition, FileLayout, LeftOutKind, OtherRows
from evaluator.sources.files.base import FileFormat, Head, Table, build_layout, read_table, require
from evaluator.sources.files.columns import ColumnRequest, determine_instant_unit

_COLUMNS = ("metric_name", "timestamp", "metric_value")
_TAGS = ("expected_response", "method", "name", "url", "status", "error")
_METRIC = "http_req_duration"
_GRPC = "grpc_req_duration"
_FAILING = ("dropped_iterations", "browser_http_req_failed")
"""Metrics whose points show failures: iterations are dropped when the answers to others take too long."""

_DESCRIBING = (
    "", "http_reqs", "http_req_blocked", "http_req_connecting", "http_req_tls_handshaking", "http_req_sending",
    "http_req_waiting", "http_req_receiving", "http_req_failed", "data_sent", "data_received", "vus", "vus_max",
    "iterations", "iteration_duration", "group_duration",
)  # fmt: skip
"""Metrics whose points describe a request that has its own point, or the whole test; k6 writes about fifteen of them a
request. Definitions of metrics have no name."""


def refuse_json(head: Head) -> NoReturn:
    """Refuse JSON that is not of k6. Raises InputError."""
    raise InputError(
        f"{head.path} is JSON, but not what `k6 run --out json` writes: it has no points",
        hint="of k6, import the file of --out json or --out csv, not the summary",
    )


def _claims(head: Head) -> bool:
    if head.written == "json":
        return '"metric"' in head.top and '"data"' in head.top
    return set(_COLUMNS) <= set(head.columns)


def _build_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    if head.written == "json":
        if not _claims(head):
            refuse_json(head)
        metric, time, value, unit = "metric", "time", "value", "iso"
        table = Table(head.path, (metric, time, value, *_TAGS), {})
    else:
        metric, time, value = _COLUMNS
        table = read_table(head)
        require(table, (*_COLUMNS, "method", "name"), "what `k6 run --out csv` writes")
        if not {"status", "expected_response"} & set(table.header):
            raise InputError(
                f"{head.path} has no column 'status' or 'expected_response', so it is not known whether a request "
                "failed",
                hint="let k6 write one of these tags, with --system-tags",
            )
        unit = determine_instant_unit(table.typical.get(time))
    names = tuple(name for name in ("name", "url") if name in table.header)
    judged = tuple(name for name in ("expected_response", "status") if name in table.header)
    # A point of http_req_duration is written when the request has ended.
    columns = (
        ColumnMap("ts", (time, value), "ended", unit),
        ColumnMap("endpoint", ("method", *names), "route"),
        ColumnMap("response_time_ms", (value,), "number", "ms"),
        ColumnMap("failed", judged, "unexpected" if len(judged) > 1 else "status" if "status" in judged else "false"),
    )
    optional = (ColumnMap("status_code", ("status",), "integer"), ColumnMap("exception", ("error",), "text"))
    layout = build_layout("k6", table, columns, column_requests, optional)

    def is_one_of(*names: str) -> Condition:
        return Condition(metric, "is", names)

    # Points that are no requests over HTTP: gRPC, browser, websockets, failed checks, metrics of a script.
    by_status = ColumnMap("failed", ("status",), "nonzero") if "status" in table.header else None
    others = (
        OtherRows(None, (is_one_of(*_DESCRIBING),)),
        OtherRows(None, (is_one_of("checks"), Condition(value, "nonzero"))),
        OtherRows(LeftOutKind.OTHER_KIND, (is_one_of("checks"),), metric, ColumnMap("failed", (value,), "zero")),
        OtherRows(LeftOutKind.OTHER_KIND, (is_one_of(*_FAILING),), metric, ColumnMap("failed", (value,), "nonzero")),
        OtherRows(LeftOutKind.OTHER_KIND, (is_one_of(_GRPC),), metric, by_status),
        OtherRows(LeftOutKind.OTHER_KIND, (Condition(metric, "is_not", (_METRIC,)),), metric),
    )
    advice = f"record requests over HTTP: of k6, only points of {_METRIC} are judged"
    reader: Literal["csv", "k6"] = "k6" if head.written == "json" else "csv"
    return replace(layout, reader=reader, others=others, kind_column=metric, advice=advice)


K6 = FileFormat(_build_layout, frozenset({"csv", "json"}), _claims)
