"""Histograms of response times as they are counted: the rows of both arms in the order of their bins."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from evaluator.records import Bins, InstanceBins
from evaluator.records.arrays import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class SortedBins:
    """Histogram rows of both arms, sorted by bin, the baseline's first in each.

    `cell` indexes the flattened cells of the histogram's layout, in which those of the baseline come first.
    """

    cell: IntArray
    n: FloatArray
    starts: IntArray
    """First row of either arm in each bin, up to the last in use, and the number of rows: (2 · bins + 1,)."""
    passed: dict[int, FloatArray] = field(default_factory=dict)
    """Counts per cell of all rows before some row, kept for the next question (`distribution.counts_below`)."""

    @property
    def last(self) -> int:
        """The last bin in use."""
        return max(self.starts.size // 2 - 1, 0)

    @property
    def sizes(self) -> IntArray:
        """Rows in each bin, (bins,)."""
        return np.diff(self.starts[::2])


NO_BINS = SortedBins(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(1, dtype=np.int64))
"""Where no single times are known."""


def sort_bins(rows: Bins | InstanceBins, cell: IntArray, of_baseline: int, arms: BoolArray | None) -> SortedBins:
    """Histogram rows of both arms that have a cell (not -1), sorted by bin; cells before `of_baseline` are its own."""
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
    """Sum over the requests of each cell of the value of their bin."""
    sizes = bins.sizes
    weights = np.repeat(values[: sizes.size], sizes)
    weights *= bins.n
    return np.asarray(np.bincount(bins.cell, weights=weights, minlength=cells), float)
