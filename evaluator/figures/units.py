"""A metric of each instance (or run) by itself: is it one pod?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluator.figures.base import NARROW, Figure, finish, inline, shorten
from evaluator.records import BASELINE, Comparison
from evaluator.wording import format_count, format_value, name_comparison

__all__ = ["draw_units"]

HEIGHT = 130


def draw_units(
    row: Comparison, curve: Mapping[str, Any], *, colors: Mapping[str, str], width: int = NARROW, height: int = HEIGHT
) -> Figure:
    """Draw one comparison; `curve` as `evaluator.figure_data` traced it. Its own value of each arm is a tick."""
    import altair as alt

    factor, unit = (100.0, "%") if row.unit == "fraction" else (1.0, row.unit)
    known = [one for one in curve["units"] if one["value"] is not None]
    arms = [BASELINE, row.arm]
    points = [
        {"arm": one["arm"], "value": one["value"] * factor, "tip": _tip(one, row.unit), "name": one["name"]}
        for one in known
    ]
    y = alt.Y("arm:N", title=None, sort=arms, axis=alt.Axis(labelLimit=80, ticks=False, domain=False))
    x = alt.X(
        "value:Q",
        title=f"{name_comparison_short(row)}, {unit}",
        scale=alt.Scale(zero=False, padding=8),
        axis=alt.Axis(tickCount=4, labelOverlap=True, labelFlush=False),
    )
    color = alt.Color("arm:N", legend=None, scale=alt.Scale(domain=arms, range=[colors[BASELINE], colors[row.arm]]))
    shape = alt.Shape("arm:N", legend=None, scale=alt.Scale(domain=arms, range=["square", "circle"]))
    dots = (
        alt.Chart(inline(points))
        .mark_point(filled=True, size=70, opacity=0.75)
        .encode(x=x, y=y, color=color, shape=shape, description="tip:N")
    )
    return Figure(
        finish(alt.layer(dots), width=width, height=height),
        title=_say(row, curve),
        alt=f"A dot for each {curve['of']} of both arms. {_say(row, curve)}.",
        head=(curve["of"], "arm", "value", "requests"),
        rows=tuple(
            (shorten(one["name"]), one["arm"], format_value(one["value"], row.unit), format_count(one["n"]))
            for one in curve["units"]
        ),
    )


def name_comparison_short(row: Comparison) -> str:
    """Name of a comparison for an axis."""
    return shorten(name_comparison(row), 40)


def _tip(one: Mapping[str, Any], unit: str) -> str:
    return f"{shorten(one['name'])}: {format_value(one['value'], unit)}, {format_count(one['n'])} requests"


def _say(row: Comparison, curve: Mapping[str, Any]) -> str:
    """Do the two arms' units overlap?"""
    by_arm = {
        arm: [one["value"] for one in curve["units"] if one["arm"] == arm and one["value"] is not None]
        for arm in (BASELINE, row.arm)
    }
    own, other, name = by_arm[row.arm], by_arm[BASELINE], name_comparison(row)
    if not own or not other:
        return f"{name}: only one arm has {curve['of']}s with a value"
    many = f"{len(own)} {curve['of']}{'s' if len(own) > 1 else ''} of {row.arm}"
    if min(own) > max(other):
        return f"{name}: all {many} lie above all of baseline: it is not one of them alone"
    if max(own) < min(other):
        return f"{name}: all {many} lie below all of baseline: it is not one of them alone"
    ends = " to ".join(format_value(value, row.unit) for value in (min(own), max(own)))
    base = " to ".join(format_value(value, row.unit) for value in (min(other), max(other)))
    return f"{name}: {many} from {ends}; baseline from {base}"
