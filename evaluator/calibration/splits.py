"""Identical releases from stored runs: one arm's cells are split into two arms (A/A).

- instances: half of the baseline's instances against the other half;
- replicates: the baselines of odd runs against those of even ones, as if they had run together;
- time: pairs of neighbouring buckets of one instance, one bucket of each pair for each arm;
- both ways: if both arms ran one version, nothing is split.

Histograms of single instances are kept by blocks only, so a split by instances has buckets as wide as a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from evaluator.records import BASELINE, BLOCK_BUCKETS, CANDIDATE, Cells, InstanceBins, LoadLevels
from evaluator.records.arrays import IntArray
from evaluator.stats.shaping.cells import COUNTS, NO_FAILURES, add_up, coarsen, join, recode, where

ARMS = (BASELINE, CANDIDATE)
ALIGNED = 1024
"""Runs are moved by multiples of this many buckets, so that blocks of any width stay aligned."""


def only_baseline(cells: Cells) -> Cells:
    """The cells of the baseline arm."""
    return replace(where(cells, arm=[0]), arms=cells.arms[:1], failure_kinds=NO_FAILURES)


def only_runs(cells: Cells, run: int) -> Cells:
    """The cells of the run with this code; it keeps the code."""
    return replace(where(cells, run=[run]), failure_kinds=NO_FAILURES)


def balanced_halves(names: Sequence[str], most: int, random: np.random.Generator) -> tuple[tuple[str, ...], ...]:
    """Halves of `names` to be the candidate, each followed by its complement; at most `most`, drawn at random.

    >>> balanced_halves("abcd", 4, np.random.default_rng(1))[0:2]
    (('a', 'b'), ('c', 'd'))
    """
    size = len(names) // 2
    chosen = list(combinations(sorted(names), size))
    if len(names) % 2 == 0:
        chosen = chosen[: len(chosen) // 2]
    pairs = [(half, tuple(name for name in sorted(names) if name not in half)) for half in chosen]
    if len(pairs) * 2 > most:
        keep = sorted(random.choice(len(pairs), max(1, most // 2), replace=False))
        pairs = [pairs[k] for k in keep]
    return tuple(half for pair in pairs for half in pair)


def split_instances(cells: Cells, candidates: Sequence[str]) -> Cells:
    """The baseline's cells, with `candidates` of its instances as the candidate and the others as the baseline."""
    arm_of: IntArray = np.array([name in candidates for name in cells.instances], dtype=np.int64)
    baseline = only_baseline(cells)
    bins, loads = baseline.instance_bins, baseline.loads
    arms = np.repeat(np.array([0, 1], dtype=np.int64), loads.run.size)
    halves = replace(
        baseline,
        arms=ARMS,
        instance_bins=replace(bins, arm=arm_of[bins.instance]),
        loads=LoadLevels(np.tile(loads.run, 2), arms, np.tile(loads.bucket, 2), np.tile(loads.users, 2)),
    )
    wide = _add_up_all(coarsen(halves))
    return replace(wide, moments=replace(wide.moments, arm=arm_of[wide.moments.instance]))


def both_ways(cells: Cells) -> tuple[Cells, Cells]:
    """Baseline and first candidate as they ran, and exchanged."""
    pair = replace(where(cells, arm=[0, 1]), arms=ARMS, failure_kinds=NO_FAILURES)
    return pair, recode(pair, arm=np.array([1, 0]))


def split_time(cells: Cells, random: np.random.Generator) -> Cells:
    """The baseline's buckets in pairs of neighbours: one of each pair to each arm, at random.

    Each arm becomes one instance, however many there were: this shows the false alarms that time alone causes.
    """
    baseline = only_baseline(cells)
    rows, bins, loads = baseline.moments, baseline.bins, baseline.loads
    first = int(rows.bucket.min()) // 2 if rows.bucket.size else 0
    last = int(rows.bucket.max()) // 2 if rows.bucket.size else 0
    coin = random.integers(0, 2, last - first + 1)

    def arm_of(bucket: IntArray) -> IntArray:
        return np.asarray((bucket + coin[bucket // 2 - first]) % 2, dtype=np.int64)

    arm, half = arm_of(bins.bucket), bins.bucket // 2
    dealt = replace(
        baseline,
        arms=ARMS,
        instances=ARMS,
        bucket_s=2 * cells.bucket_s,
        moments=replace(rows, arm=arm_of(rows.bucket), instance=arm_of(rows.bucket), bucket=rows.bucket // 2),
        bins=replace(bins, arm=arm, bucket=half),
        instance_bins=InstanceBins(bins.run, arm, bins.endpoint, arm, half // BLOCK_BUCKETS, bins.bin, bins.n),
        loads=replace(loads, arm=arm_of(loads.bucket), bucket=loads.bucket // 2),
    )
    return _add_up_all(dealt)


def pair_runs(runs: Sequence[tuple[Cells, Cells]], *, together: bool) -> Cells:
    """Baselines of past runs against each other: each pair becomes a run, whose candidate is the second of the pair.

    `together`: both begin at the same time, as if they had run together; else one comes after the other. All cells
    must have the same bucket width.
    """
    arms = []
    for run, pair in enumerate(runs):
        baselines = [only_baseline(cells) for cells in pair]
        length = int(baselines[0].moments.bucket.max() - baselines[0].moments.bucket.min()) + 1
        offset = 0 if together else -(-length // ALIGNED) * ALIGNED
        arms += [_move(cells, arm, run, offset * arm) for arm, cells in enumerate(baselines)]
    return join(arms)


def _move(cells: Cells, arm: int, run: int, offset: int) -> Cells:
    """One baseline as arm `arm` of run `run`, its first block at `offset`."""
    first = int(cells.moments.bucket.min()) // BLOCK_BUCKETS - offset // BLOCK_BUCKETS
    start = first * BLOCK_BUCKETS
    moved = recode(cells, run=np.full(len(cells.runs), run), arm=np.full(len(cells.arms), arm))
    return replace(
        moved,
        runs=tuple(f"pair-{k}" for k in range(run + 1)),
        arms=ARMS,
        instances=tuple(f"{name}#{run}.{arm}" for name in cells.instances),
        moments=replace(moved.moments, bucket=cells.moments.bucket - start),
        bins=replace(moved.bins, bucket=cells.bins.bucket - start),
        instance_bins=replace(moved.instance_bins, block=cells.instance_bins.block - first),
        loads=replace(moved.loads, bucket=cells.loads.bucket - start),
    )


def _add_up_all(cells: Cells) -> Cells:
    tables: dict[str, Any] = {table: add_up(getattr(cells, table)) for table in COUNTS}
    return replace(cells, **tables)
