"""The app as a process: who may press its buttons, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import socket_client
from served_app import run_app
from socket_client import Shown, Visitor
from websockets.exceptions import InvalidStatus

from evaluator.__main__ import run
from evaluator.permissions import make_private
from evaluator.serving import worker
from evaluator.store import Store

HOOKS = "hooks: {promote: [{command: {run: [sh, -c, 'touch HERE/begun; sleep 2; touch HERE/done']}}]}\n"
NOBODY = 65534


@pytest.fixture(scope="module")
def make_shop(judged_store, tmp_path_factory):
    """Make a folder with a store of its own and a policy with a hook that takes two seconds."""

    def make() -> Path:
        folder = shutil.copytree(judged_store.parent, tmp_path_factory.mktemp("served") / "shop")
        (folder / "evaluator.yaml").write_text(HOOKS.replace("HERE", str(folder)))
        return folder

    return make


@pytest.fixture(scope="module")
def app(make_shop):
    """A running app, in which nothing is promoted."""
    folder = make_shop()
    with run_app(folder, "--port", "0") as app:
        yield app
    assert Store.open(folder / "evaluator.duckdb").control.intents() == ()
    assert app.entry.partition("token=")[2] not in app.log.read_text()
    assert "external IP" not in app.log.read_text()  # no other server was asked about a foreign page


def open_as_user(app) -> tuple[Visitor, Shown]:
    """Open the page Promote as the browser does that has opened the printed address."""
    user = Visitor(app.address, {"Origin": app.address, "Cookie": app.get_session()})
    return user, user.open()


def test_without_the_session_no_button_is_shown_and_none_works(app):
    user, shown = open_as_user(app)
    user.close()
    assert "Promote" in shown.widgets
    token, cookie = app.entry.partition("token=")[2], app.get_session()
    for headers in (
        {"Origin": app.address},
        {"Origin": app.address, "X-Evaluator-Access": token},
        {"Cookie": cookie},
        {"Origin": "http://localhost:9999", "Cookie": cookie},
        {"Origin": app.address, "Cookie": cookie, "X-Forwarded-For": "192.0.2.1"},
    ):
        other = Visitor(app.address, headers)
        assert list(other.open().widgets) == []
        assert "read only" in other.press(shown.widgets, shown.page_hash).text
        other.close()
    for origin in ("http://evil.example", "null"):
        with pytest.raises(InvalidStatus, match="403"):
            Visitor(app.address, {"Origin": origin, "Cookie": cookie})


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another account")
def test_another_account_cannot_act_with_the_session_of_the_first(app):
    user, shown = open_as_user(app)
    user.close()
    headers = {"Origin": app.address, "Cookie": app.get_session()}
    words = [sys.executable, socket_client.__file__, str(NOBODY), app.address, json.dumps(headers)]
    words += [json.dumps(shown.widgets), shown.page_hash]
    seen = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=60).stdout)
    assert "Promote" in shown.widgets
    assert seen["buttons"] == []
    assert "This browser may only read" in seen["text"]
    assert "This browser may only read" in seen["pressed"]


PAGES = ("releases", "release", "compare", "plan", "promote", "audit")


def test_of_a_private_store_only_the_owner_sees_anything(make_shop):
    folder = make_shop()
    make_private(folder / "evaluator.duckdb")
    with run_app(folder, "--port", "0") as app:
        cookie = app.get_session()
        user = Visitor(app.address, {"Origin": app.address, "Cookie": cookie})
        promote, release = user.open("promote"), user.open("release")
        assert "Promote" in promote.widgets
        file = user.request_file(release.files[0])
        for path in (file, file.replace("media", "%6dedia"), f"/{file}"):
            assert app.get(path).status in {403, 400}
        assert app.get(file, Cookie=cookie).status == 200
        for headers in ({"Origin": app.address}, {"Cookie": cookie}):
            other = Visitor(app.address, headers)
            for page in PAGES:
                seen = other.open(page)
                assert "This store is private: it is shown only to the account that started the app." in seen.text
                assert "To read it, open the address" in seen.text
                assert list(seen.widgets) == []
                assert seen.files == []
                assert "cart" not in seen.everything.replace(f"release={other.release}", "")
                assert str(folder) not in seen.everything
            pressed = other.press(promote.widgets, promote.page_hash)
            assert "This store is private" in pressed.text
            assert "cart" not in pressed.everything
            other.close()
        user.close()
        assert app.get("/").status == 200
    assert Store.open(folder / "evaluator.duckdb").control.intents() == ()


def test_the_token_is_exchanged_for_a_cookie_and_leaves_the_address(app):
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


# ------------------------------------------------------------------ its worker and its end


def wait_for(path: Path) -> None:
    """Wait until a hook has made a file."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def request_promotion(folder: Path, monkeypatch) -> None:
    """Let the user of this process approve a promotion, for a worker to execute."""
    monkeypatch.chdir(folder)
    assert run(["promote", "cart@1.9.0", "--yes", "--queue"]) == 0


def test_approved_requests_are_executed_though_no_page_is_opened(make_shop, monkeypatch):
    folder = make_shop()
    request_promotion(folder, monkeypatch)
    with run_app(folder, "--port", "0") as app:
        wait_for(folder / "begun")
        app.process.send_signal(signal.SIGTERM)
        assert app.process.wait(30) == -signal.SIGTERM
    (intent,) = Store.open(folder / "evaluator.duckdb").control.intents()
    assert (folder / "done").exists()
    assert intent.state == "acknowledged"


def test_a_worker_waits_for_a_store_that_is_not_there_yet(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(worker, "_POLL_S", 0.01)
    stop, executed = threading.Event(), []
    monkeypatch.setattr(worker, "run_worker", lambda store, *_, **__: executed.append(store.path))
    path = tmp_path / "evaluator.duckdb"
    path.write_text("no store " * 1000)
    thread = threading.Thread(target=worker._execute_requests, args=(path, stop))
    thread.start()
    while "approved requests are not executed: " not in caplog.text:
        assert thread.is_alive()
        time.sleep(0.01)
    path.unlink()
    Store.open(path, create=True)
    thread.join(30)
    assert executed == [path]


def test_one_worker_for_each_store_unless_it_is_turned_off(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(worker, "_started", set())
    monkeypatch.setattr(worker, "start_thread", lambda run, name: started.append(run.args))
    monkeypatch.setenv(worker.NO_WORKER, "off")
    worker.start_worker(tmp_path)
    assert started == []
    monkeypatch.delenv(worker.NO_WORKER)
    worker.start_worker(tmp_path)
    worker.start_worker(tmp_path)
    assert started == [(tmp_path,)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_hook_that_is_being_executed_is_completed(make_shop, number):
    folder = make_shop()
    with run_app(folder, "--port", "0") as app:
        user, shown = open_as_user(app)
        user.press(shown.widgets, shown.page_hash)
        wait_for(folder / "begun")
        app.process.send_signal(number)
        assert app.process.wait(30) == -number
        user.close()
    (intent,) = Store.open(folder / "evaluator.duckdb").control.intents()
    assert (folder / "done").exists()
    assert intent.state == "acknowledged"
    assert "the worker completes the hooks" in app.log.read_text()


def test_ctrl_c_ends_the_server_at_once_and_is_no_error(tmp_path):
    with run_app(tmp_path, "--port", "0") as app:
        host, _, port = app.address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as silent:
            silent.sendall(b"GET /_stcore/stream HTTP/1.1\r\nHost: x\r\n")  # and no more
            # SIGKILL ends all of it, too: the server and its worker have no process of their own.
            assert psutil.Process(app.process.pid).children(recursive=True) == []
            app.process.send_signal(signal.SIGINT)
            assert app.process.wait(20) == 130
    assert "Error" not in app.log.read_text()
    assert "Traceback" not in app.log.read_text()
