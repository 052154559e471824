"""Every metric's change against its margin, on one axis: the share of the allowed harm that it uses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluator.figures.base import (
    BAND,
    FAIL,
    INK,
    MUTED,
    NARROW,
    OPEN,
    PASS,
    Figure,
    finish,
    inline,
    is_worse_upwards,
    join_words,
    name_row,
    shorten,
)
from evaluator.records import Comparison, MetricStatus, Role
from evaluator.wording import (
    clip_interval,
    format_change,
    format_count,
    format_interval,
    format_margin,
    name_comparison,
)

AXIS_HEIGHT = 46
"""Room below the rows, px."""
FARTHEST = 6.0
"""Margins that an interval may reach on the axis; what lies beyond is cut, and marked by an arrow."""
LEAST_AXIS = 1.3
"""Margins that the axis shows at least, to both sides: the edges of what is allowed are inside of it."""
CROWDED = 4.5
"""Length (in margins) of a narrow axis from which only every other margin has a label."""
MAX_FAILING_ENDPOINTS = 6
"""Endpoints shown among the metrics because they are shown to be worse."""
MARKS = {
    MetricStatus.PASS: ("✓", PASS),
    MetricStatus.FAIL: ("✗", FAIL),
    MetricStatus.INCONCLUSIVE: ("?", OPEN),
    MetricStatus.NO_DATA: ("∅", MUTED),
}


@dataclass(frozen=True, slots=True)
class _Layout:
    """Positions of the parts of a row. Those named `_y` are shares of its height, from its top."""

    row_height: int
    """In px."""
    axis_ends: tuple[int, int]
    """Where the axis begins and ends, px."""
    change_right: int
    """Right edge of the text of the change, px."""
    name_characters: int
    """Most characters of a name."""
    name_y: float
    change_y: float
    interval_y: float
    band_top_y: float
    """Upper edge of the band of what is allowed."""


def _choose_layout(width: int) -> _Layout:
    """Place names and changes next to the intervals on a wide page, above them on a narrow one; `width` in px.

    In the result, positions along a row are in px, and those named `_y` are shares of its height, from its top.
    """
    if width < 2 * NARROW:
        return _Layout(
            row_height=60,
            axis_ends=(4, width - 14),
            change_right=width - 14,
            name_characters=44,
            name_y=0.16,
            change_y=0.42,
            interval_y=0.77,
            band_top_y=0.6,
        )
    return _Layout(
        row_height=30,
        axis_ends=(310, width - 330),
        change_right=width - 14,
        name_characters=38,
        name_y=0.5,
        change_y=0.5,
        interval_y=0.5,
        band_top_y=0.04,
    )


@dataclass(frozen=True, slots=True)
class MarginUse:
    """Share of the margin that the estimate and its interval use: positive is harm, 1 is all that is allowed."""

    estimate: float
    lower: float
    upper: float


def rank_by_margin(rows: Sequence[Comparison]) -> list[Comparison]:
    """Sort comparisons by the share of their margin that they use: failed ones first, then the largest harm first.

    Those without a margin or an estimate are left out.
    """
    uses = [(use, row) for row in rows if (use := find_margin_use(row)) is not None]

    def rank(entry: tuple[MarginUse, Comparison]) -> tuple[bool, float, float]:
        """Return what to sort by, the smallest first."""
        use, row = entry
        return row.status is not MetricStatus.FAIL, -use.estimate, -use.upper

    return [row for _, row in sorted(uses, key=rank)]


def pick_decisive(rows: Sequence[Comparison]) -> list[Comparison]:
    """Pick the comparisons that decide: gates and holds, then the worst endpoints that the scan has shown to be worse.

    The scan compares each endpoint by itself.
    """
    gates_and_holds = [row for row in rows if row.must_be_within]
    ranked_endpoints = rank_by_margin([row for row in rows if row.scan])
    failing = [row for row in ranked_endpoints if row.status is MetricStatus.FAIL]
    return [*gates_and_holds, *failing[:MAX_FAILING_ENDPOINTS]]


def find_margin_use(row: Comparison) -> MarginUse | None:
    """Divide the harm and its interval by the margin; `None` without an estimate, or without a margin above 0.

    An end of the interval that is NaN is not known and counts as infinite.
    """
    effect, margin = row.effect, row.rule.margin
    if effect is None or margin is None or margin.value <= 0 or math.isnan(effect.estimate):
        return None
    # A metric that gets worse when it falls is turned around: the lower end of its change is its largest harm.
    if is_worse_upwards(row):
        estimate, (lower, upper) = effect.estimate, clip_interval(row)
    else:
        estimate, (upper, lower) = -effect.estimate, (-end for end in clip_interval(row))
    return MarginUse(
        estimate / margin.value,
        lower=-math.inf if math.isnan(lower) else lower / margin.value,
        upper=math.inf if math.isnan(upper) else upper / margin.value,
    )


def find_axis(uses: Iterable[MarginUse]) -> tuple[float, float]:
    """Find the ends of the common axis of intervals, in margins: negative is better, positive is harm.

    It shows all intervals, but no more than FARTHEST margins to either side, and always both edges of what is allowed.
    """
    shown = [min(max(end, -FARTHEST), FARTHEST) for use in uses for end in (use.estimate, use.lower, use.upper)]
    low, high = min([*shown, -LEAST_AXIS]), max([*shown, LEAST_AXIS])
    padding = (high - low) * 0.03
    return low - padding, high + padding


def draw_forest(
    rows: Sequence[Comparison],
    *,
    colors: Mapping[str, str],
    width: int = NARROW,
    with_arms: bool = False,
    title: str = "",
) -> Figure | None:
    """Draw a row per comparison, in the order of `rank_by_margin`; `None` if none has a margin and an estimate.

    `colors` are the colours of the arms by name, `width` is in px; `with_arms` adds the arm to each name. `title`: what
    was found, if more was compared than is drawn; empty: `count_results` of what is drawn.
    """
    ranked = rank_by_margin(rows)
    if not ranked:
        return None
    uses = [use for row in ranked if (use := find_margin_use(row)) is not None]  # every ranked row has one
    domain = find_axis(uses)
    layout = _choose_layout(width)
    points = [
        _make_point(index, row, use, domain, colors, layout, with_arm=with_arms)
        for index, (row, use) in enumerate(zip(ranked, uses, strict=True))
    ]
    height = layout.row_height * len(ranked) + AXIS_HEIGHT
    title = title or count_results(ranked, with_arms=with_arms)
    return Figure(
        finish(_layer_rows(points, domain, layout), width=width, height=height),
        title=title,
        alt=f"One row per metric, furthest beyond its margin first: its change with interval, as a share of the harm "
        f"that is allowed. {title}.",
        head=("status", "metric", "change", "interval", "allowed"),
        rows=tuple(
            (
                row.status.value.replace("_", " "),
                name_row(row, with_arm=with_arms),
                format_change(row),
                format_interval(row, mark_clips=True),
                format_margin(row.rule.margin, row.unit),
            )
            for row in ranked
            if row.effect is not None
        ),
    )


def _make_point(
    index: int,
    row: Comparison,
    use: MarginUse,
    domain: tuple[float, float],
    colors: Mapping[str, str],
    layout: _Layout,
    *,
    with_arm: bool,
) -> dict[str, Any]:
    """Make the data of row `index` of the figure: its positions, its texts and colours.

    Vertical positions (`place` is that of the interval) are in rows, from the top. Horizontal ones are harm in margins.
    What lies outside of `domain`, the ends of the axis, is cut: an estimate is None, an end of the interval is moved
    to the end of the axis, where `more` or `less` places an arrow.
    """
    low, high = domain
    mark, mark_color = MARKS[row.status] if row.rule.role is not Role.WATCH else ("·", MUTED)
    change = f"{format_change(row)} ({format_interval(row, mark_clips=True)})" if row.effect else ""
    name, allowed = name_row(row, with_arm=with_arm), format_margin(row.rule.margin, row.unit)
    return {
        "place": index + layout.interval_y,
        "name_y": index + layout.name_y,
        "change_y": index + layout.change_y,
        "estimate": use.estimate if low <= use.estimate <= high else None,
        "lower": min(max(use.lower, low), high),
        "upper": max(min(use.upper, high), low),
        # Where an arrow shows that the interval goes on to the right, and to the left; None: no arrow.
        "more": high if use.upper > high else None,
        "less": low if use.lower < low else None,
        "mark": mark,
        "mark_color": mark_color,
        "color": colors.get(row.arm, INK),
        "name": shorten(name, layout.name_characters),
        "change": f"{change} of {allowed}",
        "tip": f"{shorten(name)}: {change}, {allowed} allowed",
    }


def count_results(rows: Sequence[Comparison], noun: str = "", *, with_arms: bool = False) -> str:
    """Say how many comparisons, without watched ones, are beyond their margin or not known yet, and which these are.

    `noun`: what they are, after their number: `3 of 4 metrics shown to be worse than allowed: p50, p95 and p99`;
    `with_arms` adds the arm to each name.
    """
    deciding = [row for row in rows if row.rule.role is not Role.WATCH]
    counted = f"{format_count(len(deciding))} {noun}".rstrip()
    phrases = {
        MetricStatus.FAIL: "shown to be worse than allowed",
        MetricStatus.INCONCLUSIVE: "not known yet",
        MetricStatus.NO_DATA: "without data",
    }
    parts = []
    for status, phrase in phrases.items():
        of_status = [row for row in deciding if row.status is status]
        if of_status:
            names = join_words(
                list(dict.fromkeys(f"{name_comparison(row)}{f' ({row.arm})' * with_arms}" for row in of_status))
            )
            parts.append(f"{format_count(len(of_status))} of {counted} {phrase}: {names}")
    if not deciding:
        return "Nothing decides"
    return "; ".join(parts) or f"All {counted} are within what is allowed"


def _layer_rows(points: list[dict[str, Any]], domain: tuple[float, float], layout: _Layout) -> Any:
    """Layer the parts of all rows: the band of what is allowed, intervals, arrows where these are cut, and texts.

    `points` has the dictionary of `_make_point` for each row. `domain` (ends of the axis), estimates and intervals are
    harm in margins: 1 is all that is allowed.
    """
    import altair as alt

    low, high = domain
    y_scale = alt.Scale(domain=[0, len(points)], reverse=True, nice=False)
    x_scale = alt.Scale(domain=[low, high], nice=False, zero=False, range=list(layout.axis_ends))
    # Only the narrow layout has the change above its interval.
    is_narrow = layout.change_y != layout.interval_y
    tick_step = 2 if is_narrow and high - low > CROWDED else 1
    # A tick per margin, or per two; the axis ends at six margins (FARTHEST).
    ticks = [tick for tick in range(-6, 7, tick_step) if low <= tick <= high]
    tick_labels = "datum.value == 0 ? '0' : format(datum.value, '+.0%')"
    axis = alt.Axis(values=ticks, labelExpr=tick_labels, labelOverlap=True, grid=False)
    y = alt.Y("place:Q", axis=None, scale=y_scale)
    x = alt.X("estimate:Q", title="harm, % of what is allowed (right is worse)", axis=axis, scale=x_scale)
    base = alt.Chart(inline(points)).encode(y=y)
    color = alt.Color("color:N", scale=None, legend=None)
    intervals = base.mark_rule(strokeWidth=2.5).encode(x="lower:Q", x2="upper:Q", color=color)
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(x=x, color=color, description="tip:N")
    arrows = [
        base.transform_filter(f"isValid(datum.{key})")
        .mark_point(filled=True, size=70, opacity=1, shape=shape)
        .encode(x=f"{key}:Q", color=color)
        for key, shape in (("more", "triangle-right"), ("less", "triangle-left"))
    ]
    band = _draw_allowed(len(points), y_scale, layout)
    return alt.layer(*band, intervals, dots, *arrows, *_draw_texts(points, y_scale, layout))


def _draw_allowed(row_count: int, y_scale: Any, layout: _Layout) -> list[Any]:
    """Draw in every row the band of what is allowed (one margin to both sides), its harmful edge, and zero."""
    import altair as alt

    boxes = [  # up to 0.96 of the height of the row: a gap separates the bands
        {"lower": -1, "upper": 1, "edge": 1, "zero": 0, "top": index + layout.band_top_y, "bottom": index + 0.96}
        for index in range(row_count)
    ]
    rows = alt.Chart(inline(boxes)).encode(y=alt.Y("top:Q", axis=None, scale=y_scale), y2="bottom:Q")
    return [
        rows.mark_rect(color=BAND).encode(x="lower:Q", x2="upper:Q"),
        rows.mark_rule(color=MUTED).encode(x="zero:Q"),
        rows.mark_rule(color=INK, strokeDash=[5, 3]).encode(x="edge:Q"),
    ]


def _draw_texts(points: list[dict[str, Any]], y_scale: Any, layout: _Layout) -> list[Any]:
    """Draw the texts of every row: mark and name at its left (4 and 20 px), the change at its right."""
    import altair as alt

    base = alt.Chart(inline(points)).encode(y=alt.Y("name_y:Q", axis=None, scale=y_scale))
    font: dict[str, Any] = {"baseline": "middle", "fontSize": 12}
    marks = base.mark_text(align="left", fontWeight="bold", **font).encode(
        x=alt.value(4), text="mark:N", color=alt.Color("mark_color:N", scale=None, legend=None)
    )
    names = base.mark_text(align="left", fontWeight="bold", color=INK, **font).encode(x=alt.value(20), text="name:N")
    changes = (
        alt.Chart(inline(points))
        .mark_text(align="right", color=INK, **font)
        .encode(y=alt.Y("change_y:Q", axis=None, scale=y_scale), x=alt.value(layout.change_right), text="change:N")
    )
    return [marks, names, changes]
