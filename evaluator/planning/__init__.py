"""What a test of a release would be worth before it is run: precision, power, duration, and rollout strategies.

Everything rests on the parts of the variance: one that time shrinks and one that only more instances shrink. They come
from stored comparisons (`learn_precisions`), or from simulated releases where there is no history (`assume_history`).
"""

from __future__ import annotations

from evaluator.planning.gates import GatePlan, Goal, Grid, plan_gates, tabulate
from evaluator.planning.power import find_power
from evaluator.planning.precision import Forecast, History, Precision, assume_history, forecast, learn_precisions
from evaluator.planning.strategies import STRATEGIES, Exposure, Stage, compare_strategies

__all__ = [
    "STRATEGIES",
    "Exposure",
    "Forecast",
    "GatePlan",
    "Goal",
    "Grid",
    "History",
    "Precision",
    "Stage",
    "assume_history",
    "compare_strategies",
    "find_power",
    "forecast",
    "learn_precisions",
    "plan_gates",
    "tabulate",
]
