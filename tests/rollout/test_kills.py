"""Driver and guard of a rollout, killed before and after each of their writes, with a real HAProxy."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import ForkServer, store_rollout
from kill_world import SERVERS, World
from routers import haproxy_router

from evaluator.records.rollouts import RolloutOutcome
from evaluator.sources.load import free_port


def call_hook(name: str, *, undo: bool = False) -> dict[str, Any]:
    """An act whose program writes down with which key it was called."""
    run = ["sh", "-c", 'echo "$1" >> HERE/calls', "sh", f"{name} ${{idempotency_key}}"]
    options = {"run": run, "idempotent": True}
    if undo:
        options["undo"] = [*run[:-1], f"undo {name} ${{idempotency_key}}"]
    return {"name": name, "hooks": [{"command": options}]}


POLICY = {
    "service": "cart",
    "rollout": {
        "strategy": "canary",
        "live": {"access_log": "HERE/../haproxy.log"},
        "router": {
            "cart": {
                "haproxy": {
                    "socket": "SOCKET",
                    "backend": "shop",
                    "servers": {"baseline": ["b1", "b2"], "canary": ["c1", "c2"]},
                }
            }
        },
        "acts": {"half": [call_hook("deploy", undo=True)], "always": [call_hook("teardown")]},
        "stages": [
            {"name": "half", "share": "50%", "needs": "no_harm", "bake": "12s"},
            {"name": "full", "share": "100%", "needs": "nothing", "bake": "12s"},
        ],
    },
}


# ------------------------------------------------------------------ the world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    """HAProxy and the process that forks; no request is sent. Files are in memory where that is possible."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else tmp_path_factory.mktemp("kills")
    with tempfile.TemporaryDirectory(prefix="kills-", dir=place) as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", name)
        yield from run_world(Path(name))


def run_world(folder: Path) -> Iterator[World]:
    """Run HAProxy and the process that forks, with their files in a folder."""
    servers = dict.fromkeys(SERVERS, free_port())
    with haproxy_router(folder, servers, weights=dict.fromkeys(servers, 100)) as router:
        text = json.dumps(POLICY).replace("HERE", str(folder / "case")).replace("SOCKET", str(router.stats_socket))
        plan, rollout = store_rollout(folder / "template" / "evaluator.duckdb", json.loads(text), bake_s=0.02)
        with contextlib.closing(ForkServer(folder)) as server:
            yield World(folder, router.stats_socket, server, plan, rollout)


# ------------------------------------------------------------------ the cases

OUTCOMES = {"": RolloutOutcome.PROMOTED, "half": RolloutOutcome.ROLLED_BACK}
"""Stage that is NO-GO → how the rollout ends."""


@pytest.fixture(scope="module")
def undisturbed(world) -> dict[tuple[str, str], list[str]]:
    """Stage that is NO-GO, and a process → its changes while nothing is killed."""
    changes = {}
    for no_go_at, outcome in OUTCOMES.items():
        world.drive(no_go_at)
        world.check_end(outcome)
        changes |= {(no_go_at, role): world.read_changes(role) for role in ("driver", "guard")}
    return changes


@pytest.mark.parametrize("role", ["driver", "guard"])
@pytest.mark.parametrize("no_go_at", OUTCOMES, ids=["promoted", "no_go"])
def test_no_step_is_lost_and_no_hook_repeated_wherever_a_process_is_killed(world, undisturbed, no_go_at, role):
    changes, others = undisturbed[no_go_at, role], undisturbed["", role]
    # Until the verdict, both ways are the same.
    differences = (n for n, (change, other) in enumerate(zip(changes, others, strict=False)) if change != other)
    first = next(differences) - 1 if no_go_at else 0
    assert len(changes) - first > 15
    problems = []
    for kill_at in range(first, len(changes)):
        try:
            world.drive(no_go_at, role, kill_at)
            world.check_end(OUTCOMES[no_go_at])
        except AssertionError as error:
            problems.append(f"killed before change {kill_at} ({changes[kill_at]}): {error}")
    assert not problems, "\n".join(problems)
