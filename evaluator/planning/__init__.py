"""What a test of a release would show, before it is run: precision, power, duration, and rollout strategies.

Everything is computed from two parts of the variance: one that time shrinks and one that only more instances shrink.
They come from stored comparisons (`learn_precisions`), or from simulated releases without a history (`assume_history`).
"""

from __future__ import annotations

from evaluator.planning.gates import GatePlan, Goal, Grid, choose_harms, plan_gates, tabulate
from evaluator.planning.precision import History, assume_history, learn_precisions
from evaluator.planning.strategies import (
    REPLICATIONS,
    Exposure,
    StageChances,
    StageResult,
    compare_strategies,
    find_chances,
    simulate_stage,
)

__all__ = [
    "REPLICATIONS",
    "Exposure",
    "GatePlan",
    "Goal",
    "Grid",
    "History",
    "StageChances",
    "StageResult",
    "assume_history",
    "choose_harms",
    "compare_strategies",
    "find_chances",
    "learn_precisions",
    "plan_gates",
    "simulate_stage",
    "tabulate",
]
