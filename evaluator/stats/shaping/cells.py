"""Operations on cells: choose rows, replace codes, widen buckets, add up equal keys, join parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from evaluator.records import (
    BINS_PER_DECADE,
    BLOCK_BUCKETS,
    Bins,
    Cells,
    FailureKinds,
    InstanceBins,
    LoadLevels,
    Moments,
)
from evaluator.records.arrays import BoolArray, IntArray
from evaluator.stats.shaping.index import group_rows

Rows = TypeVar("Rows", Moments, Bins, InstanceBins, LoadLevels, FailureKinds)
Summed = TypeVar("Summed", Moments, Bins, InstanceBins, LoadLevels)

COUNTS = ("moments", "bins", "instance_bins", "loads")
"""Tables with a column of time."""
TABLES = (*COUNTS, "failure_kinds")
SUMMED = {
    "n", "failures", "sum_time", "sum_sq_time", "min_time", "max_time", "bytes", "bytes_sq", "statuses", "redirects",
    "client_errors", "users",
}  # fmt: skip
"""Columns that are not part of a row's key."""
MERGED_BY = {"min_time": np.fmin, "max_time": np.fmax, "users": np.maximum}
"""How to merge these columns in rows of equal keys; other columns of `SUMMED` are added."""

_NONE: IntArray = np.zeros(0, dtype=np.int64)
NO_FAILURES = FailureKinds(_NONE, _NONE, _NONE, _NONE, _NONE, (), _NONE)
"""For parts of a run: kinds of failures are counted for whole runs only."""


def take(rows: Rows, keep: BoolArray) -> Rows:
    """Return the rows of a table where `keep` (rows,) is true; the same object if `keep` is true everywhere."""
    if keep.all():
        return rows
    kept_rows = np.flatnonzero(keep)
    columns: dict[str, Any] = {}
    for field in fields(rows):
        column = getattr(rows, field.name)
        columns[field.name] = tuple(column[i] for i in kept_rows) if isinstance(column, tuple) else column[kept_rows]
    return replace(rows, **columns)


def count_by_status(moments: Moments) -> dict[str, IntArray]:
    """Return the numbers of successes by HTTP status, (rows,): `statuses` (known), `redirects`, `client_errors`.

    Those that do not occur are left out: most data have neither redirects nor client errors, and some no statuses.
    """
    counts = {"statuses": moments.statuses, "redirects": moments.redirects, "client_errors": moments.client_errors}
    return {name: of_row for name, of_row in counts.items() if of_row.any()}


def where(cells: Cells, **codes: Sequence[int]) -> Cells:
    """Keep the rows of all tables whose code in each named column is listed. Columns that a table lacks are ignored.

    `where(cells, run=[0], arm=[0, 1])` keeps the first two arms in the first run. The tuples of names do not change.
    """
    tables: dict[str, Any] = {}
    for table in TABLES:
        rows = getattr(cells, table)
        matches = [np.isin(getattr(rows, column), listed) for column, listed in codes.items() if hasattr(rows, column)]
        if matches:
            tables[table] = take(rows, np.logical_and.reduce(matches))
    return replace(cells, **tables)


def recode(cells: Cells, **codes: IntArray) -> Cells:
    """Replace each code k in the named columns of all tables by element k of the column's array in `codes`.

    `recode(cells, arm=np.array([1, 0]))` swaps the arms. The tuples of names do not change.
    """
    tables: dict[str, Any] = {}
    for table in TABLES:
        rows = getattr(cells, table)
        columns: dict[str, Any] = {}
        for column, new_codes in codes.items():
            if hasattr(rows, column):
                old_codes = getattr(rows, column)
                # An instance that was not recorded has no code.
                known = old_codes >= 0
                columns[column] = np.where(known, new_codes[np.where(known, old_codes, 0)], old_codes)
        tables[table] = replace(rows, **columns)
    return replace(cells, **tables)


def coarsen(cells: Cells) -> Cells:
    """Make cells of selected instances comparable: each block of `BLOCK_BUCKETS` buckets becomes a bucket.

    After a selection of instances, the histograms in `bins` still contain all instances. Only `instance_bins` follows
    the selection, and it counts by block; so `bins` is taken from it. Rows that now have equal keys are not added up.
    """
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
    """Merge the rows of equal keys: counts and sums are added, extremes are extremes of all (`MERGED_BY`).

    Returns one row for each key, in the order of the keys; histograms are ordered by bin first.
    """
    key_columns = [field.name for field in fields(rows) if field.name not in SUMMED]
    bin_first = sorted(key_columns, key=lambda name: name != "bin")
    # The sorted order of the rows, and where in this order each new key begins.
    order, starts = group_rows(np.stack([getattr(rows, name) for name in bin_first]))
    # `SUMMED`: the columns that are merged. All others are the key.
    columns: dict[str, Any] = {name: getattr(rows, name)[order[starts]] for name in key_columns}
    for field in fields(rows):
        if field.name in SUMMED:
            column = getattr(rows, field.name)[order]
            merge = MERGED_BY.get(field.name, np.add)
            # `reduceat` cannot take a table without rows.
            columns[field.name] = merge.reduceat(column, starts) if starts.size else column
    return replace(rows, **columns)


def multiply_times(cells: Cells, factor_of_run: IntArray) -> Cells:
    """Multiply the times of each run by a power of ten, because its unit is so many times coarser than that of `cells`.

    `factor_of_run` (runs,): 1 for a run whose times are already in the unit that `cells.units_per_ms` names.
    """
    if (factor_of_run == 1).all():
        return cells
    moments, bins, instance_bins = cells.moments, cells.bins, cells.instance_bins
    factor = factor_of_run[moments.run].astype(float)
    # Powers of ten are edges of bins, so all times of a bin come into one bin, a fixed number of bins higher.
    bins_higher = np.rint(BINS_PER_DECADE * np.log10(factor_of_run)).astype(np.int64)
    return replace(
        cells,
        moments=replace(
            moments,
            sum_time=moments.sum_time * factor,
            sum_sq_time=moments.sum_sq_time * factor**2,
            min_time=moments.min_time * factor,
            max_time=moments.max_time * factor,
        ),
        bins=replace(bins, bin=bins.bin + bins_higher[bins.run]),
        instance_bins=replace(instance_bins, bin=instance_bins.bin + bins_higher[instance_bins.run]),
    )


def join(parts: Sequence[Cells]) -> Cells:
    """Join cells of the same arms and runs; their times are in the finest unit that a part has.

    Endpoints with the same name are the same endpoint. Instances of two parts are different instances, even if they
    have the same name. Kinds of failures are left out.
    """
    units_per_ms = max(part.units_per_ms for part in parts)
    endpoints = tuple(dict.fromkeys(name for part in parts for name in part.endpoints))
    recoded_parts = []
    instances_before = 0
    for part in parts:
        endpoint_codes = np.array([endpoints.index(name) for name in part.endpoints], dtype=np.int64)
        instance_codes = instances_before + np.arange(len(part.instances))
        factor_of_run = np.full(len(part.runs), units_per_ms // part.units_per_ms)
        refined = multiply_times(part, factor_of_run)
        recoded_parts.append(recode(refined, endpoint=endpoint_codes, instance=instance_codes))
        instances_before += len(part.instances)
    tables: dict[str, Any] = {table: join_rows([getattr(part, table) for part in recoded_parts]) for table in COUNTS}
    return replace(
        parts[0],
        runs=max((part.runs for part in parts), key=len),  # a part may lack the last runs
        endpoints=endpoints,
        instances=tuple(name for part in parts for name in part.instances),
        units_per_ms=units_per_ms,
        # The largest step of which the times of all parts are multiples.
        grid=int(np.gcd.reduce([part.grid * (units_per_ms // part.units_per_ms) for part in parts])),
        failure_kinds=NO_FAILURES,
        coarsest_unit=max(part.coarsest_unit * (units_per_ms // part.units_per_ms) for part in parts),
        **tables,
    )


def join_rows(parts: Sequence[Summed]) -> Summed:
    """Join the rows of one table, one part after the other."""
    names = [field.name for field in fields(parts[0])]
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **columns)
