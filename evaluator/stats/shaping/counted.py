"""What is counted for each arm, bucket by bucket, and which part of it can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from evaluator.records import BLOCK_BUCKETS
from evaluator.records.arrays import BoolArray, FloatArray, IntArray
from evaluator.stats.shaping.index import BEFORE_ALL, rows_of_each

MIN_OVERLAP = 0.5
"""Arms overlap if they share at least this part of the time that the shorter arm covers."""
RARELY_EMPTY = 3.0
"""Expected requests of an interval that is rarely empty: in 5 % of cases (exp(-3)) if requests are independent."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Counts by run × arm × endpoint × instance × bucket; rows of equal keys are added. Columns have shape (rows,).

    `arms[0]` is the baseline. Numbers need not be integers: increases of counters are not.
    """

    runs: tuple[str, ...]
    arms: tuple[str, ...]
    endpoints: tuple[str, ...]
    instances: tuple[str, ...]
    bucket_s: int
    run: IntArray
    arm: IntArray
    endpoint: IntArray
    instance: IntArray
    bucket: IntArray
    n: FloatArray | IntArray
    failures: FloatArray | IntArray
    totals: Mapping[str, FloatArray | IntArray]

    def take(self, keep: BoolArray) -> Counted:
        """Return the rows where `keep` (rows,) is true; the same object if `keep` is true everywhere."""
        if keep.all():
            return self
        rows = np.flatnonzero(keep)
        columns = ("run", "arm", "endpoint", "instance", "bucket", "n", "failures")
        columns_taken = {name: getattr(self, name)[rows] for name in columns}
        return replace(self, **columns_taken, totals={name: values[rows] for name, values in self.totals.items()})


def find_usable(
    counted: Counted, candidate: str, endpoint: str | None, first_bucket: dict[int, int] | None
) -> tuple[BoolArray, dict[int, bool]] | None:
    """Find the rows of baseline and `candidate` that can be compared.

    Args:
        counted: What is counted.
        candidate: Name of the candidate arm.
        endpoint: Only this endpoint; `None`: all.
        first_bucket: Run code → first bucket to use; `None`: all buckets.

    Returns:
        Which rows are usable, shape (rows,), and: run code → did its arms overlap in time? If they did, only buckets
        from the later start to the earlier end of both arms are usable. Runs with one arm only are not usable. `None`
        if no row is usable.
    """
    keep = (counted.arm == 0) | (counted.arm == counted.arms.index(candidate))
    if endpoint is not None:
        keep &= counted.endpoint == counted.endpoints.index(endpoint)
    if first_bucket:
        first_by_run = np.array([first_bucket.get(run, BEFORE_ALL) for run in range(len(counted.runs))])
        # Whole blocks are used. If the data begin within a block, it counts as whole: there are no data before it.
        keep &= counted.bucket >= (first_by_run // BLOCK_BUCKETS * BLOCK_BUCKETS)[counted.run]
    of_both_arms = counted.take(keep)
    shared_buckets = _find_shared_buckets(of_both_arms)
    usable = np.zeros(of_both_arms.run.size, dtype=bool)
    for run, ends in shared_buckets.items():
        usable_of_run = of_both_arms.run == run
        if ends is not None:  # the arms overlapped; else all rows of the run are usable
            first_shared, last_shared = ends
            usable_of_run &= (of_both_arms.bucket >= first_shared) & (of_both_arms.bucket <= last_shared)
        usable |= usable_of_run
    if not usable.any():
        return None
    keep[keep] = usable  # `usable` is about the kept rows only
    return keep, {run: ends is not None for run, ends in shared_buckets.items()}


def _find_shared_buckets(counted: Counted) -> dict[int, tuple[int, int] | None]:
    """Find the first and the last bucket that both arms of each run cover: run → (first, last).

    Runs with only one arm are missing. The value is `None` if the arms did not overlap in time. They overlap if the
    time that both cover is at least half of the time that the shorter arm covers: a canary of an hour overlaps with a
    baseline of a day. `_find_covered` decides from an arm's rate which buckets it covers.
    """
    shared: dict[int, tuple[int, int] | None] = {}
    for run, rows in rows_of_each(counted.run):
        bucket, is_candidate, n = counted.bucket[rows], counted.arm[rows] != 0, counted.n[rows]
        first, last = int(bucket.min()), int(bucket.max())
        # Counts of each bucket and arm, shape (buckets, 2), from one number for each pair of bucket and arm: even for
        # the baseline, odd for the candidate.
        bucket_and_arm = 2 * (bucket - first)
        bucket_and_arm += is_candidate
        counts = np.bincount(bucket_and_arm, weights=n, minlength=2 * (last - first + 1)).reshape(-1, 2)
        if not counts.sum(axis=0).all():
            continue  # an arm has no requests
        covered = np.stack([_find_covered(np.asarray(arm_counts, float)) for arm_counts in counts.T])
        covered_by_both = int(covered.all(axis=0).sum())
        covered_by_shorter = int(covered.sum(axis=1).min())
        buckets_with_requests = [first + np.flatnonzero(arm_counts) for arm_counts in counts.T]
        later_start = max(int(buckets[0]) for buckets in buckets_with_requests)
        earlier_end = min(int(buckets[-1]) for buckets in buckets_with_requests)
        overlap = covered_by_both >= MIN_OVERLAP * covered_by_shorter and later_start <= earlier_end
        shared[run] = (later_start, earlier_end) if overlap else None
    return shared


def _find_covered(counts: FloatArray) -> BoolArray:
    """Find the buckets that an arm covers, from its requests in each bucket; both have the shape (buckets,).

    `counts` has at least one request. A bucket is covered if it has requests, or if a bucket with requests is so near
    that fewer than about `RARELY_EMPTY` requests were to be expected in between: so few empty buckets are no sign that
    the arm paused. Requests that come in clusters leave more buckets empty, so these may look like a pause. Nothing
    before the first or after the last request is covered.
    """
    occupied = np.flatnonzero(counts)  # indices of the buckets with requests
    requests_per_bucket = counts.sum() / (occupied[-1] - occupied[0] + 1)
    reach = max(int(np.ceil(RARELY_EMPTY / requests_per_bucket)), 1)  # in buckets
    # Each bucket with requests covers an interval: add 1 where it begins and -1 after its end, and sum up.
    changes = np.zeros(counts.size + 1)
    np.add.at(changes, np.maximum(occupied - reach, occupied[0]), 1)
    np.add.at(changes, np.minimum(occupied + reach, occupied[-1]) + 1, -1)
    return np.asarray(np.cumsum(changes[:-1]) > 0)
