"""The app as a process: who may press its buttons, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import socket_client
from served_app import run_app

from evaluator.store import Store

HOOKS = "hooks: {promote: [{command: {run: [sh, -c, 'touch HERE/begun; sleep 2; touch HERE/done']}}]}\n"
NOBODY = 65534


@pytest.fixture
def shop(judged_store, tmp_path):
    """A folder with a store of its own and a policy with a hook that takes two seconds."""
    folder = tmp_path / "shop"
    shutil.copytree(judged_store.parent, folder)
    (folder / "evaluator.yaml").write_text(HOOKS.replace("HERE", str(folder)))
    return folder


def wait_until(what, seconds=60):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_only_the_session_promotes_and_sigterm_lets_the_hook_end(shop):
    with run_app(shop, "--port", "0") as app:
        token, cookie = app.entry.partition("token=")[2], app.get_session()
        page = {"Origin": app.address, "Cookie": cookie}
        user = socket_client.Visitor(app.address, page)
        shown = user.open()
        assert "Promote" in shown.widgets
        for headers in (
            {"Origin": app.address},
            {"Origin": app.address, "X-Evaluator-Access": token},
            {"Cookie": cookie},
            {"Origin": "http://localhost:9999", "Cookie": cookie},
            {**page, "X-Forwarded-For": "192.0.2.1"},
        ):
            other = socket_client.Visitor(app.address, headers)
            assert list(other.open().widgets) == []
            assert "read only" in other.press(shown.widgets, shown.page_hash).text
            other.close()
        assert Store.open(shop / "evaluator.duckdb").control.intents() == ()

        user.press(shown.widgets, shown.page_hash)
        wait_until((shop / "begun").exists)
        app.process.send_signal(signal.SIGTERM)
        assert app.process.wait(30) == -signal.SIGTERM
        assert (shop / "done").exists()
        user.close()
    (intent,) = Store.open(shop / "evaluator.duckdb").control.intents()
    assert intent.state == "acknowledged"
    assert token not in app.log.read_text()
    assert "the worker completes the hooks" in app.log.read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another account")
def test_another_account_cannot_act_with_the_session_of_the_first(shop):
    with run_app(shop, "--port", "0") as app:
        headers = {"Origin": app.address, "Cookie": app.get_session()}
        user = socket_client.Visitor(app.address, dict(headers))
        shown = user.open()
        user.close()
        words = [sys.executable, socket_client.__file__, str(NOBODY), app.address, json.dumps(headers)]
        words += [json.dumps(shown.widgets), shown.page_hash]
        seen = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=60).stdout)
    assert "Promote" in shown.widgets
    assert seen["buttons"] == []
    assert "This browser may only read" in seen["text"]
    assert "This browser may only read" in seen["pressed"]
    assert Store.open(shop / "evaluator.duckdb").control.intents() == ()


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGHUP, -signal.SIGHUP)])
def test_a_signal_ends_the_server_at_once_though_a_page_is_open(tmp_path, number, exit_code):
    with run_app(tmp_path, "--port", "0") as app:
        host, _, port = app.address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as silent:
            silent.sendall(b"GET /_stcore/stream HTTP/1.1\r\nHost: x\r\n")  # and no more
            # SIGKILL ends all of it, too: the server and its worker have no process of their own.
            assert psutil.Process(app.process.pid).children(recursive=True) == []
            app.process.send_signal(number)
            assert app.process.wait(20) == exit_code
    assert "Traceback" not in app.log.read_text()


def test_the_token_is_exchanged_for_a_cookie_and_leaves_the_address(tmp_path):
    with run_app(tmp_path, "--port", "0") as app:
        token = app.entry.partition("token=")[2]
        answer = app.get(f"/promote?release=cart%401&token={token}&a=b")
        assert (answer.status, answer.headers["Location"]) == (303, "/promote?release=cart%401&a=b")
        assert answer.headers["Cache-Control"] == "no-store"
        port = app.address.rpartition(":")[2]
        words = answer.headers["Set-Cookie"].split("; ")
        assert words[0].startswith(f"evaluator-session-{port}=")
        assert sorted(words[1:]) == ["HttpOnly", "Path=/", "SameSite=strict"]
        for path, headers in {
            "/?token=x": {},
            "/?token=": {},
            f"/?x=y&token={token}": {"Host": "evil.example"},
            f"/?token={token}": {"X-Forwarded-For": "192.0.2.1"},
            f"/?token={token}&token=x": {},
        }.items():
            answer = app.get(path, **headers)
            assert answer.status == (200 if path == "/?token=" else 303), path
            assert "Set-Cookie" not in answer.headers
        for path in ("//evil.example/?token=x", "/\\evil.example/?token=x"):
            assert app.get(path).headers["Location"] in {"/evil.example/", "/%5Cevil.example/"}
        assert app.get("/").headers["Content-Security-Policy"] == "frame-ancestors 'self'"
