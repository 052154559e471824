"""Find the steps in which the times of each arm and endpoint were recorded (method B.2, steps of recorded times)."""

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


def find_steps_us(moments: Moments, cell: IntArray, shape: tuple[int, int], grid_us: int) -> IntArray:
    """Find the step (µs) of the times of each arm and endpoint.

    Extremes and sums of a row are multiples of the step, and so is their greatest common divisor. The divisor is
    therefore never smaller than the step, and larger only by chance (see `FEWEST_OTHERS`). If at least half of the rows
    have a common divisor, a few other times do not hide it. If a clock ticks more slowly than its times are written
    (15.6 ms, in whole milliseconds), the tick of the arm is the step. A cell without enough rows gets the step of its
    arm; an arm without enough rows gets `grid_us`. Rows whose sums are not integers are ignored.

    Args:
        moments: Extremes and sums of times (µs).
        cell: Index of each row's arm and endpoint in the flattened shape, (rows,).
        shape: (2, endpoints).
        grid_us: Step of all times.

    Returns:
        The steps, of `shape`.

    >>> ten = np.arange(10)
    >>> rows = Moments(*(ten for _ in range(5)), n=ten * 0 + 1, failures=ten * 0, sum_us=ten * 3000.0,
    ...     sum_sq_us=ten * 1.0, min_us=ten * 3000.0, max_us=ten * 3000.0, bytes=ten * 0.0, bytes_sq=ten * 0.0)
    >>> find_steps_us(rows, np.where(ten < 9, 0, 2), (2, 2), grid_us=1000)
    array([[3000, 3000],
           [1000, 1000]])
    """
    numbers = np.stack([moments.min_us, moments.max_us, moments.sum_us])
    recorded = np.flatnonzero((moments.n > moments.failures) & np.isfinite(numbers).all(axis=0))
    numbers, cell = numbers[:, recorded], cell[recorded]
    order = np.argsort(cell, kind="stable")
    numbers, cell = numbers[:, order], cell[order]
    integral = (numbers == np.rint(numbers)).all(axis=0) & (np.abs(numbers).max(axis=0, initial=0) < 2**53)
    divisor = np.gcd.reduce(np.where(integral, numbers, grid_us).astype(np.int64), axis=0)
    arm = cell // shape[1]
    of_arms = _divide(divisor, numbers, arm, np.full(2, grid_us), grid_us)
    steps = _divide(divisor, numbers, cell, np.repeat(of_arms, shape[1]), grid_us).reshape(shape)
    ticks = [_find_tick_us(numbers[:2, arm == code].ravel(), int(of_arms[code])) for code in (0, 1)]
    return np.asarray(np.maximum(steps, np.array(ticks, dtype=np.int64)[:, None]))


def _find_tick_us(extremes: FloatArray, step_us: int) -> int:
    """The tick whose multiples, rounded to `step_us`, are all these times, if they are few; 0 without a tick."""
    values = np.unique(extremes)
    if values.size < 2 or extremes.size < max(FEWEST_EXTREMES, PER_TICK * values.size):
        return 0
    rough = float(np.diff(values).min())
    if rough < 2 * step_us:
        return 0
    # Each larger value gives a more exact tick, because it contains more ticks.
    tick = rough
    for value in values[values > 0]:
        tick = value / max(round(value / tick), 1)
    near = np.abs(values - np.rint(values / tick) * tick) <= step_us
    return round(tick) if near.all() else 0


def _divide(divisor: IntArray, numbers: FloatArray, owner: IntArray, otherwise: IntArray, grid_us: int) -> IntArray:
    """Common divisor of all rows of each owner (sorted), or of most of them; else its `otherwise`: shape (owners,)."""
    out = otherwise.astype(np.int64)
    if not owner.size:
        return out
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    first = np.repeat(starts, np.diff(np.append(starts, owner.size)))
    others = np.add.reduceat((numbers[:2] != numbers[:2, first]).any(axis=0).astype(np.int64), starts)
    common = np.gcd.reduceat(divisor, starts)
    sure = (others >= FEWEST_OTHERS) & (common > 0) & (common % grid_us == 0)
    out[owner[starts[sure]]] = common[sure]
    usual = _most_frequent(divisor, owner)
    alike = divisor % usual[np.searchsorted(starts, first)] == 0
    shares = np.add.reduceat(alike.astype(float), starts) / np.diff(np.append(starts, owner.size))
    last_alike = np.maximum.reduceat(np.where(alike, np.arange(owner.size), -1), starts)[np.searchsorted(starts, first)]
    differs = alike & (numbers[:2] != numbers[:2, last_alike]).any(axis=0)
    others = np.add.reduceat(differs.astype(np.int64), starts)
    most = (shares >= MOST) & (others >= FEWEST_OTHERS) & (usual % grid_us == 0)
    out[owner[starts[most]]] = np.maximum(out[owner[starts[most]]], usual[most])
    return out


def _most_frequent(divisor: IntArray, owner: IntArray) -> IntArray:
    """The most frequent divisor among the rows of each owner (sorted), shape (owners,); 1 instead of 0."""
    order = np.lexsort((divisor, owner))
    ordered, row_owner = divisor[order], owner[order]
    begins = np.flatnonzero((np.diff(ordered, prepend=-1) != 0) | (np.diff(row_owner, prepend=-1) != 0))
    counts, row_owner = np.diff(np.append(begins, ordered.size)), row_owner[begins]
    rising = np.lexsort((counts, row_owner))
    last = rising[np.flatnonzero(np.diff(row_owner[rising], append=-1))]
    frequent: IntArray = np.maximum(ordered[begins][last], 1)
    return frequent
