"""From a query of the policy to what is sent."""

from __future__ import annotations

import re

from evaluator.records import Part, Query, QueryKind

__all__ = ["fill", "is_plain", "metric_name", "parts_of"]

_QUOTED = r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`[^`]*`"
_PLAIN = re.compile(rf"\s*(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?P<labels>\{{(?:[^{{}}\"'`]|{_QUOTED})*\}})?\s*")


def is_plain(text: str) -> bool:
    """Is this a series' name with labels, and no function or operator around it?"""
    return _PLAIN.fullmatch(text) is not None


def metric_name(text: str) -> str:
    """Name of the metric of a plain query; empty where it is not one."""
    match = _PLAIN.fullmatch(text)
    return match["name"] if match else ""


def fill(text: str, selector: str, *, step_s: float, window_s: float) -> str:
    """Put the arm's selector, the step and the window into a query."""
    given = selector.strip().strip("{}").strip().strip(",")
    filled = text.replace("$selector", given)
    filled = re.sub(r"\{\s*,|,\s*,", lambda match: match[0][0], filled)
    filled = re.sub(r",\s*\}", "}", filled)
    return filled.replace("$step", f"{step_s:g}s").replace("$window", f"{window_s:g}s")


def parts_of(query: Query) -> tuple[tuple[Part, str], ...]:
    """The series that a query stands for: a histogram is three of them."""
    if query.kind is not QueryKind.HISTOGRAM:
        return (("value", query.text),)
    name = metric_name(query.text)
    start = query.text.index(name) + len(name)
    rest = query.text[start:]
    return tuple((part, f"{name}_{part}{rest}") for part in ("bucket", "sum", "count"))
