"""Requests of a release: what waits for a person and what is executed first, then all others; and trying again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st

from evaluator.errors import UnknownName
from evaluator.intents import may, resolve, retry
from evaluator.records.intents import Intent, IntentState, PersonRole
from evaluator.ui.acting import IntentRecord, read_intents
from evaluator.ui.cards import make_item, make_status, show_card
from evaluator.ui.frame import guarded
from evaluator.ui.identity import Reader, demand_recent_login, has_recent_login
from evaluator.ui.pieces import clean, link, show, show_empty, show_list, show_markup
from evaluator.ui.reads import Workspace, find_workspace, open_store, read_policy

REFRESH_S = 1
"""Seconds between refreshes while a request is being executed."""
QUIET_REFRESH_S = 10
"""Seconds between refreshes while nothing is: another person may add a request."""
MAX_SHOWN = 10
UNDER_WAY = (IntentState.APPROVED, IntentState.SENT)
OPEN = (IntentState.REQUESTED, *UNDER_WAY)
"""States of a request that waits for people, or is being executed."""


def find_named_request(workspace: Workspace) -> IntentRecord | None:
    """Find the request that the address names, as a message to approvers does; None if it names none.

    Raises UnknownName.
    """
    named = st.query_params.get("request")
    if not named:
        return None
    records = {record.intent.id: record for record in read_intents(workspace)}
    if named not in records:
        raise UnknownName("request", clean(named), records, hint="the page Audit lists all requests")
    return records[named]


def show_open_requests(workspace: Workspace, release: str, reader: Reader, named: str) -> list[IntentRecord]:
    """Show the cards of the requests of a release that wait or are being executed, and of the one that is `named`.

    They come first on a page, the named one before the others. What is executed refreshes by itself; the whole page is
    shown again as soon as a request has changed its state. Returns what has been shown.
    """
    records = read_intents(workspace, release)
    states = [(record.intent.id, record.intent.state) for record in records]
    first = [record for record in records if record.intent.id == named]
    others = [record for record in reversed(records) if record.intent.state in OPEN and record.intent.id != named]
    shown = [*first, *others]
    waiting = [record for record in shown if record.intent.state is IntentState.REQUESTED]
    statuses = [record.intent.id for record in shown if record.intent.state is not IntentState.REQUESTED]
    is_under_way = any(record.intent.state in UNDER_WAY for record in shown)

    @st.fragment(run_every=REFRESH_S if is_under_way else QUIET_REFRESH_S)
    @guarded
    def show_states() -> None:
        """Show what is executed, at each refresh; once a state has changed, show the whole page again."""
        present = read_intents(find_workspace(), release)
        for record in present:
            if record.intent.id in statuses:
                show(make_status(record))
        if [(record.intent.id, record.intent.state) for record in present] != states:
            st.rerun(scope="app")

    show_states()
    for record in shown:
        if record in waiting:
            guarded(partial(show_card, workspace, record, reader))()
        elif reader.refusal is None:
            _offer_retry(workspace, record, records, reader)
    return shown


def show_earlier_requests(workspace: Workspace, release: str, reader: Reader, shown: Sequence[IntentRecord]) -> None:
    """Show the requests of a release, the newest first, without those that were `shown` already."""
    records = read_intents(workspace, release)
    shown_ids = {record.intent.id for record in shown}
    others = [record for record in records if record.intent.id not in shown_ids][-MAX_SHOWN:][::-1]
    st.header("Other requests" if shown else "Requests", anchor="requests")
    if not others:
        problem = "No other request." if shown else "No request yet."
        show_empty(problem, "Each promotion, hold and rollback is kept here permanently.")
        return
    show_list(map(make_item, others))
    if len(records) > len(others) + len(shown):
        show_markup('<p class="reason">All others are on {}.</p>', link("audit", "Audit", q=release))
    for record in others if reader.refusal is None else ():
        _offer_retry(workspace, record, records, reader)


def show_step_requests(workspace: Workspace, rollout: str, release: str, reader: Reader) -> int:
    """Show the requests of a rollout (`r1`) that wait for a person, and what the reader may do about them.

    Returns how many there are.
    """
    records = read_intents(workspace, release)
    waiting = [
        record
        for record in records
        if record.intent.rollout == rollout and record.intent.state in (IntentState.REQUESTED, IntentState.UNKNOWN)
    ]
    for record in waiting:
        if record.intent.state is IntentState.REQUESTED:
            guarded(partial(show_card, workspace, record, reader))()
        else:
            show(make_status(record))
            if reader.refusal is None:
                _offer_retry(workspace, record, records, reader)
    return len(waiting)


# ------------------------------------------------------------------ hooks that are tried again


def _offer_retry(workspace: Workspace, record: IntentRecord, records: Sequence[IntentRecord], reader: Reader) -> None:
    """Offer to execute the hooks of a request again if they failed, or their outcome is unknown.

    `records`: all of the release, the oldest first. A failed request can be tried again only while no later request has
    replaced it.
    """
    never_executed = (IntentState.EXPIRED, IntentState.CANCELLED)
    newest = [other.intent.id for other in records if other.intent.state not in never_executed][-1:]
    state = record.intent.state
    may_help = state is IntentState.UNKNOWN or (state is IntentState.FAILED and [record.intent.id] == newest)
    if may_help and record.deliveries:
        guarded(partial(_show_retry, workspace, record, reader))()


def _show_retry(workspace: Workspace, record: IntentRecord, reader: Reader) -> None:
    """Show a button that executes the hooks of a failed or unknown intent again.

    For each hook whose outcome is unknown, also show a form to state whether it was executed.
    """
    intent, rules = record.intent, read_policy(workspace, record.intent.release).promotion
    may_retry = may(rules, reader.names, PersonRole.APPROVER) and has_recent_login(reader)
    unknown = [delivery for delivery in record.deliveries if delivery.outcome.state is IntentState.UNKNOWN]
    with st.expander(f"{intent.id}: what to do next", key=f"now-{intent.id}"):
        st.caption("First check what its hooks have changed. Hooks that are done are not executed again.")
        if st.button("Execute the others again", disabled=not may_retry, key=f"retry-{intent.id}"):
            demand_recent_login(reader)
            retry(open_store(workspace, decisions_only=True), read_policy(workspace, intent.release), reader, intent.id)
            st.rerun()
        for delivery in unknown:
            hook_number = delivery.position + 1  # from 1
            _show_resolution(workspace, intent, hook_number, delivery.hook, reader)


def _show_resolution(workspace: Workspace, intent: Intent, hook_number: int, hook: str, reader: Reader) -> None:
    """Show the form in which an admin states whether a hook was executed whose outcome is unknown.

    `hook`: its kind; `hook_number`: its place among the hooks of the intent, from 1.
    """
    policy = read_policy(workspace, intent.release)
    may_resolve = may(policy.promotion, reader.names, PersonRole.ADMIN) and has_recent_login(reader)
    with st.form(f"resolve-{intent.id}-{hook_number}", border=False):
        reason = st.text_input(
            f"Hook {hook_number} ({hook}): how do you know?", key=f"how-{intent.id}-{hook_number}", max_chars=300
        )
        left, right = st.columns(2)
        is_done = left.form_submit_button(
            "It was done", disabled=not may_resolve, key=f"done-{intent.id}-{hook_number}"
        )
        is_not_done = right.form_submit_button(
            "It was not done", disabled=not may_resolve, key=f"undone-{intent.id}-{hook_number}"
        )
    if is_done or is_not_done:
        demand_recent_login(reader)
        resolve(
            open_store(workspace, decisions_only=True),
            policy,
            reader,
            intent.id,
            hook_number,
            done=is_done,
            reason=reason,
        )
        st.rerun()
