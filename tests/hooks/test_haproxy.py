import csv
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress

import pytest
from hooks_world import balancing, make_context, paste, split_of

from evaluator.errors import PolicyError
from evaluator.hooks import Step, make_hook, write_by_hand

ARMS = {"baseline": "baseline", "canary": "canary"}


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
    return make_hook("haproxy", where | {"backend": "shop", "servers": ARMS} | extra)


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
    outcome = hook_for(proxy, shares={"baseline": "50%", "canary": "50%"}).execute(make_context())
    assert split_of(proxy["port"]) == {"baseline": 50, "canary": 50}
    hook_for(proxy).undo(make_context(), outcome.earlier)


def test_test_and_dry_run_touch_nothing(proxy):
    hook = hook_for(proxy)
    assert "baseline 90, canary 10" in hook.test().did
    assert hook.execute(make_context(dry_run=True)).state == "acknowledged"
    assert hook.read() == {"baseline": 90, "canary": 10}


def test_a_server_that_is_not_there_changes_nothing(proxy):
    wrong = {"baseline": "baseline", "canary": ["canary", "canery"]}
    outcome = hook_for(proxy, servers=wrong).execute(make_context())
    assert outcome.state == "failed"
    assert "has no server canery (its servers are baseline, canary)" in outcome.did
    assert hook_for(proxy, servers=wrong).test().did == outcome.did
    assert hook_for(proxy).read() == {"baseline": 90, "canary": 10}


def test_no_server_there(tmp_path):
    hook = make_hook("haproxy", {"socket": str(tmp_path / "no"), "backend": "b", "servers": ARMS})
    assert hook.test().state == "failed"
    assert "cannot be reached" in hook.execute(make_context()).did


def test_an_address_that_is_not_listed_is_refused(proxy):
    assert "allow_hosts" in hook_for(proxy, tcp=True, allow_hosts=[]).execute(make_context()).did


def command(proxy, line):
    """Send a command to HAProxy as a person does."""
    with closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.connect(str(proxy["socket"]))
        connection.sendall(line.encode() + b"\n")
        return connection.recv(9999).decode().strip()


@pytest.fixture
def ready(proxy):
    """Make both servers of the backend as they were."""
    yield
    for server, weight in (("baseline", 90), ("canary", 10)):
        command(proxy, f"set server shop/{server} state ready")
        command(proxy, f"set weight shop/{server} {weight}")


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(("state", "says"), [("maint", "canary is in maintenance"), ("drain", "canary is drained")])
def test_a_server_that_cannot_serve_gets_nothing(state, says, proxy):
    command(proxy, f"set server shop/canary state {state}")
    outcome = hook_for(proxy).execute(make_context())
    assert (outcome.state, says in outcome.did) == ("failed", True), outcome
    assert hook_for(proxy).test() == outcome, "the same words"
    assert (hook_for(proxy).find_obstacle("promote"), hook_for(proxy).find_obstacle("rollback")) == (outcome.did, "")
    assert split_of(proxy["port"]) == {"baseline": 100}
    assert hook_for(proxy, shares={"baseline": 1}).test().state == "acknowledged"


def test_a_server_that_is_down_gets_nothing_and_its_check_is_named(proxy):
    hook = hook_for(proxy, backend="checked")
    deadline = time.monotonic() + 5
    while "canary is DOWN (L4CON: Connection refused)" not in (outcome := hook.execute(make_context())).did:
        assert time.monotonic() < deadline, outcome
        time.sleep(0.05)
    assert outcome.state == "failed"
    assert hook.read() == {"baseline": 90, "canary": 10}


def test_what_the_weights_do_not_decide_is_named(proxy):
    hook = hook_for(proxy, backend="checked", shares={"baseline": 1})
    assert "servers of no arm keep their weights: spare 5" in hook.test().did
    assert "HAProxy does not check the health of baseline, canary" in hook_for(proxy).test().did


@pytest.mark.parametrize("action", ["test", "execute"])
@pytest.mark.parametrize(
    ("backend", "shares", "says"),
    [
        ("static", {"baseline": "40%", "canary": "60%"}, "canary can have 0 or 10, not 3"),
        ("first", {"baseline": "50%", "canary": "50%"}, "only one arm can have more than 0"),
        ("shap", {"canary": 1}, "Can't find backend"),
    ],
)
def test_shares_that_the_backend_cannot_have_are_refused(action, backend, shares, says, proxy):
    hook = hook_for(proxy, backend=backend, shares=shares)
    outcome = hook.test() if action == "test" else hook.execute(make_context())
    assert (outcome.state, says in outcome.did) == ("failed", True), outcome


def test_a_static_algorithm_takes_the_weight_of_the_configuration(proxy):
    hook = hook_for(proxy, backend="static")
    assert "so an arm can get all or nothing, and no share in between" in hook.test().did
    outcome = hook.execute(make_context())
    assert outcome.state == "acknowledged", outcome
    undone = hook.undo(make_context(), outcome.earlier | {"baseline": 7})  # the configuration had 7 then
    assert (undone.state, hook.read()) == ("acknowledged", {"baseline": 90, "canary": 10})
    assert "baseline gets 90 instead of 7, because of static-rr" in undone.did


def test_what_is_refused_in_the_middle_is_put_back(proxy):
    hook = hook_for(proxy, backend="hashed", shares={"canary": "60%", "baseline": "40%"})
    command(proxy, "set weight hashed/canary 0")
    outcome = hook.execute(make_context())
    assert outcome.state == "failed"
    assert "was not done: Backend is using a static LB algorithm" in outcome.did
    assert "the weights are baseline 90, canary 0" in outcome.did
    assert hook.read() == {"canary": 0, "baseline": 90}
    command(proxy, "set weight hashed/canary 10")


def test_a_socket_that_may_not_set_weights_is_named(proxy):
    hook = hook_for(proxy, socket=f"{proxy['socket']}.operator")
    outcome = hook.execute(make_context())
    assert (outcome.state, "the level operator, and setting weights needs admin" in outcome.did) == ("failed", True)
    assert hook.test() == outcome
    assert "Permission denied" in hook.undo(make_context(), {"baseline": 90}).did


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("way", ["undo", "rollback"])
def test_going_back_enables_what_was_put_into_maintenance(way, proxy):
    outcome = hook_for(proxy).execute(make_context())
    command(proxy, "set server shop/baseline state maint")
    if way == "undo":
        back = hook_for(proxy).undo(make_context(), outcome.earlier)
    else:
        hook = hook_for(proxy, shares={"baseline": "90%", "canary": "10%"})
        assert hook.test("rollback").state == "acknowledged"
        back = hook.execute(make_context(action="rollback"))
    assert (back.state, "baseline was enabled: it was in maintenance" in back.did) == ("acknowledged", True), back
    assert split_of(proxy["port"])["canary"] == pytest.approx(10, abs=1)


@pytest.mark.usefixtures("ready")
def test_going_back_sets_what_can_be_set_and_reports_the_rest(proxy):
    gone = hook_for(proxy, servers=ARMS | {"third": "gone"}).undo(
        make_context(), {"baseline": 80, "canary": 20, "gone": 5}
    )
    assert (gone.state, "has no server gone;" in gone.did) == ("failed", True)
    assert hook_for(proxy).read() == {"baseline": 80, "canary": 20}
    down = hook_for(proxy, backend="checked").undo(make_context(), {"baseline": 91, "canary": 9})
    assert (down.state, "canary is DOWN" in down.did) == ("failed", True)
    assert hook_for(proxy, backend="checked").read() == {"baseline": 91, "canary": 9}


@pytest.mark.usefixtures("ready")
def test_going_back_to_servers_that_are_all_down_leaves_traffic_where_it_is_served(proxy):
    """After a promotion the old servers are taken down: a rollback must not give them all users."""
    hook = hook_for(proxy, backend="checked", servers={"baseline": "canary", "canary": ["baseline", "spare"]})
    before = hook.read()
    assert (hook.explain_down("canary"), "canary is DOWN" in hook.explain_down("baseline")) == ("", True)
    assert hook_for(proxy).explain_down("baseline") is None, "without a health check"
    back = hook.undo(make_context(), {"canary": 100, "baseline": 0, "spare": 0})
    assert back.state == "failed"
    assert f"baseline keeps {before['baseline']}: otherwise no request would be served" in back.did
    assert "canary is DOWN" in back.did
    assert hook.read()["baseline"] == before["baseline"] > 0


@pytest.mark.usefixtures("ready")
def test_going_back_never_leaves_all_servers_without_traffic(proxy):
    """A misspelt baseline fails the test of the hook; in a rollback, the canary then keeps the traffic."""
    hook_for(proxy).execute(make_context())
    hook = hook_for(proxy, servers={"baseline": "baselin", "canary": "canary"})
    assert "has no server baselin (its servers are baseline, canary)" in hook.test("rollback").did
    outcome = hook.execute(make_context(action="rollback"))
    assert (outcome.state, "canary keeps 10: otherwise no request would be served" in outcome.did) == ("failed", True)
    assert split_of(proxy["port"]) == {"canary": 100}


def test_going_back_takes_the_weight_of_the_configuration_where_a_hash_takes_no_other(proxy):
    hook = hook_for(proxy, backend="hashed")
    assert hook.execute(make_context()).state == "acknowledged"
    outcome = hook.undo(make_context(), {"baseline": 100, "canary": 0})  # the configuration had 100 then
    assert (outcome.state, hook.read()) == ("acknowledged", {"baseline": 90, "canary": 0})
    assert "baseline gets 90 instead of 100, because of source" in outcome.did
    command(proxy, "set weight hashed/canary 10")


@pytest.mark.usefixtures("ready")
def test_the_earlier_weights_can_be_set_by_hand(proxy):
    """Through the unix socket and the address; a server in maintenance is enabled."""
    hook = hook_for(proxy)
    before = hook.read()
    assert hook.execute(make_context()).state == "acknowledged"
    command(proxy, "set server shop/baseline state maint")
    lines, shown = paste(hook, undoes=True, earlier=before)
    assert hook.read() == before
    assert "baseline" in shown
    assert set(split_of(proxy["port"])) == {"baseline", "canary"}
    over_tcp = hook_for(proxy, tcp=True)
    paste(over_tcp)
    assert hook.read() == {"baseline": 0, "canary": 10}
    paste(over_tcp, action="rollback")
    assert hook.read() == {"baseline": 90, "canary": 0}
    paste(over_tcp, undoes=True, earlier=before)
    assert hook.read() == before
    assert lines.splitlines()[0].startswith("echo 'set server shop/baseline state ready' | socat - UNIX-CONNECT:")


def test_lines_are_known_while_haproxy_does_not_answer(tmp_path):
    options = {"socket": str(tmp_path / "no"), "backend": "b", "servers": ARMS}
    lines = write_by_hand(
        Step(make_hook("haproxy", options)), make_context(action="rollback"), undoes=False, earlier=None
    )
    assert [line.split("'")[1] for line in lines] == [
        "set server b/baseline state ready",
        "set server b/baseline weight 1",
        "set server b/canary weight 0",
        "show servers state b",
    ]


def test_a_backup_server_is_named(proxy):
    assert "canary is a backup server" in hook_for(proxy, backend="standby").test().did
    half = hook_for(proxy, backend="standby", shares={"baseline": "50%", "canary": "50%"})
    outcome = half.execute(make_context())
    assert (outcome.state, "canary would get no requests: its servers are backup" in outcome.did) == ("failed", True)
    assert half.test() == outcome
    full = hook_for(proxy, backend="standby")
    outcome = full.execute(make_context())
    assert (outcome.state, full.read_shares()) == ("acknowledged", {"baseline": 0, "canary": 1})
    assert full.undo(make_context(), outcome.earlier).state == "acknowledged"
    assert full.read_shares() == {"baseline": 1, "canary": 0}


# ------------------------------------------------------------------ answers that HAProxy never gives, or only half

HEADER = "1\n# be_id be_name srv_id srv_name srv_op_state srv_admin_state srv_uweight srv_iweight\n"
STATISTICS = (
    "# pxname,svname,status,bck,check_status,last_chk,agent_status,tracked,algo,\n"
    "shop,baseline,no check,0,,,,,,\nshop,canary,no check,0,,,,,,\nshop,BACKEND,UP,0,,,,,roundrobin,\n\n"
)


@contextmanager
def pretending(answer_to_change):
    """An API with two servers, which answers to changes what `answer_to_change(line, weights)` returns."""
    weights = {"baseline": 90, "canary": 10}

    def answer(line):
        if line.startswith("show cli level"):
            return "admin\n\n"
        if line.startswith("show servers"):
            rows = "".join(f"3 shop 1 {name} 2 0 {weight} 1\n" for name, weight in weights.items())
            return f"{HEADER}{rows}\n"
        return STATISTICS if line.startswith("show stat") else answer_to_change(line, weights)

    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve():
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(answer(connection.recv(4096).decode()).encode())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield {"api": server.getsockname()[1]}, weights
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def set_weight(line, weights):
    _, _, place, weight = line.split()
    weights[place.partition("/")[2]] = int(weight)
    return "\n"


def test_what_is_reported_but_not_done_is_not_acknowledged():
    with pretending(lambda _line, _weights: "\n") as (proxy, _):
        outcome = hook_for(proxy, tcp=True).execute(make_context())
    assert outcome.state == "failed"
    assert "the weights are baseline 90, canary 10 after setting them; nothing was changed" in outcome.did


@pytest.mark.parametrize(("half", "says"), [("", "without an answer"), ("Permission de", "in the middle")])
def test_half_an_answer_to_the_second_command_puts_the_first_back(half, says):
    def answer(line, weights):
        return half if line.split()[2:] == ["shop/baseline", "0"] else set_weight(line, weights)

    with pretending(answer) as (proxy, weights):
        outcome = hook_for(proxy, tcp=True).execute(make_context())
    assert (outcome.state, says in outcome.did, "was put back" in outcome.did) == ("failed", True, True), outcome
    assert weights == {"baseline": 90, "canary": 10}


def test_what_cannot_be_put_back_is_unknown():
    def answer(line, weights):
        if line.split()[2:] == ["shop/canary", "1"]:
            return set_weight(line, weights)
        return "Permission denied\n\n"

    with pretending(answer) as (proxy, _):
        outcome = hook_for(proxy, tcp=True).execute(make_context())
    assert outcome.state == "unknown"
    assert "not put back: the weights are baseline 90, canary 1, not baseline 90, canary 10" in outcome.did


@pytest.mark.parametrize("states", ["", "1\n", HEADER + "3 shop 1 baseline 2\n\n", HEADER + "3 shop 1 b x y z 1\n\n"])
def test_states_that_cannot_be_read_change_nothing(states, monkeypatch, proxy):
    hook = hook_for(proxy)
    send = hook._send
    monkeypatch.setattr(hook, "_send", lambda line: states if line.startswith("show servers") else send(line))
    assert hook.execute(make_context()).state == hook.test().state == "failed"
    monkeypatch.undo()
    assert hook.read() == {"baseline": 90, "canary": 10}


def test_statistics_that_are_no_csv_change_nothing(monkeypatch, proxy):
    hook = hook_for(proxy)
    send = hook._send
    long = f"{STATISTICS}{'x' * (csv.field_size_limit() + 1)}"
    monkeypatch.setattr(hook, "_send", lambda line: long if line.startswith("show stat") else send(line))
    for outcome in (hook.execute(make_context()), hook.test()):
        assert (outcome.state, outcome.did) == ("failed", "HAProxy's answer about the backend shop cannot be read")


@pytest.mark.parametrize(
    "wrong",
    [
        {"socket": None},
        {"address": "h:1"},
        {"servers": {}},
        {"servers": {"baseline": "a"}},
        {"servers": {"baseline": "a", "canary": ["b", "a"]}},
        {"servers": {"baseline": "a", "canary": []}},
        {"servers": {"baseline": "a", "canary": "a\nquit"}},
        {"backend": "b;"},
        {"shares": {"canary": "40%"}},
        {"shares": {"canery": "100%"}},
        {"shares": {"canary": "-1%", "baseline": "101%"}},
        {"shares": {"canary": ".nan", "baseline": 1}},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(PolicyError):
        make_hook("haproxy", {"socket": "s", "backend": "b", "servers": ARMS} | wrong)


def test_there_must_be_something_to_restore(proxy):
    for earlier in (None, {}, {"canary": 10, "a;quit": 1}, {"canary": -1}):
        assert hook_for(proxy).undo(make_context(), earlier).state == "failed"
    assert hook_for(proxy).read() == {"baseline": 90, "canary": 10}


@pytest.mark.usefixtures("ready")
def test_servers_that_had_nothing_get_nothing_again(proxy):
    hook_for(proxy, shares={"baseline": 1}).execute(make_context())
    outcome = hook_for(proxy).execute(make_context())
    assert (outcome.state, outcome.earlier) == ("acknowledged", {"baseline": 90, "canary": 0})
    assert hook_for(proxy).undo(make_context(), outcome.earlier).state == "acknowledged"
    assert hook_for(proxy).read() == {"baseline": 90, "canary": 0}


@pytest.mark.usefixtures("ready")
def test_holding_is_going_back_where_it_only_takes_traffic_from_the_candidate(proxy):
    command(proxy, "set server shop/baseline state maint")
    back, more = (hook_for(proxy, shares={"baseline": f"{100 - share}%", "canary": f"{share}%"}) for share in (0, 11))
    assert back.find_obstacle("hold") == hook_for(proxy).find_obstacle("hold") == ""
    assert back.test("hold").state == "acknowledged"
    outcome = back.execute(make_context(action="hold"))
    assert (outcome.state, "baseline was enabled" in outcome.did) == ("acknowledged", True)
    assert hook_for(proxy).read() == {"baseline": 90, "canary": 0}
    command(proxy, "set server shop/baseline state maint")
    assert "baseline is in maintenance" in more.find_obstacle("hold")
    assert "baseline is in maintenance" in back.find_obstacle("promote")
    assert more.test("hold").state == more.execute(make_context(action="hold")).state == "failed"
