"""Identical releases from stored runs: one arm's cells are split into two arms (A/A).

- instances: half of the baseline's instances against the other half;
- replicates: the baselines of odd runs against those of even ones, as if they had run together;
- time: pairs of neighbouring buckets of one instance, one bucket of each pair for each arm;
- both ways: if both arms ran one version, nothing is split.

Histograms of single instances are kept by blocks only, so a split by instances has buckets as wide as a block.
"""

from __future__ import annotations

import math
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
    """Choose halves of `names` to be the candidate: each half is followed by its complement.

    Returns all halves if these are at most `most`, otherwise `most` of them drawn at random. In any case, one half and
    its complement are returned.

    >>> balanced_halves("abcd", 4, np.random.default_rng(1))[0:2]
    (('a', 'b'), ('c', 'd'))
    """
    size = len(names) // 2  # of a half; of an odd number, the complement has one more
    halves = list(combinations(sorted(names), size))
    if len(names) % 2 == 0:  # the second half of the list contains the complements of the first
        halves = halves[: len(halves) // 2]
    pairs = [(half, tuple(name for name in sorted(names) if name not in half)) for half in halves]
    if len(pairs) * 2 > most:
        chosen = sorted(random.choice(len(pairs), max(1, most // 2), replace=False))
        pairs = [pairs[index] for index in chosen]
    return tuple(half for pair in pairs for half in pair)


def split_instances(cells: Cells, candidates: Sequence[str]) -> Cells:
    """The baseline's cells, with `candidates` of its instances as the candidate and the others as the baseline.

    Both arms get the number of users of the baseline.
    """
    arm_of_instance: IntArray = np.array([name in candidates for name in cells.instances], dtype=np.int64)
    baseline = only_baseline(cells)
    bins, loads = baseline.instance_bins, baseline.loads
    loads_of_both = LoadLevels(
        run=np.tile(loads.run, 2),
        arm=np.repeat(np.array([0, 1], dtype=np.int64), loads.run.size),
        bucket=np.tile(loads.bucket, 2),
        users=np.tile(loads.users, 2),
    )
    halves = replace(
        baseline,
        arms=ARMS,
        instance_bins=replace(bins, arm=arm_of_instance[bins.instance]),
        loads=loads_of_both,
    )
    # Histograms of instances are kept by blocks. So `coarsen` makes buckets as wide as blocks, and the histograms of an
    # arm from those of its instances.
    wide = _add_up_all(coarsen(halves))
    return replace(wide, moments=replace(wide.moments, arm=arm_of_instance[wide.moments.instance]))


def both_ways(cells: Cells) -> tuple[Cells, Cells]:
    """Baseline and first candidate as they ran, and exchanged."""
    pair = replace(where(cells, arm=[0, 1]), arms=ARMS, failure_kinds=NO_FAILURES)
    return pair, recode(pair, arm=np.array([1, 0]))


def split_time(cells: Cells, random: np.random.Generator) -> Cells:
    """Split the baseline's buckets in pairs of neighbours: one of each pair to each arm, at random.

    A pair becomes one bucket of twice the width. Each arm becomes one instance, however many there were: this shows the
    false alarms that time alone causes.
    """
    baseline = only_baseline(cells)
    rows, bins, loads = baseline.moments, baseline.bins, baseline.loads
    # Buckets 2k and 2k + 1 are the pair k.
    first_pair = int(rows.bucket.min()) // 2 if rows.bucket.size else 0
    last_pair = int(rows.bucket.max()) // 2 if rows.bucket.size else 0
    is_exchanged = random.integers(0, 2, last_pair - first_pair + 1)  # of each pair: 0 or 1

    def find_arm(bucket: IntArray) -> IntArray:
        """Return the arm of each bucket: 0 for even and 1 for odd buckets, or the reverse if the pair is exchanged."""
        return np.asarray((bucket + is_exchanged[bucket // 2 - first_pair]) % 2, dtype=np.int64)

    arm_of_bins, pair_of_bins = find_arm(bins.bucket), bins.bucket // 2
    split = replace(
        baseline,
        arms=ARMS,
        instances=ARMS,
        bucket_s=2 * cells.bucket_s,
        moments=replace(rows, arm=find_arm(rows.bucket), instance=find_arm(rows.bucket), bucket=rows.bucket // 2),
        bins=replace(bins, arm=arm_of_bins, bucket=pair_of_bins),
        # Each arm is one instance, so the histograms of the instance are those of the arm.
        instance_bins=InstanceBins(
            run=bins.run,
            arm=arm_of_bins,
            endpoint=bins.endpoint,
            instance=arm_of_bins,
            block=pair_of_bins // BLOCK_BUCKETS,
            bin=bins.bin,
            n=bins.n,
        ),
        loads=replace(loads, arm=find_arm(loads.bucket), bucket=loads.bucket // 2),
    )
    return _add_up_all(split)


def pair_runs(runs: Sequence[tuple[Cells, Cells]], *, together: bool) -> Cells:
    """Compare baselines of past runs: each pair of `runs` becomes a run, whose candidate is the second of the pair.

    `together`: both begin at the same time, as if they had run together; else one comes after the other. All cells
    must have the same bucket width.
    """
    moved_arms = []
    for run, pair in enumerate(runs):
        baseline, candidate = (only_baseline(cells) for cells in pair)
        buckets = baseline.moments.bucket
        length = int(buckets.max() - buckets.min()) + 1  # in buckets
        # After the baseline, at a border of blocks: rounded up to a multiple of ALIGNED buckets.
        start_of_candidate = 0 if together else math.ceil(length / ALIGNED) * ALIGNED
        moved_arms.append(_move(baseline, arm=0, run=run, offset=0))
        moved_arms.append(_move(candidate, arm=1, run=run, offset=start_of_candidate))
    return join(moved_arms)


def _move(cells: Cells, arm: int, run: int, offset: int) -> Cells:
    """Make a baseline the arm `arm` of run `run` (codes), and move it in time: its first block begins at `offset`.

    `offset` is a bucket at the border of a block. Instances get names of their own in each run and arm.
    """
    blocks_back = int(cells.moments.bucket.min()) // BLOCK_BUCKETS - offset // BLOCK_BUCKETS
    buckets_back = blocks_back * BLOCK_BUCKETS
    # Whatever the codes of run and arm were, they become `run` and `arm`.
    moved = recode(cells, run=np.full(len(cells.runs), run), arm=np.full(len(cells.arms), arm))
    return replace(
        moved,
        runs=tuple(f"pair-{number}" for number in range(run + 1)),
        arms=ARMS,
        instances=tuple(f"{name}#{run}.{arm}" for name in cells.instances),
        moments=replace(moved.moments, bucket=cells.moments.bucket - buckets_back),
        bins=replace(moved.bins, bucket=cells.bins.bucket - buckets_back),
        instance_bins=replace(moved.instance_bins, block=cells.instance_bins.block - blocks_back),
        loads=replace(moved.loads, bucket=cells.loads.bucket - buckets_back),
    )


def _add_up_all(cells: Cells) -> Cells:
    """Add up the rows of each table that have equal keys."""
    tables: dict[str, Any] = {table: add_up(getattr(cells, table)) for table in COUNTS}
    return replace(cells, **tables)
