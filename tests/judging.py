"""What the tests of judging share: small releases, a rulebook like the built-in one, a complete run."""

from __future__ import annotations

from dataclasses import replace

from evaluator.assess import assess
from evaluator.judges import JUDGES
from evaluator.judges.native import Judgement
from evaluator.records import (
    Cells,
    Direction,
    Evidence,
    Limit,
    Margin,
    Role,
    Rule,
    Rulebook,
    Run,
    RunFacts,
    RunState,
)
from evaluator.simulate import Design

RULES = (
    Rule("failure_rate", "failure_rate", margin=Margin(0.001, relative=False), limit=Limit(max=0.05)),
    Rule("latency_p50", "latency_quantile", margin=Margin(0.05), quantile=0.5),
    Rule("latency_p95", "latency_quantile", margin=Margin(0.10), quantile=0.95),
    Rule("latency_p99", "latency_quantile", margin=Margin(0.15), quantile=0.99),
    Rule("latency_mean", "latency_mean", Role.WATCH),
    Rule("throughput", "throughput", Role.WATCH, direction=Direction.HIGHER),
)
RULEBOOK = Rulebook(RULES)
RUN = Run("r1", "cart@2", "g1", "import", state=RunState.COMPLETE, facts=RunFacts(users={"baseline": 10, "canary": 10}))
SMALL = replace(Design(), duration_s=300.0, rate_per_s=40.0, instances=(3,))
"""Five minutes, three instances an arm: quick, and enough for everything to be computed."""


def judge(cells: Cells, rulebook: Rulebook = RULEBOOK, runs: tuple[Run, ...] = (RUN,)) -> Judgement:
    return JUDGES["native"](assess(cells, runs, rulebook), rulebook, "cart@2")


def evidence(cells: Cells, rulebook: Rulebook = RULEBOOK, runs: tuple[Run, ...] = (RUN,)) -> Evidence:
    return assess(cells, runs, rulebook)
