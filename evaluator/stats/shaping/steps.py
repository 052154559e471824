"""In which steps the times of each arm and endpoint were recorded."""

from __future__ import annotations

import numpy as np

from evaluator.records import Moments
from evaluator.records.arrays import FloatArray, IntArray

FEWEST_OTHERS = 7
"""Rows with other extremes than the first from which a common divisor is believed. Each brings a number that a step of
k divides by chance once in k times: of what is recorded in steps of 1, seven are multiples of 2 once in 128 times, and
of a step that would matter never."""

MOST = 0.5
"""Share of an arm's rows whose minimum, maximum and sum are all multiples of a step that the others need not be: a few
times that lie off it (cut off at 1 ms, or recorded by another tool) do not make all the others fine."""

FEWEST_EXTREMES, PER_TICK = 40, 4
"""Extremes in all, and for each distinct time, from which a clock that ticks is told from times that spread."""


def find_steps_us(moments: Moments, cell: IntArray, shape: tuple[int, int], grid_us: int) -> IntArray:
    """The step (µs) of the times of each arm and endpoint, of `shape` (2, endpoints).

    `cell` (rows,) is the place of each row in the flattened shape. Extremes and sums of a row are multiples of its
    step; so is their greatest common divisor, which is therefore never too small a step, and too large a one only by
    the chance above. Where at least half of the rows have a common one, a few times that lie off it do not hide it.
    Where a clock ticks more slowly than its times are written (15.6 ms in whole milliseconds) the
    tick of the arm is the step. Cells without enough rows have the step of their arm, arms without enough rows
    `grid_us`, the step of all times. Sums that are no whole numbers are not recorded times, and say nothing.

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
    """The tick of which few distinct times are multiples but for their rounding to `step_us`; 0 where there is none."""
    values = np.unique(extremes)
    if values.size < 2 or extremes.size < max(FEWEST_EXTREMES, PER_TICK * values.size):
        return 0
    rough = float(np.diff(values).min())
    if rough < 2 * step_us:
        return 0
    # Each value in turn says how long a tick is more exactly: it is more of them.
    tick = rough
    for value in values[values > 0]:
        tick = value / max(round(value / tick), 1)
    near = np.abs(values - np.rint(values / tick) * tick) <= step_us
    return round(tick) if near.all() else 0


def _divide(divisor: IntArray, numbers: FloatArray, owner: IntArray, otherwise: IntArray, grid_us: int) -> IntArray:
    """Common divisor of the rows of each owner (rising), or of most of them; else what it is `otherwise`: (owners,)."""
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
    """The divisor that most rows of each owner (rising) have, (owners,); 1 where that is 0."""
    order = np.lexsort((divisor, owner))
    ordered, row_owner = divisor[order], owner[order]
    begins = np.flatnonzero((np.diff(ordered, prepend=-1) != 0) | (np.diff(row_owner, prepend=-1) != 0))
    counts, row_owner = np.diff(np.append(begins, ordered.size)), row_owner[begins]
    rising = np.lexsort((counts, row_owner))
    last = rising[np.flatnonzero(np.diff(row_owner[rising], append=-1))]
    frequent: IntArray = np.maximum(ordered[begins][last], 1)
    return frequent
