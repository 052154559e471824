"""Cells: the additive summary of all requests, from which everything is computed.

Columns are numpy arrays of equal length. Each text is stored once, in a tuple of names that integer codes index.
"""

from __future__ import annotations

from dataclasses import dataclass

from evaluator.records.arrays import FloatArray, IntArray

BLOCK_BUCKETS = 4
"""Buckets in one block of the per-instance histogram."""

BINS_PER_DECADE = 115
"""Bins are logarithmic: bin k holds times t (in the unit of the cells) with k = floor(115·log10(t)).

Powers of ten are edges, so the same time in a unit that is a thousand times finer is exactly 345 bins higher. Times
below one unit are in bin 0.
"""

MICROSECONDS, NANOSECONDS = 1000, 1_000_000
"""Units of the times in cells, as the number of units in a millisecond.

Cells of most runs are in microseconds. Milliseconds would gain nothing: sums of microseconds are as small to store, and
nearly always fit into 64 bits.
"""


def find_bin_edges(first: int, last: int) -> FloatArray:
    """Return the edges of bins `first`…`last` in the unit of the cells, shape (last - first + 2,)."""
    import numpy as np  # small processes do without it

    return np.power(10.0, np.arange(first, last + 2) / BINS_PER_DECADE)


BUCKETS_S = ((120, 1), (600, 5), (6 * 3600, 15))
LONGEST_BUCKET_S = 60
UNPLANNED_BUCKET_S = 15


def choose_bucket_s(seconds: float | None) -> int:
    """Choose the bucket (s) of a run group from its planned (or recorded) duration; 15 s where that is unknown."""
    if seconds is None:
        return UNPLANNED_BUCKET_S
    return next((bucket_s for longest, bucket_s in BUCKETS_S if seconds <= longest), LONGEST_BUCKET_S)


@dataclass(frozen=True, slots=True)
class Moments:
    """Counts and sums, one row per run × arm × endpoint × instance × bucket. All columns have shape (rows,).

    Times are whole numbers of the unit of the cells (`Cells.units_per_ms`).
    """

    run: IntArray
    arm: IntArray
    endpoint: IntArray
    instance: IntArray
    bucket: IntArray
    """Number of the bucket since the epoch: floor(ts / bucket_s)."""
    n: IntArray
    """All requests, failures included."""
    failures: IntArray
    sum_time: FloatArray
    """Σ response time of successes."""
    sum_sq_time: FloatArray
    """Σ of the squared response times of successes."""
    min_time: FloatArray
    """Shortest response time of a success; NaN without successes."""
    max_time: FloatArray
    """Longest response time of a success; NaN without successes."""
    bytes: FloatArray
    """Σ response bytes of successes."""
    bytes_sq: FloatArray
    """Σ of their squares."""
    statuses: IntArray
    """Successes whose HTTP status is known."""
    redirects: IntArray
    """Those with a status of 300 to 399."""
    client_errors: IntArray
    """Those with a status of 400 to 499, which the source does not count as failed."""


@dataclass(frozen=True, slots=True)
class Bins:
    """Successes by run × arm × endpoint × bucket × bin; bins without any have no row.

    Rows that are already ordered by bin save a sort.
    """

    run: IntArray
    arm: IntArray
    endpoint: IntArray
    bucket: IntArray
    bin: IntArray
    n: IntArray


@dataclass(frozen=True, slots=True)
class InstanceBins:
    """Successes by run × arm × endpoint × instance × block × bin; bins without any have no row."""

    run: IntArray
    arm: IntArray
    endpoint: IntArray
    instance: IntArray
    block: IntArray
    """bucket // BLOCK_BUCKETS."""
    bin: IntArray
    n: IntArray


@dataclass(frozen=True, slots=True)
class LoadLevels:
    """Highest user count seen in each run × arm × bucket; empty where a source does not record users."""

    run: IntArray
    arm: IntArray
    bucket: IntArray
    users: IntArray


NO_RESPONSE, OTHER_KINDS = -1, -2
"""Values of `FailureKinds.status` that are no HTTP status."""


@dataclass(frozen=True, slots=True)
class FailureKinds:
    """Failures by run × arm × endpoint × instance × status code × exception.

    `status` is `NO_RESPONSE` where no response came. The rarest kinds of a place are counted together, with the status
    `OTHER_KINDS` and no exception.
    """

    run: IntArray
    arm: IntArray
    endpoint: IntArray
    instance: IntArray
    """-1 where it was not recorded: in stores of an older evaluator."""
    status: IntArray
    exception: tuple[str, ...]
    n: IntArray


@dataclass(frozen=True, slots=True)
class Cells:
    """All that the judge reads about the requests of a release. Cells of two parts of a run merge by addition.

    `arms[0]` is the baseline. Codes in the columns index `runs`, `arms`, `endpoints` and `instances`. The name of an
    instance is unique within its arm only.
    """

    runs: tuple[str, ...]
    arms: tuple[str, ...]
    endpoints: tuple[str, ...]
    instances: tuple[str, ...]
    bucket_s: int
    units_per_ms: int
    """Unit of all times in the cells, as the number of units in a millisecond: `MICROSECONDS` or `NANOSECONDS`."""
    grid: int
    """Largest step, in units, of which every recorded time is a multiple."""
    moments: Moments
    bins: Bins
    instance_bins: InstanceBins
    loads: LoadLevels
    failure_kinds: FailureKinds
    coarsest_unit: int = 1
    """Unit, in units of these cells, in which the coarsest run is kept: its times were rounded to multiples of it.

    1 if the store keeps all runs in the same unit; 1000 if some are in microseconds and others in nanoseconds.
    """
