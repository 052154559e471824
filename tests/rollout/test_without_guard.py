"""Where the guard hangs, or does not know a rollout: nothing waits for it, and the routers say where users are."""

from __future__ import annotations

import json
import socket
import time
from contextlib import closing
from datetime import UTC, datetime

import pytest
from rollout_world import FakeGuard, World

from evaluator.errors import HookError, NotReached
from evaluator.guard.client import GuardClient
from evaluator.guard.places import list_socket_paths, make_private_folder
from evaluator.guard.routers import ServiceRouter
from evaluator.guard.setup import GuardedService, GuardSetup
from evaluator.records.rollouts import Event, EventKind, GuardLimits, Rollout
from evaluator.rollout import returning
from evaluator.rollout.collaborators import ActResult
from evaluator.rollout.guarding import GuardedTraffic
from evaluator.rollout.status import GUARD_WAIT_S


def test_a_guard_that_hangs_keeps_no_page_waiting(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    store = tmp_path / "evaluator.duckdb"
    path = list_socket_paths(store)[0]
    make_private_folder(path.parent)
    with closing(socket.socket(socket.AF_UNIX)) as hanging:
        hanging.bind(str(path))
        hanging.listen()
        began = time.monotonic()
        with pytest.raises(NotReached, match="did not answer"):
            GuardClient(store).look("r1", wait_s=GUARD_WAIT_S)
        assert GUARD_WAIT_S * 0.9 < time.monotonic() - began < 5


@pytest.mark.parametrize(("canary", "works"), [(0.5, True), (0.5, False), (0.0, False)])
def test_without_a_plan_and_without_a_file_of_the_guard_the_router_is_asked(tmp_path, monkeypatch, canary, works):
    shares, monkeypatched = tmp_path / "shares", monkeypatch.setattr(returning, "TRIES", 1)
    assert monkeypatched is None
    shares.write_text(json.dumps({"baseline": 1 - canary, "canary": canary}))
    write = f'printf %s "$1" > {shares}' if works else "exit 1"
    router = {"command": {"set": ["sh", "-c", write, "sh", "${shares}"], "get": ["cat", str(shares)]}}
    policy = {"rollout": {"router": {"cart": router}}}
    rollout = Rollout("r1", "cart@1.5.0", {}, "", policy, "ann", ("ann",), "it is time", datetime.now(UTC))
    world, guard = World(), FakeGuard()
    guard.back = lambda why, by: (_ for _ in ()).throw(HookError("the guard does not know the rollout r1"))
    returning.return_without_plan(rollout, "its plan cannot be read", world, guard, world, world)
    is_back = works or canary == 0
    assert ("returned" in world.kinds(), "return_failed" in world.kinds()) == (is_back, not is_back)
    assert json.loads(shares.read_text())["canary"] == (0 if is_back else canary)


ALL, DOWN = {"baseline": 1.0, "canary": 0.0}, {"baseline": 0.0, "canary": 1.0}


@pytest.mark.parametrize(
    ("shares", "settings", "is_back"),
    [(ALL, ALL, True), (DOWN, {"baseline": 0.995, "canary": 0.005}, False), (ALL, {"canary": 0.5}, False)],
)
def test_users_are_back_only_where_servers_of_the_baseline_serve_them(tmp_path, monkeypatch, shares, settings, is_back):
    """HAProxy keeps a weight of 1 for the candidate where the servers of the baseline are down: all users are there."""
    monkeypatch.setattr(ServiceRouter, "read_shares", lambda _: shares)
    monkeypatch.setattr(ServiceRouter, "read_settings", lambda _: settings)
    options = {"socket": "/run/h.sock", "backend": "cart", "servers": {"baseline": ["b1"], "canary": ["c1"]}}
    setup = GuardSetup("r1", "cart@1.5.0", (GuardedService("cart", "haproxy", options),), GuardLimits())
    problem = GuardedTraffic(tmp_path / "evaluator.duckdb", setup, print).explain_not_returned()
    assert (problem == "") == is_back
    assert problem in ("", "cart has canary 100 %", "cart has baseline 0 %, canary 100 %", "cart has canary 50 %")


@pytest.mark.parametrize("state", ["", "failed", "done"])
def test_without_a_plan_users_return_only_where_a_person_rolls_back_and_the_baseline_serves(state):
    """`state`: how the rollback of a person ended; empty: there is none."""
    world, guard = World(), FakeGuard()
    rollout = Rollout("r1", "cart@1.5.0", {}, "", {}, "ann", ("ann",), "it is time", datetime.now(UTC))
    if state:
        world.events.append(Event(EventKind.STOPPED, 0.0, person="ann"))
        world.undo_result = ActResult(state)
    for _ in range(2):  # the second driver finds what the first has written
        code = returning.return_without_plan(
            rollout, "its plan cannot be read", world, guard, world, world, missing_baseline="teardown may have"
        )
        assert code == 4
        assert guard.calls == []
        assert ("ended" in world.kinds(), "returned" in world.kinds()) == (state == "done", state == "done")
        if state == "done":
            break
    assert len(world.undone) == {"": 0, "failed": 2, "done": 1}[state]
    assert world.kinds().count("held") == (state != "done")
    assert any("--baseline-runs" in text for text in world.said) == (state != "done")
