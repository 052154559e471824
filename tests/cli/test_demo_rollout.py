"""`evaluator demo rollout` with very short stages: HAProxy, users, driver and guard, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from rollout_cases import make_cases

from evaluator.__main__ import run
from evaluator.cli.demo_rollout import INCONCLUSIVE_CODE, EndedDemo, Ending, allow_difference
from evaluator.cli.demo_rollouts import BAD, TIMES, expect_s, make_row
from evaluator.reports.rollout import StepRequests
from evaluator.sources.sample_environments import RoutedTraffic, find_processes
from evaluator.sources.sample_policy import STRATEGIES, Times
from evaluator.store import Store

END_S = 150
PROGRAM = """
import sys
from pathlib import Path
from evaluator.cli import Session
from evaluator.cli.demo_rollout import run_demo
from evaluator.cli.demo_rollouts import run_demos
from evaluator.sources.sample_policy import Times
times = Times(canary_load=False, bake_s=12, last_s=2, least=20, users=15, shares=("50 %",))
if sys.argv[1] == "all":
    print("EXIT", run_demos(Session(), Path("demo"), ["canary"], "dies", times))
else:
    print("EXIT", run_demo(Session(), Path("demo"), "canary", sys.argv[1], times))
"""


@pytest.fixture
def begin_demo(tmp_path):
    """Begins a demo in a folder of its own, whose output is in the files `out` and `err`."""
    begun = []

    def begin(regression):
        folder = tmp_path / regression
        folder.mkdir()
        command = [sys.executable, "-c", PROGRAM, regression]
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            variables = os.environ | {"NO_COLOR": "1", "XDG_STATE_HOME": str(folder / "state")}
            (folder / "state").mkdir()
            process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err, env=variables)
        begun.append(process)
        return process, folder

    yield begin
    for process in begun:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def read(folder):
    return (folder / "out").read_text(), (folder / "err").read_text()


def list_acts(folder):
    lines = (folder / "demo" / "rollout-1" / "acts.log").read_text().splitlines()
    return [line.split(" ", 1)[1] for line in lines]


def list_configured(folder):
    """What the hook of etcd was to do, and how it ended."""
    store = Store.open(folder / "demo" / "rollout-1" / "evaluator.duckdb", decisions_only=True)
    deliveries = store.control.deliveries()
    return [(delivery.event, delivery.outcome.state) for delivery in deliveries if delivery.hook == "etcd"]


def test_a_good_candidate_gets_all_users_and_one_that_hangs_is_off_within_seconds(begin_demo):
    # At once, because each of them mostly waits.
    good, good_folder = begin_demo("none")
    bad, bad_folder = begin_demo("hang")
    stopped, stopped_folder = begin_demo("all")

    until = time.monotonic() + END_S
    stopped_log = stopped_folder / "demo" / "rollout-1" / "rollout.log"
    while not stopped_log.exists() or "observe 50 %: begun" not in stopped_log.read_text():
        assert stopped.poll() is None, read(stopped_folder)
        assert time.monotonic() < until, read(stopped_folder)
        time.sleep(0.1)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(timeout=END_S) != 0
    said = read(stopped_folder)[1]
    assert said.startswith("2 rollouts, one after the other, at most ")
    assert "1 of 2: canary, the candidate: none" in said
    assert "2 of 2" not in said
    assert not find_processes([str(stopped_folder)])

    good.wait(timeout=END_S)
    out, err = read(good_folder)
    assert "EXIT 0" in out, out + err
    assert out.startswith("PROMOTED ✓  shop@1.5.0\n")
    assert "as it should be: the candidate has all traffic" in out
    assert "nothing is left running" in err
    assert list_acts(good_folder) == [
        "deploy production baseline",
        "deploy production canary",
        "announce shop 1.5.0 is live",
        "teardown test",  # here and below: what the demo ends itself
        "teardown pre-production",
        "teardown production",
    ]
    folder = good_folder / "demo" / "rollout-1"
    assert (folder / "announcements.txt").read_text() == "shop 1.5.0 is live\n"
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert yaml.safe_load((folder / "evaluator.yaml").read_text())["rollout"]["strategy"] == "canary"
    assert list_configured(good_folder) == [("step", "acknowledged")]
    last = json.loads((folder / "haproxy.log").read_text().splitlines()[-1])
    assert last["server"].startswith("c")

    bad.wait(timeout=END_S)
    out, err = read(bad_folder)
    assert "EXIT 0" in out, out + err
    assert out.startswith("ROLLED BACK ↩  shop@1.5.0-hang\n")
    assert "as it should be: 50 % is the first stage that can see it" in out
    assert "all traffic was at the baseline" in out
    assert "nothing is left running" in err
    assert list_acts(bad_folder)[2] == "teardown production canary"
    assert list_configured(bad_folder) == [("step", "acknowledged"), ("undo", "acknowledged")]
    assert not find_processes([str(good_folder), str(bad_folder)])
    for folder in (good_folder, bad_folder, stopped_folder):
        assert not list((folder / "state").glob("*.rollouts")), "another demo in this folder would not be guarded"


def test_it_says_what_is_missing_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["--policy", "own.yaml", "demo", "rollout"]) == 2
    assert "the demo writes its own policy" in capsys.readouterr().err
    assert run(["demo", "--seconds", "20", "rollout"]) == 2
    assert "--seconds belongs behind `rollout`" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["demo", "rollout"]) == 4
    assert capsys.readouterr().err == (
        "Error: haproxy is not installed\nHint: on Debian, as root: apt-get install haproxy\n"
    )
    assert not list(tmp_path.iterdir())


def test_all_strategies_are_expected_to_take_less_than_ten_minutes():
    cases = [(strategy, kind) for strategy in STRATEGIES for kind in ("none", BAD)]
    assert expect_s(cases, TIMES) < 600
    assert expect_s([("canary", "none")], Times(shares=("5 %",))) > 3 * 20


def test_the_share_of_an_ab_test_may_differ_by_the_chance_of_its_visitors():
    few, many = (StepRequests("50 %", 0.5, n, n // 2, 0, 0) for n in (300, 300_000))
    assert allow_difference("canary", few) == allow_difference("canary", many) == 0.01
    assert allow_difference("ab_test", few) == pytest.approx(0.21)
    assert allow_difference("ab_test", many) < 0.02


def test_the_table_of_all_says_what_turned_it_back_and_what_was_planned():
    cases = make_cases()

    def make(name, candidate, failed, sent, code=0):
        traffic = RoutedTraffic({"baseline": 9000, "canary": candidate}, {"baseline": 0, "canary": failed})
        return EndedDemo(cases[name][0], Ending(code, ""), traffic, sent)

    assert make_row(make("promoted", 1000, 0, 1000), "canary", "none")[:7] == (
        "canary", "none", "promoted", "5.1 min", "1,000", "0", "–"
    )  # fmt: skip
    *row, turned, planned = make_row(make("back", 900, 150, 910), "canary", "production-errors")
    assert row == ["canary", "production-errors", "rolled back", "12.8 min", "910", "150 + 10"]
    assert turned == "the guard: 38 of 61 requests o…10 s, more than 5 % in 50 %, 47.4 s after the shift"
    # 5 min of load, 10 min at 5 %, 60 min at 50 %, at 9,910 requests in 769 s.
    assert planned == "50 %: 75 min, 23,583"
    busy = make_row(make("back", 900, 150, 910, INCONCLUSIVE_CODE), "canary", "production-errors")
    assert busy[6] == "this machine was too busy for 50 %"
