"""Who may ask for what, on which grounds, and who has to agree."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from stored import edit_decisions

from evaluator.errors import Refused, UnknownName, UsageError
from evaluator.intents import (
    approve,
    ask,
    cancel,
    execute,
    list_conditions,
    role_of,
    system_person,
    write_note,
)
from evaluator.intents.asking import find_promoted
from evaluator.records import RunState
from evaluator.records.intents import Action, IntentState, PersonRole
from evaluator.store.control_file import to_text

ROLES = "roles: {analyst: [ana], approver: [bob, cleo, 'group:sre'], admin: ada}\n"


def hooks(script, extra=""):
    return f"{ROLES}hooks:\n  promote:\n    - {script('promoted')}\n{extra}"


def test_without_roles_accounts_of_the_machine_may_do_everything_and_a_login_reads(policy, person):
    rules = policy().promotion
    assert role_of(rules, system_person().names) is PersonRole.ADMIN
    assert role_of(rules, person("ann@example.org", "group:sre").names) is PersonRole.VIEWER


def test_roles_are_held_by_any_name_and_the_highest_counts(policy, person):
    rules = policy("roles: {analyst: '*', approver: ['group:sre'], admin: []}").promotion
    assert role_of(rules, person("eve").names) is PersonRole.ANALYST
    assert role_of(rules, person("eve", "group:sre").names) is PersonRole.APPROVER
    assert role_of(rules, system_person().names) is PersonRole.ANALYST


@pytest.mark.parametrize(
    ("who", "action", "says"),
    [
        ("vic", "promote", "vic is a viewer, and promoting needs an analyst"),
        ("vic", "hold", "holding needs an approver|vic is a viewer"),
        ("ana", "rollback", "ana is an analyst, and rolling back needs an approver"),
    ],
)
def test_a_request_without_permission_is_refused_and_recorded(
    store, policy, person, action_request, script, who, action, says
):
    with pytest.raises(Refused, match=says):
        ask(store, policy(hooks(script)), person(who), action_request(action))
    assert store.control.intents() == ()
    *judged, refused = store.control.audit()
    assert {row.event for row in judged} == {"judged"}
    assert (refused.actor, refused.event) == (who, "refused")


def test_a_requester_who_may_approve_has_agreed_where_one_is_needed(store, policy, person, action_request, script):
    assert ask(store, policy(hooks(script)), person("bob"), action_request()).state is IntentState.APPROVED


def test_an_analyst_waits_for_an_approver(store, policy, person, action_request, script):
    rules = policy(hooks(script))
    intent = ask(store, rules, person("ana"), action_request())
    assert intent.state is IntentState.REQUESTED
    with pytest.raises(Refused, match="ana is an analyst, and approving needs an approver"):
        approve(store, rules, person("ana"), intent.id)
    assert approve(store, rules, person("zoe", "group:sre"), intent.id).state is IntentState.APPROVED


@pytest.mark.parametrize("text", ["sensitive: true\n", "approvals: {promote: 2}\n"])
def test_two_other_people_where_it_is_sensitive_or_two_are_needed(store, policy, person, action_request, script, text):
    rules = policy(hooks(script, text))
    intent = ask(store, rules, person("bob"), action_request())
    with pytest.raises(UsageError, match="bob requested i1 and cannot approve it too"):
        approve(store, rules, person("bob"), intent.id)
    assert approve(store, rules, person("cleo"), intent.id).state is IntentState.REQUESTED
    assert approve(store, rules, person("ada"), intent.id).state is IntentState.APPROVED


def test_no_person_approves_their_own_request_where_the_policy_forbids_it(
    store, policy, person, action_request, script
):
    rules = policy(hooks(script, "approvals: {self_approval: false}\n"))
    intent = ask(store, rules, person("bob"), action_request())
    assert intent.state is IntentState.REQUESTED
    with pytest.raises(UsageError, match="cannot approve it too"):
        approve(store, rules, person("bob"), intent.id)
    assert approve(store, rules, person("cleo"), intent.id).state is IntentState.APPROVED


def test_a_no_go_is_promoted_by_an_override_only(store, policy, person, action_request, script):
    rules = policy(hooks(script))
    with pytest.raises(Refused, match=r"cart@1.6.0 is not promoted: the verdict is NO-GO") as caught:
        ask(store, rules, person("bob"), action_request(release="cart@1.6.0"))
    assert caught.value.exit_code == 1
    intent = ask(store, rules, person("bob"), action_request("break_glass", "cart@1.6.0", "the old one is on fire"))
    assert (intent.approvals_needed, intent.distinct, intent.state) == (2, True, IntentState.REQUESTED)


def test_a_go_needs_no_override(store, policy, person, action_request, script):
    with pytest.raises(Refused, match="it needs no override"):
        ask(store, policy(hooks(script)), person("bob"), action_request("break_glass"))


def test_every_promotion_against_a_verdict_is_on_that_verdict_for_ever(store, policy, person, action_request, script):
    from evaluator.pipeline.judging import judge_release

    rules = policy(hooks(script))
    intent = ask(store, rules, person("bob"), action_request("break_glass", "cart@1.6.0", "the old one is on fire"))
    assert store.control.verdicts("cart@1.6.0")[-1].override is None
    approve(store, rules, person("cleo"), intent.id)
    approve(store, rules, person("ada"), intent.id)
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    override = store.control.verdicts("cart@1.6.0")[-1].override
    assert (override["by"], override["approved by"]) == ("bob", "ada, cleo")
    assert override["reason"] == "the old one is on fire"
    assert store.control.verdicts("cart@1.9.0")[-1].override is None
    again = judge_release(store, "cart@1.6.0", rules, judged_at=datetime.now(UTC))
    assert again.override == override


def test_grounds_that_do_not_hold_refuse_a_promotion(store, policy, person, action_request, script):
    with pytest.raises(Refused, match="the policy names no hooks that promote"):
        ask(store, policy(ROLES), person("bob"), action_request())
    with pytest.raises(Refused, match="the policy is not the one that judged"):
        ask(store, policy(hooks(script, "alpha: 0.01\n")), person("bob"), action_request())
    with pytest.raises(Refused, match=r"it was judged .* ago"):
        ask(store, policy(hooks(script, "approvals: {max_age: 1ms}\n")), person("bob"), action_request())
    with pytest.raises(UnknownName, match="did you mean"):
        ask(store, policy(hooks(script)), person("bob"), action_request(release="cart@1.9.1"))


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.COMPLETE])
def test_newer_data_refuse_a_promotion(store, policy, person, action_request, script, state):
    run = store.data.runs("cart@1.9.0")[0]
    newer = replace(run, id="later-0", group="later", state=RunState.RUNNING, landed=0)
    store.data.register_run(store.control.release("cart@1.9.0"), newer)
    if state is RunState.COMPLETE:
        store.data.finish_run("later-0", state=state, ended=run.ended, facts=run.facts)
    with pytest.raises(Refused, match=r"a run is still being recorded|there are newer"):
        ask(store, policy(hooks(script)), person("bob"), action_request())


@pytest.mark.parametrize("reason", ["", "  \n", "x" * 1001])
def test_a_reason_is_required(store, policy, person, action_request, script, reason):
    with pytest.raises(UsageError, match="the reason"):
        ask(store, policy(hooks(script)), person("bob"), action_request(reason=reason))


def test_a_double_click_and_two_analysts_make_one_intent(store, policy, person, action_request, script):
    import threading

    rules, intents = policy(hooks(script)), []
    threads = [
        threading.Thread(target=lambda who=who: intents.append(ask(store, rules, person(who), action_request())))
        for who in ("ana", "bob", "cleo", "ana")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({intent.id for intent in intents}) == 1
    assert len(store.control.intents()) == 1


def test_a_hold_cancels_what_waits_and_a_promotion_afterwards_is_new(
    store, policy, person, action_request, script, judge_again
):
    rules = policy(hooks(script))
    first = ask(store, rules, person("ana"), action_request())
    held = ask(store, rules, person("ana"), action_request("hold", reason="support reports odd carts"))
    assert held.state is IntentState.APPROVED
    assert store.control.intent(first.id).state is IntentState.CANCELLED
    assert execute(store, lambda _: rules, held.id, "w").state is IntentState.ACKNOWLEDGED
    judge_again()
    assert ask(store, rules, person("ana"), action_request()).id not in {first.id, held.id}


def test_a_request_is_withdrawn_by_its_requester_and_rejected_by_an_approver(
    store, policy, person, action_request, script
):
    rules = policy(hooks(script))
    intent = ask(store, rules, person("ana"), action_request())
    with pytest.raises(Refused, match="vic is a viewer, and rejecting"):
        cancel(store, rules, person("vic"), intent.id, "no")
    assert cancel(store, rules, person("ana"), intent.id, "too early").state is IntentState.CANCELLED
    with pytest.raises(UsageError, match="is cancelled, so there is nothing to cancel"):
        cancel(store, rules, person("bob"), intent.id, "no")


def test_what_was_changed_since_the_request_is_not_approved(store, policy, person, action_request, script):
    intent = ask(store, policy(hooks(script)), person("ana"), action_request())
    changed = policy(f"{ROLES}hooks:\n  promote:\n    - {script('something-else')}\n")
    with pytest.raises(Refused, match="i1: the policy's hooks or approvals have changed"):
        approve(store, changed, person("bob"), intent.id)


def test_a_rollback_of_nothing_is_refused(store, policy, person, action_request, script):
    with pytest.raises(Refused, match=r"there is nothing to roll back for cart@1.9.0: no promotion"):
        ask(store, policy(hooks(script)), person("bob"), action_request("rollback"))


def test_a_rollback_of_what_only_waits_names_the_command_that_stops_it(store, policy, person, action_request, script):
    rules = policy(hooks(script))
    ask(store, rules, person("ana"), action_request())
    with pytest.raises(Refused, match="there is nothing to roll back") as caught:
        ask(store, rules, person("bob"), action_request("rollback"))
    assert caught.value.hint == "cancel the promotion that waits: `evaluator hold cart@1.9.0`"


def test_a_second_rollback_is_refused_because_of_the_first(store, policy, person, action_request, script):
    rules = policy(f"{ROLES}hooks: {{promote: [{script('promoted', undo='back')}]}}\n")
    for action in ("promote", "rollback"):
        execute(store, lambda _: rules, ask(store, rules, person("bob"), action_request(action)).id, "w")
    with pytest.raises(Refused, match=r"nothing to roll back for cart@1.9.0: bob rolled it back at .* UTC \(i2\)"):
        ask(store, rules, person("bob"), action_request("rollback"))


def test_a_rollback_that_failed_is_executed_again_when_it_is_requested_again(
    store, policy, person, action_request, tmp_path, lines, script
):
    """The cause may be gone: whoever types it again must not read the old failure while traffic stays."""
    fixed = tmp_path / "fixed"
    undo = f"{{command: {{run: [sh, -c, 'true'], undo: [sh, -c, 'test -e {fixed}']}}}}"
    rules = policy(f"{ROLES}hooks: {{promote: [{undo}, {script('promoted', undo='back')}]}}\n")
    execute(store, lambda _: rules, ask(store, rules, person("bob"), action_request()).id, "w")
    first = ask(store, rules, person("bob"), action_request("rollback"))
    assert execute(store, lambda _: rules, first.id, "w").state is IntentState.FAILED
    fixed.touch()
    again = ask(store, rules, person("bob"), action_request("rollback"))
    assert (again.id, again.state) == (first.id, IntentState.APPROVED)
    assert execute(store, lambda _: rules, again.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines() == ["promoted", "back"], "what was undone is not undone again"


def test_two_people_request_a_failed_rollback_again_at_once(store, policy, person, action_request, monkeypatch):
    undo = "{command: {run: [sh, -c, 'true'], undo: [sh, -c, 'false']}}"
    rules = policy(f"{ROLES}hooks: {{promote: [{undo}]}}\n")
    for action in ("promote", "rollback"):
        execute(store, lambda _: rules, ask(store, rules, person("bob"), action_request(action)).id, "w")
    reopen = type(store.control).reopen

    def reopen_twice(control, *arguments):
        reopen(control, *arguments)
        return reopen(control, *arguments)  # this one is too late

    monkeypatch.setattr(type(store.control), "reopen", reopen_twice)
    assert ask(store, rules, person("bob"), action_request("rollback")).state is IntentState.APPROVED


def test_what_was_promoted_later_goes_back_first(store, policy, person, action_request, script):
    rules = policy(f"{ROLES}hooks: {{promote: [{script('promoted', undo='back')}]}}\n")
    first = ask(store, rules, person("bob"), action_request())
    execute(store, lambda _: rules, first.id, "w")
    glass = ask(store, rules, person("bob"), action_request("break_glass", "cart@1.6.0"))
    for who in ("cleo", "ada"):
        approve(store, rules, person(who), glass.id)
    execute(store, lambda _: rules, glass.id, "w")
    with pytest.raises(Refused, match=r"cart@1.6.0 was promoted after cart@1.9.0"):
        ask(store, rules, person("bob"), action_request("rollback"))
    back = ask(store, rules, person("bob"), action_request("rollback", "cart@1.6.0"))
    execute(store, lambda _: rules, back.id, "w")
    assert find_promoted(store, "cart@1.6.0") == ()
    assert ask(store, rules, person("bob"), action_request("rollback")).undoes == (first.id,)


def test_what_is_not_executed_in_time_expires(store, policy, person, action_request, script):
    rules = policy(hooks(script, "approvals: {expires: 1ms}\n"))
    intent = ask(store, rules, person("ana"), action_request())
    with pytest.raises(UsageError, match="has expired"):
        approve(store, rules, person("bob"), intent.id)
    store.control.expire(datetime.now(UTC) + timedelta(seconds=1))
    assert store.control.intent(intent.id).state is IntentState.EXPIRED
    assert ask(store, rules, person("ana"), action_request()).id != intent.id


def test_actions_have_words_of_their_own():
    assert {action.label for action in Action} == {"promote", "hold", "rollback", "override", "rollout step"}


# ------------------------------------------------------------------ one person, several names


def test_one_person_under_two_names_is_one_person(store, policy, person, action_request, script):
    rules = policy(hooks(script, "approvals: {promote: 2}\n").replace("cleo,", "u-7, 'bob@example.org', cleo,"))
    intent = ask(store, rules, person("bob@example.org", "u-7"), action_request())
    with pytest.raises(UsageError, match="u-7 requested i1 and cannot approve it too"):
        approve(store, rules, person("u-7"), intent.id)
    assert approve(store, rules, person("cleo", "u-8"), intent.id).state is IntentState.REQUESTED
    assert approve(store, rules, person("u-8", "group:sre"), intent.id).state is IntentState.REQUESTED
    assert [approval.person for approval in store.control.approvals(intent.id)] == ["cleo"]
    assert store.control.audit()[-1].event == "repeated"
    # Members of one group are not one person.
    assert approve(store, rules, person("u-9", "group:sre"), intent.id).state is IntentState.APPROVED


def test_a_requester_under_another_name_has_not_agreed_when_it_is_executed(
    store, policy, person, action_request, script, lines
):
    rules = policy(hooks(script, "approvals: {self_approval: false}\n"))
    intent = ask(store, rules, person("bob", "u-7"), action_request())
    now = to_text(datetime.now(UTC))
    edit_decisions(store, "INSERT INTO approvals VALUES ('i1', 'cleo', ?, '[\"cleo\", \"u-7\"]')", now)
    edit_decisions(store, "UPDATE intents SET state = 'approved'")
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.FAILED
    assert "0 of 1 approvals are valid" in store.control.audit()[-1].text
    assert lines() == []


# ------------------------------------------------------------------ what people write


def test_controls_and_halves_of_characters_are_not_kept(store, policy, person, action_request, script):
    rules = policy(hooks(script))
    intent = ask(store, rules, person("ana"), action_request(reason="all\x00 is \x1b[31m\n well \udcff"))
    assert intent.reason == "all is [31m well"
    assert cancel(store, rules, person("ana"), intent.id, "\x07no\udcff").state is IntentState.CANCELLED
    row = write_note(
        store, rules, person("ana"), intent.release, "slow\x00 disk\udcff\nsecond \U0001f9d1\u200d\U0001f52c"
    )
    assert row.text == "slow  disk \nsecond \U0001f9d1\u200d\U0001f52c"
    assert store.control.verify_audit() == row.hash


def test_long_reasons_are_refused_wherever_one_is_given(store, policy, person, action_request, script):
    rules = policy(hooks(script))
    intent = ask(store, rules, person("ana"), action_request())
    with pytest.raises(UsageError, match="more than 1000 characters"):
        cancel(store, rules, person("ana"), intent.id, "x" * 1001)
    with pytest.raises(UsageError, match="more than 2000 characters"):
        write_note(store, rules, person("ana"), intent.release, "x" * 2001)


def test_a_viewer_writes_no_notes_and_no_note_is_empty(store, policy, person, script):
    rules = policy(hooks(script))
    with pytest.raises(Refused, match="vic is a viewer, and writing notes needs an analyst"):
        write_note(store, rules, person("vic"), "cart@1.9.0", "fine")
    with pytest.raises(UsageError, match="the note is empty"):
        write_note(store, rules, person("ana"), "cart@1.9.0", " \n")
    with pytest.raises(UnknownName):
        write_note(store, rules, person("ana"), "cart@9", "fine")


# ------------------------------------------------------------------ clocks


def test_a_verdict_of_the_future_promotes_nothing(store, policy, script):
    from evaluator.intents import find_latest
    from evaluator.reports import read_stored

    rules, latest = policy(hooks(script)), read_stored(find_latest(store, "cart@1.9.0"))
    later = replace(latest, judged_at=datetime.now(UTC) + timedelta(hours=2))
    unmet = [condition.description for condition in list_conditions(store, rules, later) if not condition.met]
    assert len(unmet) == 1
    assert unmet[0].startswith("it was judged 2 h from now: the clock was set back") or "from now" in unmet[0]


# ------------------------------------------------------------------ what is kept of a request


def test_a_request_rests_on_the_verdict_its_data_and_the_policy(store, policy, person, action_request, script):
    from evaluator.intents.checking import hash_verdict

    rules = policy(hooks(script, "approvals: {expires: 90m}\n"))
    before = datetime.now(UTC)
    intent = ask(store, rules, person("ana", "ana@example.org"), action_request(reason="  all\n is\twell "))
    latest = store.control.verdicts("cart@1.9.0")[-1]
    assert (intent.id, intent.requester, intent.requester_names) == ("i1", "ana", ("ana", "ana@example.org"))
    assert (intent.action, intent.release, intent.reason) == (Action.PROMOTE, "cart@1.9.0", "all is well")
    assert (intent.verdict_hash, intent.data_hash) == (hash_verdict(latest), latest.data_hash)
    assert (intent.policy_hash, intent.hooks_hash) == (rules.hash, rules.promotion.hash)
    assert intent.expires_at - intent.requested_at == timedelta(minutes=90)
    assert timedelta(0) <= intent.requested_at - before < timedelta(seconds=30)
    assert (intent.undoes, intent.claimed_by) == ((), "")


def test_what_was_never_judged_is_not_promoted(store, policy, person, action_request, script):
    from evaluator.records import Release

    run = replace(store.data.runs("cart@1.9.0")[0], id="new-0", release="cart@3", group="new", landed=0)
    store.data.register_run(Release("cart@3"), run)
    with pytest.raises(Refused, match="cart@3 was not judged yet") as caught:
        ask(store, policy(hooks(script)), person("bob"), action_request(release="cart@3"))
    assert caught.value.hint.startswith("judge it: `evaluator verdict cart@3")
    held = ask(store, policy(hooks(script)), person("bob"), action_request("hold", "cart@3"))
    assert (held.verdict_hash, held.data_hash) == ("", "")


def test_an_override_needs_hooks(store, policy, person, action_request):
    with pytest.raises(Refused, match="the policy names no hooks that promote") as caught:
        ask(store, policy(ROLES), person("bob"), action_request("break_glass", "cart@1.6.0"))
    assert caught.value.hint


def test_refusals_are_in_the_audit_trail_and_unknown_names_are_not(store, policy, person, action_request, script):
    rules = policy(hooks(script))
    with pytest.raises(Refused):
        ask(store, rules, person("bob"), action_request(release="cart@1.6.0"))
    row = store.control.audit()[-1]
    assert (row.actor, row.event, row.release, row.intent) == ("bob", "refused", "cart@1.6.0", "")
    assert row.text.startswith("promote: cart@1.6.0 is not promoted: the verdict is NO-GO")
    intent = ask(store, rules, person("ana"), action_request())
    with pytest.raises(Refused):
        approve(store, rules, person("ana"), intent.id)
    row = store.control.audit()[-1]
    assert (row.actor, row.event, row.intent) == ("ana", "refused", intent.id)
    assert row.text.startswith("approve promote: ana is an analyst")
    row_count = len(store.control.audit())
    with pytest.raises(UnknownName):
        ask(store, rules, person("bob"), action_request(release="cart@1.9.1"))
    assert len(store.control.audit()) == row_count


@pytest.mark.parametrize(("length", "fits"), [(1000, True), (1001, False)])
def test_a_reason_has_at_most_a_thousand_characters(store, policy, person, action_request, script, length, fits):
    rules = policy(hooks(script))
    if fits:
        assert len(ask(store, rules, person("bob"), action_request("hold", reason="x" * length)).reason) == length
        return
    with pytest.raises(UsageError, match="the reason has more than 1000 characters"):
        ask(store, rules, person("bob"), action_request("hold", reason="x" * length))


def test_taking_back_needs_no_reason(store, policy, person, action_request, script):
    rules = policy(hooks(script))
    intent = ask(store, rules, person("ana"), action_request())
    cancel(store, rules, person("bob"), intent.id, "  ")
    row = store.control.audit()[-1]
    assert (row.actor, row.intent, row.text) == ("bob", intent.id, "no reason given")


@pytest.mark.parametrize(("length", "fits"), [(2000, True), (2001, False), (0, False)])
def test_a_note_has_at_most_two_thousand_characters(store, policy, person, script, length, fits):
    rules = policy(hooks(script))
    if fits:
        row = write_note(store, rules, person("ana"), "cart@1.9.0", "x" * length)
        assert (row.event, row.actor, row.text) == ("note", "ana", "x" * length)
        return
    with pytest.raises(UsageError, match="more than 2000 characters" if length else "the note is empty"):
        write_note(store, rules, person("ana"), "cart@1.9.0", "x" * length)
