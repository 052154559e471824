"""Histograms of response times: the rows of both arms in the order of their bins."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from evaluator.records import Bins, InstanceBins
from evaluator.records.arrays import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class SortedBins:
    """Histogram rows of both arms, sorted by bin; within a bin, the baseline's rows come first."""

    cell: IntArray
    """Flat index of each row's cell, shape (rows,); cells of the baseline come first."""
    n: FloatArray
    """Requests of each row, shape (rows,)."""
    starts: IntArray
    """First row of each arm in each bin, up to the last bin in use, and the number of rows: shape (2 · bins + 1,)."""
    passed: dict[int, FloatArray] = field(default_factory=dict)
    """Cache of `distribution.counts_below`: row → counts per cell of all rows before it."""

    @property
    def last(self) -> int:
        """The last bin in use."""
        return max(self.starts.size // 2 - 1, 0)

    @property
    def sizes(self) -> IntArray:
        """Number of rows in each bin, shape (bins,)."""
        return np.diff(self.starts[::2])


NO_BINS = SortedBins(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(1, dtype=np.int64))
"""For data without single times."""


def sort_bins(rows: Bins | InstanceBins, cell: IntArray, of_baseline: int, arms: BoolArray | None) -> SortedBins:
    """Sort the histogram rows of two arms by bin.

    Args:
        rows: The histogram.
        cell: Cell of each row, shape (rows,); rows with -1 are dropped.
        of_baseline: Number of cells of the baseline, which come first.
        arms: Which rows belong to the two arms, shape (rows,); `None`: all.
    """
    bins, n = rows.bin, rows.n
    keep = cell >= 0 if arms is None else (cell >= 0) & arms
    if not keep.all():
        bins, n, cell = bins[keep], n[keep], cell[keep]
    key = bins.astype(np.int16)
    key *= 2
    key += cell >= of_baseline
    if (key[1:] < key[:-1]).any():
        order = np.argsort(key, kind="stable")
        key, n, cell = key[order], n[order], cell[order]
    ends = np.arange(key[-1] // 2 * 2 + 3 if key.size else 1, dtype=np.int16)
    return SortedBins(cell, n.astype(float), np.searchsorted(key, ends))


def sum_by_cell(bins: SortedBins, values: FloatArray, cells: int) -> FloatArray:
    """Sum the value of each request's bin over the requests of each cell.

    `values` has one value for each bin, up to the last in use or more. Returns shape (cells,).
    """
    sizes = bins.sizes
    weights = np.repeat(values[: sizes.size], sizes)
    weights *= bins.n
    return np.asarray(np.bincount(bins.cell, weights=weights, minlength=cells), float)
