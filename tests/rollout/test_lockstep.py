"""Five services that go together, behind one real HAProxy: one bad one turns all of them back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from forked import RELEASE, ForkServer, store_rollout
from guard_world import Version, users, version
from metrics_servers import program, wait_for
from routers import ask_haproxy, receiving_syslog, running_router

from evaluator.intents.rollout_progress import fold
from evaluator.records import VerdictWord
from evaluator.records.rollouts import Event, EventKind, RolloutOutcome, RolloutPlan
from evaluator.sources.load import free_port
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

SERVICES = ("cart", "shop", "search", "pay", "mail")
BAD = "pay"
PER_S = {BAD: 24.0}
"""Requests of users to a service in a second, half of which meet its candidate; of all others:"""
OTHERS_PER_S = 4.0
LONGEST_S = 300.0
GLOBAL = """
global
  nbthread 1
  stats socket {socket} mode 600 level admin
defaults
  mode http
  option httplog
  timeout connect 2s
  timeout client 10s
  timeout server 10s
"""
SERVICE = """
frontend to-{name}
  bind 127.0.0.1:{port}
  log 127.0.0.1:{log_port} format raw local0
  default_backend {name}
backend {name}
  {servers}
"""
ARMS = {"baseline": ["b1", "b2", "b3"], "canary": ["c1", "c2", "c3"]}


@dataclass
class World:
    """HAProxy in front of the services, whose candidates can become bad."""

    folder: Path
    socket: Path
    ports: Mapping[str, int]
    candidates: Mapping[str, Version]
    server: ForkServer

    def read_shares(self) -> dict[str, float]:
        """Service → share of its candidate, by the weights as HAProxy has them."""
        weights: dict[str, dict[str, int]] = {name: {} for name in SERVICES}
        for line in ask_haproxy(self.socket, "show servers state").splitlines():
            row = line.split()
            if len(row) > 7 and row[1] in weights:
                weights[row[1]][row[3]] = int(row[7])
        return {
            name: sum(of_service[server] for server in ARMS["canary"]) / sum(of_service.values())
            for name, of_service in weights.items()
        }

    def make_store(self, case: str, **guard: Any) -> tuple[Path, RolloutPlan]:
        """Make the store of a rollout of all services, which was started and is not driven yet."""
        policy = {
            "services": [*SERVICES],
            "rollout": {
                "strategy": "canary",
                "order": [[*SERVICES]],
                "router": {
                    name: {"haproxy": {"socket": str(self.socket), "backend": name, "servers": ARMS}}
                    for name in SERVICES
                },
                "live": {"access_log": {name: str(self.folder / f"{name}.log") for name in SERVICES}, "lateness": "1s"},
                "stages": [
                    {"name": "half", "share": "50%", "needs": "no_harm", "bake": "12s", "least": 10},
                    {"name": "full", "share": "100%", "needs": "nothing", "bake": "12s"},
                ],
                "guard": {"over": "3s", "least": 10, "health": "1s", **guard},
            },
        }
        store = self.folder / case / "evaluator.duckdb"
        plan, _ = store_rollout(store, policy)
        return store, plan


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("lockstep")
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        baseline = stack.enter_context(version())
        candidates = {name: stack.enter_context(version()) for name in SERVICES}
        ports = {name: free_port() for name in SERVICES}
        text = GLOBAL.format(socket=folder / "stats")
        for name in SERVICES:
            log_port = stack.enter_context(receiving_syslog(folder / f"{name}.log"))
            servers = [f"server {server} 127.0.0.1:{baseline.port} weight 100" for server in ARMS["baseline"]]
            servers += [f"server {server} 127.0.0.1:{candidates[name].port} weight 0" for server in ARMS["canary"]]
            text += SERVICE.format(name=name, port=ports[name], log_port=log_port, servers="\n  ".join(servers))
        (folder / "haproxy.cfg").write_text(text)
        command = [program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]
        with (folder / "haproxy.out").open("ab") as output:
            stack.enter_context(running_router(command, ports["cart"], output, folder / "haproxy.errors"))
        for name, port in ports.items():
            stack.enter_context(users(port, PER_S.get(name, OTHERS_PER_S)))
        for name in SERVICES:
            wait_for((folder / f"{name}.log").exists, f"the log of {name}")
        yield World(
            folder, folder / "stats", ports, candidates, stack.enter_context(contextlib.closing(ForkServer(folder)))
        )


@pytest.fixture(autouse=True)
def healthy(world):
    """Each test finds, and leaves, candidates that are healthy."""
    yield
    for candidate in world.candidates.values():
        candidate.mode = "healthy"


class Watch:
    """Writes down when HAProxy has other shares than before."""

    def __init__(self, world: World) -> None:
        self.world, self.seen = world, [(time.time(), world.read_shares())]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            shares = self.world.read_shares()
            if shares != self.seen[-1][1]:
                self.seen.append((time.time(), shares))

    def has_seen(self, share: float, count: int) -> bool:
        """Did so many services, and no more, have this share at one time?"""
        return any(list(shares.values()).count(share) == count for _, shares in self.seen)

    def find_return(self) -> tuple[float, float]:
        """When the last of the returns began, with all services at the candidate's share, and when all were back."""
        back = self.seen[-1]
        assert set(back[1].values()) == {0.0}, self.seen
        before = next(at for at, shares in reversed(self.seen) if min(shares.values()) > 0)
        first = next(at for at, _ in self.seen if at > before)
        return first, back[0]


def end(world: World, ids: dict[int, str]) -> None:
    """End the processes of a test that are left."""
    for pid in ids:
        os.kill(pid, signal.SIGKILL)
        world.server.wait_for_one(10)


def read_events(store: Path) -> tuple[Event, ...]:
    rollouts = Rollouts(Store.open(store, decisions_only=True).control.file)
    return rollouts.events(rollouts.rollouts()[0].id)


def test_one_bad_service_turns_all_back_at_its_look_also_after_a_kill_in_the_middle_of_their_shift(world):
    store, plan = world.make_store("judged", failures="90%")  # the guard leaves it to the verdict
    world.candidates[BAD].mode = "half"
    ids = {world.server.start("guard", store): "guard"}
    with Watch(world) as watch:
        try:
            # Killed when two of the five have their share.
            killed = world.server.start("driver", store, kill_at=2, kill_before="ask set_shares")
            assert world.server.wait_for_one(LONGEST_S) == (killed, -signal.SIGKILL)
            assert watch.has_seen(0.5, 2)
            assert not watch.has_seen(0.5, 3)
            ids[world.server.start("driver", store)] = "driver"
            pid, code = world.server.wait_for_one(LONGEST_S)
            assert (ids.pop(pid), code) == ("driver", 1), (store.parent / "driver.out").read_text()
        finally:
            end(world, ids)
    events = read_events(store)
    assert fold(plan, events).outcome is RolloutOutcome.ROLLED_BACK
    shifts = [event.kind for event in events if event.step == 0]
    assert shifts == [EventKind.BEGUN, EventKind.DONE], "what was shifted is not shifted anew"
    judged = [event for event in events if event.kind is EventKind.JUDGED]
    assert [event.verdict for event in judged] == ["no_go"], "of all together, at the first look"
    stopped = next(event for event in events if event.kind is EventKind.STOPPED)
    for event in (judged[0], stopped):
        assert BAD in event.text
        assert "failures (production) rose" in event.text
    stored = Store.open(store).control.verdicts(RELEASE)
    words = {json.loads(verdict.json)["services"][0]["name"]: verdict.word for verdict in stored}
    assert words.pop(BAD) == VerdictWord.NO_GO
    assert set(words) == set(SERVICES) - {BAD}
    assert VerdictWord.NO_GO not in words.values()
    first, last = watch.find_return()
    no_go = next(verdict for verdict in stored if verdict.word == VerdictWord.NO_GO)
    assert first < judged[0].at + 5
    assert stopped.at >= no_go.judged_at.timestamp() > stopped.at - LONGEST_S
    assert last - first < 2, "all in one call"


def test_the_guard_returns_all_when_one_fails(world):
    store, _ = world.make_store("guarded")
    ids = {world.server.start("guard", store): "guard", world.server.start("driver", store): "driver"}
    with Watch(world) as watch:
        try:
            wait_for(lambda: watch.has_seen(0.5, 5), "all have their share")
            began = time.time()
            world.candidates[BAD].mode = "failing"
            pid, code = world.server.wait_for_one(LONGEST_S)
            assert (ids.pop(pid), code) == ("driver", 1), (store.parent / "driver.out").read_text()
        finally:
            end(world, ids)
    first, last = watch.find_return()
    assert last - first < 2, "all in one call"
    assert last - began < 15
    stopped = next(event for event in read_events(store) if event.kind is EventKind.STOPPED)
    assert BAD in stopped.text
