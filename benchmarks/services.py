"""How often harm that ten services share is found by all of them together, and by each alone.

python benchmarks/services.py [RELEASES] [SEED]       (default: 30 1)

Simulated services that are released together, 10 minutes at 50 % of the traffic (30 requests a second on each arm,
4 + 4 instances), by the margin of 1 %. At the margin, "worse" may be shown in at most alpha (5 %). +3 % on all of ten
services must be found in at least 80 % of the releases by all together, where each alone finds it in at most 20 %.
Prints the table of docs/accuracy.md, and fails if a promise is missed by more than chance.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from evaluator.records import InstancePrior
from evaluator.simulate import SCENARIOS, Change, simulate_cells
from evaluator.stats.estimators.services import ServicePanel, compare_services
from evaluator.stats.inference.score import wilson_interval
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.variance.uncertainty import choose_design

ALPHA, MARGIN, BUCKET_S, MINUTES = 0.05, 0.01, 15, 10
TIME_CONSTANT_S = 60.0
Z = 1.96
MOST_WITH_DRIFT = 0.1
"""Ten minutes do not show all of a drift that is shared: docs/accuracy.md."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of release."""

    name: str
    latency: float
    services: int = 10
    instances: tuple[int, int] = (4, 4)
    shared_sd: float = 0.0
    """Standard deviation of a drift of the candidates of all services (log scale), as of a machine that all share."""
    most: float | None = None
    """Largest share of releases in which harm may be found together."""
    least: float | None = None
    most_alone: float | None = None


CASES = (
    Case("identical", 0.0, most=0.05),
    Case("at the margin (+1 %)", MARGIN, most=0.05),
    Case("at the margin, all candidates drift together by 2 %", MARGIN, shared_sd=0.02, most=MOST_WITH_DRIFT),
    Case("at the margin, 1 + 1 instances", MARGIN, instances=(1, 1), most=0.05),
    Case("at the margin, 3 services", MARGIN, services=3, most=0.05),
    Case("+3 %", 0.03, least=0.8, most_alone=0.2),
    Case("+3 %, 3 services", 0.03, services=3),
    Case("+3 %, all candidates drift together by 2 %", 0.03, shared_sd=0.02),
)


def draw_drift(random: np.random.Generator, buckets: int, sd: float) -> npt.NDArray[np.float64]:
    """Draw a stationary AR(1) process, one value for each bucket."""
    kept = np.exp(-BUCKET_S / TIME_CONSTANT_S)
    drift = np.empty(buckets)
    drift[0] = random.normal(0, sd)
    for bucket in range(1, buckets):
        drift[bucket] = kept * drift[bucket - 1] + random.normal(0, sd * np.sqrt(1 - kept**2))
    return drift


def simulate_release(case: Case, seed: int) -> Mapping[str, ServicePanel]:
    """Simulate the services of one release."""
    prior = InstancePrior()
    drift = draw_drift(np.random.default_rng((seed, 7)), 60 * MINUTES // BUCKET_S + 1, case.shared_sd)
    services = {}
    for number in range(case.services):
        design = replace(
            SCENARIOS["AA"],
            duration_s=60.0 * MINUTES,
            instances=case.instances,
            changes=(Change(latency=case.latency),),
            bucket_s=BUCKET_S,
        )
        panel = build_panel(simulate_cells(design, 1000 * seed + number), "canary")
        if panel is None:
            raise ValueError("a simulated service has no requests")
        by_slot = drift[panel.offset - panel.offset[0]]
        blocks = (panel.offset - panel.offset[0]) // 4
        by_block = np.bincount(blocks, weights=by_slot) / np.bincount(blocks)
        totals = {name: values.copy() for name, values in panel.totals.items()}
        totals["log_time_ms"][1] += by_slot * panel.ok[1]
        rows = panel.rows
        row_totals = {name: values.copy() for name, values in rows.totals.items()}
        row_totals["log_time_ms"] += np.where(rows.arm == 1, by_block[rows.slot], 0.0) * (rows.n - rows.failures)
        panel = replace(panel, totals=totals, rows=replace(rows, totals=row_totals))
        services[f"s{number}"] = ServicePanel(panel, choose_design(panel, prior), prior.sd_latency)
    return services


def show_share(count: int, total: int) -> str:
    """Write a share in percent, with Wilson's interval."""
    low, high = wilson_interval(count / total, total, Z)
    return f"{100 * count / total:.3g} [{100 * low:.3g}–{100 * high:.3g}]"


def main(releases: int = 30, seed: int = 1) -> int:
    """Print the table, and return 1 if a promise is missed."""
    missed = []
    print("| Release | n | worse: together | worse: each alone | standard error together, alone |")
    print("| --- | --- | --- | --- | --- |")
    for place, case in enumerate(CASES):
        together, alone, errors = 0, 0, []
        for number in range(releases):
            services = simulate_release(case, 100_000 * seed + 1000 * place + number)
            joint = compare_services(services, alpha=ALPHA, margin=MARGIN)
            singles = [compare_services({name: part}, alpha=ALPHA, margin=MARGIN) for name, part in services.items()]
            together += joint.p_worse < ALPHA
            alone += sum(change.p_worse < ALPHA for change in singles)
            errors.append((joint.se, float(np.mean([change.se for change in singles]))))
        total_alone = releases * case.services
        joint_se, single_se = (f"{100 * value:.2g} %" for value in np.mean(errors, axis=0))
        print(f"| {case.name} | {releases} | {show_share(together, releases)} | {show_share(alone, total_alone)} "
              f"| {joint_se}, {single_se} |", flush=True)  # fmt: skip
        low, high = wilson_interval(together / releases, releases, Z)
        low_alone, _ = wilson_interval(alone / total_alone, total_alone, Z)
        if case.most is not None and low > case.most:
            missed.append(f"{case.name}: found in more than {100 * case.most:g} %")
        if case.least is not None and high < case.least:
            missed.append(f"{case.name}: found in less than {100 * case.least:g} %")
        if case.most_alone is not None and low_alone > case.most_alone:
            missed.append(f"{case.name}: each alone finds it in more than {100 * case.most_alone:g} %")
    print("\n".join(missed) or "all promises are kept")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))
