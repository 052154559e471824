"""JMeter's results, as CSV or XML: its samples, or its transactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NoReturn

from evaluator.errors import InputError
from evaluator.records import ColumnMap, Condition, FileLayout, LeftOutKind, OtherRows, SubResults
from evaluator.sources.files.base import FileFormat, Head, Table, build_layout, read_table, require
from evaluator.sources.files.columns import ColumnRequest, determine_instant_unit
from evaluator.sources.files.jtl_xml import DETAIL, JTL_XML_HEADER, KIND, LINE, TRANSACTION, is_jtl_xml, rewrite_jtl_xml

_COLUMNS = ("timeStamp", "elapsed", "label", "success")


def refuse_xml(head: Head) -> NoReturn:
    """Refuse XML that is not of JMeter. Raises InputError."""
    raise InputError(
        f"{head.path} is XML, but not a result file of JMeter",
        hint="give the file of `jmeter -l FILE`, or of another tool that `evaluator import --help` names",
    )


def _claims(head: Head) -> bool:
    """Is this a result file of JMeter?"""
    return is_jtl_xml(head.top) if head.file_type == "xml" else set(_COLUMNS) <= set(head.columns)


def _build_layout(head: Head, column_requests: Sequence[ColumnRequest], *, transactions: bool) -> FileLayout:
    """Build the layout of a JMeter result file, CSV or XML. Raises InputError.

    A row is a sample (one request) or a transaction, which sums up the samples inside it. `transactions` False: samples
    are the requests, and transactions are left out as summaries; True: transactions are the requests, and samples are
    left out as their parts.
    """
    if head.file_type == "csv":
        layout = _build_csv_layout(head, column_requests, transactions=transactions)
    else:
        if not _claims(head):
            refuse_xml(head)
        layout = _build_xml_layout(head, column_requests, transactions=transactions)
    if transactions:
        return replace(layout, format="jtl-transactions")
    return replace(layout, advice="to judge the transactions themselves, give --format jtl-transactions")


def _build_csv_layout(head: Head, column_requests: Sequence[ColumnRequest], *, transactions: bool) -> FileLayout:
    """Build the layout of a CSV, in which JMeter's message shows a transaction, whichever other columns it has.

    `transactions`: transactions are judged as requests, instead of their samples.
    """
    table = read_table(head)
    layout = _build_table_layout(table, column_requests)
    others: tuple[OtherRows, ...] = ()
    if "responseMessage" in table.header:
        # The rows that are not requests: the samples if transactions are the requests, else the transactions.
        is_other = Condition("responseMessage", "starts_not" if transactions else "starts", (TRANSACTION,))
        others = (OtherRows(LeftOutKind.PART if transactions else LeftOutKind.SUMMARY, (is_other,)),)
    elif transactions:
        raise InputError(
            f"{head.path} has no column 'responseMessage', by which transactions are recognised",
            hint="let JMeter save it: jmeter.save.saveservice.response_message=true",
        )
    # A redirect or embedded file has a row after its request, with the label of the request and `-0`, `-1`, …
    sub_results = SubResults("label", "threadName" if "threadName" in table.header else "")
    return replace(
        layout,
        others=others,
        count_column="SampleCount" if "SampleCount" in table.header else "",
        sub_results=None if transactions else sub_results,
    )


def _build_xml_layout(head: Head, column_requests: Sequence[ColumnRequest], *, transactions: bool) -> FileLayout:
    """Build the layout of XML, which is rewritten as a table whose column KIND says why a row is not a request.

    `transactions`: transactions are judged as requests, instead of their samples.
    """
    rows_by_kind = {
        kind: OtherRows(kind, (Condition(KIND, "is", (kind.value,)),), DETAIL)
        for kind in (LeftOutKind.SUMMARY, LeftOutKind.PART, LeftOutKind.OTHER_KIND)
    }
    left_out: tuple[OtherRows, ...] = tuple(rows_by_kind.values())
    if transactions:
        # Transactions have the kind SUMMARY. Samples have no kind; they are now parts of the transactions.
        samples = OtherRows(LeftOutKind.PART, (Condition(KIND, "is", ("",)),))
        left_out = (rows_by_kind[LeftOutKind.PART], rows_by_kind[LeftOutKind.OTHER_KIND], samples)
    # JMeter writes times in milliseconds; the typical value shows that.
    table = Table(head.path, JTL_XML_HEADER, {"timeStamp": 1e12})
    return replace(
        _build_table_layout(table, column_requests),
        reader="parquet",
        rewrite=rewrite_jtl_xml,
        line_column=LINE,
        count_column="SampleCount",
        others=left_out,
    )


def _build_table_layout(table: Table, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Map the columns that CSV and XML have in common. Raises InputError."""
    require(table, _COLUMNS, "a JMeter result file")
    # Of each column of a request row: its name, the columns of the file, how it is made of them, and its unit.
    # "false": false is a failure.
    columns = (
        ColumnMap("ts", ("timeStamp",), "instant", determine_instant_unit(table.typical.get("timeStamp"))),
        ColumnMap("endpoint", ("label",), "text"),
        ColumnMap("response_time_ms", ("elapsed",), "number", "ms"),
        ColumnMap("failed", ("success",), "false"),
    )
    optional = (
        ColumnMap("response_bytes", ("bytes",), "integer"),
        ColumnMap("status_code", ("responseCode",), "integer"),
        ColumnMap("exception", ("failureMessage" if "failureMessage" in table.header else "responseMessage",), "text"),
        ColumnMap("user_count", ("allThreads",), "integer"),
    )
    return build_layout("jtl", table, columns, column_requests, optional)


JTL = FileFormat(partial(_build_layout, transactions=False), frozenset({"csv", "xml"}), _claims)

TRANSACTIONS = FileFormat(partial(_build_layout, transactions=True), frozenset({"csv", "xml"}))
"""Transactions as requests, and their samples as parts of them; only where `--format` names it."""
