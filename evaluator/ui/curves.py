"""Figures of a release: metric by metric, over the distribution, and over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st
from markupsafe import Markup

from evaluator.figures import draw_distribution, draw_over_time, draw_shift, draw_timeline, draw_units, explain_timeline
from evaluator.records import Comparison, Margin, Verdict
from evaluator.reports.base import STATUS_MARKS, count_both, format_allowed
from evaluator.reports.overview import rank_comparisons
from evaluator.ui.controls import choose
from evaluator.ui.panels import show_figure
from evaluator.ui.pieces import clean, show_definitions, show_empty, show_markup
from evaluator.ui.reads import Workspace
from evaluator.wording import format_margin, format_number

Traced = Mapping[str, Any]

SNIPPET = """import evaluator

release = evaluator.open({store!r}).release({release!r})
release.judgement().plot.{draw}"""


def _write_snippet(workspace: Workspace, verdict: Verdict, draw: str) -> str:
    """Python that makes a figure again in a notebook."""
    return SNIPPET.format(store=str(workspace.store), release=verdict.release.id, draw=draw)


def show_metric(workspace: Workspace, verdict: Verdict, figures: Traced, colors: Mapping[str, str]) -> None:
    """One metric: its change over time, and each instance."""
    st.subheader("Metric by metric", anchor="metric")
    rows = {
        (row.rule.name, row.arm, row.rule.slice.endpoint): row for row in verdict.evidence.comparisons if not row.scan
    }
    traced = [
        (curve, rows.get((curve["name"], curve["arm"], curve["endpoint"]))) for curve in figures.get("metrics", ())
    ]
    by_row = {id(row): (curve, row) for curve, row in traced if row is not None and row.effect is not None}
    drawable = [by_row[id(row)] for row in rank_comparisons([row for _, row in by_row.values()])]
    if not drawable:
        show_empty("No metric has figures of its own.", "Gates and holds on requests have them where there is data.")
        return
    curve, row = _choose(drawable)
    left, right = st.columns(2, gap="large")
    with left:
        if curve["over_time"]:
            figure = draw_over_time(row, curve["over_time"], color=colors[row.arm])
            draw = f"band({row.rule.name!r}, arm={row.arm!r})"
            show_figure(figure, "over-time", _write_snippet(workspace, verdict, draw))
        else:
            show_empty("No line over time.", "Several runs were judged together, each at its end.")
    with right:
        if curve["units"]:
            figure = draw_units(row, curve["units"], colors=colors)
            draw = f"units({row.rule.name!r}, arm={row.arm!r})"
            show_figure(figure, "units", _write_snippet(workspace, verdict, draw))
        show_definitions(_explain(row))


def _choose(drawable: list[tuple[Traced, Comparison]]) -> tuple[Traced, Comparison]:
    """Let the reader choose arm and metric; the address has the choice."""
    arms = list(dict.fromkeys(row.arm for _, row in drawable))
    left, right = st.columns(2)
    arm = arms[0] if len(arms) == 1 else choose("Arm", arms, "arm", arms[0], right)
    by_name = {row.rule.name: (curve, row) for curve, row in drawable if row.arm == arm}
    name = choose("Metric", list(by_name), "metric", next(iter(by_name)), left)
    return by_name[name]


def _explain(row: Comparison) -> list[tuple[str, object]]:
    status = Markup('<span class="status {}">{}</span>').format(row.status.value, STATUS_MARKS[row.status])
    detectable = row.detectable_effect
    pairs: list[tuple[str, object]] = [
        ("status", status),
        ("why", row.reason or row.no_data or "–"),
        ("definition", f"{row.rule.type} of {row.rule.slice.endpoint or 'all endpoints'}"),
        ("allowed", format_allowed(row)),
        ("n", count_both(row)),
        ("instances or runs", f"{row.instances[0]} + {row.instances[1]}"),
        ("method", row.method),
    ]
    pairs += [("p-value of “worse than allowed”", format_number(row.p_value))] if row.p_value is not None else []
    if detectable is None:
        return pairs
    relative = row.effect is None or row.effect.kind == "relative"
    return [*pairs, ("detectable with 80 % power", format_margin(Margin(detectable, relative=relative), row.unit))]


def show_distribution(workspace: Workspace, verdict: Verdict, figures: Traced, colors: Mapping[str, str]) -> None:
    """Where in the distribution it moved, and both distributions, of each candidate."""
    if not figures.get("quantiles"):
        return
    st.subheader("Where in the distribution it moved", anchor="distribution")
    for index, curve in enumerate(figures["quantiles"]):
        arm = curve["arm"]
        left, right = st.columns(2, gap="large")
        with left:
            figure = draw_shift(curve, color=colors[arm])
            show_figure(figure, f"shift-{index}", _write_snippet(workspace, verdict, f"shift({arm!r})"))
        both = next((distribution for distribution in figures["distributions"] if distribution["arm"] == arm), None)
        if both is not None:
            with right:
                figure = draw_distribution(both, color=colors[arm])
                show_figure(
                    figure, f"distribution-{index}", _write_snippet(workspace, verdict, f"distribution({arm!r})")
                )


def show_timeline(workspace: Workspace, verdict: Verdict, figures: Traced) -> None:
    """Latency, failures, load and readings of every arm on one axis."""
    timeline = figures.get("timeline")
    if not timeline:
        return
    st.subheader("What happened when", anchor="timeline")
    show_markup('<p class="muted">{}</p>', clean(explain_timeline(timeline)))
    for k, figure in enumerate(draw_timeline(timeline, figures.get("readings", ()))):
        show_figure(figure, f"timeline-{k}", _write_snippet(workspace, verdict, "timeline()"))
