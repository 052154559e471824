"""How often a healthy release is refused because it seems to be silent, and how often real silence is detected.

python -m arena.silence [RELEASES]       (in `tests`; default: 100)

Releases are simulated with rare endpoints, restarts, instances that are replaced, pacing, ramps and sparse arms. It
prints for each design how often identical arms are refused, and how often a candidate that is silent for the last
quarter is detected, each with a one-sided 95 % limit (Clopper-Pearson).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from judging import RULEBOOK

from evaluator.assess import assess
from evaluator.records import Cells, Level, Run, RunFacts, RunState
from evaluator.simulate import SCENARIOS, Scenario, simulate, to_cells
from evaluator.simulate.requests import Requests

CHECKS = ("silence", "turnover", "left_out", "in_flight", "overlap", "comparability")
RUN = Run(
    "run-0", "cart@2", "g1", "import", state=RunState.COMPLETE, facts=RunFacts(users={"baseline": 60, "canary": 60})
)
SHORTER = replace(SCENARIOS["AA"], duration_s=1200.0)
DESIGNS: Mapping[str, Scenario] = {
    "plain": SHORTER,
    "rare endpoints": replace(SHORTER, endpoints=200, zipf=1.5),
    "sparse": replace(SHORTER, rate_per_s=0.5),
    "1 %": replace(SHORTER, split=(0.01,)),
    "ramp": replace(SHORTER, split=(0.01, 0.05, 0.25, 0.5), load_trend=0.5),
    "restarts": replace(SHORTER, restarts=2),
    "churn": replace(SHORTER, lifetime_s=(300.0, 600.0)),
    "closed loop": replace(SHORTER, users=60, wait_s=2.0),
    "slow pace": replace(SHORTER, users=20, wait_s=30.0),
    "spawning": replace(SHORTER, users=60, wait_s=2.0, spawn_s=120.0),
    "missing minutes": replace(SHORTER, missing_minutes=2),
    "1 min": replace(SHORTER, duration_s=60.0),
    "75 s, 1 + 1": SCENARIOS["single_75s"],
}


@dataclass(frozen=True, slots=True)
class Row:
    """Counts of one design."""

    name: str
    releases: int
    refused: int
    """Healthy releases that a check refused."""
    found: int
    """Releases with a silent candidate that a check refused."""


def trial(design: Scenario, seed: int, source: str) -> tuple[bool, bool]:
    """Is a healthy release refused, and is the same release with a silent candidate in the last quarter refused?"""
    requests = simulate(design, seed)
    run = replace(RUN, source=source)
    dead = (requests.arm == 1) & (requests.ts_us > requests.ts_us.min() + 0.75 * np.ptp(requests.ts_us))
    return tuple(refuses(to_cells(take(requests, keep)), run) for keep in (np.ones_like(dead), ~dead))


def take(requests: Requests, keep: np.ndarray) -> Requests:
    """Return the requests where `keep` is true."""
    columns = {f.name: getattr(requests, f.name) for f in fields(requests)}
    return replace(requests, **{name: c[keep] for name, c in columns.items() if isinstance(c, np.ndarray)})


def refuses(cells: Cells, run: Run) -> bool:
    """Does a check of silence prevent a GO?"""
    findings = assess(cells, (run,), RULEBOOK).findings
    return any(finding.check in CHECKS and finding.level is Level.FAIL for finding in findings)


def measure(releases: int) -> Iterator[Row]:
    """Yield a row for each design, as imports and as loads."""
    for source in ("import", "locust"):
        for name, design in DESIGNS.items():
            trials = [trial(design, seed, source) for seed in range(releases)]
            yield Row(f"{name} ({source})", releases, sum(one[0] for one in trials), sum(one[1] for one in trials))


if __name__ == "__main__":
    from scipy.stats import beta

    for row in measure(int(sys.argv[1]) if len(sys.argv) > 1 else 100):
        upper = beta.ppf(0.95, row.refused + 1, row.releases - row.refused) if row.refused < row.releases else 1.0
        lower = beta.ppf(0.05, row.found, row.releases - row.found + 1) if row.found else 0.0
        print(  # noqa: T201 - it is a script
            f"{row.name:28} refused {row.refused / row.releases:6.1%} (≤ {upper:.1%})"
            f"   found {row.found / row.releases:6.1%} (≥ {lower:.1%})"
        )
