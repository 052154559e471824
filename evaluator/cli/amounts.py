"""Amounts on the command line, written as in the policy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click

__all__ = ["Duration", "Moment", "Share"]


class Duration(click.ParamType[float]):
    """`30s`, `5m`, `1m30s`, or seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Turn text into seconds."""
        from evaluator.quantities import parse_duration_s

        if isinstance(value, float):
            return value
        try:
            return parse_duration_s(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Share(click.ParamType[float]):
    """`10%`, `0.5pp`, or 0.1."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Turn text into a share of 1."""
        from evaluator.quantities import parse_share

        try:
            share = value if isinstance(value, float) else parse_share(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not 0 < share < 10:
            self.fail(f"must be above 0 and below 1000%, not '{value}'", param, ctx)
        return share


class Moment(click.ParamType[datetime]):
    """`2026-11-25T10:00:00Z`, `now`, or so long ago: `-1h`."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Turn text into a moment in UTC; one without a zone is refused, since it may mean another hour elsewhere."""
        if isinstance(value, datetime):
            return value
        try:
            return _parse_moment(value.strip())
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _parse_moment(text: str) -> datetime:
    from evaluator.quantities import parse_duration_s

    if text == "now":
        return datetime.now(UTC)
    if text.startswith("-"):
        return datetime.now(UTC) - timedelta(seconds=parse_duration_s(text[1:]))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a moment such as 2026-11-25T10:00:00Z, now or -1h") from None
    if moment.tzinfo is None:
        raise ValueError(f"'{text}' has no time zone; write {text}Z for UTC, or {text}+01:00")
    return moment.astimezone(UTC)
