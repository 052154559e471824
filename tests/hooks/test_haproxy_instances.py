"""Single servers of a real HAProxy are drained and undrained, never so that too few serve."""

from __future__ import annotations

import http.client
import threading

import pytest
from hooks_world import make_context
from metrics_servers import wait_for
from routers import haproxy_router, service

from evaluator.errors import EvaluatorError, HookError, PolicyError
from evaluator.hooks import make_hook, make_router

NAMES = ["s1", "s2", "s3"]


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    folder = tmp_path_factory.mktemp("instances")
    with service("s1") as first, service("s2") as second, service("s3") as third:
        ports = dict(zip(NAMES, (first.port, second.port, third.port), strict=True))
        with haproxy_router(folder, ports, server_options="check inter 100ms rise 1 fall 1") as made:
            wait_for(made.stats_socket.exists, "HAProxy has its socket")
            yield made


@pytest.fixture
def hook(router):
    made = make_router("haproxy", options(router))
    yield made
    made.undrain(NAMES, 5.0)


def options(router, **more):
    return {"socket": str(router.stats_socket), "backend": "shop", "instances": NAMES} | more


def batch(do, *servers, least=1, wait="2s"):
    return {"do": do, "servers": list(servers), "least_serving": least, "wait": wait}


def test_a_drained_server_serves_no_arm_and_comes_back(hook):
    assert hook.list_serving() == NAMES
    hook.assign({"baseline": ["s2", "s3"], "canary": []})
    hook.drain(["s1"], 2)
    assert (hook.list_serving(), hook.list_drained()) == (["s2", "s3"], ["s1"])
    hook.assign({"baseline": ["s2", "s3"], "canary": ["s1"]})
    assert hook.read_shares() == {"baseline": 1.0, "canary": 0.0}, "until it serves"
    hook.undrain(["s1"], 5.0)
    assert hook.read_shares()["canary"] == pytest.approx(1 / 3)


def test_a_drain_that_leaves_too_few_is_refused_and_changes_nothing(hook):
    hook.drain(["s1"], 1)
    with pytest.raises(HookError, match=r"without s2, 1 of 3 instances would serve, fewer than 2.*s1 is drained"):
        hook.drain(["s2"], 2)
    assert hook.list_serving() == ["s2", "s3"]
    hook.drain(["s1"], 2)  # of one that is drained nothing is asked: a driver that was killed drains it again


def test_sessions_are_waited_for_and_named_if_they_do_not_end(router, hook):
    def ask_slowly():
        connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=10)
        connection.request("GET", "/delay/1500")
        connection.getresponse().read()
        connection.close()

    threads = [threading.Thread(target=ask_slowly) for _ in NAMES]  # one on each, in turn
    for thread in threads:
        thread.start()
    wait_for(lambda: sum(hook._count_sessions().values()) == len(NAMES), "each works on a request")
    assert hook.wait_for_sessions(["s1"], 0.1) == "1 session of s1 had not ended after 0.1 s, and will be cut off"
    assert hook.wait_for_sessions(["s1"], 10) == ""
    for thread in threads:
        thread.join()


def test_undo_lets_serve_what_served_before_and_nothing_else(router, hook):
    hook.drain(["s2"], 1)  # by a person
    drain = make_hook("haproxy", options(router, batch=batch("drain", "s1", "s2")))
    earlier = drain.read()
    assert earlier == {"s1": "", "s2": "is drained"}
    done = drain.execute(make_context())
    assert (done.state, hook.list_serving()) == ("acknowledged", ["s3"]), done.did
    undone = drain.undo(make_context(), earlier)
    assert (undone.state, hook.list_serving()) == ("acknowledged", ["s1", "s3"]), undone.did
    assert "s2 is drained, as before" in undone.did


def test_a_server_that_is_down_does_not_serve_again_and_stays_drained(router, tmp_path):
    with service("s1") as first:
        with service("s2") as second:
            ports = {"s1": first.port, "s2": second.port}
        with haproxy_router(tmp_path, ports, server_options="check inter 100ms rise 1 fall 1") as own:
            wait_for(own.stats_socket.exists, "HAProxy has its socket")
            hook = make_router("haproxy", options(own, instances=["s1", "s2"]))
            wait_for(lambda: hook.list_serving() == ["s1"], "s2 is down")
            hook.drain(["s2"], 1)
            with pytest.raises(HookError, match=r"s2 is DOWN.*; they are as before"):
                hook.undrain(["s2"], 0.5)
            assert hook.read() == {"s1": "", "s2": "is drained"}


def test_what_was_drained_is_undone_although_its_sessions_cannot_be_counted(router, hook, monkeypatch):
    drain = make_hook("haproxy", options(router, batch=batch("drain", "s1")))
    monkeypatch.setattr(drain, "_count_sessions", lambda: (_ for _ in ()).throw(HookError("HAProxy is away")))
    outcome = drain.execute(make_context())
    assert outcome.state == "unknown", "a hook that failed is not undone"
    assert "the drain of s1 was done, but not what followed: HAProxy is away" in outcome.did
    assert hook.list_serving() == ["s2", "s3"]


def test_users_whose_cookie_names_a_drained_server_get_another_one(tmp_path):
    make_cookie = "cookie SRV insert dynamic"
    with service("s1") as first, service("s2") as second:
        ports = {"s1": first.port, "s2": second.port}
        with haproxy_router(tmp_path, ports, backend=f"{make_cookie}\n  dynamic-cookie-key k") as own:
            wait_for(own.stats_socket.exists, "HAProxy has its socket")
            status, headers = ask(own.port, {})
            cookie = {"Cookie": headers["Set-Cookie"].partition(";")[0]}
            name = headers["X-Version"]
            drain = make_hook("haproxy", options(own, instances=["s1", "s2"], batch=batch("drain", name, wait="0.2s")))
            earlier = drain.read()
            done = drain.execute(make_context())
            assert done.state == "acknowledged", done.did
            assert "in maintenance, because users with the cookie SRV would stay there" in done.did
            status, headers = ask(own.port, cookie)
            assert (status, headers["X-Version"] != name) == (200, True), "not the one that is being replaced"
            assert drain.undo(make_context(), earlier).state == "acknowledged"
            assert ask(own.port, cookie)[1]["X-Version"] == name


def ask(port, headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/", headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.headers


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"instances": ["s1", "s9"]}, "has no server s9"),
        ({"batch": batch("drain", "s9")}, "must name each instance once, and in batch only these"),
        ({"servers": {"baseline": ["s1"], "canary": ["s2"]}}, "either instances, and of these a batch, or servers"),
        ({"instances": []}, "instances"),
    ],
)
def test_wrong_names_are_refused(router, changed, error):
    with pytest.raises((PolicyError, HookError), match=error):
        make_router("haproxy", options(router, **changed)).list_serving()


def test_as_a_hook_of_a_promotion_it_says_what_it_is_for(router):
    outcome = make_hook("haproxy", options(router)).execute(make_context())
    assert outcome.state == "failed"
    assert "is the router of a rolling rollout" in outcome.did
    with pytest.raises(EvaluatorError, match="follow from how many are replaced"):
        make_router("haproxy", options(router)).set_shares({"canary": 1.0})
