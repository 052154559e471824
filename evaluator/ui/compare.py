"""Compare: any two runs or releases, where their fingerprints allow it."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from markupsafe import Markup

from evaluator.figures import color_arms, draw_distribution, draw_shift, draw_timeline
from evaluator.pipeline.comparing import Difference, refusals
from evaluator.policy import Policy
from evaluator.records import BASELINE, CANDIDATE, ReleaseSummary
from evaluator.reports.overview import rank_comparisons
from evaluator.ui.controls import choose
from evaluator.ui.panels import HEAD, describe, hand_out, show_figure
from evaluator.ui.pieces import clean, empty, health_list, metrics_table, show, table
from evaluator.ui.reads import (
    Confronted,
    Place,
    find_place,
    read_arms,
    read_comparison,
    read_policy,
    read_release,
    read_summaries,
)

__all__ = ["show_compare"]

NEWEST = "newest runs"
SNIPPET = """from pathlib import Path
from evaluator.pipeline.comparing import compare_sides, find_side
from evaluator.policy import load_policy
from evaluator.store import Store

store = Store.open(Path({store!r}))
first, second = find_side(store, *{first!r}), find_side(store, *{second!r})
for row in compare_sides(store, first, second, load_policy({policy})).comparisons:
    print(row.rule.name, row.effect, row.status)"""

MARKS = {"same": ("✓ same", "ok"), "warn": ("! differs", "warn"), "refuse": ("✗ forbids it", "fail")}


def show_compare() -> None:
    """The page."""
    st.title("Compare")
    place = find_place()
    summaries = read_summaries(place)
    if len(summaries) == 0:
        show(empty("There is nothing to compare yet.", "Load or import a release first; try it with", "evaluator demo"))
        return
    left, right = st.columns(2, gap="large")
    with left:
        first = _choose_side(place, summaries, "a", "First (what it is compared with)", 1)
    with right:
        second = _choose_side(place, summaries, "b", "Second (what is judged)", 0)
    if first == second:
        show(empty("Both sides are the same.", "Choose another release, run or arm on one of them."))
        return
    policy = read_policy(place, second[0])
    found = read_comparison(place, policy, first, second)
    _show_fingerprints(found)
    if found.compared is not None:
        _show_comparison(place, policy, found, first, second)


def _choose_side(
    place: Place, summaries: Sequence[ReleaseSummary], key: str, label: str, default: int
) -> tuple[str, str, str]:
    """Let the reader choose a release, which of its runs, and which arm."""
    names = [one.release.id for one in summaries]
    release_id = choose(label, names, key, names[min(default, len(names) - 1)])
    runs = [run.id for run in read_release(place, release_id).runs]
    left, right = st.columns(2)
    run = left.selectbox("Runs", [NEWEST, *runs], key=f"{key}_run", bind="query-params")
    arms = read_arms(place, release_id)
    arm = choose("Arm", arms, f"{key}_arm", arms[min(1, len(arms) - 1)], right) if arms else CANDIDATE
    return release_id, "latest" if run in (NEWEST, None) else run, arm


def _show_fingerprints(found: Confronted) -> None:
    rows = found.differences
    forbidden = refusals(rows)
    if forbidden:
        said = "; ".join(f"{row.what}: {row.why}" for row in forbidden)
        show(
            Markup('<div role="alert">{}</div>').format(
                empty("These cannot be compared.", f"{said}. Choose two runs of one test of one service.")
            )
        )
    else:
        show(
            Markup('<p><span class="ev-badge warn">not run together</span>{}</p>').format(
                "What changed between the two runs counts as well, so this decides nothing: a release is judged "
                "against a baseline that is under the same load at the same time."
            )
        )
    st.subheader("Fingerprints", anchor="fingerprints")
    show(
        table(
            ("what", "first", "second", "", "what it means"),
            ((row.what, _value(row.first), _value(row.second), _mark(row), row.why) for row in rows),
            caption="fingerprints",
        )
    )


def _value(text: str) -> Markup:
    return Markup("<code>{}</code>").format(clean(text))


def _mark(row: Difference) -> Markup:
    text, kind = MARKS[row.level]
    return Markup('<span class="status {}">{}</span>').format(kind, text)


def _show_comparison(
    place: Place, policy: Policy, found: Confronted, first: tuple[str, str, str], second: tuple[str, str, str]
) -> None:
    if found.compared is None:
        return
    rows = rank_comparisons([row for row in found.compared.comparisons if not row.scan])
    st.subheader("Second against first", anchor="metrics")
    show(
        Markup('<p class="muted">In tables and figures baseline is {} ({}), canary is {} ({}).</p>').format(
            clean(found.first.label), clean(found.first.arm), clean(found.second.label), clean(found.second.arm)
        )
    )
    show(metrics_table(rows, second[0]))
    path = f"Path({policy.origin!r})" if place.policy else ""
    snippet = SNIPPET.format(store=str(place.store), first=first, second=second, policy=path)
    hand_out("compared", HEAD, [describe(row) for row in rows], snippet)
    curves, colors = found.compared.figures, color_arms([BASELINE, CANDIDATE])
    left, right = st.columns(2, gap="large")
    for place_of, column, draw in ((0, left, draw_shift), (1, right, draw_distribution)):
        key = ("quantiles", "distributions")[place_of]
        for curve in curves[key]:
            with column:
                show_figure(draw(curve, color=colors[curve["arm"]]), f"compare-{key}", snippet)
    endpoints = rank_comparisons([row for row in found.compared.comparisons if row.scan])
    if endpoints:
        st.subheader("Endpoints", anchor="endpoints")
        show(metrics_table(endpoints[:50], second[0], caption="endpoints"))
    if curves["timeline"]:
        st.subheader("Laid over each other", anchor="timeline")
        for k, figure in enumerate(draw_timeline(curves["timeline"])):
            show_figure(figure, f"compare-timeline-{k}", snippet)
    st.subheader("Was it a fair comparison?", anchor="health")
    show(health_list(found.compared.findings))
