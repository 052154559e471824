"""Compare: any two runs or releases, where their fingerprints allow it."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from markupsafe import Markup

from evaluator.figures import color_arms, draw_distribution, draw_shift, draw_timeline
from evaluator.pipeline.comparing import SideComparison, refusals
from evaluator.policy import Policy
from evaluator.records import BASELINE, CANDIDATE, ReleaseSummary
from evaluator.reports.overview import rank_comparisons
from evaluator.ui.controls import choose
from evaluator.ui.panels import show_figure, show_metrics
from evaluator.ui.pieces import clean, metrics_table, show, show_empty, show_health, show_markup, show_table
from evaluator.ui.reads import (
    SidePair,
    Workspace,
    find_workspace,
    read_arms,
    read_comparison,
    read_policy,
    read_release,
    read_summaries,
)

NEWEST = "newest runs"
SNIPPET = """from pathlib import Path
from evaluator.pipeline.comparing import compare_sides, find_side
from evaluator.policy import load_policy
from evaluator.store import Store

store = Store.open(Path({store!r}))
first, second = find_side(store, *{first!r}), find_side(store, *{second!r})
for row in compare_sides(store, first, second, load_policy({policy})).comparisons:
    print(row.rule.name, row.effect, row.status)"""

MARKS = {"same": ("✓ same", "ok"), "warn": ("! differs", "warn"), "refuse": ("✗ not comparable", "fail")}


def show_compare() -> None:
    """The page."""
    st.title("Compare")
    workspace = find_workspace()
    summaries = read_summaries(workspace)
    if len(summaries) == 0:
        show_empty("There is nothing to compare yet.", "Load or import a release first; try it with", "evaluator demo")
        return
    left, right = st.columns(2, gap="large")
    with left:
        first = _choose_side(workspace, summaries, "a", "First (taken as baseline)", 1)
    with right:
        second = _choose_side(workspace, summaries, "b", "Second (taken as candidate)", 0)
    if first == second:
        show_empty("Both sides are the same.", "Choose another release, run or arm on one of them.")
        return
    policy = read_policy(workspace, second[0])
    pair = read_comparison(workspace, policy, first, second)
    _show_fingerprints(pair)
    if pair.compared is not None:
        _show_comparison(workspace, policy, pair, pair.compared, first, second)


def _choose_side(
    workspace: Workspace, summaries: Sequence[ReleaseSummary], key: str, label: str, default: int
) -> tuple[str, str, str]:
    """Let the reader choose a release, which of its runs, and which arm."""
    names = [summary.release.id for summary in summaries]
    release_id = choose(label, names, key, names[min(default, len(names) - 1)])
    runs = [run.id for run in read_release(workspace, release_id).runs]
    left, right = st.columns(2)
    run = left.selectbox("Runs", [NEWEST, *runs], key=f"{key}_run", bind="query-params")
    arms = read_arms(workspace, release_id)
    arm = choose("Arm", arms, f"{key}_arm", arms[min(1, len(arms) - 1)], right) if arms else CANDIDATE
    return release_id, "latest" if run in (NEWEST, None) else run, arm


def _show_fingerprints(pair: SidePair) -> None:
    rows = pair.differences
    forbidden = refusals(rows)
    if forbidden:
        reasons = "; ".join(f"{row.what}: {row.why}" for row in forbidden)
        show_empty("These cannot be compared.", f"{reasons}. Choose two runs of one test of one service.", alert=True)
    else:
        show_markup(
            '<p><span class="ev-badge warn">not run together</span>{}</p>',
            "What changed between the two runs counts as well, so this decides nothing: a release is judged "
            "against a baseline that is under the same load at the same time.",
        )
    st.subheader("Fingerprints", anchor="fingerprints")
    listed = []
    for row in rows:
        values = (Markup("<code>{}</code>").format(clean(value)) for value in (row.first, row.second))
        text, kind = MARKS[row.level]
        listed.append((row.what, *values, Markup('<span class="status {}">{}</span>').format(kind, text), row.why))
    show_table(("what", "first", "second", "", "what it means"), listed, caption="fingerprints")


def _show_comparison(
    workspace: Workspace,
    policy: Policy,
    pair: SidePair,
    compared: SideComparison,
    first: tuple[str, str, str],
    second: tuple[str, str, str],
) -> None:
    rows = rank_comparisons([row for row in compared.comparisons if not row.scan])
    st.subheader("Second against first", anchor="metrics")
    show_markup(
        '<p class="muted">In tables and figures baseline is {} ({}), canary is {} ({}).</p>',
        *(clean(text) for side in (pair.first, pair.second) for text in (side.label, side.arm)),
    )
    path = f"Path({policy.origin!r})" if workspace.policy else ""
    snippet = SNIPPET.format(store=str(workspace.store), first=first, second=second, policy=path)
    show_metrics(rows, second[0], "compared", snippet)
    curves, colors = compared.figures, color_arms([BASELINE, CANDIDATE])
    left, right = st.columns(2, gap="large")
    for key, column, draw in (("quantiles", left, draw_shift), ("distributions", right, draw_distribution)):
        for curve in curves[key]:
            with column:
                show_figure(draw(curve, color=colors[curve["arm"]]), f"compare-{key}", snippet)
    endpoints = rank_comparisons([row for row in compared.comparisons if row.scan])
    if endpoints:
        st.subheader("Endpoints", anchor="endpoints")
        show(metrics_table(endpoints[:50], second[0], caption="endpoints"))
    if curves["timeline"]:
        st.subheader("Both over time", anchor="timeline")
        for k, figure in enumerate(draw_timeline(curves["timeline"])):
            show_figure(figure, f"compare-timeline-{k}", snippet)
    show_health(compared.findings)
