"""The algebra of cells: rows chosen, codes replaced, buckets widened, equal keys added up, parts put together."""

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
"""Tables that know when."""
TABLES = (*COUNTS, "failure_kinds")
SUMMED = {"n", "failures", "sum_us", "sum_sq_us", "min_us", "max_us", "bytes", "bytes_sq", "users"}
"""Columns that are no part of a row's key."""
MERGED_BY = {"min_us": np.fmin, "max_us": np.fmax, "users": np.maximum}
"""How such columns of equal keys are put together where it is not by adding."""

_NONE: IntArray = np.zeros(0, dtype=np.int64)
NO_FAILURES = FailureKinds(_NONE, _NONE, _NONE, _NONE, (), _NONE)
"""Where what failed how is not known: it is counted by whole runs only."""


def take(rows: Rows, keep: BoolArray) -> Rows:
    """The rows for which `keep` holds; where that is all of them nothing is copied."""
    if keep.all():
        return rows
    chosen = np.flatnonzero(keep)
    values: dict[str, Any] = {}
    for field in fields(rows):
        column = getattr(rows, field.name)
        values[field.name] = tuple(column[i] for i in chosen) if isinstance(column, tuple) else column[chosen]
    return replace(rows, **values)


def where(cells: Cells, **codes: Sequence[int]) -> Cells:
    """The rows with one of these codes in each of the columns; a table without a column is not narrowed by it.

    `where(cells, run=[0], arm=[0, 1])` keeps what the first two arms of the first run did. Names stay.
    """
    chosen: dict[str, Any] = {}
    for table in TABLES:
        rows = getattr(cells, table)
        matches = [np.isin(getattr(rows, column), listed) for column, listed in codes.items() if hasattr(rows, column)]
        if matches:
            chosen[table] = take(rows, np.logical_and.reduce(matches))
    return replace(cells, **chosen)


def recode(cells: Cells, **codes: IntArray) -> Cells:
    """Replace each code of these columns by what stands at its place: `recode(cells, arm=1 - np.arange(2))` turns arms.

    Names stay as they are.
    """
    changed: dict[str, Any] = {}
    for table in TABLES:
        rows = getattr(cells, table)
        columns = {column: code[getattr(rows, column)] for column, code in codes.items() if hasattr(rows, column)}
        changed[table] = replace(rows, **columns)
    return replace(cells, **changed)


def coarsen(cells: Cells) -> Cells:
    """Cells with blocks for buckets: their histograms are known instance by instance. Equal keys are not added up."""
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
    """One row for each key, in the order of keys; histograms in the order of bins first."""
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
    """Cells of the same arms and runs put together: endpoints by their names, each part's instances as its own.

    What failed how is left out.
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
    """Rows of one table, one part after the other."""
    names = [field.name for field in fields(parts[0])]
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **columns)
