"""What came in between: no earlier request undoes a later action."""

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from stored import edit_decisions

from evaluator.errors import Refused, StoreBusy, UnknownName, UsageError
from evaluator.intents import (
    approve,
    ask,
    cancel,
    execute,
    execute_waiting,
    plan_action,
    resolve,
    retry,
    run_worker,
    system_person,
)
from evaluator.records.intents import Action, Delivery, HookOutcome, IntentState
from evaluator.store.control_file import to_text


def last_said(store, intent):
    return [row.text for row in store.control.audit() if row.intent == intent.id][-1]


def begin(store, intent, *states):
    """Leave an intent as a worker does that is killed while the last of its hooks is executed."""
    store.control.claim(intent, "killed")
    for position, state in enumerate(states):
        options = '{"run": ["true"], "undo": ["true"]}'
        outcome = HookOutcome(IntentState(state), "")
        delivery = Delivery(intent.id, position, "command", 1, outcome, datetime.now(UTC), "promote", options)
        store.control.deliver(delivery, intent.release, "killed")


def break_glass(store, rules, action_request, person):
    glass = ask(store, rules, system_person(), action_request("break_glass", "cart@1.6.0"))
    for who in ("cleo", "ada"):
        approve(store, rules, person(who), glass.id)
    return execute(store, lambda _: rules, glass.id, "w")


ALL = "roles: {admin: '*'}\n"


@pytest.mark.parametrize("action", ["rollback", "hold"])
def test_a_promotion_whose_worker_was_killed_does_not_go_on_after_a_rollback_or_hold(
    store, policy, action_request, script, lines, action
):
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}, {script('two')}]}}\n")
    intent = ask(store, rules, system_person(), action_request())
    begin(store, intent, "acknowledged")
    later = ask(store, rules, system_person(), action_request(action, reason="carts are odd"))
    assert execute(store, lambda _: rules, later.id, "w").state is IntentState.ACKNOWLEDGED
    assert execute_waiting(store, lambda _: rules, "w")[0].state is IntentState.FAILED
    assert f"i2 ({action}) was requested after it; 1 hook done before" in last_said(store, intent)
    assert lines() == []


def test_a_rollback_takes_back_what_a_worker_has_only_just_begun(store, policy, action_request, script, lines):
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}]}}\n")
    intent = ask(store, rules, system_person(), action_request())
    begin(store, intent)
    back = ask(store, rules, system_person(), action_request("rollback", reason="carts are odd"))
    assert back.undoes == (intent.id,)


def test_what_was_begun_since_a_rollback_looked_is_taken_back_too(store, policy, action_request, script):
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}], rollback: [undo, {script('told')}]}}\n")
    intent = ask(store, rules, system_person(), action_request())
    store.control.claim(intent, "w")
    draft = replace(intent, action=action_request("rollback").action, undoes=(), requested_at=datetime.now(UTC))
    assert store.control.request(draft).undoes == (intent.id,)


def test_a_rollback_that_waited_does_not_overturn_what_another_release_was_promoted_to(
    store, policy, action_request, script, lines, person
):
    rules = policy(f"{ALL}hooks: {{promote: [{script('one', undo='back')}]}}\napprovals: {{rollback: 2, promote: 1}}\n")
    first = ask(store, rules, person("bob"), action_request())
    execute(store, lambda _: rules, first.id, "w")
    back = ask(store, rules, person("bob"), action_request("rollback"))
    break_glass(store, rules, action_request, person)
    for who in ("cleo", "ada"):
        approve(store, rules, person(who), back.id)
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.FAILED
    assert "cart@1.6.0 was promoted after it was requested (i3)" in last_said(store, back)
    assert lines() == ["one", "one"]


def test_a_promotion_that_failed_altogether_does_not_stand_in_the_way_of_a_rollback(
    store, policy, action_request, script, lines, person
):
    good = policy(f"{ALL}hooks: {{promote: [{script('one', undo='back')}]}}\n")
    first = ask(store, good, person("bob"), action_request())
    execute(store, lambda _: good, first.id, "w")
    bad = policy(f"{ALL}hooks: {{promote: [{script('odd', undo='back', code=1)}]}}\n")
    assert break_glass(store, bad, action_request, person).state is IntentState.FAILED
    assert ask(store, bad, person("bob"), action_request("rollback")).undoes == (first.id,)


def test_promote_and_roll_back_again_and_again(store, policy, action_request, script, lines, judge_again):
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}]}}\n")
    for _ in range(2):
        judge_again()
        for action in ("promote", "rollback"):
            intent = ask(store, rules, system_person(), action_request(action))
            assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines() == ["one", "back", "one", "back"]
    assert store.control.verify_audit()


@pytest.mark.parametrize("action", ["hold", "rollback"])
@pytest.mark.parametrize("clock", ["right", "set back"])
def test_what_was_held_or_rolled_back_is_judged_again_before_it_is_promoted(
    store, policy, action_request, script, judge_again, action, clock
):
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}]}}\n")
    promoted = ask(store, rules, system_person(), action_request())
    execute(store, lambda _: rules, promoted.id, "w")
    stop = ask(store, rules, system_person(), action_request(action, reason="prices shown twice"))
    execute(store, lambda _: rules, stop.id, "w")
    if clock == "set back":
        edit_decisions(store, "UPDATE intents SET requested_at = ?", to_text(datetime.now(UTC) - timedelta(hours=1)))
    verb = {"hold": "held", "rollback": "rolled back"}[action]
    with pytest.raises(Refused, match=rf"{verb} by .*\({stop.id}\): prices shown twice") as refused:
        ask(store, rules, system_person(), action_request())
    with pytest.raises(Refused, match="is GO: it needs no override"):  # nor does an override help
        ask(store, rules, system_person(), action_request("break_glass"))
    if clock == "right":
        assert refused.value.hint == "once the cause is gone, judge it again: evaluator verdict cart@1.9.0"
        judge_again()
        assert ask(store, rules, system_person(), action_request()).id not in (promoted.id, stop.id)


def test_a_rollback_that_failed_is_completed_before_a_new_promotion(store, policy, action_request, script, judge_again):
    back = '{command: {run: [sh, -c, "exit 1"]}}'
    rules = policy(f"hooks: {{promote: [{script('one')}], rollback: [{back}]}}\n")
    ask(store, rules, system_person(), action_request())
    failed = ask(store, rules, system_person(), action_request("rollback", reason="empty carts"))
    assert execute(store, lambda _: rules, failed.id, "w").state is IntentState.FAILED
    judge_again()
    with pytest.raises(Refused, match=rf"the rollback by .* \({failed.id}\) is failed: empty carts"):
        ask(store, rules, system_person(), action_request())


def test_a_hold_that_was_rejected_stops_nothing(store, policy, action_request, script, person):
    hooks = f"hooks: {{promote: [{script('one')}]}}\n"
    rules = policy(hooks + "approvals: {hold: 2}\nroles: {approver: [ann, bob, cem]}\n")
    held = ask(store, rules, person("ann"), action_request("hold"))
    with pytest.raises(Refused, match="it was held by ann"):  # also while it waits
        ask(store, rules, person("bob"), action_request())
    cancel(store, rules, person("bob"), held.id, "all is well")
    assert ask(store, rules, person("bob"), action_request()).state is IntentState.APPROVED


def test_a_clock_that_was_set_back_does_not_change_what_came_first(store, policy, action_request, script):
    rules = policy(f"hooks: {{promote: [{script('one')}], hold: [{script('held')}]}}\n")
    first = ask(store, rules, system_person(), action_request())
    edit_decisions(store, "UPDATE intents SET requested_at = ?", to_text(datetime.now(UTC) + timedelta(hours=1)))
    held = ask(store, rules, system_person(), action_request("hold"))
    assert [intent.id for intent in store.control.intents()] == [first.id, held.id]


# ------------------------------------------------------------------ no way out


def test_what_must_not_go_on_can_be_resolved(store, policy, action_request, script, lines):
    rules = policy(f"hooks: {{promote: [{script('one')}, {script('two')}]}}\n")
    intent = ask(store, rules, system_person(), action_request())
    begin(store, intent, "sent")
    changed = policy(f"hooks: {{promote: [{script('another')}]}}\n")
    assert execute_waiting(store, lambda _: changed, "w")[0].state is IntentState.UNKNOWN
    settled = resolve(store, changed, system_person(), intent.id, 1, done=False, reason="nothing is there")
    assert settled.state is IntentState.FAILED
    assert ask(store, changed, system_person(), action_request()).id != intent.id


def test_what_came_to_nothing_does_not_stand_in_the_way_of_a_retry(store, policy, action_request, script, person):
    rules = policy(
        f"{ALL}hooks: {{promote: [{script('one', code=1)}]}}\napprovals: {{hold: 1, self_approval: false}}\n"
    )
    intent = ask(store, rules, person("bob"), action_request())
    approve(store, rules, person("cleo"), intent.id)
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.FAILED
    held = ask(store, rules, person("bob"), action_request("hold"))
    with pytest.raises(Refused, match=r"i2 .hold. was requested after i1"):
        retry(store, rules, person("bob"), intent.id)
    cancel(store, rules, person("bob"), held.id, "a mistake")
    assert retry(store, rules, person("bob"), intent.id).state is IntentState.APPROVED


def test_an_unknown_and_expired_request_has_a_hint(store, policy, action_request, script):
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\napprovals: {{expires: 1s}}\n")
    intent = ask(store, rules, system_person(), action_request())
    begin(store, intent, "unknown")
    store.control.settle(intent.id, IntentState.UNKNOWN, "w", "nobody knows")
    time.sleep(1)
    with pytest.raises(Refused, match="i1 has expired") as caught:
        retry(store, rules, system_person(), intent.id)
    assert "hooks resolve i1" in caught.value.hint
    resolve(store, rules, system_person(), intent.id, 1, done=False, reason="nothing is there")
    assert ask(store, rules, system_person(), action_request()).id == "i2"


def test_what_a_rollback_takes_back_is_not_resolved_under_it(store, policy, action_request, script):
    """Its hooks are counted by what it takes back: one less, and another would count as done."""
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}]}}\n")
    intent = ask(store, rules, system_person(), action_request())
    begin(store, intent, "acknowledged", "unknown")
    store.control.settle(intent.id, IntentState.UNKNOWN, "w", "nobody knows")
    ask(store, rules, system_person(), action_request("rollback"))
    with pytest.raises(Refused, match="i2 takes back i1, done or not"):
        resolve(store, rules, system_person(), intent.id, 2, done=False, reason="nothing is there")


def test_a_rollback_that_failed_half_way_is_tried_again_where_it_failed(store, folder, policy, action_request, lines):
    undo = "test -e HERE/ready && echo back-one >> HERE/out.txt"
    rules = policy(
        f'hooks: {{promote: [{{command: {{run: [sh, -c, "true"], undo: [sh, -c, "{undo}"]}}}},'
        ' {command: {run: [sh, -c, "true"], undo: [sh, -c, "echo back-two >> HERE/out.txt"]}}]}\n'
    )
    intent = ask(store, rules, system_person(), action_request())
    execute(store, lambda _: rules, intent.id, "w")
    back = ask(store, rules, system_person(), action_request("rollback"))
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.FAILED
    (folder / "ready").touch()
    retry(store, rules, system_person(), back.id)
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines() == ["back-two", "back-one"]


# ------------------------------------------------------------------ locks, and a store that is busy


def test_releases_that_share_a_service_are_executed_one_at_a_time(store):
    with store.control.alone(["cart", "pay"]) as held, store.control.alone(["pay", "zoo"]) as too:
        assert (held, too) == (True, False)
    with store.control.alone(["zoo", "pay"]) as held:
        assert held


def test_an_outcome_is_kept_however_long_the_store_is_busy(store, policy, action_request, script, lines, monkeypatch):
    from evaluator.store.control import Control

    rules, deliver, busy = policy(f"hooks: {{promote: [{script('one')}]}}\n"), Control.deliver, [1, 2]
    intent = ask(store, rules, system_person(), action_request())

    def deliver_later(self, delivery, *extra):
        if delivery.outcome.state is IntentState.ACKNOWLEDGED and busy:
            busy.pop()
            raise StoreBusy("held by a notebook")
        deliver(self, delivery, *extra)

    monkeypatch.setattr(Control, "deliver", deliver_later)
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines() == ["one"]


def test_a_hook_that_cannot_be_noted_is_not_executed_and_the_next_worker_begins(
    store, policy, action_request, script, lines, monkeypatch
):
    from evaluator.store.control import Control

    rules, deliver = policy(f"hooks: {{promote: [{script('one')}]}}\n"), Control.deliver
    intent = ask(store, rules, system_person(), action_request())

    def refuse(*_):
        raise StoreBusy("held by a notebook")

    monkeypatch.setattr(Control, "deliver", refuse)
    with pytest.raises(StoreBusy):
        execute(store, lambda _: rules, intent.id, "w")
    assert lines() == []
    monkeypatch.setattr(Control, "deliver", deliver)
    assert execute_waiting(store, lambda _: rules, "w2")[0].state is IntentState.ACKNOWLEDGED
    assert lines() == ["one"]


def test_one_that_cannot_be_executed_does_not_keep_the_others_waiting(store, policy, action_request, script, person):
    rules, messages, stop = policy(f"{ALL}hooks: {{hold: [{script('one')}]}}\n"), [], threading.Event()
    ask(store, rules, person("bob"), action_request("hold"))
    second = ask(store, rules, person("bob"), action_request("hold", "cart@1.6.0"))
    answers = iter([ZeroDivisionError("secret"), None])

    def load(_release):
        broken = next(answers, None)
        if broken:
            raise broken
        return rules

    worker = threading.Thread(
        target=run_worker, args=(store, load, stop), kwargs={"say": messages.append, "poll_s": 0.05}
    )
    worker.start()
    deadline = time.monotonic() + 20
    while len(messages) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    worker.join(10)
    assert store.control.intent(second.id).state is IntentState.ACKNOWLEDGED
    assert "i1 (hold cart@1.9.0) could not be executed: it ended with an unexpected ZeroDivisionError" in messages
    assert store.control.intent("i1").state is IntentState.ACKNOWLEDGED


# ------------------------------------------------------------------ a person says what a hook did


def unknown(store, rules, action_request, *states):
    """A promotion with an unknown outcome of its last hook."""
    intent = ask(store, rules, system_person(), action_request())
    begin(store, intent, *states)
    store.control.settle(intent.id, IntentState.UNKNOWN, "w", "nobody knows")
    return intent


@pytest.mark.parametrize(
    ("done", "state", "text"),
    [
        (True, "acknowledged", "the outcome of every hook is known now"),
        (False, "failed", "the outcome of every hook is known now"),
    ],
)
def test_the_last_hook_settles_an_intent(store, policy, action_request, script, done, state, text):
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}, {script('two', undo='back')}]}}\n")
    intent = unknown(store, rules, action_request, "acknowledged", "unknown")
    settled = resolve(store, rules, system_person(), intent.id, 2, done=done, reason="I looked")
    assert settled.state == IntentState(state)
    assert last_said(store, intent) == text
    outcome = store.control.deliveries(intent.id)[1].outcome
    assert (outcome.state, outcome.text) == (IntentState(state), f"{system_person().name} says: I looked")


def test_as_long_as_one_hook_is_unknown_the_intent_is(store, policy, action_request, script):
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}, {script('two', undo='back')}]}}\n")
    intent = unknown(store, rules, action_request, "unknown", "unknown")
    assert resolve(store, rules, system_person(), intent.id, 1, done=True, reason="I looked").state == "unknown"
    assert resolve(store, rules, system_person(), intent.id, 2, done=True, reason="I looked").state == "acknowledged"


def test_hooks_that_were_not_reached_are_named(store, policy, action_request, script):
    rules = policy(f"hooks: {{promote: [{script('one')}, {script('two')}]}}\n")
    intent = unknown(store, rules, action_request, "unknown")
    assert resolve(store, rules, system_person(), intent.id, 1, done=True, reason="I looked").state == "failed"
    assert last_said(store, intent) == "hooks after it were not executed; `evaluator hooks retry` executes them"


def test_under_another_policy_it_is_not_known_whether_hooks_are_missing(store, policy, action_request, script):
    intent = unknown(store, policy(f"hooks: {{promote: [{script('one')}]}}\n"), action_request, "unknown")
    changed = policy(f"hooks: {{promote: [{script('one')}, {script('two')}]}}\n")
    assert resolve(store, changed, system_person(), intent.id, 1, done=True, reason="I looked").state == "failed"
    assert "it is not known whether any came after it" in last_said(store, intent)


def test_a_hook_that_is_not_there_or_is_known_is_not_resolved(store, policy, action_request, script):
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\n")
    intent = unknown(store, rules, action_request, "acknowledged", "unknown")
    with pytest.raises(UnknownName, match="'3'"):
        resolve(store, rules, system_person(), intent.id, 3, done=True, reason="I looked")
    with pytest.raises(UsageError, match="hook 1 of i1 is acknowledged, so there is nothing to resolve"):
        resolve(store, rules, system_person(), intent.id, 1, done=True, reason="I looked")
    with pytest.raises(UsageError, match="the reason is missing"):
        resolve(store, rules, system_person(), intent.id, 2, done=True, reason=" ")


def test_what_still_waits_is_not_resolved(store, policy, action_request, script):
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\n")
    intent = ask(store, rules, system_person(), action_request())
    begin(store, intent, "unknown")
    assert store.control.intent(intent.id).state is IntentState.SENT
    with pytest.raises(UsageError, match="there is nothing to resolve"):
        resolve(store, rules, system_person(), intent.id, 1, done=True, reason="I looked")


# ------------------------------------------------------------------ refused while it is executed


@pytest.mark.parametrize(
    ("states", "ends", "hook_says"),
    [
        (("acknowledged", "approved"), "failed", "it was not executed again"),
        (("acknowledged", "requested"), "unknown", "it may have been done"),
        (("sent",), "unknown", "it may have been done"),
    ],
)
def test_hooks_of_what_must_not_go_on_are_settled(
    store, policy, action_request, script, lines, states, ends, hook_says
):
    intent = ask(
        store, policy(f"hooks: {{promote: [{script('one')}, {script('two')}]}}\n"), system_person(), action_request()
    )
    begin(store, intent, *states)
    changed = policy(f"hooks: {{promote: [{script('another')}]}}\n")
    assert execute(store, lambda _: changed, intent.id, "w").state == ends
    last = store.control.deliveries(intent.id)[-1]
    assert hook_says in last.outcome.text
    assert last.attempts == 1  # it was not tried again
    counted = "1 hook done before" in last_said(store, intent)
    assert counted == (states[0] == "acknowledged")
    assert lines() == []


def test_what_was_approved_too_late_expires(store, policy, action_request, script, lines):
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\n")
    intent = ask(store, rules, system_person(), action_request())
    edit_decisions(store, "UPDATE intents SET expires_at = ?", to_text(datetime.now(UTC)))
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.EXPIRED
    assert lines() == []


def test_without_hooks_a_hold_is_done_by_its_request(store, policy, action_request):
    rules = policy("")
    held = ask(store, rules, system_person(), action_request("hold"))
    assert execute(store, lambda _: rules, held.id, "w").state is IntentState.ACKNOWLEDGED
    assert last_said(store, held) == "the policy names no hooks for it"


def test_all_errors_are_reported(store, policy, action_request, script, lines):
    rules = policy(
        f"hooks: {{promote: [{script('one', code=2)}, {script('two')}, "
        f"{script('three', code=4, extra=', required: true')}, {script('four')}, {script('five')}]}}\n"
    )
    intent = ask(store, rules, system_person(), action_request())
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.FAILED
    assert last_said(store, intent) == "hook 1 (command) failed; hook 3 (command) failed; 2 after it not executed"
    assert [delivery.attempts for delivery in store.control.deliveries(intent.id)] == [1, 1, 1]
    assert lines() == ["one", "two", "three"]


def test_what_is_planned_of_a_rollback_is_what_is_in_effect(store, policy, action_request, script):
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}]}}\n")
    assert plan_action(store, rules, "cart@1.9.0", Action.ROLLBACK) == ((), ())
    intent = ask(store, rules, system_person(), action_request())
    execute(store, lambda _: rules, intent.id, "w")
    (undo,), irreversible = plan_action(store, rules, "cart@1.9.0", Action.ROLLBACK)
    assert (undo.event, undo.entry.kind, irreversible) == ("undo", "command", ())
    assert plan_action(store, rules, "cart@1.9.0", Action.ROLLBACK, []) == ((), ())
    (promote,), _ = plan_action(store, rules, "cart@1.9.0", Action.PROMOTE)
    assert promote.event == "promote"
