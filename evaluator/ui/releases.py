"""Releases: what waits for me, every release by the metrics of its service, and a list of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

import streamlit as st
from markupsafe import Markup

from evaluator.errors import UnknownName
from evaluator.intents import describe_recording
from evaluator.records import Release, ReleaseSummary, Verdict, VerdictWord
from evaluator.records.life import Life, LifeState
from evaluator.reports import VERDICT_WORDS
from evaluator.reports.base import format_effect
from evaluator.reports.overview import build_heat_map
from evaluator.ui.exposed import show_exposed
from evaluator.ui.frame import guarded, show_empty_store, show_missing_store
from evaluator.ui.heat import LEGEND, make_heat_map, name_arm
from evaluator.ui.panels import show_numbers
from evaluator.ui.pieces import (
    clean,
    link,
    mark_up_past,
    mark_up_state,
    mark_up_time,
    mark_up_verdict,
    show,
    show_empty,
    show_markup,
    show_table,
    write_age,
)
from evaluator.ui.reads import Workspace, find_workspace, now, read_latest, read_lives, read_summaries
from evaluator.ui.waits import show_waiting
from evaluator.wording import count_of

SNIPPET = """from pathlib import Path
from evaluator.store import Store

for verdict in Store.open(Path("{store}")).control.latest_verdicts():
    print(verdict.release, verdict.word, verdict.judged_at)"""
_EARLIEST = datetime.min.replace(tzinfo=UTC)
MOST_ROWS = 5
"""Releases of one service in the table by metrics; the page Service shows more."""
NOT_JUDGED = "not judged"
STATES = [str(state) for state in LifeState]
WORDS = {word: VERDICT_WORDS[word].split()[0] for word in VerdictWord}
"""Without their marks: they are a part of the address."""


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
    lives = read_lives(workspace).releases
    chosen = _filter(summaries, lives)
    names = {summary.release.id for summary in chosen}
    st.header("What waits for me")
    nothing = "Nothing: the newest release of each service was acted on."
    show_waiting(workspace, names, nothing if len(chosen) == len(summaries) else "Nothing among these releases.")
    if not chosen:
        show_empty(f"None of the {len(summaries)} releases is like that.", "Clear the filters to see all of them.")
        return
    _show_map(workspace, chosen, lives)
    _show_list(chosen, lives)


# ------------------------------------------------------------------ which releases


def _filter(summaries: Sequence[ReleaseSummary], lives: Mapping[str, Life]) -> list[ReleaseSummary]:
    """Let the reader choose releases by name, service, verdict and state; the address has the choice.

    All parts of the page show these only. Returns them, that of the newest activity first.
    """
    name_column, service_column = st.columns([2, 1])
    part = name_column.text_input(
        "Releases that contain",
        key="q",
        bind="query-params",
        max_chars=200,
        placeholder="a part of a name, then press Enter",
    )
    services = sorted({service.name for summary in summaries for service in summary.release.services if service.name})
    _refuse_unknown("service", "of", services)
    service = service_column.selectbox(
        "Service", services, key="of", bind="query-params", index=None, placeholder="all services"
    )
    words = Counter(_name_word(summary) for summary in summaries)
    states = Counter(_find_state(lives, summary) for summary in summaries)
    chosen_words = _choose_some("Verdict", "word", [*WORDS.values(), NOT_JUDGED], words)
    chosen_states = _choose_some("State", "state", STATES, states)
    chosen = [
        summary
        for summary in summaries
        if (part or "").lower() in summary.release.id.lower()
        and (not service or service in {known.name for known in summary.release.services})
        and (not chosen_words or _name_word(summary) in chosen_words)
        and (not chosen_states or _find_state(lives, summary) in chosen_states)
    ]
    # Not in the controls: their texts are a part of the address.
    counts = [f"{count} {name}" for name, count in {**words, **states}.items()]
    st.caption(f"{len(chosen)} of {count_of(len(summaries), 'release')} · {' · '.join(counts)}")
    return sorted(chosen, key=lambda summary: _find_activity(summary, lives) or _EARLIEST, reverse=True)


def _choose_some(label: str, key: str, known: Sequence[str], present: Collection[str]) -> Collection[str]:
    """Let the reader choose some of the `known` values; empty: all. `present`: those of the releases.

    Raises UnknownName if the address names another value.
    """
    _refuse_unknown(label.lower(), key, known)
    options = [value for value in known if value in present or value in st.query_params.get_all(key)]
    return frozenset(st.pills(label, options, key=key, bind="query-params", selection_mode="multi"))


def _refuse_unknown(kind: str, key: str, known: Collection[str]) -> None:
    """Raise UnknownName if the address names a value of a filter that there is none of, so that nothing is hidden."""
    for value in st.query_params.get_all(key):
        if value not in known:
            raise UnknownName(kind, clean(value), list(known), hint="choose one of these")


def _name_word(summary: ReleaseSummary) -> str:
    """Name the latest verdict of a release as the filter does."""
    return WORDS[VerdictWord(summary.verdict)] if summary.verdict else NOT_JUDGED


def _find_state(lives: Mapping[str, Life], summary: ReleaseSummary) -> str:
    """Find the state of a release; not judged if it is too new to have one."""
    life = lives.get(summary.release.id)
    return str(life.state if life is not None else LifeState.NOT_JUDGED)


def _find_activity(summary: ReleaseSummary, lives: Mapping[str, Life]) -> datetime | None:
    """Find when something happened to a release last; None: it is not known."""
    life = lives.get(summary.release.id)
    moments = [summary.judged_at, summary.last_run, life.at if life else None]
    return max((moment for moment in moments if moment is not None), default=None)


# ------------------------------------------------------------------ by metrics


def _show_map(workspace: Workspace, chosen: Sequence[ReleaseSummary], lives: Mapping[str, Life]) -> None:
    """Show the latest verdict of each of these releases by the metrics of its service, a table for each service."""
    st.header("Releases by metrics")
    # The service may have been set after the verdict.
    releases = {summary.release.id: summary.release for summary in chosen}
    by_service: dict[str, list[Verdict]] = {}
    for verdict in sorted(read_latest(workspace), key=_find_judged_at, reverse=True):
        if verdict.release.id in releases:
            by_service.setdefault(_name_services(releases[verdict.release.id]), []).append(verdict)
    if not by_service:
        show_empty("None of these releases was judged.", "Judge one:", workspace.command("RELEASE"))
        return
    show(LEGEND)
    for service, verdicts in by_service.items():
        is_single = len(releases[verdicts[0].release.id].services) == 1 and bool(service)
        heading = link("service", service, service=service) if is_single else clean(service or "without a service")
        show_markup('<h3 class="ev-service">{}</h3>', heading)
        show(make_heat_map(build_heat_map(verdicts[:MOST_ROWS]), lives, f"{service or 'releases'} by metrics"))
        if len(verdicts) > MOST_ROWS:
            show_markup('<p class="muted">and {} older ones, in the list below</p>', len(verdicts) - MOST_ROWS)
    verdicts = [verdict for of_service in by_service.values() for verdict in of_service]
    heat = build_heat_map(verdicts)
    download_rows = [
        (
            row.verdict.release.id,
            row.verdict.word.value,
            *(
                ""
                if comparison is None
                else f"{name_arm(row, comparison)}{comparison.status.value} {format_effect(comparison)}"
                for comparison in row.comparisons  # None: this metric was not compared
            ),
        )
        for row in heat.rows
    ]
    head = ("release", "verdict", *heat.metrics)
    snippet = SNIPPET.format(store=workspace.store)
    show_numbers("releases", head, download_rows, snippet, caption="releases by metrics")


def _find_judged_at(verdict: Verdict) -> datetime:
    """Find when a verdict was given; the earliest time if it is not known."""
    return verdict.judged_at or _EARLIEST


def _name_services(release: Release) -> str:
    """Name the services of a release; empty if it has none."""
    return " and ".join(sorted({service.name for service in release.services if service.name}))


# ------------------------------------------------------------------ all of them


def _show_list(summaries: Sequence[ReleaseSummary], lives: Mapping[str, Life]) -> None:
    """Show releases as a table, judged or not, that of the newest activity first."""
    st.header("All releases")
    present = now()

    def make_row(summary: ReleaseSummary) -> Sequence[object]:
        """Make the row of one release."""
        life, activity = lives.get(summary.release.id), _find_activity(summary, lives)
        state: Markup | str = "–"
        if life is not None:
            has_past = life.state not in (LifeState.JUDGED, LifeState.NOT_JUDGED)
            past = Markup('<span class="reason">{}</span>').format(mark_up_past(life, present)) if has_past else ""
            state = Markup("{}{}").format(mark_up_state(life), past)
        if summary.running:
            recording = describe_recording(summary, present).removeprefix("is ")
            state = Markup('<strong class="ok">→ {}</strong>').format(recording)
        return (
            link("release", text=summary.release.id, release=summary.release.id),
            mark_up_verdict(summary.verdict),
            state,
            _write_versions(summary.release),
            f"{summary.rows:,}",
            Markup('{} <span class="reason">{}</span>').format(
                write_age(activity, present), mark_up_time(activity)
            ) if activity else "–",
        )  # fmt: skip

    head = ("release", "verdict", "state", "versions", "rows", "newest activity")
    show_table(head, map(make_row, summaries), caption="all releases")


def _write_versions(release: Release) -> str:
    """Write the versions of both arms of each service: `cart 1.4.1 → 1.5.0`; the services if none is known."""
    versions = [
        f"{service.name} {service.baseline or '?'} → {service.canary or '?'}"
        for service in release.services
        if service.baseline or service.canary
    ]
    return ", ".join(versions) or _name_services(release) or "–"
