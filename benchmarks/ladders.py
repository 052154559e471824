"""How often whole rollouts end right: simulated releases on a ladder of 5, 25, 50 and 98 % of the traffic.

python benchmarks/ladders.py [RELEASES] [SEED]       (default: 60 1)

Kinds of releases without a promise get a third as many.

The real judge and the real decisions (`tests/ladders.py`); beside them fixed thresholds, on the same requests.
Prints the tables of docs/accuracy.md, and fails if a promise is missed by more than chance.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ladders import (
    Ladder,
    Thresholds,
    find_usual_p95,
    follow_ladder,
    follow_thresholds,
    make_ladder,
    simulate_ladder,
)

from evaluator.simulate import SCENARIOS, Change
from evaluator.stats.inference.score import wilson_interval

AA = SCENARIOS["AA"]
RELEASES: Sequence[tuple[str, Change]] = (
    ("identical", Change()),
    ("+20 % latency", Change(latency=0.20)),
    ("+10 pp failures", Change(failures_added=0.10)),
    ("+3 pp failures", Change(failures_added=0.03)),
    ("p50 worse by exactly its margin (+5 %)", Change(latency=0.05)),
    ("one endpoint +50 %", Change(endpoint=0.5)),
    ("+10 % latency", Change(latency=0.10)),
)
Z = 1.96


@dataclass(frozen=True, slots=True)
class Promise:
    """What has to hold of a kind of release."""

    release: str
    says: str
    holds: Callable[[Ladder], bool]
    least: float


PROMISES = (
    Promise("identical", "not rolled back", lambda ladder: ladder.outcome != "rolled back", 0.95),
    Promise("identical", "at 100 % without a person", lambda ladder: ladder.outcome == "promoted", 0.70),
    Promise("+20 % latency", "rolled back by the end of 50 %",
            lambda ladder: ladder.outcome == "rolled back" and ladder.stage in ("5 %", "25 %", "50 %"), 0.95),
)  # fmt: skip


def show_share(ladders: Sequence[Ladder], holds: Callable[[Ladder], bool]) -> str:
    """Write a share in percent, with Wilson's interval."""
    count = sum(map(holds, ladders))
    low, high = wilson_interval(count / len(ladders), len(ladders), Z)
    return f"{100 * count / len(ladders):.3g} [{100 * low:.3g}–{100 * high:.3g}]"


def write_row(label: str, rules: str, ladders: Sequence[Ladder]) -> str:
    """Write a row of the table."""
    outcomes = [show_share(ladders, lambda ladder, word=word: ladder.outcome == word)  # type: ignore[misc]
                for word in ("promoted", "asked", "rolled back")]  # fmt: skip
    back = [ladder for ladder in ladders if ladder.outcome == "rolled back"]
    stages = ", ".join(f"{name}: {sum(ladder.stage == name for ladder in back)}"
                       for name in ("5 %", "25 %", "50 %", "98 %") if any(b.stage == name for b in back))  # fmt: skip
    minutes = f"{median(ladder.seconds for ladder in back) / 60:.0f}" if back else "–"
    exposed = f"{mean(ladder.exposed for ladder in ladders):,.0f}"
    return f"| {label} | {rules} | {len(ladders)} | {' | '.join(outcomes)} | {stages or '–'} | {minutes} | {exposed} |"


def main() -> int:
    """Simulate, print, and compare with the promises."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    policy, plan = make_ladder()
    usual = find_usual_p95(plan)
    fixed = {
        "success ≥ 95 %": Thresholds(),
        "and p95 ≤ 1.5 × usual": Thresholds(p95_ms=1.5 * usual),
        "and p95 ≤ 1.2 × usual": Thresholds(p95_ms=1.2 * usual),
    }
    print(f"usual p95: {usual:.0f} ms; alpha_no_go: {plan.alpha_no_go:g}")
    print("| Release | Rules | n | at 100 % alone | a person is asked | rolled back | at | after min | exposed |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    missed = []
    for number, (label, change) in enumerate(RELEASES):
        own: list[Ladder] = []
        others: dict[str, list[Ladder]] = {name: [] for name in fixed}
        promised = [promise for promise in PROMISES if promise.release == label]
        releases = count if promised else max(count // 3, 1)
        for release in range(releases):
            stages = simulate_ladder(plan, change, 10_000 * (first + number) + release, AA)
            own.append(follow_ladder(policy, plan, stages))
            for name, rules in fixed.items():
                others[name].append(follow_thresholds(plan, stages, rules))
        print(write_row(label, "evidence", own), flush=True)
        for name, ladders in others.items():
            print(write_row(label, name, ladders), flush=True)
        for promise in promised:
            held = sum(map(promise.holds, own))
            _, high = wilson_interval(held / count, count, Z)
            if high < promise.least:
                missed.append(f"{label}: {promise.says}: {held} of {count}, promised {promise.least:.0%}")
        for ladder in own:
            if label.startswith("identical") and ladder.outcome != "promoted":
                print(f"    {ladder.outcome} at {ladder.stage}: {ladder.why}", file=sys.stderr)
    for text in missed:
        print(text)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
