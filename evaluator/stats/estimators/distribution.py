"""Distribution functions of time to success, from logarithmic bins (method B.2).

A failure counts as infinitely slow, so the largest value of the function is the success rate. A time recorded on a grid
of step h (for example whole milliseconds) is spread evenly over the interval ±h/2 around its grid point.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.shaping.bins import bin_limits_ms
from evaluator.stats.shaping.histogram import SortedBins
from evaluator.stats.shaping.panel import Panel


@dataclass(frozen=True, slots=True)
class Distribution:
    """Piecewise linear F over `limits` (ms): `cumulative[k]` is the share of requests done by `limits[k]`.

    `cumulative` may have leading axes (runs).
    """

    limits: FloatArray
    cumulative: FloatArray

    def at(self, time_ms: FloatArray | float) -> FloatArray:
        """Return F at these times (ms)."""
        return np.asarray(np.interp(time_ms, self.limits, self.cumulative))

    def quantile(self, probability: float) -> float:
        """Return the smallest time (ms) by which this share of requests is done; infinite if too many failed."""
        # With `not`, a NaN share gives infinity too.
        if not self.cumulative[-1] >= probability:
            return float("inf")
        k = int(np.searchsorted(self.cumulative, probability, side="left"))
        if k == 0:
            return float(self.limits[0])
        share_before, share_after = self.cumulative[k - 1], self.cumulative[k]
        position = (probability - share_before) / (share_after - share_before)
        return float(self.limits[k - 1] + position * (self.limits[k] - self.limits[k - 1]))


def standardised_distributions(bins: SortedBins, weight: FloatArray, limits: FloatArray) -> FloatArray:
    """Return the cumulative share of requests of each arm at each limit of the bins, shape (2, limits).

    `weight` (cells,) is the contribution of one request of a cell; NaN for cells that are later than the judged period.
    """
    # What each row of the histogram contributes, and the first row of each bin and arm.
    mass, starts = np.take(weight, bins.cell), bins.starts
    mass *= bins.n
    is_judged = mass >= 0  # false for NaN
    # Rows that are later than the judged period are left out: with a weight of 0 instead, they would change the order
    # of summation, and so the last bit of sums.
    if not is_judged.all():
        judged_rows = np.flatnonzero(is_judged)
        mass, starts = mass[judged_rows], np.searchsorted(judged_rows, starts)
    # Rows are in the order of bins and, within a bin, of arms. `reduceat` needs at least one row for each sum.
    has_rows = np.flatnonzero(np.diff(starts))
    mass_by_bin_and_arm = np.zeros(2 * (limits.size - 1))
    mass_by_bin_and_arm[has_rows] = np.add.reduceat(mass, starts[has_rows])
    shares = np.zeros((2, limits.size))
    np.cumsum(mass_by_bin_and_arm.reshape(-1, 2).T, axis=1, out=shares[:, 1:])
    return shares


def distributions_by_set(
    bins: SortedBins, weight: FloatArray, limits: FloatArray, set_of_cell: IntArray, sets: int
) -> FloatArray:
    """Return the cumulative share of requests at each limit of the bins, by sets of cells: shape (sets, limits).

    Args:
        bins: The histograms, one of each cell.
        weight: Contribution of one request of each cell, shape (cells,).
        limits: Limits of the bins, shape (bins + 1,).
        set_of_cell: The set (0 … sets - 1) that each cell belongs to, shape (cells,).
        sets: Number of sets.
    """
    bin_count = limits.size - 1
    # The bin of each row of the histogram, and one number for its set and bin.
    bin_of_row = np.repeat(np.arange(bins.sizes.size), bins.sizes)
    key = set_of_cell[bins.cell] * bin_count + bin_of_row
    mass = np.bincount(key, weights=bins.n * weight[bins.cell], minlength=sets * bin_count).reshape(sets, bin_count)
    return np.pad(np.cumsum(mass, axis=1), ((0, 0), (1, 0)))


@lru_cache(maxsize=4)
def find_limits_ms(panel: Panel) -> FloatArray:
    """Return the limits (ms) of the bins in use, shape (bins + 1,)."""
    return bin_limits_ms(panel.bins.last, panel.grid_ms, panel.units_per_ms)


def count_done(panel: Panel, times_ms: FloatArray) -> FloatArray:
    """Count the requests done successfully by each of these times: shape (times, 2, endpoints, slots)."""
    cells = 2 * len(panel.endpoints) * panel.stride
    return panel.by_cell(counts_below(panel.bins, find_limits_ms(panel), times_ms, cells))


def count_done_by_row(panel: Panel, times_ms: FloatArray) -> FloatArray:
    """Count the requests done successfully by each of these times in each row of an instance: shape (times, rows).

    A row has the counts of one instance and endpoint in one block of time.
    """
    rows = panel.rows
    below = counts_below(panel.row_bins, find_limits_ms(panel), times_ms, rows.histogram_rows)
    # A panel that was cut at an earlier look shares the histogram of the whole, and has only some of its rows.
    return below if rows.n.size == rows.histogram_rows else np.take(below, rows.histogram, axis=1)


def counts_below(bins: SortedBins, limits: FloatArray, times_ms: FloatArray, cells: int) -> FloatArray:
    """Count the requests done by each of `times_ms` in each cell of a histogram: shape (times, cells).

    All bins before a time count, and a share of the bin that contains it: requests are assumed to be spread evenly.
    `limits` (bins + 1,) are the limits of the bins in ms.
    """
    counts = np.empty((times_ms.size, cells))
    bin_of_time = np.searchsorted(limits, times_ms, side="right") - 1
    end_of_bin = np.minimum(bin_of_time + 1, limits.size - 1)
    width = limits[end_of_bin] - limits[bin_of_time]
    share_of_bin = np.divide(times_ms - limits[bin_of_time], width, out=np.zeros(times_ms.size), where=width > 0)
    # The first row of each bin (of both arms: every second start); times after the last bin have no rows.
    bin_starts = bins.starts[::2]
    first_rows = bin_starts[np.minimum(bin_of_time, bin_starts.size - 1)].tolist()
    end_rows = bin_starts[np.minimum(bin_of_time + 1, bin_starts.size - 1)].tolist()
    # In the order of times, so that the counts of each continue from those of the time before, which are cached.
    for i in np.argsort(times_ms).tolist():
        rows_of_bin = slice(first_rows[i], end_rows[i])
        counts[i] = _count_before(bins, first_rows[i], cells)
        np.add.at(counts[i], bins.cell[rows_of_bin], bins.n[rows_of_bin] * share_of_bin[i])
    return counts


MOST_KEPT = 8
"""Largest number of rows whose counts are cached."""


def _count_before(bins: SortedBins, row: int, cells: int) -> FloatArray:
    """Count the requests of each cell in all rows before `row`, shape (cells,).

    The counts are computed from those of the nearest cached row (or from row 0, before which there is nothing), and are
    cached for the next call.
    """
    nearest = min((0, *bins.passed), key=lambda cached_row: abs(cached_row - row))
    counts = bins.passed[nearest] if nearest else np.zeros(cells)
    if row == nearest:
        return counts
    between = slice(min(row, nearest), max(row, nearest))
    difference = np.bincount(bins.cell[between], weights=bins.n[between], minlength=cells)
    # Counts are integers: subtracting rows is exact.
    counts = counts + difference if row > nearest else counts - difference
    while len(bins.passed) >= MOST_KEPT:
        oldest = next(iter(bins.passed))
        del bins.passed[oldest]
    bins.passed[row] = counts
    return counts
