"""What was counted of each arm, bucket by bucket, and which part of it can be compared."""

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
    """What was counted by run × arm × endpoint × instance × bucket; rows of one key add up. Columns: shape (rows,).

    `arms[0]` is the baseline. Numbers are taken as they are: counters need not be whole.
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
        """Some of the rows; where that is all of them nothing is copied."""
        if keep.all():
            return self
        rows = np.flatnonzero(keep)
        columns = ("run", "arm", "endpoint", "instance", "bucket", "n", "failures")
        columns_taken = {name: getattr(self, name)[rows] for name in columns}
        return replace(self, **columns_taken, totals={name: values[rows] for name, values in self.totals.items()})


def find_usable(
    counted: Counted, candidate: str, endpoint: str | None, first_bucket: dict[int, int] | None
) -> tuple[BoolArray, dict[int, bool]] | None:
    """The rows of both arms, the endpoint and the window that are compared; and of each run, did its arms overlap?

    Of runs whose arms overlapped these are the buckets that both cover. `None` where there are none.
    """
    keep = (counted.arm == 0) | (counted.arm == counted.arms.index(candidate))
    if endpoint is not None:
        keep &= counted.endpoint == counted.endpoints.index(endpoint)
    if first_bucket:
        first = np.array([first_bucket.get(code, -(2**62)) for code in range(len(counted.runs))])
        # A block that the start of the data cuts is whole: there is nothing before it.
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
    """For each run with both arms: the first and last bucket that both cover, `None` where they did not overlap.

    They overlap if both cover at least half of the time that the shorter one covers: a canary of an hour overlaps with
    a baseline of a day. What an arm covers follows from its own rate (`_cover`).
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
    """The buckets in which an arm was there: those with requests, and as far around as it is rarely without one.

    Independent requests leave a time that holds three on average empty in one of twenty cases; clusters more often.
    """
    used = np.flatnonzero(counts)
    mean = counts.sum() / (used[-1] - used[0] + 1)
    reach = max(int(np.ceil(RARELY_EMPTY / mean)), 1)
    edges = np.zeros(counts.size + 1)
    np.add.at(edges, np.maximum(used - reach, used[0]), 1)
    np.add.at(edges, np.minimum(used + reach, used[-1]) + 1, -1)
    return np.asarray(np.cumsum(edges[:-1]) > 0)
