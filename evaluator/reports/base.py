"""What a format is, and the words and numbers that all of them share."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from evaluator.records import Comparison, Level, MetricStatus, Role, Verdict, VerdictWord
from evaluator.wording import format_change, format_interval, format_margin, format_value

__all__ = [
    "HEALTH_MARKS",
    "STATUS_MARKS",
    "VERDICT_WORDS",
    "Page",
    "Render",
    "format_allowed",
    "format_both",
    "format_effect",
    "is_watched",
    "plain_text",
]


@dataclass(frozen=True, slots=True)
class Page:
    """What the text is written on."""

    width: int = 80
    color: bool = False
    unicode: bool = True


Render = Callable[[Verdict, Page], str]

VERDICT_WORDS = {
    VerdictWord.GO: "GO ✓",
    VerdictWord.NO_GO: "NO-GO ✗",
    VerdictWord.INCONCLUSIVE: "INCONCLUSIVE ?",
}
STATUS_MARKS = {
    MetricStatus.PASS: "✓ pass",
    MetricStatus.FAIL: "✗ fail",
    MetricStatus.INCONCLUSIVE: "? inconclusive",
    MetricStatus.NO_DATA: "∅ no data",
}
HEALTH_MARKS = {Level.OK: "✓", Level.WARN: "!", Level.FAIL: "✗"}


def plain_text(text: str) -> str:
    """Show what would move the cursor, colour the terminal or turn the line round, instead of doing it."""
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape").decode("ascii")
    return character


def format_both(row: Comparison) -> tuple[str, str]:
    """Both arms' own values."""
    return format_value(row.baseline.value, row.unit), format_value(row.candidate.value, row.unit)


def format_effect(row: Comparison) -> str:
    """The change with its interval, signs always: `+17.8 % (+12.9 … +23)`."""
    if row.effect is None:
        return "–"
    return f"{format_change(row.effect, row.unit)} ({format_interval(row.effect, row.unit)})"


def format_allowed(row: Comparison) -> str:
    """Margin and absolute bounds: `10 %`, `0.1 pp, ≤ 1 %`."""
    margin, limit = row.rule.margin, row.rule.limit
    parts = [format_margin(margin, row.unit)] if margin else []
    parts += [f"≥ {format_value(limit.min, row.unit)}"] if limit.min is not None else []
    parts += [f"≤ {format_value(limit.max, row.unit)}"] if limit.max is not None else []
    return ", ".join(parts) or "–"


def is_watched(row: Comparison) -> bool:
    """Tell whether a row is only shown."""
    return row.rule.role is Role.WATCH
