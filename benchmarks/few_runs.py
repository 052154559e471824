"""How often few repeated runs give a wrong or a useful answer about a median: benchmarks with a known truth.

python benchmarks/few_runs.py [RELEASES] [SEED]       (default: 4000 1)

Each run of a release has one measurement. At the margin, "worse" and "within" must each be shown in at most alpha (5 %)
of releases, for any distribution and any number of runs. With more runs, more releases must be decided, also from 29 to
31 runs, where the test by shares of requests takes over.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from evaluator.metrics.base import Pair
from evaluator.metrics.latency import LatencyQuantile
from evaluator.records import Comparison, InstancePrior, Margin, Role, Rule
from evaluator.simulate import Requests, to_cells
from evaluator.stats.estimators.order_statistics import find_p_above
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.variance.uncertainty import choose_design

FloatArray = npt.NDArray[np.float64]

ALPHA, MARGIN, MEDIAN_MS = 0.05, 0.05, 800.0
SURE = 3.0
"""Number of standard errors by which a share may miss its promise."""
RUNS = (5, 6, 8, 10, 15, 20, 29)
COUNTS, FEWER_RELEASES = (10, 20, 29, 31, 45), 10
"""Runs for the shares of decided releases, and how many times fewer releases are judged for these."""
CHANGES = (-0.86, 0.0, 0.05, 0.1, 0.15, 0.86)
LEAST_KEPT = 0.85
"""From one number of runs to the next, at least this part of the share of decided releases must remain."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], FloatArray]
"""Draws times of a median of 1."""


def draw_two_modes(random: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Draw times of two modes, with the median at the edge of the slower one: hits and misses of a cache."""
    hit = random.random(shape) < 0.5
    return np.asarray(np.where(hit, random.uniform(0.2, 0.21, shape), random.uniform(1.0, 1.02, shape)))


DRAWS: Mapping[str, tuple[Draw, Draw]] = {
    "normal, sd 3 %": (lambda r, s: r.normal(1, 0.03, s),) * 2,
    "lognormal, sd 50 %": (lambda r, s: np.exp(r.normal(0, 0.5, s)),) * 2,
    "Pareto, exponent 1.1": (lambda r, s: (1 - r.random(s)) ** (-1 / 1.1) / 2 ** (1 / 1.1),) * 2,
    "two modes": (draw_two_modes,) * 2,
    "narrow and heavy-tailed": (
        lambda r, s: r.normal(1, 0.005, s),
        lambda r, s: (1 - r.random(s)) ** (-1 / 1.1) / 2 ** (1 / 1.1),
    ),
    "two modes and exponential": (draw_two_modes, lambda r, s: r.exponential(1 / math.log(2), s)),
}
"""Kind → how times of baseline and candidate are drawn; both have a median of 1."""


def test_release(baseline: FloatArray, candidate: FloatArray, step: float) -> tuple[float, float]:
    """Return the p-values of "worse" and "within" of the times (runs,) of one release, recorded in steps."""
    low, high = (np.round(np.stack([baseline, candidate]) / step) * step + side for side in (-step / 2, step / 2))
    allowed = 1 + MARGIN
    return find_p_above(low[1], allowed * high[0], 0.5), find_p_above(allowed * low[0], high[1], 0.5)


def measure_errors(releases: int, seed: int) -> int:
    """Print the shares of wrong answers at the margin; return how many are above alpha."""
    broken = 0
    print(
        f"{releases} releases exactly at the margin: shown to be worse, shown to be within (each at most {ALPHA:.0%})"
    )
    for number, (name, (draw_baseline, draw_candidate)) in enumerate(DRAWS.items()):
        for step in (1e-6, 0.01):  # as a share of the median: microseconds, and whole milliseconds of 100 ms
            random = np.random.default_rng((seed, number, int(1 / step)))
            shares = []
            for runs in RUNS:
                baseline = draw_baseline(random, (releases, runs))
                candidate = draw_candidate(random, (releases, runs)) * (1 + MARGIN)
                p = np.array([test_release(*times, step) for times in zip(baseline, candidate, strict=True)])
                wrong = (p < ALPHA).mean(axis=0)
                kept = wrong.max() <= ALPHA + SURE * math.sqrt(ALPHA * (1 - ALPHA) / releases)
                broken += not kept
                shares.append(f"{runs} runs {wrong[0]:.1%} {wrong[1]:.1%}{'' if kept else ' BROKEN'}")
            print(f"{name}, steps of {step:g}: {'; '.join(shares)}", flush=True)
    return broken


def compare_release(baseline_ms: FloatArray, candidate_ms: FloatArray) -> Comparison:
    """Compare the medians of one release, whose arms took turns, as a verdict does."""
    runs = baseline_ms.size
    code, zeros = np.arange(runs), np.zeros(2 * runs, dtype=np.int64)
    requests = Requests(
        runs=tuple(f"r{k}" for k in range(runs)),
        arms=("baseline", "canary"),
        endpoints=("parse",),
        instances=("",),
        exceptions=("",),
        run=np.concatenate([code, code]),
        arm=np.repeat([0, 1], runs),
        endpoint=zeros,
        instance=zeros,
        ts_us=1_767_571_200_000_000 + 60_000_000 * np.concatenate([2 * code, 2 * code + 1]),
        response_us=np.rint(1000 * np.concatenate([baseline_ms, candidate_ms])).astype(np.int64),
        failed=zeros.astype(bool),
        response_bytes=zeros,
        status=zeros,
        exception=zeros,
    )
    panel = build_panel(to_cells(requests, 1), "canary")
    if panel is None:
        raise RuntimeError("the simulated release has no data")
    prior = InstancePrior()
    pair = Pair(panel, choose_design(panel, prior), "canary", ALPHA, prior)
    metric = LatencyQuantile(quantile=0.5)
    return metric.compare(pair, Rule("p50", metric, Role.GATE, Margin(MARGIN)))


def measure_power(releases: int, seed: int) -> int:
    """Print the shares of right answers with a spread of 3 %; return how many fall when there are more runs."""
    broken = 0
    print(f"{releases} releases with a spread of 3 %: shown to be worse, shown to be within")
    for number, change in enumerate(CHANGES):
        random = np.random.default_rng((seed, 100 + number))
        shares: list[str] = []
        decided_before = 0.0
        for runs in COUNTS:
            counts = np.zeros(2)
            for _ in range(releases):
                baseline, candidate = MEDIAN_MS * random.normal(1, 0.03, (2, runs))
                questions = compare_release(baseline, candidate * (1 + change)).questions
                margin = next(question for question in questions if question.kind == "margin")
                counts += margin.p_worse < ALPHA, margin.p_within < ALPHA
            worse, within = counts / releases
            decided = max(worse, within)
            noise = SURE * math.sqrt(0.5 / releases)
            kept = change == MARGIN or decided >= LEAST_KEPT * decided_before - noise
            broken += not kept
            decided_before = decided
            shares.append(f"{runs} runs {worse:.1%} {within:.1%}{'' if kept else ' BROKEN'}")
        print(f"{change:+.0%}: {'; '.join(shares)}", flush=True)
    return broken


def main(releases: int, seed: int) -> int:
    """Print all shares; return 1 if one of them breaks its promise, else 0."""
    broken = measure_errors(releases, seed) + measure_power(max(releases // FEWER_RELEASES, 1), seed)
    return 1 if broken else 0


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:3]]
    sys.exit(main(*given, *(4000, 1)[len(given) :]))
