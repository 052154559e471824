"""Promote: the conditions, what would happen, who has to agree, and how each request ended."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from markupsafe import Markup

from evaluator.errors import UnknownName
from evaluator.intents import ActionRequest, PromotionCondition, ask, list_conditions, may_ask, role_of, why_not
from evaluator.policy import Policy
from evaluator.policy.promotion import PromotionRules
from evaluator.records import Verdict, VerdictWord
from evaluator.records.intents import PROMOTING, Action, IntentState, PersonRole
from evaluator.ui.acting import Forecast, IntentRecord, read_forecast
from evaluator.ui.answer import make_answer
from evaluator.ui.cards import DANGEROUS, list_versions, show_steps
from evaluator.ui.confirming import acting, check_name, type_name
from evaluator.ui.controls import choose_release
from evaluator.ui.frame import guarded, show_empty_store
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
    show_markup,
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
from evaluator.ui.requests import OPEN, find_named_request, show_earlier_requests, show_open_requests

ACTIONS = {
    "Promote": Action.PROMOTE,
    "Hold": Action.HOLD,
    "Roll back": Action.ROLLBACK,
    "Override": Action.BREAK_GLASS,
}
MOST_SHOWN = 3
"""Conditions that are met and shown one by one; more are folded."""
DONE = {
    Action.PROMOTE: "promoted",
    Action.HOLD: "held",
    Action.ROLLBACK: "rolled back",
    Action.BREAK_GLASS: "promoted against the verdict",
}
EXPLANATIONS = {
    Action.PROMOTE: "Release the candidate to all users.",
    Action.HOLD: "Stop it where it is; waiting promotions are cancelled.",
    Action.ROLLBACK: "Take back what its promotion changed, the last hook first.",
    Action.BREAK_GLASS: "Promote against the verdict. Others have to agree, and every later report shows it.",
}


def show_promote() -> None:
    """Show the page Promote: what waits for approval, the verdict, a form to request an action, and earlier requests.

    It needs decisions only, so that a release can be held or rolled back whatever uses the data, or has become of them.
    """
    workspace = find_workspace()
    named = find_named_request(workspace)
    if named is not None and "release" not in st.query_params:
        st.query_params["release"] = named.intent.release
    names = [summary.release.id for summary in read_decided_summaries(workspace)]
    if not names:
        st.title("Promote")
        show_empty_store()
        return
    release_id = choose_release("Promote", names, names[0])
    view, reader = read_decided_release(workspace, release_id), find_reader()
    verdict = read_past_verdict(view, None)
    name_tab("Promote", release_id, verdict.word if verdict else None)
    if named is not None and named.intent.release != release_id:
        if "request" in st.query_params:  # else the reader has just chosen another release
            _show_other_request(named.intent.id, named.intent.release)
        named = None
    open_requests = show_open_requests(workspace, release_id, reader, named.intent.id if named else "")
    if verdict is None:
        problem = f"{clean(release_id)} was not judged yet, so nothing can be promoted."
        show_empty(problem, "Judge it:", workspace.command(release_id))
    else:
        judged = Markup("judged {} ({})").format(write_age(verdict.judged_at, now()), mark_up_time(verdict.judged_at))
        show(make_answer(workspace, verdict, [judged, link("release", "all of the evidence", release=release_id)]))
    guarded(lambda: _show_action(workspace, view, verdict, reader, open_requests))()
    guarded(lambda: show_earlier_requests(workspace, release_id, reader, open_requests))()


def _show_other_request(request: str, release_id: str) -> None:
    """Say that the request in the address is about another release than the one that is shown."""
    show_markup(
        '<p class="warn" role="status">The request {} is about {}: {}</p>',
        clean(request),
        clean(release_id),
        link("promote", "review request", release=release_id, request=request),
    )


def _show_action(
    workspace: Workspace,
    view: ReleaseView,
    verdict: Verdict | None,
    reader: Reader,
    open_requests: Sequence[IntentRecord],
) -> None:
    """Let the reader choose an action, and show its conditions, its effects, and the form that requests it.

    An action that was requested already, and waits or is being executed, is not offered again.
    """
    action = _choose_action(view.release.id, verdict)
    st.caption(EXPLANATIONS[action])
    for record in open_requests:
        if record.intent.action is action and record.intent.state in OPEN:
            requested = f"{clean(record.intent.requester)} has requested that already: {record.intent.id}, above."
            show_markup('<p role="status">{}</p>', requested)
            return
    policy = _read_policy(workspace, view.release.id, action)
    conditions = _list_reader_conditions(policy.promotion, reader, action)
    if verdict and action is Action.PROMOTE:
        conditions = (*list_conditions(open_store(workspace), policy, verdict), *conditions)
    _show_conditions(conditions, action)
    if not has_recent_login(reader):
        st.button("Sign in again", on_click=st.login, key="sign-in-again", type="primary")
    requester = reader.name if reader.refusal is None else ""
    forecast = read_forecast(workspace, policy, view.release.id, action, requester)
    _show_what_happens(view, policy.promotion, action, forecast)
    is_possible = all(condition.met for condition in conditions) and not forecast.problem
    # While a request waits, its card has the one primary button.
    is_primary = not any(record.intent.state is IntentState.REQUESTED for record in open_requests)
    to_nothing = any(step.returns_to_nothing for step in forecast.steps)
    _show_form(workspace, view, reader, action, is_possible=is_possible, is_primary=is_primary, to_nothing=to_nothing)


def _show_conditions(conditions: Sequence[PromotionCondition], action: Action) -> None:
    """Show the conditions of an action: those that are not met, then, folded, those that are."""
    st.header(f"Before it can be {DONE[action]}", anchor="conditions")
    unmet = [condition for condition in conditions if not condition.met]
    met = [condition for condition in conditions if condition.met]
    if unmet:
        show_list(
            Markup('<li><span class="status fail">✗ no</span> {}<span class="reason">{}</span></li>').format(
                clean(condition.description), mark_up_code(condition.remedy)
            )
            for condition in unmet
        )
    items = [
        Markup('<li><span class="status ok">✓ yes</span> {}</li>').format(clean(condition.description))
        for condition in met
    ]
    if len(met) <= MOST_SHOWN:
        show_list(items)
        return
    count = f"{len(met)} conditions are met" if unmet else f"all {len(met)} conditions are met"
    show_markup(
        '<details><summary><span class="status ok">✓</span> {}</summary><ul class="ev-list">{}</ul></details>',
        count,
        Markup("").join(items),
    )


def _read_policy(workspace: Workspace, release_id: str, action: Action) -> Policy:
    """Read the policy for an action on a release: no mistake in it stops a hold or a rollback. Raises PolicyError."""
    if action in PROMOTING:
        return read_policy(workspace, release_id)
    return read_policy_to_go_back(workspace, release_id, say=lambda text: st.warning(escape_markdown(text)))


def _choose_action(release_id: str, verdict: Verdict | None) -> Action:
    """Let the reader choose an action: a promotion needs a verdict, an override a verdict other than GO.

    The address has the choice, which is used only when the release is opened; then the control wins. Raises
    UnknownName if it names none of them, until the reader has chosen one.
    """
    is_against_verdict = verdict is not None and verdict.word is not VerdictWord.GO
    names = [name for name, action in ACTIONS.items() if action is not Action.BREAK_GLASS or is_against_verdict]
    names = [name for name in names if verdict is not None or ACTIONS[name] is not Action.PROMOTE]
    from_address = st.query_params.get("action")
    if "action" not in st.session_state or st.session_state.get("acting on") != release_id:
        st.session_state["acting on"] = release_id
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
        f"you ({reader.name}, {role_of(rules, reader.names)}) may ask for it",
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
    st.header("What would happen", anchor="changes")
    needed = rules.needed(action)
    approval = "no other person has to approve"
    if needed and rules.distinct(action):
        approval = "another person has to approve" if needed == 1 else f"{needed} other people have to approve"
    elif needed:
        who = "one person has" if needed == 1 else f"{needed} people have"
        approval = f"{who} to approve; yours counts, if you may approve"
    show_definitions([*list_versions(view.release, action), ("approval", approval)])
    if forecast.problem:
        show_empty("This action is not possible now.", forecast.problem)
    elif not forecast.steps:
        show_empty(
            "No hook is executed.",
            "The policy has no hook for this action, so it is only recorded. Add hooks under `hooks` in the policy.",
        )
    show_steps(forecast)


def _show_form(
    workspace: Workspace,
    view: ReleaseView,
    reader: Reader,
    action: Action,
    *,
    is_possible: bool,
    is_primary: bool,
    to_nothing: bool,
) -> None:
    """Show the form that requests an action; its button works only if the action `is_possible`.

    `is_primary`: is it the first button of the page? `to_nothing`: it would give users to servers that may have been
    taken down, unless the reader says that they run. A reader who may only read sees the reason instead. What is wrong
    with the request is said next to the button.
    """
    if show_refusal(reader):
        return
    release_id = view.release.id
    label = next(name for name, named_action in ACTIONS.items() if named_action is action)
    own = f"{action}-{release_id}"  # what is typed for a release is of no other, and for no other action
    with st.form(f"ask-{own}", border=True):
        reason = st.text_input("Reason, in one sentence", key=f"reason-{own}", max_chars=1000)
        typed_name = type_name(release_id, "confirm", f"typed-{own}")
        baseline_runs = to_nothing and st.checkbox(
            "The servers of the baseline run: I have looked", key=f"baseline-runs-{own}"
        )
        is_pressed = st.form_submit_button(
            label,
            type="primary" if is_primary else "secondary",
            disabled=not is_possible,
            key="danger-ask-button" if action in DANGEROUS else "ask-button",
        )
        slot = st.empty()
    if not is_possible:
        st.caption("The button works once every condition above is met.")
    if not is_pressed:
        return
    with acting(slot, "Requesting"):
        check_name(typed_name, release_id)
        demand_recent_login(reader)
        store = open_store(workspace, decisions_only=action not in PROMOTING)
        request = ActionRequest(action, release_id, reason, baseline_runs)
        intent = ask(store, _read_policy(workspace, release_id, action), reader, request)
        st.query_params["request"] = intent.id  # the page shows at its top what becomes of it
