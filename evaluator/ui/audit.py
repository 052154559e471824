"""Audit: who did what, whether that was changed since, and which verdicts were given on which data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st
from markupsafe import Markup

from evaluator.records.intents import FINAL_STATES, JUDGED, Action, AuditRow, IntentState
from evaluator.ui.acting import read_trail, verify_trail
from evaluator.ui.cards import MARKS
from evaluator.ui.panels import show_numbers
from evaluator.ui.pieces import (
    clean,
    link,
    make_table,
    mark_up_time,
    mark_up_verdict,
    show_empty,
    show_list,
    show_markup,
    show_table,
)
from evaluator.ui.reads import Logged, Workspace, find_workspace, read_log
from evaluator.wording import count_of

WORDS = {"all": None, "GO": "go", "NO-GO": "no_go", "INCONCLUSIVE": "inconclusive"}
SNIPPET = """import json
from pathlib import Path
from evaluator.store import Store

for verdict in Store.open(Path({store!r})).control.verdict_log():
    print(verdict.judged_at, verdict.release, verdict.word, json.loads(verdict.json)["data_hash"])"""

TRAIL = """from pathlib import Path
from evaluator.store import Store

control = Store.open(Path({store!r})).control
print(control.verify_audit())
for row in control.audit():
    print(row.at, row.actor, row.event, row.release, row.intent, row.text)"""
WORKER = "worker "
"""Begin of the name of a process that executes requests, before its machine and number."""
HASH_LENGTH = len("sha256:") + 8
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_DECISIONS = ("requested", "approved", "cancelled", "refused")
"""Events that people cause, and that say who decided."""
_BY_EXECUTOR = ("claimed", "hook sent", *(f"hook {state}" for state in IntentState), *FINAL_STATES)
"""Events of a process that executes a request."""
_MARKS_OF_EVENTS: Mapping[str, tuple[str, str]] = {
    **{state.value: mark for state, mark in MARKS.items()},
    "claimed": MARKS[IntentState.SENT],
    "retried": MARKS[IntentState.APPROVED],
}
"""Event → how the state of the request that it leads to is shown."""
MAX_ROWS = 500
"""Rows of the audit trail that the page shows; `evaluator audit show` has all."""


def show_audit() -> None:
    """Show the page Audit: the audit trail, then the verdicts of all releases."""
    st.title("Audit")
    workspace = find_workspace()
    log = read_log(workspace)
    typed = st.text_input(
        "Releases that contain",
        key="q",
        bind="query-params",
        max_chars=200,
        placeholder="a part of a name, then press Enter",
    )
    name_filter = typed or ""
    _show_trail(workspace, name_filter)
    st.header("Verdicts", anchor="verdicts")
    if not log:
        show_empty("No verdict was given yet.", "Judge a release:", workspace.command("RELEASE"))
        return
    word = st.selectbox("Verdict", list(WORDS), key="word", bind="query-params")
    chosen_word = WORDS[word]  # None: all verdicts
    matching = [row for row in log if name_filter.lower() in row.release.lower()]
    shown = [row for row in matching if chosen_word is None or row.word == chosen_word]
    if not shown:
        show_empty("No verdict matches.", "Clear the field, or choose all verdicts.")
        return
    head, caption = ("judged", "release", "verdict", "why", "policy", "data"), "verdicts, the newest first"
    show_table(head, map(_make_row, shown), caption=caption)
    # Downloads have the mode as well, after the verdict.
    download_head = (*head[:3], "mode", *head[3:])
    download_rows = [
        (row.judged_at.isoformat(), row.release, row.word, row.mode, row.why, row.policy_hash, row.data_hash)
        for row in shown
    ]
    snippet = SNIPPET.format(store=str(workspace.store))
    show_numbers("audit", download_head, download_rows, snippet, caption=caption)


def _show_trail(workspace: Workspace, name_filter: str) -> None:
    """Show whether the audit trail is unchanged, and its rows on releases whose name contains `name_filter`."""
    st.header("Who did what", anchor="trail")
    trail = read_trail(workspace)
    # The verdicts have a table of their own, below.
    done = [row for row in reversed(trail) if row.event != JUDGED]
    last_hash, problem = verify_trail(workspace) if trail else ("", "")
    if problem:
        show_markup('<p class="fail" role="alert"><strong>✗ {}</strong></p>', clean(problem))
    elif trail:
        show_markup(
            '<p><span class="ok">✓ unchanged</span> since it was written; hash of the last row: <code>{}</code></p>',
            last_hash,
        )
    if not done:
        show_empty(
            "Nothing was done yet.", "Requests, approvals, executions, refusals and notes are kept here permanently."
        )
        return
    rows = [row for row in done if name_filter.lower() in row.release.lower()]
    if not rows:
        show_empty("Nothing was done to a release of that name.", "Clear the field to see all.")
        return
    entries = _group_rows(rows[:MAX_ROWS], trail)
    show_list(_make_entry(entry) for entry in entries)
    download_rows = [
        (str(row.number), row.at.isoformat(), row.actor, row.event, row.release, row.intent, row.text, row.hash)
        for row in rows[:MAX_ROWS]
    ]
    columns = ("number", "at", "who", "what", "release", "request", "text", "hash")
    show_numbers("trail", columns, download_rows, TRAIL.format(store=str(workspace.store)), caption="who did what")


@dataclass(frozen=True, slots=True)
class TrailEntry:
    """One request with all its rows of the audit trail, the oldest first; or one row about no request."""

    request: str
    """Id of the request; empty: it is about none."""
    rows: tuple[AuditRow, ...]


def _group_rows(rows: Sequence[AuditRow], trail: Sequence[AuditRow]) -> list[TrailEntry]:
    """Group rows by request, in the order of `rows`, the newest first.

    An entry has all rows of its request in the `trail`, which is complete, the oldest first.
    """
    by_request: dict[str, list[AuditRow]] = {}
    for row in trail:
        by_request.setdefault(row.intent, []).append(row)
    entries: dict[str, TrailEntry] = {}
    for row in rows:
        key = row.intent or f"row {row.number}"
        if key not in entries:
            entries[key] = TrailEntry(row.intent, tuple(by_request[row.intent]) if row.intent else (row,))
    return list(entries.values())


def _make_entry(entry: TrailEntry) -> Markup:
    """Make the list item of a request: what became of it and who decided that, with its rows folded below."""
    first, last = entry.rows[0], entry.rows[-1]
    release = link("release", text=last.release, release=last.release) if last.release else Markup("")
    if not entry.request:
        return Markup('<li>{} <strong>{}</strong> {}<span class="reason">{}: {}</span></li>').format(
            mark_up_time(last.at, with_seconds=True), clean(last.event), release, _name_actor(last), clean(last.text)
        )
    action, _, reason = first.text.partition(": ")
    # The text of a request begins with its action; that of one whose beginning was lost may not.
    name = clean(action) if first.event == IntentState.REQUESTED else "request"
    name = "override" if name == Action.BREAK_GLASS else name
    css_class, mark = _MARKS_OF_EVENTS.get(_find_state(entry.rows), ("muted", _find_state(entry.rows)))
    people = [f"{clean(row.actor)} {row.event}" for row in entry.rows if row.event in _DECISIONS]
    review = link("promote", text=entry.request, release=last.release, request=entry.request)
    rows = [
        (mark_up_time(row.at, with_seconds=True), _name_actor(row), row.event, _shorten_hash(row.text))
        for row in entry.rows
    ]
    table = make_table(("when", "who", "what", "details"), rows, caption=f"rows of {entry.request}")
    return Markup(
        '<li>{} <strong>{}</strong> {} <span class="status {}">{}</span> {}<span class="reason">{}</span>'
        "<details><summary>{}</summary>{}</details></li>"
    ).format(
        mark_up_time(first.at, with_seconds=True),
        name,
        release,
        css_class,
        mark,
        review,
        f"{', '.join(dict.fromkeys(people))}: {clean(_HASH.sub('', reason).removesuffix(' ()'))}",
        count_of(len(entry.rows), "row"),
        table,
    )


def _find_state(rows: Sequence[AuditRow]) -> str:
    """Find what became of a request: the newest of its rows that is a state of a request, not of a hook."""
    states = [row.event for row in rows if row.event in _MARKS_OF_EVENTS]
    return states[-1] if states else rows[-1].event


def _name_actor(row: AuditRow) -> Markup:
    """Name who did something; of a process that executes requests, its machine and number are only the tooltip."""
    if row.event in _BY_EXECUTOR and row.actor.startswith(WORKER):
        return Markup('<span title="{}">worker</span>').format(clean(row.actor))
    return Markup("{}").format(clean(row.actor))


def _shorten_hash(text: str) -> str:
    """Shorten the hashes of a text to their first characters; downloads have them complete."""
    return _HASH.sub(lambda match: f"{match[0][:HASH_LENGTH]}…", clean(text))


def _make_row(row: Logged) -> tuple[object, ...]:
    """Make the cells of a verdict in the log; policy and data are shown by the first characters of their hash."""
    word = mark_up_verdict(row.word)
    if row.override:
        word = Markup('{} <span class="ev-badge no_go">overridden</span> {}').format(word, clean(dict(row.override)))
    hashes = (
        Markup('<code title="{}">{}</code>').format(clean(digest), clean(digest.removeprefix("sha256:")[:12]))
        for digest in (row.policy_hash, row.data_hash)
    )
    release = link("release", text=row.release, release=row.release)
    return mark_up_time(row.judged_at, with_seconds=True), release, word, row.why, *hashes
