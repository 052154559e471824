"""The judged requests of one candidate and its baseline by endpoint, instance and time: what a fault is looked for in.

Several runs lie upon each other: a slot of the grid is so many seconds after the start of each run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evaluator.records import BLOCK_BUCKETS
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.shaping.panel import Panel

MOST_SLOTS = 128
"""Slots in which faults are looked for; longer runs get wider slots."""
MOST_CELLS = 8_000_000
"""Largest number of endpoints × instances × slots of one arm: more would take gigabytes."""
FEWEST_SLOTS = 4


@dataclass(frozen=True, slots=True)
class FaultGrid:
    """Sums of each endpoint, instance and slot. The arrays of an arm have the shape (endpoints, instances, slots)."""

    endpoints: tuple[str, ...]
    instances: tuple[str, ...]
    """Names of the candidate's instances, in the order of its arrays."""
    slot_s: int
    n: FloatArray
    """Requests of the candidate."""
    failures: FloatArray
    log_sums: FloatArray
    """Sum of the logarithms of its response times, of successes."""
    baseline_n: FloatArray
    """The same of the baseline, whose instances are others."""
    baseline_failures: FloatArray
    baseline_log_sums: FloatArray
    paired: bool
    """Did the arms run at the same time? Else slots of both arms say nothing about each other."""

    @property
    def slots(self) -> int:
        """Number of slots."""
        return int(self.n.shape[2])


def build_grid(panel: Panel, only_run: int | None = None) -> FaultGrid | None:
    """Sum up the rows of a panel by endpoint, instance and slot; `None` if there are too many for one grid.

    `only_run`: only the rows of this run; `None`: of all runs, which lie upon each other.
    """
    rows = panel.rows
    first_block = find_first_blocks(panel)
    run, block = np.divmod(rows.slot_block, rows.blocks)
    since_start = block - first_block[run]  # of each block slot
    blocks = int(since_start.max()) + 1
    of_candidate = rows.instance_arm == 1
    # Number of each instance among those of its arm.
    number = np.where(of_candidate, np.cumsum(of_candidate) - 1, np.cumsum(~of_candidate) - 1)
    instances = int(of_candidate.sum()), int((~of_candidate).sum())
    endpoints = len(panel.endpoints)
    most_slots = min(MOST_SLOTS, MOST_CELLS // max(1, endpoints * max(instances)))
    if most_slots < FEWEST_SLOTS:
        return None
    blocks_per_slot = math.ceil(blocks / most_slots)
    slots = math.ceil(blocks / blocks_per_slot)
    slot = since_start[rows.slot] // blocks_per_slot
    position = (rows.endpoint * max(instances) + number[rows.instance]) * slots + slot
    first_of_candidate = int(np.searchsorted(rows.arm, 1))  # rows of the baseline come first

    is_used = 1.0 if only_run is None else (run == only_run)[rows.slot].astype(float)

    def add_up(values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Sum the values of the rows: those of the candidate, then those of the baseline."""
        values = values * is_used
        shape = (endpoints, max(instances), slots)
        candidate, baseline = (
            np.bincount(position[of_arm], values[of_arm], math.prod(shape)).astype(float).reshape(shape)
            for of_arm in (slice(first_of_candidate, None), slice(first_of_candidate))
        )
        return candidate[:, : instances[0]], baseline[:, : instances[1]]

    n, baseline_n = add_up(rows.n)
    failures, baseline_failures = add_up(rows.failures)
    log_sums, baseline_log_sums = add_up(rows.totals["log_time_ms"])
    return FaultGrid(
        endpoints=panel.endpoints,
        instances=tuple(name for name, is_candidates in zip(rows.names, of_candidate, strict=True) if is_candidates),
        slot_s=panel.bucket_s * BLOCK_BUCKETS * blocks_per_slot,
        n=n,
        failures=failures,
        log_sums=log_sums,
        baseline_n=baseline_n,
        baseline_failures=baseline_failures,
        baseline_log_sums=baseline_log_sums,
        paired=all(panel.paired.values()),
    )


def find_first_blocks(panel: Panel) -> IntArray:
    """Find the first block of each run that has data, counted as in `InstanceRows.slot_block`; shape (runs,)."""
    run, block = np.divmod(panel.rows.slot_block, panel.rows.blocks)
    first = np.zeros(int(run.max()) + 1, dtype=np.int64)
    for code in np.unique(run):
        first[code] = block[run == code].min()
    return first
