"""The command that serves the pages."""

from __future__ import annotations

import os
import signal
import socket
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from evaluator.__main__ import run
from evaluator.cli import app
from evaluator.serving import server
from evaluator.store import Store

ROOT = Path(__file__).parent.parent.parent


def test_the_configuration_of_a_checkout_says_what_the_command_says():
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    flat = {}
    waiting = [("", config)]
    while waiting:
        prefix, table = waiting.pop()
        for key, value in table.items():
            if isinstance(value, dict):
                waiting.append((f"{prefix}{key}.", value))
            else:
                flat[f"{prefix}{key}"] = value
    assert flat == {**server.OPTIONS, "server.address": "127.0.0.1"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The command sets variables of its process; they are restored after the test."""
    for name in ("EVALUATOR_STORE", "EVALUATOR_POLICY", "EVALUATOR_APP_WORKER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Start the app in a folder, as far as its server; returns what the server was started with."""
    found = {}

    def serve(listener, script, access, say, start_worker):
        found.update(listening=listener.getsockname(), script=script, access=access, start_worker=start_worker)
        return signal.SIGWINCH  # ends no process

    def start(*words: str):
        assert run(["--store", "s.duckdb", "--policy", "p.yaml", "app", "--port", "0", *words]) == 0
        return found

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(server, "configure", lambda _address, _port: None)
    monkeypatch.chdir(tmp_path)
    return start


def test_store_and_policy_are_passed_on(started, tmp_path):
    found = started("--no-worker")
    assert found["script"] == ROOT / "app.py"
    assert found["listening"][0] == "127.0.0.1"
    assert os.environ["EVALUATOR_STORE"] == str(tmp_path / "s.duckdb")
    assert os.environ["EVALUATOR_POLICY"] == str(tmp_path / "p.yaml")
    assert os.environ["EVALUATOR_APP_WORKER"] == "off"
    assert found["start_worker"] is None
    assert found["access"].store == tmp_path / "s.duckdb"


def test_the_address_with_the_token_is_all_that_is_printed(started, capsys):
    found = started()
    said = capsys.readouterr()
    port, token = found["listening"][1], found["access"].token
    assert said.out == f"http://127.0.0.1:{port}/?token={token}\n"
    assert "Ctrl-C ends it" in said.err
    assert token not in said.err


def test_the_owner_of_a_private_store_reads_what_others_see(started, capsys):
    Store.open(Path("s.duckdb"), create=True, private=True)
    started()
    assert "without its token, the app shows nothing of this private store:" in capsys.readouterr().err


def test_with_a_login_there_is_no_token(started, capsys, monkeypatch):
    monkeypatch.setattr("evaluator.serving.login.is_login_configured", lambda: True)
    found = started("--address", "::1")
    assert found["access"] is None
    assert capsys.readouterr().out == f"http://[::1]:{found['listening'][1]}\n"


def test_listening_to_the_network_is_reported(started, capsys):
    started("--address", "0.0.0.0")
    said = capsys.readouterr()
    assert "users have to sign in first" in said.err
    assert "token" not in said.out


def test_a_port_in_use_is_reported_in_one_sentence(capsys):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert run(["app", "--port", str(listener.getsockname()[1])]) == 4
    said = capsys.readouterr()
    assert "Address already in use" in said.err
    assert "give another --port" in said.err
    assert said.out == ""


def test_an_address_of_another_machine_is_reported_in_one_sentence(capsys):
    for address in ("192.0.2.1", "999.1.1.1", "no such name"):
        assert run(["app", "--address", address, "--port", "0"]) == 4
        said = capsys.readouterr().err
        assert f"the app cannot listen on {address}, port 0: " in said
        assert "give --address an address of this machine" in said
        assert "--port" not in said


def test_without_streamlit_it_says_what_to_install(monkeypatch, capsys):
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(app, "version", missing)
    assert run(["app"]) == 2
    assert "release-evaluator[app" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "open_to_all"),
    [
        ("127.0.0.1", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        (None, True),
        ("example.org", True),
    ],
)
def test_an_address_beyond_this_machine_needs_a_login(monkeypatch, address, open_to_all):
    from evaluator.ui import frame

    monkeypatch.setattr(frame, "is_login_configured", lambda: False)
    monkeypatch.setattr(frame.st, "get_option", lambda _name: address)
    assert frame._is_open_to_everyone() is open_to_all
    monkeypatch.setattr(frame, "is_login_configured", lambda: True)
    assert not frame._is_open_to_everyone()
