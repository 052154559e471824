"""Cells are read: copied into numpy arrays with codes of their own, merged where they were landed in parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evaluator.records import (
    BASELINE,
    Bins,
    Cells,
    FailureKinds,
    InstanceBins,
    LoadLevels,
    Moments,
)
from evaluator.records.cells import order_by_bin
from evaluator.store.engine import Engine

__all__ = ["read_cells"]

_Columns = dict[str, npt.NDArray[Any]]

_KEYS = {
    "moments": ("run", "arm", "endpoint", "instance", "bucket"),
    "loads": ("run", "arm", "bucket"),
    "failure_kinds": ("run", "arm", "endpoint", "status", "exception"),
    "bin_lists": ("run", "arm", "endpoint", "bucket"),
    "instance_bin_lists": ("run", "arm", "endpoint", "instance", "block"),
}
_SPREAD = {"bin_lists": "bins", "instance_bin_lists": "instance_bins"}
"""Histograms rest as one row of bins and counts per key; a view of this name spreads them."""
_HIGHEST = {"max_us", "users"}
_LOWEST = {"min_us"}
_COUNTS = {"n", "failures"}


def read_cells(engine: Engine, run_ids: Sequence[str]) -> Cells:
    """Read the cells of runs from the attached store, in the order of `run_ids`."""
    runs = _read_runs(engine, run_ids)
    bucket_s = max((row[3] for row in runs.values()), default=1)
    codes = {row[0]: position for position, row in enumerate(runs.values())}
    parts = any(row[1] > 1 or row[3] != bucket_s for row in runs.values())
    steps = {row[0]: bucket_s // row[3] for row in runs.values()} if parts else None
    tables = {table: _read_table(engine, table, steps, codes) for table in _KEYS}
    names = _Names(engine, tables)
    tables = {table: _sort(names.recode(columns, codes), _KEYS[table]) for table, columns in tables.items()}
    return Cells(
        runs=tuple(runs),
        arms=names.of("arm"),
        endpoints=names.of("endpoint"),
        instances=names.of("instance"),
        bucket_s=bucket_s,
        grid_us=math.gcd(*(row[2] for row in runs.values())) or 1,
        moments=Moments(**_typed(tables["moments"], floats=_MOMENT_FLOATS)),
        bins=Bins(**_by_bin(_spread(tables["bin_lists"]))),
        instance_bins=InstanceBins(**_by_bin(_spread(tables["instance_bin_lists"]))),
        loads=LoadLevels(**_typed(tables["loads"])),
        failure_kinds=_failure_kinds(tables["failure_kinds"], names.of("exception")),
    )


_MOMENT_FLOATS = frozenset({"sum_us", "sum_sq_us", "min_us", "max_us", "bytes", "bytes_sq"})


def _read_runs(engine: Engine, run_ids: Sequence[str]) -> Mapping[str, tuple[int, int, int, int]]:
    """Read code, number of landings, grid and bucket of each run."""
    rows = engine.execute(
        """SELECT runs.id, code, landings, grid_us, bucket_s
        FROM store.runs JOIN store.groups ON groups.id = runs."group" WHERE runs.id IN (SELECT unnest(?))""",
        [list(run_ids)],
    ).fetchall()
    found = {row[0]: (int(row[1]), int(row[2]), int(row[3]), int(row[4])) for row in rows}
    return {run: found[run] for run in run_ids if run in found}


def _read_table(engine: Engine, table: str, steps: Mapping[int, int] | None, codes: Mapping[int, int]) -> _Columns:
    where = f"run IN ({', '.join(map(str, codes)) or 'NULL'})"
    if steps is None:
        query = f"SELECT * FROM store.{table} WHERE {where}"
    else:
        query = _merging(engine, _SPREAD.get(table, table), steps, where)
    if table in _SPREAD:
        return _read_lists(engine, query if steps is None else _listing(query))
    return dict(engine.execute(query).fetchnumpy())


def _listing(query: str) -> str:
    return f"""
        SELECT * EXCLUDE (bin, n), list(bin ORDER BY bin) AS bins, list(n ORDER BY bin) AS counts
        FROM ({query}) GROUP BY ALL"""


def _read_lists(engine: Engine, query: str) -> _Columns:
    """Read rows of bins and counts: their keys, and of each row where its bins start and how many there are."""
    whole = engine.sql(query).to_arrow_table().combine_chunks()
    bins, counts = (_only_chunk(whole[name]) for name in ("bins", "counts"))
    keys = [name for name in whole.column_names if name not in {"bins", "counts"}]
    columns: _Columns = {key: _as_numpy(_only_chunk(whole[key])) for key in keys}
    ends = _as_numpy(bins.offsets)
    flat: _Columns = {_FLAT_BINS: _as_numpy(bins.values), _FLAT_COUNTS: _as_numpy(counts.values)}
    return columns | {"start": ends[:-1], "length": np.diff(ends)} | flat


def _as_numpy(column: pa.Array) -> npt.NDArray[Any]:
    """View whole numbers without nulls as an array; `to_numpy` would import pandas, which takes a quarter second."""
    return np.from_dlpack(column)


_FLAT_BINS, _FLAT_COUNTS = "bin", "n"
_FLAT = frozenset({_FLAT_BINS, _FLAT_COUNTS})


def _only_chunk(column: pa.ChunkedArray) -> pa.ListArray:
    return cast("pa.ListArray", column.chunk(0) if column.num_chunks else pa.array([], column.type))


def _spread(rows: _Columns) -> _Columns:
    """Spread rows of bins and counts into columns with one row per bin."""
    start, length = rows["start"].astype(np.int64), rows["length"]
    keys = [name for name in rows if name not in {"start", "length", *_FLAT}]
    columns: _Columns = {key: np.repeat(rows[key].astype(np.int64), length) for key in keys}
    ends = np.cumsum(length)
    if np.array_equal(start[1:], ends[:-1]) and (not len(start) or start[0] == 0):
        return columns | {name: rows[name].astype(np.int64) for name in _FLAT}
    at = np.repeat(start - (ends - length), length) + np.arange(ends[-1])
    return columns | {name: rows[name][at].astype(np.int64) for name in _FLAT}


def _by_bin(columns: _Columns) -> _Columns:
    order = order_by_bin(columns["bin"])
    return {name: column[order] for name, column in columns.items()}


def _merging(engine: Engine, table: str, steps: Mapping[int, int], where: str) -> str:
    """Write the query that adds parts of cells up and widens buckets to the widest of the runs."""
    columns = [row[0] for row in engine.execute(f"DESCRIBE store.{table}").fetchall()]
    step = "CASE run " + " ".join(f"WHEN {run} THEN {step}" for run, step in steps.items()) + " END"
    chosen = [_merged_column(column, step) for column in columns]
    return f"SELECT {', '.join(chosen)} FROM store.{table} WHERE {where} GROUP BY ALL"


_PLAIN_KEYS = {"run", "arm", "endpoint", "instance", "bin", "status", "exception"}


def _merged_column(column: str, step: str) -> str:
    if column == "bucket":
        return f"bucket // {step} AS bucket"
    if column == "block":
        return f"block // {step} AS block"
    if column in _PLAIN_KEYS:
        return column
    if column in _COUNTS:
        return f"CAST(sum({column}) AS BIGINT) AS {column}"
    merge = "max" if column in _HIGHEST else "min" if column in _LOWEST else "sum"
    return f"{merge}({column}) AS {column}"


class _Names:
    """Names used by some cells, numbered in alphabetical order, the baseline arm first."""

    def __init__(self, engine: Engine, tables: Mapping[str, _Columns]) -> None:
        rows = engine.execute("SELECT id, kind, name FROM store.names").fetchall()
        used = {
            "arm": tables["moments"]["arm"],
            "endpoint": tables["moments"]["endpoint"],
            "instance": tables["moments"]["instance"],
            "exception": tables["failure_kinds"]["exception"],
        }
        self._names: dict[str, tuple[str, ...]] = {}
        self._codes: dict[str, npt.NDArray[np.int64]] = {}
        for kind, column in used.items():
            ids = {int(code) for code in np.unique(column)}
            names = {row[0]: row[2] for row in rows if row[1] == kind and row[0] in ids}
            self._number(kind, names, max((row[0] for row in rows), default=0) + 1)

    def _number(self, kind: str, names: Mapping[int, str], size: int) -> None:
        first = {BASELINE} if kind == "arm" else set()
        ordered = sorted(first) + sorted(set(names.values()) - first)
        positions = {name: position for position, name in enumerate(ordered)}
        codes = np.zeros(size, dtype=np.int64)
        for identity, name in names.items():
            codes[identity] = positions[name]
        self._names[kind], self._codes[kind] = tuple(ordered), codes

    def of(self, kind: str) -> tuple[str, ...]:
        """Names of a kind in the order of their codes."""
        return self._names[kind]

    def recode(self, columns: _Columns, runs: Mapping[int, int]) -> _Columns:
        """Replace the store's codes by positions in the names, and those of runs by their positions."""
        recoded = dict(columns)
        for kind, codes in self._codes.items():
            if kind in columns:
                recoded[kind] = codes[columns[kind].astype(np.int64)]
        positions = np.zeros(max(runs, default=0) + 1, dtype=np.int64)
        positions[list(runs)] = list(runs.values())
        recoded["run"] = positions[columns["run"].astype(np.int64)]
        return recoded


def _sort(columns: _Columns, keys: Sequence[str]) -> _Columns:
    """Sort rows by their keys, so that the order of landing leaves no trace."""
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
    return {
        name: _plain(column).astype(np.float64 if name in floats else np.int64, copy=False)
        for name, column in columns.items()
    }


def _plain(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Turn a masked column (extremes where nothing succeeded) into numbers with NaN."""
    if isinstance(column, np.ma.MaskedArray):
        return np.where(column.mask, np.nan, column.data) if column.mask.any() else column.data
    return column


def _failure_kinds(columns: _Columns, exceptions: Sequence[str]) -> FailureKinds:
    plain = _typed(columns)
    texts = tuple(exceptions[code] for code in plain.pop("exception"))
    return FailureKinds(**plain, exception=texts)
