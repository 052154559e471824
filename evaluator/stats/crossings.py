"""Where a curve that is known at some places crosses 0."""

from __future__ import annotations

import numpy as np

from evaluator.records.arrays import FloatArray

__all__ = ["first_below", "last_above"]


def first_below(grid: FloatArray, values: FloatArray, default: float) -> float:
    """First place where `values` is no longer above 0, by linear interpolation."""
    below = np.flatnonzero(values <= 0)
    if not below.size:
        return float(grid[-1])
    k = int(below[0])
    return default if k == 0 else _cross(grid, values, k)


def last_above(grid: FloatArray, values: FloatArray, default: float) -> float:
    """Last place where `values` is not yet below 0, by linear interpolation."""
    above = np.flatnonzero(values >= 0)
    if not above.size:
        return float(grid[0])
    k = int(above[-1]) + 1
    return default if k == grid.size else _cross(grid, values, k)


def _cross(grid: FloatArray, values: FloatArray, k: int) -> float:
    low, high = values[k - 1], values[k]
    share = low / (low - high) if low != high else 0.5
    return float(grid[k - 1] + share * (grid[k] - grid[k - 1]))
