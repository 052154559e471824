"""Where a curve that is known at some places crosses 0."""

from __future__ import annotations

import numpy as np

from evaluator.records.arrays import FloatArray

__all__ = ["first_below"]


def first_below(grid: FloatArray, values: FloatArray, default: float) -> float:
    """First place where `values` is no longer above 0, by linear interpolation; `default` where it never was.

    >>> first_below(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, -1.0]), 0.0)
    2.5
    """
    below = np.flatnonzero(values <= 0)
    if not below.size:
        return float(grid[-1])
    k = int(below[0])
    if k == 0:
        return default
    low, high = values[k - 1], values[k]
    share = low / (low - high) if low != high else 0.5
    return float(grid[k - 1] + share * (grid[k] - grid[k - 1]))
