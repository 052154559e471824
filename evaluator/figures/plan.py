"""A plan: what minutes and instances buy, and what each way to roll out exposes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluator.figures.base import CANDIDATES, INK, inline
from evaluator.planning import Exposure, GatePlan, Grid
from evaluator.wording import format_margin, name_metric

if TYPE_CHECKING:
    import altair as alt

__all__ = ["draw_plan"]

GOOD = "#5b7ba6"
PANEL = {"width": 260, "height": 150}


def draw_plan(plans: Sequence[GatePlan], grids: Sequence[Grid], strategies: Sequence[Exposure]) -> alt.VConcatChart:
    """Draw a plan: precision of every gate over minutes and instances, then what each way to roll out exposes."""
    import altair as alt

    panels = [_draw_gate(plan, grid) for plan, grid in zip(plans, grids, strict=True)]
    rows = alt.concat(*panels, columns=2).resolve_scale(color="shared")
    chart = alt.vconcat(rows, _draw_strategies(strategies), spacing=24)
    styled: alt.VConcatChart = (
        chart.configure_view(stroke=None)
        .configure_axis(labelColor=INK, titleColor=INK, gridOpacity=0.4)
        .configure_legend(orient="top")
    )
    return styled


def _draw_gate(plan: GatePlan, grid: Grid) -> alt.LayerChart | alt.FacetChart:
    """Half-width of the interval over time, a line for each number of instances; below the dashed margin is enough."""
    import altair as alt

    precision = plan.precision
    scale, unit = _scale(precision.relative, precision.unit)
    rows = [
        {"minutes": seconds / 60, "half": width * scale, "instances": f"{count} + {count}"}
        for seconds, widths in zip(grid.seconds, grid.half_widths, strict=True)
        for count, width in zip(grid.instances, widths, strict=True)
        if math.isfinite(width)
    ]
    margin = precision.rule.margin
    allowed = format_margin(margin, precision.unit)
    axis = alt.Axis(values=[seconds / 60 for seconds in grid.seconds], format="~r", labelOverlap=True)
    order = [f"{count} + {count}" for count in grid.instances]
    lines = (
        alt.Chart(inline(rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("minutes:Q", title="minutes", scale=alt.Scale(type="log", nice=False), axis=axis),
            y=alt.Y("half:Q", title=f"± {unit}", scale=alt.Scale(zero=True)),
            color=alt.Color("instances:N", title="instances", sort=order, scale=alt.Scale(scheme="oranges")),
            tooltip=["minutes:Q", "half:Q", "instances:N"],
        )
    )
    limit = margin.value * scale if margin else 0.0
    rule = alt.Chart(inline([{"half": limit}])).mark_rule(color=GOOD, strokeDash=[5, 3]).encode(y="half:Q")
    chance = f"GO if unchanged in {plan.go_chance:.0%}"
    title = alt.TitleParams(
        name_metric(precision.rule), subtitle=f"{allowed} allowed (dashed); {chance}", anchor="start"
    )
    return alt.layer(lines, rule).properties(title=title, **PANEL)


def _draw_strategies(strategies: Sequence[Exposure]) -> alt.LayerChart | alt.FacetChart:
    """Requests that a worse version serves, by the way it is rolled out."""
    import altair as alt

    least = min(strategies, key=lambda row: row.exposed)
    rows = [
        {
            "rollout": row.strategy.replace("_", " "),
            "exposed": row.exposed,
            "text": f"stopped before full in {row.stopped:.0%}; unchanged gets there in {row.completes:.0%}",
        }
        for row in strategies
    ]
    base = alt.Chart(inline(rows)).encode(
        y=alt.Y("rollout:N", sort="x", title=None), x=alt.X("exposed:Q", title="requests served by the worse version")
    )
    title = f"{least.strategy.replace('_', ' ')} exposes the fewest requests to the regression"
    labels = base.mark_text(align="left", dx=4, color=INK).encode(text="text:N")
    bars = base.mark_bar(color=CANDIDATES[0], tooltip=True)
    return alt.layer(bars, labels).properties(title=alt.TitleParams(title, anchor="start"), width=560, height=120)


def _scale(relative: bool, unit: str) -> tuple[float, str]:  # noqa: FBT001 a record's own field
    if relative:
        return 100.0, "%"
    return (100.0, "pp") if unit == "fraction" else (1.0, unit)
