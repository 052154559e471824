"""`evaluator load` and `evaluator demo` from the outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from evaluator.__main__ import run
from evaluator.cli.load import parse_arms
from evaluator.cli.subject import parse_labels
from evaluator.errors import UsageError
from evaluator.pipeline.landing import land_release
from evaluator.records import Arm, RunState
from evaluator.sources.load import wait_for_targets
from evaluator.sources.sample import find_loadtests, start_arms
from evaluator.store import Store

RELEASE = "shop@2"

INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that started us in the background made it ignored
from evaluator.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def shop() -> Iterator[tuple[Arm, ...]]:
    with start_arms([("baseline", "1", "none"), ("canary", "2", "none")], instances=1, leak_over_s=60) as arms:
        wait_for_targets([url for arm in arms for url in arm.urls])
        yield arms


def load_arguments(shop: Sequence[Arm], *extra: str) -> list[str]:
    return [
        "load", RELEASE, "--baseline", shop[0].urls[0], "--canary", shop[1].urls[0], "--users", "10",
        "--spawn-rate", "20", "--locustfile", str(find_loadtests() / "locustfile.py"), *extra,
    ]  # fmt: skip


def start_load(folder: Path, shop: Sequence[Arm], *extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *load_arguments(shop, *extra)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_segments(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.glob("evaluator.data/*/*/seg-*.parquet"))) < count:
        assert time.monotonic() < deadline, "no segments came"
        time.sleep(0.05)


def test_replicates_restart_the_targets_between_runs(
    shop: Sequence[Arm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    restart = f"{sys.executable} -c \"open('restarted', 'a').write('x')\""
    code = run(
        load_arguments(
            shop, "--run-time", "2s", "--replicates", "2", "--restart-command", restart, "--service", "shop",
            "--canary-version", "2", "--label", "team=cart",
        )
    )  # fmt: skip
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert captured.out.startswith("shop@2: ")
    assert "requests in 2 runs, complete" in captured.out
    assert Path("restarted").read_text() == "x"
    store = Store.open(Path("evaluator.duckdb"))
    runs = store.data.runs(RELEASE)
    assert [(run.replicate, run.state) for run in runs] == [(0, RunState.COMPLETE), (1, RunState.COMPLETE)]
    assert len({run.group for run in runs}) == 1
    assert all(run.landed == run.facts.counted for run in runs)
    assert runs[0].fingerprint == runs[1].fingerprint
    assert runs[0].fingerprint["replicates"] == 2
    release = store.control.release(RELEASE)
    assert (release.services[0].canary, dict(release.labels)) == ("2", {"team": "cart"})


def test_a_restart_that_fails_is_an_error_and_the_first_run_stays(
    shop: Sequence[Arm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = run(load_arguments(shop, "--run-time", "1s", "--replicates", "2", "--restart-command", "false"))
    assert code == 4
    assert "the restart command 'false' ended with exit code 1" in capsys.readouterr().err
    assert [run.state for run in Store.open(Path("evaluator.duckdb")).data.runs(RELEASE)] == [RunState.COMPLETE]


def test_ctrl_c_lands_what_was_recorded(shop: Sequence[Arm], tmp_path: Path) -> None:
    load = start_load(tmp_path, shop, "--run-time", "60s")
    wait_for_segments(tmp_path, 2)
    load.send_signal(signal.SIGINT)
    _, log = load.communicate(timeout=30)
    assert load.returncode == 130, log
    assert "Traceback" not in log
    (run,) = Store.open(tmp_path / "evaluator.duckdb").data.runs(RELEASE)
    assert (run.state, run.facts.stopped_by) == (RunState.INCOMPLETE, "interrupted")
    assert run.landed == run.facts.counted > 0


@pytest.mark.parametrize("after_s", [0.3, 1.0, 1.8])
def test_ctrl_c_at_the_start_is_quiet_too(shop: Sequence[Arm], tmp_path: Path, after_s: float) -> None:
    load = start_load(tmp_path, shop, "--run-time", "60s")
    time.sleep(after_s)
    load.send_signal(signal.SIGINT)
    _, log = load.communicate(timeout=30)
    assert load.returncode in (130, -signal.SIGINT), log
    assert after_s < 1 or "Traceback" not in log


def test_a_load_that_was_killed_lands_at_the_next_look(shop: Sequence[Arm], tmp_path: Path) -> None:
    load = start_load(tmp_path, shop, "--run-time", "60s", "--processes", "2")
    wait_for_segments(tmp_path, 4)
    orphans = psutil.Process(load.pid).children(recursive=True)
    load.kill()
    load.communicate()
    assert psutil.wait_procs(orphans, timeout=10)[1] == []
    store = Store.open(tmp_path / "evaluator.duckdb")
    (landed,) = land_release(store, RELEASE)
    (run,) = store.data.runs(RELEASE)
    assert landed.rows == run.landed > 0
    assert (run.state, run.facts.orphaned, run.facts.stopped_by) == (RunState.INCOMPLETE, True, "the load was killed")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(["--canary", "http://127.0.0.1:9"], 4, "http://127.0.0.1:9 does not accept", id="refused"),
        pytest.param([], 2, "one arm alone cannot be compared", id="one-arm"),
        pytest.param(["--canary", "127.0.0.1:9"], 2, "is not an address", id="no-scheme"),
        pytest.param(["--arm", "b"], 2, "--arm b is not NAME=URL", id="arm"),
        pytest.param(["--canary", "http://x", "--run-time", "soon"], 2, "soon", id="run-time"),
        pytest.param(["--canary", "http://x", "--label", "k"], 2, "is not K=V", id="label"),
        pytest.param(["--canary", "http://x", "--replicates", "0"], 2, "replicates", id="replicates"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_stored(
    shop: Sequence[Arm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], code: int, says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    locustfile = str(find_loadtests() / "locustfile.py")
    command = ["load", RELEASE, "--baseline", shop[0].urls[0], "--locustfile", locustfile, *arguments]
    assert run(command) == code
    assert says in capsys.readouterr().err
    if Path("evaluator.duckdb").exists():
        assert Store.open(Path("evaluator.duckdb")).releases() == ()


def test_arms_and_labels_are_read_from_options() -> None:
    arms = parse_arms("http://a/,http://b", "http://c", ["B=http://d,http://d"], "1", "2")
    assert arms == (
        Arm("baseline", ("http://a", "http://b"), "1"), Arm("canary", ("http://c",), "2"), Arm("B", ("http://d",))
    )  # fmt: skip
    assert parse_labels(["k=v=w"]) == {"k": "v=w"}
    with pytest.raises(UsageError, match="'canary' is given twice"):
        parse_arms("http://a", "http://c", ["canary=http://d"])
    with pytest.raises(UsageError, match="--baseline names no URL"):
        parse_arms(" , ", "http://c", [])


def test_the_demo_ends_with_a_verdict_and_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    # 20 % slower is nine standard errors beyond what is allowed even in these few seconds.
    code = run(["demo", "--seconds", "15", "--regression", "latency"])
    captured = capsys.readouterr()
    # Where other tests leave the load generator no processor, the verdict has to be undecided for that reason.
    saturated = "load generator: saturated" in captured.out
    assert (code, captured.out.split("  ")[0]) == ((3, "INCONCLUSIVE ?") if saturated else (1, "NO-GO ✗"))
    assert "shop@1.5.0-latency" in captured.out
    store = Store.open(Path("demo/evaluator.duckdb"))
    (verdict,) = store.control.verdicts("shop@1.5.0-latency")
    assert verdict.word == ("inconclusive" if saturated else "no_go")
    assert json.loads(verdict.json)["release"] == "shop@1.5.0-latency"
    page = Path("demo/shop@1.5.0-latency.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert ("INCONCLUSIVE ?" if saturated else "NO-GO ✗") in page
    assert str(Path("demo/shop@1.5.0-latency.html")) in captured.err
    assert json.loads(store.control.figures("shop@1.5.0-latency") or "{}")["timeline"]
    children = psutil.Process(os.getpid()).children()
    running = [process for process in children if process.status() != psutil.STATUS_ZOMBIE]  # of other tests
    assert not [process for process in running if "1.5.0" in process.cmdline()]


def test_a_restart_command_that_does_not_exist_is_named_before_the_first_run(
    shop: Sequence[Arm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(load_arguments(shop, "--replicates", "2", "--restart-command", "./no-such-program x")) == 2
    assert "the restart command './no-such-program' cannot be found" in capsys.readouterr().err


def test_users_that_send_no_request_are_no_complete_load(
    shop: Sequence[Arm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    task = "    @task\n    def buy(self):\n        raise ValueError('no cart')\n"
    Path("idle.py").write_text(f"from locust import HttpUser, task\nclass Idle(HttpUser):\n{task}")
    arguments = ["--baseline", shop[0].urls[0], "--canary", shop[1].urls[0], "--locustfile", "idle.py"]
    assert run(["load", RELEASE, *arguments, "--run-time", "2s"]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "made no request: ValueError: no cart" in captured.err


@pytest.mark.parametrize(("policy", "option"), [("sensitive: true\n", ()), ("", ("--sensitive",))])
def test_files_of_a_sensitive_release_quote_nothing_and_are_private(
    shop: Sequence[Arm],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    policy: str,
    option: Sequence[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evaluator.yaml").write_text(policy)
    buy = "        self.client.get('/nowhere?card=4111')\n        raise ValueError('card 4111 is empty')\n"
    users = "    wait_time = constant(0.1)\n    @task\n    def buy(self):\n"
    Path("users.py").write_text(f"from locust import HttpUser, constant, task\nclass Buyer(HttpUser):\n{users}{buy}")
    arguments = ["--baseline", shop[0].urls[0], "--canary", shop[1].urls[0], "--locustfile", "users.py"]
    assert run(["-v", "load", RELEASE, *arguments, "--run-time", "2s", *option, "--", "--csv", "locust"]) == 0
    captured = capsys.readouterr().err
    assert "ValueError" in captured
    assert "4111" not in captured
    ours = [path for path in tmp_path.rglob("*") if not path.name.startswith("users.")]  # and what is compiled of it
    of_locust = {path for path in ours if path.name.startswith("locust_")}  # who asks for its statistics gets names
    assert not [path for path in set(ours) - of_locust if _holds(path, b"4111")]
    written = [path for path in ours if path.name not in {"evaluator.yaml", "__pycache__"}]
    assert {path.name for path in written} >= {"evaluator.duckdb", "recording.json", "locust_stats.csv"}
    if policy:  # others cannot read them
        assert {path.stat().st_mode & 0o777 for path in written} == {0o600, 0o700}


def _holds(path: Path, text: bytes) -> bool:
    return path.is_file() and text in path.read_bytes()
