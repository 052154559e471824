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
        if not self.cumulative[-1] >= probability:
            return float("inf")
        k = int(np.searchsorted(self.cumulative, probability, side="left"))
        if k == 0:
            return float(self.limits[0])
        low, high = self.cumulative[k - 1], self.cumulative[k]
        return float(self.limits[k - 1] + (probability - low) / (high - low) * (self.limits[k] - self.limits[k - 1]))


def standardised_distributions(bins: SortedBins, weight: FloatArray, limits: FloatArray) -> FloatArray:
    """Return the cumulative share of each arm at each limit, shape (2, limits).

    `weight` (cells,) is the contribution of one request of a cell; NaN for cells after this look.
    """
    mass, starts = np.take(weight, bins.cell), bins.starts
    mass *= bins.n
    counted = mass >= 0
    # Rows after the look are left out: they would change the order of summation, and so the last bit of sums.
    if not counted.all():
        rows = np.flatnonzero(counted)
        mass, starts = mass[rows], np.searchsorted(rows, starts)
    used = np.flatnonzero(np.diff(starts))
    by_bin = np.zeros(2 * (limits.size - 1))
    by_bin[used] = np.add.reduceat(mass, starts[used])
    shares = np.zeros((2, limits.size))
    np.cumsum(by_bin.reshape(-1, 2).T, axis=1, out=shares[:, 1:])
    return shares


def distributions_by_row(
    bins: SortedBins, weight: FloatArray, limits: FloatArray, row: IntArray, rows: int
) -> FloatArray:
    """Return the same for each row separately, shape (rows, limits); `row` (cells,) is the row of each cell."""
    width = limits.size - 1
    key = row[bins.cell] * width + np.repeat(np.arange(bins.sizes.size), bins.sizes)
    mass = np.bincount(key, weights=bins.n * weight[bins.cell], minlength=rows * width).reshape(rows, width)
    return np.pad(np.cumsum(mass, axis=1), ((0, 0), (1, 0)))


@lru_cache(maxsize=4)
def find_limits_ms(panel: Panel) -> FloatArray:
    """Return the limits (ms) of the bins in use, shape (bins + 1,)."""
    return bin_limits_ms(panel.bins.last, panel.grid_ms)


def count_done(panel: Panel, times_ms: FloatArray) -> FloatArray:
    """Count the requests done successfully by each of these times: shape (times, 2, endpoints, slots)."""
    cells = 2 * len(panel.endpoints) * panel.stride
    return panel.by_cell(counts_below(panel.bins, find_limits_ms(panel), times_ms, cells))


def count_done_by_row(panel: Panel, times_ms: FloatArray) -> FloatArray:
    """Count the same in each instance row of both arms: shape (times, rows)."""
    rows = panel.rows
    below = counts_below(panel.row_bins, find_limits_ms(panel), times_ms, rows.histogram_rows)
    return below if rows.n.size == rows.histogram_rows else np.take(below, rows.histogram, axis=1)


def counts_below(bins: SortedBins, limits: FloatArray, times_ms: FloatArray, cells: int) -> FloatArray:
    """Count the requests done by each of `times_ms` in each cell: shape (times, cells). Partial counts are reused."""
    out = np.empty((times_ms.size, cells))
    inside = np.searchsorted(limits, times_ms, side="right") - 1
    last = np.minimum(inside + 1, limits.size - 1)
    width = limits[last] - limits[inside]
    share = np.divide(times_ms - limits[inside], width, out=np.zeros(times_ms.size), where=width > 0)
    starts = bins.starts[::2]
    begin, end = (np.minimum(k, starts.size - 1) for k in (inside, inside + 1))
    rows = list(zip(starts[begin].tolist(), starts[end].tolist(), strict=True))
    for i in np.argsort(times_ms).tolist():  # increasing, so that each continues from the last
        first, behind = rows[i]
        out[i] = _counts_before(bins, first, cells)
        np.add.at(out[i], bins.cell[first:behind], bins.n[first:behind] * share[i])
    return out


MOST_KEPT = 8


def _counts_before(bins: SortedBins, row: int, cells: int) -> FloatArray:
    """Requests of each cell in the rows before this one, computed from the nearest cached row."""
    nearest = min((0, *bins.passed), key=lambda counted_row: abs(counted_row - row))
    counts = bins.passed[nearest] if nearest else np.zeros(cells)
    if row == nearest:
        return counts
    between = slice(min(row, nearest), max(row, nearest))
    step = np.bincount(bins.cell[between], weights=bins.n[between], minlength=cells)
    # Counts are integers: subtracting rows is exact.
    counts = counts + step if row > nearest else counts - step
    while len(bins.passed) >= MOST_KEPT:
        del bins.passed[next(iter(bins.passed))]
    bins.passed[row] = counts
    return counts
