import base64
import json
import urllib.request

import pytest
from hooks_world import make_context, paste, receiving, reply
from metrics_servers import program, running

from evaluator.errors import HookError
from evaluator.hooks import make_hook
from evaluator.sources.load import free_port


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    client, peer = free_port(), free_port()
    url, peers = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    command = [
        program("etcd"), "--data-dir", str(tmp_path_factory.mktemp("etcd")), "--listen-client-urls", url,
        "--advertise-client-urls", url, "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
        "--initial-cluster", f"default={peers}", "--log-level", "error",
    ]  # fmt: skip
    with running(command, client, "/health"):
        yield url


def post(url, path, **message):
    encoded = {k: base64.b64encode(v.encode()).decode() if k in ("key", "value") else v for k, v in message.items()}
    request = urllib.request.Request(f"{url}/v3/{path}", json.dumps(encoded).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=5) as response:
        return json.load(response)


def value_of(url, key):
    entries = post(url, "kv/range", key=key).get("kvs")
    return base64.b64decode(entries[0].get("value", "")).decode() if entries else None


def hook_for(url, key, **extra):
    options = {"url": url, "key": key, "value": '{"active": "${canary}"}', "allow_hosts": ["127.0.0.1"]}
    return make_hook("etcd", options | extra, {"PASSWORD": "etcd-passw0rd"})


@pytest.mark.parametrize("before", [None, "1.4.1", "ünï\n", ""])
def test_set_and_restored(before, etcd):
    key = f"/shop/cart/{before!r}"
    if before is not None:
        post(etcd, "kv/put", key=key, value=before)
    hook = hook_for(etcd, key)
    outcome = hook.execute(make_context())
    assert (outcome.state, outcome.earlier["value"]) == ("acknowledged", before)
    assert value_of(etcd, key) == '{"active": "1.5.0"}'
    assert "already" in hook.execute(make_context()).did
    assert hook.undo(make_context(), json.loads(json.dumps(outcome.earlier))).state == "acknowledged"
    assert value_of(etcd, key) == before


def test_a_write_in_between_is_not_overwritten(etcd, monkeypatch):
    hook = hook_for(etcd, "/race")
    read = hook._read

    def read_and_lose():
        state = read()
        post(etcd, "kv/put", key="/race", value="theirs")
        return state

    monkeypatch.setattr(hook, "_read", read_and_lose)
    outcome = hook.execute(make_context())
    assert outcome.state == "failed"
    assert "changed in the meantime" in outcome.did
    assert value_of(etcd, "/race") == "theirs"


def test_undo_does_not_overwrite_what_came_later(etcd):
    hook = hook_for(etcd, "/later")
    outcome = hook.execute(make_context())
    post(etcd, "kv/put", key="/later", value="theirs")
    assert hook.undo(make_context(), outcome.earlier).state == "failed"
    assert value_of(etcd, "/later") == "theirs"


def test_a_key_that_vanished_is_not_set_again_by_undo_and_what_to_do_is_said(etcd):
    post(etcd, "kv/put", key="/gone", value="1.4.1")
    hook = hook_for(etcd, "/gone")
    outcome = hook.execute(make_context())
    post(etcd, "kv/deleterange", key="/gone")
    undone = hook.undo(make_context(), outcome.earlier)
    assert undone.did.startswith(
        "/gone was deleted after the hook had set it; nothing was done (set it to 1.4.1 by hand"
    )
    assert (undone.state, value_of(etcd, "/gone")) == ("failed", None)


@pytest.mark.parametrize(
    "answer", [b'{"kvs": [7]}', b'{"kvs": [{"value": "%"}]}', b'{"kvs": [{"mod_revision": "x"}]}', b"[]"]
)
def test_an_answer_that_is_not_of_etcd_changes_nothing(answer, receiver):
    receiver.answers = [reply(200, answer)]
    hook = hook_for(receiver.url, "/k")
    assert hook.execute(make_context()).state == hook.test().state == "failed"
    receiver.answers = [reply(200, b"{}"), reply(200, b'{"succeeded": true}')]
    assert hook.execute(make_context()).state == "unknown"


def test_test_and_dry_run_touch_nothing(etcd):
    hook = hook_for(etcd, "/untouched")
    assert hook.test().state == "acknowledged"
    assert hook.execute(make_context(dry_run=True)).state == "acknowledged"
    assert value_of(etcd, "/untouched") is None


def test_an_answer_that_is_lost_may_have_been_done(receiver):
    empty = b'{"header": {"revision": "3"}}'
    receiver.answers = [reply(200, empty), reply(500, b"lost")]
    assert hook_for(receiver.url, "/k").execute(make_context()).state == "unknown"


def test_a_login_is_used_and_not_shown(receiver):
    receiver.answers = [reply(200, b'{"token": "t0"}'), reply(200, b"{}"), reply(401, b"etcd-passw0rd is wrong")]
    hook = hook_for(receiver.url, "/k", username="root", password="${PASSWORD}")
    outcome = hook.execute(make_context())
    assert json.loads(receiver.requests[0].body) == {"name": "root", "password": "etcd-passw0rd"}
    assert receiver.requests[1].headers["authorization"] == "t0"
    assert outcome.state == "failed"
    assert "etcd-passw0rd" not in repr(outcome)


@pytest.mark.parametrize(
    "answer",
    [b'{"kvs": ["text"]}', b'{"kvs": [{"value": 7}]}', b'{"kvs": [{"value": "bmV3"}]}', b'{"kvs": 1}', b"[" * 30_000,
     b'{"kvs": [{"value": "b2xk", "mod_revision": 1e400}]}'],
)  # fmt: skip
def test_an_answer_of_another_form_is_an_outcome_that_says_so(answer):
    with receiving() as receiver:
        receiver.answers = [reply(200, answer)]
        hook = hook_for(receiver.url, "/shop/cart")
        tested = hook.test()
        assert tested.state == "failed"
        assert "etcd" in tested.did
        assert "unexpected" not in tested.did
        assert hook.execute(make_context()).state in ("failed", "unknown")
        with pytest.raises(HookError):
            hook.read()


@pytest.mark.parametrize("before", [None, "it's ünï\n", ""])
def test_the_earlier_value_can_be_restored_by_hand(before, etcd):
    key = f"/by hand/{before!r}"
    if before is not None:
        post(etcd, "kv/put", key=key, value=before)
    hook = hook_for(etcd, key)
    outcome = hook.execute(make_context())
    assert value_of(etcd, key) == '{"active": "1.5.0"}'
    paste(hook, undoes=True, earlier=outcome.earlier)
    assert value_of(etcd, key) == before


def test_the_login_by_hand_gets_its_password_from_the_environment(receiver):
    receiver.answers = [reply(200, b'{"token": "t0k"}'), reply()]
    hook = hook_for(receiver.url, "/k", username="it's me", password="${PASSWORD}")
    lines, _ = paste(hook, environment={"PASSWORD": 'a"b$c'})
    login, put = receiver.requests
    assert json.loads(login.body) == {"name": "it's me", "password": 'a"b$c'}
    assert put.headers["authorization"] == "t0k"
    assert '"$PASSWORD"' in lines
