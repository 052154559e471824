"""In which steps the times of each arm and endpoint were recorded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluator.records import Moments

__all__ = ["find_steps_us"]

IntArray = npt.NDArray[np.int64]

FEWEST_OTHERS = 7
"""Rows with other extremes than the first from which a common divisor is believed. Each brings a number that a step of
k divides by chance once in k times: of what is recorded in steps of 1, seven are multiples of 2 once in 128 times, and
of a step that would matter never."""


def find_steps_us(moments: Moments, cell: IntArray, shape: tuple[int, int], grid_us: int) -> IntArray:
    """The step (µs) of the times of each arm and endpoint, of `shape` (2, endpoints).

    `cell` (rows,) is the place of each row in the flattened shape. Extremes and sums of a row are multiples of its
    step; so is their greatest common divisor, which is therefore never too small a step, and too large a one only by
    the chance above. Cells without enough rows have the step of their arm, arms without enough rows `grid_us`, the step
    of all times. Sums that are no whole numbers are not recorded times, and say nothing.

    >>> ten = np.arange(10)
    >>> rows = Moments(*(ten for _ in range(5)), n=ten * 0 + 1, failures=ten * 0, sum_us=ten * 3000.0,
    ...     sum_sq_us=ten * 1.0, min_us=ten * 3000.0, max_us=ten * 3000.0, bytes=ten * 0.0, bytes_sq=ten * 0.0)
    >>> find_steps_us(rows, np.where(ten < 9, 0, 2), (2, 2), grid_us=1000)
    array([[3000, 3000],
           [1000, 1000]])
    """
    numbers = np.stack([moments.min_us, moments.max_us, moments.sum_us])
    known = np.flatnonzero((moments.n > moments.failures) & np.isfinite(numbers).all(axis=0))
    numbers, cell = numbers[:, known], cell[known]
    order = np.argsort(cell, kind="stable")
    numbers, cell = numbers[:, order], cell[order]
    whole = (numbers == np.rint(numbers)).all(axis=0) & (np.abs(numbers).max(axis=0, initial=0) < 2**53)
    divisor = np.gcd.reduce(np.where(whole, numbers, grid_us).astype(np.int64), axis=0)
    by_arm = np.repeat(_divide(divisor, numbers, cell // shape[1], np.full(2, grid_us), grid_us), shape[1])
    return _divide(divisor, numbers, cell, by_arm, grid_us).reshape(shape)


def _divide(
    divisor: IntArray, numbers: npt.NDArray[np.float64], owner: IntArray, otherwise: IntArray, grid_us: int
) -> IntArray:
    """Common divisor of the rows of each owner (rising), or what it is `otherwise`: (owners,)."""
    out = otherwise.astype(np.int64)
    if not owner.size:
        return out
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    first = np.repeat(starts, np.diff(np.append(starts, owner.size)))
    others = np.add.reduceat((numbers[:2] != numbers[:2, first]).any(axis=0).astype(np.int64), starts)
    found = np.gcd.reduceat(divisor, starts)
    sure = (others >= FEWEST_OTHERS) & (found > 0) & (found % grid_us == 0)
    out[owner[starts[sure]]] = found[sure]
    return out
