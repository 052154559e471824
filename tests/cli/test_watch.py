"""`evaluator watch`, `verdict --wait` and `load --stop-on` from the outside."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from request_files import write_requests

from evaluator.__main__ import run
from evaluator.cli.waiting import PLAIN_EVERY_S, StatusLine
from evaluator.records import Arm, RunState
from evaluator.sources.load import wait_for_targets
from evaluator.sources.sample import find_loadtests, start_arms
from evaluator.store import Store

RELEASE = "shop@2"

# A look each eight seconds instead of each minute, so that a test need not take minutes; and what else the machine has
# to do while tests run must not void the comparison.
OFTEN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that started us in the background made it ignored
from evaluator.stats.inference import calendar
calendar.EVERY_S = 8
from evaluator.health import load_generator
load_generator.SATURATED_LAG_MS = load_generator.SATURATED_PERCENT = 10_000
from evaluator.__main__ import main
main()
"""
POLICY = """
monitoring: {mode: group_sequential, burn_in: 8s}
metrics:
  - {name: latency_p50, type: latency_quantile, quantile: 0.5, role: gate, margin: 2%}
"""


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OFTEN, *args], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def slow_shop() -> Iterator[tuple[Arm, ...]]:
    versions = [("baseline", "1", "none"), ("canary", "2", "latency")]
    with start_arms(versions, instances=3, leak_over_s=60) as arms:
        wait_for_targets([url for arm in arms for url in arm.urls])
        yield arms


def load_arguments(shop: Sequence[Arm], *extra: str) -> list[str]:
    return [
        "load", RELEASE, "--baseline", ",".join(shop[0].urls), "--canary", ",".join(shop[1].urls), "--users", "30",
        "--spawn-rate", "60", "--locustfile", str(find_loadtests() / "locustfile.py"), "--stop-on", "no-go", *extra,
    ]  # fmt: skip


def test_a_load_that_is_no_go_stops_early_and_a_watch_gives_the_same_verdict(
    slow_shop: Sequence[Arm], tmp_path: Path
) -> None:
    (tmp_path / "evaluator.yaml").write_text(POLICY)
    watch = start(tmp_path, "watch", RELEASE, "--wait", "2m", "--format", "json")
    load = start(tmp_path, *load_arguments(slow_shop, "--run-time", "90s"))
    began = time.monotonic()
    output, log = load.communicate(timeout=80)
    assert load.returncode == 0, log
    assert time.monotonic() - began < 70
    assert "requests in 1 run, ended early: NO-GO was shown after " in output
    out, err = watch.communicate(timeout=40)
    assert watch.returncode == 1, err
    assert "Traceback" not in err + log
    watched = json.loads(out)
    store = Store.open(tmp_path / "evaluator.duckdb")
    (run,) = store.data.runs(RELEASE)
    assert (run.state, run.facts.stopped_by) == (RunState.COMPLETE, "")
    assert run.landed == run.facts.counted
    assert run.facts.ended_early.startswith("NO-GO was shown after ")
    assert [stored.word for stored in store.control.verdicts(RELEASE)] == ["no_go"]
    verdict = start(tmp_path, "verdict", RELEASE, "--format", "json")
    judged = json.loads(verdict.communicate(timeout=30)[0])
    assert verdict.returncode == 1
    assert judged["reasons"][0]["metric"] == watched["reasons"][0]["metric"] == "latency_p50"
    assert judged["time_to_decision_s"] == watched["time_to_decision_s"]
    complete = next(finding for finding in judged["health"] if finding["check"] == "complete")
    assert complete["text"].startswith("the run was ended early on purpose: NO-GO was shown after ")
    assert judged["incomplete"] is False


def test_a_series_that_is_no_go_at_its_first_run_is_not_continued(slow_shop: Sequence[Arm], tmp_path: Path) -> None:
    (tmp_path / "evaluator.yaml").write_text(POLICY)
    load = start(tmp_path, *load_arguments(slow_shop, "--run-time", "12s", "--replicates", "2"))
    output, log = load.communicate(timeout=60)
    assert load.returncode == 0, log
    assert "in 1 run, ended early: 1 further run left out, NO-GO was shown" in output
    watch = start(tmp_path, "watch", RELEASE)
    assert watch.communicate(timeout=30)[0].startswith("NO-GO")
    assert watch.returncode == 1


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Options of an import that is 60 % slower."""
    options = []
    for arm, slower in (("baseline", 1.0), ("canary", 1.6)):
        for replicate in range(3):
            path = tmp_path / f"{arm}-{replicate}.parquet"
            write_requests(path, slower=slower, seed=10 * replicate + (arm == "canary"), repeat=replicate)
            options += [f"--{arm}", str(path)]
    return options


def test_a_gate_may_start_before_the_release_exists(files: list[str], tmp_path: Path) -> None:
    gate = start(tmp_path, "verdict", "cart@2", "--wait", "60s", "--format", "json=verdict.json", "--format", "human")
    assert gate.stderr is not None
    assert gate.stderr.readline().startswith("waiting for the release; deadline in ")
    assert run(["--store", str(tmp_path / "evaluator.duckdb"), "-q", "import", "cart@2", *files]) == 0
    out, err = gate.communicate(timeout=40)
    assert (gate.returncode, out[:5]) == (1, "NO-GO"), err
    assert out.count("NO-GO ✗") == 1
    assert json.loads((tmp_path / "verdict.json").read_text())["verdict"] == "no_go"
    assert len(Store.open(tmp_path / "evaluator.duckdb").control.verdicts("cart@2")) == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("watch", "cart@2"), 1),
        (("watch", "cart@2", "--exit-zero"), 0),
        (("watch", "cart@2", "--fail-on", "inconclusive"), 0),
        (("verdict", "cart@2", "--wait", "5s", "--dry-run"), 1),
        (("watch", "cart@2", "--policy", "shadow.yaml"), 0),
        (("verdict", "cart@2", "--wait", "5s", "--policy", "shadow.yaml"), 0),
    ],
    ids=str,
)
def test_waiting_ends_as_verdict_does(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...], code: int,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("shadow.yaml").write_text("mode: shadow\n")
    run(["-q", "import", "cart@2", *files])
    capsys.readouterr()
    assert run(list(command)) == code
    assert capsys.readouterr().out.startswith("NO-GO")
    assert len(Store.open(Path("evaluator.duckdb")).control.verdicts("cart@2")) == ("--dry-run" not in command)


def test_the_list_of_releases_counts_what_shadow_mode_let_pass(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shadow.yaml").write_text("mode: shadow\n")
    run(["-q", "import", "cart@2", *files])
    for policy in ("shadow.yaml", "shadow.yaml"):
        run(["verdict", "cart@2", "--policy", policy])
    capsys.readouterr()
    run(["releases"])
    output = capsys.readouterr()
    assert "NO-GO ✗ (shadow)" in output.out
    assert output.err == "2 verdicts in shadow mode, of which 2 would have blocked\n"
    run(["verdict", "cart@2"])
    capsys.readouterr()
    run(["releases", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["mode"], row["shadow_verdicts"], row["would_have_blocked"]) == ("block", 2, 2)


def test_the_deadline_is_inconclusive_also_without_a_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["-q", "verdict", "cart@2", "--wait", "1s"]) == 3
    output = capsys.readouterr()
    assert output.err == ""
    assert "the deadline passed after 1 s: there is no such release in the store" in output.out
    assert not Path("evaluator.duckdb").exists()
    assert run(["watch", "cart@2", "--wait", "0.5s", "--exit-zero"]) == 0
    assert run(["watch", "cart@2", "--wait", "soon"]) == 2


def test_ctrl_c_shows_the_status(tmp_path: Path) -> None:
    watch = start(tmp_path, "watch", "cart@2")
    assert watch.stderr is not None
    watch.stderr.readline()
    watch.send_signal(signal.SIGINT)
    out, err = watch.communicate(timeout=20)
    assert (watch.returncode, out) == (130, "")
    assert "stopped waiting for cart@2: waiting for the release" in err
    assert "Traceback" not in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    terminal, messages = Terminal(), []
    line = StatusLine(messages.append, stream=terminal)
    line.show("waiting for the release")
    line.show("x\x1b[31m" + "y" * 90)
    line.close("the end")
    assert messages == ["the end"]
    assert "\n" not in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()
    assert all(len(part) < 40 for part in terminal.getvalue().split("\r"))
    assert terminal.getvalue().endswith("\r" + " " * 39 + "\r")


@pytest.mark.parametrize("variable", ["CI", "NO_COLOR", "pipe"])
def test_elsewhere_a_plain_line_comes_at_intervals(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "1")
    stream = io.StringIO() if variable == "pipe" else Terminal()
    now, messages = [0.0], []
    line = StatusLine(messages.append, stream=stream, clock=lambda: now[0])
    for second in range(int(2 * PLAIN_EVERY_S)):
        now[0] = float(second)
        line.show(f"{second} s")
    line.close()
    assert messages == ["0 s", "30 s"]
    assert stream.getvalue() == ""
