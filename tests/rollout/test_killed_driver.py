"""A driver that is killed before and after each event that it writes, and another one that goes on."""

from __future__ import annotations

import json
import os
import signal
import traceback
from pathlib import Path

import pytest
from rollout_world import AT_50, CANARY, START, TEARDOWN, FakeGuard, Found, World, kill_here, make_plan, read_lines

from evaluator.records.rollouts import Event, RolloutOutcome
from evaluator.rollout.collaborators import ActResult
from evaluator.store.rollouts import _to_event, _to_json

STAGES = [stage | {"bake": "2s", "deadline": "4s"} for stage in CANARY["stages"]]
SCENARIOS = {
    "promoted": {},
    "no_go": {AT_50: [Found("no_go", no_harm=False)]},
}
OUTCOMES = {"promoted": RolloutOutcome.PROMOTED, "no_go": RolloutOutcome.ROLLED_BACK}


class KilledWorld(World):
    """A world whose events, hooks and router are files, so that they outlive the process of the driver."""

    def __init__(self, folder: Path, scenario: str, kill_at: int = -1, *, before: bool = False) -> None:
        """`kill_at`: number of the event, from 0, before or after which the process is killed; -1: it is not."""
        super().__init__(make_plan(CANARY | {"stages": STAGES}))
        self.log, self.hooks, self.router = folder / "events", folder / "hooks", folder / "router"
        self.kill_at, self.before, self.written = kill_at, before, 0
        self.found = dict(SCENARIOS[scenario])
        if self.router.exists():
            self.traffic.status.__dict__.update(json.loads(self.router.read_text()))
        self.traffic.trip = self._trip
        events = self.read()
        self.clock.elapsed = events[-1].at - START if events else 0.0

    def read(self) -> tuple[Event, ...]:
        return tuple(_to_event(json.dumps(line)) for line in read_lines(self.log))

    def add(self, event: Event) -> None:
        if self.written == self.kill_at and self.before:
            kill_here()
        with self.log.open("a") as file:
            file.write(_to_json(event) + "\n")
        if self.written == self.kill_at:
            kill_here()
        self.written += 1

    def execute(self, position: int, *, again: bool) -> ActResult:
        if {"key": position} in read_lines(self.hooks):
            return ActResult("done")  # as its intent says
        with self.hooks.open("a") as file:
            file.write(json.dumps({"key": position}) + "\n")
        result = super().execute(position, again=again)
        self._keep_router()
        return result

    def roll_back(self, why: str) -> ActResult:
        with self.hooks.open("a") as file:
            file.write(json.dumps({"undo": why}) + "\n")
        return super().roll_back(why)

    def _trip(self, why: str, by: str = "guard") -> None:
        FakeGuard.trip(self.traffic, why, by)
        self._keep_router()

    def _keep_router(self) -> None:
        self.router.write_text(json.dumps(self.traffic.status.__dict__))


def drive_in_child(folder: Path, scenario: str, kill_at: int, *, before: bool) -> int:
    """Drive in a process of its own; returns its status as `waitpid` does."""
    child = os.fork()
    if child == 0:
        try:
            KilledWorld(folder, scenario, kill_at, before=before).drive()
        except BaseException:  # noqa: BLE001 - the parent sees the exit code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_step_is_lost_and_no_hook_repeated_wherever_the_driver_is_killed(tmp_path, scenario):
    whole = tmp_path / "whole"
    whole.mkdir()
    assert KilledWorld(whole, scenario).drive() is OUTCOMES[scenario]
    expected_hooks = read_lines(whole / "hooks")
    expected_kinds = [line["kind"] for line in read_lines(whole / "events")]
    for kill_at in range(len(expected_kinds)):
        for before in (True, False):
            folder = tmp_path / f"{kill_at}-{before}"
            folder.mkdir()
            status = drive_in_child(folder, scenario, kill_at, before=before)
            assert os.WTERMSIG(status) == signal.SIGKILL
            world = KilledWorld(folder, scenario)
            assert world.drive() is OUTCOMES[scenario], (kill_at, before)
            hooks = read_lines(folder / "hooks")
            steps = [line for line in hooks if "key" in line]
            assert steps == [line for line in expected_hooks if "key" in line], (kill_at, before)
            assert len(hooks) - len(steps) in ((0,) if scenario == "promoted" else (1, 2)), "a rollback is one intent"
            assert {"key": TEARDOWN} in steps
            kinds = [line["kind"] for line in read_lines(folder / "events")]
            assert set(kinds) == set(expected_kinds)
            assert kinds.count("ended") == 1
            shares = world.traffic.status.realised["cart"]
            assert shares["canary"] == (1 if scenario == "promoted" else 0), (kill_at, before)


def test_another_driver_goes_on_after_several_kills(tmp_path):
    for kill_at in (2, 3, 1, 5):
        drive_in_child(tmp_path, "promoted", kill_at, before=bool(kill_at % 2))
    assert KilledWorld(tmp_path, "promoted").drive() is RolloutOutcome.PROMOTED
    steps = [line["key"] for line in read_lines(tmp_path / "hooks")]
    assert steps == sorted(set(steps))
