"""Silence: times without a request in which requests were expected (method B.8).

A series (an arm, or one of its endpoints or instances) is compared with a reference: the other arm, the same endpoint
of the other arm, the other instances of the arm, or time itself while users run. If the series continued as the
reference did, the probability that none of its requests falls into a gap is hypergeometric (Fisher's exact test of the
table series/reference × outside/inside). Minus its logarithm is the evidence for silence. Requests come in clusters, so
counts are divided by the size of a cluster. A gap that the pace of users explains is not silence: it must be longer
than twice the usual gap of the series and of its reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from evaluator.records.arrays import BoolArray, FloatArray, IntArray

SURE = -math.log(1e-5)
"""Evidence from which a gap is not chance. All gaps of a series are tested, so the level is strict."""
USUAL = 0.9
"""Quantile of the gaps after buckets with requests that is the usual gap."""
LEAST_INSIDE = 3.0
"""With fewer requests of the reference, a gap has no evidence; this saves time for rare series with many small gaps."""
MOSTLY = 0.5
FEWEST_WINDOWS = 7
LONGEST_PACE = 24
"""Largest number of buckets in a window."""
PACED = 0.1
"""Users keep a pace if less than this share of the variance remains in windows of its width."""
SERIES_AT_A_TIME = 2_000


@dataclass(frozen=True, slots=True)
class Gap:
    """An interval of empty buckets, from `start` to before `end`, counted from the start of the run."""

    start: int
    end: int
    expected: float
    """Requests expected in the gap."""
    at_end: bool
    """Does it reach to the end of the run?"""

    @property
    def buckets(self) -> int:
        """Length in buckets."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Silence:
    """The gaps of one series that neither chance nor pacing explains."""

    series: int
    gaps: tuple[Gap, ...]

    @property
    def buckets(self) -> int:
        """Length of all gaps together, in buckets."""
        return sum(gap.buckets for gap in self.gaps)

    @property
    def end(self) -> Gap | None:
        """The gap at the end of the run, if there is one."""
        return next((gap for gap in self.gaps if gap.at_end), None)

    @property
    def longest(self) -> Gap:
        """The longest gap."""
        return max(self.gaps, key=lambda gap: gap.buckets)


def find_silence(
    counts: FloatArray, reference: FloatArray, *, paced_alike: bool = True, one_hole: bool = False
) -> list[Silence]:
    """Find the silences of each series, in the order of the series; series without silence are left out.

    Args:
        counts: Requests of each series in each bucket of the run, shape (series, buckets).
        reference: Requests of the reference of each series, same shape; a constant means time itself.
        paced_alike: Whether the reference has the same pace as the series; then a gap counts as usual only if it is in
            both. Otherwise the usual gap of the series alone counts.
        one_hole: Whether the longest gap of a series is ignored when its clusters are measured (`measure_clusters`).

    >>> dead = np.array([[9.0, 8, 10, 9, 11, 9, 0, 0, 0, 0]])
    >>> find_silence(dead, np.full((1, 10), 9.0))[0].gaps
    (Gap(start=6, end=10, expected=37.33, at_end=True),)
    """
    if len(counts) > SERIES_AT_A_TIME:
        parts = (slice(first, first + SERIES_AT_A_TIME) for first in range(0, len(counts), SERIES_AT_A_TIME))
        return [
            replace(silence, series=part.start + silence.series)
            for part in parts
            for silence in find_silence(counts[part], reference[part], paced_alike=paced_alike, one_hole=one_hole)
        ]
    buckets = counts.shape[1]
    series, start, end = _gaps(counts > 0)
    if not series.size:
        return []
    passed = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(reference, axis=1)], axis=1)
    inside = passed[series, end] - passed[series, start]
    reference_total = passed[:, -1]
    total = counts.sum(axis=1)
    clusters, pace = measure_clusters(reference if paced_alike else counts, one_hole=one_hole)
    evidence = _evidence_of_none(inside, total[series], reference_total[series], clusters[series])
    usual = _usual_gap(counts > 0)
    if paced_alike:
        usual = np.minimum(usual, _usual_gap(reference > 0))
    silent = (evidence >= SURE) & (end - start > np.maximum(2 * usual, pace)[series])
    out: dict[int, list[Gap]] = {}
    for k in np.flatnonzero(silent):
        outside = max(reference_total[series[k]] - inside[k], 1.0)
        expected = float(round(inside[k] * total[series[k]] / outside, 2))
        gap = Gap(int(start[k]), int(end[k]), expected, bool(end[k] == buckets))
        out.setdefault(int(series[k]), []).append(gap)
    return [Silence(code, tuple(gaps)) for code, gaps in sorted(out.items())]


def find_absent(reference: FloatArray, share: float) -> BoolArray:
    """Find the series whose requests cannot be missing completely by chance.

    Args:
        reference: Requests of the same series in the reference, shape (series, buckets).
        share: Requests of the whole arm per request of the whole reference.

    Returns:
        True for each series that cannot be without any request by chance, shape (series,).

    >>> find_absent(np.array([[5.0] * 4, [2.0] * 4]), share=1.0).tolist()
    [True, False]
    """
    clusters, _ = measure_clusters(reference)
    return np.asarray(reference.sum(axis=1) * np.log1p(share) / clusters >= SURE)


def _evidence_of_none(
    inside: FloatArray, series_total: FloatArray, reference: FloatArray, clusters: FloatArray
) -> FloatArray:
    """Minus the log of the probability that no request of the series is in a gap with `inside` of the reference's.

    Hypergeometric: of all requests of series and reference, `inside` are in the gap, and none of them is the series'.
    """
    series_total, inside, reference = series_total / clusters, inside / clusters, reference / clusters
    outside = np.maximum(reference - inside, 0.0)
    evidence = np.zeros(inside.size)
    for k in np.flatnonzero(inside >= LEAST_INSIDE):
        n, m, others = float(reference[k]), float(series_total[k]), float(outside[k])
        evidence[k] = (
            math.lgamma(n + m + 1) + math.lgamma(others + 1) - math.lgamma(n + 1) - math.lgamma(m + others + 1)
        )
    return evidence


def _gaps(occupied: BoolArray) -> tuple[IntArray, IntArray, IntArray]:
    """Find all gaps of series with at least one request: number of the series, first bucket, bucket after the gap."""
    rows, buckets = occupied.shape
    padded = np.ones((rows, buckets + 2), dtype=bool)
    padded[:, 1:-1] = occupied
    # A bucket that counts as occupied is added at both ends of each series, so that no gap continues in the next one.
    at = np.flatnonzero(padded)
    before, after = at[:-1], at[1:]
    is_gap = after - before > 1
    series, start = np.divmod(before[is_gap], buckets + 2)
    end = after[is_gap] % (buckets + 2) - 1
    active = np.take(np.asarray(occupied.any(axis=1)), series)
    return series[active], start[active], end[active]


def measure_clusters(counts: FloatArray, *, one_hole: bool = False) -> tuple[FloatArray, IntArray]:
    """Measure the size of the clusters in which requests come, and the pace of users.

    A cluster has as much information as one independent request. Its size is the variance of the counts, divided by the
    variance of independent requests, from differences of adjacent windows (von Neumann 1941), so that a trend or an end
    hardly matters. Windows are single buckets. But if hardly any variance remains in windows of another width, users
    keep a pace of this width, and the remaining variance counts. For a series that is mostly empty between its first
    and its last request, the size is at least the mean number of requests in a group of adjacent buckets.

    Args:
        counts: Requests, shape (series, buckets).
        one_hole: Whether the longest gap is ignored when deciding that a series is mostly empty.

    Returns:
        The size of a cluster, at least 1, and the pace in buckets (0: none), both of shape (series,).
    """
    rows, buckets = counts.shape
    total = np.maximum(counts.sum(axis=1), 1e-9)
    size = _dispersion(counts, total, 1)
    paced, pace = size, np.zeros(rows, dtype=np.int64)
    for width in range(2, min(buckets // FEWEST_WINDOWS, LONGEST_PACE) + 1):
        dispersion = _dispersion(counts, total, width)
        pace = np.where(dispersion < paced, width, pace)
        paced = np.minimum(paced, dispersion)
    occupied = counts > 0
    series, start, end = _gaps(occupied)
    inner = (start > 0) & (end < buckets)
    groups = 1 + np.bincount(series[inner], minlength=rows)
    span = buckets - occupied.argmax(axis=1) - occupied[:, ::-1].argmax(axis=1)
    if one_hole:
        longest = np.zeros(rows, dtype=np.int64)
        np.maximum.at(longest, series[inner], (end - start)[inner])
        span = span - longest
    grouped = np.where(occupied.sum(axis=1) < MOSTLY * span, np.maximum(size, total / groups), size)
    keep_pace = (size > 1) & (paced < PACED * size)
    return np.maximum(np.where(keep_pace, paced, grouped), 1.0), np.where(keep_pace, pace, 0)


def _dispersion(counts: FloatArray, total: FloatArray, width: int) -> FloatArray:
    """Variance of the counts in windows of this width, divided by that of independent requests."""
    rows, buckets = counts.shape
    full_windows = buckets // width
    windows = counts[:, : full_windows * width].reshape(rows, full_windows, width).sum(axis=2)
    squares = (np.diff(windows, axis=1) ** 2).sum(axis=1)
    return np.asarray(squares / (2 * max(full_windows - 1, 1)) / (total * width / buckets))


def _usual_gap(occupied: BoolArray) -> FloatArray:
    """Length of the usual gap of each series: a high quantile of the gaps after its buckets with requests.

    The quantile is rounded down to one of the lengths, so that a single long gap is not its own usual gap.
    """
    counts = occupied.sum(axis=1)
    out = np.zeros(counts.size)
    series, start, end = _gaps(occupied)
    # The gap before the first request does not follow a bucket with requests.
    series, length = series[start > 0], (end - start)[start > 0]
    order = np.lexsort((length, series))
    series, length = series[order], length[order]
    gaps = np.bincount(series, minlength=counts.size)
    last = np.cumsum(gaps)
    for code in np.flatnonzero((gaps > 0) & (counts > 1)):
        # All other buckets with requests are followed by one with requests: their gaps have length 0.
        rank = math.floor(USUAL * (counts[code] - 1)) - (counts[code] - gaps[code])
        if rank >= 0:
            out[code] = length[last[code] - gaps[code] + rank]
    return out
