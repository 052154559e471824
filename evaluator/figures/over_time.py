"""How the change became known: the estimate after each look with its interval, the margin, and the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluator.figures.base import (
    BAND,
    INK,
    NARROW,
    Figure,
    Scaled,
    finish,
    finite,
    inline,
    is_worse_upwards,
    label_time,
    layer_change,
    scale_of,
)
from evaluator.records import Comparison
from evaluator.wording import format_change, format_duration, format_margin, name_comparison

HEIGHT = 210
ROOM = 2.5
"""Of the axis, in multiples of what the last interval and the margin need: early intervals may be very wide."""


def draw_over_time(row: Comparison, curve: Mapping[str, Any], *, color: str, width: int = NARROW) -> Figure:
    """Draw one comparison; `curve` as `evaluator.figure_data` traced it."""
    import altair as alt

    scaled = scale_of(row)
    divisor, axis = label_time(float(curve["seconds"][-1]))
    domain = low, high = _domain(row, curve, scaled)
    steps = list(zip(curve["seconds"], curve["estimate"], curve["lower"], curve["upper"], strict=True))
    points = [
        {
            "time": seconds / divisor,
            "change": None if estimate is None else estimate * scaled.factor,
            "lower": low if lower is None else min(max(lower * scaled.factor, low), high),
            "upper": high if upper is None else min(max(upper * scaled.factor, low), high),
            "tip": f"after {format_duration(seconds)}: {scaled.text(estimate)} ({scaled.text(lower)} … "
            f"{scaled.text(upper)})",
        }
        for seconds, estimate, lower, upper in steps
    ]
    x = alt.X(
        "time:Q",
        title=f"{axis} of judged data",
        axis=alt.Axis(tickCount=6, labelFlush=False, labelOverlap=True),
        scale=alt.Scale(nice=False, zero=False),
    )
    layers = layer_change(points, x, domain, scaled.unit, color)
    if margin := _margin(row, scaled):
        layers = [*_draw_margin(margin, format_margin(row.rule.margin, row.unit), points, domain), *layers]
    if decided := curve.get("decided_at_s"):
        layers += _draw_decision(decided / divisor, points, domain)
    name = name_comparison(row)
    return Figure(
        finish(alt.layer(*layers), width=width, height=HEIGHT),
        title=_write_title(row, curve),
        alt=f"Line of the change of {name} on {row.arm} over {format_duration(curve['seconds'][-1])}, with its "
        f"interval and the margin. {_write_title(row, curve)}.",
        head=("after", "change", "from", "to"),
        rows=tuple(
            (format_duration(seconds), scaled.text(estimate), scaled.text(lower), scaled.text(upper))
            for seconds, estimate, lower, upper in steps
        ),
    )


def _write_title(row: Comparison, curve: Mapping[str, Any]) -> str:
    """The finding as a sentence, in the judge's own words where there are any."""
    finding = row.reason or f"{name_comparison(row)} {format_change(row.effect, row.unit) if row.effect else ''}"
    decided = curve.get("decided_at_s")
    return f"{finding}; shown after {format_duration(decided)}" if decided else finding


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
    drawn = [value * scaled.factor for key in ("lower", "upper", "estimate") for value in finite(curve[key])]
    low, high = min([*drawn, -1.3 * margin, 0.0]), max([*drawn, 1.3 * margin, 0.0])
    return max(low, -most), min(high, most)


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
