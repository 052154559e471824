"""How often the shares of redirects and client errors stop a GO: simulated releases with a known shift.

python benchmarks/status_mix.py [RELEASES]       (default: 400)

A share of the successes of each endpoint is redirected. The shares differ between endpoints and drift over the run by
the same wave in both arms; requests of one session have the same status. The shift is that of the candidate's share.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from evaluator.assess import assess
from evaluator.metrics.status_mix import RedirectRate
from evaluator.records import Margin, MetricStatus, Role, Rule, Rulebook, Run, RunState
from evaluator.simulate import Requests, Scenario, simulate, to_cells

MARGIN = 0.02
RULEBOOK = Rulebook((Rule("redirect_rate", RedirectRate(), Role.HOLD, Margin(MARGIN, relative=False)),))
RUN = Run("r1", "cart@2", "g1", "import", state=RunState.COMPLETE)


@dataclass(frozen=True, slots=True)
class Design:
    """A simulated service and the share of its requests that are redirected."""

    name: str
    share: float
    shift: float = 0.0
    """Change of the candidate's share."""
    spread: float = 0.5
    """Endpoints have shares from `1 - spread` to `1 + spread` times the mean."""
    drift: float = 0.0
    """Height of the common wave over the run, as a part of the share."""
    session: int = 1
    """Requests in a row of one arm and instance with the same status."""
    minutes: float = 20.0
    rate_per_s: float = 20.0
    """Of each arm."""


DESIGNS = (
    Design("no shift, 10 % redirects", 0.1),
    Design("no shift, 10 %, wave of half the share", 0.1, drift=0.5),
    Design("no shift, 10 %, sessions of 5", 0.1, session=5),
    Design("no shift, 30 %", 0.3),
    Design("no shift, 1 %", 0.01),
    Design("no shift, 10 %, 5 min", 0.1, minutes=5.0),
    Design("rise at the margin", 0.1, shift=MARGIN),
    Design("fall at the margin", 0.1, shift=-MARGIN),
    Design("rise at the margin, wave and sessions of 5", 0.1, shift=MARGIN, drift=0.5, session=5),
    Design("fall at the margin, 2.4 %", 0.024, shift=-MARGIN, spread=0.1),
    Design("rise of 4 pp", 0.1, shift=2 * MARGIN),
    Design("fall of 4 pp", 0.1, shift=-2 * MARGIN),
)


def main() -> None:
    """Judge the releases of each design, and print how many are stopped, pass and stay open."""
    releases = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    error = 196 * math.sqrt(0.05 * 0.95 / releases)
    print(f"{releases} releases a row; a share of 5 % is known to ± {error:.1f} pp\n")
    print("| design | shown to shift | shown within 2 pp | open |\n| --- | --- | --- | --- |")
    for design in DESIGNS:
        counts = Counter(judge(design, seed) for seed in range(releases))
        words = (MetricStatus.FAIL, MetricStatus.PASS, MetricStatus.INCONCLUSIVE)
        shares = " | ".join(f"{100 * counts[word] / releases:.1f} %" for word in words)
        print(f"| {design.name} | {shares} |", flush=True)


def judge(design: Design, seed: int) -> MetricStatus:
    """Simulate one release and answer the rule by its p-values, at 5 %; a margin of 2 pp."""
    scenario = replace(
        Scenario(), duration_s=60 * design.minutes, rate_per_s=design.rate_per_s, instances=(3,), endpoints=10
    )
    requests = redirect(simulate(scenario, seed), design, seed)
    comparison = assess(to_cells(requests), (RUN,), RULEBOOK).comparisons[0]
    margin = next(question for question in comparison.questions if question.kind == "margin")
    if margin.p_worse < RULEBOOK.alpha:
        return MetricStatus.FAIL
    return MetricStatus.PASS if margin.p_within < RULEBOOK.alpha else MetricStatus.INCONCLUSIVE


def redirect(requests: Requests, design: Design, seed: int) -> Requests:
    """Give a share of the successes the status 302; the shift is the same number of pp at each endpoint."""
    random = np.random.default_rng(10**6 + seed)
    spread = np.linspace(1 - design.spread, 1 + design.spread, len(requests.endpoints))[requests.endpoint]
    first, last = requests.ts_us.min(), requests.ts_us.max()
    wave = 1 + design.drift * np.sin(2 * np.pi * (requests.ts_us - first) / max(last - first, 1))
    candidate = requests.arm == requests.arms.index("canary")
    share = design.share * spread * wave + np.where(candidate, design.shift, 0.0)
    draws = random.random(requests.arm.size)
    if design.session > 1:
        # Requests in the order of arm, instance and time; each group of so many in a row shares its draw.
        order = np.lexsort((requests.ts_us, requests.instance, requests.arm))
        draws[order] = np.repeat(draws[order][:: design.session], design.session)[: draws.size]
    redirected = ~requests.failed & (draws < share)
    return replace(requests, status=np.where(redirected, 302, requests.status))


if __name__ == "__main__":
    main()
