"""How often an incident that hits both versions turns a good release back while it is watched at 98 %.

python benchmarks/watches.py [WATCHES] [SEED]       (default: 100 1)

The real judge and the real decisions (`tests/ladders.py`). In each watch both versions fail and become slow together,
several times. Prints the table of docs/accuracy.md, and fails if more than 1 of 100 is turned back by more than chance.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ladders import BUCKET_S, HOUR, INSTANCES, POLICY, RELEASE, Ladder, Stage, follow_ladder

from evaluator.policy import parse_policy
from evaluator.records.rollouts import Observe
from evaluator.rollout.planning import make_plan
from evaluator.simulate import SCENARIOS, Change, Scenario, simulate_cells
from evaluator.simulate.design import Bursts
from evaluator.stats.inference.score import wilson_interval

Z = 1.96
ALLOWED = 0.01
"""Share of watches that may be turned back although the release is as the version before."""
QUIET = SCENARIOS["AA"]
INCIDENTS = replace(
    QUIET,
    shared_failures=Bursts(1.0, 400.0, 0.05, 0.40),
    spikes=Bursts(1.0, 400.0, 0.4, 1.2),
)
"""About once an hour 5 to 40 % of the requests fail for some minutes, and once they take 1.5 to 3.3 times as long."""
KINDS = (
    ("identical, no incident", QUIET, Change(), ALLOWED),
    ("identical, incidents of both versions", INCIDENTS, Change(), ALLOWED),
    ("+2 pp failures, incidents of both versions", INCIDENTS, Change(failures_added=0.02), None),
    ("+2 pp failures, no incident", QUIET, Change(failures_added=0.02), None),
)


def main() -> int:
    """Simulate, print, and compare with what is allowed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    stages = [
        {"name": "98 %", "share": "98%", "needs": "no_harm", "bake": f"{HOUR:g}s"},
        {"name": "full", "share": "100%", "needs": "nothing", "bake": "10m"},
    ]
    policy = parse_policy({**POLICY, "rollout": {**POLICY["rollout"], "stages": stages}})  # type: ignore[dict-item]
    plan = make_plan(policy, RELEASE)
    (step,) = (step for step in plan.steps if isinstance(step, Observe) and 0 < step.share < 1)
    print("| Release | n | turned back | a person is asked |")
    print("| --- | --- | --- | --- |")
    is_missed = False
    for number, (label, base, change, allowed) in enumerate(KINDS):
        ladders = [
            follow_ladder(policy, plan, [simulate_watch(step, base, change, 10_000 * (seed + number) + watch)])
            for watch in range(count if allowed is not None else max(count // 3, 1))
        ]
        back, low, high = _share(ladders, "rolled back")
        asked, *_ = _share(ladders, "asked")
        print(f"| {label} | {len(ladders)} | {back:.3g} % [{low:.3g}–{high:.3g}] | {asked:.3g} % |", flush=True)
        is_missed |= allowed is not None and low > 100 * allowed
    return int(is_missed)


def simulate_watch(step: Observe, base: Scenario, change: Change, seed: int) -> Stage:
    """Simulate the requests of one watch."""
    design = replace(
        base,
        duration_s=step.bake_s,
        split=(step.share,),
        instances=INSTANCES["98 %"],
        changes=(change,),
        bucket_s=BUCKET_S,
    )
    return Stage(step, simulate_cells(design, seed))


def _share(ladders: list[Ladder], outcome: str) -> tuple[float, float, float]:
    """Return how many ended so, in percent, with Wilson's interval."""
    share = sum(ladder.outcome == outcome for ladder in ladders) / len(ladders)
    low, high = wilson_interval(share, len(ladders), Z)
    return 100 * share, 100 * low, 100 * high


if __name__ == "__main__":
    sys.exit(main())
