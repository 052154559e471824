"""What users meet while the driver or the guard of a rollout is killed at random moments.

python benchmarks/rollout_kills.py [--kills 100] [--seed 1]

The demo of rollouts with short stages, again and again, each with a good or with a bad candidate: half of the requests
of the bad one fail as soon as it has half of the users. Meanwhile the driver or the guard (never both) is ended by
SIGKILL, and a killed driver is resumed. HAProxy's own log says how long users got errors of the candidate before it was
off the traffic; none may take longer than 15 s. Nothing may be lost or repeated: each rollout comes to its end, the
router has the shares that belong to it, and no hook that was acknowledged is called again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from evaluator.rollout.progress import fold

from evaluator.errors import EvaluatorError
from evaluator.guard.client import connect
from evaluator.hooks import make_router
from evaluator.records import Release, Service
from evaluator.records.rollouts import Act, Event, EventKind, RolloutOutcome, from_plain
from evaluator.sources.sample_environments import (
    PRODUCTION,
    SETTINGS,
    Environments,
    end_processes,
    list_traces,
    parse_log_time,
    prepare_environments,
    start_production_router,
)
from evaluator.sources.sample_policy import Times, write_policy
from evaluator.sources.sample_router import start_users
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

LONGEST_S = 15.0
"""Longest time that users may get errors of the candidate."""
BETWEEN_S = (1.0, 14.0)
"""Time between two kills."""
ROLLOUT_S = 240.0
TIMES = Times(load_s=0, bake_s=12, last_s=3, least=20, shares=("5 %", "50 %"))
VERSIONS = {"baseline": "1.4.1", "canary": "1.5.0"}


@dataclass
class Outcome:
    """What became of one rollout."""

    release: str
    is_bad: bool
    kills: list[str] = field(default_factory=list)
    """What was killed, in the order of the kills."""
    ended: str = ""
    why: str = ""
    exposed_s: float = 0.0
    """From the first error of the candidate until its last request."""
    requests: int = 0
    """Requests that the candidate got."""
    failures: int = 0
    problems: list[str] = field(default_factory=list)


class Bench:
    """One production, and one rollout after the other."""

    def __init__(self, environments: Environments, seed: int) -> None:
        self.environments, self.folder = environments, environments.folder
        self.store = self.folder / "evaluator.duckdb"
        self.options = ["--store", str(self.store), "--policy", str(self.folder / "evaluator.yaml")]
        self.random = random.Random(seed)
        self.number = 0

    def roll_out(self, kills_left: int) -> Outcome:
        """Roll out a good or a bad candidate, and kill its driver or its guard meanwhile."""
        self.number += 1
        outcome = Outcome(f"shop@1.5.{self.number}", is_bad=self.number % 2 == 1)
        self.prepare(outcome)
        position = self.environments.router.log.stat().st_size
        driver = self.call("start", outcome.release, "--reason", "bench", "--yes")
        self.wait_for_start(outcome, driver)
        next_kill = time.monotonic() + self.random.uniform(*BETWEEN_S)
        until = time.monotonic() + ROLLOUT_S
        while time.monotonic() < until:
            if driver.poll() is not None:
                break
            if time.monotonic() >= next_kill and len(outcome.kills) < kills_left:
                driver = self.kill_one(outcome, driver)
                next_kill = time.monotonic() + self.random.uniform(*BETWEEN_S)
            time.sleep(0.05)
        else:
            outcome.problems.append(f"it has not ended after {ROLLOUT_S:g} s")
            driver.kill()
        driver.wait()
        time.sleep(1.0)  # requests that are running are logged at their end
        self.check(outcome)
        self.measure(outcome, position)
        return outcome

    def prepare(self, outcome: Outcome) -> None:
        """Write policy and regression of the next rollout, with the baseline at all users."""
        settings_path = self.folder / SETTINGS
        settings = json.loads(settings_path.read_text())
        settings["environments"][PRODUCTION]["regressions"]["canary"] = "overload" if outcome.is_bad else "none"
        settings_path.write_text(json.dumps(settings))
        self.environments.run("teardown", PRODUCTION, "canary")
        make_router("haproxy", self.list_router()).set_shares({"baseline": 1.0, "canary": 0.0}, back=True)
        (self.folder / "acts.log").unlink(missing_ok=True)
        policy = write_policy(self.environments, outcome.release, "canary", TIMES)
        (self.folder / "evaluator.yaml").write_text(policy, encoding="utf-8")
        store = Store.open(self.store, create=True)
        store.control.add_release(Release(outcome.release, (Service("shop", *VERSIONS.values()),)))

    def list_router(self) -> dict[str, Any]:
        """List the options of the router."""
        policy = yaml.safe_load(write_policy(self.environments, "x", "canary", Times()))
        router: dict[str, Any] = policy["rollout"]["router"]["shop"]["haproxy"]
        return router

    def call(self, *words: str) -> subprocess.Popen[bytes]:
        """Call `evaluator rollout …` in a process of its own."""
        with (self.folder / "driver.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "evaluator", *self.options, "rollout", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_for_start(self, outcome: Outcome, driver: subprocess.Popen[bytes]) -> None:
        """Wait until the rollout is stored: before that, there is nothing to continue."""
        until = time.monotonic() + ROLLOUT_S
        while not Rollouts(Store.open(self.store, decisions_only=True).control.file).rollouts(outcome.release):
            if driver.poll() is not None or time.monotonic() > until:
                sys.exit(f"{outcome.release} was not started:\n{(self.folder / 'driver.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def kill_one(self, outcome: Outcome, driver: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """Kill the driver or the guard; returns the driver that drives from now on."""
        if self.random.random() < 0.5:
            with contextlib.suppress(EvaluatorError):
                guard = connect(self.store, start=False, say=print)
                os.kill(int(guard.ping()["pid"]), signal.SIGKILL)
                outcome.kills.append("guard")
            return driver
        driver.kill()
        driver.wait()
        outcome.kills.append("driver")
        time.sleep(self.random.uniform(0, 3))
        return self.call("resume", outcome.release)

    def check(self, outcome: Outcome) -> None:
        """Look whether the rollout came to its end, with nothing lost or repeated."""
        store = Store.open(self.store)
        rollouts = Rollouts(store.control.file)
        [rollout] = rollouts.rollouts(outcome.release)
        plan, events = from_plain(rollout.plan), rollouts.events(rollout.id)
        progress = fold(plan, events)
        outcome.ended, outcome.why = str(progress.outcome or "not ended"), progress.why_back
        wanted = {"baseline": 1.0, "canary": 0.0}
        if progress.outcome is RolloutOutcome.PROMOTED:
            wanted = {"baseline": 0.0, "canary": 1.0}
        shares = make_router("haproxy", self.list_router()).read_shares()
        if shares != wanted:
            outcome.problems.append(f"the shares are {shares}, not {wanted}")
        if progress.outcome is None:
            outcome.problems.append("it has not ended")
        if outcome.is_bad and progress.outcome is RolloutOutcome.PROMOTED:
            outcome.problems.append("a bad candidate was promoted")
        steps = [event.step for event in events if event.kind is EventKind.DONE]
        if len(steps) != len(set(steps)) or (
            progress.outcome is RolloutOutcome.PROMOTED and set(steps) != set(range(plan.body))
        ):
            outcome.problems.append(f"steps that are done: {steps}")
        outcome.problems += list(self.find_repeated(plan.steps, events))

    def find_repeated(self, steps: tuple[Any, ...], events: tuple[Event, ...]) -> Iterator[str]:
        """Find calls of a hook after its step was done."""
        path = self.folder / "acts.log"
        calls = [line.split(" ", 1) for line in path.read_text().splitlines()] if path.exists() else []
        for event in events:
            act = steps[event.step] if event.kind is EventKind.DONE else None
            if not isinstance(act, Act) or not act.hooks or act.hooks[0].kind != "command":
                continue
            words = " ".join(str(word) for word in act.hooks[0].options["run"][2:])
            for at, call in calls:
                if call == words and float(at) > event.at:
                    yield f"{call} was called again {float(at) - event.at:.1f} s after it was done"

    def measure(self, outcome: Outcome, position: int) -> None:
        """Measure by the log of the router how long the candidate had users after its first error."""
        first = last = None
        with self.environments.router.log.open("rb") as log:
            log.seek(position)
            for line in log:
                with contextlib.suppress(ValueError):
                    request = json.loads(line)
                    if not request["server"].startswith("c"):
                        continue
                    at = parse_log_time(request["time"])
                    outcome.requests += 1
                    if request["status"] >= 500 or request["end"][0] in "SsRI":
                        outcome.failures += 1
                        first = at if first is None else min(first, at)
                    last = at if last is None else max(last, at)
        if outcome.is_bad and first is not None and last is not None:
            outcome.exposed_s = max(last - first, 0.0)
        if outcome.exposed_s > LONGEST_S:
            outcome.problems.append(f"users met a bad candidate for {outcome.exposed_s:.1f} s")


def describe(outcome: Outcome) -> str:
    """Write one line on a rollout."""
    kind = "bad" if outcome.is_bad else "good"
    kills = " ".join(outcome.kills) or "none"
    exposed = f"errors for {outcome.exposed_s:.1f} s, {outcome.failures} of {outcome.requests} requests"
    return (
        f"{outcome.release} {kind}: {outcome.ended}; killed: {kills}; {exposed}; {outcome.why} {outcome.problems or ''}"
    )


def main() -> int:
    """Measure, and return 1 if a bad candidate had users for too long, or something was lost or repeated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="rollout-kills-") as name:
        folder = Path(name)
        with contextlib.ExitStack() as stack:
            environments = stack.enter_context(prepare_environments(folder, VERSIONS, "none"))
            traces = list_traces(environments, folder / "evaluator.duckdb")
            stack.callback(end_processes, traces, 5.0)
            environments.run("deploy", PRODUCTION, "baseline")
            stack.enter_context(start_production_router(environments))
            stack.enter_context(start_users(environments.router, TIMES.users, 60.0, 24 * 3600.0))
            bench = Bench(environments, options.seed)
            while (done := sum(len(outcome.kills) for outcome in outcomes)) < options.kills:
                outcome = bench.roll_out(options.kills - done)
                outcomes.append(outcome)
                print(describe(outcome), flush=True)
    bad = [outcome for outcome in outcomes if outcome.is_bad]
    good = [outcome for outcome in outcomes if not outcome.is_bad]
    print(f"{sum(len(one.kills) for one in outcomes)} kills in {len(outcomes)} rollouts")
    print(f"errors of a bad candidate: at most {max((one.exposed_s for one in bad), default=0.0):.1f} s")
    print(f"good candidates promoted: {sum(one.ended == 'promoted' for one in good)} of {len(good)}")
    problems = [f"{one.release}: {problem}" for one in outcomes for problem in one.problems]
    print("\n".join(problems) or "nothing lost, nothing repeated")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
