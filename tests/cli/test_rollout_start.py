"""`evaluator rollout start | resume | status`, with a router that is a program, and a guard that runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import sys
import time

import pytest

from evaluator.__main__ import run
from evaluator.errors import NotReached, Refused
from evaluator.guard.client import GuardClient
from evaluator.records.rollouts import Event, EventKind
from evaluator.rollout.locking import driving_alone, find_driver
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

ROUTER = """\
import sys
if sys.argv[1] == "get":
    print(open("shares.json").read())
else:
    open("shares.json", "w").write(sys.argv[2])
"""
POLICY = f"""\
service: cart
sources:
  access_log:
    format: nginx
    log_format: '$msec "$request" $status $upstream_addr $upstream_response_time $request_time'
    arms: {{baseline: ['b*'], canary: ['c*']}}
rollout:
  strategy: big_bang
  lease: 20s
  router:
    cart:
      command: {{set: [{sys.executable}, router.py, set, "${{shares}}"], get: [{sys.executable}, router.py, get]}}
  live: {{access_log: access.log}}
  stages:
    - {{name: all, share: 100%, needs: nothing, bake: 1s}}
  acts:
    all: [{{name: deploy, hooks: [{{command: {{run: [touch, deployed], undo: [rm, deployed]}}}}]}}]
    always: [{{name: teardown, hooks: [{{command: {{run: [touch, torn]}}}}]}}]
"""
ALL_AT_BASELINE = '{"baseline": 1.0, "canary": 0.0}'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a policy, a router and a log; its guard is ended afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "router.py").write_text(ROUTER)
    (tmp_path / "shares.json").write_text(ALL_AT_BASELINE)
    (tmp_path / "evaluator.yaml").write_text(POLICY)
    line = '{:.3f} "GET /cart HTTP/1.1" 200 b1:8000 0.010 0.010\n'
    (tmp_path / "access.log").write_text("".join(line.format(time.time() - n) for n in range(9, 0, -1)))
    yield tmp_path
    with contextlib.suppress(NotReached):
        os.kill(GuardClient(tmp_path / "evaluator.duckdb").ping()["pid"], signal.SIGTERM)


@pytest.fixture
def call(place, capsys):
    """Runs a command; returns the exit code, and what was printed to stdout and stderr."""

    def run_command(*words):
        code = run(words)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_command


def start(call, *options):
    return call("rollout", "start", "cart@1.5.0", "--reason", "it is Monday", "--yes", *options)


def test_a_rollout_is_started_and_promoted(place, call):
    code, _, told = start(call)
    assert code == 0, told
    assert "cart@1.5.0 is promoted: all users have the candidate" in told
    assert json.loads((place / "shares.json").read_text())["canary"] == 1
    assert (place / "deployed").exists()
    assert (place / "torn").exists()
    code, shown, _ = call("rollout", "status")
    assert code == 0
    assert "✓  2. cart to 100 %" in shown
    assert "started by" in shown
    assert "rollback cart@1.5.0" in shown
    code, shown, _ = call("rollout", "status", "cart@1.5.0", "--json")
    [status] = json.loads(shown)
    assert status["outcome"] == "promoted"
    assert [step["state"] for step in status["steps"]] == ["done"] * 4
    assert call("rollout", "resume", "cart@1.5.0")[0] == 2, "it has ended"


def test_an_act_that_fails_goes_back_and_a_dry_run_does_nothing(place, call):
    policy = place / "evaluator.yaml"
    policy.write_text(POLICY.replace("run: [touch, deployed]", "run: [cat, missing]"))
    assert start(call, "--dry-run")[0] == 0
    assert not (place / "evaluator.duckdb").exists()
    code, _, told = start(call)
    assert code == 4, told
    assert "deploy: failed" in told
    assert "rolled back" in told
    assert (place / "shares.json").read_text() == ALL_AT_BASELINE
    assert (place / "torn").exists(), "what is always done is done"


def test_a_queued_rollout_is_driven_by_the_worker(place, call):
    code, _, told = start(call, "--queue")
    assert code == 0
    assert "waits for `evaluator hooks worker`" in told
    _, shown, _ = call("rollout", "status")
    assert "driver: none yet; it waits for `evaluator hooks worker`" in shown
    assert "guard: none answers" in shown
    code, _, told = call("hooks", "worker", "--once")
    assert code == 0
    assert "r1 (cart@1.5.0): cart@1.5.0 is promoted" in told


def test_a_second_driver_is_refused_and_a_dead_one_blocks_nothing(place, call):
    start(call, "--queue")
    store = Store.open(place / "evaluator.duckdb")
    with driving_alone(store, "r1", "cart@1.5.0", ("cart",)):
        code, _, told = call("rollout", "resume", "cart@1.5.0")
        assert code == 3
        assert f"process {os.getpid()}" in told
        with pytest.raises(Refused, match="has a driver already"), driving_alone(store, "r2", "x", ("cart",)):
            pass
        _, shown, _ = call("rollout", "status")
        assert f"driver: process {os.getpid()}" in shown
    assert find_driver(store, "cart").is_there is False
    _, shown, _ = call("rollout", "status")
    assert "driver: GONE" in shown
    assert "`evaluator rollout resume cart@1.5.0` goes on with it" in shown
    assert start(call)[0] == 0, "start goes on, too"


def test_a_held_rollout_continues_where_its_driver_is(place, call):
    start(call, "--queue")
    store = Store.open(place / "evaluator.duckdb")
    rollouts = Rollouts(store.control.file)
    rollouts.add_event(rollouts.rollout("r1"), Event(EventKind.HELD, time.time(), person="ann", text="lunch"))
    _, shown, _ = call("rollout", "status")
    assert "held: lunch" in shown
    with driving_alone(store, "r1", "cart@1.5.0", ("cart",)):
        code, _, told = call("rollout", "resume", "cart@1.5.0", "--reason", "eaten")
        assert code == 0
        assert "it is driven by process" in told
    assert rollouts.events("r1")[-1].kind is EventKind.CONTINUED


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("'$.share'", "'$.other'"), "plan"),
        (("'$.lease_s'", "1"), "plan"),
    ],
)
def test_a_plan_that_was_edited_or_is_of_another_version_goes_back(place, call, change, text):
    start(call, "--queue")
    file = place / "evaluator.control.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        key, value = change
        connection.execute(f"UPDATE rollouts SET plan = json_set(plan, {key}, {value})")
    code, _, told = call("rollout", "resume", "cart@1.5.0")
    assert code == 4, told
    assert "goes back to the baseline" in told
    assert text in told
    assert not (place / "deployed").exists()
    _, shown, _ = call("rollout", "status")
    assert "its plan cannot be used" in shown


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("router.py, get]", "no-router.py, get]", "the router of cart cannot be used"),
        ("live: {access_log: access.log}", "live: {prometheus: true}", "names no access log of cart"),
        ("live: {access_log: access.log}", "live: {access_log: {shop: access.log}}", "names no access log of cart"),
    ],
)
def test_what_cannot_be_driven_is_refused_before_anything_is_stored(place, call, old, new, text):
    (place / "evaluator.yaml").write_text(POLICY.replace(old, new))
    code, _, told = start(call)
    assert code in (2, 4)
    assert text in told
    assert not (place / "deployed").exists()
    _, shown, _ = call("rollout", "status")
    assert "r1" not in shown


def test_a_reason_and_a_confirmation_are_needed(place, call):
    code, _, told = call("rollout", "start", "cart@1.5.0", "--yes")
    assert code == 2
    assert "the reason is missing" in told
    code, _, told = call("rollout", "start", "cart@1.5.0", "--reason", "why not")
    assert code == 2
    assert "a rollout needs a confirmation" in told


def test_a_rollout_that_would_give_users_the_candidate_with_too_few_agreements_is_not_started(place, call):
    (place / "evaluator.yaml").write_text(POLICY + "approvals: {promote: 2}\n")
    code, _, said = start(call)
    assert code == 3
    assert "the rollout of cart@1.5.0 is not started: " in said
    assert "write agree: 2 there" in said
    assert not (place / "deployed").exists()
    (place / "evaluator.yaml").write_text(POLICY + "roles: {approver: [somebody]}\n")
    code, _, said = start(call)
    assert code == 3
    assert "starting a rollout needs an approver" in said
