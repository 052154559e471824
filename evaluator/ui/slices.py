"""Endpoints and slices: all of them ranked, and one looked at closer."""

from __future__ import annotations

import streamlit as st
from markupsafe import Markup

from evaluator.pipeline.reviewing import look_closer, rank_comparisons, span_of
from evaluator.records import Comparison, Verdict
from evaluator.ui.panels import hand_out
from evaluator.ui.pieces import clean, empty, metrics_table, show
from evaluator.ui.reads import Place, ReleaseView, read_judgement
from evaluator.wording import format_duration

__all__ = ["show_slices"]

MOST = 100
ALL = "all endpoints"
STEPS = 40
SNIPPET = """from pathlib import Path
from evaluator.pipeline.reviewing import look_closer, read_judged
from evaluator.reports import from_json
from evaluator.store import Store

store = Store.open(Path({store!r}))
verdict = from_json(store.verdicts({release!r})[-1].json)
judged = read_judged(store, verdict)
for row in look_closer(judged, {release!r}, endpoint={endpoint!r}, from_s={from_s}, to_s={to_s}):
    print(row.rule.name, row.arm, row.effect, row.status)"""


def show_slices(place: Place, view: ReleaseView, verdict: Verdict) -> None:
    """The ranking of the scan, then the drill-down."""
    st.subheader("Endpoints", anchor="endpoints")
    rows = [row for row in verdict.evidence.comparisons if row.scan]
    if rows:
        _show_ranking(view, rows)
    else:
        show(empty("The scan looked at no endpoint.", "The policy turned it off, or no endpoint had enough requests."))
    _show_closer(place, view, verdict)


def _show_ranking(view: ReleaseView, rows: list[Comparison]) -> None:
    wanted = st.text_input(
        "Endpoints that contain", key="find", bind="query-params", max_chars=200, placeholder="any, for example POST"
    )
    chosen = [row for row in rows if (wanted or "").lower() in (row.rule.slice.endpoint or "").lower()]
    ranked = rank_comparisons(chosen)
    if not ranked:
        show(empty("No endpoint has that in its name.", "Empty the field to see all of them."))
        return
    several = len({row.arm for row in rows}) > 1
    show(metrics_table(ranked[:MOST], view.release.id, several=several, caption="endpoints"))
    if len(ranked) > MOST:
        show(Markup('<p class="muted">the {} furthest beyond their margin, of {}</p>').format(MOST, len(ranked)))


def _show_closer(place: Place, view: ReleaseView, verdict: Verdict) -> None:
    judged = read_judgement(place, verdict)
    if not judged.cells.endpoints:
        return
    st.subheader("Look closer", anchor="closer")
    left, right = st.columns(2)
    endpoint = left.selectbox(
        "Endpoint", [ALL, *judged.cells.endpoints], key="endpoint", bind="query-params", format_func=clean
    )
    span = span_of(judged.cells)
    low, high = right.slider(
        "Seconds of load",
        0.0,
        span,
        (0.0, span),
        step=max(judged.cells.bucket_s * 4.0, span // STEPS),
        key="window",
        bind="query-params",
    )
    chosen = None if endpoint == ALL else endpoint
    rows = look_closer(judged, view.release.id, endpoint=chosen, from_s=low, to_s=high)
    show(
        Markup('<p class="muted">{} from {} to {} of load. An exploration: it decides nothing{}.</p>').format(
            clean(endpoint),
            format_duration(low),
            format_duration(high),
            "" if judged.same_data else ", and the data that was judged is not all there any more",
        )
    )
    several = len({row.arm for row in rows}) > 1
    ranked = rank_comparisons(rows)
    show(metrics_table(ranked, view.release.id, several=several, caption="closer look"))
    from evaluator.ui.release import describe

    hand_out(
        "closer",
        ("metric", "arm", "role", "baseline", "candidate", "change", "allowed", "status", "reason"),
        [describe(row) for row in ranked],
        SNIPPET.format(store=str(place.store), release=view.release.id, endpoint=chosen, from_s=low, to_s=high),
    )
