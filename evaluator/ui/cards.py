"""The card of a request: who asks for what and why, until when, what would happen, and the button that approves it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import streamlit as st
from markupsafe import Markup

from evaluator.errors import StoreError
from evaluator.intents import (
    PromotionCondition,
    approve,
    cancel,
    describe_ask,
    describe_missing,
    list_conditions,
    may,
    why_not,
)
from evaluator.policy import Policy
from evaluator.records import Release, Verdict
from evaluator.records.intents import (
    FINAL_STATES,
    Action,
    Delivery,
    Intent,
    IntentState,
    PersonRole,
    are_same_person,
)
from evaluator.ui.acting import Forecast, IntentRecord, read_request_forecast
from evaluator.ui.confirming import acting, check_name, type_name
from evaluator.ui.frame import guarded
from evaluator.ui.identity import Reader, demand_access, demand_recent_login, has_recent_login, show_refusal
from evaluator.ui.pieces import (
    clean,
    escape_markdown,
    link,
    mark_up_code,
    mark_up_time,
    mark_up_verdict,
    show,
    show_markup,
    write_age,
    write_until,
)
from evaluator.ui.reads import (
    Workspace,
    now,
    open_store,
    read_decided_release,
    read_past_verdict,
    read_policy,
)

MARKS = {
    IntentState.ACKNOWLEDGED: ("ok", "✓ done"),
    IntentState.FAILED: ("fail", "✗ failed"),
    IntentState.UNKNOWN: ("warn", "? unknown"),
    IntentState.REQUESTED: ("warn", "… waits for approval"),
    IntentState.APPROVED: ("warn", "… approved, is executed within seconds"),
    IntentState.SENT: ("warn", "… is being executed"),
    IntentState.EXPIRED: ("muted", "∅ expired"),
    IntentState.CANCELLED: ("muted", "∅ turned down"),
}
HOOK_MARKS = {**MARKS, IntentState.SENT: ("warn", "… sent"), IntentState.REQUESTED: ("warn", "… to be sent again")}
DANGEROUS = (Action.ROLLBACK, Action.BREAK_GLASS)
"""Actions whose button is red."""
LONGEST_LINE = 200
"""Characters of what a hook answered."""


def show_card(workspace: Workspace, record: IntentRecord, reader: Reader) -> None:
    """Show the card of a request that waits, with the forms to approve it and to turn it down."""
    intent = record.intent
    with st.container(border=True, key=f"card-{intent.id}"):
        policy = read_policy(workspace, intent.release)
        view = read_decided_release(workspace, intent.release)
        verdict = read_past_verdict(view, None)
        show(_make_head(record, view.release, verdict))
        guarded(lambda: _show_effects(workspace, policy, intent, verdict))()
        if not show_refusal(reader):
            guarded(lambda: _show_forms(workspace, policy, record, reader))()


def make_status(record: IntentRecord) -> Markup:
    """Make the card of a request that does not wait: what becomes of it, or became of it."""
    return Markup('<section class="ev-card">{}</section>').format(make_item(record, tag="div"))


def _make_head(record: IntentRecord, release: Release, verdict: Verdict | None) -> Markup:
    """Make the begin of the card: who asks for what, why, until when, and who has to approve.

    `verdict`: the newest of the release.
    """
    intent = record.intent
    facts: list[tuple[str, object]] = [
        ("why", clean(intent.reason)),
        (
            "until",
            Markup("{} ({})").format(mark_up_time(intent.expires_at), write_until(intent.expires_at, now())),
        ),
        ("approval", _describe_approvers(record)),
        (
            "asked",
            Markup("{} ({}), {}").format(
                write_age(intent.requested_at, now()), mark_up_time(intent.requested_at), intent.id
            ),
        ),
    ]
    if versions := list_versions(release, intent.action):
        facts.append(("versions", ", ".join(clean(f"{name} {change}".strip()) for name, change in versions)))
    if verdict is not None:
        evidence = link("release", "all of the evidence", release=intent.release)
        judged = write_age(verdict.judged_at, now())
        facts.append(("verdict", Markup("{} judged {}, {}").format(mark_up_verdict(verdict.word), judged, evidence)))
    rows = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(name, value) for name, value in facts)
    return Markup('<section class="ev-card" id="{}"><h2>{}. Approve?</h2><dl class="ev-dl">{}</dl></section>').format(
        intent.id, clean(describe_ask(intent)), rows
    )


def list_versions(release: Release, action: Action) -> list[tuple[str, str]]:
    """List which version users get instead of which one, for each service by its name; a hold changes none."""
    if action is Action.HOLD:
        return []
    known = [(service.name, (service.baseline or "?", service.canary or "?")) for service in release.services]
    order = -1 if action is Action.ROLLBACK else 1
    return [(name, " → ".join(versions[::order])) for name, versions in known]


def _describe_approvers(record: IntentRecord) -> str:
    """Say who still has to approve, and who has."""
    approvers = ", ".join(clean(approval.person) for approval in record.approvals)
    missing = clean(describe_missing(record.intent, record.approvals))
    return f"{missing}; {approvers} approved" if approvers else missing


def _show_effects(workspace: Workspace, policy: Policy, intent: Intent, verdict: Verdict | None) -> None:
    """Show what a request would do, and what stands against it now."""
    forecast = read_request_forecast(workspace, policy, intent)
    if forecast.problem:
        show_markup(
            '<p class="fail" role="alert"><strong>It cannot be executed:</strong> {}</p>', clean(forecast.problem)
        )
    elif intent.action is Action.PROMOTE and verdict is not None:
        _show_unmet(lambda: list_conditions(open_store(workspace), policy, verdict))
    if forecast.steps:
        show_markup('<p class="ev-label">What would happen</p>')
        show_steps(forecast)
    elif not intent.is_question and not forecast.problem:
        show_markup('<p class="muted">No hook is executed: it is only recorded.</p>')
    for sentence in forecast.consequences:
        show_markup('<p class="muted">{}.</p>', clean(sentence[:1].upper() + sentence[1:]))


def _show_unmet(list_now: Callable[[], Iterable[PromotionCondition]]) -> None:
    """Show which conditions of a promotion are not met now: it would be refused. Nothing if all are met."""
    try:
        unmet = [condition for condition in list_now() if not condition.met]
    except StoreError as error:  # the data are being written: whoever approves can do so, and it is checked again
        show_markup('<p class="warn">Whether it may be promoted cannot be read now: {}</p>', clean(error.message))
        return
    for condition in unmet:
        show_markup(
            '<p class="fail"><strong>It would be refused now: {}.</strong> {}</p>',
            clean(condition.description),
            mark_up_code(condition.remedy),
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


# ------------------------------------------------------------------ in a list


def make_item(record: IntentRecord, tag: str = "li") -> Markup:
    """Make the list item of an intent: its action, state, requester and reason, then its hooks in their order."""
    intent = record.intent
    css_class, mark = MARKS[intent.state]
    deliveries = sorted(record.deliveries, key=lambda delivery: delivery.position)
    hooks = Markup("").join(_make_hook_item(delivery) for delivery in deliveries)
    return Markup(
        '<{tag} id="{}"><strong>{}</strong> <span class="status {}">{}</span>'
        '<span class="reason">{} by {} {}: {}</span>{}{}</{tag}>'
    ).format(
        intent.id,
        clean(f"{intent.label} {intent.release}"),
        css_class,
        mark,
        intent.id,
        clean(intent.requester),
        mark_up_time(intent.requested_at),
        clean(intent.reason),
        _describe_approvals(record),
        Markup("<ol>{}</ol>").format(hooks) if hooks else "",
        tag=Markup(tag),  # noqa: S704 the pages' own text
    )


def _describe_approvals(record: IntentRecord) -> Markup:
    """Say which approvals an intent waits for and until when, or who approved it and, if it has ended, how it ended."""
    intent, approvers = record.intent, ", ".join(clean(approval.person) for approval in record.approvals)
    if intent.state is IntentState.REQUESTED:
        until = mark_up_time(intent.expires_at)
        return Markup('<span class="reason">{}, until {}</span>').format(_describe_approvers(record), until)
    approved = f"approved by {approvers}" if approvers else ""
    ending = clean(record.latest_text) if intent.state in FINAL_STATES else ""
    text = "; ".join(filter(None, (approved, ending)))
    return Markup('<span class="reason">{}</span>').format(text) if text else Markup("")


def _make_hook_item(delivery: Delivery) -> Markup:
    """Make the list item of a hook: its event and name, its state, what became of it, and the end of its answer."""
    css_class, mark = HOOK_MARKS[delivery.outcome.state]
    tries = f", {delivery.attempts} attempts" if delivery.attempts > 1 else ""
    lines = [line for line in delivery.outcome.response.splitlines() if line.strip()]
    answer = f": {lines[-1].strip()[:LONGEST_LINE]}" if lines else ""
    return Markup('<li>{}: {} <span class="status {}">{}</span>{}<span class="reason">{}</span></li>').format(
        clean(delivery.event), clean(delivery.hook), css_class, mark, tries, clean(f"{delivery.outcome.text}{answer}")
    )


# ------------------------------------------------------------------ approving, turning down


def _show_forms(workspace: Workspace, policy: Policy, record: IntentRecord, reader: Reader) -> None:
    """Show the form that approves a request, and the one that turns it down (withdraws it, for the requester)."""
    intent, rules = record.intent, policy.promotion
    may_approve = may(rules, reader.names, PersonRole.APPROVER)
    is_requester = are_same_person(reader.names, (*intent.requester_names, intent.requester))
    has_approved = any(are_same_person(reader.names, (*each.names, each.person)) for each in record.approvals)
    problem = ""
    if has_approved:
        problem = "You have approved it; it waits for the approval of others."
    elif is_requester and intent.distinct:
        problem = "This is your own request: others have to approve it."
    elif not may_approve:
        problem = f"{why_not(rules, reader, PersonRole.APPROVER, 'approving')}."
    elif not has_recent_login(reader):
        problem = "Approving needs a login of the last 15 minutes."
    with st.form(f"agree-{intent.id}", border=False):
        typed_name = type_name(intent.release, "approve", f"typed-{intent.id}")
        is_approved = st.form_submit_button(
            "Approve",
            type="primary",
            disabled=bool(problem),
            key=f"{'danger-' if intent.action in DANGEROUS else ''}yes-{intent.id}",
        )
        slot = st.empty()
    if problem:
        st.caption(escape_markdown(problem))
    if not has_recent_login(reader):
        st.button("Sign in again", on_click=st.login, key=f"sign-in-again-{intent.id}", type="primary")
    if is_approved:
        with acting(slot, "Approving"):
            check_name(typed_name, intent.release)
            demand_recent_login(reader)
            approve(open_store(workspace, decisions_only=True), policy, reader, intent.id)
            st.query_params["request"] = intent.id  # the page shows at its top what becomes of it
    _show_turning_down(
        workspace, policy, intent, reader, is_requester=is_requester,
        is_possible=is_requester or (may_approve and has_recent_login(reader)),
    )  # fmt: skip


def _show_turning_down(
    workspace: Workspace, policy: Policy, intent: Intent, reader: Reader, *, is_requester: bool, is_possible: bool
) -> None:
    """Show the form that turns a request down; its requester, who withdraws it, needs no recent login."""
    label, title = ("Withdraw", "Withdraw it") if is_requester else ("Reject", "Turn it down")
    with (
        st.expander(title, key=f"turn-down-{intent.id}"),
        st.form(f"reject-{intent.id}", border=False),
    ):
        reason = st.text_input("Reason for turning it down", key=f"why-{intent.id}", max_chars=300)
        is_refused = st.form_submit_button(label, disabled=not is_possible, key=f"no-{intent.id}")
        slot = st.empty()
    if is_refused:
        with acting(slot, "Turning it down"):
            demand_access(reader)
            if not is_requester:
                demand_recent_login(reader)
            cancel(open_store(workspace, decisions_only=True), policy, reader, intent.id, reason)
            st.query_params["request"] = intent.id
