"""Compare: what two candidates changed, or any two runs, where their fingerprints allow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st
from markupsafe import Markup

from evaluator.figures import color_arms, draw_distribution, draw_shift, draw_timeline
from evaluator.figures.base import is_worse_upwards
from evaluator.pipeline.changes import ChangePair, find_previous
from evaluator.pipeline.comparing import Difference, SideComparison, refusals
from evaluator.policy import Policy
from evaluator.records import BASELINE, CANDIDATE, ArmValue, ReleaseSummary, Verdict
from evaluator.reports.base import format_allowed, format_effect
from evaluator.reports.overview import rank_comparisons
from evaluator.ui.controls import choose, start_anew
from evaluator.ui.frame import show_empty_store
from evaluator.ui.metric_table import make_metrics_table
from evaluator.ui.panels import show_figure, show_metrics, show_numbers
from evaluator.ui.pieces import (
    clean,
    keep_units,
    make_legend,
    show,
    show_empty,
    show_health,
    show_markup,
    show_table,
    to_css_color,
)
from evaluator.ui.reads import (
    ChosenSide,
    Workspace,
    find_workspace,
    read_arms,
    read_changes,
    read_comparison,
    read_past_verdict,
    read_policy,
    read_release,
    read_summaries,
)
from evaluator.wording import name_comparison

NEWEST = "newest runs"
WAYS = ("changes", "arms")
"""What may be compared: what two candidates changed, each against its baseline; or one arm with another directly."""
CHANGES_SNIPPET = """from pathlib import Path
from evaluator.pipeline.changes import compare_changes
from evaluator.reports import read_stored
from evaluator.store import Store

control = Store.open(Path({store!r})).control
first, second = (read_stored(control.verdicts(release)[-1]) for release in ({first!r}, {second!r}))
for pair in compare_changes(first, second, {arms!r}):
    print(pair.second.rule.name, pair.first.effect, pair.second.effect, pair.difference)"""
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
    """Show the page Compare: the changes of two candidates, or two runs, where their fingerprints allow it.

    At first it compares this release with the previous candidate of its service.
    """
    st.title("Compare")
    workspace = find_workspace()
    summaries = read_summaries(workspace)
    if len(summaries) == 0:
        show_empty_store()
        return
    has_runs = any(key in st.query_params for key in ("a_run", "b_run"))
    by = st.segmented_control(
        "What to compare",
        WAYS,
        default="arms" if has_runs else "changes",
        key="by",
        bind="query-params",
        required=True,
    )
    names = [summary.release.id for summary in summaries]
    left, right = st.columns(2)
    # The second is chosen first: the first is by default the candidate before it.
    own = st.query_params.get("release")
    with right:
        second = choose(
            "Second",
            names,
            "b",
            own if own in names else _find_newest(summaries),
            "release",
            own_choices=("b_arm",),
            own_controls=("b_run",),
        )
    previous = find_previous(summaries, second)
    with left:
        first = choose(
            "First", names, "a", previous or second, "release", own_choices=("a_arm",), own_controls=("a_run",)
        )
    if by == "arms":
        with right:
            second_side = _choose_side(workspace, second, "b")
        with left:
            first_side = _choose_side(workspace, first, "a")
        _show_arms(workspace, first_side, second_side)
    elif first == second:
        is_first = f"{clean(second)} is the first candidate of its service that was judged. " if not previous else ""
        show_empty("Both sides are the same.", f"{is_first}Choose two releases, or compare their arms.")
    else:
        _show_changes(workspace, first, second)


def _find_newest(summaries: Sequence[ReleaseSummary]) -> str:
    """Find the release that was judged last, if possible one with a candidate of its service before it.

    Without any verdict it is the release that was stored last.
    """
    judged = [(summary.judged_at, summary.release.id) for summary in summaries if summary.judged_at]
    newest_first = [release_id for _, release_id in sorted(judged, reverse=True)]
    with_previous = (release_id for release_id in newest_first if find_previous(summaries, release_id))
    return next(with_previous, newest_first[0] if newest_first else summaries[0].release.id)


# ------------------------------------------------------------------ change against change


def _show_changes(workspace: Workspace, first_id: str, second_id: str) -> None:
    """Show how much further the second candidate changed each metric than the first, by their latest verdicts."""
    verdicts, arms = [], []
    for release_id, key in ((first_id, "a_arm"), (second_id, "b_arm")):
        verdict = read_past_verdict(read_release(workspace, release_id), None)
        if verdict is None:
            show_empty(f"{clean(release_id)} was not judged yet.", "Judge it:", workspace.command(release_id))
            return
        candidates = list(dict.fromkeys(row.arm for row in verdict.evidence.comparisons))
        if not candidates:
            show_empty(f"{clean(release_id)} was judged, but nothing could be compared.", "Choose another release.")
            return
        verdicts.append(verdict)
        several = len(candidates) > 1
        arms.append(choose(f"Arm of {release_id}", candidates, key, candidates[0], "arm") if several else candidates[0])
    first, second = verdicts
    pairs, rows = read_changes(workspace, first, second, (arms[0], arms[1]))
    if not pairs:
        _show_refusals(rows)
    else:
        show_markup('<p class="ev-answer"><strong>{}</strong></p>', keep_units(_write_conclusion(first, second, pairs)))
        show_markup(
            '<p class="muted">Each change is against a baseline under the same load at the same time, so what differed '
            "between the two tests largely cancels. It decides nothing: a release is judged by its own verdict.</p>"
        )
        head = ("metric", f"{first_id} ({arms[0]})", f"{second_id} ({arms[1]})", "second against first", "allowed")
        cells = [_list_change_cells(pair) for pair in pairs]
        st.header("Change against change", anchor="changes")
        show_table(head, ([keep_units(cell) for cell in row] for row in cells), caption="changes")
        ids = {"first": first_id, "second": second_id, "arms": tuple(arms)}
        show_numbers("changes", head, cells, CHANGES_SNIPPET.format(store=str(workspace.store), **ids))
    _show_fingerprints(rows)


def _list_change_cells(pair: ChangePair) -> tuple[str, ...]:
    """List the cells of a metric: both changes with their intervals, and how much further the second one is."""
    difference = pair.why
    if pair.difference is not None:
        # Without a baseline's value: what a rate can reach is not what a difference of two changes can.
        row = replace(pair.second, effect=pair.difference, baseline=ArmValue(None, 0))
        difference = format_effect(row)
    name = name_comparison(pair.second)
    return (name, format_effect(pair.first), format_effect(pair.second), difference, format_allowed(pair.second))


def _write_conclusion(first: Verdict, second: Verdict, pairs: Sequence[ChangePair]) -> str:
    """Say in a sentence which metrics the second candidate made worse or better than the first did, as far as shown."""
    worse: list[str] = []
    better: list[str] = []
    for pair in pairs:
        if pair.difference is None or pair.difference.lower <= 0 <= pair.difference.upper:
            continue
        is_worse = (pair.difference.lower > 0) == is_worse_upwards(pair.second)
        (worse if is_worse else better).append(name_comparison(pair.second))
    names = f"{second.release.id} against {first.release.id}"
    parts = [f"worse: {', '.join(worse)}"] if worse else []
    parts += [f"better: {', '.join(better)}"] if better else []
    return f"{names}: {'; '.join(parts)}." if parts else f"{names}: no metric is shown to be worse or better."


# ------------------------------------------------------------------ arm against arm


def _choose_side(workspace: Workspace, release_id: str, key: str) -> ChosenSide:
    """Let the reader choose run and arm of one side of the comparison; `key` names the choice in the address."""
    runs = [run.id for run in read_release(workspace, release_id).runs]
    left, right = st.columns(2)
    start_anew(f"{key}_run", NEWEST)
    run = left.selectbox("Runs", [NEWEST, *runs], key=f"{key}_run", bind="query-params")
    arms = read_arms(workspace, release_id)  # the baseline first: the first candidate is the default
    arm = choose("Arm", arms, f"{key}_arm", arms[min(1, len(arms) - 1)], "arm", right) if arms else CANDIDATE
    return ChosenSide(release_id, "latest" if run in (NEWEST, None) else run, arm)


def _show_arms(workspace: Workspace, first: ChosenSide, second: ChosenSide) -> None:
    """Show one arm, taken as the candidate, against another, taken as the baseline."""
    if first == second:
        show_empty("Both sides are the same.", "Choose another release, run or arm on one of them.")
        return
    policy = read_policy(workspace, second.release)
    pair = read_comparison(workspace, policy, first, second)
    if pair.compared is None:
        _show_refusals(pair.differences)
    else:
        show_markup(
            '<p><span class="ev-badge warn">not run together</span>{}</p>',
            "What changed between the two runs counts as well, so this decides nothing: a release is judged "
            "against a baseline that is under the same load at the same time.",
        )
    _show_fingerprints(pair.differences)
    if pair.compared is not None:
        _show_comparison(workspace, policy, pair.compared, first, second)


def _show_refusals(rows: Sequence[Difference]) -> None:
    """Show why two sides cannot be compared."""
    reasons = "; ".join(f"{row.what}: {row.why}" for row in refusals(rows))
    show_empty("These cannot be compared.", f"{reasons}. Choose two tests of one service.", alert=True)


def _show_fingerprints(rows: Sequence[Difference]) -> None:
    """Show what differs between the tests of two sides."""
    st.header("Fingerprints", anchor="fingerprints")
    table_rows = []
    for row in rows:
        values = (Markup("<code>{}</code>").format(clean(value)) for value in (row.first, row.second))
        mark, css_class = MARKS[row.level]
        status = Markup('<span class="status {}">{}</span>').format(css_class, mark)
        table_rows.append((row.what, *values, status, row.why))
    show_table(("what", "first", "second", "comparable", "what it means"), table_rows, caption="fingerprints")


def _show_comparison(
    workspace: Workspace,
    policy: Policy,
    compared: SideComparison,
    first: ChosenSide,
    second: ChosenSide,
) -> None:
    """Show metrics, figures and health checks of two sides, and the Python that compares them again."""
    metrics = rank_comparisons([comparison for comparison in compared.comparisons if not comparison.scan])
    st.header("Second against first", anchor="metrics")
    path = f"Path({policy.origin!r})" if workspace.policy else ""
    sides = {"first": tuple(first), "second": tuple(second)}  # plain tuples, as Python writes them
    snippet = SNIPPET.format(store=str(workspace.store), policy=path, **sides)
    curves, names = compared.figures, compared.names
    colors = dict(zip(names, color_arms([BASELINE, CANDIDATE]).values(), strict=True))
    show(make_legend({name: to_css_color(color) for name, color in colors.items()}))
    show_metrics(metrics, second.release, colors, "compared", snippet, sides=names)
    left, right = st.columns(2, gap="large")
    for key, column, draw in (("quantiles", left, draw_shift), ("distributions", right, draw_distribution)):
        for curve in curves[key]:
            with column:
                show_figure(draw(curve, color=colors[curve["arm"]], baseline=names[0]), f"compare-{key}", snippet)
    endpoints = rank_comparisons([comparison for comparison in compared.comparisons if comparison.scan])
    if endpoints:
        st.header("Endpoints", anchor="endpoints")
        show(make_metrics_table(endpoints[:50], second.release, colors, caption="endpoints", sides=names))
    if curves["timeline"]:
        st.header("Both over time", anchor="timeline")
        timeline = {**curves["timeline"], "runs": None}  # two runs at two times: no time of day is that of both
        for index, figure in enumerate(draw_timeline(timeline, colors=colors)):
            show_figure(figure, f"compare-timeline-{index}", snippet)
    show_health(compared.findings)
