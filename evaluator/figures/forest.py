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
    shorten,
)
from evaluator.records import Comparison, MetricStatus, Role
from evaluator.wording import format_change, format_interval, format_margin, name_comparison

__all__ = ["draw_forest", "rank_by_margin"]

ROW = 44
AXIS = 46
NAME_NARROW, NAME_WIDE = 19, 60
FARTHEST = 4.0
"""Margins that an interval may reach on the axis; what lies beyond is cut, and says so by an arrow."""
MARKS = {
    MetricStatus.PASS: ("✓", PASS),
    MetricStatus.FAIL: ("✗", FAIL),
    MetricStatus.INCONCLUSIVE: ("?", OPEN),
    MetricStatus.NO_DATA: ("∅", MUTED),
}


@dataclass(frozen=True, slots=True)
class _Used:
    """Share of the margin that estimate and interval use: positive is harm, 1 is all that is allowed."""

    estimate: float
    least: float
    most: float


def rank_by_margin(rows: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons with a margin, those furthest beyond it first; what is not known reaches as far as it may."""
    known = [(used, row) for row in rows if (used := _use(row)) is not None]
    order = sorted(known, key=lambda one: (one[1].status is not MetricStatus.FAIL, -one[0].estimate, -one[0].most))
    return [row for _, row in order]


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
    used = [one for row in ranked if (one := _use(row)) is not None]
    low, high = _domain(used)
    room = NAME_NARROW if width < NARROW * 1.5 else NAME_WIDE
    points = [
        _point(place, row, one, (low, high), colors, room, several=several)
        for place, (row, one) in enumerate(zip(ranked, used, strict=True))
    ]
    height = ROW * len(ranked) + AXIS
    return Figure(
        finish(_layer(points, (low, high), width), width=width, height=height),
        title=_say(ranked),
        alt=f"One row a metric, furthest beyond its margin first: its change with interval, as a share of the harm "
        f"that is allowed. {_say(ranked)}.",
        head=("status", "metric", "change", "interval", "allowed"),
        rows=tuple(
            (
                row.status.value.replace("_", " "),
                _name(row, several=several),
                format_change(row.effect, row.unit),
                format_interval(row.effect, row.unit),
                format_margin(row.rule.margin, row.unit),
            )
            for row in ranked
            if row.effect is not None
        ),
    )


def _name(row: Comparison, *, several: bool) -> str:
    return f"{name_comparison(row)}, {row.arm}" if several else name_comparison(row)


def _domain(used: Sequence[_Used]) -> tuple[float, float]:
    ends = [min(max(end, -FARTHEST), FARTHEST) for one in used for end in (one.estimate, one.least, one.most)]
    return min([*ends, -1.35]), max([*ends, 1.35])


def _point(
    place: int,
    row: Comparison,
    used: _Used,
    domain: tuple[float, float],
    colors: Mapping[str, str],
    room: int,
    *,
    several: bool,
) -> dict[str, Any]:
    low, high = domain
    mark, color = MARKS[row.status] if row.rule.role is not Role.WATCH else ("·", MUTED)
    change = f"{format_change(row.effect, row.unit)} ({format_interval(row.effect, row.unit)})" if row.effect else ""
    return {
        "place": place + 0.5,
        "top": place + 0.1,
        "estimate": min(max(used.estimate, low), high),
        "least": max(used.least, low),
        "most": min(used.most, high),
        "more": high if used.most > high else None,
        "less": low if used.least < low else None,
        "mark": mark,
        "mark_color": color,
        "color": colors.get(row.arm, INK),
        "name": shorten(_name(row, several=several), room),
        "change": change.replace(" … ", "…") if room == NAME_NARROW else f"{change} of {_allowed(row)} allowed",
        "tip": f"{shorten(_name(row, several=several))}: {change}, {_allowed(row)} allowed",
    }


def _allowed(row: Comparison) -> str:
    return format_margin(row.rule.margin, row.unit)


def _say(ranked: Sequence[Comparison]) -> str:
    """How many are beyond their margin, and which."""
    gates = [row for row in ranked if row.rule.role is not Role.WATCH]
    beyond = [row for row in gates if row.status is MetricStatus.FAIL]
    waiting = [row for row in gates if row.status is MetricStatus.INCONCLUSIVE]
    parts = []
    if beyond:
        names = join_words(list(dict.fromkeys(name_comparison(row) for row in beyond)))
        parts.append(f"{len(beyond)} of {len(gates)} shown to be worse than allowed: {names}")
    if waiting:
        names = join_words(list(dict.fromkeys(name_comparison(row) for row in waiting)))
        parts.append(f"{len(waiting)} of {len(gates)} not known yet: {names}")
    return "; ".join(parts) or f"All {len(gates)} are within what is allowed"


def _layer(points: list[dict[str, Any]], domain: tuple[float, float], width: int) -> Any:
    import altair as alt

    low, high = domain
    count = len(points)
    vertical = alt.Scale(domain=[0, count], reverse=True, nice=False)
    y = alt.Y("place:Q", axis=None, scale=vertical)
    ticks = [tick for tick in (-4, -3, -2, -1, 0, 1, 2, 3, 4) if low <= tick <= high]
    axis = alt.Axis(values=ticks, format="+.0%", labelOverlap=True)
    title = "harm, % of what is allowed (right is worse)"
    x = alt.X("estimate:Q", title=title, axis=axis, scale=alt.Scale(domain=[low, high], nice=False, zero=False))
    base = alt.Chart(inline(points)).encode(y=y)
    color = alt.Color("color:N", scale=None, legend=None)
    box = alt.Chart(inline([{"x": -1, "x2": 1, "y": 0, "y2": count}]))
    band = box.mark_rect(color=BAND).encode(x="x:Q", x2="x2:Q", y=alt.Y("y:Q", axis=None, scale=vertical), y2="y2:Q")
    edge = alt.Chart(inline([{"x": 1}])).mark_rule(color=INK, strokeDash=[5, 3]).encode(x="x:Q")
    zero = alt.Chart(inline([{"x": 0}])).mark_rule(color=MUTED).encode(x="x:Q")
    whisker = base.mark_rule(strokeWidth=2.5, yOffset=8).encode(x="least:Q", x2="most:Q", color=color)
    dots = base.mark_point(filled=True, size=80, opacity=1, yOffset=8).encode(x=x, color=color, description="tip:N")
    arrows = [
        base.transform_filter(f"isValid(datum.{key})")
        .mark_point(filled=True, size=70, opacity=1, shape=shape, yOffset=8)
        .encode(x=f"{key}:Q", color=color)
        for key, shape in (("more", "triangle-right"), ("less", "triangle-left"))
    ]
    return alt.layer(band, zero, edge, whisker, dots, *arrows, *_label(points, vertical, width))


def _label(points: list[dict[str, Any]], vertical: Any, width: int) -> list[Any]:
    """Mark and name at the left, the change at the right, above each interval."""
    import altair as alt

    base = alt.Chart(inline(points)).encode(y=alt.Y("top:Q", axis=None, scale=vertical))
    text: dict[str, Any] = {"baseline": "top", "fontSize": 12}
    marks = base.mark_text(align="left", fontWeight="bold", **text).encode(
        x=alt.value(4), text="mark:N", color=alt.Color("mark_color:N", scale=None, legend=None)
    )
    names = base.mark_text(align="left", fontWeight="bold", color=INK, **text).encode(x=alt.value(20), text="name:N")
    changes = base.mark_text(align="right", color=INK, **text).encode(x=alt.value(width - 14), text="change:N")
    return [marks, names, changes]
