"""A plan: what more minutes and more instances gain, and how many requests each way to roll out exposes.

`draw_plan` draws all of it as one chart; `draw_precision` and `draw_exposure` draw its parts, each with its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluator.figures.base import CANDIDATES, INK, NARROW, Figure, choose_scale, finish, inline
from evaluator.planning import Exposure, GatePlan, Grid
from evaluator.records import Margin
from evaluator.wording import format_count, format_duration, format_margin, format_number, name_metric

if TYPE_CHECKING:
    import altair as alt


MARGIN_COLOR = "#5b7ba6"
PANEL_SIZE = {"width": 260, "height": 150}
"""Of a panel of a gate, px."""
HEIGHT = 190


def draw_plan(plans: Sequence[GatePlan], grids: Sequence[Grid], strategies: Sequence[Exposure]) -> alt.VConcatChart:
    """Draw a plan as one chart: a panel per gate with its precision, and below them bars of the exposure.

    Precision is by minutes and instances (`grids`, in the order of `plans`). Exposure is the number of requests that a
    regression serves under each strategy, a way to roll out.
    """
    import altair as alt

    panels = []
    for plan, grid in zip(plans, grids, strict=True):
        rule, unit = plan.precision.rule, plan.precision.unit
        chance = f"{100 * plan.go_chance:.0f} % chance of GO if unchanged"
        subtitle = f"{format_margin(rule.margin, unit)} allowed (dashed); {chance}"
        title = alt.TitleParams(name_metric(rule), subtitle=subtitle, anchor="start")
        panels.append(_layer_precision(plan, grid).properties(title=title, **PANEL_SIZE))
    precision = alt.concat(*panels, columns=2).resolve_scale(color="shared")
    rows = [
        {
            "rollout": row.label,
            "exposed": row.exposed,
            "text": f"stopped before full in {100 * row.stopped:.0f} %; "
            f"completed if unchanged in {100 * row.completes:.0f} %",
        }
        for row in strategies
    ]
    base = alt.Chart(inline(rows)).encode(
        y=alt.Y("rollout:N", sort="x", title=None), x=alt.X("exposed:Q", title="requests served by the worse version")
    )
    labels = base.mark_text(align="left", dx=4, color=INK).encode(text="text:N")
    bars = base.mark_bar(color=CANDIDATES[0], tooltip=True)
    title = alt.TitleParams(_name_best(strategies), anchor="start")
    exposure = alt.layer(bars, labels).properties(title=title, width=560, height=120)
    chart: alt.VConcatChart = (
        alt.vconcat(precision, exposure, spacing=24)
        .configure_view(stroke=None)
        .configure_axis(labelColor=INK, titleColor=INK, gridOpacity=0.4)
        .configure_legend(orient="top")
    )
    return chart


def draw_precision(plan: GatePlan, grid: Grid) -> Figure:
    """Draw the precision of a gate, the half-width of its interval, over time, with a line per number of instances."""
    precision = plan.precision
    allowed = format_margin(precision.rule.margin, precision.unit)
    title = f"{name_metric(precision.rule)}: {plan.go_chance * 100:.0f} % chance of GO if unchanged, {allowed} allowed"

    def write_half_width(half_width: float) -> str:
        """Write half of an interval, such as `± 3.1 %`; a dash if it is not finite."""
        if not math.isfinite(half_width):
            return "–"
        # Written in the same way as a margin, with which it is compared.
        return f"± {format_margin(Margin(half_width, relative=precision.relative), precision.unit)}"

    return Figure(
        finish(_layer_precision(plan, grid).properties(title=""), width=NARROW, height=HEIGHT),
        title=title,
        alt=f"Falling lines, one for each number of instances: half of the interval over minutes. {title}.",
        head=("after", *(f"{count} + {count} instances" for count in grid.instances)),
        rows=tuple(
            (format_duration(seconds), *map(write_half_width, half_widths))
            for seconds, half_widths in zip(grid.seconds, grid.half_widths, strict=True)
        ),
    )


def _layer_precision(plan: GatePlan, grid: Grid) -> alt.LayerChart | alt.FacetChart:
    """Draw the half-width of a gate's interval over time, and the margin as a dashed line.

    Each number of instances (baseline + candidate) has a line of its own. Where it is below the margin, there are
    enough data for a GO of an unchanged release.
    """
    import altair as alt

    precision = plan.precision
    scale, margin = choose_scale(precision.unit, relative=precision.relative), precision.rule.margin
    rows = [
        {"minutes": seconds / 60, "half_width": half_width * scale.factor, "instances": f"{count} + {count}"}
        for seconds, half_widths in zip(grid.seconds, grid.half_widths, strict=True)
        for count, half_width in zip(grid.instances, half_widths, strict=True)
        if math.isfinite(half_width)
    ]
    axis = alt.Axis(values=[seconds / 60 for seconds in grid.seconds], format="~r", labelOverlap=True)
    order = [f"{count} + {count}" for count in grid.instances]
    lines = (
        alt.Chart(inline(rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("minutes:Q", title="minutes", scale=alt.Scale(type="log", nice=False), axis=axis),
            y=alt.Y("half_width:Q", title=f"± {scale.unit}", scale=alt.Scale(zero=True)),
            color=alt.Color("instances:N", title="instances", sort=order, scale=alt.Scale(scheme="oranges")),
            tooltip=["minutes:Q", alt.Tooltip("half_width:Q", title="half"), "instances:N"],
        )
    )
    allowed = margin.value * scale.factor if margin else 0.0
    margin_line = alt.Chart(inline([{"half_width": allowed}])).mark_rule(color=MARGIN_COLOR, strokeDash=[5, 3])
    return alt.layer(lines, margin_line.encode(y="half_width:Q"))


def draw_exposure(strategies: Sequence[Exposure]) -> Figure:
    """Draw a bar per strategy: the requests that a worse version serves if it is rolled out in this way."""
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
    fewest_requests = min(row.exposed for row in strategies)
    title = f"{_name_best(strategies)}: {format_count(round(fewest_requests))}"
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


def _name_best(strategies: Sequence[Exposure]) -> str:
    """Say which strategy exposes the fewest requests."""
    return f"{min(strategies, key=lambda row: row.exposed).label} exposes the fewest requests to the regression"
