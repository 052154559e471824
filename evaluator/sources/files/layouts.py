"""What a file is: Locust's request log, JMeter's JTL, k6's points, any CSV or any Parquet. One function per format."""

from __future__ import annotations

import csv
import gzip
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.errors import InputError, UnknownName
from evaluator.records import ColumnMap, FileLayout
from evaluator.sources.files.columns import REQUIRED, TARGETS, ColumnWish, map_column, tell_instant_unit
from evaluator.sources.files.jtl_xml import JTL_XML_HEADER, LINE, SUMMARY, is_jtl_xml, rewrite_jtl_xml

__all__ = ["FORMATS", "recognise"]

_LOCUST = ("timestamp", "request_type", "name", "response_time_ms", "response_length", "status_code", "exception")
_LOCUST_STATS = {"Request Count", "Failure Count", "Median Response Time"}
_LOCUST_HISTORY = {"User Count", "Total Request Count", "Total Failure Count"}
_JTL = ("timeStamp", "elapsed", "label", "success")
_K6 = ("metric_name", "timestamp", "metric_value", "method", "name", "status")
_K6_TAGS = ("expected_response", "method", "name", "url", "status", "error")
_K6_METRIC = "http_req_duration"
_DELIMITERS = ",;\t|"
ROWS_OF_HEAD = 100


@dataclass(frozen=True, slots=True)
class _Head:
    """The top of a file: its columns, and what stands in them."""

    path: Path
    header: tuple[str, ...]
    typical: Mapping[str, object]
    delimiter: str = ","


def recognise(path: Path, format: str, wishes: Sequence[ColumnWish]) -> FileLayout:  # noqa: A002
    """Find out what a file is and how it is read. Raises InputError and UnknownName."""
    if format != "auto" and format not in FORMATS:
        raise UnknownName("format", format, ["auto", *FORMATS])
    is_parquet = _starts_with(path, b"PAR1")
    if format == "parquet" and not is_parquet:
        raise InputError(f"{path} is not a Parquet file", hint="leave --format out to have it recognised")
    if is_parquet:
        return _lay_out_parquet(_read_parquet_head(path), wishes)
    top = _read_top(path)
    if top.lstrip().startswith("<"):
        return _lay_out_xml(path, top, format, wishes)
    if top.lstrip().startswith(("{", "[")):
        return _lay_out_json(path, top, format, wishes)
    head = _read_csv_head(path)
    _refuse_aggregates(head)
    return FORMATS[_tell(head) if format == "auto" else format](head, wishes)


def _tell(head: _Head) -> str:
    if set(_LOCUST) <= set(head.header):
        return "locust"
    if set(_K6) <= set(head.header):
        return "k6"
    return "jtl" if set(_JTL) <= set(head.header) else "csv"


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


# ------------------------------------------------------------------ heads


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast("TextIO", gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _read_csv_head(path: Path) -> _Head:
    try:
        with _open_text(path) as file:
            top = file.readline(1_000_000)
            _refuse_other_text(path, top)
            delimiter = max(_DELIMITERS, key=top.count)
            rows = _read_rows(csv.reader(itertools.chain([top], file), delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(
            f"{path} cannot be read as text: {_why(error)}", hint="request files are UTF-8 text or Parquet"
        ) from error
    return _Head(path, _check_header(path, rows), _typical_row(path, rows), delimiter)


def _read_rows(reader: Iterator[list[str]]) -> list[list[str]]:
    """Read the header and some rows. A broken row ends them: it is reported with its line when the file is landed."""
    rows: list[list[str]] = []
    try:
        rows.extend(itertools.islice(reader, 2))
        for row in itertools.islice(reader, ROWS_OF_HEAD - 1):
            rows.append(row)  # noqa: PERF402 what was read before an error stays
    except csv.Error:
        if len(rows) < 2:
            raise
    return rows


def _read_top(path: Path) -> str:
    """Read the first characters, enough to tell XML and JSON."""
    try:
        with _open_text(path) as file:
            return file.read(4096)
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as text: {_why(error)}", hint="request files are UTF-8 text or Parquet"
        ) from error


def _why(error: Exception) -> str:
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _refuse_other_text(path: Path, top: str) -> None:
    if "\0" in top:
        raise InputError(f"{path} is not text", hint="request files are text or Parquet")


def _check_header(path: Path, rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    header = tuple(name.strip() for name in rows[0]) if rows else ()
    if not any(header):
        raise InputError(f"{path} starts with an empty line", hint="a line of column names must come first")
    if re.fullmatch(r"\d+([.,]\d+)?", header[0]):
        raise InputError(
            f"{path} has no header line: it starts with '{header[0]}'",
            hint="for JMeter set jmeter.save.saveservice.print_field_names=true; else add a line of column names",
        )
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}:1: column '{twice}' appears twice")
    return header


def _typical_row(path: Path, rows: Sequence[Sequence[str]]) -> dict[str, object]:
    if len(rows) < 2:
        raise InputError(f"{path} has a header but no rows", hint="the tool that wrote it has recorded no request")
    columns = itertools.zip_longest(*rows[1:], fillvalue="")
    return {name: _typical(values) for name, values in zip(rows[0], columns, strict=False)}


def _typical(values: Sequence[object]) -> object:
    """The first value written in the unit that most have: one bad row must not spoil the others."""
    units = [tell_instant_unit(value) for value in values]
    return values[units.index(Counter(units).most_common(1)[0][0])]


def _read_parquet_head(path: Path) -> _Head:
    try:
        file = pq.ParquetFile(path)
        rows = next(file.iter_batches(batch_size=ROWS_OF_HEAD), None)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is a broken Parquet file: {' '.join(str(error).split())[:200]}") from error
    if rows is None or not rows.num_rows:
        raise InputError(f"{path} has columns but no rows", hint="the tool that wrote it has recorded no request")
    columns = rows.to_pydict()
    return _Head(path, tuple(columns), {name: _typical(values) for name, values in columns.items()})


# ------------------------------------------------------------------ formats


def _refuse_aggregates(head: _Head) -> None:
    for columns, name in ((_LOCUST_STATS, "_stats.csv"), (_LOCUST_HISTORY, "_stats_history.csv")):
        if columns <= set(head.header):
            raise InputError(
                f"{head.path} is Locust's {name}: its percentiles are rounded to two digits and the arms are merged,"
                " so it cannot be compared",
                hint="record with `evaluator load`, or import the file of Locust's CsvRequestLogger",
            )


def _lay_out_locust(head: _Head, wishes: Sequence[ColumnWish]) -> FileLayout:
    _require(head, _LOCUST, "a request log of Locust")
    columns = (
        ColumnMap("ts", ("timestamp",), "instant", "s"),
        ColumnMap("endpoint", ("request_type", "name"), "text"),
        ColumnMap("response_time_ms", ("response_time_ms",), "number", "ms"),
        ColumnMap("failed", ("exception",), "filled"),
        ColumnMap("response_bytes", ("response_length",), "integer"),
        ColumnMap("status_code", ("status_code",), "integer"),
        ColumnMap("exception", ("exception",), "text"),
    )
    return _layout("locust", head, columns, wishes)


def _lay_out_jtl(head: _Head, wishes: Sequence[ColumnWish]) -> FileLayout:
    _require(head, _JTL, "a JMeter result file")
    columns = [
        ColumnMap("ts", ("timeStamp",), "instant", tell_instant_unit(head.typical.get("timeStamp"))),
        ColumnMap("endpoint", ("label",), "text"),
        ColumnMap("response_time_ms", ("elapsed",), "number", "ms"),
        ColumnMap("failed", ("success",), "false"),
    ]
    optional = (
        ColumnMap("response_bytes", ("bytes",), "integer"),
        ColumnMap("status_code", ("responseCode",), "integer"),
        ColumnMap("exception", ("failureMessage" if "failureMessage" in head.header else "responseMessage",), "text"),
        ColumnMap("user_count", ("allThreads",), "integer"),
    )
    columns += [column for column in optional if column.sources[0] in head.header]
    summary: tuple[tuple[str, str], ...] = ()
    if {"dataType", "responseMessage"} <= set(head.header):
        summary = (("dataType", ""), ("responseMessage", "Number of samples in transaction"))
    return _layout("jtl", head, columns, wishes, summary)


def _lay_out_k6(head: _Head, wishes: Sequence[ColumnWish]) -> FileLayout:
    _require(head, _K6, "what `k6 run --out csv` writes")
    unit = tell_instant_unit(head.typical.get("timestamp"))
    layout = _layout("k6", head, _k6_columns("timestamp", "metric_value", unit, head.header), wishes)
    return replace(layout, only=("metric_name", _K6_METRIC))


def _k6_columns(time: str, value: str, unit: str, header: Sequence[str]) -> list[ColumnMap]:
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


def _lay_out_json(path: Path, top: str, format: str, wishes: Sequence[ColumnWish]) -> FileLayout:  # noqa: A002
    if format not in ("auto", "k6") or not ('"metric"' in top and '"data"' in top):
        raise InputError(
            f"{path} is JSON, but not what `k6 run --out json` writes: it has no points",
            hint="of k6 the file of --out json or --out csv is taken, not its summary",
        )
    header = ("metric", "time", "value", *_K6_TAGS)
    layout = _layout("k6", _Head(path, header, {}), _k6_columns("time", "value", "iso", header), wishes)
    return replace(layout, reader="k6", only=("metric", _K6_METRIC))


def _lay_out_xml(path: Path, top: str, format: str, wishes: Sequence[ColumnWish]) -> FileLayout:  # noqa: A002
    if format not in ("auto", "jtl") or not is_jtl_xml(top):
        raise InputError(
            f"{path} is XML, but not a result file of JMeter",
            hint="request files are of Locust, JMeter or k6, CSV or Parquet",
        )
    layout = _lay_out_jtl(_Head(path, JTL_XML_HEADER, {"timeStamp": 1e12}), wishes)
    return replace(
        layout, reader="parquet", summary_rows=(("summary", SUMMARY),), rewrite=rewrite_jtl_xml, line_column=LINE
    )


def _lay_out_csv(head: _Head, wishes: Sequence[ColumnWish]) -> FileLayout:
    return _layout("csv", head, (), _with_own_names(head, wishes))


def _lay_out_parquet(head: _Head, wishes: Sequence[ColumnWish]) -> FileLayout:
    layout = _layout("parquet", head, (), _with_own_names(head, wishes))
    return FileLayout("parquet", "parquet", layout.columns, header=head.header)


def _with_own_names(head: _Head, wishes: Sequence[ColumnWish]) -> tuple[ColumnWish, ...]:
    """Take columns that carry the names of the request row as they are, unless a wish says otherwise."""
    wished = {wish.target for wish in wishes}
    own = (ColumnWish(name, name) for name in TARGETS if name in head.header and name not in wished)
    return (*wishes, *own)


def _require(head: _Head, names: Sequence[str], what: str) -> None:
    missing = [name for name in names if name not in head.header]
    if missing:
        raise InputError(f"{head.path} is not {what}: it has no column '{missing[0]}'", hint=_known_columns(head))


def _known_columns(head: _Head) -> str:
    return f"its columns are {', '.join(head.header)[:300]}; name others with --column TARGET=SOURCE"


def _layout(
    name: str,
    head: _Head,
    columns: Sequence[ColumnMap],
    wishes: Sequence[ColumnWish],
    summary: tuple[tuple[str, str], ...] = (),
) -> FileLayout:
    wished = {wish.target: map_column(wish, head.header, head.typical) for wish in wishes}
    known = {column.target: column for column in columns} | wished
    missing = [target for target in REQUIRED if target not in known]
    if missing:
        raise InputError(f"{head.path} has no column '{missing[0]}'", hint=_known_columns(head))
    ordered = tuple(known[target] for target in TARGETS if target in known)
    return FileLayout(name, "csv", ordered, head.delimiter, head.header, summary)


FORMATS: Mapping[str, Callable[[_Head, Sequence[ColumnWish]], FileLayout]] = {
    "locust": _lay_out_locust,
    "jtl": _lay_out_jtl,
    "k6": _lay_out_k6,
    "csv": _lay_out_csv,
    "parquet": _lay_out_parquet,
}
"""Format → how a file of it is laid out."""
