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
"""A series is mostly empty if less than this share of its buckets has requests."""
FEWEST_WINDOWS = 7
"""Least number of windows from which a variance is computed."""
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

    A silence is a gap in which the reference had so many requests that chance does not explain it (requests come in
    clusters, which count as one), and that is longer than usual gaps and than the pace of users.

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
        # Many series are searched in parts, to save memory.
        parts = (slice(first, first + SERIES_AT_A_TIME) for first in range(0, len(counts), SERIES_AT_A_TIME))
        return [
            replace(silence, series=part.start + silence.series)
            for part in parts
            for silence in find_silence(counts[part], reference[part], paced_alike=paced_alike, one_hole=one_hole)
        ]
    buckets = counts.shape[1]
    # Of each gap, shape (gaps,): its series, its first bucket, and the bucket after it.
    series, start, end = _find_gaps(counts > 0)
    if not series.size:
        return []
    # Requests of the reference before each bucket, shape (series, buckets + 1).
    reference_before = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(reference, axis=1)], axis=1)
    inside = reference_before[series, end] - reference_before[series, start]  # those in each gap, shape (gaps,)
    # Of each series, shape (series,): total requests, size of a cluster, pace and usual gap (both in buckets).
    reference_total = reference_before[:, -1]
    total = counts.sum(axis=1)
    clusters, pace = measure_clusters(reference if paced_alike else counts, one_hole=one_hole)
    usual_gap = _find_usual_gaps(counts > 0)
    if paced_alike:
        usual_gap = np.minimum(usual_gap, _find_usual_gaps(reference > 0))
    # Of each gap again: evidence that it is not chance, and whether it is a silence.
    evidence = _compute_evidence(inside, total[series], reference_total[series], clusters[series])
    is_silence = (evidence >= SURE) & (end - start > np.maximum(2 * usual_gap, pace)[series])
    gaps_of_series: dict[int, list[Gap]] = {}
    for k in np.flatnonzero(is_silence):
        # Outside of the gap, the series had `total` requests for `outside` requests of the reference.
        outside = max(reference_total[series[k]] - inside[k], 1.0)
        expected = float(round(inside[k] * total[series[k]] / outside, 2))
        gap = Gap(int(start[k]), int(end[k]), expected, at_end=bool(end[k] == buckets))
        gaps_of_series.setdefault(int(series[k]), []).append(gap)
    return [Silence(series_number, tuple(gaps)) for series_number, gaps in sorted(gaps_of_series.items())]


def find_absent(reference: FloatArray, share: float) -> BoolArray:
    """Find the series whose complete lack of requests would be no chance, because the reference has so many of them.

    Args:
        reference: Requests of the same series in the reference (the other arm), shape (series, buckets).
        share: Requests of the whole arm per request of the whole reference.

    Returns:
        True for each series that cannot lack all requests by chance, shape (series,).

    >>> find_absent(np.array([[5.0] * 4, [2.0] * 4]), share=1.0).tolist()
    [True, False]
    """
    clusters, _ = measure_clusters(reference)
    # A request is of the reference with probability 1 / (1 + share); -log of the probability that all requests are.
    return np.asarray(reference.sum(axis=1) * np.log1p(share) / clusters >= SURE)


def _compute_evidence(
    inside: FloatArray, series_total: FloatArray, reference_total: FloatArray, clusters: FloatArray
) -> FloatArray:
    """Return minus the log of the probability that chance alone leaves a gap without any request of the series.

    The probability is hypergeometric: of all requests of series and reference, `inside` are in the gap, and all of
    these are of the reference. Requests are divided by the size of a cluster, because a cluster is one random event.

    Args:
        inside: Requests of the reference in each gap, shape (gaps,).
        series_total: Requests of the gap's series in the whole run, shape (gaps,).
        reference_total: Requests of its reference in the whole run, shape (gaps,).
        clusters: Size of a cluster, shape (gaps,).

    Returns:
        The evidence of each gap, shape (gaps,); 0 if fewer than `LEAST_INSIDE` clusters of the reference are inside.
    """
    # The same as numbers of clusters.
    series_clusters, reference_clusters = series_total / clusters, reference_total / clusters
    clusters_inside = inside / clusters
    clusters_outside = np.maximum(reference_clusters - clusters_inside, 0.0)
    evidence = np.zeros(inside.size)
    for k in np.flatnonzero(clusters_inside >= LEAST_INSIDE):
        # n: clusters of the reference, m: of the series; all of m are outside of the gap.
        n, m, n_outside = float(reference_clusters[k]), float(series_clusters[k]), float(clusters_outside[k])
        # -log [n! (m + n_outside)! / ((n + m)! n_outside!)]
        evidence[k] = (
            math.lgamma(n + m + 1) + math.lgamma(n_outside + 1) - math.lgamma(n + 1) - math.lgamma(m + n_outside + 1)
        )
    return evidence


def _find_gaps(occupied: BoolArray) -> tuple[IntArray, IntArray, IntArray]:
    """Find all intervals of empty buckets in series with at least one request.

    `occupied` is true for buckets with requests, shape (series, buckets).

    Returns:
        The series, the first bucket and the bucket after the last of each gap, all of shape (gaps,).
    """
    rows, buckets = occupied.shape
    # An occupied bucket is added at both ends of each series, so that no gap continues in the next series when the
    # array is read as one sequence. In this sequence, a gap lies between occupied buckets that are not adjacent.
    padded = np.ones((rows, buckets + 2), dtype=bool)
    padded[:, 1:-1] = occupied
    occupied_positions = np.flatnonzero(padded)
    before, after = occupied_positions[:-1], occupied_positions[1:]
    is_gap = after - before > 1
    # Bucket k is at position k + 1 of its series. So the position before a gap is the number of its first bucket.
    series, start = np.divmod(before[is_gap], buckets + 2)
    end = after[is_gap] % (buckets + 2) - 1
    has_requests = np.take(np.asarray(occupied.any(axis=1)), series)
    return series[has_requests], start[has_requests], end[has_requests]


def measure_clusters(counts: FloatArray, *, one_hole: bool = False) -> tuple[FloatArray, IntArray]:
    """Measure the size of the clusters in which requests come, and the pace of users.

    A cluster has as much information as one independent request. Its size is the variance of the counts of buckets,
    divided by the variance that independent requests would have. The variance comes from differences of adjacent
    buckets (von Neumann 1941), so that a trend or an end hardly matters. If users call in turns of a fixed length (a
    pace), the counts in windows of this width hardly vary: then the variance in these windows counts. For a series that
    is mostly empty between its first and its last request, the size is at least the mean number of requests in a group
    of adjacent buckets.

    Args:
        counts: Requests, shape (series, buckets).
        one_hole: Whether the longest gap is ignored when deciding that a series is mostly empty.

    Returns:
        The size of a cluster, at least 1, and the pace in buckets (0: none), both of shape (series,).
    """
    rows, buckets = counts.shape
    total = np.maximum(counts.sum(axis=1), 1e-9)
    size = _compute_dispersion(counts, total, width=1)
    # Of all widths of windows, the pace is the width with the least dispersion.
    paced_size, pace = size, np.zeros(rows, dtype=np.int64)
    for width in range(2, min(buckets // FEWEST_WINDOWS, LONGEST_PACE) + 1):
        dispersion = _compute_dispersion(counts, total, width)  # shape (series,)
        pace = np.where(dispersion < paced_size, width, pace)
        paced_size = np.minimum(paced_size, dispersion)
    occupied = counts > 0
    series, start, end = _find_gaps(occupied)
    # Gaps between the first and the last request; they divide the buckets with requests into groups.
    is_inner = (start > 0) & (end < buckets)
    groups_of_buckets = 1 + np.bincount(series[is_inner], minlength=rows)
    # Buckets from the first to the last with requests.
    span = buckets - occupied.argmax(axis=1) - occupied[:, ::-1].argmax(axis=1)
    if one_hole:
        longest_gap = np.zeros(rows, dtype=np.int64)
        np.maximum.at(longest_gap, series[is_inner], (end - start)[is_inner])
        span = span - longest_gap
    mostly_empty = occupied.sum(axis=1) < MOSTLY * span
    unpaced_size = np.where(mostly_empty, np.maximum(size, total / groups_of_buckets), size)
    has_pace = (size > 1) & (paced_size < PACED * size)
    return np.maximum(np.where(has_pace, paced_size, unpaced_size), 1.0), np.where(has_pace, pace, 0)


def _compute_dispersion(counts: FloatArray, total: FloatArray, width: int) -> FloatArray:
    """Return the variance of the counts in windows of `width` buckets, divided by that of independent requests.

    The variance comes from differences of adjacent windows. Independent requests have a variance equal to their mean.

    Args:
        counts: Requests, shape (series, buckets).
        total: Their sum over all buckets, shape (series,).
        width: Buckets in a window; the buckets after the last complete window are ignored.
    """
    rows, buckets = counts.shape
    full_windows = buckets // width
    windows = counts[:, : full_windows * width].reshape(rows, full_windows, width).sum(axis=2)
    squared_differences = (np.diff(windows, axis=1) ** 2).sum(axis=1)
    # The difference of two independent counts has twice the variance of one.
    variance = squared_differences / (2 * max(full_windows - 1, 1))
    mean = total * width / buckets
    return np.asarray(variance / mean)


def _find_usual_gaps(occupied: BoolArray) -> FloatArray:
    """Return the length of the usual gap of each series, in buckets: shape (series,).

    Each bucket with requests is followed by a gap, of length 0 if the next bucket has requests too. The usual gap is
    the quantile `USUAL` of these lengths, rounded down to one of them, so that a single long gap is not usual.

    `occupied` is true for buckets with requests, shape (series, buckets).
    """
    occupied_buckets = occupied.sum(axis=1)
    usual_gap = np.zeros(occupied_buckets.size)
    series, start, end = _find_gaps(occupied)
    # The gap before the first request does not follow a bucket with requests.
    follows_requests = start > 0
    gap_series, gap_length = series[follows_requests], (end - start)[follows_requests]
    sorted_lengths = gap_length[np.lexsort((gap_length, gap_series))]  # by series, then by length
    gaps_of_series = np.bincount(gap_series, minlength=occupied_buckets.size)
    end_of_series = np.cumsum(gaps_of_series)  # index in `sorted_lengths`
    # A single bucket with requests has only one gap after it, which cannot be called usual.
    for k in np.flatnonzero((gaps_of_series > 0) & (occupied_buckets > 1)):
        # Rank of the quantile among the series' gaps in `sorted_lengths`; those of length 0, which are not in it, come
        # before them. A negative rank is one of these.
        gaps_of_length_0 = occupied_buckets[k] - gaps_of_series[k]
        rank = math.floor(USUAL * (occupied_buckets[k] - 1)) - gaps_of_length_0
        if rank >= 0:
            usual_gap[k] = sorted_lengths[end_of_series[k] - gaps_of_series[k] + rank]
    return usual_gap
