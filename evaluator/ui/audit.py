"""Audit: who did what, whether that was changed since, and which verdicts were given on which data."""

from __future__ import annotations

import streamlit as st
from markupsafe import Markup

from evaluator.records.intents import JUDGED
from evaluator.ui.acting import read_trail, verify_trail
from evaluator.ui.panels import show_numbers
from evaluator.ui.pieces import clean, link, mark_up_time, mark_up_verdict, show_empty, show_markup, show_table
from evaluator.ui.reads import Logged, Workspace, find_workspace, read_log

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
MAX_ROWS = 500
"""Rows of the audit trail that the page shows; `evaluator audit show` has all."""


def show_audit() -> None:
    """Show the page Audit: the audit trail, then the verdicts of all releases."""
    st.title("Audit")
    workspace = find_workspace()
    log = read_log(workspace)
    left, right = st.columns(2)
    name_filter = left.text_input("Releases that contain", key="q", bind="query-params", max_chars=200) or ""
    _show_trail(workspace, name_filter)
    st.header("Verdicts", anchor="verdicts")
    if not log:
        show_empty("No verdict was given yet.", "Judge a release:", workspace.command("RELEASE"))
        return
    word = right.selectbox("Verdict", list(WORDS), key="word", bind="query-params")
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
            "Nothing was done yet.", "Requests, approvals, executions, refusals and notes are listed here for ever."
        )
        return
    rows = [row for row in done if name_filter.lower() in row.release.lower()]
    if not rows:
        show_empty("Nothing was done to a release of that name.", "Clear the field to see all.")
        return
    caption = "who did what"
    shown_rows, download_rows = [], []
    for row in rows[:MAX_ROWS]:
        release = link("release", text=row.release, release=row.release) if row.release else ""
        request = link("promote", text=row.intent, release=row.release, request=row.intent) if row.intent else ""
        shown_rows.append((mark_up_time(row.at), row.actor, row.event, release, request, row.text))
        texts = (row.actor, row.event, row.release, row.intent, row.text)
        download_rows.append((str(row.number), row.at.isoformat(), *texts, row.hash))
    show_table(("when", "who", "what", "release", "request", "in words"), shown_rows, caption=caption)
    columns = ("number", "at", "who", "what", "release", "request", "text", "hash")
    show_numbers("trail", columns, download_rows, TRAIL.format(store=str(workspace.store)), caption=caption)


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
    return mark_up_time(row.judged_at), release, word, row.why, *hashes
