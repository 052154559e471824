"""Release: the answer, then everything it rests on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st
from markupsafe import Markup

from evaluator.figures import check_charts_as_a_whole, color_judged_arms
from evaluator.pipeline.counting import list_running
from evaluator.pipeline.runs import is_live, is_stale
from evaluator.records import Verdict
from evaluator.reports.base import list_what_is_not_judged
from evaluator.reports.overview import rank_comparisons
from evaluator.ui.answer import make_answer
from evaluator.ui.controls import choose_release
from evaluator.ui.curves import show_distribution, show_metric, show_timeline
from evaluator.ui.details import show_history, show_method, show_queries, show_runs
from evaluator.ui.faults import make_fault_card
from evaluator.ui.frame import guarded, show_empty_store
from evaluator.ui.iterations import make_iteration_card
from evaluator.ui.live import make_recording, show_recorded, show_unjudged
from evaluator.ui.metric_table import make_verdict_table
from evaluator.ui.notes import show_notes
from evaluator.ui.outcomes import show_arms
from evaluator.ui.panels import offer_metrics
from evaluator.ui.pieces import (
    clean,
    link,
    make_legend,
    mark_up_command,
    mark_up_time,
    name_tab,
    show,
    show_empty,
    show_health,
    show_sections,
    to_css_color,
    write_age,
)
from evaluator.ui.reads import (
    ReleaseView,
    Workspace,
    find_workspace,
    now,
    read_figures,
    read_past_verdict,
    read_release,
    read_rollouts,
    read_summaries,
)
from evaluator.ui.slices import show_slices
from evaluator.wording import USERS

LIVE_EVERY_S = 2
"""How often a release that is recorded is read again, in seconds."""
HEAD_START_S = 0.1
"""How long the rest of the page waits after the answer: a browser that gets everything at once shows it all later."""
SLIDER_WITHOUT_DATA_S = 60.0
"""The slider of the interval needs some length, also without any data."""
TABLE_SNIPPET = """import evaluator

release = evaluator.open({store!r}).release({release!r})
release.judgement({number}).to_pandas()"""


def show_release() -> None:
    """Show the page Release: the answer, then metrics, figures, health checks, and what they rest on."""
    workspace = find_workspace()
    names = [summary.release.id for summary in read_summaries(workspace)]
    if not names:
        st.title("Release")
        show_empty_store()
        return
    release_id = choose_release("Release", names, names[0], own_controls=("find", "endpoint", "window"))
    view = read_release(workspace, release_id)
    latest = read_past_verdict(view, None)
    name_tab("Release", release_id, latest.word if latest else None)
    number = read_verdict_number(view)
    verdict = read_past_verdict(view, number)
    if verdict is not None:
        show_sections()
    _show_answer(workspace, release_id, was_judged=verdict is not None)
    if verdict is None:
        return
    time.sleep(HEAD_START_S)  # the browser shows the answer before the rest of the page arrives
    is_newest = number in (None, len(view.verdicts) - 1)
    _show_figures(workspace, view, verdict, newest=is_newest)
    show_health(verdict.evidence.findings)
    guarded(lambda: show_notes(workspace, release_id))()  # an error in it leaves the rest of the page
    show_queries(verdict)
    show_runs(view)
    show_history(view, read_summaries(workspace))
    show_method(workspace, view, verdict)


def read_verdict_number(view: ReleaseView) -> int | None:
    """Read which verdict the address names, where they count from 1; returns its place from 0, or `None`: the latest.

    Raises UnknownName for a number that no verdict has.
    """
    from_address = st.query_params.get("verdict")
    if from_address is None:
        return None
    # Six digits are enough: Python refuses to convert thousands of them.
    if not from_address.isdecimal() or not 1 <= int(from_address[:6]) <= len(view.verdicts):
        raise view.refuse_number(clean(from_address))
    return int(from_address) - 1


# ------------------------------------------------------------------ the answer


def _show_answer(workspace: Workspace, release_id: str, *, was_judged: bool) -> None:
    """Show the answer and the metrics; while a run is recorded they refresh by themselves, and the rest stays as it is.

    `was_judged`: is there a verdict that the rest of the page shows?
    """
    refresh_s = LIVE_EVERY_S if is_live(read_release(workspace, release_id).runs) else None

    @st.fragment(run_every=refresh_s)
    def show_fragment() -> None:
        """Show it; called at each refresh."""
        # The workspace is found again at each refresh: its stamp tells the cache what has changed.
        guarded(lambda: _show_present(find_workspace(), release_id, was_judged=was_judged))()

    show_fragment()


def _show_present(workspace: Workspace, release_id: str, *, was_judged: bool) -> None:
    """Show the verdict with its notes and metrics, or what is recorded for the first one, whose page comes by itself.

    `seen-…` keeps how many verdicts there were when the whole page was last shown: a button shows it again.
    """
    view = read_release(workspace, release_id)
    number = read_verdict_number(view)
    verdict = read_past_verdict(view, number)
    if verdict is None:
        show_unjudged(workspace, view)
        return
    if not was_judged:
        st.rerun(scope="app")
    is_newest = number in (None, len(view.verdicts) - 1)
    show(make_answer(workspace, verdict, _list_notes(workspace, view, verdict), is_newest=is_newest))
    if (card := make_fault_card(verdict)) is not None:
        show(card)
    if (card := make_iteration_card(verdict)) is not None:
        show(card)
    if running := list_running(view.runs):
        show(make_recording(running))
        show_recorded(workspace, running)
    # The rest of the page changes only when the reader asks for it.
    shown_count = st.session_state.setdefault(f"seen-{release_id}", len(view.verdicts))
    if len(view.verdicts) != shown_count and st.button("There is a newer verdict: show all of it", key="newer"):
        st.session_state[f"seen-{release_id}"] = len(view.verdicts)
        st.rerun(scope="app")
    guarded(lambda: show_arms(verdict, color_judged_arms(verdict.evidence)))()
    _show_metrics(workspace, view, verdict, number)


def _list_notes(workspace: Workspace, view: ReleaseView, verdict: Verdict) -> Sequence[Markup]:
    """List the notes of the banner: how old and how large the data are, how the verdict is restricted, and links."""
    requests = " + ".join(f"{arm.requests:,}" for arm in verdict.evidence.arms if arm.requests)
    notes = [Markup("judged {} ({})").format(write_age(verdict.judged_at, now()), mark_up_time(verdict.judged_at))]
    notes += [Markup("{} requests").format(requests)] if requests else []
    units = " + ".join(f"{arm.units:,}" for arm in verdict.evidence.arms if arm.units)
    notes += [Markup("{} {}").format(units, USERS)] if units else []
    live = " + ".join(f"{arm.production.requests:,}" for arm in verdict.evidence.arms if arm.production)
    notes += [Markup("{} requests of production").format(live)] if live else []
    if any(run.is_simulated for run in view.runs):
        notes.insert(0, Markup('<span class="ev-badge warn">simulated data</span>nothing was measured'))
    if is_live(view.runs):
        notes.insert(0, Markup('<span class="ev-badge ok">recording</span>'))
    if is_stale(view.runs, verdict.judged_at):
        command = mark_up_command(workspace.command(view.release.id))
        notes.append(Markup('<span class="ev-badge warn">stale</span>newer data has landed: {}').format(command))
    if verdict.mode == "shadow":
        notes.append(Markup('<span class="ev-badge">shadow mode</span>it blocks nothing'))
    notes += [Markup("{}").format(clean(text)) for text in list_what_is_not_judged(verdict)]
    if verdict.evidence.incomplete:
        notes.append(Markup('<span class="ev-badge warn">incomplete</span>a run ended early'))
    if verdict.override:
        notes.append(Markup('<span class="ev-badge no_go">overridden</span>{}').format(clean(dict(verdict.override))))
    if st.query_params.get("verdict") is not None:
        notes.append(link("release", "an earlier verdict; see the latest", release=view.release.id))
    if rollouts := read_rollouts(workspace).of(view.release.id):
        notes.append(link("rollout", f"rollout {rollouts[-1].id}", release=view.release.id, rollout=rollouts[-1].id))
    notes += [
        link("service", f"service {service.name}", service=service.name)
        for service in view.release.services
        if service.name
    ]
    notes.append(link("promote", "promote, hold or roll back", release=view.release.id))
    return notes


# ------------------------------------------------------------------ metrics and figures


def _show_metrics(workspace: Workspace, view: ReleaseView, verdict: Verdict, number: int | None) -> None:
    """Show the metrics of a verdict, the most important first.

    `number`: the place of the verdict in the history of its release, from 0; None: the latest.
    """
    st.header("Metrics, worst first", anchor="metrics")
    metrics = rank_comparisons([comparison for comparison in verdict.evidence.comparisons if not comparison.scan])
    if not metrics:
        show_empty("Nothing could be compared.", "The reasons above say what is missing.")
        return
    verdict_number = -1 if number is None else number  # an index of Python, in the snippet
    snippet = TABLE_SNIPPET.format(store=str(workspace.store), release=view.release.id, number=verdict_number)
    show(make_verdict_table(verdict, color_judged_arms(verdict.evidence)))
    offer_metrics(metrics, "metrics", snippet)


def _show_figures(workspace: Workspace, view: ReleaseView, verdict: Verdict, *, newest: bool) -> None:
    """Show all figures, and endpoints in detail; a part that fails leaves the others.

    `newest`: is it the latest verdict of the release?
    """
    check_charts_as_a_whole()
    figures: Mapping[str, Any] = {}

    def load_figures() -> None:
        """Read the data of the figures; if that fails, `guarded` shows why, and `figures` stays empty."""
        nonlocal figures
        figures = read_figures(workspace, verdict, newest=newest)

    guarded(load_figures)()
    if figures:
        colors = color_judged_arms(verdict.evidence)
        if any(arm.requests for arm in verdict.evidence.arms):  # else there are no figures
            show(make_legend({arm: to_css_color(color) for arm, color in colors.items()}))
        guarded(lambda: show_metric(workspace, verdict, figures, colors))()
        guarded(lambda: show_distribution(workspace, verdict, figures, colors))()
        guarded(lambda: show_timeline(workspace, verdict, figures, colors))()
    timeline = figures.get("timeline") or {}
    if timeline.get("seconds"):
        load_s = timeline["seconds"][-1] + timeline["slot_s"]  # the end of the last slot
    else:
        load_s = verdict.evidence.window.seconds
    slider_s = float(load_s) or SLIDER_WITHOUT_DATA_S
    guarded(lambda: show_slices(workspace, view, verdict, slider_s))()
