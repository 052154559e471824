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
from evaluator.ui.reads import Place
from evaluator.wording import format_margin, format_number

Traced = Mapping[str, Any]

SNIPPET = """import evaluator

release = evaluator.open({store!r}).release({release!r})
release.judgement().plot.{draw}"""


def _write_snippet(place: Place, verdict: Verdict, draw: str) -> str:
    """Python that makes a figure again in a notebook."""
    return SNIPPET.format(store=str(place.store), release=verdict.release.id, draw=draw)


def show_metric(place: Place, verdict: Verdict, found: Traced, colors: Mapping[str, str]) -> None:
    """One metric: how its change became known, and each instance by itself."""
    st.subheader("Metric by metric", anchor="metric")
    rows = {
        (row.rule.name, row.arm, row.rule.slice.endpoint): row for row in verdict.evidence.comparisons if not row.scan
    }
    traced = [(one, rows.get((one["name"], one["arm"], one["endpoint"]))) for one in found.get("metrics", ())]
    seen = {id(row): (one, row) for one, row in traced if row is not None and row.effect is not None}
    known = [seen[id(row)] for row in rank_comparisons([row for _, row in seen.values()])]
    if not known:
        show_empty("No metric has figures of its own.", "Gates and holds on requests have them where there is data.")
        return
    one, row = _choose(known)
    left, right = st.columns(2, gap="large")
    with left:
        if one["over_time"]:
            figure = draw_over_time(row, one["over_time"], color=colors[row.arm])
            draw = f"band({row.rule.name!r}, arm={row.arm!r})"
            show_figure(figure, "over-time", _write_snippet(place, verdict, draw))
        else:
            show_empty("No line over time.", "Several runs were judged together, each at its end.")
    with right:
        if one["units"]:
            figure = draw_units(row, one["units"], colors=colors)
            draw = f"units({row.rule.name!r}, arm={row.arm!r})"
            show_figure(figure, "units", _write_snippet(place, verdict, draw))
        show_definitions(_explain(row))


def _choose(known: list[tuple[Traced, Comparison]]) -> tuple[Traced, Comparison]:
    """Let the reader choose arm and metric; the address says which."""
    arms = list(dict.fromkeys(row.arm for _, row in known))
    left, right = st.columns(2)
    arm = arms[0] if len(arms) == 1 else choose("Arm", arms, "arm", arms[0], right)
    mine = {row.rule.name: (one, row) for one, row in known if row.arm == arm}
    name = choose("Metric", list(mine), "metric", next(iter(mine)), left)
    return mine[name]


def _explain(row: Comparison) -> list[tuple[str, object]]:
    status = Markup('<span class="status {}">{}</span>').format(row.status.value, STATUS_MARKS[row.status])
    found = row.detectable_effect
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
    if found is None:
        return pairs
    relative = row.effect is None or row.effect.kind == "relative"
    return [*pairs, ("found with 80 % power", format_margin(Margin(found, relative=relative), row.unit))]


def show_distribution(place: Place, verdict: Verdict, found: Traced, colors: Mapping[str, str]) -> None:
    """Where in the distribution it moved, and both distributions, of each candidate."""
    if not found.get("quantiles"):
        return
    st.subheader("Where in the distribution it moved", anchor="distribution")
    for place_of, curve in enumerate(found["quantiles"]):
        arm = curve["arm"]
        left, right = st.columns(2, gap="large")
        with left:
            figure = draw_shift(curve, color=colors[arm])
            show_figure(figure, f"shift-{place_of}", _write_snippet(place, verdict, f"shift({arm!r})"))
        both = next((one for one in found["distributions"] if one["arm"] == arm), None)
        if both is not None:
            with right:
                figure = draw_distribution(both, color=colors[arm])
                show_figure(
                    figure, f"distribution-{place_of}", _write_snippet(place, verdict, f"distribution({arm!r})")
                )


def show_timeline(place: Place, verdict: Verdict, found: Traced) -> None:
    """Latency, failures, load and readings of every arm on one axis."""
    timeline = found.get("timeline")
    if not timeline:
        return
    st.subheader("What happened when", anchor="timeline")
    show_markup('<p class="muted">{}</p>', clean(explain_timeline(timeline)))
    for k, figure in enumerate(draw_timeline(timeline, found.get("readings", ()))):
        show_figure(figure, f"timeline-{k}", _write_snippet(place, verdict, "timeline()"))
