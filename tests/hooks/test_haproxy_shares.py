"""Shares of a real HAProxy with several servers for each arm: what is counted agrees with what is reported."""

import subprocess
import time
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from socket import AF_UNIX, socket

import pytest
from hooks_world import make_context
from metrics_servers import program
from routers import ask, haproxy_router, service

from evaluator.errors import HookError
from evaluator.hooks import describe_drift, make_hook
from evaluator.hooks.haproxy_config import _find_state_file, explain_reload

ARMS = {"baseline": ["b1", "b2"], "canary": ["c1", "c2"], "fast": ["f1"]}


@contextmanager
def routing(folder, **options):
    """HAProxy with five servers, and its hook; the own weight of b2 is twice that of the others."""
    with ExitStack() as stack:
        names = [name for names in ARMS.values() for name in names]
        services = {name: stack.enter_context(service(name)) for name in names}
        weights = dict.fromkeys(names, 50) | {"b2": 100}
        ports = {name: made.port for name, made in services.items()}
        yield stack.enter_context(haproxy_router(folder, ports, weights=weights, **options))


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    with routing(tmp_path_factory.mktemp("haproxy")) as made:
        yield made


def hook_for(router, **extra):
    return make_hook("haproxy", {"socket": str(router.stats_socket), "backend": "shop", "servers": ARMS} | extra)


def command(router, line):
    """Send a command to HAProxy as a person does."""
    with closing(socket(AF_UNIX)) as connection:
        connection.connect(str(router.stats_socket))
        connection.sendall(line.encode() + b"\n")
        return connection.recv(9999).decode().strip()


@pytest.fixture
def ready(router):
    yield
    for names in ARMS.values():
        for name in names:
            command(router, f"set server shop/{name} state ready")
            command(router, f"set weight shop/{name} {100 if name == 'b2' else 50}")


def count(router, n=200):
    """Requests by arm and by server."""
    servers = Counter(ask(router.port, "/").version for _ in range(n))
    return {arm: sum(servers[name] for name in names) for arm, names in ARMS.items()}, servers


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(
    "shares",
    [
        {"baseline": 0.95, "canary": 0.05},
        {"baseline": 0.6, "canary": 0.3, "fast": 0.1},
        {"baseline": 1 / 3, "canary": 1 / 3, "fast": 1 / 3},
        {"canary": 0.1 + 0.2, "fast": 0.7},
        {"canary": 1},
    ],
)
def test_requests_are_shared_as_reported(shares, router):
    hook = hook_for(router)
    realised = hook.set_shares(shares)
    assert realised.shares == hook.read_shares()
    assert realised.shares == pytest.approx({arm: shares.get(arm, 0) for arm in ARMS}, abs=0.005)
    assert not describe_drift(shares, realised.shares)
    arms, servers = count(router)
    assert {arm: n / 200 for arm, n in arms.items()} == pytest.approx(realised.shares, abs=0.05)
    if shares.get("baseline", 0) > 0.5:
        assert servers["b2"] / servers["b1"] == pytest.approx(2, rel=0.25), "their own weights"


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("state", ["maint", "drain"])
def test_the_share_is_kept_by_the_servers_that_can_serve(state, router):
    command(router, f"set server shop/b2 state {state}")
    hook = hook_for(router)
    realised = hook.set_shares({"baseline": 0.8, "canary": 0.2})
    assert realised.shares == pytest.approx({"baseline": 0.8, "canary": 0.2, "fast": 0}, abs=0.005)
    assert any(note.startswith("b2 is ") for note in realised.notes)
    arms, servers = count(router)
    assert (arms["canary"] / 200, servers["b2"]) == (pytest.approx(0.2, abs=0.05), 0)
    # The server that is enabled again has a weight: it was not left out.
    command(router, "set server shop/b2 state ready")
    assert "baseline gets 92" in describe_drift({"baseline": 0.8, "canary": 0.2}, hook.read_shares())
    assert count(router)[1]["b2"] > 50
    # A promotion needs all servers of the arm.
    command(router, f"set server shop/c2 state {state}")
    assert "not every server that is to get traffic can serve it: c2 is" in hook.execute(make_context()).did


@pytest.mark.usefixtures("ready")
def test_an_arm_without_a_server_that_can_serve_gets_nothing(router):
    hook = hook_for(router)
    for name in ARMS["canary"]:
        command(router, f"set server shop/{name} state drain")
    before = hook.read()
    with pytest.raises(HookError, match="no server of canary can serve requests: c1 is drained; c2 is drained"):
        hook.set_shares({"baseline": 0.9, "canary": 0.1})
    assert hook.read() == before
    assert hook.set_shares({"baseline": 1}).shares == {"baseline": 1, "canary": 0, "fast": 0}
    # Going back enables them.
    realised = hook.set_shares({"canary": 1}, back=True)
    assert realised.shares == {"baseline": 0, "canary": 1, "fast": 0}
    assert "c1 was enabled: it was drained" in realised.notes
    assert not realised.missing
    assert set(count(router, 20)[1]) == {"c1", "c2"}


@pytest.mark.usefixtures("ready")
def test_what_another_person_sets_is_drift(router):
    hook = hook_for(router)
    hook.set_shares({"baseline": 0.95, "canary": 0.05})
    command(router, "set weight shop/c1 200")
    drift = describe_drift({"baseline": 0.95, "canary": 0.05}, hook.read_shares())
    assert "canary gets 6" in drift
    assert "instead of 5 %" in drift


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(
    ("before", "shares", "back"),
    [
        ({"b1": 100, "b2": 200, "c1": 30, "c2": 30, "f1": 0}, {"baseline": 0.9, "canary": 0.1}, False),
        ({"b1": 100, "b2": 200, "c1": 30, "c2": 30, "f1": 30}, {"baseline": 1}, True),
        ({"b1": 256, "b2": 256, "c1": 256, "c2": 0, "f1": 0}, {"baseline": 0.6, "canary": 0.4}, False),
        ({"b1": 1, "b2": 1, "c1": 0, "c2": 0, "f1": 0}, {"canary": 1}, False),
        ({"b1": 0, "b2": 0, "c1": 9, "c2": 9, "f1": 0}, {"baseline": 1}, False),
        ({"b1": 0, "b2": 0, "c1": 9, "c2": 9, "f1": 0}, {"baseline": 1}, True),
        ({"b1": 0, "b2": 0, "c1": 200, "c2": 99, "f1": 0}, {"baseline": 0.5, "canary": 0.5}, True),
    ],
)
def test_no_candidate_gets_more_in_between_and_never_are_all_at_nothing(before, shares, back, router):
    """Weights are set one after the other, and their scale may change."""
    for name, weight in before.items():
        command(router, f"set weight shop/{name} {weight}")
    hook = hook_for(router)
    change, seen = hook._change, [hook.read_shares()]

    def watch(line):
        problem = change(line)
        seen.append(hook.read_shares())
        return problem

    hook._change = watch
    hook.set_shares(shares, back=back)
    of_candidates = [read["canary"] + read["fast"] for read in seen]
    assert max(of_candidates) <= max(of_candidates[0], of_candidates[-1]) + 1e-9, seen
    assert all(sum(read.values()) > 0.99 for read in seen), seen


@pytest.mark.usefixtures("ready")
def test_a_share_that_is_too_small_is_refused(router):
    with pytest.raises(HookError, match=r"fast cannot get 0\.01 %: HAProxy's weights are whole numbers up to 256"):
        hook_for(router).set_shares({"baseline": 0.9999, "fast": 0.0001})


@pytest.mark.usefixtures("ready")
def test_a_server_of_no_arm_is_named(router):
    hook = hook_for(router, servers={arm: names for arm, names in ARMS.items() if arm != "fast"})
    realised = hook.set_shares({"baseline": 0.5, "canary": 0.5})
    assert sum(realised.shares.values()) < 0.95
    assert realised.notes[0].startswith("baseline gets ")
    assert "servers of no arm keep their weights: f1 50" in realised.notes


def test_a_reload_between_setting_and_reading_is_noticed(tmp_path):
    """The new process has the weights of the configuration."""
    with routing(tmp_path) as router:
        hook = hook_for(router)
        send_weights = hook._send_weights
        old = [router.process]

        def reload(*arguments):
            problem = send_weights(*arguments)
            if len(old) == 1:
                line = [program("haproxy"), "-db", "-f", str(tmp_path / "haproxy.cfg"), "-sf", str(router.process.pid)]
                with (tmp_path / "new.log").open("wb") as output:
                    old.append(subprocess.Popen(line, stdout=output, stderr=output))
                router.process.wait(10)
            return problem

        hook._send_weights = reload
        try:
            with pytest.raises(
                HookError, match="the weights are b1 50, b2 100, c1 50, c2 50, f1 50 after setting them"
            ):
                hook.set_shares({"baseline": 0.9, "canary": 0.1})
            hook._send_weights = send_weights
            assert hook.set_shares({"baseline": 0.9, "canary": 0.1}).shares["canary"] == pytest.approx(0.1)
        finally:
            old[-1].terminate()
            old[-1].wait(10)


def test_a_server_that_starts_slowly_counts_for_what_it_gets(tmp_path):
    with routing(tmp_path, server_options="check inter 100ms slowstart 60s") as router:
        hook = hook_for(router)
        command(router, "set server shop/c1 state maint")
        hook.set_shares({"baseline": 0.5, "canary": 0.5})
        command(router, "set server shop/c1 state ready")
        deadline = time.monotonic() + 5
        notes = ()
        while not any("of its weight (`slowstart`)" in note for note in notes):
            assert time.monotonic() < deadline, notes
            notes = hook._measure({}).notes
            time.sleep(0.05)
        assert hook.read_shares()["canary"] < 0.6, "its own weight would give it two thirds"


# ------------------------------------------------------------------ what a test of the hook looks at


def test_the_test_says_what_weights_do_not_decide(tmp_path):
    backend = "cookie SRV insert\n  balance leastconn\n  server b0 127.0.0.1:1 backup disabled"
    with routing(tmp_path, backend=backend, server_options="agent-check agent-port 1 agent-inter 1s") as router:
        hook = hook_for(router, servers=ARMS | {"baseline": ["b0", "b1", "b2"]})
        said = hook.test("rollback").did
        for part in (
            "b0 is in maintenance",
            "b0 is a backup server",
            "an agent may change the weight of b1, b2, c1, c2, f1, too (`agent-check`)",
            "users who have the cookie SRV stay at their server",
            "balances by leastconn, which gives a slower arm fewer requests than its share",
            "a reload of HAProxy forgets the weights: its configuration has no server-state-file and no load-server-",
        ):
            assert part in said, said
        assert "b0 is in maintenance" in hook.test("hold").did
        with pytest.raises(HookError, match="no server of old can serve requests: b0 is in maintenance"):
            hook_for(router, servers=ARMS | {"old": "b0"}).set_shares({"old": 1})


@pytest.mark.parametrize("keeps", [True, False])
def test_a_reload_keeps_or_forgets_the_weights_as_the_test_says(keeps, tmp_path):
    load = "load-server-state-from-file global\n  timeout connect 1s\n  timeout client 2s\n  timeout server 2s"
    state = f"mode http\nglobal\n  server-state-file {tmp_path}/state\ndefaults\n  mode http\n  {load}" if keeps else ""
    with routing(tmp_path, defaults=state) as router:
        hook = hook_for(router)
        hook.set_shares({"baseline": 0.9, "canary": 0.1})
        assert ("a reload keeps the weights" in hook.test().did) is keeps
        (tmp_path / "state").write_text(command(router, "show servers state") + "\n")
        line = [program("haproxy"), "-db", "-f", str(tmp_path / "haproxy.cfg"), "-sf", str(router.process.pid)]
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            router.process.wait(10)
            drift = describe_drift({"baseline": 0.9, "canary": 0.1}, hook.read_shares())
            process.terminate()
        assert (drift == "") is keeps, drift


def test_a_state_file_is_found_in_the_configuration_of_the_process(tmp_path):
    state = f"load-server-state-from-file global\nglobal\n  server-state-file {tmp_path}/state\ndefaults\n  mode http"
    with routing(tmp_path, defaults=state) as router:
        info = command(router, "show info")
        # The backend has the newest defaults, which load nothing.
        assert "no load-server-state-from-file for shop" in explain_reload(info, "shop", is_local=True)
        config = tmp_path / "haproxy.cfg"
        config.write_text(
            config.read_text().replace("backend shop", "backend shop\n  load-server-state-from-file global")
        )
        says = f"a reload keeps the weights if `show servers state` was written to {tmp_path}/state before it"
        assert explain_reload(info, "shop", is_local=True) == says
        assert says in hook_for(router).test().did
        config.unlink()
        for unknown in (
            explain_reload(info, "shop", is_local=True),
            explain_reload(info, "shop", is_local=False),
            explain_reload("Pid: 1\n", "shop", is_local=True),
            explain_reload("", "shop", is_local=True),
        ):
            assert "is not known whether a reload keeps the weights" in unknown


@pytest.mark.parametrize(
    ("text", "state_file"),
    [
        ("", ("", False)),
        (
            "global\n server-state-file /s # x\ndefaults\n load-server-state-from-file global\nbackend shop",
            ("/s", True),
        ),
        ("global\n server-state-file /s\nbackend shop\n load-server-state-from-file none", ("/s", False)),
        ("global\n #server-state-file /s\nbackend shop\n load-server-state-from-file global", ("", True)),
        ("defaults a\n load-server-state-from-file global\ndefaults b\nbackend shop from a", ("", True)),
        ("defaults a\n load-server-state-from-file global\ndefaults b\nbackend shop", ("", False)),
        ("defaults\n load-server-state-from-file global\ndefaults\nbackend shop", ("", False)),
        ("global\n server-state-base /d\nlisten shop\n load-server-state-from-file local", ("/d/shop", True)),
        ("global\n server-state-file '/s x'\nlisten shap\n load-server-state-from-file global", ("/s x", False)),
    ],
)
def test_a_state_file_needs_both_settings(text, state_file):
    assert _find_state_file(text, "shop") == state_file
