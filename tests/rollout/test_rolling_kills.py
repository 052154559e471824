"""Driver and guard of a rolling rollout, killed before each of their writes and changes of HAProxy."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import ForkServer, store_rollout
from kill_world import World
from routers import haproxy_router

from evaluator.intents.rollout_progress import fold
from evaluator.records.rollouts import EventKind, InstanceWork, RolloutOutcome
from evaluator.sources.load import free_port

NAMES = ("s1", "s2", "s3")
REPLACE = ["sh", "-c", 'echo "$1 $2" >> HERE/calls', "sh", "${instance}", "new ${idempotency_key}"]
POLICY = {
    "service": "cart",
    "rollout": {
        "strategy": "rolling",
        "live": {"access_log": "HERE/../access.log"},
        "router": {"cart": {"haproxy": {"socket": "SOCKET", "backend": "shop", "instances": list(NAMES)}}},
        "instances": {
            "least_serving": 1,
            "replace": [
                {
                    "command": {
                        "run": REPLACE,
                        "undo": [*REPLACE[:-1], "old ${idempotency_key}"],
                        "idempotent": True,
                    }
                }
            ],
        },
        "stages": [
            {"name": "half", "replace": 1, "needs": "no_harm", "bake": "12s"},
            {"name": "rest", "replace": "rest", "needs": "nothing", "bake": "12s"},
        ],
    },
}
NO_GO_AT = "half"


class RollingWorld(World):
    """HAProxy in front of instances, whose versions are what was called last."""

    def read_states(self) -> dict[str, str]:
        """Instance → its state, as HAProxy says."""
        rows = [line.split(",") for line in self.command("show stat shop 4 -1").splitlines() if "," in line]
        name, status = rows[0].index("svname"), rows[0].index("status")
        return {row[name]: row[status] for row in rows[1:]}

    def read_versions(self) -> dict[str, str]:
        """Instance → the version that it was given last."""
        path = self.store.parent / "calls"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return {line[0]: line[1] for line in lines}

    def begin(self) -> None:
        """Make the store of a case, and let all instances serve."""
        super().begin()
        self.command("; ".join(f"set server shop/{name} state ready" for name in NAMES))

    def check_what_is_left(self) -> None:
        """No instance is replaced while it serves, whatever is killed."""
        states = self.read_states()
        events = self.read_events()
        begun = {event.step for event in events if event.kind is EventKind.BEGUN}
        serving = {
            name
            for number, step in enumerate(self.plan.steps)
            if getattr(step, "work", None) is InstanceWork.UNDRAIN and number in begun
            for name in step.instances
        }
        for name, version in self.read_versions().items():
            if version == "new" and name not in serving:
                assert states[name] == "DRAIN", f"{name} is replaced while it serves"
        assert list(states.values()).count("no check") >= 1, "one instance serves"
        self.calls_before.clear()

    def check_end(self, outcome: RolloutOutcome) -> None:
        """Check that nothing was left drained, and the instance of the batch has the old version."""
        events = self.read_events()
        assert fold(self.plan, events).outcome is outcome
        assert set(self.read_states().values()) == {"no check"}, "nothing is left drained"
        assert self.read_versions() == {"s1": "old"}, "only the first batch was touched, and it is restored"
        calls = self.read_calls()
        assert sum(calls.values()) <= len(calls) + 1, "only what was being executed is executed again"
        assert self.read_guard_file() is None


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[RollingWorld]:
    """HAProxy and the process that forks; no request is sent."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else tmp_path_factory.mktemp("kills")
    with tempfile.TemporaryDirectory(prefix="kills-", dir=place) as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", name)
        folder, servers = Path(name), dict.fromkeys(NAMES, free_port())
        (folder / "access.log").touch()  # that of HAProxy has its notices, and no request
        with haproxy_router(folder, servers) as router:
            text = json.dumps(POLICY).replace("HERE", str(folder / "case")).replace("SOCKET", str(router.stats_socket))
            plan, rollout = store_rollout(folder / "template" / "evaluator.duckdb", json.loads(text), bake_s=0.02)
            with contextlib.closing(ForkServer(folder)) as server:
                yield RollingWorld(folder, router.stats_socket, server, plan, rollout)


@pytest.mark.parametrize("role", ["driver", "guard"])
def test_no_instance_is_lost_wherever_a_process_is_killed(world, role):
    """Before each change of HAProxy, each program, each question and its answer; `test_kills.py` has each write."""
    world.drive(NO_GO_AT)
    world.check_end(RolloutOutcome.ROLLED_BACK)
    changes = world.read_changes(role)
    chosen = [n for n, change in enumerate(changes) if change.startswith(("router", "program", "ask", "answer"))]
    assert len(chosen) >= 9
    problems = []
    for kill_at in chosen:
        try:
            world.drive(NO_GO_AT, role, kill_at)
            world.check_end(RolloutOutcome.ROLLED_BACK)
        except AssertionError as error:
            problems.append(f"killed before change {kill_at} ({changes[kill_at]}): {error}")
    assert not problems, "\n".join(problems)
