"""From a query of the policy to the queries that are sent."""

from __future__ import annotations

import re
from dataclasses import dataclass

from evaluator.records import PLAIN_QUERY, QUOTED, Part, Query, QueryKind, metric_name

_MATCHER = re.compile(rf"([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*({QUOTED})")


@dataclass(frozen=True, slots=True)
class Matcher:
    """A condition on a label: `code=~"5.."`."""

    label: str
    operator: str
    """`=` and `!=` compare texts, `=~` and `!~` match a pattern."""
    value: str

    @property
    def text(self) -> str:
        """The condition as it is written in a query."""
        return f'{self.label}{self.operator}"{self.value}"'

    def fits(self, value: str) -> bool | None:
        """Does the condition select this value of the label? None if Python cannot read its pattern."""
        if self.operator == "=":
            return value == self.value
        if self.operator == "!=":
            return value != self.value
        try:
            matches = re.fullmatch(self.value, value) is not None
        except re.error:
            return None
        return matches if self.operator == "=~" else not matches


def list_matchers(text: str) -> tuple[Matcher, ...]:
    """List the conditions on labels of a query NAME{CONDITIONS}, without those of `$selector`; none for an expression.

    >>> list_matchers('x{$selector,code=~"5.."}')
    (Matcher(label='code', operator='=~', value='5..'),)
    """
    query = PLAIN_QUERY.fullmatch(text)
    conditions = (query["labels"] or "") if query else ""
    return tuple(Matcher(label, operator, _unquote(quoted)) for label, operator, quoted in _MATCHER.findall(conditions))


def _unquote(quoted: str) -> str:
    """The value of a quoted text; a backslash escapes the next character, except between backticks."""
    return quoted[1:-1] if quoted[0] == "`" else re.sub(r"\\(.)", r"\1", quoted[1:-1])


def fill_query(text: str, selector: str, *, step_s: float, window_s: float) -> str:
    """Replace `$selector`, `$step` and `$window` in a query; an empty selector leaves no comma behind."""
    conditions = selector.strip().strip("{}").strip().strip(",")
    filled = text.replace("$selector", conditions)
    filled = re.sub(r"\{\s*,", "{", filled)
    filled = re.sub(r",\s*,", ",", filled)
    filled = re.sub(r",\s*\}", "}", filled)
    return filled.replace("$step", f"{step_s:g}s").replace("$window", f"{window_s:g}s")


def list_parts(query: Query) -> tuple[tuple[Part, str], ...]:
    """The queries that are sent for a query of the policy, each with the part that it asks for.

    A histogram has three: NAME_bucket, NAME_sum and NAME_count, with the labels of the query.
    """
    if query.kind is not QueryKind.HISTOGRAM:
        return (("value", query.text),)
    name = metric_name(query.text)
    name_end = query.text.index(name) + len(name)
    labels = query.text[name_end:]
    return tuple((part, f"{name}_{part}{labels}") for part in ("bucket", "sum", "count"))
