"""The limits of the logarithmic bins of a histogram, and the times in them.

A time recorded on a grid of step h (for example whole milliseconds) means the interval ±h/2 around its grid point.
"""

from __future__ import annotations

import numpy as np

from evaluator.records import find_bin_edges
from evaluator.records.arrays import FloatArray


def bin_limits_ms(last: int, grid_ms: float, units_per_ms: int) -> FloatArray:
    """Return the limits (ms) of bins 0 … `last`, shape (last + 2,), if times are recorded in steps of `grid_ms`.

    A recorded time stands for the interval of half a step around it, so limits lie half a step below a multiple of the
    step. The limits never fall. A bin that contains no multiple of the step has width 0. `units_per_ms`: unit of the
    times from which the bins were made, as the number of units in a millisecond.
    """
    grid = grid_ms * units_per_ms  # in units, like the edges and, up to the last line, the limits
    edges = find_bin_edges(0, last)
    edges[0] = 0.0  # the first bin contains all shorter times
    # The first multiple of the step in each bin. The edges are reduced a little before rounding up, so that rounding
    # errors do not move an edge at a multiple to the next one.
    first_multiple = np.ceil(edges / grid * (1 - 1e-12))
    limits = (first_multiple - 0.5) * grid
    limits[0] = 0.0
    return np.maximum.accumulate(limits) / units_per_ms


def mean_logs(last: int, grid_ms: float, units_per_ms: int) -> FloatArray:
    """Return the mean logarithm of the times (ms) in bins 0 … `last`, shape (last + 1,); 0 for a bin of width 0.

    Times are assumed to be recorded in steps of `grid_ms` and to be spread evenly over their bin. `units_per_ms`: unit
    of the times from which the bins were made, as the number of units in a millisecond.

    >>> mean_logs(345, 0.001, 1000)[345].round(3)  # 1.00 to 1.02 ms
    np.float64(0.01)
    """
    limits = bin_limits_ms(last, grid_ms, units_per_ms)
    width = np.diff(limits)
    # The integral of log t is t · log t - t, whose difference over the width is that of t · log t, less 1.
    rise = np.diff(limits * np.log(np.where(limits > 0, limits, 1.0)))
    # A bin of width 0 gets 1 - 1.
    return np.divide(rise, width, out=np.ones_like(width), where=width > 0) - 1
