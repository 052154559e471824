"""Add a regression to cells: the same traffic as if the candidate had been slower or had failed more often."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from evaluator.records import BLOCK_BUCKETS, Bins, Cells, InstanceBins, Moments
from evaluator.records.arrays import BoolArray, FloatArray, IntArray
from evaluator.records.cells import BINS_PER_DECADE
from evaluator.stats.shaping.bins import bin_limits_ms
from evaluator.stats.shaping.cells import add_up, join_rows, take
from evaluator.stats.shaping.index import group_rows, number_groups

Table = TypeVar("Table", Bins, InstanceBins)


def slow_down(cells: Cells, arm: str, change: float) -> Cells:
    """Multiply every response time of `arm` by 1 + `change`.

    Sums are exact. A bin is shifted as if its requests were spread evenly over it (or over its grid points), so
    histograms are exact to the width of a bin, 2 %.
    """
    code, factor = cells.arms.index(arm), 1.0 + change
    moments = cells.moments
    own_rows = moments.arm == code
    by = np.where(own_rows, factor, 1.0)
    slower = replace(
        moments,
        sum_us=moments.sum_us * by,
        sum_sq_us=moments.sum_sq_us * by**2,
        min_us=moments.min_us * by,
        max_us=moments.max_us * by,
    )
    shift = _Shift(cells, factor)
    return replace(
        cells,
        moments=slower,
        bins=shift.apply(cells.bins, cells.bins.arm == code),
        instance_bins=shift.apply(cells.instance_bins, cells.instance_bins.arm == code),
    )


class _Shift:
    """The target bins of the requests of each bin, a few neighbours, with their shares."""

    def __init__(self, cells: Cells, factor: float) -> None:
        used = int(max(cells.bins.bin.max(initial=0), cells.instance_bins.bin.max(initial=0)))
        last = used + int(abs(np.log10(factor)) * BINS_PER_DECADE) + 3
        limits = bin_limits_ms(last, cells.grid_us / 1000)
        low, high = limits[: used + 1] * factor, limits[1 : used + 2] * factor
        # Source k covers [low, high); target j begins at limits[j]. The share below each target's beginning is linear.
        self.first: IntArray = np.asarray(np.searchsorted(limits, low, side="right") - 1, dtype=np.int64)
        self.reach = int((np.searchsorted(limits, high, side="left") - self.first).max(initial=1)) + 1
        width = np.maximum(high - low, 1e-300)
        ends = limits[np.minimum(self.first[:, None] + np.arange(1, self.reach + 1), last + 1)]
        done = np.clip((ends - low[:, None]) / width[:, None], 0.0, 1.0)
        done[:, -1] = 1.0
        self.done: FloatArray = done

    def apply(self, rows: Table, selected: BoolArray) -> Table:
        """Move the rows that are `selected`; totals do not change."""
        moved = take(rows, selected)
        parts = _divide(moved.n, self.done[moved.bin]).ravel()
        keep = parts > 0
        columns = {name: np.repeat(getattr(moved, name), self.reach)[keep] for name in rows.__dataclass_fields__}
        columns["bin"] = (self.first[moved.bin][:, None] + np.arange(self.reach)).ravel()[keep]
        columns["n"] = parts[keep]
        return join_rows([take(rows, ~selected), add_up(type(rows)(**columns))])


def _divide(n: IntArray, done: FloatArray) -> IntArray:
    """Whole numbers of requests in each target, shape (rows, targets): rounding is carried from row to row."""
    before = np.cumsum(n) - n
    within = before[:, None] + n[:, None] * np.column_stack([np.zeros(n.size), done])
    # The last column of one row and the first of the next are the same whole number.
    return np.asarray(np.diff(np.floor(within + 0.5), axis=1), dtype=np.int64)


def fail_more(cells: Cells, arm: str, added: float, random: np.random.Generator) -> Cells:
    """Turn a random share `added` of the successes of `arm` into failures; their times are removed from the sums."""
    code = cells.arms.index(arm)
    rows = cells.moments
    passed = rows.n - rows.failures
    lost = np.where(rows.arm == code, random.binomial(passed, added), 0)
    kept_share = np.where(passed > 0, 1 - lost / np.maximum(passed, 1), 1.0)
    fewer = replace(
        rows,
        failures=rows.failures + lost,
        sum_us=rows.sum_us * kept_share,
        sum_sq_us=rows.sum_sq_us * kept_share,
        bytes=rows.bytes * kept_share,
        bytes_sq=rows.bytes_sq * kept_share,
    )
    return replace(
        cells,
        moments=fewer,
        bins=_thin(cells.bins, rows, lost, ("run", "arm", "endpoint"), random),
        instance_bins=_thin(cells.instance_bins, rows, lost, ("run", "arm", "endpoint", "instance"), random),
    )


def _thin(rows: Table, moments: Moments, lost: IntArray, keys: tuple[str, ...], random: np.random.Generator) -> Table:
    """Remove the lost requests of every histogram from random bins of it."""
    time_key = "block" if "block" in rows.__dataclass_fields__ else "bucket"
    time: IntArray = moments.bucket // BLOCK_BUCKETS if time_key == "block" else moments.bucket
    own: IntArray = getattr(rows, time_key)
    of_moments = np.stack([*(getattr(moments, key) for key in keys), time])
    of_rows = np.stack([*(getattr(rows, key) for key in keys), own])
    order, starts = group_rows(np.concatenate([of_moments, of_rows], axis=1))
    group_of = number_groups(order, starts)
    to_remove = np.bincount(group_of[: lost.size], weights=lost, minlength=starts.size).astype(np.int64)
    n = rows.n.copy()
    order = np.argsort(group_of[lost.size :], kind="stable")
    begins = np.searchsorted(group_of[lost.size :][order], np.arange(starts.size + 1))
    for k in np.flatnonzero(to_remove):
        bins = order[begins[k] : begins[k + 1]]
        if bins.size:
            n[bins] -= random.multivariate_hypergeometric(n[bins], min(int(to_remove[k]), int(n[bins].sum())))
    return take(replace(rows, n=n), n > 0)
