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


def sort_bins(
    rows: Bins | InstanceBins, cell: IntArray, baseline_cells: int, of_both_arms: BoolArray | None
) -> SortedBins:
    """Sort the histogram rows of two arms by bin, and within a bin the baseline's rows first.

    Args:
        rows: The histogram.
        cell: Cell of each row, shape (rows,); rows with -1 are dropped.
        baseline_cells: Number of cells of the baseline; cells from this number on are the candidate's.
        of_both_arms: Which rows belong to the two arms, shape (rows,); `None`: all.
    """
    bins, n = rows.bin, rows.n
    keep = cell >= 0 if of_both_arms is None else (cell >= 0) & of_both_arms
    if not keep.all():
        bins, n, cell = bins[keep], n[keep], cell[keep]
    # 2 · bin for the baseline, 2 · bin + 1 for the candidate (true is added as 1). A small type is sorted faster.
    key = bins.astype(np.int16)
    key *= 2
    key += cell >= baseline_cells
    if (key[1:] < key[:-1]).any():  # not sorted yet
        order = np.argsort(key, kind="stable")
        key, n, cell = key[order], n[order], cell[order]
    # All keys up to the candidate's of the last bin, and the key after it, where the rows end.
    last_bin = int(key[-1]) // 2 if key.size else -1
    all_keys = np.arange(2 * (last_bin + 1) + 1, dtype=np.int16)
    return SortedBins(cell, n.astype(float), np.searchsorted(key, all_keys))


def sum_by_cell(bins: SortedBins, values: FloatArray, cells: int) -> FloatArray:
    """Give each request the value of its bin, and sum these values over the requests of each cell.

    `values` has the shape (bins,), with at least all bins in use; `cells` is the number of cells. Returns shape
    (cells,).
    """
    sizes = bins.sizes  # number of rows in each bin; rows are in the order of bins
    weights = np.repeat(values[: sizes.size], sizes)
    weights *= bins.n
    return np.asarray(np.bincount(bins.cell, weights=weights, minlength=cells), float)
