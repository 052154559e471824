"""Releases with a known truth, for tests, notebooks, calibration and docs.

>>> cells = simulate_cells(SCENARIOS["single_75s"], seed=1)  # what the judge reads
>>> cells.arms
('baseline', 'canary')
>>> SCENARIOS["mean+3%"].changes[0].latency  # what the judge should find
0.03
"""

from __future__ import annotations

from evaluator.simulate.cells import simulate_cells, to_cells
from evaluator.simulate.design import AR1, Bursts, Change, Scenario
from evaluator.simulate.export import to_parquet
from evaluator.simulate.readings import Scrapes, scrape
from evaluator.simulate.requests import Requests, simulate
from evaluator.simulate.scenarios import SCENARIOS

__all__ = [
    "AR1",
    "SCENARIOS",
    "Bursts",
    "Change",
    "Requests",
    "Scenario",
    "Scrapes",
    "scrape",
    "simulate",
    "simulate_cells",
    "to_cells",
    "to_parquet",
]
