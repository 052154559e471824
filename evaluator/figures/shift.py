"""Where in the distribution it moved: the change at every quantile."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from evaluator.figures.base import NARROW, Figure, finish, keep_finite, layer_change
from evaluator.records import BASELINE
from evaluator.wording import format_number, format_value

HEIGHT = 210
LABELS = {1.0: "p1", 50.0: "p50", 90.0: "p90", 95.0: "p95", 99.0: "p99", 99.5: "p99.5", 99.9: "p99.9"}
MAX_ROOM = 2.5
"""Length of the axis, in multiples of the largest change: the interval of a quantile may be very wide."""
MOST_WIDTHS, LEAST_WIDTH = 4.0, 0.1
"""A quantile is known if its interval is at most this many times as wide as the typical one, or at most this wide."""
EQUAL_SHARE = 0.8
"""If the least change is at least this share of the largest, the title states that all quantiles changed equally."""


def draw_shift(curve: Mapping[str, Any], *, color: str, width: int = NARROW, baseline: str = BASELINE) -> Figure:
    """Draw the relative change of response time at each quantile, with its interval, of one candidate.

    `baseline`: the name of what it is compared with.

    `curve` is what `trace_quantiles` returns: lists with an entry per quantile (`percent`); an end of an interval that
    is `None` is infinite. The axis is logarithmic in the share of requests above each quantile. Quantiles at its ends
    that are hardly known are in the table only.
    """
    import altair as alt

    whole_curve, curve = curve, _take_known(curve)
    unknown = ""
    if len(curve["percent"]) < len(whole_curve["percent"]):
        unknown = f"; known from p{curve['percent'][0]:g} to p{curve['percent'][-1]:g} only"
        if curve["percent"][0] == whole_curve["percent"][0]:
            unknown = f"; not known beyond p{curve['percent'][-1]:g}"
    title = f"{_write_title(curve)}{unknown}"
    domain = _find_domain(curve)
    low, high = domain  # what lies beyond is cut; an infinite end of an interval (None) ends there
    points = [
        {
            "place": _position(percent),
            "change": 100 * estimate,
            "lower": low if lower is None else min(max(100 * lower, low), high),
            "upper": high if upper is None else min(max(100 * upper, low), high),
            "tip": f"p{percent:g}: {_format_percent(estimate)} ({_format_percent(lower)} … {_format_percent(upper)})",
        }
        for percent, estimate, lower, upper in zip(
            curve["percent"], curve["estimate"], curve["lower"], curve["upper"], strict=True
        )
    ]
    ticks = [_position(percent) for percent in LABELS if _position(percent) <= points[-1]["place"] + 1e-9]
    # An expression of the chart that finds the label of a tick (`datum.value`): the first whose position is not below
    # it, with some room for rounding.
    label_choices = [f"datum.value < {_position(percent) + 0.01:.3f} ? '{text}'" for percent, text in LABELS.items()]
    label_expression = " : ".join([*label_choices, "''"])
    x = alt.X(
        "place:Q",
        title="quantile of response time",
        axis=alt.Axis(values=ticks, labelExpr=label_expression),
        scale=alt.Scale(domain=[0, points[-1]["place"]], nice=False),
    )
    return Figure(
        finish(alt.layer(*layer_change(points, x, domain, "%", color)), width=width, height=HEIGHT),
        title=title,
        alt=f"Line of the relative change of response time of {curve['arm']} at each quantile, with its interval. "
        f"{title}.",
        head=("quantile", baseline, curve["arm"], "change", "from", "to"),
        rows=tuple(
            (
                f"p{percent:g}",
                *(format_value(whole_curve[key][index], "ms") for key in ("baseline_ms", "candidate_ms")),
                *(_format_percent(whole_curve[key][index]) for key in ("estimate", "lower", "upper")),
            )
            for index, percent in enumerate(whole_curve["percent"])
        ),
    )


def _take_known(curve: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the quantiles at both ends of a curve whose interval is endless, or far wider than the typical one.

    If none is known, all are kept.
    """
    widths = [
        math.inf if lower is None or upper is None else upper - lower
        for lower, upper in zip(curve["lower"], curve["upper"], strict=True)
    ]
    most = max(LEAST_WIDTH, MOST_WIDTHS * statistics.median(widths))
    known = [index for index, width in enumerate(widths) if width <= most and math.isfinite(width)]
    first, end = (known[0], known[-1] + 1) if known else (0, len(widths))
    return {key: values[first:end] if isinstance(values, list) else values for key, values in curve.items()}


def _position(percent: float) -> float:
    """Place a quantile (0 to below 100) on the axis: 0 for p0, 1 for p90, 2 for p99, 3 for p99.9."""
    return -math.log10(1 - percent / 100)


def _format_percent(value: float | None) -> str:
    """Write a relative change as percent, with its sign; None is an infinite end of an interval."""
    return "∞" if value is None else f"{format_number(round(100 * value, 2), sign=True)} %"


def _write_title(curve: Mapping[str, Any]) -> str:
    """Name the quantile that changed most among those whose interval excludes 0, and the quantile in the middle."""
    # Quantile, in percent → its relative change.
    changes = dict(zip(curve["percent"], curve["estimate"], strict=True))
    # An end of an interval that is None is infinite: it does not exclude 0.
    shown_changes = {
        percent: change
        for (percent, change), lower, upper in zip(changes.items(), curve["lower"], curve["upper"], strict=True)
        if (lower is not None and lower > 0) or (upper is not None and upper < 0)
    }
    if not shown_changes:
        return f"No quantile of {curve['arm']} is shown to have changed"

    def write_change(percent: float) -> str:
        """Write the change at a quantile: `+12.4 % at p95`."""
        return f"{_format_percent(changes[percent])} at p{percent:g}"

    middle = min(changes, key=lambda percent: abs(percent - 50))
    most_changed = max(shown_changes, key=lambda percent: abs(shown_changes[percent]))
    sizes = [abs(change) for change in shown_changes.values()]
    if len(shown_changes) > len(changes) / 2 and min(sizes) > EQUAL_SHARE * max(sizes):
        highest = list(shown_changes)[-1]  # quantiles are in rising order
        return f"It changed equally everywhere: {write_change(middle)}, {write_change(highest)}"
    if most_changed == middle:
        return f"It changed most in the middle: {write_change(middle)}"
    size = _format_percent(changes[most_changed])
    return f"It changed most at p{most_changed:g}: {size}, and {write_change(middle)}"


def _find_domain(curve: Mapping[str, Any]) -> tuple[float, float]:
    """Find the lowest and the highest change of the axis, in percent: all intervals fit, except very wide ones."""
    estimates = [100 * value for value in keep_finite(curve["estimate"])]
    # Intervals are cut here; 5 % more, so that a tiny change leaves some room.
    farthest = MAX_ROOM * max((abs(value) for value in estimates), default=1.0) + 5
    ends = [100 * value for key in ("lower", "upper") for value in keep_finite(curve[key])]
    # At least ±2 %, so that a tiny change does not fill the figure.
    return max(min([*ends, *estimates, -2.0]), -farthest), min(max([*ends, *estimates, 2.0]), farthest)
