"""Notes of people on a release: for readers, never part of its verdict."""

from __future__ import annotations

import streamlit as st
from markupsafe import Markup

from evaluator.intents import LONGEST_NOTE, may, write_note
from evaluator.records.intents import PersonRole
from evaluator.ui.acting import read_trail
from evaluator.ui.identity import demand_access, find_reader, show_refusal
from evaluator.ui.pieces import clean, mark_up_time, show_empty, show_list
from evaluator.ui.reads import Workspace, open_store, read_policy


def show_notes(workspace: Workspace, release: str) -> None:
    """Show the notes on a release, the newest first, and a form to add a note."""
    st.header("Notes", anchor="notes")
    notes = [row for row in read_trail(workspace) if row.event == "note" and row.release == release]
    if notes:
        show_list(
            Markup('<li>{}<span class="reason">{} {}</span></li>').format(
                Markup("<br>").join(clean(line) for line in row.text.splitlines()),
                clean(row.actor),
                mark_up_time(row.at),
            )
            for row in reversed(notes)
        )
    else:
        show_empty("No notes yet.", "Notes stay here, with their author and time.")
    reader = find_reader()
    if show_refusal(reader):
        return
    policy = read_policy(workspace, release)
    may_write = may(policy.promotion, reader.names, PersonRole.ANALYST)
    with st.form("note", border=False, clear_on_submit=True):
        text = st.text_area("Write a note", key=f"note-{release}", max_chars=LONGEST_NOTE, disabled=not may_write)
        is_pressed = st.form_submit_button("Add the note", disabled=not may_write, key="note-button")
    if not may_write:
        st.caption("Writing notes needs the role analyst.")
    if is_pressed:
        demand_access(reader)
        write_note(open_store(workspace, decisions_only=True), policy, reader, release, text)
        st.rerun()
