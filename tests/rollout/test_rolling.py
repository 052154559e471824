"""Rolling rollouts of a service of four instances behind a real HAProxy, by the command line."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys

import pytest
from metrics_servers import wait_for
from rolling_world import NEW, OLD, rolling_world

from evaluator.__main__ import run

FIRST = {"name": "first", "replace": 1, "needs": "no_harm", "bake": "12s", "least": 20}
QUICK = {"name": "first", "replace": "25%", "needs": "nothing", "bake": "1s"}
REST = {"name": "rest", "replace": "rest", "needs": "nothing", "bake": "1s"}
ARMS_OF_FIRST = (
    "SELECT DISTINCT arm, instance FROM requests JOIN runs ON runs.id = requests.run WHERE step = 'first' ORDER BY ALL"
)
START = ("rollout", "start", "cart@1.5.0", "--reason", "it is Monday", "--yes")
VERSIONS = ("--baseline-version", OLD, "--canary-version", NEW)
ALL_OLD = {f"s{number}": OLD for number in range(1, 5)}
ALL_UP = dict.fromkeys(ALL_OLD, "UP")


@pytest.fixture
def rolling(tmp_path, monkeypatch):
    """Four instances with users, in whose folder commands are called."""
    monkeypatch.chdir(tmp_path)
    with rolling_world(tmp_path) as (made, served):
        wait_for(made.router.stats_socket.exists, "HAProxy has its socket")
        wait_for(lambda: made.states() == ALL_UP and served.statuses, "HAProxy finds the instances up")
        yield made, served


def test_a_healthy_version_reaches_all_instances_and_goes_back_when_a_person_wants_that(rolling, capsys):
    world, served = rolling
    world.write_policy([FIRST, REST])
    assert run((*START, *VERSIONS)) == 0, capsys.readouterr()
    said = capsys.readouterr().err
    assert world.versions() == dict.fromkeys(ALL_OLD, NEW)
    assert world.states() == ALL_UP
    assert world.replaced() == [f"s{number} {NEW}" for number in range(1, 5)]
    assert "observe first: is INCONCLUSIVE, no harm shown" in said
    assert "all traffic is at canary" in said
    assert set(served.statuses) == {200}, "no user notices that instances are replaced"
    capsys.readouterr()
    assert run(("data", "sql", ARMS_OF_FIRST, "--format", "csv")) == 0
    assert capsys.readouterr().out.replace('"', "").split()[1:] == [
        "baseline,s2",
        "baseline,s3",
        "baseline,s4",
        "canary,s1",
    ]
    assert run(("rollout", "status", "cart@1.5.0")) == 0
    assert "observe first: needs no harm, 1 of 4 instances is new, 25 % of the users" in capsys.readouterr().out
    assert run(("rollback", "cart@1.5.0", "--reason", "carts are empty", "--yes")) == 0, capsys.readouterr()
    assert (world.versions(), world.states()) == (ALL_OLD, ALL_UP)
    assert world.replaced()[4:] == [f"s{number} {OLD}" for number in (4, 3, 2, 1)], "the last batch first"
    assert set(served.statuses) == {200}


def test_a_bad_version_is_found_in_the_first_batch_and_its_instance_restored(rolling, capsys):
    world, served = rolling
    world.write_policy([FIRST, REST])
    world.bad.add(NEW)
    assert run((*START, *VERSIONS)) == 1, capsys.readouterr()
    assert (world.versions(), world.states()) == (ALL_OLD, ALL_UP)
    assert world.replaced() == [f"s1 {NEW}", f"s1 {OLD}"], "no other instance was touched"
    assert served.statuses.count(503) < 100
    assert "the limit is 5 %" in capsys.readouterr().err


def test_a_replacement_that_fails_half_way_restores_the_batch_and_those_before(rolling, capsys):
    world, served = rolling
    world.write_policy([QUICK, REST])
    world.refuse(f"s3 {NEW}")  # of s2, s3, s4
    assert run((*START, *VERSIONS)) == 4, capsys.readouterr()
    said = capsys.readouterr().err
    assert "ended with 1 (it wrote: no room for 1.5.0 on s3)" in said
    assert "users stay at new instances until these are restored: 0 of 4 instances" in said, "one new one serves alone"
    assert (world.versions(), world.states()) == (ALL_OLD, ALL_UP)
    assert world.replaced()[-1] == f"s1 {OLD}", "the first batch is the last to be restored"
    assert set(served.statuses) == {200}


def test_what_cannot_be_restored_stays_drained_is_named_and_is_tried_again(rolling, capsys):
    world, served = rolling
    world.write_policy([QUICK, REST])
    world.refuse(f"s3 {NEW}", f"s3 {OLD}")
    with (world.folder / "driver.log").open("wb") as log:
        command = [sys.executable, "-m", "evaluator", *START, *VERSIONS]
        driver = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: b"held" in (world.folder / "driver.log").read_bytes(), "the rollout is held")
        said = (world.folder / "driver.log").read_text()
        assert "s2, s3, s4 of cart not restored: give them the old version" in said
        assert "`evaluator rollout resume cart@1.5.0` lets it continue" in said
        assert {name: world.states()[name] for name in ("s2", "s3", "s4")} == dict.fromkeys(("s2", "s3", "s4"), "DRAIN")
        assert world.states()["s1"] == "UP", "the least that has to serve goes on serving"
        (world.folder / "refuses").unlink()
        assert run(("rollout", "resume", "cart@1.5.0")) == 0, "the driver that is there goes on"
        assert driver.wait(40) == 4
    finally:
        driver.kill()
        driver.wait()
    assert (world.versions(), world.states()) == (ALL_OLD, ALL_UP)
    assert set(served.statuses) == {200}


def test_a_driver_killed_between_drain_and_undrain_is_continued(rolling, capsys):
    world, served = rolling
    world.write_policy([QUICK | {"bake": "2s"}, REST])
    with (world.folder / "driver.log").open("wb") as log:
        command = [sys.executable, "-m", "evaluator", *START, *VERSIONS]
        driver = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: world.states()["s1"] == "DRAIN", "s1 is drained")
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert run(("rollout", "status", "cart@1.5.0")) == 0
    assert "driver: GONE" in capsys.readouterr().out
    assert run(("rollout", "resume", "cart@1.5.0")) == 0, capsys.readouterr()
    assert world.versions() == dict.fromkeys(ALL_OLD, NEW)
    assert world.states() == ALL_UP, "nothing is left drained"
    assert world.replaced() == [f"s{number} {NEW}" for number in range(1, 5)], "none is replaced twice"
    assert set(served.statuses) == {200}


def test_instances_are_restored_without_driver_and_decisions(rolling, capsys):
    """The journal has what restores them, and the guard returns the users before."""
    world, served = rolling
    world.write_policy([QUICK | {"bake": "60s"}, REST])
    with (world.folder / "driver.log").open("wb") as log:
        driver = subprocess.Popen([sys.executable, "-m", "evaluator", *START, *VERSIONS], stdout=log, stderr=log)
    try:
        wait_for(lambda: world.replaced() and world.states() == ALL_UP, "s1 is replaced and serves")
    finally:
        driver.kill()
        driver.wait()
    with contextlib.closing(sqlite3.connect("evaluator.control.sqlite", isolation_level=None)) as decisions:
        decisions.execute("BEGIN EXCLUSIVE")
        assert run(("rollback", "cart@1.5.0", "--reason", "carts are empty", "--yes")) == 0, capsys.readouterr()
        assert (world.versions(), world.states()) == (ALL_OLD, ALL_UP)
        decisions.execute("ROLLBACK")
    assert run(("rollout", "resume", "cart@1.5.0")) == 3, "a person turned it back"
    assert world.replaced() == [f"s1 {NEW}", f"s1 {OLD}"], "it is not restored twice"
    assert set(served.statuses) == {200}
