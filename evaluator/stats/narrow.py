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
from evaluator.stats.cells import COUNTS, NO_FAILURES, add_up, coarsen, take, where
from evaluator.stats.index import distinct
from evaluator.stats.instances import find_replicating
from evaluator.stats.reading_panels import keep_rows


def narrow(
    cells: Cells,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    endpoints: Collection[str] | None = None,
    instances: Collection[str] | None = None,
) -> Cells:
    """Keep the requests of an interval of time, of some endpoints, of some instances.

    Time is cut at the blocks of four buckets that hold `start` and `end`. Cells of single instances have the histogram
    of whole blocks only, so those become the buckets. Raises UnknownName for an endpoint or instance that is not there.
    """
    if endpoints is not None:
        cells = where(cells, endpoint=_find_codes("endpoint", cells.endpoints, endpoints))
    if start is not None or end is not None:
        block_s = cells.bucket_s * BLOCK_BUCKETS
        first = -(2**62) if start is None else int(start.timestamp() // block_s)
        last = 2**62 if end is None else int(-(-end.timestamp() // block_s)) - 1
        if first > last:
            raise UsageError("the stretch of time is empty", hint="its end must come after its start")
        cells = _keep_blocks(cells, lambda _, block: (block >= first) & (block <= last))
    if instances is not None:
        cells = coarsen(where(cells, instance=_find_codes("instance", cells.instances, instances)))
    return cells


def _find_codes(kind: str, known: tuple[str, ...], wanted: Collection[str]) -> list[int]:
    for name in wanted:
        if name not in known:
            raise UnknownName(kind, name, known)
    return [known.index(name) for name in wanted]


def cut_readings(readings: ReadingCells, start: datetime | None, end: datetime | None) -> ReadingCells:
    """Keep the readings of whole buckets in a time. Samples by query are known of all the time only."""
    keep = np.ones(readings.bucket.size, dtype=bool)
    if start is not None:
        keep &= readings.bucket >= -(-start.timestamp() // readings.bucket_s)
    if end is not None:
        keep &= readings.bucket < end.timestamp() // readings.bucket_s
    return keep_rows(readings, keep)


def cut_each_run(cells: Cells, from_s: float, to_s: float) -> Cells:
    """Keep what lies `from_s` to `to_s` after the start of each run, whole blocks of four buckets."""
    block_s = cells.bucket_s * BLOCK_BUCKETS
    first, end = int(from_s // block_s), int(-(-to_s // block_s))
    starts = np.zeros(max(len(cells.runs), 1), dtype=np.int64)
    for run in distinct(cells.moments.run):
        starts[run] = cells.moments.bucket[cells.moments.run == run].min() // BLOCK_BUCKETS
    return _keep_blocks(cells, lambda run, block: (block - starts[run] >= first) & (block - starts[run] < end))


def _keep_blocks(cells: Cells, keep: Callable[[IntArray, IntArray], BoolArray]) -> Cells:
    """Keep the blocks that `keep` says. What failed how is known of whole runs only: it is left out."""
    kept: dict[str, Any] = {}
    for table in COUNTS:
        rows = getattr(cells, table)
        block = rows.block if table == "instance_bins" else rows.bucket // BLOCK_BUCKETS
        kept[table] = take(rows, keep(rows.run, block))
    return replace(cells, failure_kinds=NO_FAILURES, **kept)


def merge_unreplicated(cells: Cells) -> tuple[Cells, dict[str, int]]:
    """Take all of an arm as one instance where its names distinguish none: names of requests, users or connections.

    Returns the number of names of each arm for which that was done. An arm with two instances or more that replicate
    it stays as it is.
    """
    moments = cells.moments
    merged: dict[str, int] = {}
    instance_of: dict[int, int] = {}
    names = cells.instances
    for code, arm in enumerate(cells.arms):
        mine = moments.arm == code
        requests = np.bincount(moments.instance[mine], weights=moments.n[mine])
        used = int(np.count_nonzero(requests))
        if used > 1 and find_replicating(np.asarray(requests, float)).sum() < 2:
            names = names if arm in names else (*names, arm)
            merged[arm], instance_of[code] = used, names.index(arm)
    if not merged:
        return cells, merged
    moments, rows = cells.moments, cells.instance_bins
    instance, row_instance = moments.instance.copy(), rows.instance.copy()
    for arm_code, code in instance_of.items():
        instance[moments.arm == arm_code] = row_instance[rows.arm == arm_code] = code
    return replace(
        cells,
        instances=names,
        moments=add_up(replace(moments, instance=instance)),
        instance_bins=add_up(replace(rows, instance=row_instance)),
    ), merged
