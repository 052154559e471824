"""How the change became known: the estimate after each look with its interval, the margin, and the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluator.figures.base import (
    INK,
    NARROW,
    EffectScale,
    Figure,
    choose_effect_scale,
    choose_time_unit,
    cut,
    find_edge,
    finish,
    inline,
    keep_finite,
    layer_allowed,
    layer_change,
)
from evaluator.records import Comparison
from evaluator.wording import format_change, format_duration, format_margin, name_comparison

HEIGHT = 210
MAX_ROOM = 2.5
"""Length of the axis, in multiples of what the last interval and the margin need: early intervals may be very wide."""


def draw_over_time(row: Comparison, curve: Mapping[str, Any], *, color: str, width: int = NARROW) -> Figure:
    """Draw the change of a comparison after each look, with its interval, the margin, and the time of the decision.

    `curve` is what `trace_over_time` returns: lists of `seconds`, `estimate`, `lower` and `upper` with an entry per
    look. An estimate that is `None` is not known; `lower` or `upper` is `None` where that end of the interval is
    infinite. `decided_at_s` is `None` if the metric was not shown to be worse.
    """
    import altair as alt

    scale = choose_effect_scale(row)
    divisor, time_unit = choose_time_unit(float(curve["seconds"][-1]))
    domain = _find_domain(row, curve, scale)
    low, high = domain  # what lies beyond is cut; an infinite end of an interval (None) ends there
    looks = list(zip(curve["seconds"], curve["estimate"], curve["lower"], curve["upper"], strict=True))
    points = [
        {
            "time": seconds / divisor,
            "change": None if estimate is None else estimate * scale.factor,
            "lower": cut(lower, scale, domain, unknown=low),
            "upper": cut(upper, scale, domain, unknown=high),
            "tip": f"after {format_duration(seconds)}: {scale.write(estimate)} ({scale.write(lower)} … "
            f"{scale.write(upper)})",
        }
        for seconds, estimate, lower, upper in looks
    ]
    x = alt.X(
        "time:Q",
        title=f"{time_unit} of judged data, all from the start until then",
        axis=alt.Axis(tickCount=6, labelFlush=False, labelOverlap=True),
        scale=alt.Scale(nice=False, zero=False),
    )
    layers = layer_change(points, x, domain, scale.unit, color)
    if edge := find_edge(row, scale):
        begin = points[0]["time"]  # the band is as long as the line of the change
        named = {"y": edge, "x": begin, "text": f"{format_margin(row.rule.margin, row.unit)} allowed"}
        label = alt.Chart(inline([named])).mark_text(
            align="left", dx=4, dy=-6 if edge > 0 else 9, color=INK, fontSize=11
        )
        # Below the other layers.
        allowed = layer_allowed(edge, begin, points[-1]["time"], domain)
        layers = [*allowed, label.encode(x="x:Q", y="y:Q", text="text:N"), *layers]
    if decided_at_s := curve.get("decided_at_s"):
        layers += _draw_decision(decided_at_s / divisor, points, domain)
    name = name_comparison(row)
    return Figure(
        finish(alt.layer(*layers), width=width, height=HEIGHT),
        title=_write_title(row, curve),
        alt=f"Line of the change of {name} on {row.arm} over {format_duration(curve['seconds'][-1])}, with its "
        f"interval and the margin. {_write_title(row, curve)}.",
        head=("after", "change", "from", "to"),
        rows=tuple(
            (format_duration(seconds), scale.write(estimate), scale.write(lower), scale.write(upper))
            for seconds, estimate, lower, upper in looks
        ),
    )


def _write_title(row: Comparison, curve: Mapping[str, Any]) -> str:
    """Write the finding: the change by all data, against what is allowed, and when the metric was shown to be worse."""
    allowed = f" of {format_margin(row.rule.margin, row.unit)} allowed" if row.rule.margin else ""
    finding = f"{name_comparison(row)} by all data up to each time: {format_change(row)}{allowed} at the end"
    decided_at_s = curve.get("decided_at_s")
    return f"{finding}; shown to be worse after {format_duration(decided_at_s)}" if decided_at_s else finding


def _find_domain(row: Comparison, curve: Mapping[str, Any], scale: EffectScale) -> tuple[float, float]:
    """Find the lowest and the highest change of the axis, on the scale of the figure.

    All intervals and the margin fit, except intervals that are much wider than the last one: they are cut.
    """
    margin = abs(find_edge(row, scale) or 0.0)
    last_look = keep_finite([curve["lower"][-1], curve["estimate"][-1], curve["upper"][-1]])
    needed = max([margin, *(abs(value) * scale.factor for value in last_look)])
    # An axis needs some length, also if all changes are 0.
    farthest = MAX_ROOM * needed if needed else 1.0
    drawn = [value * scale.factor for key in ("lower", "upper", "estimate") for value in keep_finite(curve[key])]
    # Somewhat more than the margin, so that its edge is inside the figure.
    low, high = min([*drawn, -1.3 * margin, 0.0]), max([*drawn, 1.3 * margin, 0.0])
    return max(low, -farthest), min(high, farthest)


def _draw_decision(decided_at: float, points: Sequence[Mapping[str, Any]], domain: tuple[float, float]) -> list[Any]:
    """Draw a vertical line with a label at the time of the decision.

    `decided_at` is in the unit of the axis of time, `domain` has the ends of the axis of changes; `points` are those of
    the line of the change.
    """
    import altair as alt

    # In the second half of the axis, the label is at the left of the line, so that it is not cut.
    is_late = decided_at > (points[0]["time"] + points[-1]["time"]) / 2
    base = alt.Chart(inline([{"x": decided_at, "y": domain[0], "text": "decided"}]))
    line = base.mark_rule(color=INK, strokeWidth=1).encode(x="x:Q")
    label = base.mark_text(
        align="right" if is_late else "left",
        baseline="bottom",
        dx=-4 if is_late else 4,
        dy=-3,
        color=INK,
        fontSize=11,
    ).encode(x="x:Q", y="y:Q", text="text:N")
    return [line, label]
