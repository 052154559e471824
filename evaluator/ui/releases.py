"""Releases: what waits for me, and every release by every metric."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from markupsafe import Markup

from evaluator.intents import find_waiting
from evaluator.records import ReleaseSummary
from evaluator.records.intents import Intent, IntentState
from evaluator.reports.base import format_effect
from evaluator.reports.overview import build_heat_map
from evaluator.ui.acting import read_intents
from evaluator.ui.panels import hand_out
from evaluator.ui.pieces import (
    clean,
    clock,
    heat_map,
    link,
    show,
    show_empty,
    show_list,
    show_markup,
    show_table,
    since,
    words_of,
)
from evaluator.ui.reads import Workspace, find_workspace, now, read_latest, read_summaries

SNIPPET = """from pathlib import Path
from evaluator.store import Store

for verdict in Store.open(Path("{store}")).control.latest_verdicts():
    print(verdict.release, verdict.word, verdict.judged_at)"""


def show_releases() -> None:
    """The page."""
    st.title("Releases")
    workspace = find_workspace()
    if not workspace.store.exists():
        what = f"There is no store at {workspace.store} yet."
        show_empty(what, "A load or an import makes one; try it with", "evaluator demo")
        return
    summaries = read_summaries(workspace)
    if not summaries:
        show_empty(
            "No release has landed yet.",
            "Load both versions, or import what another tool recorded:",
            "evaluator load RELEASE --baseline URL --canary URL",
        )
        return
    _show_waiting(workspace, summaries, [record.intent for record in read_intents(workspace)])
    _show_map(workspace)
    _show_list(summaries)


def _show_waiting(workspace: Workspace, summaries: Sequence[ReleaseSummary], intents: Sequence[Intent]) -> None:
    st.subheader("What waits for me")
    waiting = find_waiting(summaries, intents, workspace.command)
    pending = [intent for intent in intents if intent.state in _ASKS]
    if not waiting and not pending:
        show_markup("<p>Nothing: the newest release of each service was acted on.</p>")
        return
    items = [
        Markup("<li><strong>{}</strong> {} by {}: {} {}</li>").format(
            link("release", intent.release, release=intent.release),
            intent.action.label,
            clean(intent.requester),
            _ASKS[intent.state],
            link("promote", "see the request", at=intent.id, release=intent.release),
        )
        for intent in pending
    ]
    for candidate in waiting:
        step = Markup("<code>{}</code>").format(candidate.command) if candidate.command else Markup("")
        if candidate.promotable:
            step = link("promote", "see its conditions", release=candidate.release)
        named = link("release", candidate.release, release=candidate.release)
        items.append(Markup("<li><strong>{}</strong> {} {}</li>").format(named, candidate.why, step))
    show_list(items)


_ASKS = {
    IntentState.REQUESTED: "waits for approval",
    IntentState.UNKNOWN: "may or may not be done: check it",
}


def _show_map(workspace: Workspace) -> None:
    st.subheader("Releases by metrics")
    name_filter = st.text_input(
        "Releases that contain", key="q", bind="query-params", max_chars=200, placeholder="any, for example cart@"
    )
    verdicts = [
        verdict for verdict in read_latest(workspace) if (name_filter or "").lower() in verdict.release.id.lower()
    ]
    if not verdicts:
        show_empty(
            "No judged release has that in its name.",
            "Clear the field to see all, or judge one:",
            workspace.command("RELEASE"),
        )
        return
    heat = build_heat_map(verdicts)
    show(heat_map(heat))
    show_markup(
        '<p class="ev-legend"><span>✓ within what is allowed</span><span>✗ shown to be worse</span>'
        "<span>? not known yet</span><span>∅ no data</span><span>· shown only</span></p>"
    )
    rows = [
        (
            verdict.release.id,
            verdict.word.value,
            *("" if cell is None else f"{cell.status.value} {format_effect(cell)}" for cell in cells),
        )
        for verdict, cells in heat.rows
    ]
    head, snippet = ("release", "verdict", *heat.metrics), SNIPPET.format(store=workspace.store)
    hand_out("releases", head, rows, snippet, caption="releases by metrics")


def _show_list(summaries: Sequence[ReleaseSummary]) -> None:
    st.subheader("All releases")
    moment = now()
    show_table(
        ("release", "verdict", "judged", "versions", "runs", "requests", "last run"),
        (
            (
                link("release", summary.release.id, release=summary.release.id),
                words_of(summary.verdict),
                since(summary.judged_at, moment) if summary.judged_at else "–",
                ", ".join(f"{s.name} {s.baseline or '?'} → {s.canary or '?'}" for s in summary.release.services) or "–",
                f"{summary.runs}",
                f"{summary.rows:,}",
                clock(summary.last_run),
            )
            for summary in summaries
        ),
        caption="all releases",
    )
