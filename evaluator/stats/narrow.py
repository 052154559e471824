"""Cells of a part of a release: a stretch of time, some endpoints, some instances."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from evaluator.errors import UnknownName, UsageError
from evaluator.records import (
    BLOCK_BUCKETS,
    Bins,
    Cells,
    FailureKinds,
    InstanceBins,
    LoadLevels,
    Moments,
    ReadingCells,
)
from evaluator.stats.index import distinct
from evaluator.stats.instances import find_replicating

__all__ = ["cut_each_run", "cut_readings", "merge_unreplicated", "narrow"]

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Rows = TypeVar("Rows", Moments, Bins, InstanceBins, LoadLevels, FailureKinds)


def narrow(
    cells: Cells,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    endpoints: Collection[str] | None = None,
    instances: Collection[str] | None = None,
) -> Cells:
    """Keep the requests of a stretch of time, of some endpoints, of some instances.

    Time is cut at the blocks of four buckets that hold `start` and `end`. Cells of single instances have the histogram
    of whole blocks only, so those become the buckets. Raises UnknownName for an endpoint or instance that is not there.
    """
    if endpoints is not None:
        cells = _keep_names(cells, "endpoint", cells.endpoints, endpoints)
    if start is not None or end is not None:
        cells = _cut(cells, start, end)
    if instances is not None:
        cells = _coarsen(_keep_names(cells, "instance", cells.instances, instances))
    return cells


def _keep_names(cells: Cells, kind: str, known: tuple[str, ...], wanted: Collection[str]) -> Cells:
    for name in wanted:
        if name not in known:
            raise UnknownName(kind, name, known)
    codes = np.isin(np.arange(len(known)), [known.index(name) for name in wanted])
    tables = ("moments", "bins", "instance_bins", "failure_kinds")
    kept = {}
    for name in tables:
        rows = getattr(cells, name)
        kept[name] = _take(rows, codes[getattr(rows, kind)]) if hasattr(rows, kind) else rows
    return replace(cells, **kept)


def _take(rows: Rows, keep: BoolArray) -> Rows:
    chosen = np.flatnonzero(keep)
    values: dict[str, Any] = {}
    for field in fields(rows):
        column = getattr(rows, field.name)
        values[field.name] = tuple(column[i] for i in chosen) if isinstance(column, tuple) else column[chosen]
    return replace(rows, **values)


def _cut(cells: Cells, start: datetime | None, end: datetime | None) -> Cells:
    block_s = cells.bucket_s * BLOCK_BUCKETS
    first = -(2**62) if start is None else int(start.timestamp() // block_s)
    last = 2**62 if end is None else int(-(-end.timestamp() // block_s)) - 1
    if first > last:
        raise UsageError("the stretch of time is empty", hint="its end must come after its start")
    return _keep_blocks(cells, lambda _, block: (block >= first) & (block <= last))


def cut_readings(readings: ReadingCells, start: datetime | None, end: datetime | None) -> ReadingCells:
    """Keep the readings of whole buckets in a time. Samples by query are known of all the time only."""
    keep = np.ones(readings.bucket.size, dtype=bool)
    if start is not None:
        keep &= readings.bucket >= -(-start.timestamp() // readings.bucket_s)
    if end is not None:
        keep &= readings.bucket < end.timestamp() // readings.bucket_s
    chosen = np.flatnonzero(keep)
    columns: dict[str, Any] = {
        field.name: column[chosen]
        for field in fields(readings)
        if isinstance(column := getattr(readings, field.name), np.ndarray)
    }
    return replace(readings, **columns)


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
    moments, bins, rows, loads = cells.moments, cells.bins, cells.instance_bins, cells.loads
    return replace(
        cells,
        moments=_take(moments, keep(moments.run, moments.bucket // BLOCK_BUCKETS)),
        bins=_take(bins, keep(bins.run, bins.bucket // BLOCK_BUCKETS)),
        instance_bins=_take(rows, keep(rows.run, rows.block)),
        loads=_take(loads, keep(loads.run, loads.bucket // BLOCK_BUCKETS)),
        failure_kinds=_take(cells.failure_kinds, np.zeros(cells.failure_kinds.n.size, dtype=bool)),
    )


def merge_unreplicated(cells: Cells) -> tuple[Cells, dict[str, int]]:
    """Take all of an arm as one instance where its names tell none apart: names of requests, users or connections.

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
    rows = cells.instance_bins
    return replace(
        cells,
        instances=names,
        moments=_add_up(_rename(moments, instance_of), ("run", "arm", "endpoint", "instance", "bucket")),
        instance_bins=_add_up(_rename(rows, instance_of), ("run", "arm", "endpoint", "instance", "block", "bin")),
    ), merged


Named = TypeVar("Named", Moments, InstanceBins)


def _rename(rows: Named, instance_of: dict[int, int]) -> Named:
    instance = rows.instance.copy()
    for arm, code in instance_of.items():
        instance[rows.arm == arm] = code
    return replace(rows, instance=instance)


def _add_up(rows: Named, keys: tuple[str, ...]) -> Named:
    """Add up rows that have the same keys."""
    columns: IntArray = np.stack([getattr(rows, key) for key in keys])
    order = np.lexsort((*columns[::-1],)) if "bin" not in keys else np.lexsort((*columns[:-1][::-1], columns[-1]))
    columns = columns[:, order]
    starts = np.flatnonzero(np.append(True, (np.diff(columns, axis=1) != 0).any(axis=0))) if order.size else order
    values: dict[str, Any] = dict(zip(keys, columns[:, starts], strict=True))
    merge = {"min_us": np.fmin, "max_us": np.fmax}
    for field in fields(rows):
        if field.name not in keys:
            column = getattr(rows, field.name)[order]
            ufunc = merge.get(field.name, np.add)
            values[field.name] = ufunc.reduceat(column, starts) if order.size else column
    return type(rows)(**values)


def _coarsen(cells: Cells) -> Cells:
    """Cells with blocks for buckets: their histograms are known instance by instance."""
    moments, rows, loads = cells.moments, cells.instance_bins, cells.loads
    bins = Bins(run=rows.run, arm=rows.arm, endpoint=rows.endpoint, bucket=rows.block, bin=rows.bin, n=rows.n)
    return replace(
        cells,
        bucket_s=cells.bucket_s * BLOCK_BUCKETS,
        moments=replace(moments, bucket=moments.bucket // BLOCK_BUCKETS),
        bins=bins,
        instance_bins=replace(rows, block=rows.block // BLOCK_BUCKETS),
        loads=replace(loads, bucket=loads.bucket // BLOCK_BUCKETS),
    )
