"""All metrics at a glance: a small figure each, all on the same axis of harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from evaluator.figures.base import is_worse_upwards, name_row
from evaluator.figures.forest import FARTHEST, LEAST_AXIS
from evaluator.records import Comparison
from evaluator.reports.base import mark_status
from evaluator.ui.pieces import find_status_class, link, to_css_color
from evaluator.wording import format_change

CUMULATIVE = ", by all data up to each time"
"""What follows the change of a metric that has no windows of its own: too few requests."""


def make_small_multiples(
    drawable: Sequence[tuple[str, Mapping[str, Any], Comparison]],
    release_id: str,
    colors: Mapping[str, str],
    *,
    with_arms: bool,
) -> Markup:
    """Make a small figure of each metric: its change within each window of the run, or else the change up to each time.

    `drawable`: name of the metric in the address, its data as of `trace_release`, and its comparison. All figures have
    one vertical axis, harm in margins; the band is what is allowed. Metrics without a margin or such data are left out.
    """
    tiles = []
    lines = [
        (name, data, comparison, harms)
        for name, data, comparison in drawable
        if comparison.rule.margin and comparison.rule.margin.value > 0 and (harms := _list_harms(data, comparison))
    ]
    if len(lines) < 2:
        return Markup("")
    shown = [min(max(harm, -FARTHEST), FARTHEST) for *_, harms in lines for *_, harm in harms]
    low, high = min([*shown, -LEAST_AXIS]), max([*shown, LEAST_AXIS])
    for name, data, comparison, harms in lines:
        title = link(
            "release",
            text=name_row(comparison, with_arm=with_arms),
            at="metric",
            release=release_id,
            metric=name,
            arm=comparison.arm,
        )
        tiles.append(
            Markup(
                '<div class="ev-tile"><span class="status {}">{}</span> {} <span class="muted">{}</span>{}</div>'
            ).format(
                find_status_class(comparison),
                mark_status(comparison, watched_mark="·").split(" ")[0],  # without its word
                title,
                format_change(comparison) + (CUMULATIVE if not data.get("windows") else ""),
                _draw_line(harms, low, high, to_css_color(colors[comparison.arm])),
            )
        )
    return Markup('<div class="ev-tiles" role="group" aria-label="all metrics">{}</div>').format(Markup("").join(tiles))


def _list_harms(data: Mapping[str, Any], comparison: Comparison) -> list[tuple[float, float, float]]:
    """List begin, end (seconds) and harm (margins) of each window, or of each time with all data up to then.

    A quantile that became a failure is beyond all margins.
    """
    margin = comparison.rule.margin
    if margin is None:
        return []
    sign = 1 if is_worse_upwards(comparison) else -1
    windows, over_time = data.get("windows"), data["over_time"]
    if windows:
        begins, ends, estimates = windows["begin"], windows["end"], windows["estimate"]
    elif over_time:
        ends, estimates = over_time["seconds"], over_time["estimate"]
        begins = [0, *ends[:-1]]
    else:
        return []
    return [
        (begin, end, 2 * FARTHEST if estimate is None else sign * estimate / margin.value)
        for begin, end, estimate in zip(begins, ends, estimates, strict=True)
    ]


def _draw_line(harms: Sequence[tuple[float, float, float]], low: float, high: float, color: str) -> Markup:
    """Draw a metric as a stroke for each window; `low` and `high` are the ends of the axis of harm, right is later.

    The page's own parts, not an SVG, which Streamlit takes out of a page.
    """
    start, end_s = harms[0][0], harms[-1][1]
    length = end_s - start or 1.0

    def find_bottom(harm: float) -> float:
        """Find the height of a harm in percent; what lies beyond the axis is at its end."""
        return 3 + 94 * (min(max(harm, low), high) - low) / (high - low)

    def draw_part(css_class: str, **places: float) -> Markup:
        """Draw a part at these places, in percent of the width or height."""
        style = ";".join(f"{name}:{value:.2f}%" for name, value in places.items())
        return Markup('<i class="{}" style="{}"></i>').format(css_class, style)

    top, bottom = find_bottom(1.0), find_bottom(-1.0)
    parts = [
        draw_part("band", bottom=bottom, height=top - bottom),
        draw_part("zero", bottom=find_bottom(0.0)),
        draw_part("edge", bottom=top),
        *(
            draw_part(
                "stroke",
                left=100 * (begin - start) / length,
                width=100 * (end - begin) / length,
                bottom=find_bottom(harm),
            )
            for begin, end, harm in harms
        ),
    ]
    return Markup('<div class="ev-strokes" aria-hidden="true" style="--canary:{}">{}</div>').format(
        color, Markup("").join(parts)
    )
