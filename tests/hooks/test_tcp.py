import contextlib
import socket
import threading
import time

import pytest
from hooks_world import make_context

from evaluator.errors import PolicyError
from evaluator.hooks import make_hook
from evaluator.sources.load import free_port


def hook_for(port, host="127.0.0.1", **extra):
    return make_hook("tcp", {"address": f"{host}:{port}", "allow_hosts": ["127.0.0.1", "localhost"]} | extra)


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def silent():
    """A port that neither accepts nor refuses: its queue is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def test_a_port_accepts(listening):
    port = listening.getsockname()[1]
    outcome = hook_for(port).execute(make_context())
    assert (outcome.state, outcome.did) == ("acknowledged", f"127.0.0.1:{port} accepts connections")
    connection, _ = listening.accept()
    with connection:
        assert connection.recv(10) == b"", "nothing is sent"
    outcome = hook_for(port, refuses=True).execute(make_context())
    assert (outcome.state, "accepts connections" in outcome.did) == ("failed", True)


def test_a_port_refuses():
    port = free_port()
    assert hook_for(port, refuses=True).execute(make_context()).did == f"127.0.0.1:{port} refuses connections"
    outcome = hook_for(port).execute(make_context())
    assert (outcome.state, f"127.0.0.1:{port} refuses connections" in outcome.did) == ("failed", True)
    assert "`retry_for` tries it again" in outcome.did


@pytest.mark.parametrize("refuses", [True, False])
def test_no_answer_is_neither(refuses, silent):
    outcome = hook_for(silent, refuses=refuses, timeout="200ms").execute(make_context())
    assert (outcome.state, "127.0.0.1 does not answer" in outcome.did) == ("failed", True)


def test_it_is_tried_again_until_it_succeeds():
    port = free_port()

    def listen_later():
        time.sleep(0.3)
        with socket.create_server(("127.0.0.1", port)) as server:
            server.accept()[0].close()

    thread = threading.Thread(target=listen_later, daemon=True)
    thread.start()
    assert hook_for(port, retry_for="5s").execute(make_context()).state == "acknowledged"
    thread.join(5)


def test_it_gives_up_in_time():
    began = time.monotonic()
    outcome = hook_for(free_port(), retry_for="1200ms").execute(make_context())
    assert (outcome.state, "refuses connections, 3 times" in outcome.did) == ("failed", True), outcome
    assert time.monotonic() - began < 2


def test_a_name_accepts_if_one_of_its_addresses_does(listening):
    port = listening.getsockname()[1]
    hook = hook_for(port, host="localhost", allow_hosts=["localhost", "127.0.0.0/8", "::1"])
    assert hook.execute(make_context()).state == "acknowledged"


def test_a_test_connects_to_nothing_and_checks_the_host(listening):
    port = listening.getsockname()[1]
    hook = hook_for(port)
    assert hook.test().state == "acknowledged"
    assert "nothing was done" in hook.execute(make_context(dry_run=True)).did
    listening.settimeout(0.2)
    with pytest.raises(TimeoutError):
        listening.accept()
    for outcome in (hook_for(port, allow_hosts=[]).test(), hook_for(port, allow_hosts=[]).execute(make_context())):
        assert (outcome.state, "allow_hosts" in outcome.did) == ("failed", True)


def test_it_has_nothing_to_take_back(listening):
    hook = hook_for(listening.getsockname()[1])
    assert hook.can_undo()
    assert hook.describe() == f"checks that {hook.options.address} accepts connections"
    assert "was only looked at" in hook.describe_undo()
    assert hook.undo(make_context(), None).state == "acknowledged"
    assert hook.idempotent


@pytest.mark.parametrize(
    "address", ["", "h", ":80", "h:", "h:0", "h:99999", "h:80:80", "::1:80", "${service}:80", "h h:1"]
)
def test_an_address_that_cannot_be_meant_is_refused(address):
    with pytest.raises(PolicyError):
        make_hook("tcp", {"address": address})


def test_other_options_that_cannot_be_meant_are_refused():
    for wrong in ({"retry_for": "2m", "time_limit": "1m"}, {"retry_for": "0s"}, {"refuses": "maybe"}):
        with pytest.raises(PolicyError):
            make_hook("tcp", {"address": "[::1]:80"} | wrong)
    assert make_hook("tcp", {"address": "[::1]:80"})
