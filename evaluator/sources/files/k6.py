"""k6's points, as `--out csv` or `--out json` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

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
    """Is this a file of k6's points?"""
    if head.file_type == "json":
        return '"metric"' in head.top and '"data"' in head.top
    return set(_COLUMNS) <= set(head.columns)


def _build_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Build the layout of k6's points, of which only those of http_req_duration are requests. Raises InputError."""
    if head.file_type == "json":
        if not _claims(head):
            refuse_json(head)
        # Names of the columns with a point's metric, time and value; unit of the time.
        metric, time, value, time_unit = "metric", "time", "value", "iso"
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
        time_unit = determine_instant_unit(table.typical.get(time))
    endpoint_columns = tuple(name for name in ("name", "url") if name in table.header)
    # A point of http_req_duration is written when the request has ended, so it began its duration earlier ("ended").
    # Of each column of a request row: its name, the columns of the file, how it is made of them, and its unit.
    columns = (
        ColumnMap("ts", (time, value), "ended", time_unit),
        ColumnMap("endpoint", ("method", *endpoint_columns), "route"),
        ColumnMap("response_time_ms", (value,), "number", "ms"),
        _map_failed(table),
    )
    optional = (ColumnMap("status_code", ("status",), "integer"), ColumnMap("exception", ("error",), "text"))
    layout = build_layout("k6", table, columns, column_requests, optional)
    return replace(
        layout,
        reader="k6" if head.file_type == "json" else "csv",
        others=_list_other_rows(table, metric, value),
        kind_column=metric,
        advice=f"record requests over HTTP: of k6, only points of {_METRIC} are judged",
    )


def _map_failed(table: Table) -> ColumnMap:
    """Map the column `failed` from k6's tag `expected_response`, the status, or both if the file has both."""
    # "unexpected": false is a failure, and without a value the status decides. "false": false is a failure.
    has_expected, has_status = "expected_response" in table.header, "status" in table.header
    if has_expected and has_status:
        return ColumnMap("failed", ("expected_response", "status"), "unexpected")
    if has_status:
        return ColumnMap("failed", ("status",), "status")
    return ColumnMap("failed", ("expected_response",), "false")


def _list_other_rows(table: Table, metric: str, value: str) -> tuple[OtherRows, ...]:
    """The points that are not requests over HTTP: gRPC, browser, websockets, checks, metrics of a script.

    `metric`, `value`: names of the columns with the name of a point's metric and its value. The first entry that a
    point meets decides; a kind of None means that the point is not counted, as it only describes others.
    """

    def is_one_of(*names: str) -> Condition:
        return Condition(metric, "is", names)

    # Each entry: kind, conditions (all must hold), column that names the point, and how failures among these points are
    # recognised: "zero" and "nonzero" name the numbers that are a failure.
    failed_by_status = ColumnMap("failed", ("status",), "nonzero") if "status" in table.header else None
    return (
        OtherRows(None, (is_one_of(*_DESCRIBING),)),
        OtherRows(None, (is_one_of("checks"), Condition(value, "nonzero"))),  # a check that passed
        OtherRows(LeftOutKind.OTHER_KIND, (is_one_of("checks"),), metric, ColumnMap("failed", (value,), "zero")),
        OtherRows(LeftOutKind.OTHER_KIND, (is_one_of(*_FAILING),), metric, ColumnMap("failed", (value,), "nonzero")),
        OtherRows(LeftOutKind.OTHER_KIND, (is_one_of(_GRPC),), metric, failed_by_status),
        OtherRows(LeftOutKind.OTHER_KIND, (Condition(metric, "is_not", (_METRIC,)),), metric),
    )


K6 = FileFormat(_build_layout, frozenset({"csv", "json"}), _claims)
