"""Which part of each run is judged: from the time the load is level.

Warm-up ends when the user count reaches its plateau, rounded up to whole blocks so that the variances over time and
between instances use the same data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evaluator.records import BLOCK_BUCKETS, Cells
from evaluator.stats.shaping.index import rows_of_each

LEVEL_SHARE = 0.95
"""The user count is level from this share of its maximum."""
LATEST_SHARE = 1 / 3
"""If a larger share of a run has passed before its user count is level, no warm-up is cut."""


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
    first_bucket: dict[int, int] = {}
    cut_s: dict[int, int] = {}
    never_level, unknown = [], []
    for run, rows in rows_of_each(cells.moments.run):
        buckets = cells.moments.bucket[rows]
        begin, end = int(buckets.min()), int(buckets.max())
        if fixed_s is not None:
            level_bucket: int | None = begin + int(np.ceil(fixed_s / cells.bucket_s))
        else:
            level_bucket = _find_plateau(cells, run)
            if level_bucket is None:
                unknown.append(run)
            elif level_bucket - begin > (end - begin + 1) * LATEST_SHARE:
                never_level.append(run)
                level_bucket = None
        if level_bucket is None or level_bucket <= begin:
            first_bucket[run], cut_s[run] = begin, 0
            continue
        first_bucket[run] = math.ceil(level_bucket / BLOCK_BUCKETS) * BLOCK_BUCKETS
        cut_s[run] = (first_bucket[run] - begin) * cells.bucket_s
    return WarmUp(first_bucket, cut_s, tuple(never_level), tuple(unknown))


def _find_plateau(cells: Cells, run: int) -> int | None:
    """Find the first bucket in which the user count of a run, over all arms, is level from beginning to end.

    `None` if no user counts were recorded.
    """
    of_run = cells.loads.run == run
    if not of_run.any():
        return None
    buckets, slot = np.unique(cells.loads.bucket[of_run], return_inverse=True)
    arms = np.unique(cells.loads.arm[of_run])
    users = np.zeros((arms.size, buckets.size))
    users[np.searchsorted(arms, cells.loads.arm[of_run]), slot] = cells.loads.users[of_run]
    # An arm without a request in a bucket has no count there, but still the users of the bucket before.
    total = np.maximum.accumulate(users, axis=1).sum(axis=0)
    first_level = int(np.flatnonzero(total >= LEVEL_SHARE * total.max())[0])
    # The bucket in which the plateau is reached also has requests from before; only the first bucket has none.
    return int(buckets[first_level]) + (1 if first_level > 0 else 0)
