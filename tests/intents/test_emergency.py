"""Going back from the journal: what meets a promotion that runs, another person, a kill, or another store."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from stored import edit_decisions, repeat_verdict

from evaluator.errors import Refused, StoreError
from evaluator.intents import ask, execute, system_person
from evaluator.intents.emergency import act_from_journal
from evaluator.intents.journal_records import (
    JournalAction,
    is_alive,
    list_actions,
    list_promotions,
    name_process,
    record_began,
    record_did,
    record_ended,
)
from evaluator.intents.journal_trail import record_actions
from evaluator.intents.policy_by_hand import list_policy_by_hand
from evaluator.records import Release, Service
from evaluator.records.intents import Action, Delivery, HookOutcome, IntentState
from evaluator.store import Store
from evaluator.store.control_file import control_path
from evaluator.store.journal import Journal, find_journal, write_now

RELEASE = "cart@1.9.0"


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def back(store, policy):
    """Roll back, or hold, from the journal; returns how it ended."""

    def go_back(action="rollback", release=RELEASE, person=None, rules=None, **more):
        said = []
        acted = act_from_journal(
            store.path,
            find_journal(store.path), (rules or policy_now()).promotion, person or system_person(), Action(action),
            release, "carts are odd", said.append, **more,
        )  # fmt: skip
        return acted, said

    def policy_now():
        from evaluator.policy import load_policy

        return load_policy(store.path.parent / "evaluator.yaml")

    return go_back


@pytest.fixture
def promoted(store, policy, action_request, script):
    """A release that was promoted by two hooks."""
    rules = policy(f"hooks: {{promote: [{script('one', undo='one-back')}, {script('two', undo='two-back')}]}}\n")
    intent = ask(store, rules, system_person(), action_request())
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    return intent


def state_of(store, intent):
    return store.control.intent(intent.id).state


def test_it_is_in_the_trail_once_whoever_records_it(store, promoted, back, lines):
    assert back()[0].state is IntentState.ACKNOWLEDGED
    assert lines() == ["one", "two", "two-back", "one-back"]
    journal = find_journal(store.path)
    # Several processes find it at the same time: the record that it is in the trail comes after it.
    blind = Journal(tuple(path.with_suffix(".copy") for path in journal.paths))
    for path, copy in zip(journal.paths, blind.paths, strict=True):
        shutil.copy(path, copy)
    assert record_actions(store, blind) == 1
    assert record_actions(store, journal) == 0
    [rollback] = [intent for intent in store.control.intents() if intent.action is Action.ROLLBACK]
    assert rollback.undoes == (promoted.id,)
    events = [(row.event, row.text) for row in store.control.audit() if row.intent == rollback.id]
    assert [event for event, _ in events] == ["requested", "hook acknowledged", "hook acknowledged", "acknowledged"]
    store.control.verify_audit()


# ------------------------------------------------------------------ a promotion that is being executed


def begin_slow_promotion(store, policy, action_request, script, folder):
    """Promote in a thread; the second of three hooks waits until a file is there."""
    slow = f"echo slow-begins >> HERE/out.txt; until [ -e {folder}/go ]; do sleep 0.02; done; echo slow >> HERE/out.txt"
    hook = f'{{command: {{run: [sh, -c, "{slow}"], undo: [sh, -c, "echo slow-back >> HERE/out.txt"]}}}}'
    rules = policy(f"hooks: {{promote: [{script('one', undo='one-back')}, {hook}, {script('three', undo='x')}]}}\n")
    intent = ask(store, rules, system_person(), action_request())
    thread = threading.Thread(target=execute, args=(store, lambda _: rules, intent.id, "w"))
    thread.start()
    return intent, thread


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_promotion_stops_before_its_next_hook_and_its_last_one_is_undone(
    store, policy, action_request, script, lines, folder, back
):
    intent, thread = begin_slow_promotion(store, policy, action_request, script, folder)
    wait_until(lambda: "slow-begins" in lines())
    ended = []
    rollback = threading.Thread(target=lambda: ended.append(back()))
    rollback.start()
    wait_until(lambda: list_actions(find_journal(store.path).read()))
    (folder / "go").touch()
    thread.join(10)
    rollback.join(10)
    [(acted, said)] = ended
    assert acted.state is IntentState.ACKNOWLEDGED
    assert "waits for the hook that another process is executing" in said
    assert lines() == ["one", "slow-begins", "slow", "slow-back", "one-back"]
    assert state_of(store, intent) is IntentState.FAILED
    text = [row.text for row in store.control.audit() if row.intent == intent.id][-1]
    assert "began a rollback of cart@1.9.0 after it, from the journal" in text


def test_what_a_hook_changes_after_it_was_undone_is_undone_again(
    store, policy, action_request, script, lines, folder, back, monkeypatch
):
    """The hook takes longer than a rollback waits for it."""
    monkeypatch.setattr("evaluator.intents.emergency._SHORT_WAIT_S", 0.1)
    _, thread = begin_slow_promotion(store, policy, action_request, script, folder)
    wait_until(lambda: "slow-begins" in lines())
    ended = []
    rollback = threading.Thread(target=lambda: ended.append(back()))
    rollback.start()
    wait_until(lambda: "one-back" in lines())
    assert lines() == ["one", "slow-begins", "slow-back", "one-back"]
    (folder / "go").touch()
    thread.join(10)
    rollback.join(10)
    assert lines()[4:] == ["slow", "slow-back"], "what was done last is what counts"
    assert ended[0][0].state is IntentState.ACKNOWLEDGED


@pytest.mark.parametrize("action", ["hold", "rollback"])
def test_a_request_in_the_database_stops_a_promotion_that_is_being_executed_too(
    store, policy, action_request, script, lines, folder, action
):
    intent, thread = begin_slow_promotion(store, policy, action_request, script, folder)
    wait_until(lambda: "slow-begins" in lines())
    rules = policy((folder / "evaluator.yaml").read_text())
    later = ask(store, rules, system_person(), action_request(action, reason="carts are odd"))
    (folder / "go").touch()
    thread.join(10)
    assert state_of(store, intent) is IntentState.FAILED
    assert execute(store, lambda _: rules, later.id, "w", wait_s=5).state is IntentState.ACKNOWLEDGED
    back = ["slow-back", "one-back"] if action == "rollback" else []
    assert lines() == ["one", "slow-begins", "slow", *back]


def test_no_promotion_begins_while_another_process_goes_back(store, policy, action_request):
    journal = find_journal(store.path)
    journal.make()
    record_began(journal, action_of(release=RELEASE))
    assert record_actions(store, journal) == 0, "it has not ended"
    rules = policy("hooks: {promote: [{command: {run: ['true']}}]}\n")
    intent = ask(store, rules, system_person(), action_request(reason="again"))
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.FAILED


def action_of(release=RELEASE, process=None, action="rollback", at=None, **more):
    return JournalAction(
        "a1", Action(action), Release(release, (Service("cart", "1", "2"),)), system_person(), "odd",
        at or write_now(), process=process or name_process(), **more,
    )  # fmt: skip


# ------------------------------------------------------------------ other releases, other people


def test_a_later_promotion_of_the_service_is_rolled_back_first(store, promoted, policy, script, back, lines, person):
    rules = policy(
        f"roles: {{admin: '*'}}\nhooks: {{promote: [{script('later', undo='later-back')}]}}\n"
        "approvals: {promote: 0, rollback: 0}\n"
    )
    glass = ask(store, rules, system_person(), request_of("break_glass", "cart@1.6.0"))
    for who in ("cleo", "ada"):
        from evaluator.intents import approve

        approve(store, rules, person(who), glass.id)
    assert execute(store, lambda _: rules, glass.id, "w").state is IntentState.ACKNOWLEDGED
    with pytest.raises(Refused, match=r"cart@1\.6\.0 was promoted after cart@1\.9\.0") as refused:
        back()
    assert refused.value.hint == "roll back cart@1.6.0 first, or instead"
    assert back(release="cart@1.6.0")[0].state is IntentState.ACKNOWLEDGED
    assert back()[0].state is IntentState.ACKNOWLEDGED
    assert lines() == ["one", "two", "later", "later-back", "two-back", "one-back"]


def request_of(action, release):
    from evaluator.intents import ActionRequest

    return ActionRequest(Action(action), release, "all is well")


def test_two_people_at_once_undo_each_hook_once(store, promoted, back, lines, person):
    rules = None
    ended = []
    threads = [threading.Thread(target=lambda: ended.append(back(rules=rules))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    states = [acted.state for acted, _ in ended]
    assert len(states) >= 1
    assert set(states) == {IntentState.ACKNOWLEDGED}
    assert sorted(lines()) == ["one", "one-back", "two", "two-back"]
    record_actions(store, find_journal(store.path))
    assert store.control.verify_audit()


def test_who_may_not_roll_back_alone_may_not_do_so_from_the_journal(store, promoted, policy, back, person, script):
    rules = policy(
        "roles: {analyst: [ben], approver: [ann]}\napprovals: {rollback: 2}\n"
        f"hooks: {{promote: [{script('one', undo='back')}]}}\n"
    )
    with pytest.raises(Refused, match="ben is an analyst, and rollback without approvals needs an approver"):
        back(person=person("ben"), rules=rules)
    assert back("hold", person=person("ben"), rules=rules)[0].state is IntentState.ACKNOWLEDGED
    assert back(person=person("ann"), rules=rules)[0].state is IntentState.ACKNOWLEDGED


# ------------------------------------------------------------------ killed


KILLED = """
import sys
from pathlib import Path
from evaluator.intents import system_person
from evaluator.intents.emergency import act_from_journal
from evaluator.policy import load_policy
from evaluator.records.intents import Action
from evaluator.store.journal import find_journal
folder = Path(sys.argv[1])
store = folder / "evaluator.duckdb"
rules = load_policy(folder / "evaluator.yaml").promotion
act_from_journal(store, find_journal(store), rules, system_person(), Action.ROLLBACK, "cart@1.9.0", "odd", print)
"""


@pytest.mark.parametrize("idempotent", [True, False])
def test_what_a_killed_rollback_has_done_is_not_done_again(
    store, policy, action_request, script, lines, folder, back, idempotent
):
    """It is killed while it undoes the second of three hooks."""
    slow = "echo slow-back >> HERE/out.txt; until [ -e HERE/go ]; do sleep 0.02; done"
    hook = f'{{command: {{run: ["true"], undo: [sh, -c, "{slow}"], idempotent: {str(idempotent).lower()}}}}}'
    rules = policy(f"hooks: {{promote: [{script('one', undo='one-back')}, {hook}, {script('3', undo='3-back')}]}}\n")
    intent = ask(store, rules, system_person(), action_request())
    execute(store, lambda _: rules, intent.id, "w")
    killed = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.DEVNULL)
    wait_until(lambda: "slow-back" in lines())
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (folder / "go").touch()
    assert lines() == ["one", "3", "3-back", "slow-back"]
    acted, _ = back()
    again = ["slow-back"] if idempotent else []
    assert lines()[4:] == [*again, "one-back"]
    assert acted.state is (IntentState.ACKNOWLEDGED if idempotent else IntentState.UNKNOWN)
    if not idempotent:
        assert "it may be undone" in acted.lines[0]
        assert acted.by_hand[1].startswith("env EVALUATOR_")
        assert back()[0].state is IntentState.ACKNOWLEDGED, "a person who asks once more has looked"
        assert lines()[5:] == ["slow-back"]
    with pytest.raises(Refused, match="has no hook"):
        back()
    record_actions(store, find_journal(store.path))
    rollbacks = [intent for intent in store.control.intents() if intent.action is Action.ROLLBACK]
    assert [rollback.state for rollback in rollbacks][:2] == ["unknown", acted.state]
    assert [delivery.outcome.state for delivery in store.control.deliveries(rollbacks[0].id)] == [
        "acknowledged", "unknown",
    ]  # fmt: skip
    store.control.verify_audit()


def test_a_killed_action_is_recorded_and_a_living_one_is_not(store, promoted):
    journal = find_journal(store.path)
    record_began(journal, action_of())
    assert record_actions(store, journal) == 0
    dead = json.dumps({**json.loads(name_process()), "started": "1"})
    assert not is_alive(dead)
    record_began(journal, action_of(process=dead, at=write_now()))
    delivery = Delivery("", 0, "x", 1, HookOutcome(IntentState.SENT, ""), datetime.now(UTC), "undo", "{}")
    record_did(journal, "a1", delivery, ())
    assert record_actions(store, journal) == 1
    [recorded] = [intent for intent in store.control.intents() if intent.action is Action.ROLLBACK]
    assert recorded.state is IntentState.UNKNOWN
    assert "its process ended before it had executed all hooks" in store.control.audit()[-1].text


# ------------------------------------------------------------------ another store, another time


def test_a_store_that_was_made_again_counts_from_one_and_can_be_rolled_back(
    store, promoted, policy, back, lines, judged_store, action_request
):
    """Its first promotion has the id of one that the journal knows as rolled back."""
    assert back()[0].state is IntentState.ACKNOWLEDGED
    for path in [store.path, *store.path.parent.glob("*.sqlite*")]:
        path.unlink()
    shutil.copy(judged_store, store.path)
    shutil.copy(control_path(judged_store), control_path(store.path))
    again = Store.open(store.path)
    rules = policy((store.path.parent / "evaluator.yaml").read_text())
    repeat_verdict(again, "cart@1.9.0")
    intent = ask(again, rules, system_person(), action_request(reason="in the new store"))
    record_actions(again, find_journal(store.path))
    assert [entry.undoes for entry in again.control.intents() if entry.action is Action.ROLLBACK] == [()]
    executed = execute(again, lambda _: rules, intent.id, "w")
    assert (executed.id, executed.state) == (promoted.id if executed.id == "i1" else executed.id, "acknowledged")
    assert back()[0].state is IntentState.ACKNOWLEDGED
    assert lines()[-2:] == ["two-back", "one-back"]


def test_what_repeats_the_secret_of_another_hook_does_not_write_it(store, policy, back, monkeypatch):
    monkeypatch.setenv("OTHER_TOKEN", "tok-0123456789abcdef")
    secret = '{http: {url: "http://127.0.0.1:9/", headers: {X-A: "${OTHER_TOKEN}"}, allow_hosts: [127.0.0.1]}}'
    repeats = "{command: {set: ['true'], get: [echo, tok-0123456789abcdef]}}"
    policy(f"hooks: {{hold: [{secret}, {repeats}]}}\n")
    find_journal(store.path).make()
    acted, _ = back("hold", person=system_person())
    assert acted.state is IntentState.FAILED
    assert "[secret]" in acted.lines[1]
    written = [record.get("text") for record in find_journal(store.path).read()]
    assert "tok-01234" not in f"{acted.lines} {acted.by_hand[::2]} {written}"


def test_a_hook_that_cannot_be_made_any_more_stops_no_other(store, promoted, back, lines, monkeypatch):
    journal = find_journal(store.path)
    [promotion] = list_promotions(journal.read())
    last = promotion.hooks[1]
    journal.append({**last, "at": write_now(), "hook": "gone", "options": '{"to": "x"}'})
    acted, _ = back()
    assert acted.state is IntentState.FAILED
    assert lines()[2:] == ["one-back"]
    assert (
        acted.by_hand[0]
        == '# takes back: gone {"to": "x"}: gone cannot be used: ' + acted.lines[0].partition("cannot be used: ")[2]
    )
    assert "there is no hook 'gone'" in acted.lines[0]


def test_nor_does_it_stop_a_rollback_through_the_store(store, promoted, policy, action_request, lines):
    edit_decisions(store, "UPDATE deliveries SET hook = 'gone' WHERE position = 1")
    rules = policy((store.path.parent / "evaluator.yaml").read_text())
    rollback = ask(store, rules, system_person(), action_request("rollback", reason="carts are odd"))
    assert execute(store, lambda _: rules, rollback.id, "w").state is IntentState.FAILED
    assert lines()[2:] == ["one-back"]


def test_an_old_hold_does_not_stop_a_promotion_that_was_requested_after_it(store, policy, action_request):
    journal = find_journal(store.path)
    journal.make()
    record_began(journal, action_of(at=(datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="microseconds")))
    record_ended(journal, "a1", IntentState.ACKNOWLEDGED, ())
    rules = policy("hooks: {promote: [{command: {run: ['true']}}]}\n")
    intent = ask(store, rules, system_person(), action_request(reason="again"))
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED


def test_what_the_policy_alone_knows(policy):
    rules = policy(
        "hooks:\n  promote: [{haproxy: {socket: /run/s, backend: shop, servers: {baseline: b, canary: c}}}]\n"
        "  rollback: [{haproxy: {socket: /run/s, backend: shop, servers: {baseline: b, canary: c}}}, undo]\n"
    ).promotion
    lines = list_policy_by_hand(rules, Action.ROLLBACK, system_person(), RELEASE, "odd")
    assert "echo 'set server shop/b weight 1' | socat - UNIX-CONNECT:/run/s" in lines
    place = lines.index(
        "# a promotion gives all requests of HAProxy's backend shop at /run/s to canary, in a rollback or a hold to "
        "baseline: put back what was there before, which is not known here"
    )
    assert lines[place + 1] == "# or give all requests to the baseline:"
    assert lines[place + 2 :] == lines[1:place], "as the policy's own hook for a rollback does"


def test_a_router_with_shares_of_its_own_does_not_give_all_to_the_baseline_by_hand(policy):
    rules = policy(
        "hooks: {promote: [{haproxy: {socket: /run/s, backend: shop, servers: {baseline: b, canary: c}, "
        "shares: {canary: 100%}}}]}\n"
    ).promotion
    [only] = list_policy_by_hand(rules, Action.ROLLBACK, system_person(), RELEASE, "odd")
    assert "put back what was there before" in only


def test_a_journal_that_hangs_delays_but_does_not_stop(store, promoted, back, lines, monkeypatch):
    """Another process keeps all copies locked."""
    import fcntl

    monkeypatch.setattr("evaluator.store.journal._LOCK_WAIT_S", 0.05)
    handles = [path.open("rb+") for path in find_journal(store.path).paths]
    for handle in handles:
        fcntl.flock(handle, fcntl.LOCK_EX)
    acted, _ = back()
    for handle in handles:
        handle.close()
    assert acted.state is IntentState.ACKNOWLEDGED
    assert lines()[2:] == ["two-back", "one-back"]
    assert "another process keeps it locked" in acted.not_written


def test_it_needs_a_journal_that_can_be_read(policy, back):
    policy()
    with pytest.raises(StoreError, match="the journal cannot be read"):
        back()


def test_records_of_another_version_are_left_out(store, promoted, back, lines):
    journal = find_journal(store.path)
    for record in ({"kind": "hook", "intent": "i1"}, {"kind": "began"}, {"kind": "of the future"}, {}):
        journal.append({"at": write_now(), **record})
    assert record_actions(store, journal) == 0
    assert back()[0].state is IntentState.ACKNOWLEDGED
    assert lines() == ["one", "two", "two-back", "one-back"]


def test_it_waits_for_a_rollback_through_the_store_that_another_process_executes(
    store, policy, action_request, lines, folder, back
):
    """That has begun while the decisions could be used, and its process has the lock of the service."""
    slow = f"echo slow-begins >> HERE/out.txt; until [ -e {folder}/go ]; do sleep 0.02; done; echo slow >> HERE/out.txt"
    rules = policy(f'hooks: {{promote: [{{command: {{run: ["true"], undo: [sh, -c, "{slow}"]}}}}]}}\n')
    intent = ask(store, rules, system_person(), action_request())
    execute(store, lambda _: rules, intent.id, "w")
    rollback = ask(store, rules, system_person(), action_request("rollback"))
    executing = threading.Thread(target=execute, args=(store, lambda _: rules, rollback.id, "w"))
    executing.start()
    wait_until(lambda: "slow-begins" in lines())
    ended = []
    emergency = threading.Thread(target=lambda: ended.append(back()))
    emergency.start()
    wait_until(lambda: list_actions(find_journal(store.path).read()))
    (folder / "go").touch()
    executing.join(10)
    emergency.join(10)
    assert lines() == ["slow-begins", "slow"]
    assert ended[0][0].state is IntentState.ACKNOWLEDGED
