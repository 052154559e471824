"""A scripted world for the driver of rollouts: a clock that does not wait, a guard, hooks, verdicts, people."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from evaluator.errors import HookError, StoreError
from evaluator.intents.rollout_plans import find_winner
from evaluator.policy.rollout import RolloutSection
from evaluator.records.rollouts import Event, GuardLimits, JudgedAt, Observe, RolloutPlan, Unanswered, split_traffic
from evaluator.rollout.collaborators import ActResult, Collaborators, StepAnswers
from evaluator.rollout.driving import Driver
from evaluator.rollout.strategies import STRATEGIES

START = 1_800_000_000.0
HOOK = [{"command": {"run": ["true"]}}]
CANARY = {
    "strategy": "canary",
    "live": {"access_log": "x.log"},
    "acts": {
        "5 %": [{"name": "deploy", "hooks": HOOK}],
        "end": [{"name": "dns", "hooks": HOOK}],
        "always": [{"name": "teardown", "hooks": HOOK}],
    },
    "stages": [
        {"name": "5 %", "share": "5%", "needs": "no_harm", "bake": "20s", "deadline": "40s"},
        {"name": "50 %", "share": "50%", "needs": "go", "bake": "20s", "deadline": "40s"},
        {"name": "full", "share": "100%", "needs": "nothing", "bake": "5s"},
    ],
}
AB_TEST = {
    "strategy": "ab_test",
    "live": {"access_log": "x.log"},
    "outcomes": {"files": ["outcomes.csv"], "time": "at"},
    "stages": [
        {"name": "10 %", "shares": {"b": "10%", "c": "10%"}, "needs": "no_harm", "bake": "20s"},
        {"name": "25 %", "shares": {"b": "25%", "c": "25%"}, "needs": "winner", "bake": "50s"},
        {"name": "full", "share": "100%", "needs": "nothing", "bake": "5s"},
    ],
}
"""Steps: 0 to 10 %, 1 its stage, 2 to 25 %, 3 the planned end, 4 to the winner, 5 its stage."""
NAMES = ("deploy", "to 5", "5 %", "to 50", "50 %", "to 100", "full", "dns", "teardown")
DEPLOY, TO_5, AT_5, TO_50, AT_50, TO_100, AT_FULL, DNS, TEARDOWN = range(9)


def make_plan(section: Mapping | None = None, groups=(("cart",),), **values) -> RolloutPlan:
    section = RolloutSection.model_validate(section or CANARY)
    services = tuple(service for group in groups for service in group)
    defaults = {"lease_s": 30.0, "answer_within_s": 100.0, "guard": GuardLimits(), "unanswered": Unanswered.BASELINE}
    steps = STRATEGIES[section.strategy](section, groups)
    return RolloutPlan("cart@1.5.0", section.strategy, services, steps, **(defaults | values))


class FakeClock:
    """Waiting takes no time. `at`: second → what happens then, once."""

    def __init__(self, stop: threading.Event, after: float = 0.0) -> None:
        self.elapsed, self.offset, self.stop = after, START, stop
        self.at: list[tuple[float, Callable[[], object]]] = []

    def now(self) -> float:
        return self.offset + self.elapsed

    def monotonic(self) -> float:
        return self.elapsed

    def wait(self, seconds: float) -> None:
        self.elapsed += seconds
        assert self.elapsed < 100_000, "the rollout does not end"
        due = [entry for entry in self.at if entry[0] <= self.elapsed]
        self.at = [entry for entry in self.at if entry[0] > self.elapsed]
        for _, happen in due:
            happen()


@dataclass
class Status:
    is_exposed: bool = False
    wanted: dict = field(default_factory=dict)
    realised: dict = field(default_factory=dict)
    is_back: bool = False
    why_back: str = ""
    by: str = ""
    is_returned: bool = False
    drift: str = ""
    kept: str = ""
    counted: str = ""


class FakeGuard:
    """A guard and its router. `problem`: the guard does not answer, and says so."""

    def __init__(self) -> None:
        self.status = Status()
        self.calls: list[str] = []
        self.problem = ""
        self.close_problem = ""
        self.at_close = lambda: None
        """Happens before the watch of a promoted rollout ends."""
        self.keeps_shares = True
        """Does the router do what it acknowledges?"""

    def _check(self, call: str) -> Status:
        self.calls.append(call)
        if self.problem:
            raise HookError(self.problem)
        return replace(self.status)

    def open(self):
        return self._check("open")

    def renew(self):
        return self._check("renew")

    def set_shares(self, services, share: float, arm_shares: Mapping[str, float] | None = None) -> None:
        """`arm_shares`: of several candidates; otherwise `canary` has `share`."""
        self._check(f"set {share:g}")
        shares = {"baseline": 1 - share, **(arm_shares or {"canary": share})}
        if self.status.is_back:
            raise HookError("it goes back")
        for service in services:
            self.status.wanted[service] = dict(shares)
            if self.keeps_shares:
                self.status.realised[service] = dict(shares)
        self.status.is_exposed = share > 0

    def trip(self, why: str, by: str = "guard") -> None:
        self.status.is_back, self.status.why_back, self.status.by = True, why, by
        self.status.realised = {service: {"baseline": 1.0, "canary": 0.0} for service in self.status.realised}
        self.status.is_returned, self.status.is_exposed = True, False

    def back(self, why: str, by: str):
        self._check("back")
        if not self.status.is_back:
            self.trip(why, by)
        return replace(self.status)

    def explain_not_returned(self) -> str:
        shares = self.status.realised
        return "; ".join(f"{name} is at canary" for name, arms in shares.items() if arms["baseline"] < 1)

    def close(self, *, promoted: bool) -> None:
        if promoted:
            self.at_close()
        if self._check("close").is_back and promoted:
            raise HookError("it went back")
        if self.close_problem:
            raise HookError(self.close_problem)


@dataclass
class Found:
    """What a judgement found."""

    word: str = "go"
    no_harm: bool = True
    missing: tuple[str, ...] = ()
    data_hash: str = "sha256:d"
    note: str = ""
    arm: str = ""
    is_sound: bool = False


class World:
    """All collaborators of a driver. What is in a list is used up from its front; its last entry is repeated."""

    def __init__(self, plan: RolloutPlan | None = None) -> None:
        self.plan = plan or make_plan()
        self.stop = threading.Event()
        self.clock = FakeClock(self.stop)
        self.traffic = FakeGuard()
        self.events: list[Event] = []
        self.said: list[str] = []
        self.shown: list[str] = []
        self.again: dict[int, list[bool]] = {}
        self.executed: list[int] = []
        """Positions of the steps whose hooks were acknowledged, in order."""
        self.results: dict[int, list[ActResult]] = {}
        self.known: dict[int, ActResult] = {}
        """What people have said of steps whose outcome was not known."""
        self.found: dict[int, list[Found]] = {}
        self.looks: list[tuple[int, JudgedAt]] = []
        self.asked: list[tuple[int, str]] = []
        self.answers = StepAnswers()
        self.undone: list[str] = []
        self.undo_result = ActResult("done")
        self.ensured: list[int] = []
        self.follows = 0
        self.closed_at = 0.0
        self.failures: dict[int, str] = {}
        self.is_log_silent = False
        self.problem = ""
        self.change = ""
        self.store_problem = ""
        self.others_no_go, self.no_go_since = "", math.nan
        self.ended = 0
        self.lines = 0

    # -------------------------------------------------------------- events

    def read(self):
        self._check_store()
        return tuple(self.events)

    def add(self, event: Event) -> None:
        self._check_store()
        self.events.append(event)

    def _check_store(self) -> None:
        if self.store_problem:
            raise StoreError(self.store_problem)

    def find_change(self) -> str:
        return self.change

    # -------------------------------------------------------------- effects

    def execute(self, position: int, *, again: bool) -> ActResult:
        self.again.setdefault(position, []).append(again)
        results = self.results.get(position, [ActResult("done")])
        result = results.pop(0) if len(results) > 1 else results[0]
        step = self.plan.steps[position]
        if result.state == "done" and position not in self.executed:
            if getattr(step, "share", None) is not None:
                shares = split_traffic(step, find_winner(self.events))
                self.traffic.set_shares(step.services, step.share, shares)
            self.executed.append(position)
        return result

    def read_result(self, position: int) -> ActResult:
        return self.known.get(position, ActResult("unknown"))

    def ask(self, position: int, why: str) -> str:
        self.asked.append((position, why))
        return "i7"

    def read_answers(self, position: int) -> StepAnswers:
        return self.answers

    def roll_back(self, why: str) -> ActResult:
        self.undone.append(why)
        return self.undo_result

    # -------------------------------------------------------------- evidence

    def judge(self, position: int, look: JudgedAt) -> Found:
        self.looks.append((position, look))
        found = self.found.get(position, [Found()])
        return found.pop(0) if len(found) > 1 else found[0]

    def find_no_go(self, since: float) -> str:
        self.no_go_since = since
        return self.others_no_go

    def follow(self) -> None:
        self.follows += 1

    def ensure(self, position: int, step: Observe, begun_at: float) -> None:
        if position not in self.ensured:
            self.ensured.append(position)

    def is_closed(self, position: int, step: Observe, look: JudgedAt, begun_at: float) -> bool:
        return self.clock.elapsed >= self.closed_at

    def explain_failure(self, position: int, step: Observe) -> str:
        return self.failures.get(position, "")

    def find_problem(self) -> str:
        return self.problem

    def count_lines(self) -> dict[str, int]:
        self.lines += not self.is_log_silent
        return dict.fromkeys(self.plan.services, self.lines)

    def end(self) -> None:
        self.ended += 1

    # -------------------------------------------------------------- report

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, text: str) -> None:
        self.shown.append(text)

    # -------------------------------------------------------------- the driver

    def parts(self) -> Collaborators:
        return Collaborators(self, self.traffic, self, self, self, self.clock, self, InlineCall)

    def drive(self):
        return Driver(self.plan, self.parts(), self.stop).drive()

    def kinds(self) -> list[str]:
        return [str(event.kind) for event in self.events]

    def at(self, second: float, happen: Callable[[], object]) -> None:
        self.clock.at.append((second, happen))


class InlineCall:
    """A call that is made at once."""

    def __init__(self, call) -> None:
        self.error = self.value = None
        try:
            self.value = call()
        except Exception as error:  # noqa: BLE001 - raised by `result`, as a call in a thread
            self.error = error

    def has_ended(self, wait_s: float) -> bool:
        return True

    def result(self):
        if self.error:
            raise self.error
        return self.value
