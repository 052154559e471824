"""What the tests of judging share: small releases, a rulebook like the built-in one, a complete run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evaluator.assess import assess, assess_pairs
from evaluator.assess.outcomes import pair_outcomes
from evaluator.assess.readings import pair_readings
from evaluator.judges import judge_evidence
from evaluator.judges.native import Judgement
from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean, LatencyQuantile
from evaluator.metrics.throughput import Throughput
from evaluator.records import (
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
from evaluator.simulate import Bursts, Requests, Scenario, Scrapes, scrape, simulate
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
