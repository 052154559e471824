"""What is counted for each arm, bucket by bucket, and which part of it can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from evaluator.records import BLOCK_BUCKETS
from evaluator.records.arrays import BoolArray, FloatArray, IntArray
from evaluator.stats.shaping.index import rows_of_each

MIN_OVERLAP = 0.5
RARELY_EMPTY = 3.0


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
    totals: Mapping[str, FloatArray]

    def take(self, keep: BoolArray) -> Counted:
        """Return the rows where `keep` (rows,) is true; if all are, the same object."""
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
        Which rows are usable, shape (rows,), and run code → did its arms overlap in time? If they did, only buckets
        from the later start to the earlier end of both arms are usable. `None` if no row is usable.
    """
    keep = (counted.arm == 0) | (counted.arm == counted.arms.index(candidate))
    if endpoint is not None:
        keep &= counted.endpoint == counted.endpoints.index(endpoint)
    if first_bucket:
        first = np.array([first_bucket.get(code, -(2**62)) for code in range(len(counted.runs))])
        # A block that the start of the data cuts counts as whole: no data come before it.
        keep &= counted.bucket >= (first // BLOCK_BUCKETS * BLOCK_BUCKETS)[counted.run]
    chosen = counted.take(keep)
    shared = _find_shared(chosen)
    usable = np.zeros(chosen.run.size, dtype=bool)
    for run, ends in shared.items():
        usable_of_run = chosen.run == run
        if ends is not None:
            usable_of_run &= (chosen.bucket >= ends[0]) & (chosen.bucket <= ends[1])
        usable |= usable_of_run
    if not usable.any():
        return None
    keep[keep] = usable
    return keep, {run: ends is not None for run, ends in shared.items()}


def _find_shared(counted: Counted) -> dict[int, tuple[int, int] | None]:
    """For each run with both arms: the first and last bucket that both cover; `None` if they did not overlap.

    They overlap if the time that both cover is at least half of the time that the shorter arm covers: a canary of an
    hour overlaps with a baseline of a day. `_cover` decides from an arm's rate what the arm covers.
    """
    out: dict[int, tuple[int, int] | None] = {}
    for run, rows in rows_of_each(counted.run):
        bucket, candidate, n = counted.bucket[rows], counted.arm[rows] != 0, counted.n[rows]
        first, last = int(bucket.min()), int(bucket.max())
        position = 2 * (bucket - first)
        position += candidate
        counts = np.bincount(position, weights=n, minlength=2 * (last - first + 1)).reshape(-1, 2)
        if not counts.sum(axis=0).all():
            continue
        covered = np.stack([_cover(np.asarray(count, float)) for count in counts.T])
        together = int(covered.all(axis=0).sum())
        used = [first + np.flatnonzero(count) for count in counts.T]
        ends = max(int(at[0]) for at in used), min(int(at[-1]) for at in used)
        overlap = together >= MIN_OVERLAP * int(covered.sum(axis=1).min()) and ends[0] <= ends[1]
        out[run] = ends if overlap else None
    return out


def _cover(counts: FloatArray) -> BoolArray:
    """The buckets that an arm covers: those with requests, and those around them in which 3 requests are expected.

    An interval with 3 expected requests is empty in one of twenty cases if requests are independent; clusters leave it
    empty more often.
    """
    used = np.flatnonzero(counts)
    mean = counts.sum() / (used[-1] - used[0] + 1)
    reach = max(int(np.ceil(RARELY_EMPTY / mean)), 1)
    edges = np.zeros(counts.size + 1)
    np.add.at(edges, np.maximum(used - reach, used[0]), 1)
    np.add.at(edges, np.minimum(used + reach, used[-1]) + 1, -1)
    return np.asarray(np.cumsum(edges[:-1]) > 0)
