"""The one visual language: colours, sizes, axes, and what a figure consists of."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evaluator.records import BASELINE, Comparison, Direction, Evidence, EvidenceKind
from evaluator.wording import format_number, name_comparison

if TYPE_CHECKING:
    import altair as alt


INK, MUTED, GRID, BAND, SHADE = "#26323f", "#5b6773", "#dde2e7", "#e6ebf0", "#f0efe9"
BASE = "#4f6d8f"
"""Grey-blue: the baseline, everywhere."""
CANDIDATES = ("#c2570c", "#0f7b7e", "#8a4fa3", "#6f6518", "#a83a5b")
"""Orange: the canary, everywhere; then further arms."""
PASS, FAIL, OPEN = "#1a7f37", "#b42318", "#8a5a00"
"""For verdicts and statuses only, and only next to their mark."""

PALETTE: Mapping[str, str] = {
    INK: "#e6eaee",
    MUTED: "#a9b4bf",
    GRID: "#39434e",
    BAND: "#2b353f",
    SHADE: "#2f2d26",
    BASE: "#9db7d6",
    CANDIDATES[0]: "#ff9f57",
    CANDIDATES[1]: "#4fc3c6",
    CANDIDATES[2]: "#cf9ee3",
    CANDIDATES[3]: "#cbbd62",
    CANDIDATES[4]: "#ee8fac",
    PASS: "#5fce80",
    FAIL: "#ff8f85",
    OPEN: "#e9b44c",
}
"""Every colour, and its counterpart on a dark page."""

NARROW, WIDE = 346, 1060
"""Widths (px) of a figure: on a phone and in a column, and across a page."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MAX_CHARACTERS = 60
MINUTES_FROM_S = 150
"""Times beyond this many seconds are shown in minutes."""


def check_charts_as_a_whole() -> None:
    """Let Altair check a chart when it is written, not each of its parts as well, which takes as long as drawing."""
    from altair.utils import schemapi

    schemapi.disable_debug_mode()


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its title, its description and its numbers."""

    chart: alt.LayerChart | alt.FacetChart
    title: str
    """The finding, in words with numbers."""
    alt: str
    """A description, for people who cannot see the chart."""
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """The numbers, as a table."""


@dataclass(frozen=True, slots=True)
class EffectScale:
    """How an effect is shown: it is multiplied by `factor`, and the result is in `unit`."""

    factor: float
    unit: str

    def write(self, value: float | None) -> str:
        """Write an effect with its sign and unit; a dash if it is None."""
        return "–" if value is None else f"{format_number(value * self.factor, sign=True)} {self.unit}"


def choose_scale(unit: str, *, relative: bool) -> EffectScale:
    """Choose how changes of a metric in `unit` are shown.

    Relative changes in percent, absolute changes of a fraction in percentage points, all others in the metric's unit.
    """
    if relative:
        return EffectScale(100.0, "%")
    return EffectScale(100.0, "pp") if unit == "fraction" else EffectScale(1.0, unit)


def choose_effect_scale(row: Comparison) -> EffectScale:
    """Choose how the effect of a comparison is shown; without an effect as if it were relative."""
    return choose_scale(row.unit, relative=row.effect is None or row.effect.kind == "relative")


def is_drawn(row: Comparison, figures: Mapping[str, Any]) -> bool:
    """Is this a comparison of the requests that the figures' data are of: those of a load, or those of production?"""
    return (row.kind is EvidenceKind.LIVE) == (figures.get("evidence") == EvidenceKind.LIVE)


def name_row(row: Comparison, *, with_arm: bool) -> str:
    """Name a comparison: `p95 of GET /cart`, or with its arm `p95 of GET /cart, canary`."""
    return f"{name_comparison(row)}, {row.arm}" if with_arm else name_comparison(row)


def is_worse_upwards(row: Comparison) -> bool:
    """Does this metric get worse when it rises?"""
    return row.rule.direction is Direction.LOWER


def color_arms(arms: Sequence[str]) -> dict[str, str]:
    """Choose a colour for each arm: grey-blue for the baseline, orange for the first candidate.

    Returns the colours by arm, the baseline first (also if it is not among `arms`), then candidates in their order.
    """
    candidates = [arm for arm in dict.fromkeys(arms) if arm != BASELINE]
    return {BASELINE: BASE} | {arm: CANDIDATES[index % len(CANDIDATES)] for index, arm in enumerate(candidates)}


TICK_LABELS = "abs(datum.value) < 1 ? format(datum.value, '~r') : format(datum.value, '~s')"
"""Labels of an axis of numbers: thousands as `2k`, but nothing below 1 in thousandths: `0.4`, not `400m`."""


def color_judged_arms(evidence: Evidence) -> dict[str, str]:
    """Choose the colours of all arms of a verdict, for each of its tables and figures alike."""
    return color_arms([*(arm.name for arm in evidence.arms), *(row.arm for row in evidence.comparisons)])


def inline(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Make data of a chart from rows; they become part of the chart, which needs no file."""
    import altair as alt

    return alt.InlineData(values=[dict(row) for row in rows])


def layer_change(
    points: Sequence[Mapping[str, Any]], x: Any, domain: tuple[float, float], unit: str, color: str
) -> Any:
    """Draw a change along an axis; returns layers: zero, the band of the intervals, the line and dots of the estimates.

    Args:
        points: Each with `change`, `lower`, `upper` (in `unit`), `tip` (text of the tooltip), and the field that `x`
            names.
        x: The horizontal axis, an `alt.X`.
        domain: Lowest and highest change that is drawn.
        unit: Unit of the change.
        color: Colour of the arm.
    """
    import altair as alt

    y = alt.Y("change:Q", title=f"change, {unit}", scale=alt.Scale(domain=list(domain), nice=False, zero=False))
    base = alt.Chart(inline(points)).encode(x=x)
    zero = alt.Chart(inline([{"change": 0}])).mark_rule(color=MUTED, strokeWidth=1).encode(y="change:Q")
    area = base.mark_area(color=color, opacity=0.25, clip=True).encode(
        y=alt.Y("lower:Q", title=f"change, {unit}"), y2="upper:Q"
    )
    line = base.mark_line(color=color, strokeWidth=2, clip=True).encode(y=y)
    dots = base.mark_point(color=color, filled=True, size=26, opacity=1, clip=True).encode(y=y, description="tip:N")
    return [zero, area, line, dots]


def find_edge(row: Comparison, scale: EffectScale) -> float | None:
    """Find the change at which the margin is used up: negative for a metric that gets worse when it falls.

    `None` without a margin.
    """
    if row.rule.margin is None:
        return None
    return row.rule.margin.value * scale.factor * (1 if is_worse_upwards(row) else -1)


def layer_allowed(edge: float, begin: float, end: float, domain: tuple[float, float]) -> list[Any]:
    """Draw the band of what is allowed to both sides of zero, and a dashed line at its harmful edge.

    `edge`: as `find_edge` finds it; `begin` and `end` are its places on the axis of time, `domain` has the ends of the
    axis of changes.
    """
    import altair as alt

    low, high = domain
    box = {"x": begin, "x2": end, "y": max(-abs(edge), low), "y2": min(abs(edge), high), "edge": edge}
    boxes = alt.Chart(inline([box]))
    return [
        boxes.mark_rect(color=BAND).encode(x="x:Q", x2="x2:Q", y="y:Q", y2="y2:Q"),
        boxes.mark_rule(color=INK, strokeDash=[5, 3]).encode(y="edge:Q"),
    ]


def cut(value: float | None, scale: EffectScale, domain: tuple[float, float], *, unknown: float) -> float:
    """Place a change on an axis whose ends `domain` has: what lies beyond is at its end. `unknown`: for `None`."""
    low, high = domain
    return unknown if value is None else min(max(value * scale.factor, low), high)


def finish(chart: Any, *, width: int, height: int) -> Any:
    """Give a chart its size (px, with axes and labels) and the common look."""
    import altair as alt

    sized = chart.properties(width=width, height=height, autosize=alt.AutoSizeParams(type="fit", contains="padding"))
    return style(sized)


def style(chart: Any) -> Any:
    """Give a chart the common look: font, colours and distances."""
    return (
        chart.configure(background="transparent", font=FONT, padding={"left": 2, "right": 6, "top": 6, "bottom": 2})
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=MUTED,
            titleColor=MUTED,
            gridColor=GRID,
            domainColor=GRID,
            tickColor=GRID,
            labelFontSize=11,
            titleFontSize=11,
            titleFontWeight="normal",
        )
    )


def choose_time_unit(seconds: float) -> tuple[float, str]:
    """Choose the unit of an axis of time that ends at `seconds`; returns the seconds in a unit, and its name."""
    return (60.0, "minutes") if seconds > MINUTES_FROM_S else (1.0, "seconds")


def shorten(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """Cut a text to `max_characters`, the last of them `…` if it was longer; control characters become `�`."""
    # Control, format and surrogate characters, separators of lines and paragraphs, and characters of private use.
    unsafe_categories = ("Cc", "Cf", "Cs", "Zl", "Zp", "Co")
    # The text may be huge: one character more than is shown tells whether it must be cut.
    text = "".join("�" if unicodedata.category(c) in unsafe_categories else c for c in text[: max_characters + 1])
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


def join_words(words: Sequence[str], max_words: int = 3) -> str:
    """List words as in a sentence, and count those beyond the first `max_words`; empty without words.

    >>> join_words(["p50"]), join_words(["a", "b"]), join_words(["a", "b", "c", "d", "e"])
    ('p50', 'a and b', 'a, b, c and 2 more')
    """
    shown = [shorten(word) for word in words[:max_words]]
    if len(words) > max_words:
        return f"{', '.join(shown)} and {len(words) - max_words} more"
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def keep_finite(values: Sequence[float | None]) -> list[float]:
    """Return the values that are finite numbers, without None, NaN and infinities."""
    return [value for value in values if value is not None and math.isfinite(value)]
