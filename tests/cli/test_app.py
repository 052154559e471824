"""The command that serves the pages."""

from __future__ import annotations

import socket
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from evaluator.__main__ import run
from evaluator.cli import app

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
                flat[f"{prefix}{key}"] = str(value).lower() if isinstance(value, bool) else value
    assert flat == {**app.OPTIONS, "server.address": "127.0.0.1"}


def test_store_policy_and_address_are_passed_on(monkeypatch, tmp_path):
    arguments = {}
    monkeypatch.setattr(
        app, "_run_server", lambda words, environment: arguments.update(words=words, environment=environment) or 0
    )
    monkeypatch.chdir(tmp_path)
    assert run(["--store", "s.duckdb", "--policy", "p.yaml", "app", "--port", "8777"]) == 0
    assert arguments["environment"]["EVALUATOR_STORE"] == str(tmp_path / "s.duckdb")
    assert arguments["environment"]["EVALUATOR_POLICY"] == str(tmp_path / "p.yaml")
    assert "--server.address=127.0.0.1" in arguments["words"]
    assert "--server.port=8777" in arguments["words"]
    assert "--browser.gatherUsageStats=false" in arguments["words"]


def test_listening_to_the_network_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(app, "_run_server", lambda _words, _environment: 0)
    assert run(["app", "--address", "0.0.0.0"]) == 0
    assert "users have to sign in first" in capsys.readouterr().err


def test_a_port_in_use_is_reported_in_one_sentence(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        words = [sys.executable, "-m", "evaluator", "app", "--port", str(listener.getsockname()[1])]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert "if the port is in use, give another --port" in done.stderr
    assert "Traceback" not in done.stderr


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
