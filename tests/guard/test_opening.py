"""What the guard is asked, what is missing before the first shift, and where it is found."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from guard_world import HALF, users
from metrics_servers import wait_for

from evaluator.errors import HookError, NotReached
from evaluator.guard.client import connect
from evaluator.guard.places import choose_socket_path, is_same_user, make_private_folder
from evaluator.guard.setup import to_plain

TOKEN = {"url": "http://127.0.0.1:1/", "headers": {"Authorization": "${GUARD_TOKEN}"}}
NO_SOCKET = {"socket": "/nowhere/admin.sock", "backend": "shop", "servers": {"baseline": ["b1"], "canary": ["c1"]}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"options": NO_SOCKET}, "cannot be reached"),
        ({"options": {"backend": "shop"}}, "haproxy"),
        ({"kind": "nonsense"}, "nonsense"),
        ({"kind": "tcp", "options": {"address": "127.0.0.1:1"}}, "does not share requests"),
        ({"kind": "http", "options": {"get": TOKEN, "set": TOKEN, "allow_hosts": ["127.0.0.1"]}}, "GUARD_TOKEN"),
        ({"log": {"arms": {"canary": ["c*"]}}}, "nothing to compare with"),
        ({"log": {"failures": ["bad"], "arms": {"baseline": ["b*"], "canary": ["c*"]}}}, "must be statuses"),
        ({"access_log": Path("/nowhere/haproxy.log")}, "there is no such file"),
    ],
)
def test_what_is_missing_is_said_before_the_first_shift(changed, message, shared):
    with pytest.raises(HookError, match=message):
        shared.client.open(shared.setup(**changed))
    assert not list((shared.folder / "evaluator.data" / ".rollouts").glob("*.guard"))
    assert shared.client.ping()["rollouts"] == []


def test_a_log_of_another_format_is_refused(shared, tmp_path):
    log = tmp_path / "other.log"
    log.write_text("hello\n" * 10)
    with pytest.raises(HookError, match="no known format"):
        shared.client.open(shared.setup(access_log=log))


def test_lines_that_cannot_be_read_while_requests_come_are_a_reason(shared, tmp_path):
    log = tmp_path / "empty.log"
    log.touch()
    shared.client.open(shared.setup(access_log=log))
    shared.client.set_shares("r1", "cart", HALF, {})
    with users(shared.router.port, 20):
        time.sleep(1.2)
        log.write_text("no request\n" * 50)
        wait_for(lambda: "not known yet" in shared.client.renew("r1").readings[1].text, "the guard reads them")
        status = shared.client.renew("r1")
    assert "format of the access log is not known yet" in status.readings[1].text


def test_questions_that_are_none_are_answered(shared):
    client = shared.client
    with pytest.raises(HookError, match="cannot read the question"):
        client._ask("open", {}, 5)
    with pytest.raises(HookError, match="does not know 'dance'"):
        client._ask("dance", {}, 5)
    with pytest.raises(HookError, match=r"'\.\./x' is no id of a rollout"):
        client._ask("open", {"setup": {**_plain(shared), "rollout": "../x"}}, 5)
    with pytest.raises(HookError, match="speaks version 1 of its protocol, and was asked in version 7"):
        client._ask("ping", {"v": 7}, 5)


def _plain(made):
    return to_plain(made.setup())


# ------------------------------------------------------------------ its place


def test_a_driver_starts_one_where_none_answers(tmp_path, monkeypatch):
    store = tmp_path / "evaluator.duckdb"
    with pytest.raises(NotReached, match="no guard of"):
        connect(store, start=False, say=print)
    said = []
    client = connect(store, start=True, say=said.append)
    pid = client.ping()["pid"]
    try:
        assert "runs (process" in said[0]
        assert connect(store, start=True, say=print).ping()["pid"] == pid
        assert os.getsid(pid) == pid, "it outlives the session of its driver"
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def test_one_guard_for_a_store(shared):
    command = [sys.executable, "-m", "evaluator.guard", "--store", str(shared.store)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert f"process {shared.guard.pid}" in done.stdout
    assert "already guards the rollouts" in done.stdout
    assert shared.client.ping()["pid"] == shared.guard.pid


def test_a_folder_of_another_user_is_no_place_for_the_socket(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = tmp_path / "evaluator" / "guard.sock"
    assert choose_socket_path(Path("evaluator.duckdb")).parent in (path.parent, Path(f"/tmp/evaluator-{os.getuid()}"))
    assert len(str(choose_socket_path(Path("/long" * 60)))) <= 100
    (tmp_path / "trap").mkdir(mode=0o700)
    path.parent.symlink_to(tmp_path / "trap")
    with pytest.raises(HookError, match="trap of another user"):
        make_private_folder(path.parent)
    path.parent.unlink()
    path.parent.mkdir(mode=0o755)
    with pytest.raises(HookError, match="other users may use"):
        make_private_folder(path.parent)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_is_not_served(tmp_path):
    path = "/tmp/evaluator-test-peer.sock"
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        Path(path).chmod(0o777)
        listening.listen()
        code = f"import socket, os; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect({path!r}); s.recv(1)"
        other = subprocess.Popen([sys.executable, "-c", code])
        connection, _ = listening.accept()
        with connection:
            assert not is_same_user(connection)
        other.wait(20)
    Path(path).unlink()
    first, second = socket.socketpair(socket.AF_UNIX)
    with first, second:
        assert is_same_user(first)
