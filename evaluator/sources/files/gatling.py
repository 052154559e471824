"""Gatling's `simulation.log`, which is text up to version 3.12."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from evaluator.errors import InputError
from evaluator.records import ColumnMap, FileLayout, LeftOutKind
from evaluator.sources.files.base import FileFormat, Head
from evaluator.sources.files.columns import ColumnRequest
from evaluator.sources.files.rewriting import (
    DETAIL,
    KIND,
    LINE,
    UNREADABLE,
    Row,
    build_rewritten_layout,
    make_unreadable_row,
    read_lines,
)

_HEADER = ("start", "name", "duration", "status", "message", KIND, DETAIL, UNREADABLE, LINE)
"""Columns of the rewritten file: times in milliseconds; the status is true for OK and false for KO."""

_RECORDS = ("RUN", "REQUEST", "USER", "GROUP", "ASSERTION", "ERROR")
_DESCRIBING = ("RUN", "USER", "ASSERTION")
"""Records that describe the test; they are no rows."""

_STATUS = {"OK": "true", "KO": "false"}


def _claims(head: Head) -> bool:
    """Is this a simulation.log?"""
    return head.top.startswith(tuple(f"{record}\t" for record in _RECORDS))


def _build_layout(head: Head, column_requests: Sequence[ColumnRequest]) -> FileLayout:
    """Build the layout of a simulation.log. Its groups sum up their requests, and its errors are of another kind."""
    if not _claims(head):
        raise InputError(
            f"{head.path} is not a simulation.log of Gatling", hint="leave --format out to have it recognised"
        )
    # Of each column of a request row: its name, the columns of the file, how it is made of them, and its unit.
    # "false": false is a failure.
    columns = (
        ColumnMap("ts", ("start",), "instant", "ms"),
        ColumnMap("endpoint", ("name",), "text"),
        ColumnMap("response_time_ms", ("duration",), "number", "ms"),
        ColumnMap("failed", ("status",), "false"),
        ColumnMap("exception", ("message",), "text"),
    )
    return build_rewritten_layout("gatling", head, _HEADER, columns, column_requests, _read_rows)


def _read_rows(path: Path) -> Iterator[Row]:
    """Read the requests, groups and errors of a simulation.log. Raises InputError."""
    for number, line in enumerate(read_lines(path), 1):
        record, *values = line.rstrip("\r\n").split("\t")
        if not line.strip() or (record in _DESCRIBING and values):
            continue
        row = None
        # Gatling 3.5 writes some errors under the name of a group, with their message and time only.
        is_error = record == "ERROR" or (record == "GROUP" and len(values) == 2)
        if record == "REQUEST":
            row = _make_request(values)
        elif is_error and len(values) >= 2:
            message = " ".join(values[:-1])
            # The time is the last value, if the line is whole.
            row = (values[-1], "ERROR", "0", "false", message, LeftOutKind.OTHER_KIND, "error of the simulation")
        elif record == "GROUP":
            row = _make_group(values)
        yield (*row, "", str(number)) if row else make_unreadable_row(line, len(_HEADER), number)


def _make_request(values: Sequence[str]) -> tuple[str, ...] | None:
    """Make the row of a REQUEST from its values; `None` if they are not those of any version.

    Up to 2.3: scenario, user, groups, name, start, end, status, message. 3.0 to 3.3: without the scenario. Since 3.4:
    also without the user.
    """
    first = _find_groups(values)
    if first is None:
        return None
    groups, name, start, end, status = values[first : first + 5]
    message = " ".join(values[first + 5 :]).strip()
    return (start, _join_name(groups, name), _subtract(end, start), _STATUS[status], message, "", "")


def _make_group(values: Sequence[str]) -> tuple[str, ...] | None:
    """Make the row of a GROUP from its values: groups, start, end, sum of the response times, status."""
    first = _find_groups(values)
    if first is None:
        return None
    groups, start, end, _, status = values[first : first + 5]
    duration = _subtract(end, start)
    return (start, _join_name(groups), duration, _STATUS[status], "", LeftOutKind.SUMMARY, "")


def _find_groups(values: Sequence[str]) -> int | None:
    """Position of the groups among the values of a REQUEST or GROUP, which depends on the version; `None`: nowhere.

    Four values later comes the status, after a number.
    """
    return next(
        (
            first
            for first in range(3)
            if len(values) > first + 4 and values[first + 4] in _STATUS and values[first + 3].lstrip("-").isdecimal()
        ),
        None,
    )


def _join_name(groups: str, *names: str) -> str:
    """Name of a request with the groups that it is in, as Gatling's report shows them: `Checkout / Pay`."""
    return " / ".join([*(group for group in groups.split(",") if group), *names])


def _subtract(end: str, start: str) -> str:
    """Milliseconds from start to end; empty if one is no number."""
    try:
        return str(int(end) - int(start))
    except ValueError:
        return ""


GATLING = FileFormat(_build_layout, claims=_claims)
