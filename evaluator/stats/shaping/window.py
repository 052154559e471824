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
    """Find the warm-up of each run: `fixed_s` seconds, or (`None`) the time until its user count is level.

    Nothing is cut if the user count is not known, or was not level after a third of the run.
    """
    first_bucket: dict[int, int] = {}  # run → first bucket after the warm-up
    cut_s: dict[int, int] = {}  # run → length of the warm-up
    never_level, unknown = [], []  # runs of which nothing is cut, by reason
    for run, rows in rows_of_each(cells.moments.run):
        buckets = cells.moments.bucket[rows]
        first, last = int(buckets.min()), int(buckets.max())
        # `level_bucket`: the bucket from which the load is level; `None` if there is none.
        if fixed_s is not None:
            level_bucket: int | None = first + int(np.ceil(fixed_s / cells.bucket_s))
        else:
            level_bucket = _find_plateau(cells, run)
            if level_bucket is None:
                unknown.append(run)
            elif level_bucket - first > (last - first + 1) * LATEST_SHARE:
                never_level.append(run)
                level_bucket = None
        if level_bucket is None or level_bucket <= first:
            first_bucket[run], cut_s[run] = first, 0
            continue
        # Rounded up to a whole block: instances are counted by block, and all variances must use the same data.
        first_bucket[run] = math.ceil(level_bucket / BLOCK_BUCKETS) * BLOCK_BUCKETS
        cut_s[run] = (first_bucket[run] - first) * cells.bucket_s
    return WarmUp(first_bucket, cut_s, tuple(never_level), tuple(unknown))


def _find_plateau(cells: Cells, run: int) -> int | None:
    """Find the first whole bucket in which a run has nearly all of the users, of all arms, that it ever has.

    `None` if no user counts were recorded.
    """
    of_run = cells.loads.run == run
    if not of_run.any():
        return None
    # `column` is the position of each row's bucket in `buckets`.
    buckets, column = np.unique(cells.loads.bucket[of_run], return_inverse=True)
    arms = np.unique(cells.loads.arm[of_run])
    users = np.zeros((arms.size, buckets.size))
    users[np.searchsorted(arms, cells.loads.arm[of_run]), column] = cells.loads.users[of_run]
    # An arm without a request in a bucket has no count there (0), but still the users of the bucket before: while users
    # only increase, the largest count so far.
    total = np.maximum.accumulate(users, axis=1).sum(axis=0)
    first_level = int(np.flatnonzero(total >= LEVEL_SHARE * total.max())[0])
    # The bucket in which the plateau is reached also has requests from before, so the next one is returned. Only the
    # first bucket of the run has none.
    return int(buckets[first_level]) + (1 if first_level > 0 else 0)
