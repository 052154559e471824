"""What happened when: strips of latency, failures, load and readings of every arm, on one axis of load time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluator.figures.base import (
    INK,
    MUTED,
    NARROW,
    SHADE,
    Figure,
    color_arms,
    finish,
    finite,
    inline,
    label_time,
    shorten,
)
from evaluator.wording import format_duration, format_number, format_value

__all__ = ["draw_timeline"]

HEIGHT = 130
MARGIN_LEFT = 42
"""Room for the labels of the vertical axes, the same in all strips so that their times stand below each other."""
TABLE_ROWS = 40


@dataclass(frozen=True, slots=True)
class _Strip:
    """One quantity over time."""

    name: str
    unit: str
    title: str
    series: tuple[tuple[str, bool, Sequence[float], Sequence[float | None]], ...]
    """Arm, thin?, seconds, values in `unit`."""


def draw_timeline(
    timeline: Mapping[str, Any], readings: Sequence[Mapping[str, Any]] = (), *, width: int = NARROW
) -> tuple[Figure, ...]:
    """Draw one figure a strip; `timeline` and `readings` as `evaluator.figure_data` traced them."""
    arms = [arm["name"] for arm in timeline["arms"]]
    strips = [*_strips(timeline), *(_strip_of_reading(one) for one in readings)]
    colors = color_arms(arms)
    end = timeline["seconds"][-1] + timeline["slot_s"] if timeline["seconds"] else 0
    return tuple(
        _draw(strip, timeline, colors, end, width, last=place == len(strips) - 1, first=place == 0)
        for place, strip in enumerate(strips)
    )


def _strips(timeline: Mapping[str, Any]) -> list[_Strip]:
    """Latency, failures, requests and, where they were recorded, users."""
    seconds, arms = timeline["seconds"], timeline["arms"]

    def series(key: str, factor: float = 1.0, *, thin: bool = False) -> list[Any]:
        return [(arm["name"], thin, seconds, _times(arm[key], factor)) for arm in arms if arm[key]]

    def peak(key: str, factor: float, unit: str) -> str:
        """The highest value of each arm, in words."""
        found = [(arm["name"], finite(arm[key])) for arm in arms if arm[key]]
        return ", ".join(f"{name} at most {format_number(max(v) * factor)} {unit}".strip() for name, v in found if v)

    strips = [
        _Strip(
            "p95 (thin: median)",
            "ms",
            f"p95 (thin line: median): {peak('p95_ms', 1, 'ms')}",
            (*series("p95_ms"), *series("p50_ms", thin=True)),
        ),
        _Strip("failures", "%", f"Failures: {peak('failures', 100, '%')}", tuple(series("failures", 100.0))),
        _Strip("requests", "/s", f"Requests: {peak('per_s', 1, '/s')}", tuple(series("per_s"))),
        _Strip("users", "", f"Users: {peak('users', 1, '')}", tuple(series("users"))),
    ]
    return [strip for strip in strips if any(finite(values) for _, _, _, values in strip.series)]


def _times(values: Sequence[float | None], factor: float) -> list[float | None]:
    return [None if value is None else value * factor for value in values]


def _say_what(reading: Mapping[str, Any], name: str) -> str:
    asks = f" (asked by {reading['metric']})" if reading.get("metric") else ""
    return f"{name}: {'increase per second' if reading['shows'] == 'per_s' else 'mean'}{asks}"


def _strip_of_reading(reading: Mapping[str, Any]) -> _Strip:
    name = shorten(reading["name"] or reading["query"], 60)
    unit = "per second" if reading["shows"] == "per_s" else reading.get("unit", "")
    series = tuple((arm["name"], False, arm["seconds"], arm["values"]) for arm in reading["arms"])
    return _Strip(name, unit, _say_what(reading, name), series)


def _draw(
    strip: _Strip,
    timeline: Mapping[str, Any],
    colors: Mapping[str, str],
    end: float,
    width: int,
    *,
    last: bool,
    first: bool,
) -> Figure:
    divisor, axis = label_time(end)
    chart = _layer(strip, timeline, colors, end, width, last=last, first=first)
    return Figure(
        finish(chart, width=width, height=HEIGHT + (18 if last else 0)),
        title=strip.title,
        alt=f"{strip.name} of each arm over {format_duration(end)} of load. {strip.title}.",
        head=(axis, *(f"{name}{' median' if thin else ''}" for name, thin, _, _ in strip.series)),
        rows=_tabulate(strip, divisor),
    )


def _tabulate(strip: _Strip, divisor: float) -> tuple[tuple[str, ...], ...]:
    """Values at some of the moments that all series share."""
    moments = sorted({moment for _, _, seconds, _ in strip.series for moment in seconds})
    step = max(1, -(-len(moments) // TABLE_ROWS))
    known = [dict(zip(seconds, values, strict=True)) for _, _, seconds, values in strip.series]
    return tuple(
        (format_number(moment / divisor), *(format_value(one.get(moment), strip.unit) for one in known))
        for moment in moments[::step]
    )


def _layer(
    strip: _Strip,
    timeline: Mapping[str, Any],
    colors: Mapping[str, str],
    end: float,
    width: int,
    *,
    last: bool,
    first: bool,
) -> Any:
    import altair as alt

    divisor, axis = label_time(end)
    half = timeline["slot_s"] / 2
    rows = [
        {"time": (moment + half) / divisor, "value": value, "arm": arm, "series": f"{arm}{thin}", "thin": thin}
        for arm, thin, seconds, values in strip.series
        for moment, value in zip(seconds, values, strict=True)
    ]
    x = alt.X(
        "time:Q",
        title=f"{axis} of load" if last else None,
        axis=alt.Axis(
            labels=last, ticks=last, grid=True, labelOverlap=True, labelFlush=True, tickCount=max(width // 60, 4)
        ),
        scale=alt.Scale(domain=[0, end / divisor], nice=False),
    )
    values = finite([row["value"] for row in rows])
    y = alt.Y(
        "value:Q",
        scale=alt.Scale(domain=[0, 1]) if not any(values) else alt.Scale(zero=min(values) >= 0),
        title=strip.unit or " ",  # without one the strip would begin elsewhere than the others
        axis=alt.Axis(minExtent=MARGIN_LEFT, maxExtent=MARGIN_LEFT, tickCount=4, titlePadding=2, format="~s"),
    )
    arms = list(colors)
    lines = (
        alt.Chart(inline(rows))
        .mark_line(clip=True)
        .encode(
            x=x,
            y=y,
            detail="series:N",
            color=alt.Color("arm:N", legend=None, scale=alt.Scale(domain=arms, range=list(colors.values()))),
            strokeDash=alt.StrokeDash(
                "arm:N", legend=None, scale=alt.Scale(domain=arms, range=[[5, 3], *([[1, 0]] * (len(arms) - 1))])
            ),
            strokeWidth=alt.condition("datum.thin", alt.value(1), alt.value(2)),
        )
    )
    return alt.layer(*_shade(timeline, divisor), lines, *_mark_events(timeline, divisor, end, named=first))


def _shade(timeline: Mapping[str, Any], divisor: float) -> list[Any]:
    import altair as alt

    boxes = [
        {"start": one["start"] / divisor, "end": one["end"] / divisor, "what": one["what"]}
        for one in timeline["shaded"]
    ]
    if not boxes:
        return []
    return [alt.Chart(inline(boxes)).mark_rect(color=SHADE).encode(x="start:Q", x2="end:Q")]


def _mark_events(timeline: Mapping[str, Any], divisor: float, end: float, *, named: bool) -> list[Any]:
    import altair as alt

    marks = [
        {"at": one["at"] / divisor, "what": shorten(one["what"], 30), "late": one["at"] > end / 2}
        for one in timeline["events"]
    ]
    marks += [
        {"at": one["start"] / divisor, "what": shorten(one["what"], 30), "late": one["start"] > end / 2}
        for one in timeline["shaded"][:1]
    ]
    if not marks:
        return []
    rules = alt.Chart(inline(marks[: len(timeline["events"])])).mark_rule(color=MUTED, strokeWidth=1).encode(x="at:Q")
    texts = [
        alt.Chart(inline([one for one in marks if one["late"] is late]))
        .mark_text(align="right" if late else "left", baseline="top", dx=-3 if late else 3, color=INK, fontSize=10)
        .encode(x="at:Q", y=alt.value(0), text="what:N")
        for late in (False, True)
        if named and any(one["late"] is late for one in marks)
    ]
    return [*([rules] if timeline["events"] else []), *texts]
