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
from evaluator.ui.frame import show_empty_store
from evaluator.ui.metric_table import make_metrics_table
from evaluator.ui.panels import show_figure, show_metrics
from evaluator.ui.pieces import clean, show, show_empty, show_health, show_markup, show_table
from evaluator.ui.reads import (
    ChosenSide,
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
    """Show the page Compare: two runs or releases that the reader chooses, where their fingerprints allow it."""
    st.title("Compare")
    workspace = find_workspace()
    summaries = read_summaries(workspace)
    if len(summaries) == 0:
        show_empty_store()
        return
    left, right = st.columns(2, gap="large")
    with left:
        first = _choose_side(workspace, summaries, "a", "First (taken as baseline)", default_index=1)
    with right:
        second = _choose_side(workspace, summaries, "b", "Second (taken as candidate)", default_index=0)
    if first == second:
        show_empty("Both sides are the same.", "Choose another release, run or arm on one of them.")
        return
    policy = read_policy(workspace, second.release)
    pair = read_comparison(workspace, policy, first, second)
    _show_fingerprints(pair)
    if pair.compared is not None:
        _show_comparison(workspace, policy, pair, pair.compared, first, second)


def _choose_side(
    workspace: Workspace, summaries: Sequence[ReleaseSummary], key: str, label: str, default_index: int
) -> ChosenSide:
    """Let the reader choose one side of the comparison.

    `key` names the choice in the address; `default_index` is the place in `summaries` of the release chosen at first.
    """
    names = [summary.release.id for summary in summaries]
    release_id = choose(label, names, key, names[min(default_index, len(names) - 1)], "release")
    runs = [run.id for run in read_release(workspace, release_id).runs]
    left, right = st.columns(2)
    run = left.selectbox("Runs", [NEWEST, *runs], key=f"{key}_run", bind="query-params")
    arms = read_arms(workspace, release_id)  # the baseline first: the first candidate is the default
    arm = choose("Arm", arms, f"{key}_arm", arms[min(1, len(arms) - 1)], "arm", right) if arms else CANDIDATE
    return ChosenSide(release_id, "latest" if run in (NEWEST, None) else run, arm)


def _show_fingerprints(pair: SidePair) -> None:
    """Show what differs between the two sides, and whether that forbids a comparison."""
    rows = pair.differences
    refusing_rows = refusals(rows)
    if refusing_rows:
        reasons = "; ".join(f"{row.what}: {row.why}" for row in refusing_rows)
        show_empty("These cannot be compared.", f"{reasons}. Choose two runs of one test of one service.", alert=True)
    else:
        show_markup(
            '<p><span class="ev-badge warn">not run together</span>{}</p>',
            "What changed between the two runs counts as well, so this decides nothing: a release is judged "
            "against a baseline that is under the same load at the same time.",
        )
    st.header("Fingerprints", anchor="fingerprints")
    table_rows = []
    for row in rows:
        values = (Markup("<code>{}</code>").format(clean(value)) for value in (row.first, row.second))
        mark, css_class = MARKS[row.level]
        status = Markup('<span class="status {}">{}</span>').format(css_class, mark)
        table_rows.append((row.what, *values, status, row.why))
    show_table(("what", "first", "second", "", "what it means"), table_rows, caption="fingerprints")


def _show_comparison(
    workspace: Workspace,
    policy: Policy,
    pair: SidePair,
    compared: SideComparison,
    first: ChosenSide,
    second: ChosenSide,
) -> None:
    """Show metrics, figures and health checks of two sides, and the Python that compares them again."""
    metrics = rank_comparisons([comparison for comparison in compared.comparisons if not comparison.scan])
    st.header("Second against first", anchor="metrics")
    show_markup(
        '<p class="muted">In tables and figures baseline is {} ({}), canary is {} ({}).</p>',
        *(clean(text) for side in (pair.first, pair.second) for text in (side.label, side.arm)),
    )
    path = f"Path({policy.origin!r})" if workspace.policy else ""
    sides = {"first": tuple(first), "second": tuple(second)}  # plain tuples, as Python writes them
    snippet = SNIPPET.format(store=str(workspace.store), policy=path, **sides)
    curves, colors = compared.figures, color_arms([BASELINE, CANDIDATE])
    show_metrics(metrics, second.release, colors, "compared", snippet)
    left, right = st.columns(2, gap="large")
    for key, column, draw in (("quantiles", left, draw_shift), ("distributions", right, draw_distribution)):
        for curve in curves[key]:
            with column:
                show_figure(draw(curve, color=colors[curve["arm"]]), f"compare-{key}", snippet)
    endpoints = rank_comparisons([comparison for comparison in compared.comparisons if comparison.scan])
    if endpoints:
        st.header("Endpoints", anchor="endpoints")
        show(make_metrics_table(endpoints[:50], second.release, colors, caption="endpoints"))
    if curves["timeline"]:
        st.header("Both over time", anchor="timeline")
        for index, figure in enumerate(draw_timeline(curves["timeline"], colors=colors)):
            show_figure(figure, f"compare-timeline-{index}", snippet)
    show_health(compared.findings)
