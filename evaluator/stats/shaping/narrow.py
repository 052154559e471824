"""Cells of a part of a release: an interval of time, some endpoints, some instances."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from evaluator.errors import UnknownName, UsageError
from evaluator.records import BLOCK_BUCKETS, Cells, ReadingCells
from evaluator.records.arrays import BoolArray, IntArray
from evaluator.stats.shaping.cells import COUNTS, NO_FAILURES, coarsen, take, where
from evaluator.stats.shaping.index import AFTER_ALL, BEFORE_ALL, distinct
from evaluator.stats.shaping.reading_panels import keep_rows


def narrow(
    cells: Cells,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    endpoints: Collection[str] | None = None,
    instances: Collection[str] | None = None,
) -> Cells:
    """Keep the requests of an interval of time, of some endpoints, of some instances; `None`: no such restriction.

    Time is cut to whole blocks of four buckets, and the blocks that contain `start` and `end` are kept as a whole.
    Histograms of single instances are stored by block, not by bucket. So if `instances` is set, the buckets of the
    returned cells are blocks.

    Raises:
        UnknownName: for an endpoint or instance that the cells do not have.
        UsageError: if the interval is empty.
    """
    if endpoints is not None:
        cells = where(cells, endpoint=_find_codes("endpoint", cells.endpoints, endpoints))
    if start is not None or end is not None:
        block_s = cells.bucket_s * BLOCK_BUCKETS
        first = BEFORE_ALL if start is None else math.floor(start.timestamp() / block_s)
        last = AFTER_ALL if end is None else math.ceil(end.timestamp() / block_s) - 1
        if first > last:
            raise UsageError("the interval of time is empty", hint="set an end that is later than the start")
        # Of all runs alike: the run, the first argument, is not used.
        cells = _keep_blocks(cells, lambda _, block: (block >= first) & (block <= last))
    if instances is not None:
        cells = coarsen(where(cells, instance=_find_codes("instance", cells.instances, instances)))
    return cells


def _find_codes(kind: str, all_names: tuple[str, ...], names: Collection[str]) -> list[int]:
    """Return the code of each of `names`: its position in `all_names`. `kind` is a word for an error message."""
    for name in names:
        if name not in all_names:
            raise UnknownName(kind, name, all_names)
    return [all_names.index(name) for name in names]


def cut_readings(readings: ReadingCells, start: datetime | None, end: datetime | None) -> ReadingCells:
    """Keep the readings of the buckets that lie completely between two times; `None`: no limit.

    The facts of each query (`ReadingCells.facts`) are not cut: they remain those of the whole time.
    """
    keep = np.ones(readings.bucket.size, dtype=bool)
    if start is not None:
        keep &= readings.bucket >= math.ceil(start.timestamp() / readings.bucket_s)
    if end is not None:
        keep &= readings.bucket < math.floor(end.timestamp() / readings.bucket_s)
    return keep_rows(readings, keep)


def cut_each_run(cells: Cells, from_s: float, to_s: float) -> Cells:
    """Keep what is `from_s` to `to_s` seconds after the start of each run, in whole blocks of four buckets.

    Blocks that contain `from_s` or `to_s` are kept as a whole. A run starts with the block of its first request.
    """
    block_s = cells.bucket_s * BLOCK_BUCKETS
    # Blocks since the start of the run, from `first` to before `end`: `from_s` rounded down, `to_s` rounded up (`//`
    # rounds down; of the negative time, it rounds up).
    first, end = int(from_s // block_s), -int(-to_s // block_s)
    start_blocks = np.zeros(max(len(cells.runs), 1), dtype=np.int64)  # first block of each run, by its code
    for run in distinct(cells.moments.run):
        start_blocks[run] = cells.moments.bucket[cells.moments.run == run].min() // BLOCK_BUCKETS

    def is_in_interval(run: IntArray, block: IntArray) -> BoolArray:
        since_start = block - start_blocks[run]
        return (since_start >= first) & (since_start < end)

    return _keep_blocks(cells, is_in_interval)


def _keep_blocks(cells: Cells, keep: Callable[[IntArray, IntArray], BoolArray]) -> Cells:
    """Keep the rows for whose run and block, arrays of shape (rows,), `keep(run, block)` is true.

    Kinds of failures are left out, because they are counted for whole runs only.
    """
    tables: dict[str, Any] = {}
    for table in COUNTS:
        rows = getattr(cells, table)
        block = rows.block if table == "instance_bins" else rows.bucket // BLOCK_BUCKETS
        tables[table] = take(rows, keep(rows.run, block))
    return replace(cells, failure_kinds=NO_FAILURES, **tables)
