"""Cells of a part of a release: an interval of time, some endpoints, some instances."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from evaluator.errors import UnknownName, UsageError
from evaluator.records import BLOCK_BUCKETS, Cells, ReadingCells
from evaluator.records.arrays import BoolArray, IntArray
from evaluator.stats.shaping.cells import COUNTS, NO_FAILURES, coarsen, take, where
from evaluator.stats.shaping.index import distinct
from evaluator.stats.shaping.reading_panels import keep_rows


def narrow(
    cells: Cells,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    endpoints: Collection[str] | None = None,
    instances: Collection[str] | None = None,
) -> Cells:
    """Keep the requests of an interval of time, of some endpoints, of some instances; `None`: of all.

    Time is cut to whole blocks of four buckets, including those of `start` and `end`. Single instances have histograms
    of whole blocks only: with `instances`, blocks become the buckets.

    Raises:
        UnknownName: for an endpoint or instance that the cells do not have.
        UsageError: if the interval is empty.
    """
    if endpoints is not None:
        cells = where(cells, endpoint=_find_codes("endpoint", cells.endpoints, endpoints))
    if start is not None or end is not None:
        block_s = cells.bucket_s * BLOCK_BUCKETS
        first = -(2**62) if start is None else int(start.timestamp() // block_s)
        last = 2**62 if end is None else int(-(-end.timestamp() // block_s)) - 1
        if first > last:
            raise UsageError("the interval of time is empty", hint="set an end that is later than the start")
        cells = _keep_blocks(cells, lambda _, block: (block >= first) & (block <= last))
    if instances is not None:
        cells = coarsen(where(cells, instance=_find_codes("instance", cells.instances, instances)))
    return cells


def _find_codes(kind: str, all_names: tuple[str, ...], names: Collection[str]) -> list[int]:
    for name in names:
        if name not in all_names:
            raise UnknownName(kind, name, all_names)
    return [all_names.index(name) for name in names]


def cut_readings(readings: ReadingCells, start: datetime | None, end: datetime | None) -> ReadingCells:
    """Keep the readings of the whole buckets between two times. The facts by query stay those of all the time."""
    keep = np.ones(readings.bucket.size, dtype=bool)
    if start is not None:
        keep &= readings.bucket >= -(-start.timestamp() // readings.bucket_s)
    if end is not None:
        keep &= readings.bucket < end.timestamp() // readings.bucket_s
    return keep_rows(readings, keep)


def cut_each_run(cells: Cells, from_s: float, to_s: float) -> Cells:
    """Keep what is `from_s` to `to_s` seconds after the start of each run, in whole blocks of four buckets."""
    block_s = cells.bucket_s * BLOCK_BUCKETS
    first, end = int(from_s // block_s), int(-(-to_s // block_s))
    starts = np.zeros(max(len(cells.runs), 1), dtype=np.int64)
    for run in distinct(cells.moments.run):
        starts[run] = cells.moments.bucket[cells.moments.run == run].min() // BLOCK_BUCKETS
    return _keep_blocks(cells, lambda run, block: (block - starts[run] >= first) & (block - starts[run] < end))


def _keep_blocks(cells: Cells, keep: Callable[[IntArray, IntArray], BoolArray]) -> Cells:
    """Keep the blocks for which `keep(run, block)` is true. Kinds of failures are left out: they are per run only."""
    tables: dict[str, Any] = {}
    for table in COUNTS:
        rows = getattr(cells, table)
        block = rows.block if table == "instance_bins" else rows.bucket // BLOCK_BUCKETS
        tables[table] = take(rows, keep(rows.run, block))
    return replace(cells, failure_kinds=NO_FAILURES, **tables)
