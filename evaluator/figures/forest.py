"""Every metric's change against its margin, on one axis: the share of the allowed harm that it uses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from evaluator.wording import format_change, format_interval, format_margin, name_comparison

AXIS = 46
FARTHEST = 6.0
"""Margins that an interval may reach on the axis; what lies beyond is cut, and marked by an arrow."""
CROWDED = 4.5
"""Margins on a narrow axis from which only every other one is named."""
MOST_DECIDING = 6
"""Endpoints shown among the metrics because they decide."""
MARKS = {
    MetricStatus.PASS: ("✓", PASS),
    MetricStatus.FAIL: ("✗", FAIL),
    MetricStatus.INCONCLUSIVE: ("?", OPEN),
    MetricStatus.NO_DATA: ("∅", MUTED),
}


@dataclass(frozen=True, slots=True)
class _Layout:
    """Positions in a row."""

    row: int
    """Height, px."""
    between: tuple[int, int]
    """Where the axis begins and ends, px."""
    right: int
    """Right edge of the change, px."""
    name: int
    """Most characters of a name."""
    text: float
    """Height of the name, of the change, of the interval and of the top of the band, as shares of a row."""
    change: float
    interval: float
    above: float


def _arrange(width: int) -> _Layout:
    """Names and changes next to the intervals on a wide page, above them on a narrow one."""
    if width < 2 * NARROW:
        return _Layout(60, (4, width - 14), width - 14, 44, text=0.16, change=0.42, interval=0.77, above=0.6)
    return _Layout(30, (310, width - 330), width - 14, 38, text=0.5, change=0.5, interval=0.5, above=0.04)


@dataclass(frozen=True, slots=True)
class _Used:
    """Share of the margin that estimate and interval use: positive is harm, 1 is all that is allowed."""

    estimate: float
    least: float
    most: float


def rank_by_margin(rows: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons with a margin, those furthest beyond it first; an unknown end counts as infinite."""
    with_share = [(used, row) for row in rows if (used := _use(row)) is not None]
    order = sorted(
        with_share, key=lambda entry: (entry[1].status is not MetricStatus.FAIL, -entry[0].estimate, -entry[0].most)
    )
    return [row for _, row in order]


def pick_decisive(rows: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons that decide: gates and holds, and the worst of the endpoints that are shown to be worse."""
    required = [row for row in rows if row.must_be_within]
    failing = [row for row in rank_by_margin([row for row in rows if row.scan]) if row.status is MetricStatus.FAIL]
    return [*required, *failing[:MOST_DECIDING]]


def _use(row: Comparison) -> _Used | None:
    effect, margin = row.effect, row.rule.margin
    if effect is None or margin is None or margin.value <= 0 or math.isnan(effect.estimate):
        return None
    ends = (effect.lower, effect.upper) if is_worse_upwards(row) else (-effect.upper, -effect.lower)
    sign = 1 if is_worse_upwards(row) else -1
    least, most = (end / margin.value if not math.isnan(end) else end for end in ends)
    least = -math.inf if math.isnan(least) else least
    most = math.inf if math.isnan(most) else most
    return _Used(sign * effect.estimate / margin.value, least, most)


def draw_forest(
    rows: Sequence[Comparison], *, colors: Mapping[str, str], width: int = NARROW, several: bool = False
) -> Figure | None:
    """Draw comparisons in the order of `rank_by_margin`; `None` where none has a margin. `several` names arms."""
    ranked = rank_by_margin(rows)
    if not ranked:
        return None
    used = [share for row in ranked if (share := _use(row)) is not None]
    ends = [min(max(end, -FARTHEST), FARTHEST) for share in used for end in (share.estimate, share.least, share.most)]
    low, high = min([*ends, -1.3]), max([*ends, 1.3])
    padding = (high - low) * 0.03
    domain = low - padding, high + padding
    layout = _arrange(width)
    points = [
        _point(index, row, share, domain, colors, layout, several=several)
        for index, (row, share) in enumerate(zip(ranked, used, strict=True))
    ]
    height = layout.row * len(ranked) + AXIS
    return Figure(
        finish(_layer(points, domain, layout), width=width, height=height),
        title=_write_title(ranked),
        alt=f"One row per metric, furthest beyond its margin first: its change with interval, as a share of the harm "
        f"that is allowed. {_write_title(ranked)}.",
        head=("status", "metric", "change", "interval", "allowed"),
        rows=tuple(
            (
                row.status.value.replace("_", " "),
                name_row(row, several=several),
                format_change(row.effect, row.unit),
                format_interval(row.effect, row.unit),
                format_margin(row.rule.margin, row.unit),
            )
            for row in ranked
            if row.effect is not None
        ),
    )


def _point(
    index: int,
    row: Comparison,
    used: _Used,
    domain: tuple[float, float],
    colors: Mapping[str, str],
    layout: _Layout,
    *,
    several: bool,
) -> dict[str, Any]:
    low, high = domain
    mark, color = MARKS[row.status] if row.rule.role is not Role.WATCH else ("·", MUTED)
    change = f"{format_change(row.effect, row.unit)} ({format_interval(row.effect, row.unit)})" if row.effect else ""
    name, allowed = name_row(row, several=several), format_margin(row.rule.margin, row.unit)
    return {
        "place": index + layout.interval,
        "text": index + layout.text,
        "beside": index + layout.change,
        "estimate": used.estimate if low <= used.estimate <= high else None,
        "least": min(max(used.least, low), high),
        "most": max(min(used.most, high), low),
        "more": high if used.most > high else None,
        "less": low if used.least < low else None,
        "mark": mark,
        "mark_color": color,
        "color": colors.get(row.arm, INK),
        "name": shorten(name, layout.name),
        "change": f"{change} of {allowed}",
        "tip": f"{shorten(name)}: {change}, {allowed} allowed",
    }


def _write_title(ranked: Sequence[Comparison]) -> str:
    """How many are beyond their margin, and which."""
    gates = [row for row in ranked if row.rule.role is not Role.WATCH]
    parts = []
    for status, phrase in (
        (MetricStatus.FAIL, "shown to be worse than allowed"),
        (MetricStatus.INCONCLUSIVE, "not known yet"),
    ):
        of_status = [row for row in gates if row.status is status]
        if of_status:
            names = join_words(list(dict.fromkeys(name_comparison(row) for row in of_status)))
            parts.append(f"{len(of_status)} of {len(gates)} {phrase}: {names}")
    return "; ".join(parts) or f"All {len(gates)} are within what is allowed"


def _layer(points: list[dict[str, Any]], domain: tuple[float, float], layout: _Layout) -> Any:
    import altair as alt

    low, high = domain
    vertical = alt.Scale(domain=[0, len(points)], reverse=True, nice=False)
    y = alt.Y("place:Q", axis=None, scale=vertical)
    horizontal = alt.Scale(domain=[low, high], nice=False, zero=False, range=list(layout.between))
    step = 2 if layout.change != layout.interval and high - low > CROWDED else 1
    ticks = [tick for tick in range(-6, 7, step) if low <= tick <= high]
    names = "datum.value == 0 ? '0' : format(datum.value, '+.0%')"
    axis = alt.Axis(values=ticks, labelExpr=names, labelOverlap=True, grid=False)
    x = alt.X("estimate:Q", title="harm, % of what is allowed (right is worse)", axis=axis, scale=horizontal)
    base = alt.Chart(inline(points)).encode(y=y)
    color = alt.Color("color:N", scale=None, legend=None)
    whisker = base.mark_rule(strokeWidth=2.5).encode(x="least:Q", x2="most:Q", color=color)
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(x=x, color=color, description="tip:N")
    arrows = [
        base.transform_filter(f"isValid(datum.{key})")
        .mark_point(filled=True, size=70, opacity=1, shape=shape)
        .encode(x=f"{key}:Q", color=color)
        for key, shape in (("more", "triangle-right"), ("less", "triangle-left"))
    ]
    return alt.layer(
        *_draw_allowed(len(points), vertical, layout), whisker, dots, *arrows, *_label(points, vertical, layout)
    )


def _draw_allowed(count: int, vertical: Any, layout: _Layout) -> list[Any]:
    """The band of what is allowed in every row, its harmful edge, and no change."""
    import altair as alt

    boxes = [
        {"least": -1, "most": 1, "edge": 1, "zero": 0, "above": k + layout.above, "below": k + 0.96}
        for k in range(count)
    ]
    rows = alt.Chart(inline(boxes)).encode(y=alt.Y("above:Q", axis=None, scale=vertical), y2="below:Q")
    return [
        rows.mark_rect(color=BAND).encode(x="least:Q", x2="most:Q"),
        rows.mark_rule(color=MUTED).encode(x="zero:Q"),
        rows.mark_rule(color=INK, strokeDash=[5, 3]).encode(x="edge:Q"),
    ]


def _label(points: list[dict[str, Any]], vertical: Any, layout: _Layout) -> list[Any]:
    """Mark and name at the left, the change at the right: next to the interval, or above it where there is no room."""
    import altair as alt

    base = alt.Chart(inline(points)).encode(y=alt.Y("text:Q", axis=None, scale=vertical))
    text: dict[str, Any] = {"baseline": "middle", "fontSize": 12}
    marks = base.mark_text(align="left", fontWeight="bold", **text).encode(
        x=alt.value(4), text="mark:N", color=alt.Color("mark_color:N", scale=None, legend=None)
    )
    names = base.mark_text(align="left", fontWeight="bold", color=INK, **text).encode(x=alt.value(20), text="name:N")
    changes = (
        alt.Chart(inline(points))
        .mark_text(align="right", color=INK, **text)
        .encode(y=alt.Y("beside:Q", axis=None, scale=vertical), x=alt.value(layout.right), text="change:N")
    )
    return [marks, names, changes]
