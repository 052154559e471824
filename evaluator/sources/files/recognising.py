"""Which format a file has: the one that was named, else the one that claims it, else CSV, JSON, Parquet or Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluator.errors import InputError, SourceError, UnknownName
from evaluator.extensions import Extensions
from evaluator.records import FileLayout
from evaluator.sources.files.base import FileFormat, Head, read_head
from evaluator.sources.files.columns import ColumnRequest
from evaluator.sources.files.jtl import refuse_xml
from evaluator.sources.files.locust_log import refuse_aggregates
from evaluator.sources.files.other_tools import refuse_binary_files, refuse_other_tools

_PACKAGE = "evaluator.sources.files"

SOURCES: Mapping[str, FileFormat] = Extensions(
    "evaluator.sources",
    "source",
    SourceError,
    own={
        "locust": f"{_PACKAGE}.locust_log:LOCUST",
        "jtl": f"{_PACKAGE}.jtl:JTL",
        "jtl-transactions": f"{_PACKAGE}.jtl:TRANSACTIONS",
        "k6": f"{_PACKAGE}.k6:K6",
        "vegeta": f"{_PACKAGE}.vegeta:VEGETA",
        "gatling": f"{_PACKAGE}.gatling:GATLING",
        "hey": f"{_PACKAGE}.hey:HEY",
        "oha": f"{_PACKAGE}.hey:OHA",
        "pyperf": f"{_PACKAGE}.benchmarks:PYPERF",
        "google-benchmark": f"{_PACKAGE}.benchmarks:GOOGLE_BENCHMARK",
        "csv": f"{_PACKAGE}.tables:CSV",
        "json": f"{_PACKAGE}.json_lines:JSON",
        "parquet": f"{_PACKAGE}.tables:PARQUET",
        "arrow": f"{_PACKAGE}.tables:ARROW",
    },
)
"""Format of request files → how a file is recognised and its columns are mapped: ours, then those of other packages."""


def recognise(path: Path, format: str, column_requests: Sequence[ColumnRequest]) -> FileLayout:  # noqa: A002
    """Determine the format of a file and build its layout: how its columns become those of a request row.

    `format`: name of a format, or `auto`: the format that claims the file, else the general format of CSV, JSON lines,
    Parquet or Arrow. Raises InputError for a file that cannot be read by it, UnknownName and SourceError.
    """
    if format != "auto" and format not in SOURCES:
        raise UnknownName("format", format, ["auto", *SOURCES])
    refuse_binary_files(path)
    head = read_head(path)
    if head.file_type == "csv":
        refuse_aggregates(head)
    name = _choose_format(head) if format == "auto" else format  # empty: no format claims the file
    can_read = name != "" and head.file_type in SOURCES[name].file_types
    # The general formats have the names of the types that they read: csv, json, parquet and arrow.
    is_general = name == head.file_type
    if is_general or not can_read:
        refuse_other_tools(head)  # it may be of a tool whose files cannot be imported
    if not can_read:
        _refuse_unreadable(head, name)
        name = head.file_type
    return SOURCES[name].build_layout(head, column_requests)


def _choose_format(head: Head) -> str:
    """Name of the format that claims a file; empty if none does. Raises InputError if several do."""
    claiming = _find_claiming_formats(head)
    if len(claiming) > 1:
        raise InputError(
            f"{head.path} looks like files of several formats: {', '.join(claiming)}",
            hint="name its format with --format",
        )
    return "".join(claiming)


def _refuse_unreadable(head: Head, format_name: str) -> None:
    """Refuse a file that its format cannot read, unless none was named and a general format can read it.

    `format_name`: as the user named it; empty if no format claims the file. Raises InputError.
    """
    if format_name:
        expected = _TYPE_NAMES[format_name] if format_name in _COLUMNAR else f"a file of format '{format_name}'"
        claiming = [f"a file of format '{name}'" for name in _find_claiming_formats(head)]
        looks_like = " or ".join(claiming) or _TYPE_NAMES[head.file_type]
        raise InputError(
            f"{head.path} is not {expected}: it looks like {looks_like}",
            hint="leave --format out to have it recognised",
        )
    if head.file_type == "xml":
        refuse_xml(head)


_TYPE_NAMES = {
    "csv": "CSV or other text",
    "json": "JSON",
    "parquet": "a Parquet file",
    "arrow": "an Arrow file",
    "xml": "XML",
}
"""Type of a file → what it is called."""
_COLUMNAR = ("parquet", "arrow")
"""Formats whose names are types of files."""


def _find_claiming_formats(head: Head) -> list[str]:
    """Names of the formats that claim a file; empty if none does."""
    return [name for name, source in SOURCES.items() if head.file_type in source.file_types and source.claims(head)]
