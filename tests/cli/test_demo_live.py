"""`evaluator demo --live`, with a real HAProxy and Locust as its users."""

import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest
from metrics_servers import wait_for

from evaluator.__main__ import run
from evaluator.records import EvidenceKind
from evaluator.sources import sample_router
from evaluator.sources.sample import DEAD, start_arms
from evaluator.store import Store

END_S = 180


@pytest.fixture
def begin_demo(tmp_path):
    """Begins `evaluator demo --live` in a folder of its own, as a process whose errors are in the file `err`."""
    begun = []

    def begin(name, *options):
        folder = tmp_path / name
        folder.mkdir()
        command = [sys.executable, "-m", "evaluator", "demo", "--live", "--seconds", "10", *options]
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err, env=os.environ | {"NO_COLOR": "1"})
        begun.append(process)
        return process, folder

    yield begin
    for process in begun:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def started_by(process):
    return psutil.Process(process.pid).children(recursive=True)


def test_production_is_judged_next_to_the_load_and_a_dead_canary_is_no_go(begin_demo):
    # At once, because each of them mostly waits.
    healthy, healthy_folder = begin_demo("healthy")
    dead, dead_folder = begin_demo("dead", "--regression", "dead")
    interrupted, interrupted_folder = begin_demo("interrupted")

    wait_for(lambda: b"following its log" in (interrupted_folder / "err").read_bytes(), "users of the router")
    of_interrupted = started_by(interrupted)
    assert sum("haproxy" in child.name() for child in of_interrupted) == 1
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(timeout=END_S) == 130
    assert not [child for child in of_interrupted if child.is_running()]
    assert (interrupted_folder / "err").read_text().endswith("Error: interrupted; what was recorded stays\n")

    # Ten seconds on a busy machine do not decide every gate.
    assert healthy.wait(timeout=END_S) in (0, 3), (healthy_folder / "err").read_text()
    out = (healthy_folder / "out").read_text()
    rows = [line.strip().split("  ")[0] for line in out.splitlines()]
    assert {"p95", "p95 (production)"} <= set(rows)  # with wide numbers, the longer one is on a line of its own
    store = Store.open(healthy_folder / "demo" / "evaluator.duckdb")
    live, load = sorted(store.data.runs("shop@1.5.0-live"), key=lambda run: run.kind != EvidenceKind.LIVE)
    assert (live.kind, load.kind) == (EvidenceKind.LIVE, EvidenceKind.REQUESTS)
    assert live.shares == {"baseline": 0.5, "canary": 0.5}
    assert live.state == load.state == "complete"
    assert not live.facts.router.retried_by_unknown
    assert (healthy_folder / "demo" / "shop@1.5.0-live.html").read_text().startswith("<!DOCTYPE html>")

    assert dead.wait(timeout=END_S) == 1, (dead_folder / "err").read_text()
    out = (dead_folder / "out").read_text()
    assert out.startswith("NO-GO ✗  shop@1.5.0-live-dead")
    assert "failures (production) rose" in out
    sentence = "retries – requests failed on a server and were tried again by the router: baseline 0, canary"
    assert sentence in " ".join(out.split())  # lines are wrapped
    log = (dead_folder / "demo" / "haproxy" / "haproxy.log").read_text().splitlines()
    assert sum(" 200 " in line for line in log) > 0.8 * len(log)  # what the users got


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv of util-linux")
def test_what_the_demo_starts_ends_with_it_even_if_it_is_killed():
    program = (
        "from evaluator.sources.sample import start_process\n"
        "with start_process(['sleep', '100']) as process:\n"
        "    print(process.pid, flush=True)\n"
        "    process.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        wait_for(lambda: child.name() == "sleep", "start of the process")
        parent.kill()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its end")


def test_the_demo_without_haproxy_ends_with_a_hint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["demo", "--live"]) == 4
    assert capsys.readouterr().err == (
        "Error: haproxy is not installed\nHint: on Debian, as root: apt-get install haproxy\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_haproxy_that_does_not_start_is_named_with_its_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_router, "_CONFIG", sample_router._CONFIG + "  nonsense\n")
    versions = [("baseline", "1", DEAD), ("canary", "2", DEAD)]
    with (
        start_arms(versions, instances=1, leak_over_s=1) as arms,
        pytest.raises(sample_router.SourceError, match=r"haproxy did not start: config : .*unknown keyword 'nonsense'"),
        sample_router.start_router(arms, {"baseline": 0.5, "canary": 0.5}, tmp_path / "haproxy"),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--regression", "dead"], "--regression dead needs HAProxy in front of the service"),
        (["--share", "25%"], "--share needs HAProxy in front of the service"),
        (["--live", "--share", "100%"], "--share must be between 1% and 99%, not 100%"),
        (["--live", "--prometheus"], "--live and --prometheus cannot be given together"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert run(["demo", *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
