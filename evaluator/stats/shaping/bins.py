"""Where the logarithmic bins of a histogram lie, and what the times in them are.

Data recorded on a grid (whole milliseconds, say) stands for the interval ±h/2 around each grid point.
"""

from __future__ import annotations

import numpy as np

from evaluator.records import bin_edges_us
from evaluator.records.arrays import FloatArray


def bin_limits_ms(last: int, grid_ms: float) -> FloatArray:
    """Where each bin begins and ends once its grid points are spread: shape (last + 2,), never falling.

    A bin without a grid point has no width.
    """
    grid_us = grid_ms * 1000
    edges = bin_edges_us(0, last)
    edges[0] = 0.0
    first_point = np.ceil(edges / grid_us * (1 - 1e-12))
    limits = (first_point - 0.5) * grid_us
    limits[0] = 0.0
    return np.maximum.accumulate(limits) / 1000


def mean_logs(last: int, grid_ms: float) -> FloatArray:
    """Mean logarithm of the times (ms) in each bin, evenly spread over it: shape (last + 1,); 0 for one without width.

    >>> mean_logs(345, 0.001)[345].round(3)  # 1.00 to 1.02 ms
    np.float64(0.01)
    """
    limits = bin_limits_ms(last, grid_ms)
    width, area = np.diff(limits), np.diff(limits * np.log(np.where(limits > 0, limits, 1.0)))
    return np.divide(area, width, out=np.ones_like(width), where=width > 0) - 1
