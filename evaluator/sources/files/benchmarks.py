"""JSON of benchmarks: of pyperf, and of Google Benchmark. Each measured value is a request of its benchmark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from evaluator.errors import InputError
from evaluator.records import ColumnMap, FileLayout, LeftOutKind
from evaluator.sources.files.base import FileFormat, Head
from evaluator.sources.files.columns import ColumnRequest
from evaluator.sources.files.rewriting import DETAIL, KIND, Row, build_rewritten_layout
from evaluator.textfiles import open_text

_LARGEST = 32 << 20
"""Most characters of a file, which is read as a whole; thousands of benchmarks have some."""
_START = datetime(1970, 1, 1, tzinfo=UTC)
"""Start of a test whose file has no date: its times count from here."""
_LAST = datetime(9000, 1, 1, tzinfo=UTC)
_HINT = "leave --format out to have it recognised"

_PYPERF = ("date", "name", "value", "process", KIND, DETAIL, "failed")
_GOOGLE = ("date", "run_name", "real_time", "cpu_time", "success", "error_message", KIND, DETAIL)
"""Columns of the rewritten files. Google Benchmark's times are converted to nanoseconds."""

_NANOSECONDS = {"ns": 1, "us": 1000, "ms": 1_000_000, "s": 1_000_000_000}
_AGGREGATE = re.compile(r".*_(mean|median|stddev|cv|BigO|RMS)")
"""Names of statistics before version 1.5, which has no `run_type`."""


# ------------------------------------------------------------------ pyperf


def _claims_pyperf(head: Head) -> bool:
    return all(f'"{name}"' in head.top for name in ("benchmarks", "runs")) and '"context"' not in head.top


def _build_pyperf_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Build the layout of pyperf's JSON: a value is a request, and the process that measured it is its instance."""
    if not _claims_pyperf(head):
        raise InputError(f"{head.path} is not what pyperf writes (`-o FILE`)", hint=_HINT)
    # Of each column of a request row: its name, the columns of the file, how it is made of them, and its unit.
    # A value of pyperf cannot fail: a benchmark that fails has no value.
    columns = (
        ColumnMap("ts", ("date",), "instant", "iso"),
        ColumnMap("endpoint", ("name",), "text"),
        ColumnMap("response_time_ms", ("value",), "number", "s"),
        ColumnMap("failed", ("failed",), "true"),
        ColumnMap("instance", ("process",), "text"),
    )
    layout = build_rewritten_layout("pyperf", head, _PYPERF, columns, column_requests, _read_pyperf)
    return replace(layout, advice="run pyperf without --track-memory: only values in seconds are compared")


def _read_pyperf(path: Path) -> Iterator[Row]:
    """Read the values of all benchmarks, warm-up values too. Raises InputError.

    A process writes the date when it began; its values follow one another from then on.
    """
    content = _read_json(path)
    version = content.get("version")
    if version not in ("1.0", 6):
        raise InputError(
            f"{path} has version {version} of pyperf's format; versions 6 and 1.0 are read",
            hint="convert it with a pyperf of today: `pyperf convert FILE -o NEW`",
        )
    end = _START
    for benchmark in _list_objects(path, content, "benchmarks"):
        common = _as_object(content.get("metadata")) | _as_object(benchmark.get("metadata"))
        for number, run in enumerate(_list_objects(path, benchmark, "runs"), 1):
            metadata = common | _as_object(run.get("metadata"))
            start = _read_date(metadata.get("date")) or end
            unit = str(metadata.get("unit", "second"))
            loops, inner_loops = _to_float(metadata.get("loops", 1)), _to_float(metadata.get("inner_loops", 1))
            # Each value: seconds of one loop, number of loops, kind.
            measured: list[tuple[object, float, str]] = []
            for warm_up in _list_entries(path, run, "warmups"):
                warm_up_loops, value = warm_up if isinstance(warm_up, list) and len(warm_up) == 2 else (None, None)
                if version == 6 and value is not None:  # there it is the seconds of all loops
                    value = _to_float(value) / max(_to_float(warm_up_loops) * inner_loops, 1.0)
                measured.append((value, _to_float(warm_up_loops) * inner_loops, LeftOutKind.WARM_UP))
            measured += [(value, loops * inner_loops, "") for value in _list_entries(path, run, "values")]
            end = start
            for value, value_loops, value_kind in measured:
                kind, detail = value_kind, ""
                if unit != "second":
                    kind, detail = LeftOutKind.OTHER_KIND, f"value in {unit}"
                name = str(metadata.get("name", ""))
                yield (end.isoformat(), name, _to_text(value), f"process {number}", kind, detail, "false")
                if unit == "second":
                    end = _add_seconds(end, _to_float(value) * value_loops)


# ------------------------------------------------------------------ Google Benchmark


def _claims_google(head: Head) -> bool:
    return all(f'"{name}"' in head.top for name in ("context", "num_cpus", "mhz_per_cpu"))


def _build_google_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Build the layout of Google Benchmark's JSON: a repetition is a request, its time that of one iteration."""
    if not _claims_google(head):
        raise InputError(f"{head.path} is not what Google Benchmark writes (`--benchmark_out=FILE`)", hint=_HINT)
    # Of each column of a request row: its name, the columns of the file, how it is made of them, and its unit.
    columns = (
        ColumnMap("ts", ("date",), "instant", "iso"),
        ColumnMap("endpoint", ("run_name",), "text"),
        ColumnMap("response_time_ms", ("real_time",), "number", "ns"),
        ColumnMap("failed", ("success",), "false"),
        ColumnMap("exception", ("error_message",), "text"),
    )
    return build_rewritten_layout("google-benchmark", head, _GOOGLE, columns, column_requests, _read_google)


def _read_google(path: Path) -> Iterator[Row]:
    """Read the repetitions of all benchmarks, and statistics about them. Raises InputError.

    The file has one date, of its start; the repetitions follow one another from then on.
    """
    content = _read_json(path)
    moment = _read_date(_as_object(content.get("context")).get("date")) or _START
    for benchmark in _list_objects(path, content, "benchmarks"):
        name = str(benchmark.get("run_name") or benchmark.get("name") or "")
        run_type = benchmark.get("run_type")
        kind, detail = "", ""
        if run_type == "aggregate" or (run_type is None and _AGGREGATE.fullmatch(name)):
            kind = LeftOutKind.SUMMARY
        elif benchmark.get("skipped"):
            kind, detail = LeftOutKind.OTHER_KIND, "skipped benchmark"
        success = "false" if benchmark.get("error_occurred") else "true"
        # An unknown unit leaves the times empty, and the row is bad.
        factor = _NANOSECONDS.get(str(benchmark.get("time_unit", "ns")))
        times = [_scale(benchmark.get(key), factor) for key in ("real_time", "cpu_time")]
        message = str(benchmark.get("error_message", ""))
        yield (moment.isoformat(), name, *times, success, message, kind, detail)
        if not kind:
            moment = _add_seconds(moment, _to_float(times[0]) * 1e-9 * _to_float(benchmark.get("iterations", 1)))


def _scale(value: object, factor: int | None) -> str:
    """A number times a factor, as a text; empty without a factor; anything else as JSON, so that its row is bad."""
    if factor is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _to_text(value * factor)
    return _to_text(value)


# ------------------------------------------------------------------ JSON


def _read_json(path: Path) -> Mapping[str, Any]:
    """Read a file as a JSON object. Raises InputError."""
    with open_text(path, errors="replace") as opened:
        text = opened.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise InputError(f"{path} is longer than {_LARGEST >> 20} MB", hint="split it into several files")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: the JSON is cut short or broken: {error.msg}", hint="write it again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is broken JSON: {error}", hint="write it again") from error
    return _as_object(content)


def _as_object(value: object) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _list_entries(path: Path, content: Mapping[str, Any], key: str) -> list[Any]:
    """The list under a key of a JSON object; empty if there is none. Raises InputError for anything but a list."""
    value = content.get(key, [])
    if not isinstance(value, list):
        raise InputError(f"{path}: '{key}' is not a list, as its tool writes it", hint="write the file again")
    return value


def _list_objects(path: Path, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of objects under a key. Raises InputError if there is none, or another value in it."""
    entries = _list_entries(path, content, key)
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: '{key}' has no entries that can be read", hint="write the file again")
    return entries


def _to_float(value: object) -> float:
    """A number, to find when a value was measured; 0 for anything else."""
    return float(value) if isinstance(value, int | float | str) and _is_number(value) else 0.0


def _is_number(value: float | str) -> bool:
    try:
        float(value)
    except (ValueError, OverflowError):
        return False
    return True


def _to_text(value: object) -> str:
    """A number with all its digits; anything else as JSON."""
    return "" if value is None else repr(value) if isinstance(value, float) else json.dumps(value)


def _read_date(value: object) -> datetime | None:
    """A date as these tools write it, in UTC unless it names its zone; `None` if it is none."""
    try:
        date = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _add_seconds(moment: datetime, seconds: float) -> datetime:
    """The moment so many seconds later; the same moment if that is no time that can be written."""
    if not 0 <= seconds <= (_LAST - _START).total_seconds():
        return moment
    return min(moment + timedelta(seconds=seconds), _LAST)


PYPERF = FileFormat(_build_pyperf_layout, frozenset({"json"}), _claims_pyperf)
GOOGLE_BENCHMARK = FileFormat(_build_google_layout, frozenset({"json"}), _claims_google)
