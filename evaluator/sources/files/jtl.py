"""JMeter's results, as CSV or XML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from evaluator.errors import InputError
from evaluator.records import ColumnMap, FileLayout
from evaluator.sources.files.base import FileFormat, Head, Table, lay_out, read_table, require
from evaluator.sources.files.columns import ColumnWish, tell_instant_unit
from evaluator.sources.files.jtl_xml import JTL_XML_HEADER, LINE, SUMMARY, is_jtl_xml, rewrite_jtl_xml

__all__ = ["JTL", "refuse_xml"]

_COLUMNS = ("timeStamp", "elapsed", "label", "success")


def refuse_xml(head: Head) -> NoReturn:
    """Say why XML is not taken. Raises InputError."""
    raise InputError(
        f"{head.path} is XML, but not a result file of JMeter",
        hint="request files are of Locust, JMeter or k6, CSV or Parquet",
    )


def _claims(head: Head) -> bool:
    return is_jtl_xml(head.top) if head.written == "xml" else set(_COLUMNS) <= set(head.columns)


def _lay_out(head: Head, wishes: Sequence[ColumnWish]) -> FileLayout:
    if head.written == "csv":
        return _lay_out_table(read_table(head), wishes)
    if not _claims(head):
        refuse_xml(head)
    layout = _lay_out_table(Table(head.path, JTL_XML_HEADER, {"timeStamp": 1e12}), wishes)
    return replace(
        layout, reader="parquet", summary_rows=(("summary", SUMMARY),), rewrite=rewrite_jtl_xml, line_column=LINE
    )


def _lay_out_table(table: Table, wishes: Sequence[ColumnWish]) -> FileLayout:
    require(table, _COLUMNS, "a JMeter result file")
    columns = [
        ColumnMap("ts", ("timeStamp",), "instant", tell_instant_unit(table.typical.get("timeStamp"))),
        ColumnMap("endpoint", ("label",), "text"),
        ColumnMap("response_time_ms", ("elapsed",), "number", "ms"),
        ColumnMap("failed", ("success",), "false"),
    ]
    optional = (
        ColumnMap("response_bytes", ("bytes",), "integer"),
        ColumnMap("status_code", ("responseCode",), "integer"),
        ColumnMap("exception", ("failureMessage" if "failureMessage" in table.header else "responseMessage",), "text"),
        ColumnMap("user_count", ("allThreads",), "integer"),
    )
    columns += [column for column in optional if column.sources[0] in table.header]
    summary: tuple[tuple[str, str], ...] = ()
    if {"dataType", "responseMessage"} <= set(table.header):
        summary = (("dataType", ""), ("responseMessage", "Number of samples in transaction"))
    return lay_out("jtl", table, columns, wishes, summary)


JTL = FileFormat(_lay_out, frozenset({"csv", "xml"}), _claims)
