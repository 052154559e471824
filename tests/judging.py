"""What the tests of judging share: small releases, a rulebook like the built-in one, a complete run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from evaluator.assess import ReleaseData, assess, assess_pairs, assess_release
from evaluator.assess.outcomes import pair_outcomes
from evaluator.assess.readings import pair_readings
from evaluator.judges import judge_evidence
from evaluator.judges.native import Judgement
from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean, LatencyQuantile
from evaluator.metrics.throughput import Throughput
from evaluator.records import (
    ACCESS_LOG_SOURCE,
    Cells,
    Direction,
    Evidence,
    Limit,
    Margin,
    Outcomes,
    ReadingCells,
    Role,
    Rule,
    Rulebook,
    Run,
    RunFacts,
    RunState,
)
from evaluator.simulate import AR1, Bursts, Requests, Scenario, Scrapes, scrape, simulate, simulate_cells
from evaluator.stats.shaping.cells import where
from evaluator.stats.shaping.readings import choose_reading_bucket_s, sum_up

RULES = (
    Rule("failure_rate", FailureRate(), margin=Margin(0.001, relative=False), limit=Limit(max=0.05)),
    Rule("latency_p50", LatencyQuantile(quantile=0.5), margin=Margin(0.05)),
    Rule("latency_p95", LatencyQuantile(quantile=0.95), margin=Margin(0.10)),
    Rule("latency_p99", LatencyQuantile(quantile=0.99), margin=Margin(0.15)),
    Rule("latency_mean", LatencyMean(), Role.WATCH),
    Rule("throughput", Throughput(), Role.WATCH, direction=Direction.HIGHER),
)
RULEBOOK = Rulebook(RULES)
RUN = Run("r1", "cart@2", "g1", "import", state=RunState.COMPLETE, facts=RunFacts(users={"baseline": 10, "canary": 10}))
SMALL = replace(Scenario(), duration_s=300.0, rate_per_s=40.0, instances=(3,))
"""Five minutes, three instances an arm: quick, and enough for everything to be computed."""


def with_options(rule: Rule, **options: object) -> Rule:
    """The rule with other options of its metric."""
    return replace(rule, metric=rule.metric.model_copy(update=options))


def judge(cells: Cells, rulebook: Rulebook = RULEBOOK, runs: tuple[Run, ...] = (RUN,)) -> Judgement:
    return judge_evidence(assess(cells, runs, rulebook), rulebook, "cart@2")


def evidence(cells: Cells, rulebook: Rulebook = RULEBOOK, runs: tuple[Run, ...] = (RUN,)) -> Evidence:
    return assess(cells, runs, rulebook)


def assess_outcomes(outcomes: Outcomes | None, rulebook: Rulebook) -> Evidence:
    return assess_pairs(pair_outcomes(outcomes, rulebook, "cart@2"))


def assess_readings(readings: ReadingCells | None, runs: tuple[Run, ...], rulebook: Rulebook) -> Evidence:
    return assess_pairs(pair_readings(readings, runs, rulebook, "cart@2"))


def timed_requests(baseline, canary, *, seed: int = 1, **changes) -> Requests:
    """Requests without failures whose times (µs) are drawn by two functions of a generator and a count."""
    still = Bursts(0.0, 30.0, 0.0, 0.0)
    plain = {"failure_rate": 0.0, "shared_failures": still, "instance_failures": still, "endpoints": 1}
    requests = simulate(replace(SMALL, **{**plain, **changes}), seed)
    random, times = np.random.default_rng(seed), np.empty(requests.response_us.size)
    for code, draw in enumerate((baseline, canary)):
        here = requests.arm == code
        times[here] = draw(random, int(here.sum()))
    return replace(requests, response_us=np.rint(times).astype(np.int64))


def simulate_readings(requests: Requests, scrapes: Scrapes | None = None, seed: int = 0) -> ReadingCells:
    """Scrape simulated requests and sum up, with the bucket that a collection would choose."""
    scrapes = scrapes or Scrapes()
    seconds = float(np.ptp(requests.ts_us)) / 1e6 if len(requests) else 0.0
    bucket_s = choose_reading_bucket_s(seconds, scrapes.step_s)
    return sum_up(scrape(requests, scrapes, seed), requests.arms, bucket_s)


_STILL = Bursts(0.0, 30.0, 0.0, 0.0)
LIVE = replace(
    SMALL,
    duration_s=600.0,
    rate_per_s=60.0,
    instance_sd=0.002,
    instance_drift=AR1(0.01, 100.0),
    arm_drift=AR1(0.002, 60.0),
    failure_rate=0.0002,
    shared_failures=_STILL,
    instance_failures=_STILL,
)
"""Ten minutes of production, with so little variance that identical releases are GO."""
EVEN = {"baseline": 0.5, "canary": 0.5}


def simulate_live(
    scenario: Scenario = LIVE, seed: int = 2, *, shares: Mapping[str, float] = EVEN, **run: Any
) -> tuple[Cells, Run]:
    """Simulate production requests, as from the log of a router: their cells and their run (with these fields)."""
    cells = simulate_cells(scenario, seed)
    name = run.pop("id", "live-1")
    fields = {"release": "cart@2", "group": "live", "source": ACCESS_LOG_SOURCE, "state": RunState.COMPLETE, **run}
    return replace(cells, runs=(name,)), Run(id=name, shares=shares, landed=int(cells.moments.n.sum()), **fields)


def assess_live(
    cells: Cells, runs: tuple[Run, ...], rulebook: Rulebook = RULEBOOK, load: Cells | None = None
) -> Evidence:
    """Assess production requests, together with those of a load if there are any."""
    data = ReleaseData((), no_cells(cells), live_runs=runs, live_cells=cells)
    if load is not None:
        data = replace(data, runs=(replace(RUN, id=load.runs[0]),), cells=load)
    return assess_release(data, rulebook, "cart@2").evidence


def judge_live(
    cells: Cells, runs: tuple[Run, ...], rulebook: Rulebook = RULEBOOK, load: Cells | None = None
) -> Judgement:
    return judge_evidence(assess_live(cells, runs, rulebook, load), rulebook, "cart@2")


def no_cells(cells: Cells) -> Cells:
    """Cells without any row."""
    return where(cells, run=[])
