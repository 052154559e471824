"""How templates of reports are filled: what is written is escaped, cut where it is too long, and put into words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from evaluator.records import Comparison
from evaluator.reports.base import (
    HEALTH_MARKS,
    NBSP,
    TIED,
    count_both,
    format_allowed,
    format_both,
    format_effect,
    is_only_shown,
    mark_status,
    name_check,
    name_role,
    plain_text,
)
from evaluator.reports.metric_rows import explain_adjustment
from evaluator.wording import format_count, name_comparison

MAX_CHARACTERS = 300
"""Characters of a name or text that are shown; the JSON has all of it."""


def make_environment() -> Environment:
    """Make what fills templates: it escapes all values, and lets templates include each other by name."""
    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
        finalize=_clean_value,
        keep_trailing_newline=False,
        loader=FunctionLoader(read_template),
    )
    environment.filters |= FILTERS
    return environment


def read_template(name: str) -> str:
    """Read a file of the folder with templates and styles."""
    return (files("evaluator.reports") / "templates" / name).read_text(encoding="utf-8")


def _clean_value(value: Any) -> Any:
    """Clean a value that the template is about to write; markup and values that are no text stay as they are."""
    return _clean_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _clean_text(text: str) -> str:
    """Escape control characters; cut a text that is too long, unless it has several lines (a policy or a query)."""
    if len(text) > MAX_CHARACTERS and "\n" not in text:
        text = text[: MAX_CHARACTERS - 1] + "…"
    return "\n".join(plain_text(line) for line in text.split("\n"))


def _mark_up_code(text: str) -> Markup:
    """Write a sentence as HTML in which parts between backticks are code."""
    parts = [escape(TIED.sub(NBSP, _clean_text(part))) for part in text.split("`")]
    # Parts at odd places were between backticks; an even number of parts means that a backtick has no partner.
    if len(parts) % 2 == 0:
        return escape(TIED.sub(NBSP, _clean_text(text)))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


_BREAKS = re.compile(r"(?<=[/_?&=@|])(?=\w)|(?<=[-.,:;])(?=[^\W\d])")
"""Where a name may go on in the next line."""
_LONGEST = 24
"""Characters of the longest word that is not broken."""
_LONG = re.compile(rf"(\S{{{_LONGEST}}})(?=\S)")


def _make_breakable(text: str) -> Markup:
    """Write a text as HTML in which names may be broken at their signs, and else only words that are very long."""
    text = TIED.sub(NBSP, _clean_text(text))
    words = [word for piece in _BREAKS.split(text) for word in _LONG.split(piece) if word]
    return Markup("<wbr>").join(escape(word) for word in words)


def _tie(text: str) -> str:
    """Let no line end within a number with its unit, or within an interval."""
    return text.replace(" ", NBSP).replace(f"{NBSP}(", " (").replace(f",{NBSP}", ", ")


def identify(row: Comparison) -> tuple[str, str, str | None, str]:
    """Return what identifies a comparison within a verdict: rule, arm, endpoint (`None`: all), and kind of evidence."""
    return row.rule.name, row.arm, row.rule.slice.endpoint, row.kind.value


def format_moment(moment: Any) -> str:
    """Write a UTC time, a datetime or ISO text, to the minute: `2026-11-25 23:50 UTC`; a dash if it is None."""
    if moment is None:
        return "–"
    iso_text = moment if isinstance(moment, str) else moment.isoformat()
    return f"{iso_text[:10]} {iso_text[11:16]} UTC"


def to_yaml(plain: Mapping[str, Any]) -> str:
    """Write plain values, such as a policy, as YAML in their own order."""
    return str(yaml.safe_dump(dict(plain), sort_keys=False, allow_unicode=True))


FILTERS = {
    "coded": _mark_up_code,
    "breakable": _make_breakable,
    "tied": _tie,
    "key": identify,
    "name": name_comparison,
    "role": name_role,
    "only_shown": is_only_shown,
    "mark": mark_status,
    "both": format_both,
    "effect": format_effect,
    "adjustment": explain_adjustment,
    "allowed": format_allowed,
    "n": count_both,
    "counted": format_count,
    "checked": name_check,
    "level": HEALTH_MARKS.get,
    "yaml": to_yaml,
}
"""How the template writes parts of a verdict."""
