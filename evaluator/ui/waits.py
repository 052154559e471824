"""What waits for a person, a row for each release."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import streamlit as st
from markupsafe import Markup

from evaluator.intents import PromotionCondition, Waiting, WaitsFor, find_waiting
from evaluator.records import Verdict
from evaluator.ui.acting import read_intents
from evaluator.ui.frame import guarded
from evaluator.ui.pieces import clean, link, mark_up_code, mark_up_verdict, show_list, show_markup, write_age
from evaluator.ui.reads import (
    Workspace,
    find_workspace,
    now,
    read_conditions,
    read_latest,
    read_lives,
    read_policy,
    read_summaries,
)

RECORDING_EVERY_S = 5
_LINKS: Mapping[WaitsFor, str] = {
    WaitsFor.REQUEST: "review request",
    WaitsFor.PROMOTION: "review and promote",
    WaitsFor.GOING_BACK: "roll back",
}


def show_waiting(workspace: Workspace, releases: Collection[str], nothing: str) -> None:
    """Show what waits for a person among `releases`; `nothing`: what is said if none does.

    While a load is being recorded, it refreshes by itself.
    """
    is_recording = any(summary.running for summary in read_summaries(workspace))

    @st.fragment(run_every=RECORDING_EVERY_S if is_recording else None)
    @guarded
    def show_fragment() -> None:
        """Show it; called at each refresh."""
        present = find_workspace()  # its stamp tells the cache what has changed
        verdicts = {verdict.release.id: verdict for verdict in read_latest(present)}
        rows = [row for row in _find_waiting(present, verdicts) if row.release in releases]
        if not rows:
            show_markup("<p>{}</p>", nothing)
            return
        show_list(_make_row(row, verdicts.get(row.release)) for row in rows)

    show_fragment()


def _find_waiting(workspace: Workspace, verdicts: Mapping[str, Verdict]) -> Sequence[Waiting]:
    """Find what waits for a person in the store; `verdicts`: the latest of each release."""

    def check(verdict: Verdict) -> Sequence[PromotionCondition]:
        """List the conditions for promoting a release, under the policy of its services."""
        return read_conditions(workspace, read_policy(workspace, verdict.release.id), verdict)

    return find_waiting(
        read_summaries(workspace),
        read_lives(workspace).releases,
        [record.intent for record in read_intents(workspace)],
        verdicts,
        check,
        workspace.command,
        now(),
    )


def _make_row(row: Waiting, verdict: Verdict | None) -> Markup:
    """Make the row of a release: its verdict, why it waits, since when, who requested it, and what to do."""
    facts = []
    if row.by:
        facts.append(f"requested by {row.by} {write_age(row.at, now())}")
    elif row.kind not in (WaitsFor.RECORDING, WaitsFor.VERDICT) and row.at is not None:
        facts.append(f"judged {write_age(row.at, now())}")
    step: Markup | str = mark_up_code(row.next_step) if row.next_step else ""
    if row.kind is WaitsFor.RECORDING:
        step = link("release", "watch it", release=row.release)
    elif row.kind in _LINKS:
        action = "Roll back" if row.kind is WaitsFor.GOING_BACK else None
        page = (
            "promote" if row.intent or row.kind is not WaitsFor.REQUEST else "rollout"
        )  # without one, a rollout did it
        step = link(page, _LINKS[row.kind], release=row.release, request=row.intent or None, action=action)
    return Markup('<li class="ev-wait">{} <strong>{}</strong> {}{}<span class="reason">{}{}</span></li>').format(
        mark_up_verdict(verdict.word if verdict else None),
        link("release", text=row.release, release=row.release),
        clean(row.why),
        Markup(' <span class="muted">{}</span>').format(clean(" · ".join(facts))) if facts else "",
        "Next: " if step else "",
        step,
    )
