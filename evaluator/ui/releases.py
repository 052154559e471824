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
from evaluator.ui.acting import read_acts
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
from evaluator.ui.reads import Place, find_place, now, read_latest, read_summaries

SNIPPET = """from pathlib import Path
from evaluator.store import Store

for verdict in Store.open(Path("{store}")).control.latest_verdicts():
    print(verdict.release, verdict.word, verdict.judged_at)"""


def show_releases() -> None:
    """The page."""
    st.title("Releases")
    place = find_place()
    if not place.store.exists():
        what = f"There is no store at {place.store} yet."
        show_empty(what, "A load or an import makes one; try it with", "evaluator demo")
        return
    summaries = read_summaries(place)
    if not summaries:
        show_empty(
            "No release has landed yet.",
            "Load both versions, or import what another tool recorded:",
            "evaluator load RELEASE --baseline URL --canary URL",
        )
        return
    _show_waiting(place, summaries, [one.intent for one in read_acts(place)])
    _show_map(place)
    _show_list(summaries)


def _show_waiting(place: Place, summaries: Sequence[ReleaseSummary], intents: Sequence[Intent]) -> None:
    st.subheader("What waits for me")
    waiting = find_waiting(summaries, intents, place.command)
    asked = [one for one in intents if one.state in _ASKS]
    if not waiting and not asked:
        show_markup("<p>Nothing: every newest release was acted on.</p>")
        return
    items = [
        Markup("<li><strong>{}</strong> {} by {}: {} {}</li>").format(
            link("release", one.release, release=one.release),
            one.action.said,
            clean(one.requester),
            _ASKS[one.state],
            link("promote", "look at it", at=one.id, release=one.release),
        )
        for one in asked
    ]
    for one in waiting:
        step = Markup("<code>{}</code>").format(one.command) if one.command else Markup("")
        if one.promotable:
            step = link("promote", "what has to be so", release=one.release)
        named = link("release", one.release, release=one.release)
        items.append(Markup("<li><strong>{}</strong> {} {}</li>").format(named, one.why, step))
    show_list(items)


_ASKS = {
    IntentState.REQUESTED: "waits for approval",
    IntentState.UNKNOWN: "nobody knows whether it was done",
}


def _show_map(place: Place) -> None:
    st.subheader("Releases by metrics")
    wanted = st.text_input(
        "Releases that contain", key="q", bind="query-params", max_chars=200, placeholder="any, for example cart@"
    )
    verdicts = [one for one in read_latest(place) if (wanted or "").lower() in one.release.id.lower()]
    if not verdicts:
        show_empty(
            "No judged release has that in its name.",
            "Empty the field to see all, or judge one:",
            place.command("RELEASE"),
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
    head, snippet = ("release", "verdict", *heat.metrics), SNIPPET.format(store=place.store)
    hand_out("releases", head, rows, snippet, caption="releases by metrics")


def _show_list(summaries: Sequence[ReleaseSummary]) -> None:
    st.subheader("All releases")
    moment = now()
    show_table(
        ("release", "verdict", "judged", "versions", "runs", "requests", "last run"),
        (
            (
                link("release", one.release.id, release=one.release.id),
                words_of(one.verdict),
                since(one.judged_at, moment) if one.judged_at else "–",
                ", ".join(f"{s.name} {s.baseline or '?'} → {s.canary or '?'}" for s in one.release.services) or "–",
                f"{one.runs}",
                f"{one.rows:,}",
                clock(one.last_run),
            )
            for one in summaries
        ),
        caption="all releases",
    )
