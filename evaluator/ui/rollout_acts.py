"""What a reader may do about a rollout: answer what it asks, hold it, let it continue, and turn it back."""

from __future__ import annotations

import streamlit as st
from markupsafe import Markup

from evaluator.intents import ActionRequest, ask, describe_rollout_stop, may, may_ask, why_not
from evaluator.policy import Policy
from evaluator.records.intents import Action, PersonRole
from evaluator.rollout.status import RolloutStatus
from evaluator.ui.confirming import acting, check_name, type_name
from evaluator.ui.identity import Reader, demand_recent_login, has_recent_login, show_refusal
from evaluator.ui.pieces import escape_markdown, mark_up_code, show_list
from evaluator.ui.reads import Workspace, open_store, read_policy_to_go_back
from evaluator.ui.requests import show_step_requests

CONTINUE = "The rollout goes on: its shares may rise again as soon as its current step has shown what it needs."


def show_acts(workspace: Workspace, status: RolloutStatus, reader: Reader) -> None:
    """Show what a rollout asks, and the form that holds, continues or turns it back; nothing once it has ended.

    A reader who may only read sees no form.
    """
    if status.has_ended:
        return
    st.header("What people can do", anchor="act")
    rollout, progress = status.rollout, status.progress
    with st.container():  # the form below stays where it is, with what was typed, when requests come and go
        show_step_requests(workspace, rollout.id, rollout.release, reader)
    if show_refusal(reader):
        return
    if progress is not None and progress.going_back:
        st.caption("It goes back to the baseline, and no agreement is needed for that.")
        return
    if not has_recent_login(reader):
        st.button("Sign in again", on_click=st.login, key="sign-in-again", type="primary")
    _show_form(workspace, status, reader)


def _show_form(workspace: Workspace, status: RolloutStatus, reader: Reader) -> None:
    """Show the form that holds a rollout or, if it is held, lets it continue, and the one button that turns it back.

    What is wrong with it is said next to the buttons.
    """
    release, progress = status.rollout.release, status.progress
    store = open_store(workspace, decisions_only=True)
    policy = read_policy_to_go_back(workspace, release, say=lambda text: st.warning(escape_markdown(text)))
    is_held = progress is not None and progress.held
    effects = [("Roll back", describe_rollout_stop(store, Action.ROLLBACK, release))]
    if is_held and not status.is_driver_gone:  # without a driver, the command of the banner continues it
        effects.insert(0, ("Continue", CONTINUE))
    elif not is_held and progress is not None:
        effects.insert(0, ("Hold", describe_rollout_stop(store, Action.HOLD, release)))
    show_list(
        Markup("<li><strong>{}</strong> {}</li>").format(name, mark_up_code(text[:1].upper() + text[1:]))
        for name, text in effects
    )
    own = status.rollout.id  # what is typed for a rollout is of no other
    with st.form(f"act-on-{own}", border=True):
        reason = st.text_input("Reason, in one sentence", key=f"reason-{own}", max_chars=1000)
        typed_name = type_name(release, "confirm", f"typed-{own}")
        pressed = ""
        buttons = st.container(horizontal=True)
        for name, _ in effects:
            refusal = explain_why_not(policy, reader, name)
            if buttons.form_submit_button(
                name,
                type="primary" if name == "Roll back" else "secondary",
                disabled=bool(refusal),
                key=f"danger-do-{name}" if name == "Roll back" else f"do-{name}",
            ):
                pressed = name
        slot = st.empty()
    for refusal in dict.fromkeys(explain_why_not(policy, reader, name) for name, _ in effects):
        if refusal:
            st.caption(escape_markdown(f"{refusal}."))
    if not pressed:
        return
    with acting(slot, {"Hold": "Holding", "Continue": "Continuing"}.get(pressed, "Rolling back")):
        check_name(typed_name, release)
        demand_recent_login(reader)
        _act(workspace, status, policy, reader, pressed, reason)


def explain_why_not(policy: Policy, reader: Reader, name: str) -> str:
    """Say why a reader may not press the button with this name; empty if the reader may."""
    rules = policy.promotion
    if not has_recent_login(reader):
        return "Holding, continuing and rolling back need a login of the last 15 minutes"
    if name == "Continue":
        is_allowed, role, activity = may(rules, reader.names, PersonRole.APPROVER), PersonRole.APPROVER, "continuing"
    else:
        action = Action.HOLD if name == "Hold" else Action.ROLLBACK
        is_allowed, activity = may_ask(rules, reader.names, action), "a hold" if name == "Hold" else "a rollback"
        role = PersonRole.ANALYST if rules.needed(action) or action is Action.HOLD else PersonRole.APPROVER
    return "" if is_allowed else why_not(rules, reader, role, activity)


def _act(workspace: Workspace, status: RolloutStatus, policy: Policy, reader: Reader, name: str, reason: str) -> None:
    """Do what the button with this name says. Raises Refused, UsageError."""
    store = open_store(workspace, decisions_only=True)
    if name == "Continue":
        from evaluator.rollout.starting import continue_held

        continue_held(store, status.rollout, policy.promotion, reader, reason)
        return
    action = Action.HOLD if name == "Hold" else Action.ROLLBACK
    ask(store, policy, reader, ActionRequest(action, status.rollout.release, reason))
