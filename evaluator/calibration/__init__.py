"""The policy at hand on the team's own history: false alarms, power, and how much instances differ."""

from __future__ import annotations

from evaluator.calibration.inject import fail_more, slow_down
from evaluator.calibration.learn import learn_instances
from evaluator.calibration.report import (
    CHANGES,
    CalibrationReport,
    Change,
    Stored,
    Tally,
    calibrate,
    needed_comparisons,
)
from evaluator.calibration.splits import (
    balanced_halves,
    both_ways,
    only_baseline,
    pair_runs,
    split_instances,
    split_time,
)

__all__ = [
    "CHANGES",
    "CalibrationReport",
    "Change",
    "Stored",
    "Tally",
    "balanced_halves",
    "both_ways",
    "calibrate",
    "fail_more",
    "learn_instances",
    "needed_comparisons",
    "only_baseline",
    "pair_runs",
    "slow_down",
    "split_instances",
    "split_time",
]
