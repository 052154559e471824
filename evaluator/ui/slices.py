"""Endpoints and slices: all of them ranked, and one in detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import streamlit as st

from evaluator.figures import color_judged_arms
from evaluator.records import Comparison, FailureCount, Verdict
from evaluator.reports.overview import rank_comparisons
from evaluator.ui.controls import start_anew
from evaluator.ui.curves import list_drawable, show_metric_figures, show_strips
from evaluator.ui.faults import show_failures
from evaluator.ui.panels import show_metrics
from evaluator.ui.pieces import clean, show_empty, show_markup
from evaluator.ui.reads import ReleaseView, Workspace, read_part
from evaluator.wording import format_duration

MAX_ENDPOINTS = 100
ALL = "all endpoints"
SLIDER_STEPS = 40
MIN_STEP_S = 15.0
SNIPPET = """from pathlib import Path
from evaluator.pipeline.reviewing import judge_again, look_closer
from evaluator.reports import read_stored
from evaluator.store import Store

store = Store.open(Path({store!r}))
verdict = read_stored(store.control.verdicts({release!r})[-1])
judged = judge_again(store, verdict)
for row in look_closer(judged, {release!r}, endpoint={endpoint!r}, from_s={from_s}, to_s={to_s}):
    print(row.rule.name, row.arm, row.effect, row.status)"""

RANKING = """from pathlib import Path
from evaluator.reports.overview import rank_comparisons
from evaluator.reports import read_stored
from evaluator.store import Store

verdict = read_stored(Store.open(Path({store!r})).control.verdicts({release!r})[-1])
for row in rank_comparisons([row for row in verdict.evidence.comparisons if row.scan]):
    print(row.rule.slice.endpoint, row.rule.type, row.arm, row.effect, row.status)"""


def show_slices(workspace: Workspace, view: ReleaseView, verdict: Verdict, span_s: float) -> None:
    """Show the ranking of the endpoint scan, then a closer look at the endpoint or interval that the reader chooses.

    `span_s`: how long the load was, in seconds.
    """
    comparisons = [comparison for comparison in verdict.evidence.comparisons if comparison.scan]
    if not comparisons and not any(arm.requests for arm in verdict.evidence.arms):
        return  # outcomes have no endpoints
    st.header("Endpoints", anchor="endpoints")
    if comparisons:
        _show_ranking(workspace, view, comparisons, color_judged_arms(verdict.evidence), verdict.failures)
    else:
        show_empty("The scan compared no endpoint.", "The policy turned it off, or no endpoint had enough requests.")
    show_failures(verdict)
    if any(arm.requests for arm in verdict.evidence.arms):
        _show_closer(workspace, view, verdict, span_s)


def _show_ranking(
    workspace: Workspace,
    view: ReleaseView,
    comparisons: list[Comparison],
    colors: Mapping[str, str],
    failures: Sequence[FailureCount] | None,
) -> None:
    """Show the endpoints of the scan whose name contains what the reader types, furthest beyond their margin first.

    `failures`: those of the verdict, whose kinds are shown.
    """
    start_anew("find", "")
    name_filter = st.text_input(
        "Endpoints that contain",
        key="find",
        bind="query-params",
        max_chars=200,
        placeholder="for example POST, then press Enter",
    )
    chosen = [
        comparison
        for comparison in comparisons
        if (name_filter or "").lower() in (comparison.rule.slice.endpoint or "").lower()
    ]
    ranked = rank_comparisons(chosen)
    if not ranked:
        show_empty("No endpoint has that in its name.", "Clear the field to see all of them.")
        return
    has_several_candidates = len({comparison.arm for comparison in comparisons}) > 1
    snippet = RANKING.format(store=str(workspace.store), release=view.release.id)
    show_metrics(
        ranked,
        view.release.id,
        colors,
        "endpoints",
        snippet,
        caption="endpoints",
        with_arms=has_several_candidates,
        max_rows=MAX_ENDPOINTS,
        failures=failures,
    )
    if len(ranked) > MAX_ENDPOINTS:
        show_markup('<p class="muted">the {} furthest beyond their margin, of {}</p>', MAX_ENDPOINTS, len(ranked))


def _show_closer(workspace: Workspace, view: ReleaseView, verdict: Verdict, span_s: float) -> None:
    """Compare one endpoint, or an interval of the load, as the reader chooses; `span_s`: how long the load was.

    Cells are read only when the reader has chosen, since that takes a while.
    """
    st.header("Look closer", anchor="closer")
    endpoints = {
        comparison.rule.slice.endpoint for comparison in verdict.evidence.comparisons if comparison.rule.slice.endpoint
    }
    left, right = st.columns(2)
    start_anew("endpoint", ALL)
    start_anew("window", (0.0, span_s))
    endpoint = left.selectbox(
        "Endpoint", [ALL, *sorted(endpoints)], key="endpoint", bind="query-params", format_func=clean
    )
    from_s, to_s = right.slider(
        "Seconds from the start",
        0.0,
        span_s,
        (0.0, span_s),
        step=min(max(MIN_STEP_S, span_s // SLIDER_STEPS), span_s),
        key="window",
        bind="query-params",
    )
    if endpoint == ALL and from_s <= 0 and to_s >= span_s:
        show_empty(
            "This selects all of the time, as above.", "Choose an endpoint or a shorter interval to compare that alone."
        )
        return
    chosen_endpoint = None if endpoint == ALL else endpoint
    comparisons, figures, as_judged = read_part(workspace, verdict, chosen_endpoint, from_s, to_s)
    show_markup(
        '<p class="muted">{} from {} to {} after the start. An exploration: it decides nothing{}.</p>',
        clean(endpoint),
        format_duration(from_s),
        format_duration(to_s),
        "" if as_judged else ", and part of the data that was judged no longer exists",
    )
    has_several_candidates = len({comparison.arm for comparison in comparisons}) > 1
    snippet = SNIPPET.format(
        store=str(workspace.store), release=view.release.id, endpoint=chosen_endpoint, from_s=from_s, to_s=to_s
    )
    show_metrics(
        rank_comparisons(comparisons),
        view.release.id,
        color_judged_arms(verdict.evidence),
        "closer",
        snippet,
        caption="closer look",
        with_arms=has_several_candidates,
    )
    colors = color_judged_arms(verdict.evidence)
    drawable = list_drawable(comparisons, figures)
    if drawable:
        data, worst = drawable[0]
        # All that was compared is of this endpoint: the figures name it.
        of_endpoint = replace(worst.rule.slice, endpoint=chosen_endpoint)
        worst = replace(worst, rule=replace(worst.rule, slice=of_endpoint))
        show_markup('<p class="muted">Figures of the metric that is worst there.</p>')
        show_metric_figures(worst, data, colors, "closer", lambda _: snippet)
    show_strips(figures.get("timeline"), colors, "closer-timeline", snippet)
