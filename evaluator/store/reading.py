"""Reading of cells: copied into numpy arrays with their own codes, and merged where they landed in parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evaluator.records import BASELINE, Bins, Cells, FailureKinds, InstanceBins, LoadLevels, Moments
from evaluator.store.engine import Engine

_Columns = dict[str, npt.NDArray[Any]]

_KEYS = {
    "moments": ("run", "arm", "endpoint", "instance", "bucket"),
    "loads": ("run", "arm", "bucket"),
    "failure_kinds": ("run", "arm", "endpoint", "status", "exception"),
    "bin_lists": ("run", "arm", "endpoint", "bucket"),
    "instance_bin_lists": ("run", "arm", "endpoint", "instance", "block"),
}
_SPREAD = {"bin_lists": "bins", "instance_bin_lists": "instance_bins"}
"""Table of histograms, a row of bins and counts per key → view that has a row per bin."""


def read_cells(engine: Engine, run_ids: Sequence[str]) -> Cells:
    """Read the cells of runs from the attached store, in the order of `run_ids`."""
    rows = engine.execute(
        """SELECT runs.id, code, landings, grid_us, bucket_s
        FROM store.runs JOIN store.groups ON groups.id = runs."group" WHERE runs.id IN (SELECT unnest(?))
        ORDER BY list_position(?, runs.id)""",
        [list(run_ids), list(run_ids)],
    ).fetchall()
    bucket_s = max((row[4] for row in rows), default=1)
    codes = [row[1] for row in rows]
    in_parts = any(landings > 1 or own_bucket_s != bucket_s for _, _, landings, _, own_bucket_s in rows)
    steps = {row[1]: bucket_s // row[4] for row in rows} if in_parts else None
    tables = {table: _read_table(engine, table, steps, codes) for table in _KEYS}
    names = _read_names(engine, tables)
    positions = {kind: named[1] for kind, named in names.items()}
    positions["run"] = np.zeros(max(codes, default=0) + 1, dtype=np.int64)
    positions["run"][codes] = np.arange(len(codes))
    for table, columns in tables.items():
        for kind in positions.keys() & columns.keys():
            columns[kind] = positions[kind][columns[kind].astype(np.int64)]
        tables[table] = _sort(columns, _KEYS[table])
    failure_kinds = _typed(tables["failure_kinds"])
    exceptions = tuple(names["exception"][0][code] for code in failure_kinds.pop("exception"))
    return Cells(
        runs=tuple(row[0] for row in rows),
        arms=names["arm"][0],
        endpoints=names["endpoint"][0],
        instances=names["instance"][0],
        bucket_s=bucket_s,
        grid_us=math.gcd(*(row[3] for row in rows)) or 1,
        moments=Moments(**_typed(tables["moments"], floats=_MOMENT_FLOATS)),
        bins=Bins(**_spread(tables["bin_lists"])),
        instance_bins=InstanceBins(**_spread(tables["instance_bin_lists"])),
        loads=LoadLevels(**_typed(tables["loads"])),
        failure_kinds=FailureKinds(**failure_kinds, exception=exceptions),
    )


_MOMENT_FLOATS = frozenset({"sum_us", "sum_sq_us", "min_us", "max_us", "bytes", "bytes_sq"})


def _read_table(engine: Engine, table: str, steps: Mapping[int, int] | None, codes: Sequence[int]) -> _Columns:
    where = f"run IN ({', '.join(map(str, codes)) or 'NULL'})"
    if steps is None:
        query = f"SELECT * FROM store.{table} WHERE {where}"
    else:
        query = _merging(engine, _SPREAD.get(table, table), steps, where)
    if table not in _SPREAD:
        return dict(engine.execute(query).fetchnumpy())
    if steps is not None:
        query = f"""
            SELECT * EXCLUDE (bin, n), list(bin ORDER BY bin) AS bins, list(n ORDER BY bin) AS counts
            FROM ({query}) GROUP BY ALL"""
    return _read_lists(engine, query)


def _read_lists(engine: Engine, query: str) -> _Columns:
    """Read rows of bins and counts: their keys, where the bins of each row start, and how many there are."""
    table = engine.sql(query).to_arrow_table().combine_chunks()
    bins, counts = (_only_chunk(table[name]) for name in ("bins", "counts"))
    keys = [name for name in table.column_names if name not in {"bins", "counts"}]
    columns: _Columns = {key: _as_numpy(_only_chunk(table[key])) for key in keys}
    ends = _as_numpy(bins.offsets)
    flat: _Columns = {"bin": _as_numpy(bins.values), "n": _as_numpy(counts.values)}
    return columns | {"start": ends[:-1], "length": np.diff(ends)} | flat


def _as_numpy(column: pa.Array) -> npt.NDArray[Any]:
    """View whole numbers without nulls as an array; `to_numpy` would import pandas, which takes a quarter second."""
    return np.from_dlpack(column)


_FLAT = frozenset({"bin", "n"})


def _only_chunk(column: pa.ChunkedArray) -> pa.ListArray:
    return cast("pa.ListArray", column.chunk(0) if column.num_chunks else pa.array([], column.type))


def _spread(rows: _Columns) -> _Columns:
    """Spread rows of bins and counts into columns with one row per bin, in the order of bins."""
    start, length = rows["start"].astype(np.int64), rows["length"]
    keys = [name for name in rows if name not in {"start", "length", *_FLAT}]
    columns: _Columns = {key: np.repeat(rows[key].astype(np.int64), length) for key in keys}
    ends = np.cumsum(length)
    columns |= {name: rows[name].astype(np.int64) for name in _FLAT}
    if not np.array_equal(start, np.concatenate(([0], ends[:-1]))[: len(start)]):
        at = np.repeat(start - (ends - length), length) + np.arange(ends[-1])
        columns |= {name: columns[name][at] for name in _FLAT}
    # Sorted by bin, in linear time; the rows of one bin keep their order.
    order = np.argsort(columns["bin"].astype(np.int16), kind="stable")
    return {name: column[order] for name, column in columns.items()}


def _merging(engine: Engine, table: str, steps: Mapping[int, int], where: str) -> str:
    """Write the query that adds up parts of cells and widens buckets to the widest of the runs."""
    columns = [row[0] for row in engine.execute(f"DESCRIBE store.{table}").fetchall()]
    step = "CASE run " + " ".join(f"WHEN {run} THEN {step}" for run, step in steps.items()) + " END"
    chosen = [_MERGES.get(column, "sum({column}) AS {column}").format(column=column, step=step) for column in columns]
    return f"SELECT {', '.join(chosen)} FROM store.{table} WHERE {where} GROUP BY ALL"


_MERGES = {
    **dict.fromkeys(("bucket", "block"), "{column} // {step} AS {column}"),
    **dict.fromkeys(("run", "arm", "endpoint", "instance", "bin", "status", "exception"), "{column}"),
    **dict.fromkeys(("n", "failures"), "CAST(sum({column}) AS BIGINT) AS {column}"),
    **dict.fromkeys(("max_us", "users"), "max({column}) AS {column}"),
    "min_us": "min({column}) AS {column}",
}
"""Column → how parts of a cell are merged; others are summed up."""


def _read_names(engine: Engine, tables: Mapping[str, _Columns]) -> dict[str, tuple[tuple[str, ...], npt.NDArray[Any]]]:
    """Read the names that are in use by kind, in alphabetical order, the baseline arm first; and id → its position."""
    rows = engine.execute("SELECT id, kind, name FROM store.names").fetchall()
    names: dict[str, tuple[tuple[str, ...], npt.NDArray[Any]]] = {}
    for kind in ("arm", "endpoint", "instance", "exception"):
        column = tables["failure_kinds" if kind == "exception" else "moments"][kind]
        used = {int(code) for code in np.unique(column)}
        by_id = {row[0]: row[2] for row in rows if row[1] == kind and row[0] in used}
        first = {BASELINE} if kind == "arm" else set()
        ordered = sorted(first) + sorted(set(by_id.values()) - first)
        numbers = {name: number for number, name in enumerate(ordered)}
        positions = np.zeros(max((row[0] for row in rows), default=0) + 1, dtype=np.int64)
        for identity, name in by_id.items():
            positions[identity] = numbers[name]
        names[kind] = tuple(ordered), positions
    return names


def _sort(columns: _Columns, keys: Sequence[str]) -> _Columns:
    """Sort rows by their keys, so that the order of landing does not matter."""
    combined = np.zeros(len(columns["run"]), dtype=np.int64)
    for key in keys:
        values = columns[key].astype(np.int64)
        low = int(values.min()) if len(values) else 0
        combined = combined * (int(values.max(initial=low)) - low + 1) + (values - low)
    if np.all(combined[1:] >= combined[:-1]):
        return columns
    order = np.argsort(combined, kind="stable")
    flat = _FLAT if "start" in columns else frozenset[str]()
    return {name: column if name in flat else column[order] for name, column in columns.items()}


def _typed(columns: _Columns, *, floats: frozenset[str] = frozenset()) -> dict[str, npt.NDArray[Any]]:
    """Turn columns into plain numbers, with NaN for nulls: extremes of cells without a success."""
    typed = {}
    for name, column in columns.items():
        plain = column
        if isinstance(column, np.ma.MaskedArray):
            plain = np.where(column.mask, np.nan, column.data) if column.mask.any() else column.data
        typed[name] = plain.astype(np.float64 if name in floats else np.int64, copy=False)
    return typed
