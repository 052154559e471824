"""When the change began: each window of the run compared by itself, not all data up to then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluator.figures.base import (
    MUTED,
    NARROW,
    EffectScale,
    Figure,
    choose_effect_scale,
    choose_time_unit,
    cut,
    find_edge,
    finish,
    inline,
    is_worse_upwards,
    keep_finite,
    layer_allowed,
)
from evaluator.records import Comparison
from evaluator.wording import format_duration, format_margin, format_number, name_comparison

HEIGHT = 210
MAX_ROOM = 1.6
"""Length of the axis, in multiples of the largest change or of the margin: intervals of windows may be very wide."""
LEAST_TRAILING = 2
"""Windows at the end that must be beyond the margin before the title says that it is so from then on."""
FAILS = "failure"
"""Instead of the change of a quantile that became a failed request."""


def draw_windows(row: Comparison, curve: Mapping[str, Any], *, color: str, width: int = NARROW) -> Figure:
    """Draw the change of a comparison within each window of the run, with the window's own interval, and the margin.

    `curve` is what `trace_windows` returns: lists of `begin` and `end` (seconds of judged data), `estimate`, `lower`
    and `upper` with an entry per window. An estimate that is `None` is a quantile that became a failure: it is drawn at
    the harmful edge. An end of an interval that is `None` is infinite.
    """
    import altair as alt

    scale = choose_effect_scale(row)
    divisor, time_unit = choose_time_unit(float(curve["end"][-1]))
    edge = find_edge(row, scale)
    low, high = _find_domain(curve, scale, edge or 0.0)
    points = _make_points(curve, scale, (low, high), divisor)
    x = alt.X(
        "begin:Q",
        title=f"{time_unit} of judged data, each window by itself",
        axis=alt.Axis(tickCount=6, labelFlush=False, labelOverlap=True),
        scale=alt.Scale(domain=[0, points[-1]["end"]], nice=False),
    )
    y = alt.Y("change:Q", title=f"change, {scale.unit}", scale=alt.Scale(domain=[low, high], nice=False, zero=False))
    base = alt.Chart(inline(points)).encode(y=y)
    known = base.transform_filter("!datum.fails")
    layers: list[Any] = []
    if edge is not None:
        layers += layer_allowed(edge, 0, points[-1]["end"], (low, high))
    layers += [
        alt.Chart(inline([{"change": 0}])).mark_rule(color=MUTED, strokeWidth=1).encode(y="change:Q"),
        known.mark_rule(color=color, opacity=0.5, strokeWidth=6).encode(x="middle:Q", y="lower:Q", y2="upper:Q"),
        known.mark_rule(color=color, strokeWidth=2.5).encode(x=x, x2="end:Q", y=y),
        known.mark_point(color=color, filled=True, size=30, opacity=1).encode(x="middle:Q", y=y, description="tip:N"),
    ]
    if any(point["fails"] for point in points):
        failing = base.transform_filter("datum.fails")
        layers.append(
            failing.mark_point(color=color, filled=True, size=80, opacity=1, shape="triangle-up").encode(
                x="middle:Q", y=y, description="tip:N"
            )
        )
    title = _write_title(row, curve, divisor, time_unit)
    return Figure(
        finish(alt.layer(*layers), width=width, height=HEIGHT),
        title=title,
        alt=f"The change of {name_comparison(row)} on {row.arm} in each of {len(points)} windows by itself, with its "
        f"interval and the margin. {title}.",
        head=(time_unit, "change", "from", "to"),
        rows=tuple((point["span"], point["text"], point["from"], point["to"]) for point in points),
    )


def _make_points(
    curve: Mapping[str, Any], scale: EffectScale, domain: tuple[float, float], divisor: float
) -> list[dict[str, Any]]:
    """Make the data of each window: its place, and its texts; what lies beyond `domain` is moved to its end.

    `divisor`: seconds in a unit of the axis of time.
    """
    low, high = domain
    points = []
    for begin_s, end_s, estimate, lower, upper in zip(
        curve["begin"], curve["end"], curve["estimate"], curve["lower"], curve["upper"], strict=True
    ):
        texts = {
            "span": f"{format_number(begin_s / divisor)}–{format_number(end_s / divisor)}",
            "text": FAILS if estimate is None else scale.write(estimate),
            "from": "−∞" if lower is None else scale.write(lower),
            "to": "∞" if upper is None else scale.write(upper),
        }
        points.append(
            {
                **texts,
                "begin": begin_s / divisor,
                "end": end_s / divisor,
                "middle": (begin_s + end_s) / 2 / divisor,
                "change": cut(estimate, scale, domain, unknown=high),
                "lower": cut(lower, scale, domain, unknown=low),
                "upper": cut(upper, scale, domain, unknown=high),
                "fails": estimate is None,
                "tip": "{span}: {text} ({from} … {to})".format(**texts),
            }
        )
    return points


def _write_title(row: Comparison, curve: Mapping[str, Any], divisor: float, time_unit: str) -> str:
    """Say from which window on the change is beyond the margin, or how many windows are, or else the range."""
    name, scale = name_comparison(row), choose_effect_scale(row)
    count = len(curve["begin"])
    length = format_duration(curve["end"][0] - curve["begin"][0])
    values = keep_finite(curve["estimate"])
    if row.rule.margin is None and not values:
        return f"{name}: a failure in each window of {length}"
    if row.rule.margin is None:
        return f"{name} within each {length}: {scale.write(min(values))} to {scale.write(max(values))}"
    sign, allowed = 1 if is_worse_upwards(row) else -1, format_margin(row.rule.margin, row.unit)
    harms = [float("inf") if value is None else sign * value for value in curve["estimate"]]
    beyond = [harm > row.rule.margin.value for harm in harms]
    if not any(beyond):
        worst = max(range(count), key=lambda number: harms[number])
        return (
            f"{name} within each {length}: no estimate beyond the {allowed} allowed, at worst "
            f"{scale.write(curve['estimate'][worst])}"
        )
    if all(beyond):
        return f"{name}: estimated beyond the {allowed} allowed in each window of {length}, from the start on"
    # Windows at the end of which all are beyond, and those that are beyond before.
    trailing = beyond[::-1].index(False)
    before = sum(beyond) - trailing
    if trailing < LEAST_TRAILING:
        minute = f"{time_unit.removesuffix('s')} {format_number(curve['begin'][beyond.index(True)] / divisor)}"
        first = f"first from {minute} on" if sum(beyond) > 1 else f"from {minute} on"
        return (
            f"{name}: estimated beyond the {allowed} allowed in {sum(beyond)} of {count} windows of {length}, {first}"
        )
    begin = f"{time_unit.removesuffix('s')} {format_number(curve['begin'][count - trailing] / divisor)}"
    earlier = f", and in {before} before" if before else ""
    return f"{name}: estimated beyond the {allowed} allowed in each window of {length} from {begin} on{earlier}"


def _find_domain(curve: Mapping[str, Any], scale: EffectScale, edge: float) -> tuple[float, float]:
    """Find the lowest and the highest change of the axis: all estimates and the margin fit, wide intervals are cut."""
    estimates = [value * scale.factor for value in keep_finite(curve["estimate"])]
    needed = max([abs(edge), *map(abs, estimates)]) or 1.0
    ends = [value * scale.factor for key in ("lower", "upper") for value in keep_finite(curve[key])]
    low, high = min([*ends, *estimates, -1.3 * abs(edge)]), max([*ends, *estimates, 1.3 * abs(edge)])
    return max(min(low, 0.0), -MAX_ROOM * needed), min(max(high, 0.0), MAX_ROOM * needed)
