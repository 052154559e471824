"""Releases: what waits for me, and every release by every metric."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from markupsafe import Markup

from evaluator.intents import find_waiting
from evaluator.records import Release, ReleaseSummary
from evaluator.records.intents import Intent, IntentState
from evaluator.reports.base import format_effect
from evaluator.reports.overview import build_heat_map
from evaluator.ui.acting import read_intents
from evaluator.ui.exposed import show_exposed
from evaluator.ui.frame import guarded, show_empty_store, show_missing_store
from evaluator.ui.panels import show_numbers
from evaluator.ui.pieces import (
    clean,
    link,
    make_heat_map,
    mark_up_command,
    mark_up_time,
    mark_up_verdict,
    show,
    show_empty,
    show_list,
    show_markup,
    show_table,
    write_age,
)
from evaluator.ui.reads import Workspace, find_workspace, now, read_latest, read_summaries

SNIPPET = """from pathlib import Path
from evaluator.store import Store

for verdict in Store.open(Path("{store}")).control.latest_verdicts():
    print(verdict.release, verdict.word, verdict.judged_at)"""


def show_releases() -> None:
    """Show the page Releases: what waits for a person, the latest verdicts by metric, and a list of all releases."""
    st.title("Releases")
    workspace = find_workspace()
    if not workspace.store.exists():
        show_missing_store()
        return
    guarded(lambda: show_exposed(workspace))()  # also while another process uses the data, which the rest needs
    summaries = read_summaries(workspace)
    if not summaries:
        show_empty_store()
        return
    _show_waiting(workspace, summaries, [record.intent for record in read_intents(workspace)])
    _show_map(workspace)
    _show_list(summaries)


def _show_waiting(workspace: Workspace, summaries: Sequence[ReleaseSummary], intents: Sequence[Intent]) -> None:
    """Show the requests that wait for a person, then the newest releases that wait for a decision."""
    st.header("What waits for me")
    waiting_releases = find_waiting(summaries, intents, workspace.command)
    waiting_intents = [intent for intent in intents if intent.state in _WAITING_STATES]
    if not waiting_releases and not waiting_intents:
        show_markup("<p>Nothing: the newest release of each service was acted on.</p>")
        return
    items = [
        Markup("<li><strong>{}</strong> {} by {}: {} {}</li>").format(
            link("release", text=intent.release, release=intent.release),
            intent.label,
            clean(intent.requester),
            _WAITING_STATES[intent.state],  # in words, what it waits for
            link("promote", text="review request", release=intent.release, request=intent.id),
        )
        for intent in waiting_intents
    ]
    for waiting in waiting_releases:
        next_step = mark_up_command(waiting.command) if waiting.command else Markup("")
        if waiting.promotable:
            next_step = link("promote", text="see its conditions", release=waiting.release)
        release_link = link("release", text=waiting.release, release=waiting.release)
        items.append(Markup("<li><strong>{}</strong> {} {}</li>").format(release_link, waiting.why, next_step))
    show_list(items)


_WAITING_STATES = {
    IntentState.REQUESTED: "waits for approval",
    IntentState.UNKNOWN: "may or may not be done: check it",
}


def _show_map(workspace: Workspace) -> None:
    """Show the latest verdict of each release by metric, for releases whose name contains what the reader types."""
    st.header("Releases by metrics")
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
    show(make_heat_map(heat))
    show_markup(
        '<p class="ev-legend"><span>✓ within what is allowed</span><span>✗ shown to be worse</span>'
        "<span>? not known yet</span><span>∅ no data</span><span>· shown only</span></p>"
    )
    download_rows = [
        (
            verdict.release.id,
            verdict.word.value,
            *(
                "" if comparison is None else f"{comparison.status.value} {format_effect(comparison)}"
                for comparison in comparisons  # None: this metric was not compared
            ),
        )
        for verdict, comparisons in heat.rows
    ]
    head = ("release", "verdict", *heat.metrics)
    snippet = SNIPPET.format(store=workspace.store)
    show_numbers("releases", head, download_rows, snippet, caption="releases by metrics")


def _write_versions(release: Release) -> str:
    """Write the versions of both arms of each service: `cart 1.4.1 → 1.5.0`; a dash without services."""
    versions = [f"{service.name} {service.baseline or '?'} → {service.canary or '?'}" for service in release.services]
    return ", ".join(versions) or "–"


def _show_list(summaries: Sequence[ReleaseSummary]) -> None:
    """Show all releases as a table, judged or not."""
    st.header("All releases")
    present = now()
    show_table(
        ("release", "verdict", "judged", "versions", "runs", "requests", "last run"),
        (
            (
                link("release", text=summary.release.id, release=summary.release.id),
                mark_up_verdict(summary.verdict),
                write_age(summary.judged_at, present) if summary.judged_at else "–",
                _write_versions(summary.release),
                f"{summary.runs}",
                f"{summary.rows:,}",
                mark_up_time(summary.last_run),
            )
            for summary in summaries
        ),
        caption="all releases",
    )
