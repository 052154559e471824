"""Audit: which verdicts were given, on what, and which of them were overridden."""

from __future__ import annotations

import streamlit as st
from markupsafe import Markup

from evaluator.ui.panels import hand_out
from evaluator.ui.pieces import clean, clock, empty, link, show, show_table, words_of
from evaluator.ui.reads import Logged, find_place, read_log

__all__ = ["show_audit"]

WORDS = {"all": None, "GO": "go", "NO-GO": "no_go", "INCONCLUSIVE": "inconclusive"}
SNIPPET = """import json
from pathlib import Path
from evaluator.store import Store

for one in Store.open(Path({store!r})).verdict_log():
    print(one.judged_at, one.release, one.word, json.loads(one.json)["data_hash"])"""


def show_audit() -> None:
    """The page."""
    st.title("Audit")
    place = find_place()
    log = read_log(place)
    if not log:
        show(empty("No verdict was given yet.", "Judge a release:", "evaluator verdict RELEASE"))
        return
    left, right = st.columns(2)
    wanted = left.text_input("Releases that contain", key="q", bind="query-params", max_chars=200) or ""
    word = right.selectbox("Verdict", list(WORDS), key="word", bind="query-params")
    shown = [one for one in log if wanted.lower() in one.release.lower() and WORDS[word] in (None, one.word)]
    if not shown:
        show(empty("No verdict is like that.", "Empty the field, or choose all verdicts."))
        return
    head = ("judged", "release", "verdict", "why", "policy", "data")
    show_table(head, (_row(one) for one in shown), caption="verdicts, the newest first")
    hand_out(
        "audit",
        ("judged", "release", "verdict", "mode", "why", "policy", "data"),
        [
            (one.judged_at.isoformat(), one.release, one.word, one.mode, one.why, one.policy_hash, one.data_hash)
            for one in shown
        ],
        SNIPPET.format(store=str(place.store)),
        caption="verdicts, the newest first",
    )


def _row(one: Logged) -> tuple[object, ...]:
    word = words_of(one.word)
    if one.override:
        word = Markup('{} <span class="ev-badge no_go">overridden</span> {}').format(word, clean(dict(one.override)))
    return (
        clock(one.judged_at),
        link("release", one.release, release=one.release),
        word,
        one.why,
        _short(one.policy_hash),
        _short(one.data_hash),
    )


def _short(digest: str) -> Markup:
    return Markup('<code title="{}">{}</code>').format(clean(digest), clean(digest.removeprefix("sha256:")[:12]))
