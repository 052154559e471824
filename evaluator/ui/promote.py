"""Promote: the conditions, what would happen, who has to agree, and how each request ended."""

from __future__ import annotations

import streamlit as st
from markupsafe import Markup

from evaluator.errors import UnknownName, UsageError
from evaluator.intents import ActionRequest, PromotionCondition, ask, list_conditions, may_ask, role_of, why_not
from evaluator.policy import Policy
from evaluator.policy.promotion import PromotionRules
from evaluator.records import Verdict, VerdictWord
from evaluator.records.intents import PROMOTING, Action, PersonRole
from evaluator.ui.acting import Forecast, read_forecast
from evaluator.ui.answer import make_answer
from evaluator.ui.frame import guarded
from evaluator.ui.identity import Reader, demand_recent_login, find_reader, has_recent_login, show_refusal
from evaluator.ui.pieces import (
    clean,
    escape_markdown,
    link,
    mark_up_code,
    mark_up_time,
    name_tab,
    show,
    show_definitions,
    show_empty,
    show_list,
    write_age,
)
from evaluator.ui.reads import (
    ReleaseView,
    Workspace,
    find_workspace,
    now,
    open_store,
    read_decided_release,
    read_decided_summaries,
    read_past_verdict,
    read_policy,
    read_policy_to_go_back,
)
from evaluator.ui.release import choose_release
from evaluator.ui.requests import show_requests, show_steps

ACTIONS = {
    "Promote": Action.PROMOTE,
    "Hold": Action.HOLD,
    "Roll back": Action.ROLLBACK,
    "Override": Action.BREAK_GLASS,
}
EXPLANATIONS = {
    Action.PROMOTE: "Release the candidate to all users.",
    Action.HOLD: "Stop it where it is; waiting promotions are cancelled.",
    Action.ROLLBACK: "Take back what its promotion changed, the last hook first.",
    Action.BREAK_GLASS: "Promote against the verdict. Others have to agree, and every later report shows it.",
}


def show_promote() -> None:
    """Show the page Promote: the verdict, a form to request an action on a release, and earlier requests.

    It needs decisions only, so that a release can be held or rolled back whatever uses the data, or has become of them.
    """
    st.title("Promote")
    workspace = find_workspace()
    release_id = choose_release(read_decided_summaries(workspace))
    if release_id is None:
        return
    view, reader = read_decided_release(workspace, release_id), find_reader()
    verdict = read_past_verdict(view, None)
    name_tab("Promote", release_id, verdict.word if verdict else None)
    if verdict is None:
        problem = f"{clean(release_id)} was not judged yet, so nothing can be promoted."
        show_empty(problem, "Judge it:", workspace.command(release_id))
    else:
        judged = Markup("judged {} ({})").format(write_age(verdict.judged_at, now()), mark_up_time(verdict.judged_at))
        show(make_answer(workspace, verdict, [judged, link("release", "all of the evidence", release=release_id)]))
    guarded(lambda: _show_action(workspace, view, verdict, reader))()
    guarded(lambda: show_requests(workspace, release_id, reader))()


def _show_action(workspace: Workspace, view: ReleaseView, verdict: Verdict | None, reader: Reader) -> None:
    """Let the reader choose an action, and show its conditions, its effects, and the form that requests it."""
    action = _choose_action(verdict)
    policy = _read_policy(workspace, view.release.id, action)
    st.caption(EXPLANATIONS[action])
    conditions = _list_reader_conditions(policy.promotion, reader, action)
    if verdict and action is Action.PROMOTE:
        conditions = (*list_conditions(open_store(workspace), policy, verdict), *conditions)
    st.subheader("Conditions", anchor="conditions")
    show_list(
        Markup('<li><span class="status {}">{}</span> {}{}</li>').format(
            "ok" if condition.met else "fail",
            "✓ yes" if condition.met else "✗ no",
            clean(condition.description),
            Markup('<span class="reason">{}</span>').format(mark_up_code(condition.remedy))
            if not condition.met
            else "",
        )
        for condition in conditions
    )
    if not has_recent_login(reader):
        st.button("Sign in again", on_click=st.login, key="sign-in-again", type="primary")
    forecast = read_forecast(workspace, policy, view.release.id, action)
    _show_what_happens(view, policy.promotion, action, forecast)
    is_possible = all(condition.met for condition in conditions) and not forecast.problem
    to_nothing = any(step.returns_to_nothing for step in forecast.steps)
    _show_form(workspace, view, reader, action, is_possible=is_possible, to_nothing=to_nothing)


def _read_policy(workspace: Workspace, release_id: str, action: Action) -> Policy:
    """Read the policy for an action on a release: no mistake in it stops a hold or a rollback. Raises PolicyError."""
    if action in PROMOTING:
        return read_policy(workspace, release_id)
    return read_policy_to_go_back(workspace, release_id, say=lambda text: st.warning(escape_markdown(text)))


def _choose_action(verdict: Verdict | None) -> Action:
    """Let the reader choose an action: a promotion needs a verdict, an override a verdict other than GO.

    The address has the choice, which is used only when the page is opened; then the control wins. Raises UnknownName if
    it names none of them, until the reader has chosen one.
    """
    is_against_verdict = verdict is not None and verdict.word is not VerdictWord.GO
    names = [name for name, action in ACTIONS.items() if action is not Action.BREAK_GLASS or is_against_verdict]
    names = [name for name in names if verdict is not None or ACTIONS[name] is not Action.PROMOTE]
    from_address = st.query_params.get("action")
    if "action" not in st.session_state:
        st.session_state["action"] = (
            names[0] if from_address is None else from_address if from_address in names else None
        )
    elif st.session_state["action"] not in (*names, None):
        st.session_state["action"] = names[0]
    chosen = st.segmented_control("What to do", names, key="action", required=st.session_state["action"] is not None)
    if chosen is None and from_address not in (None, *names):
        raise UnknownName("action", clean(from_address), names, hint="choose one of these")
    chosen = chosen or names[0]
    if from_address != chosen:
        st.query_params["action"] = chosen
    return ACTIONS[chosen]


def _list_reader_conditions(rules: PromotionRules, reader: Reader, action: Action) -> tuple[PromotionCondition, ...]:
    """List the conditions on the reader: the role and, if people sign in here, a recent login.

    None for a reader who may only read, whatever the role.
    """
    if reader.refusal is not None:  # said in place of the form
        return ()
    # If others have to approve, an analyst may request it; otherwise the requester decides alone.
    role = PersonRole.ANALYST if rules.needed(action) else PersonRole.APPROVER
    has_role = PromotionCondition(
        f"you may request it: {reader.name} is {role_of(rules, reader.names)}",
        met=may_ask(rules, reader.names, action),
        otherwise=why_not(rules, reader, role, f"the action {action.label}"),
        remedy="ask a person with that role: `roles` in the policy lists them",
    )
    if reader.signed_in_at is None:
        return (has_role,)
    has_fresh_login = PromotionCondition(
        f"{reader.name} signed in within the last 15 minutes",
        met=has_recent_login(reader),
        otherwise=f"{reader.name} signed in more than 15 minutes ago",
        remedy="sign in again",
    )
    return has_role, has_fresh_login


def _show_what_happens(view: ReleaseView, rules: PromotionRules, action: Action, forecast: Forecast) -> None:
    """Show what an action would change: versions of each service, hooks in their order, and who has to approve."""
    st.subheader("What would happen", anchor="changes")
    services = [
        (service.name, f"{service.baseline or '?'} → {service.canary or '?'}") for service in view.release.services
    ]
    approvals = rules.needed(action)
    agreement = "no other person has to agree"
    if approvals:
        approvers = " of others" if rules.distinct(action) else "; yours counts, if you may approve"
        agreement = f"{approvals} approval{'s' if approvals > 1 else ''}{approvers}"
    show_definitions([*services, ("agreement", agreement)])
    if forecast.problem:
        show_empty("This action is not possible now.", forecast.problem)
    elif not forecast.steps:
        show_empty(
            "No hook is executed.",
            "The policy has no hook for this action, so it is only recorded. Add hooks under `hooks` in the policy.",
        )
    show_steps(forecast)


def _show_form(
    workspace: Workspace, view: ReleaseView, reader: Reader, action: Action, *, is_possible: bool, to_nothing: bool
) -> None:
    """Show the form that requests an action; its button works only if the action `is_possible`.

    `to_nothing`: it would give users to servers that may have been taken down, unless the reader says that they run.
    A reader who may only read sees the reason instead.
    Raises UsageError if the name that the reader typed is not that of the release, or the login is too old.
    """
    if show_refusal(reader):
        return
    release_id = view.release.id
    with st.form("ask", border=True):
        reason = st.text_input("Reason, in one sentence", key="reason", max_chars=1000)
        typed_name = st.text_input("Type the release's name to confirm", key="typed", max_chars=300).strip()
        baseline_runs = to_nothing and st.checkbox(
            "The servers of the baseline run: I have looked", key="baseline-runs"
        )
        label = next(name for name, named_action in ACTIONS.items() if named_action is action)
        is_pressed = st.form_submit_button(label, type="primary", disabled=not is_possible, key="ask-button")
    if not is_possible:
        st.caption("The button works once every condition above is met.")
    if not is_pressed:
        return
    if typed_name != release_id:
        raise UsageError(f"{typed_name or 'nothing'} was typed, not {release_id}: nothing was done")
    demand_recent_login(reader)
    store = open_store(workspace, decisions_only=action not in PROMOTING)
    request = ActionRequest(action, release_id, reason, baseline_runs)
    ask(store, _read_policy(workspace, release_id, action), reader, request)
    st.rerun()
