"""A plan: what more minutes and more instances gain, and how many requests each way to roll out exposes.

`draw_plan` draws all of it as one chart; `draw_precision` and `draw_exposure` draw its parts, each with its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluator.figures.base import CANDIDATES, INK, NARROW, Figure, finish, inline, scale
from evaluator.planning import Exposure, GatePlan, Grid
from evaluator.records import Margin
from evaluator.wording import format_count, format_duration, format_margin, format_number, name_metric

if TYPE_CHECKING:
    import altair as alt


GOOD = "#5b7ba6"
PANEL = {"width": 260, "height": 150}
HEIGHT = 190


def draw_plan(plans: Sequence[GatePlan], grids: Sequence[Grid], strategies: Sequence[Exposure]) -> alt.VConcatChart:
    """Draw a plan: precision of every gate over minutes and instances, then the exposure of each way to roll out."""
    import altair as alt

    panels = []
    for plan, grid in zip(plans, grids, strict=True):
        rule, unit = plan.precision.rule, plan.precision.unit
        subtitle = (
            f"{format_margin(rule.margin, unit)} allowed (dashed); {plan.go_chance:.0%} chance of GO if unchanged"
        )
        title = alt.TitleParams(name_metric(rule), subtitle=subtitle, anchor="start")
        panels.append(_layer_precision(plan, grid).properties(title=title, **PANEL))
    rows = alt.concat(*panels, columns=2).resolve_scale(color="shared")
    data = [
        {
            "rollout": row.label,
            "exposed": row.exposed,
            "text": f"stopped before full in {row.stopped:.0%}; completed if unchanged in {row.completes:.0%}",
        }
        for row in strategies
    ]
    base = alt.Chart(inline(data)).encode(
        y=alt.Y("rollout:N", sort="x", title=None), x=alt.X("exposed:Q", title="requests served by the worse version")
    )
    labels = base.mark_text(align="left", dx=4, color=INK).encode(text="text:N")
    bars = base.mark_bar(color=CANDIDATES[0], tooltip=True)
    title = alt.TitleParams(_say_least(strategies), anchor="start")
    exposure = alt.layer(bars, labels).properties(title=title, width=560, height=120)
    chart: alt.VConcatChart = (
        alt.vconcat(rows, exposure, spacing=24)
        .configure_view(stroke=None)
        .configure_axis(labelColor=INK, titleColor=INK, gridOpacity=0.4)
        .configure_legend(orient="top")
    )
    return chart


def draw_precision(plan: GatePlan, grid: Grid) -> Figure:
    """Precision of one gate by minutes and instances: half of its interval, and the margin."""
    precision = plan.precision
    allowed = format_margin(precision.rule.margin, precision.unit)
    title = f"{name_metric(precision.rule)}: {plan.go_chance:.0%} chance of GO if unchanged, {allowed} allowed"

    def half(width: float) -> str:
        is_known = math.isfinite(width)
        return f"± {format_margin(Margin(width, relative=precision.relative), precision.unit)}" if is_known else "–"

    return Figure(
        finish(_layer_precision(plan, grid).properties(title=""), width=NARROW, height=HEIGHT),
        title=title,
        alt=f"Falling lines, one for each number of instances: half of the interval over minutes. {title}.",
        head=("after", *(f"{count} + {count} instances" for count in grid.instances)),
        rows=tuple(
            (format_duration(seconds), *map(half, widths))
            for seconds, widths in zip(grid.seconds, grid.half_widths, strict=True)
        ),
    )


def _layer_precision(plan: GatePlan, grid: Grid) -> alt.LayerChart | alt.FacetChart:
    """Half-width of the interval over time, a line for each number of instances; below the dashed margin is enough."""
    import altair as alt

    precision = plan.precision
    scaled, margin = scale(precision.unit, relative=precision.relative), precision.rule.margin
    rows = [
        {"minutes": seconds / 60, "half": width * scaled.factor, "instances": f"{count} + {count}"}
        for seconds, widths in zip(grid.seconds, grid.half_widths, strict=True)
        for count, width in zip(grid.instances, widths, strict=True)
        if math.isfinite(width)
    ]
    axis = alt.Axis(values=[seconds / 60 for seconds in grid.seconds], format="~r", labelOverlap=True)
    order = [f"{count} + {count}" for count in grid.instances]
    lines = (
        alt.Chart(inline(rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("minutes:Q", title="minutes", scale=alt.Scale(type="log", nice=False), axis=axis),
            y=alt.Y("half:Q", title=f"± {scaled.unit}", scale=alt.Scale(zero=True)),
            color=alt.Color("instances:N", title="instances", sort=order, scale=alt.Scale(scheme="oranges")),
            tooltip=["minutes:Q", "half:Q", "instances:N"],
        )
    )
    limit = margin.value * scaled.factor if margin else 0.0
    rule = alt.Chart(inline([{"half": limit}])).mark_rule(color=GOOD, strokeDash=[5, 3]).encode(y="half:Q")
    return alt.layer(lines, rule)


def draw_exposure(strategies: Sequence[Exposure]) -> Figure:
    """Requests that a worse version serves, by the way it is rolled out."""
    import altair as alt

    rows = [
        {"rollout": row.label, "exposed": row.exposed, "tip": f"{row.label}: {format_count(round(row.exposed))}"}
        for row in strategies
    ]
    bars = (
        alt.Chart(inline(rows))
        .mark_bar(color=CANDIDATES[0])
        .encode(
            y=alt.Y("rollout:N", sort="x", title=None),
            x=alt.X("exposed:Q", title="requests served by the worse version", axis=alt.Axis(format="~s", tickCount=5)),
            description="tip:N",
        )
    )
    least = min(row.exposed for row in strategies)
    title = f"{_say_least(strategies)}: {format_count(round(least))}"
    return Figure(
        finish(bars, width=NARROW, height=HEIGHT),
        title=title,
        alt=f"A bar for each way to roll out: requests served by the worse version. {title}.",
        head=("rollout", "exposed", "stopped before full", "caught after", "unchanged: completed", "unchanged: after"),
        rows=tuple(
            (
                row.label,
                f"{format_count(round(row.exposed))} requests",
                f"{format_number(row.stopped * 100)} %",
                f"{format_number(row.caught_after * 100)} %",
                f"{format_number(row.completes * 100)} %",
                "–" if math.isnan(row.full_after_s) else format_duration(row.full_after_s),
            )
            for row in strategies
        ),
    )


def _say_least(strategies: Sequence[Exposure]) -> str:
    return f"{min(strategies, key=lambda row: row.exposed).label} exposes the fewest requests to the regression"
