"""What a format is, and the words and numbers that all of them share."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from evaluator.records import Comparison, Level, MetricStatus, Role, Rule, Verdict, VerdictWord

__all__ = [
    "HEALTH_MARKS",
    "STATUS_MARKS",
    "VERDICT_WORDS",
    "Page",
    "Render",
    "format_change",
    "format_duration",
    "format_margin",
    "format_values",
    "name_metric",
    "plain_text",
]

MINUS = "−"
NOTHING = "–"


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


def name_metric(rule: Rule) -> str:
    """Short name of a metric: `failures`, `p95`, or what the policy calls it."""
    usual = {"failure_rate": "failures", "latency_mean": "mean"}
    if rule.name == rule.type and rule.name in usual:
        return usual[rule.name]
    if rule.quantile is not None and rule.name == f"latency_p{_plain(100 * rule.quantile)}":
        return rule.name.removeprefix("latency_")
    return plain_text(rule.name)


def format_values(row: Comparison) -> tuple[str, str]:
    """Both arms' values in one unit, with three significant digits."""
    values = (row.baseline.value, row.candidate.value)
    finite = [abs(v) for v in values if v is not None and math.isfinite(v)]
    scale, unit = _unit(row.unit, max(finite, default=0.0))
    return _value(values[0], scale, unit), _value(values[1], scale, unit)


def _unit(unit: str, largest: float) -> tuple[float, str]:
    """Factor and text of the unit in which `largest` reads well."""
    if unit == "fraction":
        return 100.0, "%"
    if unit == "ms" and largest >= 10_000:
        return 0.001, "s"
    if unit == "ms" and 0 < largest < 0.1:
        return 1000.0, "µs"
    return 1.0, unit


def _value(value: float | None, scale: float, unit: str) -> str:
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "a failure" if unit != "%" else "∞"
    return f"{_three_digits(value * scale)} {unit}"


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    decimals = 2 - math.floor(math.log10(abs(float(f"{value:.3g}"))))
    return f"{round(value, decimals):,.{min(max(decimals, 0), 6)}f}".replace("-", MINUS)


def format_change(row: Comparison) -> str:
    """The change with its interval, signs always: `+17.8 % (+12.9 … +23.0)`."""
    effect = row.effect
    if effect is None:
        return NOTHING
    scale, unit = (100.0, "%") if effect.kind == "relative" else _unit_of_change(row)
    numbers = [number * scale for number in (effect.estimate, effect.lower, effect.upper)]
    decimals = _decimals(max((abs(n) for n in numbers if math.isfinite(n)), default=0.0))
    estimate, lower, upper = (_signed(number, decimals) for number in numbers)
    return f"{estimate} {unit} ({lower} … {upper})"


def _unit_of_change(row: Comparison) -> tuple[float, str]:
    return (100.0, "pp") if row.unit == "fraction" else (1.0, row.unit)


def _decimals(largest: float) -> int:
    return 0 if largest >= 100 else 1 if largest >= 1 else 2 if largest >= 0.1 else 3 if largest >= 0.01 else 4


def _signed(number: float, decimals: int) -> str:
    if math.isnan(number):
        return "?"
    sign = MINUS if number < 0 else "+"
    return sign + ("∞" if math.isinf(number) else f"{abs(number):,.{decimals}f}")


def format_margin(rule: Rule, unit: str) -> str:
    """Margin and absolute bounds: `10 %`, `0.1 pp, ≤ 1 %`."""
    parts = []
    if rule.margin is not None:
        relative = rule.margin.relative
        scale, shown = (100.0, "%") if relative else (100.0, "pp") if unit == "fraction" else (1.0, unit)
        parts.append(f"{_plain(rule.margin.value * scale)} {shown}")
    scale, shown = _unit(unit, 1.0)
    for sign, bound in (("≥", rule.limit.min), ("≤", rule.limit.max)):
        if bound is not None:
            parts.append(f"{sign} {_plain(bound * scale)} {shown}")
    return ", ".join(parts) or NOTHING


def _plain(number: float) -> str:
    return f"{number:.6g}"


def format_duration(seconds: float) -> str:
    """A duration as people say it: `45 s`, `14 min`, `2 h 5 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def is_watched(row: Comparison) -> bool:
    """Tell whether a row is only shown."""
    return row.rule.role is Role.WATCH
