"""Which part of each run is judged: from the time the load is level.

Warm-up ends when the user count reaches its plateau, rounded up to whole blocks so that the variances over time and
between instances use the same data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluator.records import BLOCK_BUCKETS, Cells
from evaluator.stats.shaping.index import rows_of_each

LEVEL_SHARE = 0.95
LATEST_SHARE = 1 / 3


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The warm-up of each run. Runs are given by their codes."""

    first_bucket: dict[int, int]
    """Run → first bucket to use."""
    cut_s: dict[int, int]
    """Run → seconds cut from its start."""
    never_level: tuple[int, ...] = ()
    """Runs whose user count was not level after a third of the run: nothing was cut from them."""
    unknown: tuple[int, ...] = ()
    """Runs without recorded user counts: nothing was cut from them."""


def find_warm_up(cells: Cells, fixed_s: float | None) -> WarmUp:
    """Find the warm-up of each run: `fixed_s` seconds, or (`None`) the time until its user count is level."""
    first: dict[int, int] = {}
    cut: dict[int, int] = {}
    never, unknown = [], []
    for run, rows in rows_of_each(cells.moments.run):
        buckets = cells.moments.bucket[rows]
        begin, end = int(buckets.min()), int(buckets.max())
        if fixed_s is not None:
            level: int | None = begin + int(np.ceil(fixed_s / cells.bucket_s))
        else:
            level = _plateau(cells, run)
            if level is None:
                unknown.append(run)
            elif level - begin > (end - begin + 1) * LATEST_SHARE:
                never.append(run)
                level = None
        if level is None or level <= begin:
            first[run], cut[run] = begin, 0
            continue
        first[run] = -(-level // BLOCK_BUCKETS) * BLOCK_BUCKETS
        cut[run] = (first[run] - begin) * cells.bucket_s
    return WarmUp(first, cut, tuple(never), tuple(unknown))


def _plateau(cells: Cells, run: int) -> int | None:
    """First bucket after all arms together have (nearly) reached their highest user count; `None` without counts."""
    of_run = cells.loads.run == run
    if not of_run.any():
        return None
    buckets, slot = np.unique(cells.loads.bucket[of_run], return_inverse=True)
    # An arm without a request in a bucket still has the users of the bucket before.
    arms = np.unique(cells.loads.arm[of_run])
    users = np.zeros((arms.size, buckets.size))
    users[np.searchsorted(arms, cells.loads.arm[of_run]), slot] = cells.loads.users[of_run]
    total = np.maximum.accumulate(users, axis=1).sum(axis=0)
    level = np.flatnonzero(total >= LEVEL_SHARE * total.max())
    # The bucket in which the plateau is reached also has requests from before.
    return int(buckets[level[0]]) + (1 if level[0] > 0 else 0)
