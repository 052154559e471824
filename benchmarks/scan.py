"""How often the endpoint scan stops a GO: releases of a million requests on a hundred endpoints.

    python benchmarks/scan.py [RELEASES] [SEED]

Harm up to exactly what is tolerated must stop a GO in at most 1 % of releases, however many requests there are; an
endpoint that is clearly worse than that must stop it; one beyond the scan's margin is NO-GO.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from evaluator.judges.multiplicity import adjust_plausible
from evaluator.metrics.measure import pair_up
from evaluator.metrics.scan import Scanned, scan_endpoints
from evaluator.policy import parse_policy
from evaluator.records import Rulebook
from evaluator.simulate import Change, Design, Requests, simulate, to_cells
from evaluator.stats.window import find_warm_up

FloatArray = npt.NDArray[np.float64]

ENDPOINTS = 100
MILLION = Design(endpoints=ENDPOINTS, rate_per_s=139.0)
SLOWER, FAILING = 0.15, 0.001
"""What the built-in policy tolerates of one endpoint."""
MOST_STOPPED, LEAST_FOUND = 0.01, 0.9
SURE = 3.0
"""Standard errors by which a share may miss what is promised."""


def slow_down(requests: Requests, factors: FloatArray) -> Requests:
    """The same requests; those of the candidate take as many times as long as their endpoint's factor says."""
    by = np.where(requests.arm == 1, factors[requests.endpoint], 1.0)
    return replace(requests, response_us=np.rint(requests.response_us * by).astype(np.int64))


def scan_release(requests: Requests, rulebook: Rulebook) -> Scanned:
    """What the scan finds in one release."""
    cells = to_cells(requests)
    pair = pair_up(cells, rulebook, find_warm_up(cells, rulebook.warm_up_s)).at("canary", None, None)
    if pair is None:
        raise RuntimeError("the simulated release has no data")
    return scan_endpoints(pair, rulebook.scan, rulebook.rules)


def read_answer(found: Scanned, rulebook: Rulebook) -> str:
    """`no_go`, `stopped` or `go`: as the judge decides by the scan alone."""
    level = rulebook.alpha * rulebook.scan.alpha_share
    questions = {kind: [] for kind in ("margin", "tolerance")}
    for row in found.comparisons:
        for question in row.questions:
            if question.kind in questions:
                questions[question.kind].append(question.p_worse)
    beyond = {kind: min(adjust_plausible(p_values)) < level for kind, p_values in questions.items()}
    return "no_go" if beyond["margin"] else "stopped" if beyond["tolerance"] else "go"


def make_releases(name: str, releases: int, seed: int) -> Iterator[Requests]:
    """Simulated releases of one kind."""
    random = np.random.default_rng((seed, len(name)))
    for number in range(releases):
        factors, change, design = np.ones(ENDPOINTS), Change(), MILLION
        if name.startswith("all at the tolerance"):
            factors[:] = 1 + SLOWER
            change = Change(failures_added=FAILING)
        elif name.startswith("up to the tolerance"):
            factors = 1 + SLOWER * np.where(np.arange(ENDPOINTS) % 2, 1.0, random.random(ENDPOINTS))
        elif name.startswith("one of them"):
            factors[ENDPOINTS // 4] = 1 + float(name.split("+")[1].rstrip(" %")) / 100
        if "2 + 2" in name:
            design = replace(design, instances=(2,), instance_sd=0.03)
        yield slow_down(simulate(replace(design, changes=(change,)), seed + number), factors)


PROMISES: Mapping[str, tuple[str, float]] = {
    "identical": ("stopped", MOST_STOPPED),
    "all at the tolerance": ("stopped", MOST_STOPPED),
    "up to the tolerance": ("stopped", MOST_STOPPED),
    "up to the tolerance, 2 + 2 instances of sd 3 %": ("stopped", MOST_STOPPED),
    "one of them +22 %": ("stopped", LEAST_FOUND),
    "one of them +40 %": ("no_go", LEAST_FOUND),
}
"""Kind of release → which answer is counted, and how often it may be given (below a half) or has to be."""


def main(releases: int, seed: int) -> int:
    """Print the shares; 1 where one of them breaks its promise."""
    rulebook = parse_policy({}).rulebook
    broken = 0
    print(f"{releases} releases of about a million requests on {ENDPOINTS} endpoints")
    for name, (answer, promised) in PROMISES.items():
        answers = [read_answer(scan_release(one, rulebook), rulebook) for one in make_releases(name, releases, seed)]
        share = answers.count(answer) / releases
        error = math.sqrt(max(promised * (1 - promised), share * (1 - share)) / releases)
        kept = share <= promised + SURE * error if promised < 0.5 else share >= promised - SURE * error
        broken += not kept
        all_shares = ", ".join(f"{word} {answers.count(word) / releases:.1%}" for word in ("go", "stopped", "no_go"))
        print(f"{'ok' if kept else 'BROKEN':7}{name:50}{answer} {share:.1%} ± {error:.1%}   ({all_shares})", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in (sys.argv[1:] + ["100", "1"][len(sys.argv) - 1 :]))))
