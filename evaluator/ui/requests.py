"""Requests: each intent with its hooks, and what this reader may do about it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st
from markupsafe import Markup

from evaluator.errors import UsageError
from evaluator.intents import approve, cancel, may, resolve, retry
from evaluator.records.intents import FINAL_STATES, Delivery, Intent, IntentState, PersonRole, are_same_person
from evaluator.ui.acting import Forecast, IntentRecord, read_intents, read_request_forecast
from evaluator.ui.frame import guarded
from evaluator.ui.identity import Reader, demand_access, demand_recent_login, has_recent_login
from evaluator.ui.pieces import clean, mark_up_time, show_empty, show_list, show_markup
from evaluator.ui.reads import Workspace, find_workspace, open_store, read_policy

REFRESH_S = 2
QUIET_REFRESH_S = 10
"""Seconds between refreshes while nothing is under way: another person may add a request."""
MAX_SHOWN = 10
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
    """Show the intents of a release, the newest first, and what the reader may do about those that need a person.

    The list refreshes by itself; the whole page does as soon as an intent has changed its state.
    """
    records = read_intents(workspace, release)
    shown_states = [(record.intent.id, record.intent.state) for record in records]
    is_under_way = any(state not in FINAL_STATES for _, state in shown_states)
    st.header("Requests", anchor="requests")

    @st.fragment(run_every=REFRESH_S if is_under_way else QUIET_REFRESH_S)
    @guarded
    def show_states() -> None:
        """Show the list, at each refresh; once a state has changed, show the whole page again."""
        present_records = read_intents(find_workspace(), release)
        if present_records:
            show_list(_make_item(record) for record in _take_newest(present_records))
        else:
            show_empty("No request yet.", "Each promotion, hold and rollback is listed here for ever.")
        if [(record.intent.id, record.intent.state) for record in present_records] != shown_states:
            st.rerun(scope="app")

    show_states()
    if reader.refusal is not None:
        return
    never_executed = (IntentState.EXPIRED, IntentState.CANCELLED)
    active = [record for record in records if record.intent.state not in never_executed]
    for record in _take_newest(active):
        state = record.intent.state
        # A failed request can be tried again only while no later request has replaced it.
        can_be_retried = state is IntentState.UNKNOWN or (state is IntentState.FAILED and record is active[-1])
        if state is IntentState.REQUESTED:
            guarded(partial(_show_approval, workspace, record, reader))()
        elif can_be_retried and record.deliveries:
            guarded(partial(_show_retry, workspace, record, reader))()


def show_step_requests(workspace: Workspace, rollout: str, release: str, reader: Reader) -> int:
    """Show the requests of a rollout (`r1`) that wait for a person, and what the reader may do about them.

    Returns how many there are.
    """
    waiting = [
        record
        for record in read_intents(workspace, release)
        if record.intent.rollout == rollout and record.intent.state in (IntentState.REQUESTED, IntentState.UNKNOWN)
    ]
    if waiting:
        show_list(_make_item(record) for record in waiting)
    for record in waiting if reader.refusal is None else ():
        if record.intent.state is IntentState.REQUESTED:
            guarded(partial(_show_approval, workspace, record, reader))()
        elif record.deliveries:
            guarded(partial(_show_retry, workspace, record, reader))()
    return len(waiting)


def _take_newest(records: Sequence[IntentRecord]) -> Sequence[IntentRecord]:
    """Take the last `MAX_SHOWN` records, which are the newest, and put the newest first."""
    return records[-MAX_SHOWN:][::-1]


def _make_item(record: IntentRecord) -> Markup:
    """Make the list item of an intent: its action, state, requester and reason, then its hooks in their order."""
    intent = record.intent
    css_class, mark = MARKS[intent.state]
    deliveries = sorted(record.deliveries, key=lambda delivery: delivery.position)
    hooks = Markup("").join(_make_hook_item(delivery) for delivery in deliveries)
    return Markup(
        '<li id="{}"><strong>{}</strong> <span class="status {}">{}</span>'
        '<span class="reason">{} by {} {}: {}</span><span class="reason">{}</span>{}</li>'
    ).format(
        intent.id,
        clean(intent.label),
        css_class,
        mark,
        intent.id,
        clean(intent.requester),
        mark_up_time(intent.requested_at),
        clean(intent.reason),
        _describe_approvals(record),
        Markup("<ol>{}</ol>").format(hooks) if hooks else "",
    )


def _describe_approvals(record: IntentRecord) -> str:
    """Say which approvals an intent waits for, or who approved it and, if it has ended, how it ended."""
    intent, approvers = record.intent, ", ".join(clean(approval.person) for approval in record.approvals)
    if intent.state is IntentState.REQUESTED:
        missing = intent.approvals_needed - len(record.approvals)
        restriction = ", not by the requester" if intent.distinct else ""
        agreed = f"; {approvers} agreed" if approvers else ""
        until = f"{intent.expires_at:%Y-%m-%d %H:%M} UTC"
        return f"waits for {missing} of {intent.approvals_needed} approvals{restriction}, until {until}{agreed}"
    approved = f"approved by {approvers}" if approvers else ""
    ending = clean(record.latest_text) if intent.state in FINAL_STATES else ""
    return "; ".join(filter(None, (approved, ending)))


def _make_hook_item(delivery: Delivery) -> Markup:
    """Make the list item of a hook: its event and name, its state, and what it answered."""
    css_class, mark = HOOK_MARKS[delivery.outcome.state]
    tries = f", {delivery.attempts} attempts" if delivery.attempts > 1 else ""
    return Markup('<li>{}: {} <span class="status {}">{}</span>{}<span class="reason">{}</span></li>').format(
        clean(delivery.event), clean(delivery.hook), css_class, mark, tries, clean(delivery.outcome.text)
    )


def show_steps(forecast: Forecast) -> None:
    """Show the hooks of an action in their order, with the values that they would replace, and what stays changed."""
    items = Markup("").join(
        Markup("<li><strong>{}</strong> {}{}{}{}</li>").format(
            clean(step.event),
            clean(step.description),
            Markup(' <span class="ev-badge">required</span>') if step.required else "",
            Markup('<span class="reason">now: {}</span>').format(clean(step.current_value))
            if step.current_value
            else "",
            Markup('<span class="reason">would be refused now: {}</span>').format(clean(step.obstacle))
            if step.obstacle
            else "",
        )
        for step in forecast.steps
    )
    show_markup("<ol>{}</ol>", items)
    for text in forecast.irreversible:
        show_markup('<p class="warn">Cannot be taken back: {}</p>', clean(text))


# ------------------------------------------------------------------ what this reader may do


def _show_approval(workspace: Workspace, record: IntentRecord, reader: Reader) -> None:
    """Show the form to approve a request, or to reject it (to withdraw it, for the requester).

    Raises UsageError if the name that the reader typed is not that of the release, or the login is too old.
    """
    intent, rules = record.intent, read_policy(workspace, record.intent.release).promotion
    may_approve = may(rules, reader.names, PersonRole.APPROVER) and has_recent_login(reader)
    is_requester = are_same_person(reader.names, (*intent.requester_names, intent.requester))
    forecast = read_request_forecast(workspace, read_policy(workspace, intent.release), intent)
    with st.form(f"agree-{intent.id}", border=True):
        subject = f"that rollout {intent.rollout} goes on" if intent.is_question else f"to {intent.label}"
        st.markdown(f"**{intent.id}**: do you agree {subject}?")
        if forecast.problem:
            show_markup('<p class="warn">{}</p>', clean(forecast.problem))
        show_steps(forecast)
        if is_requester and intent.distinct:
            st.caption("This is your own request: others have to agree.")
        elif not may_approve:
            st.caption("Agreeing needs the role approver and a login of the last 15 minutes.")
        typed_name = st.text_input("Type the release's name to agree", key=f"typed-{intent.id}", max_chars=300).strip()
        reason = st.text_input("Reason, if you do not agree", key=f"why-{intent.id}", max_chars=300)
        left, right = st.columns(2)
        is_agreed = left.form_submit_button(
            "Agree",
            type="primary",
            disabled=not may_approve or (is_requester and intent.distinct),
            key=f"yes-{intent.id}",
        )
        is_refused = right.form_submit_button(
            "Withdraw" if is_requester else "Reject",
            disabled=not (is_requester or may_approve),
            key=f"no-{intent.id}",
        )
    store, policy = open_store(workspace, decisions_only=True), read_policy(workspace, intent.release)
    if is_agreed:
        if typed_name != intent.release:
            raise UsageError(f"{typed_name or 'nothing'} was typed, not {intent.release}: nothing was done")
        demand_recent_login(reader)
        approve(store, policy, reader, intent.id)
        st.rerun()
    if is_refused:
        demand_access(reader)
        # Requesters may withdraw their own request without a recent login.
        if not is_requester:
            demand_recent_login(reader)
        cancel(store, policy, reader, intent.id, reason)
        st.rerun()


def _show_retry(workspace: Workspace, record: IntentRecord, reader: Reader) -> None:
    """Show a button that executes the hooks of a failed or unknown intent again.

    For each hook whose outcome is unknown, also show a form to state whether it was executed.
    """
    intent, rules = record.intent, read_policy(workspace, record.intent.release).promotion
    may_retry = may(rules, reader.names, PersonRole.APPROVER) and has_recent_login(reader)
    unknown = [delivery for delivery in record.deliveries if delivery.outcome.state is IntentState.UNKNOWN]
    with st.expander(f"{intent.id}: what to do next", key=f"now-{intent.id}"):
        st.caption("First check what its hooks have changed. Acknowledged hooks are not executed again.")
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
