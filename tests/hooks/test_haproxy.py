import socket
import threading
from contextlib import closing

import pytest
from hooks_world import balancing, make_context, split_of

from evaluator.errors import PolicyError
from evaluator.hooks import make_hook


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    with balancing(tmp_path_factory.mktemp("haproxy")) as names:
        yield names


def hook_for(proxy, *, tcp=False, **extra):
    where = (
        {"address": f"127.0.0.1:{proxy['api']}", "allow_hosts": ["127.0.0.1"]}
        if tcp
        else {"socket": str(proxy["socket"])}
    )
    return make_hook("haproxy", where | {"backend": "shop", "weights": {"baseline": 0, "canary": 100}} | extra)


@pytest.mark.parametrize("tcp", [False, True])
def test_traffic_moves_and_comes_back(tcp, proxy):
    hook = hook_for(proxy, tcp=tcp)
    assert split_of(proxy["port"]) == {"baseline": 90, "canary": 10}
    assert hook.read() == {"baseline": 90, "canary": 10}
    outcome = hook.execute(make_context())
    assert (outcome.state, outcome.earlier) == ("acknowledged", {"baseline": 90, "canary": 10})
    assert split_of(proxy["port"]) == {"canary": 100}
    assert hook.execute(make_context()).state == "acknowledged", "a second time is harmless"
    assert hook.undo(make_context(), outcome.earlier).state == "acknowledged"
    assert split_of(proxy["port"]) == {"baseline": 90, "canary": 10}


def test_a_share_in_between(proxy):
    outcome = hook_for(proxy, weights={"baseline": 50, "canary": 50}).execute(make_context())
    assert split_of(proxy["port"]) == {"baseline": 50, "canary": 50}
    hook_for(proxy).undo(make_context(), outcome.earlier)


def test_test_and_dry_run_touch_nothing(proxy):
    hook = hook_for(proxy)
    assert "baseline 90, canary 10" in hook.test().did
    assert hook.execute(make_context(dry_run=True)).state == "acknowledged"
    assert hook.read() == {"baseline": 90, "canary": 10}


def test_a_server_that_is_not_there_changes_nothing(proxy):
    outcome = hook_for(proxy, weights={"canary": 100, "canery": 1}).execute(make_context())
    assert outcome.state == "failed"
    assert "No such server" in outcome.did
    assert hook_for(proxy).read() == {"baseline": 90, "canary": 10}


def test_no_server_there(tmp_path):
    hook = make_hook("haproxy", {"socket": str(tmp_path / "no"), "backend": "b", "weights": {"a": 1}})
    assert hook.test().state == "failed"
    assert "cannot be reached" in hook.execute(make_context()).did


def test_an_address_that_is_not_listed_is_refused(proxy):
    assert "allow_hosts" in hook_for(proxy, tcp=True, allow_hosts=[]).execute(make_context()).did


def test_what_is_reported_but_not_done_is_not_acknowledged():
    """An API that accepts everything and changes nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def lie():
            for _ in range(5):
                connection, _ = server.accept()
                with connection:
                    line = connection.recv(4096)
                    connection.sendall(b"10 (initial 10)\n\n" if line.startswith(b"get") else b"\n")

        threading.Thread(target=lie, daemon=True).start()
        proxy = {"api": server.getsockname()[1]}
        outcome = hook_for(proxy, tcp=True).execute(make_context())
        assert outcome.state == "failed"
        assert "the weights are baseline 10, canary 10" in outcome.did


@pytest.mark.parametrize(
    "wrong",
    [{"socket": None}, {"address": "h:1"}, {"weights": {"a": 0}}, {"backend": "b;"}, {"weights": {"a\nquit": 1}}],
)
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(PolicyError):
        make_hook("haproxy", {"socket": "s", "backend": "b", "weights": {"a": 1}} | wrong)


def test_there_must_be_something_to_restore(proxy):
    for earlier in (None, {}, {"canary": 10, "a;quit": 1}, {"canary": 0}):
        assert hook_for(proxy).undo(make_context(), earlier).state == "failed"
    assert hook_for(proxy).read() == {"baseline": 90, "canary": 10}
