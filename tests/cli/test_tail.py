"""`evaluator tail` and `evaluator step` as a user calls them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from evaluator.__main__ import run
from evaluator.store import Store

ARMS = ("--arm-server", "baseline=b*", "--arm-server", "canary=c*")


def line(at, server):
    began = datetime.fromtimestamp(at, UTC)
    accepted = f"{began:%d/%b/%Y:%H:%M:%S}.{began.microsecond // 1000:03d}"
    return (
        f"127.0.0.1:5 [{accepted}] front shop/{server} 0/0/0/4/4 200 120 - - ---- 1/1/0/0/0 0/0 "
        '"GET /item/7?token=secret HTTP/1.1"\n'
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def tailing(folder, *options):
    """A process that follows `haproxy.log`, from when it has begun."""
    command = [
        sys.executable,
        "-m",
        "evaluator",
        "tail",
        "shop@2",
        "haproxy.log",
        *ARMS,
        "--lateness",
        "0.5s",
        *options,
    ]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while not (folder / "evaluator.data" / "shop@2" / "tail.json").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def test_a_rollout_is_followed_step_by_step(folder, capsys):
    log = folder / "haproxy.log"
    log.touch()
    with tailing(folder, "--step", "5%", "--share", "canary=5%") as process:
        assert run(["step", "shop@2", "25%", "--share", "canary=25%", "--for", "1s"]) == 0
        begins = datetime.fromisoformat(capsys.readouterr().out.split("begins at ")[1].split()[0]).timestamp()
        with log.open("a") as file:
            file.write(line(begins - 0.1, "b1") + line(begins + 0.1, "c1") + line(begins + 0.2, "b1"))
        assert run(["step", "shop@2", "50%", "--share", "third=50%"]) == 2
        assert "there is no arm 'third'" in capsys.readouterr().err
        time.sleep(max(0, begins - time.time()) + 1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "shop@2: 1 request in run" in out
    assert "shop@2: 2 requests in run" in out
    assert "press Ctrl-C again to end at once" in err
    assert run(["verdict", "shop@2", "--step", "25%"]) == 3
    runs = Store.open(folder / "evaluator.duckdb").data.runs("shop@2")
    assert [(run.step, run.shares["canary"]) for run in runs][:2] == [("5%", 0.05), ("25%", 0.25)]
    assert b"secret" not in b"".join(path.read_bytes() for path in folder.glob("evaluator.data/**/*") if path.is_file())


def test_a_step_without_a_tail_is_refused(folder, capsys):
    assert run(["step", "shop@2", "25%"]) == 2
    error = capsys.readouterr().err
    assert "no `evaluator tail` follows a log of shop@2, so the step would have no requests" in error
    assert "evaluator tail shop@2" in error


def test_sigterm_is_no_complete_run(folder):
    (folder / "haproxy.log").touch()
    with tailing(folder) as process:
        time.sleep(0.5)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "evaluator tail was ended by SIGTERM" in err
    assert "start the same command again" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["haproxy.log"], "which requests belong to which arm is not known"),
        (["haproxy.log", *ARMS, "--time-zone", "Mars/Base"], "'Mars/Base' is no time zone"),
        (["haproxy.log", *ARMS, "--share", "canary"], "is not ARM=SHARE"),
        (["haproxy.log", *ARMS, "--share", "third=5%"], "--share names the arm third"),
        (["haproxy.log", *ARMS, "--stats-socket", "admin"], "no socket of HAProxy's statistics"),
        ([".", *ARMS], "is not a file"),
        (["haproxy.log", "haproxy.log", *ARMS], "is given twice"),
        ([], "Missing argument"),
    ],
)
def test_wrong_use_is_refused(folder, capsys, arguments, message):
    (folder / "haproxy.log").write_text(line(time.time(), "b1"))
    assert run(["tail", "shop@2", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_may_not_be_read_is_named(folder, capsys, monkeypatch):
    (folder / "haproxy.log").touch(mode=0)
    open_handle = os.open

    def refuse(path, *arguments, **options):
        """Refuse this file as the system does, but for root, who may read everything."""
        if str(path).endswith("haproxy.log"):
            raise PermissionError(13, "Permission denied", str(path))
        return open_handle(path, *arguments, **options)

    monkeypatch.setattr("os.open", refuse)
    monkeypatch.setattr("evaluator.sources.access_logs.planning.open_text", refuse)
    assert run(["tail", "shop@2", "haproxy.log", *ARMS]) == 2
    assert "cannot be read: Permission denied" in capsys.readouterr().err
