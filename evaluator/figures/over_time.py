"""How the change became known: the estimate after each look with its interval, the margin, and the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluator.figures.base import (
    BAND,
    INK,
    MUTED,
    NARROW,
    Figure,
    Scaled,
    finish,
    finite,
    inline,
    is_worse_upwards,
    label_time,
    scale_of,
)
from evaluator.records import Comparison
from evaluator.wording import format_change, format_duration, format_margin, name_comparison

__all__ = ["draw_over_time"]

HEIGHT = 210
ROOM = 2.5
"""Of the axis, in multiples of what the last interval and the margin need: early intervals may be very wide."""


def draw_over_time(
    row: Comparison, curve: Mapping[str, Any], *, color: str, width: int = NARROW, height: int = HEIGHT
) -> Figure:
    """Draw one comparison; `curve` as `evaluator.figure_data` traced it."""
    scaled = scale_of(row)
    divisor, axis = label_time(float(curve["seconds"][-1]))
    low, high = _domain(row, curve, scaled)
    points = [
        {
            "time": seconds / divisor,
            "change": None if estimate is None else estimate * scaled.factor,
            "lower": _cut(lower, scaled, low, high, low),
            "upper": _cut(upper, scaled, low, high, high),
            "tip": f"after {format_duration(seconds)}: {scaled.text(estimate)} ({scaled.text(lower)} … "
            f"{scaled.text(upper)})",
        }
        for seconds, estimate, lower, upper in _steps(curve)
    ]
    chart = _layer(row, points, (low, high), axis, curve, color, divisor)
    name = name_comparison(row)
    return Figure(
        finish(chart, width=width, height=height),
        title=_say(row, curve),
        alt=f"Line of the change of {name} on {row.arm} over {format_duration(curve['seconds'][-1])}, with its "
        f"interval and the margin. {_say(row, curve)}.",
        head=("after", "change", "from", "to"),
        rows=tuple(
            (format_duration(seconds), scaled.text(estimate), scaled.text(lower), scaled.text(upper))
            for seconds, estimate, lower, upper in _steps(curve)
        ),
    )


def _steps(curve: Mapping[str, Any]) -> list[tuple[float, float | None, float | None, float | None]]:
    return list(zip(curve["seconds"], curve["estimate"], curve["lower"], curve["upper"], strict=True))


def _say(row: Comparison, curve: Mapping[str, Any]) -> str:
    """The finding as a sentence, in the judge's own words where there are any."""
    said = row.reason or f"{name_comparison(row)} {format_change(row.effect, row.unit) if row.effect else ''}"
    decided = curve.get("decided_at_s")
    return f"{said}; shown after {format_duration(decided)}" if decided else said


def _margin(row: Comparison, scaled: Scaled) -> float | None:
    """Where the margin lies on the axis."""
    if row.rule.margin is None:
        return None
    return row.rule.margin.value * scaled.factor * (1 if is_worse_upwards(row) else -1)


def _domain(row: Comparison, curve: Mapping[str, Any], scaled: Scaled) -> tuple[float, float]:
    """From what is drawn, but no wider than the last interval and the margin call for."""
    margin = abs(_margin(row, scaled) or 0.0)
    last = finite([curve["lower"][-1], curve["estimate"][-1], curve["upper"][-1]])
    most = ROOM * max([margin, *(abs(value) * scaled.factor for value in last)], default=1.0) or 1.0
    seen = [value * scaled.factor for key in ("lower", "upper", "estimate") for value in finite(curve[key])]
    low, high = min([*seen, -1.3 * margin, 0.0]), max([*seen, 1.3 * margin, 0.0])
    return max(low, -most), min(high, most)


def _cut(value: float | None, scaled: Scaled, low: float, high: float, unknown: float) -> float:
    return unknown if value is None else min(max(value * scaled.factor, low), high)


def _layer(
    row: Comparison,
    points: Sequence[Mapping[str, Any]],
    domain: tuple[float, float],
    axis: str,
    curve: Mapping[str, Any],
    color: str,
    divisor: float,
) -> Any:
    import altair as alt

    scaled = scale_of(row)
    y = alt.Y("change:Q", title=f"change, {scaled.unit}", scale=alt.Scale(domain=list(domain), nice=False, zero=False))
    x = alt.X(
        "time:Q",
        title=f"{axis} of judged data",
        axis=alt.Axis(tickCount=6, labelFlush=False, labelOverlap=True),
        scale=alt.Scale(nice=False, zero=False),
    )
    base = alt.Chart(inline(points)).encode(x=x)
    layers: list[Any] = []
    margin = _margin(row, scaled)
    if margin:
        layers += _draw_margin(margin, format_margin(row.rule.margin, row.unit), points, domain)
    zero = alt.Chart(inline([{"change": 0}])).mark_rule(color=MUTED, strokeWidth=1).encode(y="change:Q")
    area = base.mark_area(color=color, opacity=0.25, clip=True).encode(
        y=alt.Y("lower:Q", title=f"change, {scaled.unit}"), y2="upper:Q"
    )
    line = base.mark_line(color=color, strokeWidth=2, clip=True).encode(y=y)
    dots = base.mark_point(color=color, filled=True, size=26, opacity=1, clip=True).encode(y=y, description="tip:N")
    layers += [zero, area, line, dots]
    if curve.get("decided_at_s"):
        layers += _draw_decision(curve["decided_at_s"] / divisor, points, domain)
    return alt.layer(*layers)


def _draw_margin(
    margin: float, text: str, points: Sequence[Mapping[str, Any]], domain: tuple[float, float]
) -> list[Any]:
    import altair as alt

    begin, end = points[0]["time"], points[-1]["time"]
    box = {"x": begin, "x2": end, "y": max(-abs(margin), domain[0]), "y2": min(abs(margin), domain[1])}
    band = alt.Chart(inline([box])).mark_rect(color=BAND).encode(x="x:Q", x2="x2:Q", y="y:Q", y2="y2:Q")
    at = alt.Chart(inline([{"y": margin, "x": begin, "text": f"{text} allowed"}]))
    line = at.mark_rule(color=INK, strokeDash=[5, 3]).encode(y="y:Q")
    label = at.mark_text(align="left", dx=4, dy=-6 if margin > 0 else 9, color=INK, fontSize=11).encode(
        x="x:Q", y="y:Q", text="text:N"
    )
    return [band, line, label]


def _draw_decision(at: float, points: Sequence[Mapping[str, Any]], domain: tuple[float, float]) -> list[Any]:
    import altair as alt

    late = at > (points[0]["time"] + points[-1]["time"]) / 2
    mark = alt.Chart(inline([{"x": at, "y": domain[0], "text": "decided"}]))
    rule = mark.mark_rule(color=INK, strokeWidth=1).encode(x="x:Q")
    label = mark.mark_text(
        align="right" if late else "left", baseline="bottom", dx=-4 if late else 4, dy=-3, color=INK, fontSize=11
    ).encode(x="x:Q", y="y:Q", text="text:N")
    return [rule, label]
