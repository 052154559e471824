"""Operations on cells: choose rows, replace codes, widen buckets, add up equal keys, join parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from evaluator.records import BLOCK_BUCKETS, Bins, Cells, FailureKinds, InstanceBins, LoadLevels, Moments
from evaluator.records.arrays import BoolArray, IntArray
from evaluator.stats.shaping.index import group_rows

Rows = TypeVar("Rows", Moments, Bins, InstanceBins, LoadLevels, FailureKinds)
Summed = TypeVar("Summed", Moments, Bins, InstanceBins, LoadLevels)

COUNTS = ("moments", "bins", "instance_bins", "loads")
"""Tables with a column of time."""
TABLES = (*COUNTS, "failure_kinds")
SUMMED = {"n", "failures", "sum_us", "sum_sq_us", "min_us", "max_us", "bytes", "bytes_sq", "users"}
"""Columns that are not part of a row's key."""
MERGED_BY = {"min_us": np.fmin, "max_us": np.fmax, "users": np.maximum}
"""How to merge such columns of equal keys; the others are added."""

_NONE: IntArray = np.zeros(0, dtype=np.int64)
NO_FAILURES = FailureKinds(_NONE, _NONE, _NONE, _NONE, (), _NONE)
"""For parts of a run: kinds of failures are counted for whole runs only."""


def take(rows: Rows, keep: BoolArray) -> Rows:
    """Return the rows where `keep` (rows,) is true; if all are, the same object."""
    if keep.all():
        return rows
    chosen = np.flatnonzero(keep)
    values: dict[str, Any] = {}
    for field in fields(rows):
        column = getattr(rows, field.name)
        values[field.name] = tuple(column[i] for i in chosen) if isinstance(column, tuple) else column[chosen]
    return replace(rows, **values)


def where(cells: Cells, **codes: Sequence[int]) -> Cells:
    """Keep the rows with one of these codes in each of these columns. A column that a table lacks does not matter.

    `where(cells, run=[0], arm=[0, 1])` keeps the first two arms in the first run. Names stay.
    """
    chosen: dict[str, Any] = {}
    for table in TABLES:
        rows = getattr(cells, table)
        matches = [np.isin(getattr(rows, column), listed) for column, listed in codes.items() if hasattr(rows, column)]
        if matches:
            chosen[table] = take(rows, np.logical_and.reduce(matches))
    return replace(cells, **chosen)


def recode(cells: Cells, **codes: IntArray) -> Cells:
    """Replace each code k of these columns by element k of the given array.

    `recode(cells, arm=1 - np.arange(2))` swaps the arms. Names stay.
    """
    changed: dict[str, Any] = {}
    for table in TABLES:
        rows = getattr(cells, table)
        columns = {column: code[getattr(rows, column)] for column, code in codes.items() if hasattr(rows, column)}
        changed[table] = replace(rows, **columns)
    return replace(cells, **changed)


def coarsen(cells: Cells) -> Cells:
    """Make blocks the buckets of the cells: histograms of blocks exist for each instance. Equal keys are not added."""
    rows = cells.instance_bins
    return replace(
        cells,
        bucket_s=cells.bucket_s * BLOCK_BUCKETS,
        moments=replace(cells.moments, bucket=cells.moments.bucket // BLOCK_BUCKETS),
        bins=Bins(run=rows.run, arm=rows.arm, endpoint=rows.endpoint, bucket=rows.block, bin=rows.bin, n=rows.n),
        instance_bins=replace(rows, block=rows.block // BLOCK_BUCKETS),
        loads=replace(cells.loads, bucket=cells.loads.bucket // BLOCK_BUCKETS),
    )


def add_up(rows: Summed) -> Summed:
    """Add up the rows of equal keys. Returns one row for each key, in the order of keys; histograms by bin first."""
    keys = [field.name for field in fields(rows) if field.name not in SUMMED]
    columns = np.stack([getattr(rows, key) for key in sorted(keys, key=lambda key: key != "bin")])
    order, starts = group_rows(columns)
    values: dict[str, Any] = {key: getattr(rows, key)[order[starts]] for key in keys}
    for field in fields(rows):
        if field.name in SUMMED:
            column = getattr(rows, field.name)[order]
            values[field.name] = MERGED_BY.get(field.name, np.add).reduceat(column, starts) if starts.size else column
    return replace(rows, **values)


def join(parts: Sequence[Cells]) -> Cells:
    """Join cells of the same arms and runs. Endpoints of one name are the same; instances of two parts never are.

    Kinds of failures are left out.
    """
    endpoints = tuple(dict.fromkeys(name for part in parts for name in part.endpoints))
    moved, first = [], 0
    for part in parts:
        code = np.array([endpoints.index(name) for name in part.endpoints], dtype=np.int64)
        moved.append(recode(part, endpoint=code, instance=first + np.arange(len(part.instances))))
        first += len(part.instances)
    tables: dict[str, Any] = {table: join_rows([getattr(part, table) for part in moved]) for table in COUNTS}
    return replace(
        parts[0],
        runs=max((part.runs for part in parts), key=len),
        endpoints=endpoints,
        instances=tuple(name for part in parts for name in part.instances),
        grid_us=int(np.gcd.reduce([part.grid_us for part in parts])),
        failure_kinds=NO_FAILURES,
        **tables,
    )


def join_rows(parts: Sequence[Summed]) -> Summed:
    """Join the rows of one table, one part after the other."""
    names = [field.name for field in fields(parts[0])]
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **columns)
