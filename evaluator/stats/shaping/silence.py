"""Silence: times without a request in which some were to be expected.

A series (an arm, an endpoint or an instance of it) is compared with a reference that goes on: the other arm, the same
endpoint of the other arm, the other instances of the arm, or time itself while users run. If the series went on as the
reference did, the chance that none of its requests fell into a gap is hypergeometric (Fisher's exact test of the table
series/reference by outside/inside): minus its logarithm is the evidence of the gap. Requests come in clusters, so
counts are divided by the size of a cluster. What users' pacing explains is no silence: a gap has to be longer than
twice the usual gap of the series and of its reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from evaluator.records.arrays import BoolArray, FloatArray, IntArray

SURE = -math.log(1e-5)
"""Evidence at which a gap is no chance. Every gap of a series is looked at, so it has to be far from chance."""
USUAL = 0.9
"""Quantile of the gaps that follow a bucket with requests: longer ones are not usual."""
LEAST_INSIDE = 3.0
"""Fewer of the reference's requests in a gap are no evidence; the many small gaps of rare series cost nothing."""
MOSTLY = 0.5
FEWEST_WINDOWS = 7
LONGEST_PACE = 24
"""Most buckets in a window."""
PACED = 0.1
"""Share of the variance that is left where the windows fit a pace."""
SERIES_AT_A_TIME = 2_000


@dataclass(frozen=True, slots=True)
class Gap:
    """An interval of empty buckets from `start` to before `end`, counted from the start of the run."""

    start: int
    end: int
    expected: float
    """Requests that the series would have had."""
    at_end: bool

    @property
    def buckets(self) -> int:
        """Its length."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Silence:
    """The gaps of one series that neither chance nor pacing explains."""

    series: int
    gaps: tuple[Gap, ...]

    @property
    def buckets(self) -> int:
        """Length of all gaps."""
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
    """Find the silences of each series, in the order of the series; those without any are left out.

    Args:
        counts: Requests of each series in each bucket of the run, shape (series, buckets).
        reference: Requests of what each series is compared with, same shape; constants stand for time.
        paced_alike: Whether the reference is paced as the series is, so that only gaps that both have are pacing;
            otherwise the series' own usual gap is taken.
        one_hole: Whether a series that is empty for most of its time because of one gap is dense but for that gap.

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
    """Tell of which series it is no chance that there is not a single request.

    Args:
        reference: Requests of the same series in the reference, shape (series, buckets).
        share: Requests of the whole arm per request of the whole reference.

    >>> find_absent(np.array([[5.0] * 4, [2.0] * 4]), share=1.0).tolist()
    [True, False]
    """
    clusters, _ = measure_clusters(reference)
    return np.asarray(reference.sum(axis=1) * np.log1p(share) / clusters >= SURE)


def _evidence_of_none(
    inside: FloatArray, series_total: FloatArray, reference: FloatArray, clusters: FloatArray
) -> FloatArray:
    """Minus the logarithm of the chance that none of the series' requests fell where `inside` of the reference's did.

    Hypergeometric: of own + reference requests, these are inside the gap, and none of them is of the series.
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
    """Find all runs of empty buckets of the series that have any request: series, first bucket, bucket after."""
    rows, buckets = occupied.shape
    padded = np.ones((rows, buckets + 2), dtype=bool)
    padded[:, 1:-1] = occupied
    # Each series ends and begins with a bucket that counts as occupied: no gap reaches from one into the next.
    at = np.flatnonzero(padded)
    before, after = at[:-1], at[1:]
    is_gap = after - before > 1
    series, start = np.divmod(before[is_gap], buckets + 2)
    end = after[is_gap] % (buckets + 2) - 1
    active = np.take(np.asarray(occupied.any(axis=1)), series)
    return series[active], start[active], end[active]


def measure_clusters(counts: FloatArray, *, one_hole: bool = False) -> tuple[FloatArray, IntArray]:
    """How many events of each series come together, at least 1, and the pace that users keep, in buckets (0: none).

    That many requests say as much as one that comes alone. It is the variance of the counts against that of independent
    requests, from differences of adjacent windows (von Neumann 1941), so that a trend or an end counts for next to
    nothing. Windows are buckets, unless at another width next to nothing of that variance is left: then users keep a
    pace of that width, requests that come together are no chance, and what is left counts. Of a series that is mostly
    empty between its first and its last request (with `one_hole`: beside its longest gap) it is at least the mean size
    of a group of adjacent buckets.
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
    """Variance of the counts in windows of this width, as a multiple of what independent requests would have."""
    rows, buckets = counts.shape
    full_windows = buckets // width
    windows = counts[:, : full_windows * width].reshape(rows, full_windows, width).sum(axis=2)
    squares = (np.diff(windows, axis=1) ** 2).sum(axis=1)
    return np.asarray(squares / (2 * max(full_windows - 1, 1)) / (total * width / buckets))


def _usual_gap(occupied: BoolArray) -> FloatArray:
    """Length of the usual gap of each series: a high quantile over its buckets with requests of what follows them.

    The quantile is one of the lengths, from below: of few, the longest never explains itself.
    """
    counts = occupied.sum(axis=1)
    out = np.zeros(counts.size)
    series, start, end = _gaps(occupied)
    # A gap before the first request follows none.
    series, length = series[start > 0], (end - start)[start > 0]
    order = np.lexsort((length, series))
    series, length = series[order], length[order]
    gaps = np.bincount(series, minlength=counts.size)
    last = np.cumsum(gaps)
    for code in np.flatnonzero((gaps > 0) & (counts > 1)):
        # All other buckets with requests are followed by one with requests: gaps of length 0.
        rank = math.floor(USUAL * (counts[code] - 1)) - (counts[code] - gaps[code])
        if rank >= 0:
            out[code] = length[last[code] - gaps[code] + rank]
    return out
