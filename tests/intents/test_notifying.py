"""People are notified of requests that wait and of how each one ended, and no action waits for that."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from hooks_world import receiving, reply
from stored import edit_decisions

from evaluator.errors import PolicyError
from evaluator.intents import approve, ask, cancel, execute, notify_people, notifying, resolve, run_worker
from evaluator.intents.notifying import make_link, notify_without_store
from evaluator.records.intents import Action, IntentState, Person

SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
TOKEN = "pa55-t0ken"


@pytest.fixture
def receiver():
    with receiving() as opened:
        yield opened


@pytest.fixture
def notifying_policy(policy, receiver, monkeypatch):
    """Write a policy that notifies the receiver by a chat and a webhook."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("CHAT_TOKEN", TOKEN)

    def write(promote="{command: {run: ['true']}}", *, extra="", kinds=("chat", "hook"), port=receiver.port):
        entries = {
            "chat": f'{{notify: {{to: ["json://127.0.0.1:{port}/chat/${{CHAT_TOKEN}}"], allow_hosts: [127.0.0.1]}}}}',
            "hook": f'{{webhook: {{url: "http://127.0.0.1:{port}/hook", secret: "${{HOOK_SECRET}}", '
            "allow_hosts: [127.0.0.1]}}",
        }
        listed = ", ".join(entries[kind] for kind in kinds)
        return policy(f"hooks: {{promote: [{promote}], notify: [{listed}]}}\n{extra}\n")

    return write


def messages(receiver) -> list[dict]:
    """What the webhook got, in order: data of each message, with its type."""
    bodies = [json.loads(request.body) for request in receiver.requests if request.path == "/hook"]
    return [body["data"] | {"type": body["type"]} for body in bodies]


ANN, BOB, CEM = (Person(f"{name}@example.org", (f"{name}@example.org",)) for name in ("ann", "bob", "cem"))
ROLES = "roles: {admin: [ann@example.org, bob@example.org, cem@example.org]}"


# ------------------------------------------------------------------ what is sent


def test_a_request_that_waits_and_its_end_are_sent_once_each(store, notifying_policy, action_request, receiver):
    rules = notifying_policy(extra=f"approvals: {{promote: 2}}\nlink: https://ci.example.org/r/${{release}}\n{ROLES}")
    intent = ask(store, rules, ANN, action_request(reason="ship it"))
    for _ in range(2):
        notify_people(store, lambda _: rules)
    assert ask(store, rules, BOB, action_request()).id == intent.id  # a repeated request is no news
    notify_people(store, lambda _: rules)
    [waiting] = messages(receiver)
    assert (waiting["type"], waiting["outcome"], waiting["reason"]) == ("request.waiting", "waiting", "ship it")
    assert waiting["summary"] == (
        f"{intent.id}: {ANN.name} asks to promote cart@1.9.0 to all users. Until {intent.expires_at:%Y-%m-%d %H:%M} "
        f"UTC, 2 people other than {ANN.name} have to approve: evaluator approve {intent.id}"
    )
    assert waiting["link"] == "https://ci.example.org/r/cart%401.9.0"
    [chat] = [json.loads(request.body) for request in receiver.requests if request.path.startswith("/chat")]
    assert chat["title"] == "cart@1.9.0: promote waiting"
    assert chat["message"].splitlines() == [
        waiting["summary"], f"go: 1.4.1 to 1.9.0. {ANN.name}: ship it", "https://ci.example.org/r/cart%401.9.0",
    ]  # fmt: skip
    for person in (BOB, CEM):
        approve(store, rules, person, intent.id)
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    for _ in range(2):
        notify_people(store, lambda _: rules)
    assert [message["outcome"] for message in messages(receiver)] == ["waiting", "acknowledged"]
    assert len({message["idempotency_key"] for message in messages(receiver)}) == 2


def test_each_end_is_sent_with_its_reason(store, notifying_policy, action_request, receiver):
    rules = notifying_policy("{command: {run: ['false']}}", extra=f"approvals: {{promote: 0}}\n{ROLES}", kinds=["hook"])
    failed = ask(store, rules, ANN, action_request())
    execute(store, lambda _: rules, failed.id, "w")
    notify_people(store, lambda _: rules)
    assert messages(receiver)[-1]["outcome"] == "failed"
    assert "hook 1 (command) failed: false ended with 1" in messages(receiver)[-1]["summary"]

    rules = notifying_policy("{command: {run: ['true']}}", extra=f"approvals: {{promote: 2}}\n{ROLES}", kinds=["hook"])
    rejected = ask(store, rules, ANN, action_request())
    cancel(store, rules, BOB, rejected.id, "not on a Friday")
    notify_people(store, lambda _: rules)
    assert messages(receiver)[-1]["summary"] == (
        f"{rejected.id}: promote cancelled by {BOB.name}: not on a Friday"
    )  # of one that waited and does no more, only the end is sent

    expiring = ask(store, rules, ANN, action_request())
    store.control.expire(datetime.now(UTC) + timedelta(days=1))
    notify_people(store, lambda _: rules)
    assert messages(receiver)[-1]["outcome"] == "expired"
    assert expiring.id in messages(receiver)[-1]["summary"]

    held = ask(store, rules, ANN, action_request())
    hold = ask(store, rules, BOB, action_request("hold", reason="carts are odd"))
    execute(store, lambda _: rules, hold.id, "w")
    notify_people(store, lambda _: rules)
    ends = {message["summary"].split(":")[0]: message for message in messages(receiver)}
    assert ends[held.id]["outcome"] == "cancelled"
    assert "hold: carts are odd" in ends[held.id]["summary"]
    assert ends[hold.id]["outcome"] == "acknowledged"


def test_an_unknown_outcome_and_what_a_person_says_of_it_are_sent(store, notifying_policy, action_request, receiver):
    rules = notifying_policy(
        "{command: {run: [sleep, '5'], time_limit: 0.2s}}", extra=f"approvals: {{promote: 0}}\n{ROLES}", kinds=["hook"]
    )
    intent = ask(store, rules, ANN, action_request())
    execute(store, lambda _: rules, intent.id, "w")
    notify_people(store, lambda _: rules)
    resolve(store, rules, ANN, intent.id, 1, done=True, reason="it is live")
    notify_people(store, lambda _: rules)
    assert [message["outcome"] for message in messages(receiver)] == ["unknown", "acknowledged"]


def test_requests_that_a_restore_made_unknown_are_sent(store, notifying_policy, action_request, receiver, tmp_path):
    from evaluator.store import Store
    from evaluator.store.backup import make_backup
    from evaluator.store.journal import find_journal
    from evaluator.store.restore import restore_backup

    rules = notifying_policy(extra=f"approvals: {{promote: 2}}\n{ROLES}", kinds=["hook"])
    ask(store, rules, ANN, action_request())
    make_backup(store, tmp_path / "b", find_journal(store.path))
    (tmp_path / "r").mkdir()
    restore_backup(tmp_path / "b", tmp_path / "r" / "evaluator.duckdb", "root")
    notify_people(Store.open(tmp_path / "r" / "evaluator.duckdb"), lambda _: rules)
    [message] = messages(receiver)
    assert message["outcome"] == "unknown"
    assert "restored from a backup" in message["summary"]


def test_what_is_older_than_an_hour_is_no_news(store, notifying_policy, action_request, receiver, monkeypatch):
    rules = notifying_policy(extra=f"approvals: {{promote: 2}}\n{ROLES}")
    ask(store, rules, ANN, action_request())
    monkeypatch.setattr(notifying, "_NEWS_FOR", timedelta(0))
    notify_people(store, lambda _: rules)
    assert receiver.requests == []


# ------------------------------------------------------------------ where sending fails


def test_a_receiver_that_repeats_the_secret_of_another_hook_has_it_nowhere(
    store, notifying_policy, action_request, receiver
):
    said = []
    receiver.answers = [reply(400, f"no {TOKEN} and {SECRET}".encode())]
    rules = notifying_policy(extra=ROLES)
    ask(store, rules, ANN, action_request("hold"))
    store.control.settle("i1", IntentState.FAILED, "w", "it failed")
    notify_people(store, lambda _: rules, said.append)
    assert "[secret]" in str(said)
    assert TOKEN not in f"{said} {store.control.audit()}"
    assert SECRET.removeprefix("whsec_") not in f"{said} {store.control.audit()}"


def test_a_long_answer_is_cut(store, notifying_policy, action_request, receiver):
    rules = notifying_policy(extra=f"approvals: {{promote: 2}}\n{ROLES}", kinds=["hook"])
    receiver.answers = [reply(400, b"x\n" * 5000)]
    ask(store, rules, ANN, action_request())
    said = []
    notify_people(store, lambda _: rules, said.append)
    assert said[0].endswith("x x …")
    assert len(said[0]) < 400
    assert store.control.audit()[-1].text == said[0]


def test_what_was_not_accepted_is_recorded_said_and_sent_again(
    store, notifying_policy, action_request, receiver, monkeypatch
):
    rules = notifying_policy(extra=f"approvals: {{promote: 2}}\n{ROLES}", kinds=["chat"])
    receiver.answers = [reply(500, TOKEN.encode())]
    intent, said = ask(store, rules, ANN, action_request()), []
    notify_people(store, lambda _: rules, said.append)
    assert f"people were not notified that {intent.id} is waiting: notify: 0 of 1 were notified" in said[0]
    assert (store.control.audit()[-1].event, store.control.audit()[-1].intent) == ("not notified", "")
    assert TOKEN not in said[0] + store.control.audit()[-1].text
    store.control.verify_audit()
    notify_people(store, lambda _: rules, said.append)
    assert len(receiver.requests) == 1  # not again at once
    receiver.answers = [reply()]
    edit_decisions(store, "UPDATE notifications SET happened_at = '2026-01-01T00:00:00+00:00'")
    notify_people(store, lambda _: rules, said.append)
    notify_people(store, lambda _: rules, said.append)
    assert (len(receiver.requests), len(said)) == (2, 1)


def test_a_message_of_a_killed_process_is_sent_again_later(store, notifying_policy, action_request, receiver):
    rules = notifying_policy(extra=f"approvals: {{promote: 2}}\n{ROLES}", kinds=["hook"])
    ask(store, rules, ANN, action_request())
    code = """
import os, sys
from pathlib import Path
from evaluator.intents import notifying, notify_people
from evaluator.policy import load_policy
from evaluator.store import Store
notifying.run_hook = lambda *_: os._exit(9)
path = Path(sys.argv[1])
notify_people(Store.open(path), lambda _: load_policy(path.parent / "evaluator.yaml"))
"""
    assert subprocess.run([sys.executable, "-c", code, str(store.path)], check=False).returncode == 9
    notify_people(store, lambda _: rules)
    assert receiver.requests == []  # the other process may still send it
    edit_decisions(store, "UPDATE notifications SET happened_at = '2026-01-01T00:00:00+00:00'")
    notify_people(store, lambda _: rules)
    assert len(receiver.requests) == 1


def test_two_processes_send_a_message_once(store, notifying_policy, action_request, receiver):
    rules = notifying_policy(extra=f"approvals: {{promote: 2}}\n{ROLES}", kinds=["hook"])
    ask(store, rules, ANN, action_request())
    threads = [threading.Thread(target=notify_people, args=(store, lambda _: rules)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receiver.requests) == 1


def test_no_action_waits_for_a_receiver_that_hangs(store, notifying_policy, action_request, receiver, monkeypatch):
    monkeypatch.setattr(notifying, "TIME_S", 60.0)
    released = threading.Event()
    receiver.answers = [lambda *_: released.wait(20)]
    promote = "{command: {run: ['true'], undo: ['true']}}"
    rules = notifying_policy(promote, extra=f"approvals: {{promote: 0}}\n{ROLES}")
    intent = ask(store, rules, ANN, action_request())
    stop, said = threading.Event(), []
    worker = threading.Thread(target=run_worker, args=(store, lambda _: rules, stop), kwargs={"say": said.append})
    worker.start()
    try:
        wait_for(store, intent.id)
        while not receiver.requests:
            time.sleep(0.02)
        rollback = ask(store, rules, ANN, action_request("rollback"))
        wait_for(store, rollback.id)  # although the message on the promotion is still being sent
    finally:
        released.set()
        stop.set()
        worker.join(20)
    assert not worker.is_alive()


def wait_for(store, intent_id: str) -> None:
    deadline = time.monotonic() + 15
    while store.control.intent(intent_id).state is not IntentState.ACKNOWLEDGED:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_receiver_that_hangs_costs_a_bounded_time(store, notifying_policy, action_request, receiver, monkeypatch):
    monkeypatch.setattr(notifying, "TIME_S", 0.3)
    released, said = threading.Event(), []
    receiver.answers = [lambda *_: released.wait(20)]
    rules = notifying_policy(extra=f"approvals: {{promote: 2}}\n{ROLES}")
    ask(store, rules, ANN, action_request())
    began = time.monotonic()
    try:
        notify_people(store, lambda _: rules, said.append)
    finally:
        released.set()
    assert time.monotonic() - began < 5
    assert len(said) == 2


def test_broken_decisions_policies_and_hooks_raise_nothing(store, notifying_policy, action_request, receiver):
    rules = notifying_policy(extra=f"approvals: {{promote: 2}}\n{ROLES}", kinds=["hook"])
    ask(store, rules, ANN, action_request())
    said = []

    def refuse(_):
        raise PolicyError("evaluator.yaml:3: metrics: is missing")

    notify_people(store, refuse, said.append)
    assert "people are not notified of i1: evaluator.yaml:3" in said[-1]
    quick = type(store).open(store.path, wait_s=0.1)
    with closing(sqlite3.connect(store.control.file.path, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        notify_people(quick, lambda _: rules, said.append)
    assert "people are not notified now: " in said[-1]
    assert receiver.requests == []
    notify_people(store, lambda _: rules, said.append)
    assert len(receiver.requests) == 1


def test_without_the_store_people_are_notified_as_well_as_possible(notifying_policy, receiver):
    rules = notifying_policy().promotion
    said = []
    arguments = (Action.ROLLBACK, "cart@1.9.0", ANN, "carts are odd", IntentState.FAILED, "undo: haproxy failed")
    notify_without_store(rules, *arguments, said.append)
    [message] = messages(receiver)
    assert (message["type"], message["action"], message["reason"]) == ("request.failed", "rollback", "carts are odd")
    assert "without the database, from the journal: undo: haproxy failed" in message["summary"]
    assert len(receiver.requests) == 2
    assert said == []
    receiver.answers = [reply(400)]
    notify_without_store(rules, *arguments, said.append)
    assert len(said) == 2


# ------------------------------------------------------------------ the policy


def test_whom_to_notify_changes_no_request(policy):
    before = policy("approvals: {promote: 2}").promotion.hash
    assert policy("approvals: {promote: 2}\nhooks: {notify: [{command: {run: [x]}}]}").promotion.hash == before
    assert policy("approvals: {promote: 2}\nlink: https://x.example.org").promotion.hash == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hooks: {notify: [undo]}", "undo is allowed only among the hooks of rollback"),
        (
            "hooks: {notify: [{haproxy: {socket: /s, backend: b, servers: {baseline: a, canary: c}}}]}",
            "haproxy changes something, so it cannot notify people; use notify, webhook, http or command",
        ),
        ("hooks: {notify: [{command: {set: [a], get: [b]}}]}", "command changes something"),
        ("link: ftp://x", "must be an address with http:// or https://"),
        ("link: 'https://u:p@x'", "must be an address with http:// or https://"),
        ("link: 'javascript:alert(1)'", "must be an address"),
        ("link: 'https://x/${TOKEN}'", "cannot have ${TOKEN}"),
        ("link: 'https://x/a b'", "must not have spaces"),
    ],
)
def test_what_cannot_notify_is_refused(policy, text, says):
    with pytest.raises(PolicyError) as caught:
        policy(text)
    assert says in caught.value.message


def test_the_environment_has_the_address_of_a_job(monkeypatch):
    words = {"release": "cart@1 2&x", "outcome": "failed", "baseline": "", "canary": ""}
    assert make_link("https://x/?r=${release}", words) == "https://x/?r=cart%401%202%26x"
    assert make_link("", words) == ""
    monkeypatch.setenv("EVALUATOR_LINK", "https://ci/job/7")
    assert make_link("https://x/", words) == "https://ci/job/7"
    monkeypatch.setenv("EVALUATOR_LINK", "javascript:alert(1)")
    assert make_link("https://x/", words) == ""
