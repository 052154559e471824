"""Add a regression to cells: the same traffic as if the candidate had been slower or had failed more often."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from evaluator.records import BINS_PER_DECADE, BLOCK_BUCKETS, Bins, Cells, InstanceBins, Moments
from evaluator.records.arrays import BoolArray, FloatArray, IntArray
from evaluator.stats.shaping.bins import bin_limits_ms
from evaluator.stats.shaping.cells import add_up, join_rows, take
from evaluator.stats.shaping.index import group_rows, number_groups

Table = TypeVar("Table", Bins, InstanceBins)


def slow_down(cells: Cells, arm: str, change: float) -> Cells:
    """Multiply every response time of `arm` by 1 + `change`.

    Sums are exact. A bin is shifted as if its requests were spread evenly over it (or over its grid points), so
    histograms are exact to the width of a bin, 2 %.
    """
    arm_code, factor = cells.arms.index(arm), 1.0 + change
    moments = cells.moments
    row_factor = np.where(moments.arm == arm_code, factor, 1.0)
    slower = replace(
        moments,
        sum_time=moments.sum_time * row_factor,
        sum_sq_time=moments.sum_sq_time * row_factor**2,
        min_time=moments.min_time * row_factor,
        max_time=moments.max_time * row_factor,
    )
    shift = _Shift(cells, factor)
    return replace(
        cells,
        moments=slower,
        bins=shift.apply(cells.bins, cells.bins.arm == arm_code),
        instance_bins=shift.apply(cells.instance_bins, cells.instance_bins.arm == arm_code),
    )


class _Shift:
    """Where the requests of each bin go if all times are multiplied by a factor: to a few neighbouring bins."""

    def __init__(self, cells: Cells, factor: float) -> None:
        """Find the target bins of each bin of `cells`, and how the requests of a bin are divided among them."""
        largest = int(max(cells.bins.bin.max(initial=0), cells.instance_bins.bin.max(initial=0)))
        last = largest + int(abs(np.log10(factor)) * BINS_PER_DECADE) + 3  # surely beyond the largest target
        # Times in ms: bin k lies between the limits k and k + 1. A bin without a point of the grid has width 0.
        limits = bin_limits_ms(last, cells.grid / cells.units_per_ms, cells.units_per_ms)
        # After the shift, the requests of each bin lie evenly from `low` to before `high`.
        low, high = limits[: largest + 1] * factor, limits[1 : largest + 2] * factor
        self.first_target: IntArray = np.asarray(np.searchsorted(limits, low, side="right") - 1, dtype=np.int64)
        """The lowest target bin of each bin, shape (bins,)."""
        self.targets = int((np.searchsorted(limits, high, side="left") - self.first_target).max(initial=1)) + 1
        """Number of neighbouring target bins, the same for all bins."""
        width = np.maximum(high - low, 1e-300)  # no division by 0: all requests of a bin of width 0 go to one target
        target_ends = limits[np.minimum(self.first_target[:, None] + np.arange(1, self.targets + 1), last + 1)]
        share_below_end = np.clip((target_ends - low[:, None]) / width[:, None], 0.0, 1.0)
        share_below_end[:, -1] = 1.0  # all requests are below the last end; rounding must lose none
        self.share_below_end: FloatArray = share_below_end
        """Share of the requests of each bin below the end of each of its targets, shape (bins, targets)."""

    def apply(self, rows: Table, selected: BoolArray) -> Table:
        """Move the requests of the rows that are `selected` to their target bins; totals do not change.

        `rows`: bins of histograms, with the number of the bin (`bin`) and its requests (`n`); `selected`: for each row.
        """
        moved = take(rows, selected)
        # Each row becomes one row for each of its `targets` bins; those without requests are left out.
        counts = _divide(moved.n, self.share_below_end[moved.bin]).ravel()
        keep = counts > 0
        columns = {name: np.repeat(getattr(moved, name), self.targets)[keep] for name in rows.__dataclass_fields__}
        columns["bin"] = (self.first_target[moved.bin][:, None] + np.arange(self.targets)).ravel()[keep]
        columns["n"] = counts[keep]
        # Several bins may have moved requests to the same target: these rows are added up.
        return join_rows([take(rows, ~selected), add_up(type(rows)(**columns))])


def _divide(n: IntArray, share_below_end: FloatArray) -> IntArray:
    """Divide the requests of each row among its targets, shape (rows, targets): whole numbers with the same total.

    `n`: requests of each row; `share_below_end`: their share below the end of each target, shape (rows, targets).
    """
    # Requests of all rows before, and of this row below the start and each end of the targets. The cumulated numbers
    # are rounded, so that rounding errors do not add up. The last number of a row is the first of the next one.
    before = np.cumsum(n) - n
    cumulated = before[:, None] + n[:, None] * np.column_stack([np.zeros(n.size), share_below_end])
    return np.asarray(np.diff(np.floor(cumulated + 0.5), axis=1), dtype=np.int64)


def fail_more(cells: Cells, arm: str, added: float, random: np.random.Generator) -> Cells:
    """Turn a random share `added` of the successes of `arm` into failures; their times are removed from the sums.

    Which requests of a row fail is not known, so its sums shrink in proportion.
    """
    arm_code = cells.arms.index(arm)
    moments = cells.moments
    successes = moments.n - moments.failures
    new_failures = np.where(moments.arm == arm_code, random.binomial(successes, added), 0)
    kept_share = np.where(successes > 0, 1 - new_failures / np.maximum(successes, 1), 1.0)
    failing = replace(
        moments,
        failures=moments.failures + new_failures,
        sum_time=moments.sum_time * kept_share,
        sum_sq_time=moments.sum_sq_time * kept_share,
        bytes=moments.bytes * kept_share,
        bytes_sq=moments.bytes_sq * kept_share,
        statuses=_keep_share(moments.statuses, kept_share),
        redirects=_keep_share(moments.redirects, kept_share),
        client_errors=_keep_share(moments.client_errors, kept_share),
    )
    keys = ("run", "arm", "endpoint")
    return replace(
        cells,
        moments=failing,
        bins=_remove_from_bins(cells.bins, moments, new_failures, keys, random),
        instance_bins=_remove_from_bins(cells.instance_bins, moments, new_failures, (*keys, "instance"), random),
    )


def _keep_share(counts: IntArray, share: FloatArray) -> IntArray:
    """Multiply the count of each row by its share, and round to whole numbers."""
    return np.rint(counts * share).astype(np.int64)


def _remove_from_bins(
    rows: Table, moments: Moments, new_failures: IntArray, keys: tuple[str, ...], random: np.random.Generator
) -> Table:
    """Remove requests that became failures from random bins of their histograms: those contain successes only.

    Args:
        rows: Histograms by buckets, or by blocks of buckets; a row for each bin of each histogram.
        moments: The rows with the new failures.
        new_failures: How many requests of each row of `moments` became failures.
        keys: Columns that, with the time, tell which rows of both tables belong to one histogram.
        random: Chooses the bins.
    """
    by_block = "block" in rows.__dataclass_fields__
    time_of_rows: IntArray = getattr(rows, "block" if by_block else "bucket")
    time_of_moments = moments.bucket // BLOCK_BUCKETS if by_block else moments.bucket
    keys_of_moments = np.stack([*(getattr(moments, key) for key in keys), time_of_moments])
    keys_of_rows = np.stack([*(getattr(rows, key) for key in keys), time_of_rows])
    # Rows of both tables with the same keys get the same number of a histogram; `starts` has one entry for each.
    order, starts = group_rows(np.concatenate([keys_of_moments, keys_of_rows], axis=1))
    histogram = number_groups(order, starts)
    histogram_of_moments, histogram_of_rows = histogram[: new_failures.size], histogram[new_failures.size :]
    to_remove = np.bincount(histogram_of_moments, weights=new_failures, minlength=starts.size).astype(np.int64)
    n = rows.n.copy()
    rows_by_histogram = np.argsort(histogram_of_rows, kind="stable")
    # Where the rows of each histogram begin in this order, and where the last one ends.
    first_row = np.searchsorted(histogram_of_rows[rows_by_histogram], np.arange(starts.size + 1))
    for number in np.flatnonzero(to_remove):
        bin_rows = rows_by_histogram[first_row[number] : first_row[number + 1]]
        if bin_rows.size:
            # No more than the histogram holds: the draw fails for a larger number.
            count = min(int(to_remove[number]), int(n[bin_rows].sum()))
            # Draws `count` requests of the histogram without replacement, and returns how many are of each bin.
            n[bin_rows] -= random.multivariate_hypergeometric(n[bin_rows], count)
    return take(replace(rows, n=n), n > 0)
