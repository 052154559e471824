"""Figures of a release: metric by metric, over the distribution, and over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import streamlit as st
from markupsafe import Markup

from evaluator.figures import (
    TimeOfDay,
    draw_distribution,
    draw_over_time,
    draw_shift,
    draw_timeline,
    draw_units,
    draw_windows,
    explain_timeline,
)
from evaluator.figures.base import is_drawn
from evaluator.records import Comparison, Margin, Verdict
from evaluator.records.intents import JUDGED, AuditRow
from evaluator.reports.base import STATUS_MARKS, count_both, format_allowed
from evaluator.reports.overview import rank_comparisons
from evaluator.ui.acting import read_trail
from evaluator.ui.controls import choose
from evaluator.ui.panels import show_figure
from evaluator.ui.pieces import clean, find_time_zone, show, show_definitions, show_empty, show_markup
from evaluator.ui.reads import Workspace
from evaluator.ui.small_multiples import make_small_multiples
from evaluator.wording import format_margin, format_number, name_comparison

FigureData = Mapping[str, Any]
"""Data of the figures of a release, or of one of them, as `evaluator.figure_data.trace_release` returns them."""

MOST_EVENTS = 30
"""More could not be distinguished on the axis of time."""
SNIPPET = """import evaluator

release = evaluator.open({store!r}).release({release!r})
release.judgement().plot.{draw}"""


def _write_snippet(workspace: Workspace, verdict: Verdict, draw: str) -> str:
    """Write the Python that draws a figure in a notebook; `draw` is the call, such as `timeline()`."""
    return SNIPPET.format(store=str(workspace.store), release=verdict.release.id, draw=draw)


def list_drawable(comparisons: Sequence[Comparison], figures: FigureData) -> list[tuple[FigureData, Comparison]]:
    """List the comparisons that have figures, each with its data, the most important first."""
    comparison_by_key = {
        (comparison.rule.name, comparison.arm, comparison.rule.slice.endpoint): comparison
        for comparison in comparisons
        if is_drawn(comparison, figures)
    }
    with_data: list[Comparison] = []
    data_by_id: dict[int, FigureData] = {}  # by the identity of the comparison, which cannot be a key itself
    for metric_data in figures.get("metrics", ()):
        comparison = comparison_by_key.get((metric_data["name"], metric_data["arm"], metric_data["endpoint"]))
        if comparison is not None and comparison.effect is not None:
            with_data.append(comparison)
            data_by_id[id(comparison)] = metric_data
    return [(data_by_id[id(comparison)], comparison) for comparison in rank_comparisons(with_data)]


def show_metric(workspace: Workspace, verdict: Verdict, figures: FigureData, colors: Mapping[str, str]) -> None:
    """Show the metric that the reader chooses: its change over time, its value per instance or run, and its facts.

    `colors` are the colours of the arms by name.
    """
    drawable = list_drawable(verdict.evidence.comparisons, figures)
    if not drawable and not any(arm.requests for arm in verdict.evidence.arms):
        return  # outcomes and readings have no figures of their own
    st.header("Metric by metric", anchor="metric")
    if not drawable:
        show_empty("No metric has figures of its own.", "Gates and holds on requests have them where there is data.")
        return
    if note := figures.get("note"):
        show_markup("<p>{}</p>", clean(note))
    has_several_candidates = len({row.arm for _, row in drawable}) > 1
    named_rows = [(_name_choice(row), data, row) for data, row in drawable]
    if tiles := make_small_multiples(named_rows, verdict.release.id, colors, with_arms=has_several_candidates):
        show_markup(
            '<p class="muted">Each metric over the run, every window by itself. The band is what is allowed, up is '
            "worse, and all have one scale.</p>"
        )
        show(tiles)
    data, comparison = _choose_metric(drawable)
    named = f"{comparison.rule.name!r}, arm={comparison.arm!r}"
    named += f", endpoint={comparison.rule.slice.endpoint!r}" if comparison.scan else ""
    show_metric_figures(
        comparison, data, colors, "", lambda draw: _write_snippet(workspace, verdict, f"{draw}({named})")
    )


def show_metric_figures(
    comparison: Comparison,
    data: FigureData,
    colors: Mapping[str, str],
    prefix: str,
    write_snippet: Callable[[str], str],
) -> None:
    """Show a comparison up to each time, within each window, and by instance or run, with its facts.

    `prefix` makes the names of the figures unique on the page; `write_snippet`: called with the name of a plot, returns
    the Python that draws it again.
    """
    prefix = f"{prefix}-" if prefix else ""
    left, right = st.columns(2, gap="large")
    with left:
        if data["over_time"]:
            figure = draw_over_time(comparison, data["over_time"], color=colors[comparison.arm])
            show_figure(figure, f"{prefix}over-time", write_snippet("band"))
        else:
            show_empty("No line over time.", "Several runs were judged together, each at its end.")
        if data["units"]:
            figure = draw_units(comparison, data["units"], colors=colors)
            show_figure(figure, f"{prefix}units", write_snippet("units"))
    with right:
        if data.get("windows"):
            figure = draw_windows(comparison, data["windows"], color=colors[comparison.arm])
            show_figure(figure, f"{prefix}windows", write_snippet("windows"))
        show_definitions(_list_facts(comparison))


def _choose_metric(drawable: list[tuple[FigureData, Comparison]]) -> tuple[FigureData, Comparison]:
    """Let the reader choose arm and metric among those that can be drawn; the first is the default."""
    arms = list(dict.fromkeys(comparison.arm for _, comparison in drawable))
    left, right = st.columns(2)
    arm = arms[0] if len(arms) == 1 else choose("Arm", arms, "arm", arms[0], "arm", right)
    by_name = {_name_choice(comparison): (data, comparison) for data, comparison in drawable if comparison.arm == arm}
    name = choose("Metric", list(by_name), "metric", next(iter(by_name)), "metric", left)
    return by_name[name]


def _name_choice(comparison: Comparison) -> str:
    """Name a metric as the control and the address do: as the policy; an endpoint of the scan with its metric."""
    return clean(name_comparison(comparison)) if comparison.scan else comparison.rule.name


def _list_facts(comparison: Comparison) -> list[tuple[str, object]]:
    """List names and values of what a comparison is based on and what it found."""
    status = Markup('<span class="status {}">{}</span>').format(
        comparison.status.value, STATUS_MARKS[comparison.status]
    )
    detectable = comparison.detectable_effect
    facts: list[tuple[str, object]] = [
        ("status", status),
        ("why", comparison.reason or comparison.no_data or "–"),
        ("definition", f"{comparison.rule.type} of {comparison.rule.slice.endpoint or 'all endpoints'}"),
        ("allowed", format_allowed(comparison)),
        ("n", count_both(comparison)),
        ("instances or runs", f"{comparison.instances[0]} + {comparison.instances[1]}"),
        ("method", comparison.method),
    ]
    if comparison.p_value is not None:
        facts.append(("p-value of “worse than allowed”", format_number(comparison.p_value)))
    if detectable is not None:
        # Written in the same way as a margin, with which a reader compares it.
        is_relative = comparison.effect is None or comparison.effect.kind == "relative"
        as_margin = Margin(detectable, relative=is_relative)
        facts.append(("detectable with 80 % power", format_margin(as_margin, comparison.unit)))
    return facts


def show_distribution(workspace: Workspace, verdict: Verdict, figures: FigureData, colors: Mapping[str, str]) -> None:
    """Show two figures for each candidate: the change at each quantile, and the distributions of both arms."""
    if not figures.get("quantiles"):
        return
    st.header("Where in the distribution it moved", anchor="distribution")
    for index, curve in enumerate(figures["quantiles"]):
        arm = curve["arm"]
        left, right = st.columns(2, gap="large")
        with left:
            figure = draw_shift(curve, color=colors[arm])
            show_figure(figure, f"shift-{index}", _write_snippet(workspace, verdict, f"shift({arm!r})"))
        distribution = next((data for data in figures["distributions"] if data["arm"] == arm), None)
        if distribution is not None:
            with right:
                figure = draw_distribution(distribution, color=colors[arm])
                snippet = _write_snippet(workspace, verdict, f"distribution({arm!r})")
                show_figure(figure, f"distribution-{index}", snippet)


def show_timeline(workspace: Workspace, verdict: Verdict, figures: FigureData, colors: Mapping[str, str]) -> None:
    """Show latency, failures, load and readings of every arm on one axis of time, if there are data of them."""
    timeline = figures.get("timeline")
    if not timeline:
        return
    st.header("What happened when", anchor="timeline")
    show_markup('<p class="muted">{}</p>', clean(explain_timeline(timeline)))
    events = list_events(read_trail(workspace), verdict.release.id, timeline)
    snippet = _write_snippet(workspace, verdict, "timeline()")
    show_strips(timeline, colors, "timeline", snippet, readings=figures.get("readings", ()), events=events)


def show_strips(
    timeline: FigureData | None,
    colors: Mapping[str, str],
    name: str,
    snippet: str,
    *,
    readings: Sequence[FigureData] = (),
    events: Sequence[FigureData] = (),
) -> None:
    """Show the strips of a timeline with the reader's time of day; nothing without one.

    `name`: unique on the page; the other arguments are those of `draw_timeline`.
    """
    if not timeline:
        return
    zone = find_time_zone()
    offset = datetime.fromtimestamp(float(timeline["start_epoch_s"]), zone).utcoffset()
    clock = TimeOfDay(str(zone), offset.total_seconds() if offset else 0.0)
    drawn = draw_timeline(timeline, readings, colors=colors, clock=clock, events=events)
    for index, figure in enumerate(drawn):
        show_figure(figure, f"{name}-{index}", snippet)


def list_events(trail: Sequence[AuditRow], release_id: str, timeline: FigureData) -> list[dict[str, Any]]:
    """List what people and programs did with a release during its load, notes included, on the axis of a timeline.

    The result has `at` (seconds of load) and `what` for each. With several runs on the axis it is empty: the time of
    day has no place on it.
    """
    if timeline.get("runs") != 1 or not timeline["seconds"]:
        return []
    end_s = timeline["seconds"][-1] + timeline["slot_s"]
    events = []
    for row in trail:
        at_s = row.at.timestamp() - timeline["start_epoch_s"]
        if row.release == release_id and 0 <= at_s <= end_s and row.event != JUDGED:
            first_line = row.text.strip().split("\n", 1)[0]
            events.append({"at": at_s, "what": f"{row.event}: {first_line}" if row.event == "note" else row.event})
    return events[:MOST_EVENTS]
