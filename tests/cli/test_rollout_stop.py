"""Holding, rolling back and agreeing from the command line while a rollout runs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluator.__main__ import run as run_command
from evaluator.errors import NotReached
from evaluator.guard.places import find_folder
from evaluator.guard.state_file import StateFile
from evaluator.intents import returning
from evaluator.intents.rollout_steps import execute_step, request_step
from evaluator.policy import load_policy, parse_policy
from evaluator.records.rollouts import Event, EventKind, Rollout, to_plain
from evaluator.rollout.planning import make_plan
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

RELEASE = "cart@1.9.0"
ACT = {"command": {"run": ["sh", "-c", "echo done >> HERE/out.txt"], "undo": ["sh", "-c", "echo back >> HERE/out.txt"]}}
VALUES = {
    "service": "cart",
    "rollout": {
        "strategy": "big_bang",
        "router": {"cart": {"command": {"set": ["true", "${shares}"], "get": ["cat", "HERE/shares"]}}},
        "live": {"access_log": "x.log"},
        "stages": [
            {"name": "all", "share": "100%", "needs": "nothing", "bake": "9s"},
        ],
        "acts": {"all": [{"name": "deploy", "hooks": [ACT]}], "end": [{"name": "dns", "hooks": [ACT], "agree": 1}]},
    },
}


@pytest.fixture
def run(judged_store, tmp_path, capfd, monkeypatch):
    """Run a command in the folder of a rollout that has executed its first act."""
    folder = tmp_path / "place"
    shutil.copytree(judged_store.parent, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (folder / "shares").write_text('{"baseline": 1, "canary": 0}')
    (folder / "evaluator.yaml").write_text("service: cart\n")
    values = json.loads(json.dumps(VALUES).replace("HERE", str(folder)))
    plan = make_plan(parse_policy(values), RELEASE)
    store = Store.open(folder / "evaluator.duckdb")
    draft = Rollout("", RELEASE, to_plain(plan), plan.hash(), values, "ann", ("ann",), "now", datetime.now(UTC))
    rollout = Rollouts(store.control.file).start(draft)
    deploy = request_step(store, rollout, plan, 0)
    execute_step(store, lambda _: load_policy(folder / "evaluator.yaml"), deploy.id, "driver")

    def call(*arguments):
        with monkeypatch.context() as patch, Path(os.devnull).open() as nothing:
            patch.setattr(sys, "stdin", nothing)
            code = run_command(arguments)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    call.folder, call.store, call.rollout, call.plan = folder, store, rollout, plan
    return call


@pytest.fixture
def guard(monkeypatch):
    """A guard that writes down what it is asked, and by which files traffic is returned without it."""
    asked = []

    def connect(store, *, start, say):
        assert not start
        if asked == ["gone"]:
            raise NotReached("no guard answers")
        return SimpleNamespace(back=lambda *arguments: asked.append(arguments) or SimpleNamespace(is_returned=True))

    monkeypatch.setattr(returning, "connect", connect)
    monkeypatch.setattr(
        returning, "go_back_without_guard", lambda store, release, why, say: asked.append((release, why))
    )
    return asked


def done(run):
    return (run.folder / "out.txt").read_text().split()


def test_a_rollback_asks_the_guard_first_and_then_undoes_the_acts(run, guard):
    code, out, _ = run("rollback", RELEASE, "--dry-run")
    assert code == 0
    assert "the rollout r1 goes back: first all its traffic to the baseline" in out
    assert guard == []
    code, _, err = run("rollback", RELEASE, "--yes", "--reason", "carts are empty")
    assert code == 0
    (asked,) = guard
    assert (asked[0], asked[1]) == ("r1", "carts are empty")
    assert "the guard returns the traffic of r1: all is at the baseline" in err
    assert done(run) == ["done", "back"]


def test_where_no_guard_answers_its_files_are_used(run, guard):
    guard.append("gone")
    assert run("rollback", RELEASE, "--yes", "--reason", "why")[0] == 0
    assert guard[1:] == [(RELEASE, "why")]


def test_nothing_in_the_guard_keeps_a_rollback_from_its_hooks(run, guard, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("secret")

    monkeypatch.setattr(returning, "connect", fail)
    code, _, err = run("rollback", RELEASE, "--yes", "--reason", "why")
    assert code == 0
    assert "the guard has not returned the traffic: RuntimeError" in err
    assert "secret" not in err
    assert done(run) == ["done", "back"]


def test_without_the_decisions_the_guard_is_asked_too(run, guard):
    run.store.control.file.path.write_bytes(b"no database" * 1000)
    code, out, _ = run("rollback", RELEASE, "--yes", "--reason", "why")
    assert code == 0, out
    assert [asked[0] for asked in guard] == ["r1"]
    assert done(run) == ["done", "back"]


def test_a_hold_leaves_the_traffic_and_says_how_to_go_on(run, guard):
    (run.folder / "evaluator.yaml").write_text(f"service: cart\nhooks: {{hold: [{json.dumps(ACT)}]}}\n")
    code, out, _ = run("hold", RELEASE, "--dry-run")
    assert "the rollout r1 waits, its traffic stays as it is, and no hook is executed" in out
    assert "1. hold" not in out
    code, out, _ = run("hold", RELEASE, "--yes", "--reason", "why")
    assert (code, guard) == (0, [])
    assert "to go on: evaluator rollout resume cart@1.9.0" in out
    assert done(run) == ["done"]


@pytest.mark.parametrize("is_guarded", [True, False])
def test_a_hold_from_the_journal_executes_no_hook_while_a_guard_watches_the_rollout(run, guard, is_guarded):
    hook = json.dumps(ACT).replace("HERE", str(run.folder))
    (run.folder / "evaluator.yaml").write_text(f"service: cart\nhooks: {{hold: [{hook}]}}\n")
    place = find_folder(run.folder / "evaluator.duckdb")
    place.mkdir(parents=True)
    file = StateFile((place / "r1.guard",))
    file.make({"setup": {"release": RELEASE}, "is_closed": not is_guarded})
    file.close()
    run.store.control.file.path.write_bytes(b"no database" * 1000)
    code, out, _ = run("hold", RELEASE, "--dry-run")
    assert ("keeps its traffic as it is, and no hook is executed" in out, "1. hold" in out) == (
        is_guarded, not is_guarded
    )  # fmt: skip
    code, out, _ = run("hold", RELEASE, "--yes", "--reason", "why")
    assert (code, guard) == (0, [])
    assert ("its driver waits once it can use the decisions" in out) == is_guarded
    assert done(run) == (["done"] if is_guarded else ["done", "done"])


def test_the_name_of_a_release_answers_nothing_and_names_what_waits(run):
    code, _, err = run("approve", RELEASE)
    assert (code, "no request of it waits for an answer" in err) == (2, True)
    request_step(run.store, run.rollout, run.plan, 2, "all has not shown what it needs")
    for verb in ("approve", "reject"):
        code, _, err = run(verb, RELEASE)
        assert code == 2
        assert "i2 (question about step 3 of rollout r1: all (step 3 of 4 of r1): all has not shown what" in err
        assert f"evaluator {verb} i2" in err
    assert run("approve", "cart@0")[0] == 2
    assert run.store.control.intent("i2").state == "requested"


def test_after_an_act_that_may_have_taken_down_the_baseline_a_rollback_undoes_first_and_asks_no_guard(run, guard):
    rollouts = Rollouts(run.store.control.file)
    rollouts.add_event(run.rollout, Event(EventKind.READ_BACK, 0.0))
    (run.folder / "shares").write_text('{"baseline": 0, "canary": 1}')
    dns = request_step(run.store, run.rollout, run.plan, 3)
    assert run("approve", dns.id)[0] == 0
    rules = load_policy(run.folder / "evaluator.yaml")
    assert execute_step(run.store, lambda _: rules, dns.id, "driver").state == "acknowledged"
    _, out, _ = run("rollback", RELEASE, "--dry-run")
    assert "first what its acts changed, then its traffic, if the baseline serves then: dns may have taken" in out
    assert run("rollback", RELEASE, "--yes", "--reason", "why")[0] == 0
    assert guard == []
    assert done(run) == ["done", "done", "back", "back"]
    kinds = [(event.kind, event.person != "") for event in rollouts.events("r1")]
    assert kinds[-1] == (EventKind.STOPPED, True)


def test_what_is_agreed_to_can_be_read(run):
    request_step(run.store, run.rollout, run.plan, 2, "all has not shown what it needs")
    request_step(run.store, run.rollout, run.plan, 3)
    code, out, _ = run("approve")
    assert code == 0
    assert "all (step 3 of 4 of r1): all has not shown what it needs" in out
    assert "without an answer within 4 h, the rollout goes back to the baseline" in out
    assert "1. step: runs sh -c" in out
    code, out, _ = run("approve", "i3")
    assert (code, "i3: agreed; the rollout r1 goes on" in out) == (0, True)
    assert done(run) == ["done"]  # only the driver executes it
    code, _, err = run("promote", RELEASE, "--yes")
    assert code == 3
    assert "the rollout r1 of cart@1.9.0 has not ended" in err
    code, out, _ = run("reject", "i2", "--reason", "no")
    assert (code, "i2 question about step 3 of rollout r1 cart@1.9.0: cancelled: no" in out) == (0, True)


def test_a_worker_that_executes_a_rollback_asks_the_guard_first(run, guard):
    assert run("rollback", RELEASE, "--yes", "--queue", "--reason", "why")[0] == 0
    assert guard == []
    assert run("hooks", "worker", "--once")[0] == 0
    assert [asked[0] for asked in guard] == ["r1"]
    assert done(run) == ["done", "back"]
