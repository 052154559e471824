"""Releases with a known truth, for tests, notebooks, calibration and docs."""

from __future__ import annotations

from evaluator.simulate.cells import choose_bucket_s, simulate_cells, to_cells
from evaluator.simulate.design import Bursts, Change, Design, Wander
from evaluator.simulate.export import to_parquet
from evaluator.simulate.requests import Requests, simulate
from evaluator.simulate.scenarios import SCENARIOS
from evaluator.simulate.truth import Truth, derive_truth

__all__ = [
    "SCENARIOS",
    "Bursts",
    "Change",
    "Design",
    "Requests",
    "Truth",
    "Wander",
    "choose_bucket_s",
    "derive_truth",
    "simulate",
    "simulate_cells",
    "to_cells",
    "to_parquet",
]
