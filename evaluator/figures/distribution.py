"""Share of requests that each arm has done by each time: both distribution functions on a logarithmic axis of time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluator.figures.base import BASE, NARROW, Figure, finish, inline
from evaluator.records import BASELINE
from evaluator.wording import choose_time_scale, format_number, format_value

HEIGHT = 210
TABLE_ROWS = 24


def draw_distribution(curve: Mapping[str, Any], *, color: str, width: int = NARROW, baseline: str = BASELINE) -> Figure:
    """Draw the distribution of response times of the baseline (dashed) and of one candidate.

    `baseline`: the name of what the candidate is compared with.

    `curve` is what `trace_distribution` returns: `ms` are times, `baseline` and `candidate` the shares of requests that
    are done by each time, `medians_ms` the median of each arm (`None`: half of its requests fail).
    """
    import altair as alt

    per_ms, unit = choose_time_scale(curve["ms"][-1])
    points = [
        {"time": ms * per_ms, "share": 100 * share, "arm": arm}
        for arm, key in ((baseline, "baseline"), (curve["arm"], "candidate"))
        for ms, share in zip(curve["ms"], curve[key], strict=True)
    ]
    arms = [baseline, curve["arm"]]
    chart = (
        alt.Chart(inline(points))
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X(
                "time:Q",
                title=f"response time, {unit}",
                scale=alt.Scale(type="log", nice=False, domain=[curve["ms"][0] * per_ms, curve["ms"][-1] * per_ms]),
                axis=alt.Axis(tickCount=5, format="~r", labelOverlap=True, grid=False),
            ),
            y=alt.Y("share:Q", title="done, % of requests", scale=alt.Scale(domain=[0, 100])),
            color=alt.Color("arm:N", legend=None, scale=alt.Scale(domain=arms, range=[BASE, color])),
            strokeDash=alt.StrokeDash("arm:N", legend=None, scale=alt.Scale(domain=arms, range=[[5, 3], [1, 0]])),
        )
    )
    # The table has every n-th point only.
    table_step = max(1, len(curve["ms"]) // TABLE_ROWS)
    table_points = list(zip(curve["ms"], curve["baseline"], curve["candidate"], strict=True))[::table_step]
    medians = [
        "no time (they fail)" if median is None else format_value(median, "ms") for median in curve["medians_ms"]
    ]
    title = f"Half of the requests are done within {medians[0]} on {baseline} and {medians[1]} on {curve['arm']}"
    return Figure(
        finish(alt.layer(chart), width=width, height=HEIGHT),
        title=title,
        alt=f"Two rising lines: the share of requests done by each response time, of {baseline} and {curve['arm']}. "
        f"{title}.",
        head=("done by", baseline, curve["arm"]),
        rows=tuple(
            (format_value(ms, "ms"), f"{format_number(100 * first)} %", f"{format_number(100 * second)} %")
            for ms, first, second in table_points
        ),
    )
