"""Figures of a release: metric by metric, over the distribution, and over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st
from markupsafe import Markup

from evaluator.figures import draw_distribution, draw_over_time, draw_shift, draw_timeline, draw_units, explain_timeline
from evaluator.figures.base import is_drawn
from evaluator.records import Comparison, Margin, Verdict
from evaluator.reports.base import STATUS_MARKS, count_both, format_allowed
from evaluator.reports.overview import rank_comparisons
from evaluator.ui.controls import choose
from evaluator.ui.panels import show_figure
from evaluator.ui.pieces import clean, show_definitions, show_empty, show_markup
from evaluator.ui.reads import Workspace
from evaluator.wording import format_margin, format_number

FigureData = Mapping[str, Any]
"""Data of the figures of a release, or of one of them, as `evaluator.figure_data.trace_release` returns them."""

SNIPPET = """import evaluator

release = evaluator.open({store!r}).release({release!r})
release.judgement().plot.{draw}"""


def _write_snippet(workspace: Workspace, verdict: Verdict, draw: str) -> str:
    """Write the Python that draws a figure in a notebook; `draw` is the call, such as `timeline()`."""
    return SNIPPET.format(store=str(workspace.store), release=verdict.release.id, draw=draw)


def show_metric(workspace: Workspace, verdict: Verdict, figures: FigureData, colors: Mapping[str, str]) -> None:
    """Show the metric that the reader chooses: its change over time, its value per instance or run, and its facts.

    `colors` are the colours of the arms by name.
    """
    st.header("Metric by metric", anchor="metric")
    comparison_by_key = {
        (comparison.rule.name, comparison.arm, comparison.rule.slice.endpoint): comparison
        for comparison in verdict.evidence.comparisons
        if not comparison.scan and is_drawn(comparison, figures)
    }
    with_data: list[Comparison] = []
    data_by_id: dict[int, FigureData] = {}  # by the identity of the comparison, which cannot be a key itself
    for metric_data in figures.get("metrics", ()):
        comparison = comparison_by_key.get((metric_data["name"], metric_data["arm"], metric_data["endpoint"]))
        if comparison is not None and comparison.effect is not None:
            with_data.append(comparison)
            data_by_id[id(comparison)] = metric_data
    # The most important first: it is the default choice.
    drawable = [(data_by_id[id(comparison)], comparison) for comparison in rank_comparisons(with_data)]
    if not drawable:
        show_empty("No metric has figures of its own.", "Gates and holds on requests have them where there is data.")
        return
    if note := figures.get("note"):
        show_markup("<p>{}</p>", clean(note))
    data, comparison = _choose_metric(drawable)
    left, right = st.columns(2, gap="large")
    with left:
        if data["over_time"]:
            figure = draw_over_time(comparison, data["over_time"], color=colors[comparison.arm])
            draw = f"band({comparison.rule.name!r}, arm={comparison.arm!r})"
            show_figure(figure, "over-time", _write_snippet(workspace, verdict, draw))
        else:
            show_empty("No line over time.", "Several runs were judged together, each at its end.")
    with right:
        if data["units"]:
            figure = draw_units(comparison, data["units"], colors=colors)
            draw = f"units({comparison.rule.name!r}, arm={comparison.arm!r})"
            show_figure(figure, "units", _write_snippet(workspace, verdict, draw))
        show_definitions(_list_facts(comparison))


def _choose_metric(drawable: list[tuple[FigureData, Comparison]]) -> tuple[FigureData, Comparison]:
    """Let the reader choose arm and metric among those that can be drawn; the first is the default."""
    arms = list(dict.fromkeys(comparison.arm for _, comparison in drawable))
    left, right = st.columns(2)
    arm = arms[0] if len(arms) == 1 else choose("Arm", arms, "arm", arms[0], "arm", right)
    by_name = {comparison.rule.name: (data, comparison) for data, comparison in drawable if comparison.arm == arm}
    name = choose("Metric", list(by_name), "metric", next(iter(by_name)), "metric", left)
    return by_name[name]


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
    for index, figure in enumerate(draw_timeline(timeline, figures.get("readings", ()), colors=colors)):
        show_figure(figure, f"timeline-{index}", _write_snippet(workspace, verdict, "timeline()"))
