"""What a verdict rests on, for those who check: queries, runs, earlier candidates, policy and hashes."""

from __future__ import annotations

import json
from collections.abc import Sequence

import streamlit as st
from markupsafe import Markup

from evaluator.records import OUTCOME_SOURCE, ReleaseSummary, Verdict
from evaluator.ui.pieces import (
    clean,
    link,
    mark_up_time,
    mark_up_verdict,
    show_definitions,
    show_empty,
    show_list,
    show_table,
)
from evaluator.ui.reads import ReleaseView, Workspace
from evaluator.wording import format_number, quote_command, write_command


def show_queries(verdict: Verdict) -> None:
    """Show every query as it was sent to a metrics server; nothing without queries."""
    if not verdict.queries:
        return
    st.header("Queries", anchor="queries")
    # The schema of verdicts does not fix the keys of a query: two usual names of each fact are tried.
    show_table(
        ("query", "of", "answered"),
        (
            (
                Markup("<code>{}</code>").format(clean(query.get("text") or query.get("query") or "")),
                clean(query.get("arm") or query.get("metric") or "–"),
                clean(query.get("status") or query.get("series") or "–"),
            )
            for query in verdict.queries
        ),
        caption="queries",
    )


def show_runs(view: ReleaseView) -> None:
    """Show the runs of a release, those of the newest group last."""
    st.header("Runs", anchor="runs")
    if not view.runs:
        load = f"{quote_command('load', view.release.id)} --baseline URL --canary URL"
        show_empty("No run has landed.", "Load both versions:", load)
        return
    rows = []
    for run in view.runs:
        name = link("compare", run.id, a=view.release.id, a_run=run.id)
        state = f"{run.state.value}: {run.facts.stopped_by}" if run.facts.stopped_by else run.state.value
        times = mark_up_time(run.started), mark_up_time(run.ended)
        users = ", ".join(f"{arm} {count}" for arm, count in run.facts.users.items()) or "–"
        shares = ", ".join(f"{arm} {format_number(100 * share)} %" for arm, share in run.shares.items())
        split = users if users != "–" or not shares else shares
        source = ", ".join(
            [run.source, *([f"step {run.step}"] if run.step else []), *(["simulated"] if run.is_simulated else [])]
        )
        rows.append((name, clean(source), f"{run.replicate + 1}", state, *times, f"{run.landed:,}", clean(split)))
    # Of outcomes, the rows of a file are counted, which are no requests.
    counted = "rows" if any(run.source == OUTCOME_SOURCE for run in view.runs) else "requests"
    head = ("run", "source", "replicate", "state", "started", "ended", counted, "users or shares")
    show_table(head, rows, caption="runs")


def show_history(view: ReleaseView, summaries: Sequence[ReleaseSummary]) -> None:
    """Show the latest verdicts of this release, and other releases that have a service in common with it."""
    st.header("History", anchor="history")
    numbered_verdicts = list(enumerate(view.verdicts))[-20:]  # each with its place among all, from 0
    show_list(
        Markup("<li>{} {} {}</li>").format(
            mark_up_verdict(verdict.word),
            mark_up_time(verdict.judged_at),
            link("release", text=f"verdict {index + 1}", release=view.release.id, verdict=index + 1),
        )
        for index, verdict in reversed(numbered_verdicts)
    )
    services = {service.name for service in view.release.services}
    rows = [
        (
            link("release", text=summary.release.id, release=summary.release.id),
            mark_up_verdict(summary.verdict),
            mark_up_time(summary.judged_at),
            link("compare", text="with this one", a=summary.release.id, b=view.release.id),
        )
        for summary in summaries[:50]
        if summary.release.id != view.release.id and services & {service.name for service in summary.release.services}
    ]
    if rows:
        show_table(("candidate", "verdict", "judged", "compare"), rows, caption="candidates of this service")


def show_method(workspace: Workspace, view: ReleaseView, verdict: Verdict) -> None:
    """Show how a verdict came about: judge, policy, hashes, and the command that gives the same verdict."""
    st.header("How it was judged", anchor="method")
    window = verdict.evidence.window
    # A folder of policies is not named: its policy for this release may differ from the one that judged, shown below.
    policy_name = "policy.yaml" if workspace.policy and workspace.policy.is_dir() else str(workspace.policy or "")
    path = verdict.policy_path or policy_name
    span = Markup("{} to {}").format(mark_up_time(window.start), mark_up_time(window.end))
    window_facts = [("window", span)] if window.start and window.end else []
    command = write_command(view.release.id, "--store", str(workspace.store), "--dry-run", policy=path)
    show_definitions(
        [
            *window_facts,
            ("judge", f"{verdict.judge}, {verdict.monitoring} monitoring"),
            ("false alarms", f"alpha {verdict.alpha:g} over all gates together"),
            ("mode", verdict.mode),
            ("evaluator", verdict.evaluator_version),
            ("policy", Markup("<code>{}</code>").format(verdict.policy_hash)),
            ("data", Markup("<code>{}</code>").format(verdict.data_hash)),
            ("judge it again", Markup("<code>{}</code>").format(command)),
        ]
    )
    with st.expander("The policy of this verdict, with every default", key="policy"):
        st.code(json.dumps(dict(verdict.policy), indent=2, ensure_ascii=True), language="json", wrap_lines=True)
