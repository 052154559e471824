"""What happened when: strips of latency, failures, load and readings of every arm, on one axis of load time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evaluator.figures.base import (
    INK,
    MUTED,
    NARROW,
    SHADE,
    TICK_LABELS,
    Figure,
    choose_time_unit,
    finish,
    inline,
    keep_finite,
    shorten,
)
from evaluator.wording import choose_time_scale, format_duration, format_number, format_value

HEIGHT = 130
AXIS_HEIGHT = 32
"""Room for the labels of the axis of time, px."""
MARGIN_LEFT = 42
"""Room for the labels of the vertical axes, the same in all strips so that their times are aligned."""
TABLE_ROWS = 40
HEADROOM = 0.06
"""Share of a vertical axis that is above its highest value, so that its line is not cut."""


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """The time zone in which times of day are written."""

    name: str = "UTC"
    offset_s: float = 0.0
    """Seconds that its time is ahead of UTC."""

    def write_labels(self, start_epoch_s: float, divisor: float) -> str:
        """Write the expression of a chart for the labels of its axis of time: the time, and below it the time of day.

        `start_epoch_s`: of the axis, seconds since the epoch; `divisor`: seconds in a unit of the axis.
        """
        ms = f"{1000 * (start_epoch_s + self.offset_s):.0f} + datum.value * {1000 * divisor:.0f}"
        # The text of UTC at a time that is moved by the offset is that of the zone, wherever the figure is drawn.
        return f"[format(datum.value, '~r'), utcFormat({ms}, '{'%H:%M' if divisor > 1 else '%H:%M:%S'}')]"


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a strip."""

    arm: str
    seconds: Sequence[float]
    """Times of its values, in seconds of load."""
    values: Sequence[float | None]
    """In the unit of the strip; `None`: no value."""


@dataclass(frozen=True, slots=True)
class _Strip:
    """One quantity over time, of all arms."""

    name: str
    unit: str
    title: str
    series: tuple[_Line, ...]


def draw_timeline(
    timeline: Mapping[str, Any],
    readings: Sequence[Mapping[str, Any]] = (),
    *,
    colors: Mapping[str, str],
    width: int = NARROW,
    clock: TimeOfDay | None = None,
    events: Sequence[Mapping[str, Any]] = (),
) -> tuple[Figure, ...]:
    """Draw what happened during the load as strips with one axis of time, a figure per strip.

    `timeline` and `readings` are what `trace_timeline` and `trace_readings` return; `colors` are those of the arms
    by name; `width` is in px. `clock`: in which time zone the time of day is written, `None`: UTC; with several runs on
    the axis there is none. `events`: further ones, as those of the timeline.
    """
    timeline = {**timeline, "events": [*timeline["events"], *events]}
    strips = _make_strips(timeline, readings)
    end_s = timeline["seconds"][-1] + timeline["slot_s"] if timeline["seconds"] else 0
    divisor, time_unit = choose_time_unit(end_s)
    figures = []
    for index, strip in enumerate(strips):
        # Events are named in the first strip, and the axis of time is below the last.
        is_first, is_last = index == 0, index == len(strips) - 1
        chart = _layer_strip(
            strip, timeline, colors, end_s, width, clock or TimeOfDay(), with_names=is_first, with_axis=is_last
        )
        figures.append(
            Figure(
                finish(chart, width=width, height=HEIGHT + (AXIS_HEIGHT if is_last else 0)),
                title=strip.title,
                alt=f"{strip.name} of each arm over {format_duration(end_s)}. {strip.title}.",
                head=(time_unit, *(line.arm for line in strip.series)),
                rows=_tabulate(strip, divisor),
            )
        )
    return tuple(figures)


def explain_timeline(timeline: Mapping[str, Any]) -> str:
    """Say what a point of the timeline stands for, and what is shaded."""
    kinds = ", ".join(dict.fromkeys(box["what"] for box in timeline["shaded"]))
    shaded = f" Shaded: {kinds}." if kinds else ""
    return f"Each point is {format_duration(timeline['slot_s'])}.{shaded}"


def _make_strips(timeline: Mapping[str, Any], readings: Sequence[Mapping[str, Any]]) -> list[_Strip]:
    """Make the strips: small charts of latency, failures, requests and users over time, then one per reading.

    Those of what was not recorded are left out. `timeline` is what `trace_timeline` returns: `seconds` of load, and for
    each of `arms` its values at these. Each of `readings` has times of its own.
    """
    seconds, arms = timeline["seconds"], timeline["arms"]

    def make_series(key: str, factor: float = 1.0) -> tuple[_Line, ...]:
        """Make a line of each arm that has values of `key`, multiplied by `factor`."""
        return tuple(
            _Line(
                arm["name"],
                seconds,
                [None if value is None else value * factor for value in arm[key]],
            )
            for arm in arms
            if arm[key]
        )

    def write_peaks(key: str, factor: float, unit: str) -> str:
        """Write the highest value of each arm: `baseline at most 12 ms, canary at most 15 ms`."""
        values_by_arm = {arm["name"]: keep_finite(arm[key]) for arm in arms if arm[key]}
        return ", ".join(
            f"{name} at most {format_value(max(values) * factor, unit)}".strip()
            for name, values in values_by_arm.items()
            if values
        )

    # The highest value is often that of the last moment, when few requests were left: it says little of the arm.
    strips = [  # name, unit, title, series
        _Strip("median", "ms", f"Median: {_write_typical_and_highest(arms, 'p50_ms')}", make_series("p50_ms")),
        _Strip("p95", "ms", f"p95: {_write_typical_and_highest(arms, 'p95_ms')}", make_series("p95_ms")),
        _Strip("failures", "%", f"Failures: {write_peaks('failures', 100, '%')}", make_series("failures", 100.0)),
        _Strip("requests", "/s", f"Requests: {write_peaks('per_s', 1, '/s')}", make_series("per_s")),
        _Strip("users", "", f"Users: {write_peaks('users', 1, '')}", make_series("users")),
    ]
    strips = [_fit_unit(strip) for strip in strips if any(keep_finite(line.values) for line in strip.series)]
    for reading in readings:
        name = shorten(reading["name"] or reading["query"], 60)
        used_by = f" (used by {reading['metric']})" if reading.get("metric") else ""
        is_rate = reading["shows"] == "per_s"
        title = f"{name}: {'increase per second' if is_rate else 'mean'}{used_by}"
        series = tuple(_Line(arm["name"], arm["seconds"], arm["values"]) for arm in reading["arms"])
        strips.append(_fit_unit(_Strip(name, "per second" if is_rate else reading.get("unit", ""), title, series)))
    return strips


def _write_typical_and_highest(arms: Sequence[Mapping[str, Any]], key: str) -> str:
    """Write the median and the highest of each arm's slots: `baseline typically 9 ms, at most 12 ms; canary …`.

    `key`: of the times.
    """
    values_by_arm = {arm["name"]: keep_finite(arm[key]) for arm in arms if arm[key]}
    return "; ".join(
        f"{name} typically {format_value(statistics.median(values), 'ms')}, at most {format_value(max(values), 'ms')}"
        for name, values in values_by_arm.items()
        if values
    )


def _fit_unit(strip: _Strip) -> _Strip:
    """Show response times (ms) in the unit that fits the longest of them; other quantities stay as they are."""
    values = [value for line in strip.series for value in keep_finite(line.values)]
    if strip.unit != "ms" or not values:
        return strip
    factor, unit = choose_time_scale(max(map(abs, values)))
    series = tuple(
        replace(line, values=[None if value is None else value * factor for value in line.values])
        for line in strip.series
    )
    return replace(strip, unit=unit, series=series)


def _tabulate(strip: _Strip, divisor: float) -> tuple[tuple[str, ...], ...]:
    """Write the table of a strip: at most `TABLE_ROWS` times, evenly chosen, each with the value of every series.

    `divisor`: seconds in a unit of the axis of time.
    """
    times_s = sorted({time_s for line in strip.series for time_s in line.seconds})
    step = max(1, math.ceil(len(times_s) / TABLE_ROWS))
    values_by_time = [dict(zip(line.seconds, line.values, strict=True)) for line in strip.series]
    return tuple(
        (
            format_number(time_s / divisor),
            *(format_value(series_values.get(time_s), strip.unit) for series_values in values_by_time),
        )
        for time_s in times_s[::step]
    )


def _layer_strip(
    strip: _Strip,
    timeline: Mapping[str, Any],
    colors: Mapping[str, str],
    end_s: float,
    width: int,
    clock: TimeOfDay,
    *,
    with_names: bool,
    with_axis: bool,
) -> Any:
    """Layer the shaded times, the lines of all series, and the events of one strip, which ends at `end_s` of load.

    `with_names` adds the names of events, `with_axis` the labels of the axis of time.
    """
    import altair as alt

    divisor, time_unit = choose_time_unit(end_s)
    tick_count = max(width // 60, 4)
    labels: dict[str, Any] = {}
    title = time_unit
    if with_axis and timeline.get("runs") == 1:
        labels["labelExpr"] = clock.write_labels(timeline["start_epoch_s"], divisor)
        title = f"{time_unit} of load, and time of day ({clock.name})"
        tick_count = max(width // 90, 4)  # times of day need more room
    x = alt.X(
        "time:Q",
        title=title if with_axis else None,
        axis=alt.Axis(
            labels=with_axis,
            ticks=with_axis,
            grid=True,
            labelOverlap=True,
            labelFlush=True,
            tickCount=tick_count,
            **labels,
        ),
        scale=alt.Scale(domain=[0, end_s / divisor], nice=False),
    )
    boxes = [
        {"start": box["start"] / divisor, "end": box["end"] / divisor, "what": box["what"]}
        for box in timeline["shaded"]
    ]
    shades = [alt.Chart(inline(boxes)).mark_rect(color=SHADE).encode(x="start:Q", x2="end:Q")] if boxes else []
    lines = _draw_lines(strip, x, timeline["slot_s"], divisor, colors)
    return alt.layer(*shades, lines, *_draw_events(timeline, divisor, end_s, with_names=with_names))


def _draw_lines(strip: _Strip, x: Any, slot_s: float, divisor: float, colors: Mapping[str, str]) -> Any:
    """Draw a line per series of a strip, on the axis of time `x`: the baseline's dashed.

    `slot_s`: seconds that a value stands for; `divisor`: seconds in a unit of the axis.
    """
    import altair as alt

    half_slot_s = slot_s / 2  # a value is drawn in the middle of its slot
    rows: list[dict[str, Any]] = [
        {
            "time": (start_s + half_slot_s) / divisor,
            "value": value,
            "arm": line.arm,
        }
        for line in strip.series
        for start_s, value in zip(line.seconds, line.values, strict=True)
    ]
    values = keep_finite([row["value"] for row in rows])
    y = alt.Y(
        "value:Q",
        scale=alt.Scale(domain=_find_domain(values), nice=False, zero=False),
        title=strip.unit or " ",  # without a title the strip would not be aligned with the others
        axis=alt.Axis(minExtent=MARGIN_LEFT, maxExtent=MARGIN_LEFT, tickCount=4, titlePadding=2, labelExpr=TICK_LABELS),
    )
    arms = list(colors)  # the baseline first: it is dashed
    return (
        alt.Chart(inline(rows))
        .mark_line(clip=True, strokeWidth=2)
        .encode(
            x=x,
            y=y,
            color=alt.Color("arm:N", legend=None, scale=alt.Scale(domain=arms, range=list(colors.values()))),
            strokeDash=alt.StrokeDash(
                "arm:N", legend=None, scale=alt.Scale(domain=arms, range=[[5, 3], *([[1, 0]] * (len(arms) - 1))])
            ),
        )
    )


def _find_domain(values: Sequence[float]) -> tuple[float, float]:
    """Find the ends of a vertical axis: from 0 unless there are negative values, with room for lines at its ends."""
    low, high = min([*values, 0.0]), max([*values, 0.0])
    if low == high:
        return 0.0, 1.0
    room = HEADROOM * (high - low)
    return low - room if low < 0 else low, high + room


def _draw_events(timeline: Mapping[str, Any], divisor: float, end_s: float, *, with_names: bool) -> list[Any]:
    """Draw a vertical line at each event; `with_names` writes at the top what happened, and what is shaded first.

    `divisor`: seconds in a unit of the axis of time, which ends at `end_s`.
    """
    import altair as alt

    def make_marks(times_and_texts: Iterable[tuple[float, str]]) -> list[dict[str, Any]]:
        """Make the data of marks from times (seconds of load) and texts; `at` is in the unit of the axis of time."""
        return [
            # A late mark has its text at its left, where there is room.
            {"at": time_s / divisor, "what": shorten(text, 30), "late": time_s > end_s / 2}
            for time_s, text in times_and_texts
        ]

    events = make_marks((event["at"], event["what"]) for event in timeline["events"])
    first_shaded = make_marks((box["start"], box["what"]) for box in timeline["shaded"][:1])
    layers: list[Any] = []
    if events:
        layers = [alt.Chart(inline(events)).mark_rule(color=MUTED, strokeWidth=1).encode(x="at:Q")]
    if not with_names:
        return layers
    # In the second half of the axis, names are at the left of their line, so that they are not cut.
    for is_late in (False, True):
        same_half = [mark for mark in (*events, *first_shaded) if mark["late"] is is_late]
        if same_half:
            layers.append(
                alt.Chart(inline(same_half))
                .mark_text(
                    align="right" if is_late else "left",
                    baseline="top",
                    dx=-3 if is_late else 3,
                    color=INK,
                    fontSize=10,
                )
                .encode(x="at:Q", y=alt.value(0), text="what:N")
            )
    return layers
