"""How long users meet a bad candidate while the driver, the guard or HAProxy of its rollout is killed.

python benchmarks/rollout_kills.py [--kills 100] [--at-once 6] [--seed 1]

Each rollout gives a candidate half of the users of a real HAProxy. Then the candidate becomes bad: half or all of its
requests fail, it resets connections, or it never answers, so that nothing is logged. Around this moment the driver, the
guard, or both are ended by SIGKILL, or HAProxy is reloaded, with and without the state of its servers. The file of its
configuration gives the candidate most of the requests, so a reload that forgets the shares exposes it again. Processes
that were killed are started again after the times that the units of `docs/rollouts.md` have.

The clock starts when the candidate becomes bad, not at the first failure that is logged, and again where a reload gives
it users again; it stops when HAProxy itself gives it nothing. None may take longer than 15 s. Some candidates stay
healthy: they keep their share. All rollouts have to come to their end. Driver and guard are the real ones, forked from
a process that has loaded them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from forked import ForkServer, store_rollout
from guard_world import World, reload_haproxy, users, world

from evaluator.guard.places import find_copies_folder
from evaluator.intents.rollout_progress import RolloutProgress, fold
from evaluator.records.rollouts import RolloutOutcome, RolloutPlan
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

LONGEST_S = 15.0
"""Longest time that users may meet a bad candidate."""
AGAIN_S = {"guard": 1.0, "driver": 5.0}
"""Time after which systemd starts a process again (`RestartSec`)."""
START_S = {"guard": 0.5, "driver": 1.5}
"""Time that it takes to load the program, which a fork does not need."""
KILLS = ("driver", "guard", "both", "reload", "reload that keeps the state")
WAYS = ("half", "failing", "resetting", "hanging", "hanging", "healthy")
"""What becomes of the candidate, as often as it is here."""
PER_S = 20.0
"""Requests of users in a second; half of them meet the candidate."""
HEALTHY_S = 12.0
END_S = 90.0
LOOK_S = 0.05
STAGES = [
    {"name": "half", "share": "50%", "needs": "no_harm", "bake": "30m"},
    {"name": "full", "share": "100%", "needs": "nothing", "bake": "1m"},
]


@dataclass
class Case:
    """One rollout, one kill, and what came of it."""

    number: int
    way: str
    kill: str
    offset_s: float
    """From the moment at which the candidate becomes bad until the kill."""
    exposed_s: float = 0.0
    """The longest time in which users met the bad candidate."""
    problems: list[str] = field(default_factory=list)


class Place:
    """One HAProxy with its users, and the processes of one rollout at a time."""

    def __init__(self, made: World, server: ForkServer) -> None:
        self.made, self.server, self.policy = made, server, make_policy(made)
        self.plan: RolloutPlan | None = None
        self.store = made.folder / "case" / "evaluator.duckdb"
        self.ids: dict[str, int] = {}
        self.start_at: dict[str, float] = {}
        """Process that was killed → when it is started again."""
        self.exit_code: int | None = None
        self.share = 0.0
        self.first_router = made.router.process
        self.old_routers: list[subprocess.Popen[bytes]] = []
        """Processes of HAProxy that were replaced; they end after their last request."""

    def run(self, case: Case) -> None:
        """Roll out a candidate that becomes bad, and kill something meanwhile."""
        self.begin()
        if not self.wait_for_share(0.5, END_S):
            case.problems.append("the candidate did not get its share")
            return
        bad_at = time.monotonic() + random.uniform(1, 4) + max(-case.offset_s, 0)
        kill_at = bad_at + case.offset_s
        exposed_since, clear_since = None, None
        is_bad = is_killed = False
        while True:
            now = self.tick()
            if now >= bad_at and not is_bad and case.way != "healthy":
                self.made.canary.mode = case.way
                is_bad = True
            # A kill that would come later comes when the traffic has just returned.
            if not is_killed and (now >= kill_at or (is_bad and self.share == 0)):
                is_killed, kill_at = True, now
                self.kill(case.kill)
            if is_bad and self.share > 0:
                exposed_since, clear_since = exposed_since or now, None
                case.exposed_s = max(case.exposed_s, now - exposed_since)
            elif is_bad:
                exposed_since, clear_since = None, clear_since or now
            if case.way == "healthy" and now > max(bad_at, kill_at) + HEALTHY_S:
                break
            if is_killed and clear_since and now > clear_since + 2 and now > kill_at + 2:
                break
            if now > bad_at + END_S:
                case.problems.append("the traffic has not returned")
                return
        if case.way == "healthy":
            if not self.wait_for_share(0.5, 12):
                why = self.read_progress().why_back or "it does not go back"
                case.problems.append(f"a healthy candidate has {self.share:.0%} of the traffic: {why}")
            return
        if case.exposed_s > LONGEST_S:
            case.problems.append(f"users met the bad candidate for {case.exposed_s:.1f} s")
        self.check_end(case)

    def begin(self) -> None:
        """Begin a rollout of a healthy candidate."""
        self.end()
        self.made.canary.mode = "healthy"
        self.share = -1.0
        self.made.command("set weight shop/b1 100; set weight shop/c1 0")
        # The copies on another disk are those of an earlier store at this path.
        for folder in filter(None, (self.store.parent, find_copies_folder(self.store))):
            shutil.rmtree(folder, ignore_errors=True)
        self.store.parent.mkdir()
        self.plan, _ = store_rollout(self.store, self.policy)
        self.exit_code = None
        for role in ("guard", "driver"):
            self.start(role)

    def start(self, role: str) -> None:
        """Start the driver or the guard."""
        self.ids[role] = self.server.start(role, self.store)

    def tick(self) -> float:
        """Wait a moment, start again what was killed, and read the share; returns the time."""
        time.sleep(LOOK_S)
        pid, code = self.server.wait_for_one(0)
        if pid and pid == self.ids.get("driver"):
            del self.ids["driver"]
            self.exit_code = code
        now = time.monotonic()
        for role, at in list(self.start_at.items()):
            if now >= at:
                del self.start_at[role]
                self.start(role)
        with contextlib.suppress(OSError, ZeroDivisionError, KeyError):  # HAProxy is being reloaded
            self.share = self.made.shares()["canary"]
        return now

    def wait_for_share(self, share: float, seconds: float) -> bool:
        """Wait until HAProxy gives the candidate a share."""
        until = time.monotonic() + seconds
        while self.tick() < until:
            if abs(self.share - share) < 0.01:
                return True
        return False

    def kill(self, what: str) -> None:
        """Kill processes, which are started again later, or reload HAProxy."""
        if what.startswith("reload"):
            self.old_routers.append(reload_haproxy(self.made, keep="keeps" in what, wait=False))
            return
        for role in ("guard", "driver") if what == "both" else (what,):
            if role in self.ids:
                os.kill(self.ids.pop(role), signal.SIGKILL)
                self.start_at[role] = time.monotonic() + AGAIN_S[role] + START_S[role]

    def check_end(self, case: Case) -> None:
        """Look whether the rollout ends, with nothing at the candidate."""
        until = time.monotonic() + END_S
        while self.exit_code is None and self.tick() < until:
            pass
        progress = self.read_progress()
        if progress.outcome is not RolloutOutcome.ROLLED_BACK:
            case.problems.append(f"it is {progress.outcome or 'not ended'}: {progress.why_back}")
        if self.share > 0:
            case.problems.append(f"the candidate has {self.share:.0%} at the end")

    def read_progress(self) -> RolloutProgress:
        """Read how far the rollout is."""
        rollouts = Rollouts(Store.open(self.store, decisions_only=True).control.file)
        [rollout] = rollouts.rollouts()
        return fold(self.plan, rollouts.events(rollout.id))

    def end(self) -> None:
        """Kill what runs."""
        for pid in self.ids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self.ids and self.server.wait_for_one(0.5)[0]:
            pass
        self.ids.clear()
        self.start_at.clear()
        for router in self.old_routers:
            router.kill()
            router.wait()
        self.old_routers.clear()


def make_policy(made: World) -> dict[str, Any]:
    """Make the policy of the rollouts of a place."""
    options = {"socket": str(made.router.stats_socket), "backend": "shop", "servers": made.arms}
    rollout = {
        "strategy": "canary",
        "router": {"cart": {"haproxy": options}},
        "live": {"access_log": str(made.router.log)},
        "stages": STAGES,
    }
    return {"service": "cart", "rollout": rollout}


def run_cases(folder: Path, cases: Iterator[Case], done: list[Case], *, leaves: bool) -> None:
    """Run cases at one place until there are no more. `leaves`: clients leave after two seconds without an answer."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(world(folder, canary_weight=200))
        stack.enter_context(users(made.router.port, PER_S, timeout=2 if leaves else 70))
        place = Place(made, stack.enter_context(contextlib.closing(ForkServer(folder))))
        stack.callback(place.end)
        for case in cases:
            place.run(case)
            done.append(case)
            print(describe(case), flush=True)
        if made.router.process is not place.first_router:
            place.old_routers.append(made.router.process)


def describe(case: Case) -> str:
    """Write one line on a case."""
    text = f"{case.number:4} {case.way:9} {case.kill:28} {case.offset_s:+5.1f} s   exposed {case.exposed_s:4.1f} s"
    return "  ".join([text, *case.problems])


class Cases:
    """Cases for several places, each taken once."""

    def __init__(self, kills: int, seed: int) -> None:
        draw = random.Random(seed)
        # A hang is noticed last, so kills come until then.
        self.left = [
            Case(number, draw.choice(WAYS), draw.choice(KILLS), draw.uniform(-2, 9)) for number in range(1, kills + 1)
        ]
        self._taking = threading.Lock()

    def __iter__(self) -> Iterator[Case]:
        while True:
            with self._taking:
                if not self.left:
                    return
                case = self.left.pop(0)
            yield case


def main() -> int:
    """Measure, and return 1 if a bad candidate had users for too long, or a rollout did not end as it has to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    cases, done = Cases(options.kills, options.seed), list[Case]()
    with tempfile.TemporaryDirectory(prefix="rollout-kills-") as name, ThreadPoolExecutor(options.at_once) as pool:
        os.environ["XDG_STATE_HOME"] = name
        folders = [Path(name, str(number)) for number in range(options.at_once)]
        for folder in folders:
            folder.mkdir()
        running = [
            pool.submit(run_cases, folder, iter(cases), done, leaves=number % 3 == 2)
            for number, folder in enumerate(folders)
        ]
        for each in running:
            each.result()
    for title, is_of in (
        *((kill, lambda case, kill=kill: case.kill == kill) for kill in KILLS),
        *((way, lambda case, way=way: case.way == way) for way in dict.fromkeys(WAYS)),
    ):
        times = sorted(case.exposed_s for case in done if is_of(case) and case.way != "healthy")
        if times:
            print(
                f"{title:28} {len(times):3} kills: median {times[len(times) // 2]:4.1f} s, at most {times[-1]:4.1f} s"
            )
    problems = [describe(case) for case in sorted(done, key=lambda case: case.number) if case.problems]
    print("\n".join(problems) or f"{len(done)} kills, nothing lost")
    return 1 if problems or len(done) < options.kills else 0


if __name__ == "__main__":
    sys.exit(main())
