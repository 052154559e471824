"""Executed once in effect: whatever is killed, races, hangs, fails or changes in between."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evaluator.errors import Refused, StoreBusy, UsageError
from evaluator.intents import (
    approve,
    ask,
    execute,
    execute_waiting,
    find_latest,
    plan_action,
    preview_action,
    read_hook_release,
    read_release_to_preview,
    resolve,
    retry,
    run_worker,
    system_person,
)
from evaluator.records import Release, Service
from evaluator.records.intents import Action, HookOutcome, IntentState

sys.path.insert(0, str(Path(__file__).parent.parent))
from hooks_world import receiving, reply


@pytest.fixture
def secret(monkeypatch):
    import base64

    value = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    monkeypatch.setenv("HOOK_SECRET", value)
    return value


@pytest.fixture
def receiver():
    with receiving() as http_receiver:
        yield http_receiver


def webhook(receiver, extra=""):
    return f"{{webhook: {{url: '{receiver.url}/hook', secret: '${{HOOK_SECRET}}', allow_hosts: [127.0.0.1]{extra}}}}}"


def promoted(store, rules, action_request, person=None):
    """Ask and execute."""
    intent = ask(store, rules, person or system_person(), action_request())
    return execute(store, lambda _: rules, intent.id, "w1")


def outcome(store, intent, number=1):
    return {delivery.position + 1: delivery for delivery in store.control.deliveries(intent.id)}[number].outcome


# ------------------------------------------------------------------ in order


def test_hooks_run_in_order_and_announcements_tell_what_came_of_it(store, policy, action_request, script, lines):
    rules = policy(
        f"hooks:\n  promote: [{script('one', '${canary}')}, {script('two')}]\n"
        f"  announce: [{script('${action}', '${outcome}')}]\n"
    )
    intent = promoted(store, rules, action_request)
    assert intent.state is IntentState.ACKNOWLEDGED
    assert lines() == ["one-1.9.0", "two", "promote-acknowledged"]
    assert [delivery.event for delivery in store.control.deliveries(intent.id)] == ["promote", "promote", "announce"]
    assert store.control.verify_audit()


@pytest.mark.parametrize(("extra", "then"), [("", ["one", "two"]), (", required: true", ["one"])])
def test_a_hook_that_fails_stops_the_others_where_it_is_required(
    store, policy, action_request, script, lines, extra, then
):
    rules = policy(f"hooks:\n  promote: [{script('one', code=3, extra=extra)}, {script('two')}]\n")
    intent = promoted(store, rules, action_request)
    assert intent.state is IntentState.FAILED
    assert lines() == then
    last_text = store.control.audit()[-1].text
    assert last_text.startswith("hook 1 (command) failed")
    assert ("1 after it not executed" in last_text) == bool(extra)


def test_an_unknown_outcome_stops_the_others_where_the_hook_is_required(store, policy, action_request, script, lines):
    hangs = "{command: {run: [sleep, '9'], timeout: 200ms, required: true}}"
    assert (
        promoted(store, policy(f"hooks:\n  promote: [{hangs}, {script('two')}]\n"), action_request).state
        is IntentState.UNKNOWN
    )
    assert lines() == []


def test_an_announcement_that_fails_leaves_the_promotion_done(store, policy, action_request, script):
    rules = policy(f"hooks:\n  promote: [{script('one')}]\n  announce: [{script('x', code=1)}]\n")
    assert promoted(store, rules, action_request).state is IntentState.ACKNOWLEDGED


def test_no_version_is_promoted_that_was_not_judged_but_a_rollback_is_executed(
    store, policy, action_request, script, lines
):
    hooks = f"promote: [{script('${canary}', undo='back')}]"
    rules = policy(f"hooks: {{{hooks}}}\n")
    waits = ask(store, rules, system_person(), action_request())
    store.control.add_release(Release("cart@1.9.0", (Service("", canary="9.9"),)))  # as an import of the same files
    (service,) = store.control.release("cart@1.9.0").services
    assert (service.name, service.canary) == ("cart", "9.9")
    assert execute(store, lambda _: rules, waits.id, "w").state is IntentState.FAILED
    says = "the versions are not those that were judged: canary is 9.9, not 1.9.0"
    assert says in store.control.audit()[-1].text
    with pytest.raises(Refused, match=says):
        promoted(store, rules, action_request)
    assert lines() == []
    store.control.add_release(Release("cart@1.9.0", (Service("", canary="1.9.0"),)))
    again = policy(f"hooks: {{{hooks}}}\napprovals: {{expires: 5h}}\n")  # another request than the failed one
    assert promoted(store, again, action_request).state is IntentState.ACKNOWLEDGED
    store.control.add_release(Release("cart@1.9.0", (Service("cart", canary="9.9"),)))
    back = ask(store, again, system_person(), action_request("rollback"))
    assert execute(store, lambda _: again, back.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines() == ["1.9.0", "back"]


@pytest.mark.parametrize("is_promoted", [True, False])
def test_a_rollback_gets_the_versions_of_the_promotion_that_it_takes_back(
    is_promoted, store, policy, action_request, script, lines
):
    """Not those that an import gave since. Without a promotion, those of the verdict at its request."""
    rules = policy(
        f"hooks:\n  promote: [{script('${canary}', undo='undo-${canary}-${baseline}')}]\n"
        f"  rollback: [undo, {script('own', '${baseline}', '${canary}')}]\n"
    )
    if is_promoted:
        promoted(store, rules, action_request)
    store.control.add_release(Release("cart@1.9.0", (Service("cart", "7.0", "9.9"),)))
    planned, _ = plan_action(store, rules, "cart@1.9.0", Action.ROLLBACK)
    versions = read_release_to_preview(store, "cart@1.9.0", Action.ROLLBACK)
    shown = preview_action(planned, Action.ROLLBACK, versions, None, datetime.now(UTC) + timedelta(seconds=9))
    assert "own-1.4.1-1.9.0" in shown[-1].description
    assert "7.0" not in "".join(step.description for step in shown)
    back = ask(store, rules, system_person(), action_request("rollback"))
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines() == (["1.9.0", "undo-1.9.0-1.4.1"] if is_promoted else []) + ["own-1.4.1-1.9.0"]


def judge_versions(store, baseline, canary):
    """Store the newest verdict again, on other versions of the same data, which the release then has."""
    latest = json.loads(find_latest(store, "cart@1.9.0").json)
    (service,) = latest["services"]
    service |= {"baseline": baseline, "canary": canary}
    store.control.add_release(Release("cart@1.9.0", (Service("cart", baseline, canary),)))
    store.control.save_verdict("cart@1.9.0", json.dumps(latest), datetime.now(UTC), "go")


def test_a_rollback_of_two_promotions_gets_what_was_live_before_the_first(store, policy, action_request, script, lines):
    hooks = f"promote: [{script('${canary}', undo='undo-${canary}-${baseline}')}]"
    rules = policy(f"hooks: {{{hooks}, rollback: [undo, {script('own', '${baseline}', '${canary}')}]}}\n")
    first = promoted(store, rules, action_request)
    judge_versions(store, "1.9.0", "1.9.1")
    second = promoted(store, rules, action_request)
    assert (first.id, second.state) != (second.id, IntentState.FAILED), store.control.audit()[-1].text
    back = ask(store, rules, system_person(), action_request("rollback"))
    assert back.undoes == (second.id, first.id)
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines() == ["1.9.0", "1.9.1", "undo-1.9.1-1.9.0", "undo-1.9.0-1.4.1", "own-1.4.1-1.9.1"]


def test_nothing_is_begun_after_a_signal_that_came_while_it_waited(store, policy, action_request, script, lines):
    rules, stop = policy(f"hooks: {{promote: [{script('one')}]}}\n"), threading.Event()
    intent = ask(store, rules, system_person(), action_request())
    stop.set()
    assert execute(store, lambda _: rules, intent.id, "w", stop=stop).state is IntentState.APPROVED
    assert lines() == []


def test_versions_are_not_known_where_the_verdict_cannot_be_read(store):
    """Those of now may be others than those that were judged."""
    (service,) = read_hook_release(store, "cart@1.9.0", Action.HOLD, "sha256:another", ()).services
    assert service == Service("cart")
    (service,) = read_hook_release(store, "cart@1.9.0", Action.HOLD, "", ()).services
    assert service == Service("cart", "1.4.1", "1.9.0"), "it was not judged"


def test_a_hook_never_acts_with_a_version_that_is_not_known(store, policy, action_request, script, lines):
    """A rollback and an override have no condition on versions; the other hooks are executed."""
    judge_versions(store, "", "1.9.0")
    rules = policy(
        f"hooks:\n  rollback: [{{command: {{run: [echo, '--to=${{baseline}}']}}}}, {script('other')}]\n"
        f"  announce: [{script('announced', '${baseline}')}]\n"
    )
    back = ask(store, rules, system_person(), action_request("rollback"))
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.FAILED
    assert "it uses ${baseline}, and the version of baseline is not known" in outcome(store, back).text
    assert lines() == ["other", "announced-"]


def test_a_rollback_takes_back_what_was_done_the_last_hook_first(store, policy, action_request, script, lines):
    rules = policy(
        f"hooks:\n  promote: [{script('one', undo='not-one')}, {script('told')}, {script('two', undo='not-two')}]\n"
        f"  rollback: [undo, {script('${action}', '${baseline}')}]\n"
    )
    promoted(store, rules, action_request)
    back = ask(store, rules, system_person(), action_request("rollback", reason="carts are odd"))
    assert execute(store, lambda _: rules, back.id, "w2").state is IntentState.ACKNOWLEDGED
    assert lines()[3:] == ["not-two", "not-one", "rollback-1.4.1"]
    assert "cannot be undone" in store.control.audit()[-1].text
    with pytest.raises(Refused, match="nothing to roll back") as caught:
        ask(
            store,
            policy(f"hooks: {{promote: [{script('one')}]}}"),
            system_person(),
            action_request("rollback", reason="again"),
        )
    assert "rolled it back at" in caught.value.message


def test_going_back_does_not_stop_at_a_required_hook_that_fails(store, policy, action_request, script, lines):
    """The undo of the last hook fails first; traffic goes back all the same, and a retry tries the rest again."""
    required = ", required: true"
    rules = policy(
        f"hooks:\n  promote: [{script('traffic', undo='traffic-back', extra=required)},"
        f" {{command: {{run: ['true'], undo: ['false']{required}}}}}]\n"
        f"  rollback: [undo, {script('own', code=1, extra=required)}, {script('last')}]\n"
    )
    promoted(store, rules, action_request)
    back = ask(store, rules, system_person(), action_request("rollback", reason="carts are odd"))
    assert execute(store, lambda _: rules, back.id, "w2").state is IntentState.FAILED
    assert lines() == ["traffic", "traffic-back", "own", "last"]
    assert store.control.audit()[-1].text == "hook 1 (command) failed; hook 3 (command) failed"


def test_a_rollback_undoes_by_the_options_that_were_executed(store, policy, action_request, script, lines):
    rules = policy(f"hooks:\n  promote: [{script('one', undo='as-it-was')}]\n")
    promoted(store, rules, action_request)
    changed = policy(f"hooks:\n  promote: [{script('other', undo='as-it-never-was')}]\n")
    back = ask(store, changed, system_person(), action_request("rollback"))
    execute(store, lambda _: changed, back.id, "w2")
    assert lines() == ["one", "as-it-was"]


# ------------------------------------------------------------------ checked again


def test_a_stale_go_does_not_promote(store, policy, action_request, script, lines):
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\n")
    intent = ask(store, rules, system_person(), action_request())
    run = store.data.runs("cart@1.9.0")[0]
    store.data.register_run(store.control.release("cart@1.9.0"), replace(run, id="later-0", group="later", landed=0))
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.FAILED
    assert "data have landed or changed" in store.control.audit()[-1].text
    assert lines() == []


def test_a_newer_verdict_another_policy_and_lost_permission_refuse_it(
    store, policy, action_request, script, lines, person
):
    from evaluator.pipeline.judging import judge_release

    hooks = f"hooks: {{promote: [{script('one')}]}}\n"
    may = policy(f"{hooks}roles: {{approver: [bob]}}\n")
    for text, says in (
        (f"{hooks}roles: {{approver: [cleo]}}\n", "bob no longer has permission"),
        (f"{hooks}roles: {{approver: [bob]}}\nalpha: 0.01\n", "the policy has changed"),
        (f"hooks: {{promote: [{script('two')}]}}\nroles: {{approver: [bob]}}\n", "hooks or approvals have changed"),
    ):
        intent = ask(store, may, person("bob"), action_request())
        changed = policy(text)
        assert execute(store, lambda _, changed=changed: changed, intent.id, "w").state is IntentState.FAILED
        assert says in store.control.audit()[-1].text
    intent = ask(store, may, person("bob"), action_request())
    judge_release(store, "cart@1.9.0", may, judged_at=datetime.now(UTC))
    assert execute(store, lambda _: may, intent.id, "w").state is IntentState.FAILED
    assert "its verdict is not the latest" in store.control.audit()[-1].text
    assert lines() == []


def test_what_waits_for_approvals_is_not_executed(store, policy, action_request, script, lines):
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\napprovals: {{promote: 2}}\n")
    intent = ask(store, rules, system_person(), action_request())
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.REQUESTED
    assert execute_waiting(store, lambda _: rules, "w") == ()
    assert lines() == []


def test_what_was_executed_is_not_executed_again(store, policy, action_request, script, lines):
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\n")
    intent = promoted(store, rules, action_request)
    assert execute(store, lambda _: rules, intent.id, "w2") == store.control.intent(intent.id)
    assert ask(store, rules, system_person(), action_request()).id == intent.id
    assert lines() == ["one"]


def test_a_forged_approval_without_permission_does_not_count(store, policy, action_request, script, lines, person):
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\nroles: {{analyst: [ana], approver: [bob]}}\n")
    intent = ask(store, rules, person("ana"), action_request())
    store.control.approve(intent.id, person("eve"))
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.FAILED
    assert "0 of 1 approvals are valid" in store.control.audit()[-1].text
    assert lines() == []


# ------------------------------------------------------------------ races


def test_many_workers_execute_once(store, policy, action_request, script, lines):
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\n")
    intent = ask(store, rules, system_person(), action_request())

    def work(name):
        execute(store, lambda _: rules, intent.id, name, wait_s=20)

    threads = [threading.Thread(target=work, args=(f"w{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines() == ["one"]


def test_a_second_process_gets_an_error_while_another_executes(store, policy, action_request, script):
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\n")
    intent = ask(store, rules, system_person(), action_request())
    with store.control.alone(["cart"]) as held:
        assert held
        with pytest.raises(StoreBusy, match=r"another process is executing an intent of cart@1.9.0"):
            execute(store, lambda _: rules, intent.id, "w")


def test_a_worker_executes_what_is_approved_as_it_comes(store, policy, action_request, script, lines):
    rules, stop, messages = policy(f"hooks: {{promote: [{script('one')}]}}\n"), threading.Event(), []
    worker = threading.Thread(
        target=run_worker, args=(store, lambda _: rules, stop), kwargs={"say": messages.append, "poll_s": 0.05}
    )
    worker.start()
    try:
        intent = ask(store, rules, system_person(), action_request())
        deadline = time.monotonic() + 20
        while store.control.intent(intent.id).state is not IntentState.ACKNOWLEDGED:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        stop.set()
        worker.join(10)
    assert lines() == ["one"]
    assert messages == ["i1 (promote cart@1.9.0) is acknowledged"]


def test_a_worker_that_is_stopped_begins_no_other_intent(store, policy, action_request):
    hook = "[{command: {run: ['true']}}]"
    rules, stop = policy(f"hooks: {{hold: {hook}, rollback: {hook}}}\n"), threading.Event()
    first, second = (ask(store, rules, system_person(), action_request(action)) for action in ("hold", "rollback"))

    def load(_release):
        stop.set()  # a signal during the first
        return rules

    assert [intent.id for intent in execute_waiting(store, load, "w", stop=stop)] == [first.id]
    assert execute_waiting(store, load, "w", stop=stop) == ()
    assert store.control.intent(second.id).state is IntentState.APPROVED


def test_a_worker_outlives_a_broken_policy(store, policy, action_request, script, lines):
    good = policy(f"hooks: {{promote: [{script('one')}]}}\n")
    ask(store, good, system_person(), action_request())
    answers = [UsageError("evaluator.yaml:1: broken")]

    def load(_release):
        if answers:
            raise answers.pop()
        return good

    assert execute_waiting(store, load, "w")[0].state is IntentState.FAILED
    assert "evaluator.yaml:1: broken" in store.control.audit()[-1].text


# ------------------------------------------------------------------ killed


PROMOTE = [sys.executable, "-m", "evaluator", "promote", "cart@1.9.0", "--yes", "-q"]


def kill_while_sending(folder, began):
    """Promote in a process of its own, and kill it between send and acknowledgement."""
    process = subprocess.Popen(PROMOTE, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not began():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


def test_killed_between_send_and_acknowledgement_a_webhook_is_sent_again_with_the_same_key(
    store, folder, policy, secret, receiver
):
    released = threading.Event()
    receiver.answers = [lambda handler, received: released.wait(30), reply()]
    rules = policy(f"hooks: {{promote: [{webhook(receiver)}]}}\n")
    kill_while_sending(folder, lambda: receiver.requests)
    released.set()
    (intent,) = store.control.intents()
    assert intent.state is IntentState.SENT
    assert execute_waiting(store, lambda _: rules, "another")[0].state is IntentState.ACKNOWLEDGED
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    (delivery,) = store.control.deliveries(intent.id)
    assert delivery.attempts == 2
    assert execute_waiting(store, lambda _: rules, "another") == ()


def test_killed_while_a_program_ran_a_person_decides(store, folder, policy, action_request):
    rules = policy(
        'hooks: {promote: [{command: {run: [sh, -c, "echo began >> HERE/out.txt; sleep 30"], required: true}},'
        ' {command: {run: [sh, -c, "echo second >> HERE/out.txt"]}}]}\n'
    )
    kill_while_sending(folder, (folder / "out.txt").exists)
    (intent,) = execute_waiting(store, lambda _: rules, "another")
    assert intent.state is IntentState.UNKNOWN
    assert "it may have been done" in outcome(store, intent).text
    assert (folder / "out.txt").read_text().split() == ["began"]
    assert ask(store, rules, system_person(), action_request()).id == intent.id
    settled = resolve(store, rules, system_person(), intent.id, 1, done=True, reason="it shows in production")
    assert settled.state is IntentState.FAILED  # the second hook was not executed yet
    with pytest.raises(UsageError, match="hook 1 of i1 is acknowledged"):
        resolve(store, rules, system_person(), intent.id, 1, done=True, reason="again")
    retry(store, rules, system_person(), intent.id)
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    assert (folder / "out.txt").read_text().split() == ["began", "second"]


def test_the_first_earlier_value_survives_a_kill(store, policy, action_request, script, monkeypatch):
    """A hook that is executed once more may read what it changed itself."""
    rules = policy(f"hooks: {{promote: [{script('one', undo='back', extra=', idempotent: true')}]}}\n")
    values = iter([{"weight": 90}, {"weight": 0}])
    monkeypatch.setattr("evaluator.hooks.command.Command._read", lambda _self: next(values))
    intent = ask(store, rules, system_person(), action_request())
    store.control.claim(intent, "killed")
    (fresh,) = store.control.intents()
    from evaluator.records.intents import Delivery

    sent = Delivery(
        intent.id,
        0,
        "command",
        1,
        HookOutcome(IntentState.SENT, "", '{"weight": 90}'),
        datetime.now(UTC),
        "promote",
        "{}",
    )
    next(values)
    store.control.deliver(sent, fresh.release, "killed")
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    assert outcome(store, intent).undo == '{"weight": 90}'


def test_what_was_begun_and_must_not_go_on_is_unknown(store, folder, policy, action_request, secret, receiver, script):
    released = threading.Event()
    receiver.answers = [lambda handler, received: released.wait(30), reply()]
    policy(f"hooks: {{promote: [{webhook(receiver)}]}}\n")
    kill_while_sending(folder, lambda: receiver.requests)
    released.set()
    changed = policy(f"hooks: {{promote: [{script('another')}]}}\n")
    assert execute_waiting(store, lambda _: changed, "another")[0].state is IntentState.UNKNOWN
    assert len(receiver.requests) == 1


# ------------------------------------------------------------------ again


def test_a_retry_executes_what_failed_and_what_was_not_reached(store, folder, policy, action_request, lines):
    rules = policy(
        'hooks: {promote: [{command: {run: [sh, -c, "echo one >> HERE/out.txt"]}},'
        ' {command: {run: [sh, -c, "test -e HERE/ready"], required: true}},'
        ' {command: {run: [sh, -c, "echo three >> HERE/out.txt"]}}],'
        ' announce: [{command: {run: [sh, -c, "echo ${outcome} >> HERE/out.txt"]}}]}\n'
    )
    intent = promoted(store, rules, action_request)
    assert intent.state is IntentState.FAILED
    assert ask(store, rules, system_person(), action_request()).id == intent.id
    (folder / "ready").touch()
    assert retry(store, rules, system_person(), intent.id).state is IntentState.APPROVED
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.ACKNOWLEDGED
    assert lines() == ["one", "failed", "three", "acknowledged"]
    with pytest.raises(UsageError, match="is acknowledged, so there is nothing to try again"):
        retry(store, rules, system_person(), intent.id)


def test_an_attempt_that_fails_before_it_reads_the_value_counts(store, policy, action_request, tmp_path):
    nowhere = tmp_path / "haproxy.sock"
    rules = policy(
        f"hooks: {{promote: [{{haproxy: {{socket: {nowhere}, backend: b, servers: {{baseline: b, canary: c}}}}}}]}}\n"
    )
    intent = promoted(store, rules, action_request)
    for attempts in (1, 2, 3):
        (delivery,) = store.control.deliveries(intent.id)
        assert (delivery.attempts, delivery.outcome.state) == (attempts, IntentState.FAILED)
        retry(store, rules, system_person(), intent.id)
        execute(store, lambda _: rules, intent.id, "w")


def test_a_receiver_that_hangs_and_then_refuses_stays_unknown(store, policy, action_request, secret, receiver):
    stop = threading.Event()
    receiver.answers = [lambda handler, received: stop.wait(5), reply(410)]
    rules = policy(f"hooks: {{promote: [{webhook(receiver, ', timeout: 500ms, time_limit: 600ms')}]}}\n")
    intent = promoted(store, rules, action_request)
    assert intent.state is IntentState.UNKNOWN
    retry(store, rules, system_person(), intent.id)
    assert execute(store, lambda _: rules, intent.id, "w").state is IntentState.UNKNOWN
    assert "an earlier attempt may have been done" in outcome(store, intent).text
    stop.set()


def test_a_receiver_that_answers_twice_gets_the_same_key(store, policy, action_request, secret, receiver):
    rules = policy(f"hooks: {{promote: [{webhook(receiver)}, {webhook(receiver)}]}}\n")
    intent = promoted(store, rules, action_request)
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert len(set(ids)) == 2
    assert all(message_id.startswith(intent.key) for message_id in ids)


def test_a_receiver_that_lies_with_a_redirect_is_not_followed(store, policy, action_request, secret, receiver):
    receiver.answers = [reply(302, b"", Location="http://169.254.169.254/")]
    rules = policy(f"hooks: {{promote: [{webhook(receiver)}]}}\n")
    assert promoted(store, rules, action_request).state is IntentState.FAILED
    assert len(receiver.requests) == 1


def test_secrets_are_nowhere(store, folder, policy, action_request, secret, receiver):
    import json

    bare = secret.removeprefix("whsec_")
    receiver.answers = [reply(200, f"thanks for {secret} and {bare}".encode())]
    rules = policy(f"hooks: {{promote: [{webhook(receiver)}]}}\n")
    intent = promoted(store, rules, action_request)
    assert intent.state is IntentState.ACKNOWLEDGED
    assert "[secret]" in outcome(store, intent).response
    shown = json.dumps([str(row) for row in (*store.control.audit(), *store.control.deliveries())])
    for path in folder.rglob("*"):
        raw = path.read_bytes() if path.is_file() else b""
        assert bare.encode() not in raw, path
    assert bare not in shown


def test_a_receiver_that_repeats_the_secret_of_another_hook_has_it_nowhere(
    store, folder, policy, action_request, secret, receiver, monkeypatch
):
    monkeypatch.setenv("OTHER_TOKEN", "tok-0123456789abcdef")
    receiver.answers = [reply(200), reply(400, b"x" * 1990 + b"tok-0123456789abcdef"), reply(200, secret.encode())]
    http = f"{{http: {{url: '{receiver.url}/x', headers: {{X-Token: '${{OTHER_TOKEN}}'}}, allow_hosts: [127.0.0.1]}}}}"
    rules = policy(f"hooks: {{promote: [{http}, {webhook(receiver)}, {http}]}}\n")
    intent = promoted(store, rules, action_request)
    shown = json.dumps([str(delivery) for delivery in store.control.deliveries(intent.id)])
    assert shown.count("[secret]") == 2  # a whole one, and one that was cut
    for path in folder.rglob("*"):
        raw = path.read_bytes() if path.is_file() else b""
        assert secret.removeprefix("whsec_").encode() not in raw, path
        assert b"tok-012345" not in raw, path


def test_an_approver_who_approves_twice_counts_once(store, policy, action_request, script, person):
    rules = policy(f"hooks: {{promote: [{script('one')}]}}\napprovals: {{promote: 2}}\nroles: {{approver: '*'}}\n")
    intent = ask(store, rules, person("ana"), action_request())
    approve(store, rules, person("bob"), intent.id)
    assert approve(store, rules, person("bob"), intent.id).state is IntentState.REQUESTED


def test_what_was_rolled_back_is_not_tried_again(store, policy, action_request, script):
    rules = policy(f"hooks: {{promote: [{script('one', undo='back')}, {script('two', code=1)}]}}\n")
    intent = promoted(store, rules, action_request)
    back = ask(store, rules, system_person(), action_request("rollback", reason="half of it failed"))
    assert execute(store, lambda _: rules, back.id, "w").state is IntentState.ACKNOWLEDGED
    with pytest.raises(Refused, match=r"i2 .rollback. was requested after i1"):
        retry(store, rules, system_person(), intent.id)
