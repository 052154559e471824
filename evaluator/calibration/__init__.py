"""A policy applied to the user's own history: its false alarms, its power, and how much instances differ."""

from __future__ import annotations

from evaluator.calibration.report import CalibrationReport, Injection, Stored, Tally, calibrate, needed_comparisons
from evaluator.calibration.splits import pair_runs

__all__ = ["CalibrationReport", "Injection", "Stored", "Tally", "calibrate", "needed_comparisons", "pair_runs"]
