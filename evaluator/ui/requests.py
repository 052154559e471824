"""Requests: each intent with its hooks, and what this reader may do about it."""

from __future__ import annotations

from functools import partial

import streamlit as st
from markupsafe import Markup

from evaluator.errors import UsageError
from evaluator.intents import approve, cancel, may, resolve, retry
from evaluator.records.intents import FINAL_STATES, Delivery, Intent, IntentState, PersonRole, are_same_person
from evaluator.ui.acting import IntentRecord, read_intents
from evaluator.ui.frame import guarded
from evaluator.ui.identity import Reader, demand_fresh, is_fresh
from evaluator.ui.pieces import clean, clock, show_empty, show_list
from evaluator.ui.reads import Workspace, find_workspace, open_store, read_policy

EVERY_S = 2
QUIET_S = 10
"""Seconds between refreshes while nothing is under way: another person may add a request."""
SHOWN = 10
MARKS = {
    IntentState.ACKNOWLEDGED: ("ok", "✓ acknowledged"),
    IntentState.FAILED: ("fail", "✗ failed"),
    IntentState.UNKNOWN: ("warn", "? unknown"),
    IntentState.REQUESTED: ("warn", "… waits for approval"),
    IntentState.APPROVED: ("warn", "… approved, about to be executed"),
    IntentState.SENT: ("warn", "… being executed"),
    IntentState.EXPIRED: ("muted", "∅ expired"),
    IntentState.CANCELLED: ("muted", "∅ cancelled"),
}
HOOK_MARKS = {**MARKS, IntentState.SENT: ("warn", "… sent"), IntentState.REQUESTED: ("warn", "… to be sent again")}


def show_requests(workspace: Workspace, release: str, reader: Reader) -> None:
    """The intents of a release, the newest first, and what can be done about those that have not ended."""
    records = read_intents(workspace, release)
    shown_states = [(record.intent.id, record.intent.state) for record in records]
    under_way = any(state not in FINAL_STATES for _, state in shown_states)
    st.subheader("Requests", anchor="requests")

    @st.fragment(run_every=EVERY_S if under_way else QUIET_S)
    def show_states() -> None:
        """Show the state of all, refreshed by itself."""
        records = read_intents(find_workspace(), release)
        if records:
            show_list(_describe(record) for record in records[: -SHOWN - 1 : -1])
        else:
            show_empty("No request yet.", "Each promotion, hold and rollback is listed here for ever.")
        if [(record.intent.id, record.intent.state) for record in records] != shown_states:
            st.rerun(scope="app")

    show_states()
    live = [record for record in records if record.intent.state not in (IntentState.EXPIRED, IntentState.CANCELLED)]
    for record in live[: -SHOWN - 1 : -1]:
        # Of requests that have ended only the latest can be tried again; those that wait for approval all wait still.
        state = record.intent.state
        if state is IntentState.REQUESTED:
            guarded(partial(_show_approval, workspace, record, reader))()
        elif record.deliveries and (
            state is IntentState.UNKNOWN or (record is live[-1] and state is IntentState.FAILED)
        ):
            guarded(partial(_show_retry, workspace, record, reader))()


def _describe(record: IntentRecord) -> Markup:
    """An intent in a line, and its hooks below."""
    intent = record.intent
    style, mark = MARKS[intent.state]
    hooks = Markup("").join(
        _hook(delivery) for delivery in sorted(record.deliveries, key=lambda delivery: delivery.position)
    )
    return Markup(
        '<li id="{}"><strong>{}</strong> <span class="status {}">{}</span>'
        '<span class="reason">{} by {} {}: {}</span><span class="reason">{}</span>{}</li>'
    ).format(
        intent.id,
        clean(intent.action.label),
        style,
        mark,
        intent.id,
        clean(intent.requester),
        clock(intent.requested_at),
        clean(intent.reason),
        _agreed(record),
        Markup("<ol>{}</ol>").format(hooks) if hooks else "",
    )


def _agreed(record: IntentRecord) -> str:
    intent, people = record.intent, ", ".join(clean(approval.person) for approval in record.approvals)
    if intent.state is IntentState.REQUESTED:
        missing = intent.approvals_needed - len(record.approvals)
        who = ", not by the requester" if intent.distinct else ""
        agreed = f"; {people} agreed" if people else ""
        until = f"{intent.expires_at:%Y-%m-%d %H:%M} UTC"
        return f"waits for {missing} of {intent.approvals_needed} approvals{who}, until {until}{agreed}"
    last_event = clean(record.last) if intent.state in FINAL_STATES else ""
    return "; ".join(part for part in (f"approved by {people}" if people else "", last_event) if part)


def _hook(delivery: Delivery) -> Markup:
    style, mark = HOOK_MARKS[delivery.outcome.state]
    tries = f", {delivery.attempts} attempts" if delivery.attempts > 1 else ""
    return Markup('<li>{}: {} <span class="status {}">{}</span>{}<span class="reason">{}</span></li>').format(
        clean(delivery.event), clean(delivery.hook), style, mark, tries, clean(delivery.outcome.text)
    )


# ------------------------------------------------------------------ what this reader may do


def _show_approval(workspace: Workspace, record: IntentRecord, reader: Reader) -> None:
    intent, rules = record.intent, read_policy(workspace, record.intent.release).promotion
    may_approve = may(rules, reader.names, PersonRole.APPROVER) and is_fresh(reader)
    is_requester = are_same_person(reader.names, (*intent.requester_names, intent.requester))
    with st.form(f"agree-{intent.id}", border=True):
        st.markdown(f"**{intent.id}**: do you agree to {intent.action.label}?")
        if is_requester and intent.distinct:
            st.caption("This is your own request: others have to agree.")
        elif not may_approve:
            st.caption("Agreeing needs the role approver and a login of the last 15 minutes.")
        typed = st.text_input("Type the release's name to agree", key=f"typed-{intent.id}", max_chars=300)
        reason = st.text_input("Reason, if you do not agree", key=f"why-{intent.id}", max_chars=300)
        left, right = st.columns(2)
        agreed = left.form_submit_button(
            "Agree",
            type="primary",
            disabled=not may_approve or (is_requester and intent.distinct),
            key=f"yes-{intent.id}",
        )
        refused = right.form_submit_button(
            "Withdraw" if is_requester else "Reject",
            disabled=not (is_requester or may_approve),
            key=f"no-{intent.id}",
        )
    store, policy = open_store(workspace), read_policy(workspace, intent.release)
    if agreed:
        if typed.strip() != intent.release:
            raise UsageError(f"{typed.strip() or 'nothing'} was typed, not {intent.release}: nothing was done")
        demand_fresh(reader)
        approve(store, policy, reader, intent.id)
        st.rerun()
    if refused:
        if not is_requester:
            demand_fresh(reader)
        cancel(store, policy, reader, intent.id, reason)
        st.rerun()


def _show_retry(workspace: Workspace, record: IntentRecord, reader: Reader) -> None:
    intent, rules = record.intent, read_policy(workspace, record.intent.release).promotion
    able = may(rules, reader.names, PersonRole.APPROVER) and is_fresh(reader)
    unknown = [delivery for delivery in record.deliveries if delivery.outcome.state is IntentState.UNKNOWN]
    with st.expander(f"{intent.id}: what to do next", key=f"now-{intent.id}"):
        st.caption("First check what its hooks have changed. Acknowledged hooks are not executed again.")
        if st.button("Execute the others again", disabled=not able, key=f"retry-{intent.id}"):
            demand_fresh(reader)
            retry(open_store(workspace), read_policy(workspace, intent.release), reader, intent.id)
            st.rerun()
        for delivery in unknown:
            _show_resolution(workspace, intent, delivery.position + 1, delivery.hook, reader)


def _show_resolution(workspace: Workspace, intent: Intent, number: int, hook: str, reader: Reader) -> None:
    policy = read_policy(workspace, intent.release)
    able = may(policy.promotion, reader.names, PersonRole.ADMIN) and is_fresh(reader)
    with st.form(f"resolve-{intent.id}-{number}", border=False):
        reason = st.text_input(
            f"Hook {number} ({hook}): how do you know?", key=f"how-{intent.id}-{number}", max_chars=300
        )
        left, right = st.columns(2)
        done = left.form_submit_button("It was done", disabled=not able, key=f"done-{intent.id}-{number}")
        undone = right.form_submit_button("It was not done", disabled=not able, key=f"undone-{intent.id}-{number}")
    if done or undone:
        demand_fresh(reader)
        resolve(open_store(workspace), policy, reader, intent.id, number, done=done, reason=reason)
        st.rerun()
