"""Rows with equal keys, found by one number per row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["find_groups", "sum_counts"]

IntArray = npt.NDArray[np.int64]

MOST = 2.0**62


def find_groups(columns: IntArray) -> tuple[IntArray, IntArray]:
    """Distinct columns of a (keys, rows) array in order, and for each row which of them it has."""
    if not columns.shape[1]:
        return columns, np.zeros(0, dtype=np.int64)
    least = columns.min(axis=1)
    ranges = columns.max(axis=1) - least + 1
    if float(np.prod(ranges.astype(np.float64))) >= MOST:
        wide, place = np.unique(columns, axis=1, return_inverse=True)
        return wide, np.asarray(place).reshape(-1)
    code = np.zeros(columns.shape[1], dtype=np.int64)
    for column, low, size in zip(columns, least, ranges, strict=True):
        code = code * size + (column - low)
    _, first, place = np.unique(code, return_index=True, return_inverse=True)
    return columns[:, first], np.asarray(place).reshape(-1)


def sum_counts(columns: IntArray, n: IntArray) -> list[IntArray]:
    """Distinct columns, and as a last one the sum of `n` over the rows of each."""
    keys, place = find_groups(columns)
    return [*keys, np.bincount(place, weights=n, minlength=keys.shape[1]).astype(np.int64)]
