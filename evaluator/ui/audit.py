"""Audit: who did what, whether that was changed since, and which verdicts were given on which data."""

from __future__ import annotations

import streamlit as st
from markupsafe import Markup

from evaluator.ui.acting import read_trail, verify_trail
from evaluator.ui.panels import hand_out
from evaluator.ui.pieces import clean, clock, link, show_empty, show_markup, show_table, words_of
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
MOST = 500
"""Rows that a page shows; `evaluator audit show` has all."""


def show_audit() -> None:
    """The page."""
    st.title("Audit")
    workspace = find_workspace()
    log = read_log(workspace)
    left, right = st.columns(2)
    name_filter = left.text_input("Releases that contain", key="q", bind="query-params", max_chars=200) or ""
    _show_trail(workspace, name_filter)
    st.subheader("Verdicts", anchor="verdicts")
    if not log:
        show_empty("No verdict was given yet.", "Judge a release:", workspace.command("RELEASE"))
        return
    word = right.selectbox("Verdict", list(WORDS), key="word", bind="query-params")
    shown = [row for row in log if name_filter.lower() in row.release.lower() and WORDS[word] in (None, row.word)]
    if not shown:
        show_empty("No verdict matches.", "Clear the field, or choose all verdicts.")
        return
    head, caption = ("judged", "release", "verdict", "why", "policy", "data"), "verdicts, the newest first"
    show_table(head, map(_row, shown), caption=caption)
    plain = [
        (row.judged_at.isoformat(), row.release, row.word, row.mode, row.why, row.policy_hash, row.data_hash)
        for row in shown
    ]
    hand_out(
        "audit", (*head[:3], "mode", *head[3:]), plain, SNIPPET.format(store=str(workspace.store)), caption=caption
    )


def _show_trail(workspace: Workspace, name_filter: str) -> None:
    st.subheader("Who did what", anchor="trail")
    trail = read_trail(workspace)
    if not trail:
        show_empty(
            "Nothing was done yet.", "Requests, approvals, executions, refusals and notes are listed here for ever."
        )
        return
    head, wrong = verify_trail(workspace)
    if wrong:
        show_markup('<p class="fail" role="alert"><strong>✗ {}</strong></p>', clean(wrong))
    else:
        show_markup(
            '<p><span class="ok">✓ unchanged</span> since it was written; hash of the last row: <code>{}</code></p>',
            head,
        )
    rows = [row for row in reversed(trail) if name_filter.lower() in row.release.lower()]
    if not rows:
        show_empty("Nothing was done to a release of that name.", "Clear the field to see all.")
        return
    caption, linked, plain = "who did what", [], []
    for row in rows[:MOST]:
        release = link("release", row.release, release=row.release) if row.release else ""
        request = link("promote", row.intent, at=row.intent, release=row.release) if row.intent else ""
        linked.append((clock(row.at), row.actor, row.event, release, request, row.text))
        texts = (row.actor, row.event, row.release, row.intent, row.text)
        plain.append((str(row.number), row.at.isoformat(), *texts, row.hash))
    show_table(("when", "who", "what", "release", "request", "in words"), linked, caption=caption)
    columns = ("number", "at", "who", "what", "release", "request", "text", "hash")
    hand_out("trail", columns, plain, TRAIL.format(store=str(workspace.store)), caption=caption)


def _row(row: Logged) -> tuple[object, ...]:
    word = words_of(row.word)
    if row.override:
        word = Markup('{} <span class="ev-badge no_go">overridden</span> {}').format(word, clean(dict(row.override)))
    hashes = (
        Markup('<code title="{}">{}</code>').format(clean(digest), clean(digest.removeprefix("sha256:")[:12]))
        for digest in (row.policy_hash, row.data_hash)
    )
    return clock(row.judged_at), link("release", row.release, release=row.release), word, row.why, *hashes
