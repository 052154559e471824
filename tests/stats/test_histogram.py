"""Histogram rows in the order of their bins, and what is counted from them."""

from __future__ import annotations

import numpy as np
import pytest

from evaluator.records import Bins
from evaluator.stats.estimators.distribution import counts_below
from evaluator.stats.shaping.histogram import SortedBins, sort_bins, sum_by_cell

CELLS = 12
OF_BASELINE = 6
LIMITS = np.arange(10.0)
"""Bin k is between k and k + 1 ms."""


def _draw(seed: int, rows: int = 400) -> tuple[Bins, np.ndarray]:
    """Rows in any order, one in ten of which has no cell."""
    rng = np.random.default_rng(seed)
    cell = np.where(rng.random(rows) < 0.1, -1, rng.integers(0, CELLS, rows))
    nothing = np.zeros(rows, dtype=np.int64)
    arm = np.where(cell >= OF_BASELINE, 1, 0)
    bins = Bins(nothing, arm, nothing, nothing, bin=rng.integers(0, 8, rows), n=rng.integers(1, 5, rows))
    return bins, cell


def _count(rows: Bins, cell: np.ndarray, time: float) -> np.ndarray:
    done = rows.n * np.clip(time - rows.bin, 0.0, 1.0)
    return np.bincount(cell[cell >= 0], weights=done[cell >= 0], minlength=CELLS)


def _sort(seed: int) -> tuple[SortedBins, Bins, np.ndarray]:
    rows, cell = _draw(seed)
    return sort_bins(rows, cell, OF_BASELINE, None), rows, cell


def test_rows_are_in_the_order_of_bins_and_the_baseline_first():
    sorted_bins, rows, cell = _sort(1)
    for index, (first, behind) in enumerate(zip(sorted_bins.starts[:-1], sorted_bins.starts[1:], strict=True)):
        bin_, candidate = divmod(index, 2)
        expected_rows = (rows.bin == bin_) & (cell >= 0) & ((cell >= OF_BASELINE) == candidate)
        assert sorted_bins.cell[first:behind].tolist() == cell[expected_rows].tolist()
        assert sorted_bins.n[first:behind].tolist() == rows.n[expected_rows].tolist()
    assert sorted_bins.last == rows.bin[cell >= 0].max()


def test_rows_of_other_arms_are_left_out():
    rows, cell = _draw(2)
    two = np.arange(cell.size) % 3 > 0
    sorted_bins = sort_bins(rows, cell, OF_BASELINE, two)
    assert sorted_bins.n.sum() == rows.n[two & (cell >= 0)].sum()


def test_without_rows_nothing_is_counted():
    rows, cell = _draw(3, rows=0)
    sorted_bins = sort_bins(rows, cell, OF_BASELINE, None)
    assert (sorted_bins.last, sorted_bins.sizes.size) == (0, 0)
    assert not counts_below(sorted_bins, LIMITS, np.array([0.5, 3.0]), CELLS).any()


@pytest.mark.parametrize("seed", range(3))
def test_counts_do_not_depend_on_earlier_counts(seed):
    """Thresholds up and down, many more than are remembered, some within a bin and some beyond the last."""
    sorted_bins, rows, cell = _sort(seed)
    for times in np.random.default_rng(seed).uniform(0, 10, (15, 4)):
        expected = [_count(rows, cell, time) for time in times]
        np.testing.assert_allclose(counts_below(sorted_bins, LIMITS, times, CELLS), expected, rtol=1e-12)


def test_sums_are_of_every_request_of_a_cell():
    sorted_bins, rows, cell = _sort(4)
    values = np.arange(10.0) ** 2
    has_cell = cell >= 0
    expected = np.bincount(cell[has_cell], weights=rows.n[has_cell] * values[rows.bin[has_cell]], minlength=CELLS)
    assert sum_by_cell(sorted_bins, values, CELLS).tolist() == expected.tolist()
