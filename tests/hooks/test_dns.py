import base64
import socket
import time
from datetime import UTC, datetime, timedelta

import dns.exception
import dns.flags
import dns.message
import dns.query
import pytest
from hooks_world import make_context, paste
from knot import SECRET, knot_server, look_up
from metrics_servers import wait_for
from routers import ask, haproxy_router, service

from evaluator.errors import PolicyError
from evaluator.hooks import make_hook


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with knot_server(tmp_path_factory.mktemp("knot")) as port:
        yield port


def hook_for(port, secret=SECRET, **extra):
    options = {
        "server": f"127.0.0.1:{port}",
        "allow_hosts": ["127.0.0.1"],
        "zone": "shop.test",
        "name": "cart",
        "values": ["10.0.1.1"],
        "ttl": 2,
        "key_name": "upd",
        "key_secret": "${KEY}",
    }
    return make_hook("dns", options | extra, {"KEY": secret})


def test_changed_and_restored(server):
    hook = hook_for(server)
    outcome = hook.execute(make_context())
    assert outcome.state == "acknowledged", outcome
    assert outcome.earlier == {"values": ["10.0.0.1", "10.0.0.2"], "ttl": 2}
    assert timedelta(0) < outcome.effective_at - datetime.now(UTC) <= timedelta(seconds=2)
    assert look_up(server, "cart.shop.test", "A") == ["10.0.1.1"]
    assert "already" in hook.execute(make_context()).did
    undone = hook.undo(make_context(), outcome.earlier)
    assert undone.state == "acknowledged", undone
    assert look_up(server, "cart.shop.test", "A") == ["10.0.0.1", "10.0.0.2"]


def test_waits_until_the_earlier_ttl_has_run_out(server):
    hook = hook_for(server, wait=True)
    began = time.monotonic()
    outcome = hook.execute(make_context())
    assert time.monotonic() - began >= 2
    assert "has run out" in outcome.did
    soon = make_context(expires_at=datetime.now(UTC) + timedelta(seconds=1.5))
    undone = hook.undo(soon, outcome.earlier)
    assert undone.state == "acknowledged"
    assert "until" in undone.did


@pytest.mark.parametrize(
    ("name", "kind", "values", "before"),
    [
        ("new", "TXT", ['"v=1.5.0; x"'], []),
        ("alias", "CNAME", ["other.shop.test."], ["cart.shop.test."]),
        ("six", "AAAA", ["2001:db8::1"], []),
    ],
)
def test_other_types_and_records_that_were_not_there(name, kind, values, before, server):
    hook = hook_for(server, name=name, type=kind, values=values)
    outcome = hook.execute(make_context())
    assert outcome.state == "acknowledged", outcome
    assert outcome.earlier["values"] == before
    assert look_up(server, f"{name}.shop.test", kind) == values
    undone = hook.undo(make_context(), outcome.earlier)
    assert undone.state == "acknowledged", undone
    assert hook.read()["values"] == before


@pytest.mark.parametrize(
    ("name", "kind", "values", "says"),
    [
        ("alias", "A", ["10.0.0.9"], "alias has CNAME cart.shop.test. (TTL 300 s), so the server would ignore A"),
        ("cart", "CNAME", ["ns.shop.test."], "so the server would ignore CNAME"),
    ],
)
def test_a_record_that_the_server_would_ignore_is_refused(name, kind, values, says, server):
    hook = hook_for(server, name=name, type=kind, values=values)
    for outcome in (hook.test(), hook.execute(make_context())):
        assert (outcome.state, says in outcome.did) == ("failed", True), outcome


def test_a_change_in_between_is_not_overwritten(server, monkeypatch):
    hook, rival = hook_for(server, name="race"), hook_for(server, name="race", values=["10.9.9.9"])
    read = hook._read

    def read_and_lose():
        records = read()
        rival.execute(make_context())
        return records

    monkeypatch.setattr(hook, "_read", read_and_lose)
    outcome = hook.execute(make_context())
    assert (outcome.state, "changed in the meantime" in outcome.did) == ("failed", True)
    assert look_up(server, "race.shop.test", "A") == ["10.9.9.9"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": base64.b64encode(b"another secret of 32 bytes, wrong").decode()},
        {"key_name": "nobody"},
        {"key_name": "reader"},  # a key that may not update
        {"zone": "other.test"},
        {"values": ["not-an-address"]},
        {"name": "cart.other.test."},
        {"secret": "%%%"},
        {"allow_hosts": []},
    ],
)
def test_what_is_refused_changes_nothing(wrong, server):
    hook = hook_for(server, **wrong)
    for outcome in (hook.test(), hook.execute(make_context())):
        assert outcome.state == "failed"
        assert wrong.get("secret", SECRET) not in repr(outcome)
    assert look_up(server, "cart.shop.test", "A") == ["10.0.0.1", "10.0.0.2"]


def test_a_key_that_may_not_update_is_refused_in_the_same_words(server):
    hook = hook_for(server, key_name="reader")
    assert hook.read()["values"], "it may read"
    assert hook.test() == hook.execute(make_context())
    assert "and that it may update shop.test" in hook.test().did


def test_a_server_that_does_not_have_the_zone_itself_is_refused(server, monkeypatch):
    hook = hook_for(server)
    ask_server = hook._ask

    def answer_from_a_cache(message, *, changes):
        answer = ask_server(message, changes=changes)
        answer.flags &= ~dns.flags.AA
        return answer

    monkeypatch.setattr(hook, "_ask", answer_from_a_cache)
    assert "does not answer for the zone shop.test itself" in hook.test().did
    assert hook.execute(make_context()).state == "failed"


def test_a_server_that_hangs_or_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert hook_for(port, timeout="300ms").test().state == "failed"
    assert "refused" in hook_for(port).execute(make_context()).did


def test_test_and_dry_run_touch_nothing(server):
    hook = hook_for(server)
    serial = look_up(server, "shop.test", "SOA")
    assert "10.0.0.1, 10.0.0.2 (TTL 2 s)" in hook.test().did
    assert look_up(server, "shop.test", "SOA") == serial
    assert hook.execute(make_context(dry_run=True)).state == "acknowledged"
    assert look_up(server, "cart.shop.test", "A") == ["10.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": "ns1"},
        {"type": "CNAME", "values": ["a.", "b."]},
        {"key_secret": SECRET},
        {"type": "CNAME", "values": ["a"]},
        {"type": "TXT", "values": ['"${canary}"']},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(PolicyError):
        hook_for(53, **wrong)


@pytest.mark.parametrize("ttl", [-1, 1 << 40])
def test_a_ttl_of_a_damaged_store_is_not_sent(ttl, server):
    before = look_up(server, "cart.shop.test", "A")
    outcome = hook_for(server).undo(make_context(), {"values": ["10.0.0.9"], "ttl": ttl})
    assert (outcome.state, f"{ttl} cannot be a TTL" in outcome.did) == ("failed", True)
    assert look_up(server, "cart.shop.test", "A") == before


@pytest.mark.parametrize(("name", "kind"), [("cart", "A"), ("by-hand", "TXT")])
def test_the_earlier_records_can_be_restored_by_hand(server, name, kind):
    before = look_up(server, f"{name}.shop.test", kind)
    hook = hook_for(server, name=name, type=kind, values=['"it\'s $HOME"'] if kind == "TXT" else ["10.0.9.9"])
    earlier = hook.read()
    _, _ = paste(hook, environment={"KEY": SECRET})
    assert look_up(server, f"{name}.shop.test", kind) not in (before, [])
    lines, _ = paste(hook, undoes=True, earlier=earlier, environment={"KEY": SECRET})
    assert look_up(server, f"{name}.shop.test", kind) == before
    assert SECRET not in lines


BY_NAME = """
  server-template cart 1 gateway.shop.test:{port} resolvers knot init-addr none resolve-prefer ipv4
resolvers knot
  nameserver knot 127.0.0.1:{dns_port}
  timeout resolve 500ms
  hold valid 500ms
"""


def test_users_behind_haproxy_follow_the_records_and_the_undo_after_their_ttl(server, tmp_path):
    hook = hook_for(server, name="gateway", values=["127.0.0.2"], ttl=1)
    with (
        service("baseline") as baseline,
        service("canary", ("127.0.0.2", baseline.port)),
        haproxy_router(tmp_path, {}, backend=BY_NAME.format(port=baseline.port, dns_port=server)) as router,
    ):

        def list_versions():
            return {ask(router.port, "/").version for _ in range(20)}

        def wait_for_users(version, effective_at):
            wait_for(lambda: list_versions() == {version}, f"all users are at {version}")
            assert datetime.now(UTC) < effective_at + timedelta(seconds=10)

        wait_for(lambda: list_versions() == {"baseline"}, "HAProxy has resolved the name")
        done = hook.execute(make_context())
        assert done.state == "acknowledged", done
        wait_for_users("canary", done.effective_at)
        undone = hook.undo(make_context(), done.earlier)
        assert undone.state == "acknowledged", undone
        wait_for_users("baseline", undone.effective_at)
