"""A plan's figures one by one, each with its numbers: for pages that lay them out themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluator.figures.base import CANDIDATES, NARROW, Figure, finish, inline
from evaluator.figures.plan import _draw_gate
from evaluator.planning import Exposure, GatePlan, Grid
from evaluator.records import Margin
from evaluator.wording import format_count, format_duration, format_margin, format_number, name_metric

__all__ = ["draw_exposure", "draw_precision"]

HEIGHT = 190


def draw_precision(plan: GatePlan, grid: Grid, *, width: int = NARROW, height: int = HEIGHT) -> Figure:
    """What minutes and instances buy for one gate: half of its interval, beside the margin."""
    precision = plan.precision
    margin = precision.rule.margin
    allowed = format_margin(margin, precision.unit)
    title = f"{name_metric(precision.rule)}: GO if unchanged in {plan.go_chance:.0%}, {allowed} allowed"
    return Figure(
        finish(_draw_gate(plan, grid).properties(title=""), width=width, height=height),
        title=title,
        alt=f"Falling lines, one for each number of instances: half of the interval over minutes. {title}.",
        head=("after", *(f"{count} + {count} instances" for count in grid.instances)),
        rows=tuple(
            (format_duration(seconds), *(_half(plan, half) for half in widths))
            for seconds, widths in zip(grid.seconds, grid.half_widths, strict=True)
        ),
    )


def _half(plan: GatePlan, half: float) -> str:
    precision = plan.precision
    if not math.isfinite(half):
        return "–"
    return f"± {format_margin(Margin(half, relative=precision.relative), precision.unit)}"


def draw_exposure(strategies: Sequence[Exposure], *, width: int = NARROW, height: int = HEIGHT) -> Figure:
    """Requests that a worse version serves, by the way it is rolled out."""
    import altair as alt

    least = min(strategies, key=lambda row: row.exposed)
    rows = [
        {"rollout": _name(row), "exposed": row.exposed, "tip": f"{_name(row)}: {format_count(round(row.exposed))}"}
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
    title = f"{_name(least)} exposes the fewest requests to the regression: {format_count(round(least.exposed))}"
    return Figure(
        finish(bars, width=width, height=height),
        title=title,
        alt=f"A bar for each way to roll out: requests served by the worse version. {title}.",
        head=("rollout", "exposed", "stopped before full", "caught after", "unchanged: gets there", "unchanged: after"),
        rows=tuple(
            (
                _name(row),
                f"{format_count(round(row.exposed))} requests",
                f"{format_number(row.stopped * 100)} %",
                f"{format_number(row.caught_after * 100)} %",
                f"{format_number(row.completes * 100)} %",
                "–" if math.isnan(row.full_after_s) else format_duration(row.full_after_s),
            )
            for row in strategies
        ),
    )


def _name(row: Exposure) -> str:
    return row.strategy.replace("_", " ")
