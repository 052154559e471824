"""Cells: the additive summary of all requests that everything is computed from.

Columns are numpy arrays of equal length; text is stored once in a tuple of names and referred to by integer codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluator.records.arrays import FloatArray, IntArray

BLOCK_BUCKETS = 4
"""Buckets in one block of the per-instance histogram."""

BINS_PER_DECADE = 115
"""Bins are logarithmic: bin k holds times t (µs) with k = floor(115·log10(t)); powers of ten are edges.

Below 1 µs: bin 0."""


def bin_edges_us(first: int, last: int) -> FloatArray:
    """Edges (µs) of bins `first`…`last`: shape (last - first + 2,)."""
    return np.power(10.0, np.arange(first, last + 2) / BINS_PER_DECADE)


BUCKETS_S = ((120, 1), (600, 5), (6 * 3600, 15))
LONGEST_BUCKET_S = 60
UNPLANNED_BUCKET_S = 15


def choose_bucket_s(seconds: float | None) -> int:
    """Choose the bucket of a run group from its planned (or recorded) duration; 15 s where that is not known."""
    if seconds is None:
        return UNPLANNED_BUCKET_S
    return next((bucket_s for longest, bucket_s in BUCKETS_S if seconds <= longest), LONGEST_BUCKET_S)


@dataclass(frozen=True, slots=True)
class Moments:
    """One row per run × arm × endpoint × instance × bucket. All columns have shape (rows,)."""

    run: IntArray
    arm: IntArray
    endpoint: IntArray
    instance: IntArray
    bucket: IntArray
    """Number of the bucket since the epoch: floor(ts / bucket_s)."""
    n: IntArray
    """All requests."""
    failures: IntArray
    sum_us: FloatArray
    """Σ response time of successes, µs."""
    sum_sq_us: FloatArray
    min_us: FloatArray
    max_us: FloatArray
    bytes: FloatArray
    """Σ response bytes of successes."""
    bytes_sq: FloatArray


@dataclass(frozen=True, slots=True)
class Bins:
    """Successes by run × arm × endpoint × bucket × bin (sparse), best in the order of bins: it saves a sort."""

    run: IntArray
    arm: IntArray
    endpoint: IntArray
    bucket: IntArray
    bin: IntArray
    n: IntArray


@dataclass(frozen=True, slots=True)
class InstanceBins:
    """Successes by run × arm × endpoint × instance × block × bin (sparse); block = bucket // BLOCK_BUCKETS."""

    run: IntArray
    arm: IntArray
    endpoint: IntArray
    instance: IntArray
    block: IntArray
    bin: IntArray
    n: IntArray


@dataclass(frozen=True, slots=True)
class LoadLevels:
    """Highest user count seen in each run × arm × bucket; empty where a source does not record users."""

    run: IntArray
    arm: IntArray
    bucket: IntArray
    users: IntArray


@dataclass(frozen=True, slots=True)
class FailureKinds:
    """Failures by run × arm × endpoint × status code × exception. `status` is -1 where there was none."""

    run: IntArray
    arm: IntArray
    endpoint: IntArray
    status: IntArray
    exception: tuple[str, ...]
    n: IntArray


@dataclass(frozen=True, slots=True)
class Cells:
    """Everything the judge reads of a release. Additive: cells of two parts of a run merge by addition.

    `arms[0]` is the baseline. Codes in the columns index `runs`, `arms`, `endpoints`, `instances`.
    An instance is identified by its name within its arm.
    """

    runs: tuple[str, ...]
    arms: tuple[str, ...]
    endpoints: tuple[str, ...]
    instances: tuple[str, ...]
    bucket_s: int
    grid_us: int
    """Largest step (µs) of which every recorded time is a multiple; 1 where there is none."""
    moments: Moments
    bins: Bins
    instance_bins: InstanceBins
    loads: LoadLevels
    failure_kinds: FailureKinds
