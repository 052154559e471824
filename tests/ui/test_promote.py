"""What may be done with a release, by whom, and what becomes of it."""

import getpass
import re
from datetime import UTC, datetime
from functools import partial

import pytest
from stored import edit_decisions, repeat_verdict

from evaluator.intents import ActionRequest, approve, ask, cancel, execute_waiting, system_person
from evaluator.policy import load_policy
from evaluator.policy.going_back import choose_policy_to_go_back
from evaluator.records import RunState
from evaluator.records.intents import Action, IntentState, Person
from evaluator.serving.access import EXPLANATIONS, Refusal
from evaluator.store import Store

HOOKS = """hooks:
  promote:
    - command: {run: [sh, -c, "echo promoted-${canary} >> HERE/out.txt"], undo: [sh, -c, "echo back >> HERE/out.txt"]}
"""
ME = getpass.getuser()


def load(store):
    return lambda _release="": load_policy(store.parent / "evaluator.yaml")


def press(shown, label):
    """Press a button by its label."""
    next(element for element in shown.button if element.label == label).click()
    return shown.run()


def fill(shown, key, text):
    """Type a text into the field with this key, or with one that begins with it and continues with what it is about."""
    next(field for field in shown.text_input if f"{field.key}-".startswith(f"{key}-")).input(text)


def button(shown, label):
    return next(element for element in shown.button if element.label == label)


def test_a_go_meets_every_condition_and_the_page_shows_what_would_happen(page, shop, text):
    shown = page("promote", shop(HOOKS), release="cart@1.9.0")
    page_text = text(shown)
    assert not shown.exception
    assert page_text.count("✓ yes") == 19
    assert "✗ no" not in page_text
    assert "1.4.1 → 1.9.0" in page_text
    assert "runs sh -c &#39;echo promoted-1.9.0" in page_text
    assert "one person has to approve; yours counts, if you may approve" in page_text
    assert "all 19 conditions are met" in page_text
    assert "No request yet." in page_text
    assert not button(shown, "Promote").disabled


def test_a_no_go_does_not(page, shop, text):
    shown = page("promote", shop(HOOKS), release="cart@1.6.0")
    assert "✗ no</span> the verdict is NO-GO" in text(shown)
    assert button(shown, "Promote").disabled


def test_newer_data_and_another_policy_forbid_it(page, shop, text):
    path = shop(f"{HOOKS}alpha: 0.1\n")
    store = Store.open(path)
    run = store.data.runs("cart@1.9.0")[0]
    store.data.finish_run(run.id, state=RunState.COMPLETE, ended=datetime.now(UTC), facts=run.facts)
    page_text = text(page("promote", path, release="cart@1.9.0"))
    assert "✗ no</span> data landed after the verdict" in page_text
    assert "✗ no</span> the policy is not the one that judged" in page_text


def test_without_hooks_nothing_can_be_promoted_and_the_page_says_why(page, shop, text):
    shown = page("promote", shop(), release="cart@1.9.0")
    assert "✗ no</span> the policy names no hooks that promote" in text(shown)
    assert "No hook is executed." in text(shown)
    assert button(shown, "Promote").disabled


@pytest.mark.parametrize("forged", ["nobody@1", "' OR 1=1 --", "<b>x</b>"])
def test_forged_releases_are_answered_in_words(page, store_path, html, forged):
    shown = page("promote", store_path, release=forged)
    assert not shown.exception
    assert "there is no release" in html(shown)
    assert "<b>x</b>" not in html(shown)


def test_a_forged_action_in_the_address_does_nothing(page, shop, text):
    path = shop(HOOKS)
    for action in ("Override", "delete", "<i>x</i>"):
        shown = page("promote", path, release="cart@1.9.0", action=action)
        assert not shown.exception
        assert "there is no action" in text(shown)
        assert "Promote" not in [known.label for known in shown.button], "a form that was not asked for"
    assert Store.open(path).control.intents() == ()


def test_an_unjudged_release_cannot_be_promoted(page, shop, text):
    from stored import STEADY, land

    path = shop(HOOKS)
    land(Store.open(path), "cart@2.0.0", STEADY, seed=9)
    shown = page("promote", path, release="cart@2.0.0")
    assert "was not judged yet" in text(shown)
    assert "Promote" not in [element.label for element in shown.button]


# ------------------------------------------------------------------ asking


def test_where_the_baseline_may_be_gone_the_page_says_so_and_asks_whether_it_runs(page, shop, text, monkeypatch):
    path = shop(HOOKS)
    store = Store.open(path)
    ask(store, load(path)(), system_person(), ActionRequest(Action.PROMOTE, "cart@1.9.0", "all is well"))
    execute_waiting(store, load(path), "w")
    monkeypatch.setattr("evaluator.intents.previews.find_obstacles", lambda *_: {0: "teardown may have taken it down"})
    shown = page("promote", path, release="cart@1.9.0", action="Roll back")
    assert "would be refused now: teardown may have taken it down" in text(shown)
    fill(shown, "reason", "carts are odd")
    fill(shown, "typed", "cart@1.9.0")
    shown.checkbox[0].check()
    press(shown, "Roll back")
    events = [row.event for row in store.control.audit("cart@1.9.0") if row.actor == ME]
    assert events.index("baseline_runs") < len(events) - 1
    assert [intent.action for intent in store.control.intents()] == [Action.PROMOTE, Action.ROLLBACK]


def test_what_is_typed_for_a_release_is_used_for_no_other_and_for_no_other_action(page, shop, monkeypatch):
    monkeypatch.setattr("evaluator.intents.previews.find_obstacles", lambda *_: {0: "teardown may have taken it down"})
    shown = page("promote", shop(HOOKS), release="cart@1.9.0", action="Roll back")
    fill(shown, "reason", "carts are odd")
    for control, chosen in (("action", "Hold"), ("release", "cart@1.6.0")):
        if control == "action":
            shown.segmented_control(key="action").set_value(chosen).run()
        else:
            shown.selectbox(key="release").select(chosen).run()
        assert [field.value for field in shown.text_input if field.label.startswith("Reason,")] == [""], control
        assert not any(box.value for box in shown.checkbox)
    assert shown.query_params["action"] == "Promote"


def test_the_name_is_typed_and_a_reason_given_before_anything_is_requested(page, shop, html):
    path = shop(HOOKS)
    shown = page("promote", path, release="cart@1.9.0")
    fill(shown, "reason", "all gates passed")
    fill(shown, "typed", "cart@1.9.1")
    assert "cart@1.9.1 was typed, not cart@1.9.0" in html(press(shown, "Promote"))
    fill(shown, "reason", " ")
    fill(shown, "typed", "cart@1.9.0")
    assert "the reason is missing" in html(press(shown, "Promote"))
    assert Store.open(path).control.intents() == ()


def test_requested_executed_and_rolled_back(page, shop, text):
    path = shop(HOOKS)
    store = Store.open(path)
    shown = page("promote", path, release="cart@1.9.0")
    fill(shown, "reason", "all gates passed")
    fill(shown, "typed", "cart@1.9.0")
    second_tab = page("promote", path, release="cart@1.9.0")
    shown = press(shown, "Promote")
    assert "approved, is executed within seconds" in text(shown)
    assert f"{ME} has requested that already: i1, above." in text(shown)
    assert shown.query_params["request"] in ("i1", ["i1"])
    fill(second_tab, "reason", "all gates passed")
    fill(second_tab, "typed", "Cart@1.9.0")  # as a phone begins a sentence
    press(second_tab, "Promote")
    (intent,) = store.control.intents()
    assert (intent.requester, intent.reason) == (ME, "all gates passed")
    execute_waiting(store, load(path), "w")
    shown = page("promote", path, release="cart@1.9.0", action="Roll back")
    assert "✓ done" in text(shown)
    assert "runs sh -c &#39;echo back" in text(shown)
    fill(shown, "reason", "carts are odd")
    fill(shown, "typed", "cart@1.9.0")
    press(shown, "Roll back")
    execute_waiting(store, load(path), "w")
    assert (path.parent / "out.txt").read_text().split() == ["promoted-1.9.0", "back"]


def test_without_permission_the_page_shows_why_and_the_button_does_not_work(page, shop, text):
    path = shop(f"{HOOKS}roles: {{approver: [somebody-else]}}\n")
    shown = page("promote", path, release="cart@1.9.0")
    assert f"{ME} is a viewer, and the action promote needs an analyst" in text(shown)
    assert button(shown, "Promote").disabled
    intent = ask(
        Store.open(path),
        load(path)(),
        Person("somebody-else", ("somebody-else",)),
        ActionRequest(Action.HOLD, "cart@1.9.0", "x"),
    )
    assert intent.state is IntentState.APPROVED


def test_a_hook_that_would_be_refused_says_so(page, shop, text, monkeypatch):
    monkeypatch.setattr("evaluator.hooks.command.Command.find_obstacle", lambda *_: "canary is <i>drained</i>")
    shown = page("promote", shop(HOOKS), release="cart@1.9.0")
    assert "would be refused now: canary is &lt;i&gt;drained&lt;/i&gt;" in text(shown)


def test_the_requester_cannot_agree_where_two_others_have_to(page, shop, text):
    path = shop(f"{HOOKS}sensitive: true\n")
    store = Store.open(path)
    shown = page("promote", path, release="cart@1.9.0")
    assert "2 other people have to approve" in text(shown)
    fill(shown, "reason", "all gates passed")
    fill(shown, "typed", "cart@1.9.0")
    shown = press(shown, "Promote")
    assert f"2 people other than {ME} have to approve" in text(shown)
    assert button(shown, "Approve").disabled
    assert not button(shown, "Withdraw").disabled
    press(shown, "Withdraw")
    assert store.control.intent("i1").state is IntentState.CANCELLED


def test_another_approves_by_typing_the_name(page, shop, text, html):
    path = shop(f"{HOOKS}roles: {{analyst: [ana], approver: ['{ME}']}}\n")
    store = Store.open(path)
    ask(
        store, load(path)(), Person("ana", ("ana",)), ActionRequest(Action.PROMOTE, "cart@1.9.0", "<b>fine</b> ![x](y)")
    )
    shown = page("promote", path, request="i1")
    assert shown.selectbox(key="release").value == "cart@1.9.0"
    page_text = text(shown)
    assert page_text.index("ana asks to promote cart@1.9.0 to all users. Approve?") < page_text.index("ev-banner")
    assert "one person has to approve, and ana may be one of them" in page_text
    assert page_text.count("promoted-1.9.0") == 1
    assert "<b>fine</b>" not in html(shown)
    assert "ana has requested that already: i1, above." in page_text
    assert [each.label for each in shown.button] == ["Approve", "Reject"], "one primary button, and no second form"
    fill(shown, "typed-i1", "something")
    assert "something was typed, not cart@1.9.0" in html(press(shown, "Approve"))
    fill(shown, "typed-i1", "cart@1.9.0")
    shown = press(shown, "Approve")
    assert f"approved by {ME}" in text(shown)
    assert store.control.intent("i1").state is IntentState.APPROVED


def test_the_form_of_another_action_is_not_primary_while_a_request_waits(page, shop, html):
    path = shop(f"{HOOKS}roles: {{analyst: [ana], approver: ['{ME}']}}\n")
    ask(Store.open(path), load(path)(), Person("ana", ("ana",)), ActionRequest(Action.PROMOTE, "cart@1.9.0", "fine"))
    shown = page("promote", path, release="cart@1.9.0", action="Hold")
    assert [each.proto.type for each in shown.button if each.label in ("Approve", "Hold")] == ["primary", "secondary"]
    assert "It would be refused now" not in html(shown)


def test_the_card_says_that_an_approval_would_be_in_vain(page, shop, html):
    path = shop(f"{HOOKS}roles: {{analyst: [ana], approver: ['{ME}']}}\n")
    store = Store.open(path)
    ask(store, load(path)(), Person("ana", ("ana",)), ActionRequest(Action.PROMOTE, "cart@1.9.0", "fine"))
    run = store.data.runs("cart@1.9.0")[0]
    store.data.finish_run(run.id, state=RunState.COMPLETE, ended=datetime.now(UTC), facts=run.facts)
    assert "It would be refused now: data landed after the verdict." in html(page("promote", path, request="i1"))


def test_a_request_in_the_address_that_is_unknown_or_of_another_release_is_not_replaced(page, shop, text):
    path = shop(f"{HOOKS}roles: {{analyst: [ana], approver: ['{ME}']}}\n")
    ask(Store.open(path), load(path)(), Person("ana", ("ana",)), ActionRequest(Action.PROMOTE, "cart@1.9.0", "fine"))
    shown = page("promote", path, release="cart@1.9.0", request="<b>i9</b>")
    assert "there is no request &#39;&lt;b&gt;i9" in text(shown)
    assert shown.button == []
    shown = page("promote", path, release="cart@1.6.0", request="i1")
    assert "The request i1 is about cart@1.9.0" in text(shown)
    assert "Approve" not in [each.label for each in shown.button]
    shown = page("promote", path, request="i1")
    shown.selectbox(key="release").select("cart@1.6.0").run()
    assert "request" not in shown.query_params
    assert "is about" not in text(shown)


def test_a_request_that_waits_can_be_agreed_to_after_later_requests(page, shop, text):
    path = shop(f"{HOOKS}roles: {{analyst: [ana], approver: ['{ME}']}}\napprovals: {{hold: 1}}\n")
    store, policy, ana = Store.open(path), load(path)(), Person("ana", ("ana",))
    ask(store, policy, ana, ActionRequest(Action.HOLD, "cart@1.9.0", "odd carts"))
    repeat_verdict(store, "cart@1.9.0")
    ask(store, policy, ana, ActionRequest(Action.PROMOTE, "cart@1.9.0", "fine after all"))
    cancel(store, policy, ana, "i2", "not fine")
    shown = page("promote", path, release="cart@1.9.0")
    fill(shown, "typed-i1", "cart@1.9.0")
    press(shown, "Approve")
    assert store.control.intent("i1").state is IntentState.APPROVED


def test_a_request_is_turned_down_with_its_reason(page, shop, text):
    path = shop(f"{HOOKS}roles: {{analyst: [ana], approver: ['{ME}']}}\n")
    store = Store.open(path)
    ask(store, load(path)(), Person("ana", ("ana",)), ActionRequest(Action.PROMOTE, "cart@1.9.0", "fine"))
    shown = page("promote", path, release="cart@1.9.0")
    fill(shown, "why-i1", "not on a Friday")
    shown = press(shown, "Reject")
    assert "∅ turned down" in text(shown)
    assert "not on a Friday" in text(shown)


def test_against_the_verdict_only_with_others(page, shop, text):
    path = shop(HOOKS)
    shown = page("promote", path, release="cart@1.6.0", action="Override")
    fill(shown, "reason", "the old one is on fire")
    fill(shown, "typed", "cart@1.6.0")
    assert button(shown, "Override").proto.id.endswith("danger-ask-button")
    shown = press(shown, "Override")
    assert f"2 people other than {ME} have to approve" in text(shown)
    assert f"{ME} asks to promote cart@1.6.0 to all users against its verdict" in text(shown)


def test_a_promotion_against_the_verdict_is_marked_in_red(page, shop, html):
    path = shop(f"{HOOKS}roles: {{approver: [ann, bob, cleo]}}\n")
    store, rules = Store.open(path), load(path)()
    people = [Person(name, (name,)) for name in ("ann", "bob", "cleo")]
    intent = ask(store, rules, people[0], ActionRequest(Action.BREAK_GLASS, "cart@1.6.0", "the old one is on fire"))
    for element in people[1:]:
        approve(store, rules, element, intent.id)
    execute_waiting(store, load(path), "w")
    shown = html(page("release", path, release="cart@1.6.0"))
    assert 'class="ev-badge no_go">overridden' in shown
    assert "the old one is on fire" in shown
    assert "overridden" in html(page("audit", path))


def test_failed_and_unknown_hooks_are_tried_again_or_settled(page, shop, text):
    path = shop('hooks: {promote: [{command: {run: [sh, -c, "test -e HERE/ready"]}}]}\n')
    store = Store.open(path)
    ask(store, load(path)(), Person(ME, (ME, f"account:{ME}")), ActionRequest(Action.PROMOTE, "cart@1.9.0", "fine"))
    execute_waiting(store, load(path), "w")
    shown = page("promote", path, release="cart@1.9.0")
    assert "✗ failed" in text(shown)
    (path.parent / "ready").touch()
    shown = press(shown, "Execute the others again")
    execute_waiting(store, load(path), "w")
    assert store.control.intent("i1").state is IntentState.ACKNOWLEDGED


def test_an_unknown_outcome_is_resolved_by_an_admin_with_a_reason(page, shop, text, html):
    path = shop('hooks: {promote: [{command: {run: [sh, -c, "sleep 9"], timeout: 200ms}}]}\n')
    store = Store.open(path)
    ask(store, load(path)(), Person(ME, (ME, f"account:{ME}")), ActionRequest(Action.PROMOTE, "cart@1.9.0", "fine"))
    execute_waiting(store, load(path), "w")
    assert "may or may not be done: check it" in text(page("releases", path))
    shown = page("promote", path, release="cart@1.9.0")
    assert "? unknown" in text(shown)
    assert "the reason is missing" in html(press(shown, "It was done"))
    fill(shown, "how-i1-1", "production shows 1.9.0")
    shown = press(shown, "It was done")
    assert store.control.intent("i1").state is IntentState.ACKNOWLEDGED
    assert "production shows 1.9.0" in text(shown)


def test_a_login_of_an_hour_ago_promotes_nothing(page, shop, text, monkeypatch):
    from evaluator.ui import identity

    path = shop(f"{HOOKS}roles: {{approver: ['ann@example.org']}}\n")
    old = identity.Reader("ann@example.org", ("ann@example.org",), signed_in_at=0.0)
    monkeypatch.setattr("evaluator.ui.promote.find_reader", lambda: old)
    shown = page("promote", path, release="cart@1.9.0")
    assert "signed in more than 15 minutes ago" in text(shown)
    assert button(shown, "Promote").disabled
    assert button(shown, "Sign in again")


def test_a_login_that_is_too_old_approves_nothing_whatever_the_page_has_shown(page, shop, html, monkeypatch):
    from evaluator.ui import identity

    path = shop(f"{HOOKS}roles: {{analyst: [ana], admin: ['ann@example.org']}}\n")
    store = Store.open(path)
    ask(store, load(path)(), Person("ana", ("ana",)), ActionRequest(Action.PROMOTE, "cart@1.9.0", "fine"))
    old = identity.Reader("ann@example.org", ("ann@example.org",), signed_in_at=0.0)
    monkeypatch.setattr("evaluator.ui.promote.find_reader", lambda: old)
    shown = page("promote", path, release="cart@1.9.0")
    assert [button(shown, label).disabled for label in ("Approve", "Reject")] == [True, True]
    assert not button(shown, "Sign in again").disabled
    monkeypatch.setattr("evaluator.ui.cards.has_recent_login", lambda _reader: True)  # as a page from before
    shown = page("promote", path, release="cart@1.9.0")
    fill(shown, "typed-i1", "cart@1.9.0")
    for label in ("Approve", "Reject"):
        assert "signed in more than 15 minutes ago" in html(press(shown, label))
    assert store.control.intent("i1").state is IntentState.REQUESTED
    assert store.control.approvals("i1") == ()


def test_a_note_is_written_by_who_may_whatever_the_page_has_shown(page, shop, html, monkeypatch):
    path = shop("roles: {analyst: [ana]}\n")
    monkeypatch.setattr("evaluator.ui.notes.may", lambda *_: True)
    shown = page("release", path, release="cart@1.6.0")
    next(element for element in shown.text_area if element.label == "Write a note").input("forged")
    assert f"{ME} is a viewer, and writing notes needs an analyst" in html(press(shown, "Add the note"))
    assert [row.event for row in Store.open(path).control.audit() if row.event != "judged"] == ["refused"]


# ------------------------------------------------------------------ notes, audit, what waits


def test_notes_are_written_and_read(page, shop, text, html):
    path = shop()
    shown = page("release", path, release="cart@1.6.0")
    next(element for element in shown.text_area if element.label == "Write a note").input(
        "slow disk in <b>pod 3</b>\nsecond line"
    )
    shown = press(shown, "Add the note")
    assert "slow disk in &lt;b&gt;pod 3" in html(shown)
    row = Store.open(path).control.audit()[-1]
    assert (row.actor, row.event, row.text) == (ME, "note", "slow disk in <b>pod 3</b>\nsecond line")
    assert "slow disk" in html(page("audit", path))


def test_a_viewer_writes_no_notes(page, shop):
    shown = page("release", shop("roles: {analyst: [ana]}\n"), release="cart@1.6.0")
    assert next(element for element in shown.text_area if element.label == "Write a note").disabled
    assert button(shown, "Add the note").disabled


def test_what_waits_for_approval_is_on_the_first_page_and_what_was_acted_on_is_not(page, shop, text):
    path = shop(f"{HOOKS}roles: {{analyst: [ana], approver: [bob]}}\n")
    store, rules = Store.open(path), load(path)()
    ask(store, rules, Person("ana", ("ana",)), ActionRequest(Action.PROMOTE, "cart@1.9.0", "fine"))
    page_text = text(page("releases", path))
    assert "promote waits for approval: fine" in page_text
    assert "requested by ana" in page_text
    approve(store, rules, Person("bob", ("bob",)), "i1")
    execute_waiting(store, load(path), "w")
    page_text = text(page("releases", path))
    assert "waits for approval" not in page_text
    assert "cart@1.9.0</a></strong> is safe to promote" not in page_text


def test_an_audit_trail_that_was_edited_is_shown_in_red(page, shop, text):
    path = shop()
    Store.open(path).control.note("ann", "note", "cart@1.9.0", "one")
    assert "✓ unchanged" in text(page("audit", path))
    edit_decisions(Store.open(path), "UPDATE audit SET actor = 'eve'")
    assert "the audit trail was changed" in text(page("audit", path))


@pytest.mark.parametrize("refusal", Refusal)
def test_a_connection_that_may_only_read_sees_why_and_no_button(page, shop, text, refusal):
    path = shop(f'{HOOKS}approvals: {{promote: 2}}\nroles: {{admin: ["*"]}}\n')  # so that one request waits
    store = Store.open(path)
    request = ActionRequest(Action.PROMOTE, "cart@1.9.0", "x")
    ask(store, load(path)(), Person("bob", ("bob",)), request)
    problem, advice = (part.replace("`", "") for part in EXPLANATIONS[refusal])
    for name in ("promote", "release") if refusal is Refusal.NO_SESSION else ("promote",):
        shown = page(name, path, refusal=refusal, release="cart@1.9.0")
        page_text = re.sub(r"</?code>", "", text(shown))
        assert problem in page_text
        assert advice in page_text
        assert not {"Promote", "Approve", "Withdraw", "Reject", "Add the note"} & {
            button.label for button in shown.button
        }


def test_a_button_that_was_shown_before_is_refused(page, shop, html, monkeypatch):
    path = shop(HOOKS)
    shown = page("promote", path, release="cart@1.9.0")
    monkeypatch.setattr("evaluator.ui.promote.show_refusal", lambda _reader: False)  # as if the form were shown
    monkeypatch.setattr("evaluator.ui.identity.find_page_refusal", lambda _headers: Refusal.NO_SESSION)
    fill(shown, "reason", "all gates passed")
    fill(shown, "typed", "cart@1.9.0")
    assert "This browser may only read" in html(press(shown, "Promote"))
    assert Store.open(path).control.intents() == ()


def test_a_reader_is_a_person_with_all_their_names():
    from evaluator.ui.identity import find_reader, read_claims

    assert find_reader().names == ()  # no server of ours: nobody may act
    claimed = read_claims({"sub": "group:sre", "email": f"account:{ME}", "email_verified": True, "groups": ["dev"]})
    assert claimed.names == ()
    assert claimed.signed_in_at is not None


# ------------------------------------------------------------------ when something cannot be used


def promote_one(path):
    store = Store.open(path)
    intent = ask(store, load(path)(), system_person(), ActionRequest(Action.PROMOTE, "cart@1.9.0", "all is well"))
    execute_waiting(store, load(path), "w")
    return intent


@pytest.mark.parametrize("fault", ["data", "policy"])
def test_neither_the_data_nor_a_mistake_in_the_policy_stops_a_rollback(fault, page, shop, text):
    path = shop(HOOKS)
    promote_one(path)
    if fault == "data":
        path.write_bytes(b"\xff" * 9000)
    else:
        policy = path.parent / "evaluator.yaml"
        policy.write_text(f"{policy.read_text()}metrics: [{{metric: <b>no</b>}}]\n")
    shown = page("promote", path, release="cart@1.9.0", action="Roll back")
    assert "runs sh -c &#39;echo back" in text(shown)
    warnings = [element.value for element in shown.warning]
    assert bool(warnings) == (fault == "policy")
    assert not any("<b>" in warning for warning in warnings)
    fill(shown, "reason", "carts are odd")
    fill(shown, "typed", "cart@1.9.0")
    press(shown, "Roll back")
    going_back = partial(choose_policy_to_go_back, lambda: path.parent / "evaluator.yaml", lambda: [""], print)
    store = Store.open(path, decisions_only=True)
    execute_waiting(store, load(path), "w", load_to_go_back=lambda _release: going_back())
    assert (path.parent / "out.txt").read_text().split() == ["promoted-1.9.0", "back"]


def test_where_the_decisions_cannot_be_used_the_page_has_the_command(page, shop, text):
    path = shop(HOOKS)
    promote_one(path)
    for file in path.parent.glob("*.sqlite*"):
        file.write_bytes(b"\xff" * 9000)
    shown = page("promote", path, release="cart@1.9.0 <b>")
    assert "is damaged" in text(shown)
    command = f"evaluator --store {path} rollback &#39;cart@1.9.0 &lt;b&gt;&#39; --reason WHY"
    assert f"works all the same:<code>{command}</code>" in text(shown).replace(": <code>", ":<code>")
