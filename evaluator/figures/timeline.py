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

HEIGHT = 130
MARGIN_LEFT = 42
"""Room for the labels of the vertical axes, the same in all strips so that their times are aligned."""
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
    strips = _find_strips(timeline, readings)
    colors = color_arms([arm["name"] for arm in timeline["arms"]])
    end = timeline["seconds"][-1] + timeline["slot_s"] if timeline["seconds"] else 0
    divisor, axis = label_time(end)
    figures = []
    for k, strip in enumerate(strips):
        last = k == len(strips) - 1
        chart = _layer(strip, timeline, colors, end, width, last=last, first=k == 0)
        figures.append(
            Figure(
                finish(chart, width=width, height=HEIGHT + (18 if last else 0)),
                title=strip.title,
                alt=f"{strip.name} of each arm over {format_duration(end)} of load. {strip.title}.",
                head=(axis, *(f"{name}{' median' if thin else ''}" for name, thin, _, _ in strip.series)),
                rows=_tabulate(strip, divisor),
            )
        )
    return tuple(figures)


def explain_timeline(timeline: Mapping[str, Any]) -> str:
    """What a point is, and what is shaded."""
    kinds = ", ".join(dict.fromkeys(box["what"] for box in timeline["shaded"]))
    shaded = f" Shaded: {kinds}." if kinds else ""
    return f"Each point is {format_duration(timeline['slot_s'])} of load.{shaded}"


def _find_strips(timeline: Mapping[str, Any], readings: Sequence[Mapping[str, Any]]) -> list[_Strip]:
    """Latency, failures, requests and, where they were recorded, users; then the readings."""
    seconds, arms = timeline["seconds"], timeline["arms"]

    def series(key: str, factor: float = 1.0, *, thin: bool = False) -> list[Any]:
        return [
            (arm["name"], thin, seconds, [None if value is None else value * factor for value in arm[key]])
            for arm in arms
            if arm[key]
        ]

    def peak(key: str, factor: float, unit: str) -> str:
        """The highest value of each arm, in words."""
        by_arm = [(arm["name"], finite(arm[key])) for arm in arms if arm[key]]
        return ", ".join(f"{name} at most {format_number(max(v) * factor)} {unit}".strip() for name, v in by_arm if v)

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
    strips = [strip for strip in strips if any(finite(values) for _, _, _, values in strip.series)]
    for reading in readings:
        name = shorten(reading["name"] or reading["query"], 60)
        used_by = f" (used by {reading['metric']})" if reading.get("metric") else ""
        rate = reading["shows"] == "per_s"
        title = f"{name}: {'increase per second' if rate else 'mean'}{used_by}"
        lines = tuple((arm["name"], False, arm["seconds"], arm["values"]) for arm in reading["arms"])
        strips.append(_Strip(name, "per second" if rate else reading.get("unit", ""), title, lines))
    return strips


def _tabulate(strip: _Strip, divisor: float) -> tuple[tuple[str, ...], ...]:
    """Values at some of the moments that all series share."""
    moments = sorted({moment for _, _, seconds, _ in strip.series for moment in seconds})
    step = max(1, -(-len(moments) // TABLE_ROWS))
    by_moment = [dict(zip(seconds, values, strict=True)) for _, _, seconds, values in strip.series]
    return tuple(
        (
            format_number(moment / divisor),
            *(format_value(series_values.get(moment), strip.unit) for series_values in by_moment),
        )
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
        title=strip.unit or " ",  # without a title the strip would not be aligned with the others
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
    boxes = [
        {"start": box["start"] / divisor, "end": box["end"] / divisor, "what": box["what"]}
        for box in timeline["shaded"]
    ]
    shades = [alt.Chart(inline(boxes)).mark_rect(color=SHADE).encode(x="start:Q", x2="end:Q")] if boxes else []
    return alt.layer(*shades, lines, *_mark_events(timeline, divisor, end, named=first))


def _mark_events(timeline: Mapping[str, Any], divisor: float, end: float, *, named: bool) -> list[Any]:
    """A line at each event; what happened, and what is shaded first, is `named` at the top."""
    import altair as alt

    events = [(event["at"], event["what"]) for event in timeline["events"]]
    shaded = [(box["start"], box["what"]) for box in timeline["shaded"][:1]]
    marks = [{"at": at / divisor, "what": shorten(what, 30), "late": at > end / 2} for at, what in (*events, *shaded)]
    layers: list[Any] = []
    if events:
        layers = [alt.Chart(inline(marks[: len(events)])).mark_rule(color=MUTED, strokeWidth=1).encode(x="at:Q")]
    for late in (False, True):
        same_half = [mark for mark in marks if mark["late"] is late]
        if named and same_half:
            layers.append(
                alt.Chart(inline(same_half))
                .mark_text(
                    align="right" if late else "left", baseline="top", dx=-3 if late else 3, color=INK, fontSize=10
                )
                .encode(x="at:Q", y=alt.value(0), text="what:N")
            )
    return layers
