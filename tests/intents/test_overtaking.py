"""What came in between: nothing that was asked for before overturns what was done since."""

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from evaluator.errors import Refused, StoreBusy
from evaluator.intents import approve, ask, cancel, execute, execute_waiting, resolve, retry, run_worker, system_person
from evaluator.records.intents import Delivery, HookOutcome, IntentState


def last_said(store, intent):
    return [row.text for row in store.control.audit() if row.intent == intent.id][-1]


def begin(store, intent, *states):
    """Leave an intent as a worker does that is killed while the last of its hooks is executed."""
    store.control.claim(intent, "killed")
    for position, state in enumerate(states):
        options = '{"run": ["true"], "undo": ["true"]}'
        said = HookOutcome(IntentState(state), "")
        one = Delivery(intent.id, position, "command", 1, said, datetime.now(UTC), "promote", options)
        store.control.deliver(one, intent.release, "killed")


def break_glass(store, rules, wish, person):
    glass = ask(store, rules, system_person(), wish("break_glass", "cart@1.6.0"))
    for who in ("cleo", "ada"):
        approve(store, rules, person(who), glass.id)
    return execute(store, lambda _: rules, glass.id, "w")


ALL = "roles: {admin: '*'}\n"


@pytest.mark.parametrize("action", ["rollback", "hold"])
def test_a_promotion_whose_worker_was_killed_does_not_go_on_after_a_rollback_or_hold(
    store, policy, wish, script, lines, action
):
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}, {script('two')}]}}\n")
    intent = ask(store, rules, system_person(), wish())
    begin(store, intent, "acknowledged")
    later = ask(store, rules, system_person(), wish(action, reason="carts are odd"))
    assert execute(store, lambda _: rules, later.id, "w").state is IntentState.ACKNOWLEDGED
    assert execute_waiting(store, lambda _: rules, "w")[0].state is IntentState.FAILED
    assert f"i2 ({action}) was asked for after it; 1 hook acknowledged before" in last_said(store, intent)
    assert lines() == []


def test_a_rollback_takes_back_what_a_worker_has_only_just_begun(store, policy, wish, script, lines):
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}]}}\n")
    intent = ask(store, rules, system_person(), wish())
    begin(store, intent)
    back = ask(store, rules, system_person(), wish("rollback", reason="carts are odd"))
    assert back.undoes == (intent.id,)


def test_what_was_begun_since_a_rollback_looked_is_taken_back_too(store, policy, wish, script):
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}], rollback: [undo, {script('told')}]}}\n")
    intent = ask(store, rules, system_person(), wish())
    store.control.claim(intent, "w")
    draft = replace(intent, action=wish("rollback").action, undoes=(), requested_at=datetime.now(UTC))
    assert store.control.request(draft).undoes == (intent.id,)


def test_a_rollback_that_waited_does_not_overturn_what_another_release_was_promoted_to(
    store, policy, wish, script, lines, person
):
    rules = policy(f"{ALL}hooks: {{promote: [{script('one', undo='back')}]}}\napprovals: {{rollback: 2, promote: 1}}\n")
    first = ask(store, rules, person("bob"), wish())
    execute(store, lambda _: rules, first.id, "w")
    back = ask(store, rules, person("bob"), wish("rollback"))
    break_glass(store, rules, wish, person)
    for who in ("cleo", "ada"):
        approve(store, rules, person(who), back.id)
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.FAILED
    assert "cart@1.6.0 was promoted after it was asked for (i3)" in last_said(store, back)
    assert lines() == ["one", "one"]


def test_a_promotion_that_failed_altogether_does_not_stand_in_the_way_of_a_rollback(
    store, policy, wish, script, lines, person
):
    good = policy(f"{ALL}hooks: {{promote: [{script('one', undo='back')}]}}\n")
    first = ask(store, good, person("bob"), wish())
    execute(store, lambda _: good, first.id, "w")
    bad = policy(f"{ALL}hooks: {{promote: [{script('odd', undo='back', code=1)}]}}\n")
    assert break_glass(store, bad, wish, person).state is IntentState.FAILED
    assert ask(store, bad, person("bob"), wish("rollback")).undoes == (first.id,)


def test_promote_and_roll_back_again_and_again(store, policy, wish, script, lines):
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}]}}\n")
    for _ in range(2):
        for action in ("promote", "rollback"):
            intent = ask(store, rules, system_person(), wish(action))
            assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines() == ["one", "back", "one", "back"]
    assert store.control.verify_audit()


def test_a_clock_that_was_set_back_does_not_change_what_came_first(store, policy, wish, script):
    rules = policy(f"hooks: {{promote: [{script('one')}], hold: [{script('held')}]}}\n")
    first = ask(store, rules, system_person(), wish())
    with store.file.opened(write=True) as engine:
        engine.execute("UPDATE store.intents SET requested_at = ?", [datetime.now(UTC) + timedelta(hours=1)])
    held = ask(store, rules, system_person(), wish("hold"))
    assert [one.id for one in store.control.intents()] == [first.id, held.id]


# ------------------------------------------------------------------ no way out


def test_what_must_not_go_on_can_be_resolved(store, policy, wish, script, lines):
    rules = policy(f"hooks: {{promote: [{script('one')}, {script('two')}]}}\n")
    intent = ask(store, rules, system_person(), wish())
    begin(store, intent, "sent")
    changed = policy(f"hooks: {{promote: [{script('another')}]}}\n")
    assert execute_waiting(store, lambda _: changed, "w")[0].state is IntentState.UNKNOWN
    settled = resolve(store, changed, system_person(), intent.id, 1, done=False, reason="nothing is there")
    assert settled.state is IntentState.FAILED
    assert ask(store, changed, system_person(), wish()).id != intent.id


def test_what_came_to_nothing_does_not_stand_in_the_way_of_a_retry(store, policy, wish, script, person):
    rules = policy(
        f"{ALL}hooks: {{promote: [{script('one', code=1)}]}}\napprovals: {{hold: 1, self_approval: false}}\n"
    )
    intent = ask(store, rules, person("bob"), wish())
    approve(store, rules, person("cleo"), intent.id)
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.FAILED
    held = ask(store, rules, person("bob"), wish("hold"))
    with pytest.raises(Refused, match=r"i2 .hold. came after i1"):
        retry(store, rules, person("bob"), intent.id)
    cancel(store, rules, person("bob"), held.id, "a mistake")
    assert retry(store, rules, person("bob"), intent.id).state is IntentState.APPROVED


def test_what_is_unknown_and_expired_says_what_to_do(store, policy, wish, script):
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\n")
    intent = ask(store, rules, system_person(), wish())
    begin(store, intent, "unknown")
    store.control.settle(intent.id, IntentState.UNKNOWN, "w", "nobody knows")
    with store.file.opened(write=True) as engine:
        engine.execute("UPDATE store.intents SET expires_at = now()")
    with pytest.raises(Refused, match="i1 has expired") as caught:
        retry(store, rules, system_person(), intent.id)
    assert "hooks resolve i1" in caught.value.hint
    resolve(store, rules, system_person(), intent.id, 1, done=False, reason="nothing is there")
    assert ask(store, rules, system_person(), wish()).id == "i2"


def test_what_a_rollback_takes_back_is_not_resolved_under_it(store, policy, wish, script):
    """Its hooks are counted by what it takes back: one less, and another would count as done."""
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}]}}\n")
    intent = ask(store, rules, system_person(), wish())
    begin(store, intent, "acknowledged", "unknown")
    store.control.settle(intent.id, IntentState.UNKNOWN, "w", "nobody knows")
    ask(store, rules, system_person(), wish("rollback"))
    with pytest.raises(Refused, match="i2 takes back i1, done or not"):
        resolve(store, rules, system_person(), intent.id, 2, done=False, reason="nothing is there")


def test_a_rollback_that_failed_half_way_is_tried_again_where_it_failed(store, place, policy, wish, lines):
    undo = "test -e HERE/ready && echo back-one >> HERE/out.txt"
    rules = policy(
        f'hooks: {{promote: [{{command: {{run: [sh, -c, "true"], undo: [sh, -c, "{undo}"]}}}},'
        ' {command: {run: [sh, -c, "true"], undo: [sh, -c, "echo back-two >> HERE/out.txt"]}}]}\n'
    )
    intent = ask(store, rules, system_person(), wish())
    execute(store, lambda _: rules, intent.id, "w")
    back = ask(store, rules, system_person(), wish("rollback"))
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.FAILED
    assert ask(store, rules, system_person(), wish("rollback")).id == back.id
    (place / "ready").touch()
    retry(store, rules, system_person(), back.id)
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines() == ["back-two", "back-one"]


# ------------------------------------------------------------------ locks, and a store that is busy


def test_releases_that_share_a_service_are_executed_one_at_a_time(store):
    with store.control.alone(["cart", "pay"]) as held, store.control.alone(["pay", "zoo"]) as too:
        assert (held, too) == (True, False)
    with store.control.alone(["zoo", "pay"]) as held:
        assert held


def test_an_outcome_is_kept_however_long_the_store_is_busy(store, policy, wish, script, lines, monkeypatch):
    from evaluator.store.control import Control

    rules, deliver, busy = policy(f"hooks: {{promote: [{script('one')}]}}\n"), Control.deliver, [1, 2]
    intent = ask(store, rules, system_person(), wish())

    def deliver_later(self, delivery, *more):
        if delivery.outcome.state is IntentState.ACKNOWLEDGED and busy:
            busy.pop()
            raise StoreBusy("held by a notebook")
        deliver(self, delivery, *more)

    monkeypatch.setattr(Control, "deliver", deliver_later)
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines() == ["one"]


def test_a_hook_that_cannot_be_noted_is_not_executed_and_the_next_worker_begins(
    store, policy, wish, script, lines, monkeypatch
):
    from evaluator.store.control import Control

    rules, deliver = policy(f"hooks: {{promote: [{script('one')}]}}\n"), Control.deliver
    intent = ask(store, rules, system_person(), wish())

    def refuse(*_):
        raise StoreBusy("held by a notebook")

    monkeypatch.setattr(Control, "deliver", refuse)
    with pytest.raises(StoreBusy):
        execute(store, lambda _: rules, intent.id, "w")
    assert lines() == []
    monkeypatch.setattr(Control, "deliver", deliver)
    assert execute_waiting(store, lambda _: rules, "w2")[0].state is IntentState.ACKNOWLEDGED
    assert lines() == ["one"]


def test_one_that_cannot_be_executed_does_not_keep_the_others_waiting(store, policy, wish, script, person):
    rules, said, stop = policy(f"{ALL}hooks: {{hold: [{script('one')}]}}\n"), [], threading.Event()
    ask(store, rules, person("bob"), wish("hold"))
    second = ask(store, rules, person("bob"), wish("hold", "cart@1.6.0"))
    answers = iter([ZeroDivisionError("secret"), None])

    def load(_release):
        broken = next(answers, None)
        if broken:
            raise broken
        return rules

    worker = threading.Thread(target=run_worker, args=(store, load, stop), kwargs={"say": said.append, "poll_s": 0.05})
    worker.start()
    deadline = time.monotonic() + 20
    while len(said) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    worker.join(10)
    assert store.control.intent(second.id).state is IntentState.ACKNOWLEDGED
    assert "i1 (hold cart@1.9.0) could not be executed: it broke with ZeroDivisionError" in said
    assert store.control.intent("i1").state is IntentState.ACKNOWLEDGED
