"""Amounts on the command line, written as in the policy."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import click

from evaluator.quantities import parse_duration_s, parse_share

Value = TypeVar("Value")


class Amount(click.ParamType[Value], Generic[Value]):
    """An option whose text `parse` converts; the message of its ValueError is shown to the user."""

    def __init__(self, name: str, parse: Callable[[str], Value]) -> None:
        self.name, self.parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Value:
        """Convert text; a value that is not text is returned unchanged."""
        if not isinstance(value, str):
            converted: Value = value
            return converted
        try:
            return self.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _parse_share(text: str) -> float:
    """Convert `10%`, `0.5pp` or 0.1 to a share of 1. Raises ValueError unless it is above 0 and below 10 (1000 %)."""
    share = parse_share(text)
    if not 0 < share < 10:
        raise ValueError(f"must be above 0 and below 1000%, not '{text}'")
    return share


def _parse_moment(text: str) -> datetime:
    """Convert a time such as `2026-11-25T10:00:00+01:00`, `now` or `-1h` (an hour ago) to UTC.

    Raises ValueError for anything else, and for a time without a zone, which is ambiguous.
    """
    text = text.strip()
    if text == "now":
        return datetime.now(UTC)
    if text.startswith("-"):
        return datetime.now(UTC) - timedelta(seconds=parse_duration_s(text[1:]))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a time such as 2026-11-25T10:00:00Z, now or -1h") from None
    if moment.tzinfo is None:
        raise ValueError(f"'{text}' has no time zone; write {text}Z for UTC, or {text}+01:00")
    return moment.astimezone(UTC)


def _parse_window(text: str) -> tuple[datetime, datetime]:
    """Convert a window such as `2026-11-25T10:00:00Z/2026-11-25T11:00:00Z` or `-2h/-1h` to its start and end in UTC.

    Raises ValueError for anything else, and for a window that does not start before its end.
    """
    start_text, slash, end_text = text.partition("/")
    if not slash:
        raise ValueError(f"'{text}' is not a window START/END, such as 2026-11-25T10:00:00Z/2026-11-25T11:00:00Z")
    start, end = _parse_moment(start_text), _parse_moment(end_text)
    if start >= end:
        raise ValueError(f"'{text}' does not start before its end")
    return start, end


DURATION = Amount("duration", parse_duration_s)
"""`30s`, `5m`, `1m30s`, or seconds → seconds."""
SHARE = Amount("share", _parse_share)
"""`10%`, `0.5pp`, or 0.1 → a share of 1."""
WINDOW = Amount("window", _parse_window)
"""`START/END` → both in UTC."""
MOMENT = Amount("moment", _parse_moment)
"""`2026-11-25T10:00:00Z`, `now`, or relative to now: `-1h`."""
