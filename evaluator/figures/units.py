"""A metric of each instance (or run) by itself: is it one pod?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluator.figures.base import NARROW, Figure, finish, inline, shorten
from evaluator.records import BASELINE, Comparison
from evaluator.wording import format_count, format_value, name_comparison

HEIGHT = 130


def draw_units(row: Comparison, curve: Mapping[str, Any], *, colors: Mapping[str, str], width: int = NARROW) -> Figure:
    """Draw one comparison; `curve` as `evaluator.figure_data` traced it."""
    import altair as alt

    factor, unit = (100.0, "%") if row.unit == "fraction" else (1.0, row.unit)
    arms = [BASELINE, row.arm]
    rows = tuple(
        (
            shorten(unit_row["name"]),
            unit_row["arm"],
            format_value(unit_row["value"], row.unit),
            format_count(unit_row["n"]),
        )
        for unit_row in curve["units"]
    )
    points = [
        {
            "arm": arm,
            "value": unit_row["value"] * factor,
            "tip": f"{name}: {value}, {n} requests",
            "name": unit_row["name"],
        }
        for unit_row, (name, arm, value, n) in zip(curve["units"], rows, strict=True)
        if unit_row["value"] is not None
    ]
    title = _write_title(row, curve)
    y = alt.Y("arm:N", title=None, sort=arms, axis=alt.Axis(labelLimit=80, ticks=False, domain=False))
    x = alt.X(
        "value:Q",
        title=f"{shorten(name_comparison(row), 40)}, {unit}",
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
        finish(alt.layer(dots), width=width, height=HEIGHT),
        title=title,
        alt=f"A dot for each {curve['of']} of both arms. {title}.",
        head=(curve["of"], "arm", "value", "requests"),
        rows=rows,
    )


def _write_title(row: Comparison, curve: Mapping[str, Any]) -> str:
    """Do the two arms' units overlap?"""
    baseline, candidate = (
        [unit_row["value"] for unit_row in curve["units"] if unit_row["arm"] == arm and unit_row["value"] is not None]
        for arm in (BASELINE, row.arm)
    )
    name = name_comparison(row)
    if not candidate or not baseline:
        return f"{name}: only one arm has {curve['of']}s with a value"
    many = f"{len(candidate)} {curve['of']}{'s' if len(candidate) > 1 else ''} of {row.arm}"
    if min(candidate) > max(baseline) or max(candidate) < min(baseline):
        where = "above" if min(candidate) > max(baseline) else "below"
        return f"{name}: all {many} are {where} all of baseline: it is not a single one"
    ends, base = (
        " to ".join(format_value(value, row.unit) for value in (min(values), max(values)))
        for values in (candidate, baseline)
    )
    return f"{name}: {many} from {ends}; baseline from {base}"
