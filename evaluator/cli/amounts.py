"""Amounts on the command line, written as in the policy."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["Duration", "Share"]


class Duration(click.ParamType[float]):
    """`30s`, `5m`, `1m30s`, or seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Turn text into seconds."""
        from evaluator.policy.quantities import parse_duration_s

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
        from evaluator.policy.quantities import parse_share

        try:
            share = value if isinstance(value, float) else parse_share(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not 0 < share < 10:
            self.fail(f"must be above 0 and below 1000%, not '{value}'", param, ctx)
        return share
