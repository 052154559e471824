"""Columns by option: `--column TARGET=SOURCE[:UNIT]`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from evaluator.errors import InputError, UnknownName
from evaluator.records import ColumnMap

REQUIRED = ("ts", "endpoint", "response_time_ms", "failed")
"""Columns of the request row that a file must have."""

TARGETS = (*REQUIRED, "instance", "response_bytes", "status_code", "exception", "user_count")
"""Columns of the request row that a file may have."""

TIME_UNITS = ("s", "ms", "us", "ns")
INSTANT_UNITS = (*TIME_UNITS, "iso")
FAILED_UNITS = {"failure": "true", "success": "false", "status": "status", "text": "filled"}
_SUCCESS_NAMES = ("success", "succeeded", "ok", "passed")

Kind = Literal[
    "text", "integer", "number", "instant", "true", "false", "status", "filled", "unexpected", "ended", "route"
]


@dataclass(frozen=True, slots=True)
class ColumnRequest:
    """One `--column`: the source is looked up when the file's header is known."""

    target: str
    source: str
    unit: str = ""


def parse_columns(texts: Sequence[str]) -> tuple[ColumnRequest, ...]:
    """Parse the values of `--column`, each TARGET=SOURCE[:UNIT]. Raises InputError and UnknownName."""
    column_requests = []
    for text in texts:
        target, equals, source_text = text.partition("=")
        if not equals or not target or not source_text:
            raise InputError(
                f"--column '{text}' is not of the form TARGET=SOURCE[:UNIT]",
                hint="for example --column response_time_ms=elapsed:s",
            )
        if target not in TARGETS:
            raise UnknownName("column of a request row", target, TARGETS)
        source, colon, unit = source_text.rpartition(":")
        # The column of a request row decides which units it may have; most have none.
        units = {"ts": INSTANT_UNITS, "response_time_ms": TIME_UNITS, "failed": tuple(FAILED_UNITS)}.get(target, ())
        if colon and unit in units:
            column_requests.append(ColumnRequest(target, source, unit))
        else:  # a colon without a unit after it is part of the column's name
            column_requests.append(ColumnRequest(target, source_text))
    targets = [request.target for request in column_requests]
    repeated_target = next((target for target in targets if targets.count(target) > 1), None)
    if repeated_target:
        raise InputError(f"--column names '{repeated_target}' twice")
    return tuple(column_requests)


def map_column(request: ColumnRequest, header: Sequence[str], typical: Mapping[str, object]) -> ColumnMap:
    """Map a column of the request row to the column of the file that the option `--column` names for it.

    `header`: columns of the file; `typical`: column → a typical value, which shows the unit of `ts` (seconds,
    milliseconds, …) if the request has none. Raises UnknownName where the file has no such column.
    """
    # SOURCE is a column, or several joined by `+`.
    sources = (request.source,) if request.source in header else tuple(request.source.split("+"))
    for source in sources:
        if source not in header:
            raise UnknownName(
                "column in the file", source, header, hint="columns are named with --column TARGET=SOURCE"
            )
    if request.target == "ts":
        return ColumnMap("ts", sources, "instant", request.unit or determine_instant_unit(typical.get(sources[0])))
    if request.target == "response_time_ms":
        return ColumnMap(request.target, sources, "number", request.unit or find_unit_of_name(sources[0]) or "ms")
    if request.target == "failed":
        # Without a unit, the name of the column shows whether its values are true for a success or for a failure.
        default = "success" if request.source.lower() in _SUCCESS_NAMES else "failure"
        return ColumnMap("failed", sources, cast("Kind", FAILED_UNITS[request.unit or default]))
    is_integer = request.target in {"response_bytes", "status_code", "user_count"}
    return ColumnMap(request.target, sources, "integer" if is_integer else "text")


_WORDS_FOR_UNITS = {
    "ns": ("ns", "nanos", "nanosecond", "nanoseconds"),
    "us": ("us", "µs", "micros", "microsecond", "microseconds"),
    "ms": ("ms", "millis", "millisecond", "milliseconds"),
    "s": ("s", "sec", "secs", "second", "seconds"),
}
"""Unit of a duration → words for it at the end of the name of a column."""


def find_unit_of_name(name: str) -> str:
    """Find the unit of a duration that the name of its column ends in: s, ms, us or ns; empty if there is none.

    >>> find_unit_of_name("took_ns"), find_unit_of_name("durationSeconds"), find_unit_of_name("time (µs)")
    ('ns', 's', 'us')
    >>> find_unit_of_name("elapsed"), find_unit_of_name("status")
    ('', '')
    """
    # "durationSeconds" has the words "duration Seconds"; both letters that are used for micro become the same.
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.replace("\N{GREEK SMALL LETTER MU}", "µ"))
    words = re.findall(r"[a-zµ]+", spaced.lower())
    last_word = words[-1] if words else ""
    return next((unit for unit, spellings in _WORDS_FOR_UNITS.items() if last_word in spellings), "")


_SINCE_EPOCH = ((1e11, "s"), (1e14, "ms"), (1e17, "us"))
"""An instant below this number is in this unit: years 1973 to 5138 for seconds, and so on."""


def determine_instant_unit(value: object) -> str:
    """Determine the unit of a time since 1970 by its size: s, ms, us or ns; iso (8601) if it is not a number."""
    try:
        size = abs(float(str(value)))
    except ValueError:
        return "iso"
    for limit, unit in _SINCE_EPOCH:
        if size < limit:
            return unit
    return "ns"
