"""A rollout whose driver and guard are killed before and after each of their writes, with a real HAProxy."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forked import ForkServer
from routers import ask_haproxy

from evaluator.guard.places import find_copies_folder, find_folder
from evaluator.guard.state_file import find_state_files
from evaluator.intents.rollout_progress import fold
from evaluator.records.intents import IntentState
from evaluator.records.rollouts import Event, EventKind, Rollout, RolloutOutcome, RolloutPlan
from evaluator.store.control_file import ControlFile
from evaluator.store.rollouts import Rollouts

SERVERS = ("b1", "b2", "c1", "c2")
LONGEST_S = 30.0
DEPLOY, TO_HALF, AT_HALF, TO_ALL, AT_ALL, TEARDOWN = range(6)


@dataclass
class World:
    """HAProxy, and the process that forks drivers and guards, for all cases."""

    folder: Path
    stats_socket: Path
    server: ForkServer
    plan: RolloutPlan
    rollout: Rollout
    calls_before: Counter[str] = field(default_factory=Counter)
    """How often programs were called, with their keys, that were acknowledged before the last kill."""

    @property
    def store(self) -> Path:
        """The store of the case."""
        return self.folder / "case" / "evaluator.duckdb"

    def command(self, line: str) -> str:
        """Send lines to HAProxy."""
        return ask_haproxy(self.stats_socket, line)

    def read_share(self) -> float:
        """Share of the candidate, by the weights as HAProxy has them."""
        rows = [line.split() for line in self.command("show servers state shop").splitlines() if line[:1].isdigit()]
        weights = {row[3]: int(row[7]) for row in rows if len(row) > 7}
        return (weights["c1"] + weights["c2"]) / sum(weights.values())

    def read_events(self) -> tuple[Event, ...]:
        """Events of the rollout, as they are stored."""
        return Rollouts(ControlFile(self.store, 5.0)).events(self.rollout.id)

    def list_acknowledged(self) -> set[str]:
        """Keys of the hooks that are stored as acknowledged."""
        with ControlFile(self.store, 5.0).opened() as connection:
            rows = connection.execute(
                "SELECT key, position FROM deliveries JOIN intents ON id = intent WHERE deliveries.state = ?",
                [IntentState.ACKNOWLEDGED],
            )
            return {f"{key}-{position}" for key, position in rows}

    def read_calls(self) -> Counter[str]:
        """How often each program was called with each key."""
        path = self.store.parent / "calls"
        return Counter(path.read_text().splitlines() if path.exists() else [])

    def read_changes(self, role: str) -> list[str]:
        """What a process has changed, in order."""
        return (self.store.parent / f"{role}.changes").read_text().splitlines()

    def read_output(self) -> str:
        """What driver and guard have said."""
        paths = [self.store.parent / f"{role}.out" for role in ("driver", "guard")]
        return "\n".join(path.read_text() for path in paths if path.exists())

    def read_guard_file(self) -> Mapping[str, Any] | None:
        """What the guard has written of the rollout; None if it has no file."""
        copies = find_copies_folder(self.store)
        for file in find_state_files([find_folder(self.store), *([copies] if copies else [])]).values():
            with contextlib.closing(file):
                stored = file.read()
                return stored.state if stored else None
        return None

    def begin(self) -> None:
        """Make the case anew: its store, and all traffic at the baseline."""
        self.command("; ".join(f"set weight shop/{name} {100 * (name[0] == 'b')}" for name in SERVERS))
        if copies := find_copies_folder(self.store):
            shutil.rmtree(copies, ignore_errors=True)
        shutil.rmtree(self.store.parent, ignore_errors=True)
        shutil.copytree(self.folder / "template", self.store.parent)

    def start(self, role: str, no_go_at: str = "", kill_at: int = -1) -> int:
        """Start a process; returns its id."""
        return self.server.start(role, self.store, kill_at=kill_at, no_go_at=no_go_at)

    def drive(self, no_go_at: str = "", killed: str = "", kill_at: int = -1) -> int:
        """Drive the rollout to its end, and return the exit code of its driver.

        A process that is killed is started again at once, as systemd does; before that, what it has left is checked.
        """
        self.begin()
        self.calls_before.clear()
        ids = {role: self.start(role, no_go_at, kill_at if role == killed else -1) for role in ("guard", "driver")}
        kills = 0
        try:
            while True:
                pid, code = self.server.wait_for_one(LONGEST_S)
                role = next((role for role, its_id in ids.items() if its_id == pid), "")
                assert role, f"the rollout has not ended: {self.read_output()}"
                del ids[role]
                if role == "driver" and code >= 0:
                    # How often the end is written depends on who sees it first, driver or guard.
                    assert kills or not killed or kill_at >= len(self.read_changes(killed)), "it was to be killed"
                    return code
                assert (role, code) == (killed, -signal.SIGKILL), self.read_output()
                kills += 1
                self.check_what_is_left()
                ids[role] = self.start(role, no_go_at)
        finally:
            for pid in ids.values():
                os.kill(pid, signal.SIGKILL)
                self.server.wait_for_one(LONGEST_S)

    def check_what_is_left(self) -> None:
        """Check what a process that was killed has left: nothing may have been done that is not written."""
        state = self.read_guard_file()
        wanted = state["wanted"].get("cart", {}).get("canary", 0.0) if state else 0.0
        events = self.read_events()
        has_all = any(event.kind is EventKind.DONE and event.step == TO_ALL for event in events)
        is_written = (state is None and has_all) or self.read_share() <= wanted + 0.01
        assert is_written, "traffic moved before it was written"
        acknowledged = self.list_acknowledged()
        self.calls_before = Counter(
            {line: count for line, count in self.read_calls().items() if line.split()[-1] in acknowledged}
        )
        begun = {self.plan.steps[event.step].name for event in events if event.kind is EventKind.BEGUN}
        called = {line.split()[0] for line in self.read_calls()} - {"undo"}
        assert called <= begun, "a program was run before that was written"

    def check_end(self, outcome: RolloutOutcome) -> None:
        """Check how the rollout has ended: nothing lost, nothing repeated, shares as wanted."""
        events = self.read_events()
        done = [event.step for event in events if event.kind is EventKind.DONE]
        assert fold(self.plan, events).outcome is outcome
        assert [event.kind for event in events].count(EventKind.ENDED) == 1
        assert len(done) == len(set(done)), "each step is done once"
        calls = self.read_calls()
        names = Counter(line.split()[0] for line in calls)
        assert TEARDOWN in done
        if outcome is RolloutOutcome.PROMOTED:
            assert done == list(range(len(self.plan.steps))), "no step is left out"
            assert names == {"deploy": 1, "teardown": 1}
        else:
            assert names == {"deploy": 1, "undo": 1, "teardown": 1}
        assert sum(calls.values()) <= len(calls) + 1, "only what was being executed is executed again"
        assert {key: calls[key] for key in self.calls_before} == self.calls_before, "an acknowledged hook was repeated"
        assert self.read_share() == (outcome is RolloutOutcome.PROMOTED)
        assert self.read_guard_file() is None
