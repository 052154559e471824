"""From a query of the policy to the queries that are sent."""

from __future__ import annotations

import re
from dataclasses import dataclass

from evaluator.records import PLAIN_QUERY, QUOTED, Part, Query, QueryKind, metric_name

_MATCHER = re.compile(rf"([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*({QUOTED})")


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label: `code=~"5.."`."""

    label: str
    how: str
    value: str

    @property
    def text(self) -> str:
        """As it is written in a query."""
        return f'{self.label}{self.how}"{self.value}"'

    def fits(self, value: str) -> bool | None:
        """Does it select this value? `None` where its pattern cannot be read here."""
        if self.how in ("=", "!="):
            return (value == self.value) == (self.how == "=")
        try:
            return bool(re.fullmatch(self.value, value)) == (self.how == "=~")
        except re.error:
            return None


def matchers_of(text: str) -> tuple[Matcher, ...]:
    """The conditions of a plain query, without those of `$selector`.

    >>> matchers_of('x{$selector,code=~"5.."}')
    (Matcher(label='code', how='=~', value='5..'),)
    """
    match = PLAIN_QUERY.fullmatch(text)
    labels = (match["labels"] or "") if match else ""
    return tuple(Matcher(label, how, _unquote(quoted)) for label, how, quoted in _MATCHER.findall(labels))


def _unquote(quoted: str) -> str:
    return quoted[1:-1] if quoted[0] == "`" else re.sub(r"\\(.)", r"\1", quoted[1:-1])


def fill(text: str, selector: str, *, step_s: float, window_s: float) -> str:
    """Put the arm's selector, the step and the window into a query."""
    conditions = selector.strip().strip("{}").strip().strip(",")
    filled = text.replace("$selector", conditions)
    filled = re.sub(r"\{\s*,|,\s*,", lambda match: match[0][0], filled)
    filled = re.sub(r",\s*\}", "}", filled)
    return filled.replace("$step", f"{step_s:g}s").replace("$window", f"{window_s:g}s")


def parts_of(query: Query) -> tuple[tuple[Part, str], ...]:
    """The queries that are sent for a query: three for a histogram."""
    if query.kind is not QueryKind.HISTOGRAM:
        return (("value", query.text),)
    name = metric_name(query.text)
    start = query.text.index(name) + len(name)
    tail = query.text[start:]
    return tuple((part, f"{name}_{part}{tail}") for part in ("bucket", "sum", "count"))
