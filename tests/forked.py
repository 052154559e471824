"""Drivers and guards of rollouts that start within milliseconds: forks of `kill_server.py`, and stores for them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluator.policy import parse_policy
from evaluator.records import Release, Service
from evaluator.records.intents import Person
from evaluator.records.rollouts import Observe, Rollout, RolloutPlan
from evaluator.rollout.planning import make_plan
from evaluator.rollout.starting import draft_rollout
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

RELEASE = "cart@1.5.0"
PROGRAM = Path(__file__).parent / "kill_server.py"


class ForkServer:
    """The process that forks. Its children outlive it; who has started them ends them."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where it runs."""
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )

    def start(self, role: str, store: Path, **options: Any) -> int:
        """Start the `driver` or the `guard` of a store, and return its process id.

        `kill_at`: the number of its change before which it is killed, from 0; of those with the name `kill_before`, if
        that is given. `no_go_at`: the stage that is NO-GO; given, what evidence shows is scripted, and processes look
        more often.
        """
        return int(self._ask(role=role, store=str(store), **options))

    def wait_for_one(self, seconds: float) -> tuple[int, int]:
        """Wait until a process has ended; returns its id and its exit code, or 0, 0 if none has."""
        pid, code = self._ask(wait_s=seconds)
        return pid, code

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _ask(self, **asked: Any) -> Any:
        """Send a question, and read the answer."""
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def store_rollout(
    path: Path, policy_plain: Mapping[str, Any], bake_s: float | None = None
) -> tuple[RolloutPlan, Rollout]:
    """Make a store with a rollout that was started, and not driven yet.

    `bake_s`: of all stages; None: as the policy says.
    """
    policy = parse_policy(policy_plain)
    plan = make_plan(policy, RELEASE)
    if bake_s is not None:
        steps = (replace(s, bake_s=bake_s, deadline_s=bake_s) if isinstance(s, Observe) else s for s in plan.steps)
        plan = replace(plan, steps=tuple(steps))
    store = Store.open(path, create=True)
    store.control.add_release(Release(RELEASE, tuple(Service(name, "1.4.1", "1.5.0") for name in plan.services)))
    draft = draft_rollout(policy, plan, Person("ann", ("ann",)), "sprint 12", is_queued=False)
    return plan, Rollouts(store.control.file).start(draft)
