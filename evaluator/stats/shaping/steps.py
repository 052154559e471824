"""Find the steps in which the times of each arm and endpoint were recorded (method B.2, steps of recorded times).

Times and steps are whole numbers of the unit of the cells.
"""

from __future__ import annotations

import numpy as np

from evaluator.records import Moments
from evaluator.records.arrays import FloatArray, IntArray

FEWEST_OTHERS = 7
"""A common divisor is accepted if at least this many rows have other extremes than the first row. A step of k divides
the number of such a row by chance once in k cases. Of times recorded in steps of 1, seven are all multiples of 2 once
in 128 cases; a step large enough to matter practically never occurs by chance."""

MOST = 0.5
"""A step is accepted if the minimum, maximum and sum of at least this share of an arm's rows are multiples of it: a few
other times (cut off at 1 ms, or recorded by another tool) do not make the rest fine."""

FEWEST_EXTREMES, PER_TICK = 40, 4
"""Least number of extremes in total, and per distinct time, to distinguish a ticking clock from times that spread."""


def find_steps(moments: Moments, cell: IntArray, shape: tuple[int, int], grid: int) -> IntArray:
    """Find the step in which the response times of each arm and endpoint were recorded.

    If all times are multiples of a step, so are the minimum, maximum and sum of each row, and the greatest common
    divisor of these numbers over all rows. This divisor is taken as the step: with enough rows it is larger only by
    chance (see `FEWEST_OTHERS`). A larger divisor that at least half of the rows have is taken instead, so that a few
    other times do not hide the step. If a clock ticks more slowly than its times are written (15.6 ms, in whole
    milliseconds), the tick of the arm is the step. A cell (arm × endpoint) without enough rows gets the step of its
    arm; an arm without enough rows gets `grid`.

    Args:
        moments: Minimum, maximum and sum of the times of the requests in each row.
        cell: Arm × endpoint of each row, numbered arm · endpoints + endpoint, shape (rows,).
        shape: (2, endpoints).
        grid: A step of which all times are known to be multiples; the steps found are multiples of it.

    Returns:
        The steps, shape (2, endpoints).

    >>> ten = np.arange(10)
    >>> rows = Moments(*(ten for _ in range(5)), n=ten * 0 + 1, failures=ten * 0, sum_time=ten * 3000.0,
    ...     sum_sq_time=ten * 1.0, min_time=ten * 3000.0, max_time=ten * 3000.0, bytes=ten * 0.0, bytes_sq=ten * 0.0,
    ...     statuses=ten * 0, redirects=ten * 0, client_errors=ten * 0)
    >>> find_steps(rows, np.where(ten < 9, 0, 2), (2, 2), grid=1000)
    array([[3000, 3000],
           [1000, 1000]])
    """
    all_numbers = np.stack([moments.min_time, moments.max_time, moments.sum_time])
    # Rows with times, in the order of their cells.
    with_times = np.flatnonzero((moments.n > moments.failures) & np.isfinite(all_numbers).all(axis=0))
    rows = with_times[np.argsort(cell[with_times], kind="stable")]
    numbers, cell = all_numbers[:, rows], cell[rows]
    # A row with other numbers than integers (larger ones than 2^53 are not exact as floats) says nothing about the
    # step: the grid takes the place of its numbers.
    is_integral = (numbers == np.rint(numbers)).all(axis=0) & (np.abs(numbers).max(axis=0, initial=0) < 2**53)
    row_divisor = np.gcd.reduce(np.where(is_integral, numbers, grid).astype(np.int64), axis=0)
    extremes = numbers[:2]
    arm = cell // shape[1]
    # The steps of arms come first: they are the defaults of the cells.
    arm_steps = _find_divisors(row_divisor, extremes, arm, np.full(2, grid), grid)
    steps = _find_divisors(row_divisor, extremes, cell, np.repeat(arm_steps, shape[1]), grid).reshape(shape)
    # The tick of each arm; 0 without a tick.
    ticks = [_find_tick(extremes[:, arm == k].ravel(), int(arm_steps[k])) for k in (0, 1)]
    return np.asarray(np.maximum(steps, np.array(ticks, dtype=np.int64)[:, None]))


def _find_tick(extremes: FloatArray, step: int) -> int:
    """Find the tick of a slow clock: all times are multiples of the tick, rounded to `step`.

    `extremes` are the minima and maxima of all rows. Returns 0 if no tick explains all of them, or if they have
    too many distinct values to be sure (`FEWEST_EXTREMES`, `PER_TICK`).
    """
    values = np.unique(extremes)
    if values.size < 2 or extremes.size < max(FEWEST_EXTREMES, PER_TICK * values.size):
        return 0
    smallest_difference = float(np.diff(values).min())
    if smallest_difference < 2 * step:  # rounding may change each value by nearly a step: no tick is to be seen
        return 0
    # Start from the smallest difference, a rough tick. Each larger value gives a more exact one, because it contains
    # more ticks, whose number is already known.
    tick = smallest_difference
    for value in values[values > 0]:
        ticks_in_value = max(round(value / tick), 1)
        tick = value / ticks_in_value
    near_multiple = np.abs(values - np.rint(values / tick) * tick) <= step
    return round(tick) if near_multiple.all() else 0


def _find_divisors(
    row_divisor: IntArray, extremes: FloatArray, owner: IntArray, default: IntArray, grid: int
) -> IntArray:
    """Find the common divisor of all rows of each owner, or a larger one that most of its rows have.

    Most means at least the share `MOST`. A divisor counts only if it is a multiple of the grid, and if enough rows have
    other extremes than one of the rows with this divisor: otherwise it may be chance (`FEWEST_OTHERS`).

    Args:
        row_divisor: Greatest common divisor of the numbers of each row, shape (rows,).
        extremes: Minimum and maximum of each row, shape (2, rows).
        owner: Number of the owner (an arm, or an arm × endpoint) of each row, in rising order, shape (rows,).
        default: Divisor of each owner for which no divisor counts, shape (owners,).
        grid: Step of which all times are multiples.

    Returns:
        The divisor of each owner, shape (owners,).
    """
    divisors = default.astype(np.int64)
    if not owner.size:
        return divisors
    # Arrays with one element for each owner that has rows; `position` is the index of each row's owner in them.
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    rows_of_owner = np.diff(np.append(starts, owner.size))
    position = np.repeat(np.arange(starts.size), rows_of_owner)

    # The divisor that all rows of an owner have.
    unlike_first = (extremes != extremes[:, starts[position]]).any(axis=0)
    others = np.add.reduceat(unlike_first.astype(np.int64), starts)
    common = np.gcd.reduceat(row_divisor, starts)
    is_sure = (others >= FEWEST_OTHERS) & (common > 0) & (common % grid == 0)
    divisors[owner[starts[is_sure]]] = common[is_sure]

    # The divisor that most rows have: larger, if a few other rows spoil the common one. Again, rows with other extremes
    # than one row with this divisor (the last) show that it is no chance.
    frequent = _find_most_frequent(row_divisor, owner)
    is_multiple = row_divisor % frequent[position] == 0
    shares = np.add.reduceat(is_multiple.astype(float), starts) / rows_of_owner
    last_multiple = np.maximum.reduceat(np.where(is_multiple, np.arange(owner.size), -1), starts)
    unlike_last = is_multiple & (extremes != extremes[:, last_multiple[position]]).any(axis=0)
    others_of_most = np.add.reduceat(unlike_last.astype(np.int64), starts)
    is_of_most = (shares >= MOST) & (others_of_most >= FEWEST_OTHERS) & (frequent % grid == 0)
    owners = owner[starts[is_of_most]]
    divisors[owners] = np.maximum(divisors[owners], frequent[is_of_most])
    return divisors


def _find_most_frequent(row_divisor: IntArray, owner: IntArray) -> IntArray:
    """Find the most frequent element of `row_divisor` among the rows of each owner; of equal counts, the largest.

    Args:
        row_divisor: Greatest common divisor of the times of each row, shape (rows,); 0 if these are all 0.
        owner: Number of the owner (an arm, or an arm × endpoint) of each row, in rising order, shape (rows,).

    Returns:
        A divisor for each owner that has rows, in the order of owners; 1 instead of 0, so that numbers can be divided
        by it.
    """
    order = np.lexsort((row_divisor, owner))  # by owner, then by divisor
    sorted_divisor, sorted_owner = row_divisor[order], owner[order]
    # One element for each pair of owner and divisor, with the number of its rows.
    starts = np.flatnonzero((np.diff(sorted_divisor, prepend=-1) != 0) | (np.diff(sorted_owner, prepend=-1) != 0))
    counts = np.diff(np.append(starts, sorted_divisor.size))
    pair_divisor, pair_owner = sorted_divisor[starts], sorted_owner[starts]
    # By owner, then by count. The sort is stable: of equal counts, the largest divisor is the last.
    by_count = np.lexsort((counts, pair_owner))
    last_of_owner = by_count[np.flatnonzero(np.diff(pair_owner[by_count], append=-1))]
    frequent: IntArray = np.maximum(pair_divisor[last_of_owner], 1)
    return frequent
