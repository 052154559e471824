"""Reading of cells: copied into numpy arrays with their own codes, and merged where they landed in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evaluator.records import BASELINE, MICROSECONDS, Bins, Cells, FailureKinds, InstanceBins, LoadLevels, Moments
from evaluator.stats.shaping.cells import multiply_times
from evaluator.store.engine import Engine

_Columns = dict[str, npt.NDArray[Any]]

_KEYS = {
    "moments": ("run", "arm", "endpoint", "instance", "bucket"),
    "loads": ("run", "arm", "bucket"),
    "failure_kinds": ("run", "arm", "endpoint", "instance", "status", "exception"),
    "bin_lists": ("run", "arm", "endpoint", "bucket"),
    "instance_bin_lists": ("run", "arm", "endpoint", "instance", "block"),
}
_VIEW_OF_BINS = {"bin_lists": "bins", "instance_bin_lists": "instance_bins"}
"""Table of histograms, a row of bins and counts per key → view that has a row per bin."""


def read_cells(engine: Engine, run_ids: Sequence[str]) -> Cells:
    """Read the cells of runs from the attached store, with the runs in the order of `run_ids`.

    Buckets have the length of the longest among the runs, times the finest of their units. In the store, columns hold
    ids of runs and names; in the result, positions in `runs`, `arms`, `endpoints` and `instances`.
    """
    rows = engine.execute(
        """SELECT runs.id, code, landings, grid, coalesce(units_per_ms, 1000), bucket_s
        FROM store.runs JOIN store.groups ON groups.id = runs."group" WHERE runs.id IN (SELECT unnest(?))
        ORDER BY list_position(?, runs.id)""",
        [list(run_ids), list(run_ids)],
    ).fetchall()
    runs = tuple(run_id for run_id, *_ in rows)
    run_codes = [code for _, code, *_ in rows]
    # For each run: the largest step of which all its times are multiples, in its unit, and by how much its unit is
    # coarser than the finest.
    grids = np.array([grid for *_, grid, _, _ in rows], dtype=np.int64)
    units_per_ms_of_run = np.array([units_per_ms for *_, units_per_ms, _ in rows], dtype=np.int64)
    units_per_ms = int(units_per_ms_of_run.max(initial=MICROSECONDS))
    factor_of_run = units_per_ms // units_per_ms_of_run
    has_times = grids > 0  # a run of failures alone has none that were rounded
    bucket_s = max((run_bucket_s for *_, run_bucket_s in rows), default=1)
    # A cell has several rows in the store if its run landed in parts, or if its buckets become longer.
    must_merge = any(landings > 1 or run_bucket_s != bucket_s for _, _, landings, *_, run_bucket_s in rows)
    # Code of a run → how many of its buckets become one.
    bucket_ratios = {code: bucket_s // run_bucket_s for _, code, *_, run_bucket_s in rows} if must_merge else None
    tables = {table: _read_table(engine, table, bucket_ratios, run_codes) for table in _KEYS}
    names, positions_by_id = _read_names(engine, tables)
    positions_by_id["run"] = np.zeros(max(run_codes, default=0) + 1, dtype=np.int64)
    positions_by_id["run"][run_codes] = np.arange(len(run_codes))
    # Codes of runs and ids of names, in columns such as `run` and `arm`, become positions.
    for table, columns in tables.items():
        for column in positions_by_id.keys() & columns.keys():
            columns[column] = _find_positions(columns[column], positions_by_id[column])
        tables[table] = _sort_rows(columns, _KEYS[table])
    failure_kinds = _to_numbers(tables["failure_kinds"])
    exceptions = tuple(names["exception"][position] for position in failure_kinds.pop("exception"))
    cells = Cells(
        runs=runs,
        arms=names["arm"],
        endpoints=names["endpoint"],
        instances=names["instance"],
        bucket_s=bucket_s,
        units_per_ms=units_per_ms,
        grid=int(np.gcd.reduce(grids * factor_of_run)) or 1,  # 0 if no request has a response time
        moments=Moments(**_to_numbers(tables["moments"], floats=_MOMENT_FLOATS)),
        bins=Bins(**_spread_bins(tables["bin_lists"])),
        instance_bins=InstanceBins(**_spread_bins(tables["instance_bin_lists"])),
        loads=LoadLevels(**_to_numbers(tables["loads"])),
        failure_kinds=FailureKinds(**failure_kinds, exception=exceptions),
        coarsest_unit=int(factor_of_run[has_times].max(initial=1)),
    )
    return multiply_times(cells, factor_of_run)


def _find_positions(ids: npt.NDArray[Any], positions: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the position of each id; -1 for a null: of older failures, the instance is not recorded."""
    if not isinstance(ids, np.ma.MaskedArray):
        return np.asarray(positions[ids.astype(np.int64)])
    return np.where(np.ma.getmaskarray(ids), -1, positions[ids.filled(0).astype(np.int64)])


_MOMENT_FLOATS = frozenset({"sum_time", "sum_sq_time", "min_time", "max_time", "bytes", "bytes_sq"})


def _read_table(
    engine: Engine, table: str, bucket_ratios: Mapping[int, int] | None, run_codes: Sequence[int]
) -> _Columns:
    """Read the rows of a table of cells of some runs: column → array.

    `run_codes`: numbers that stand for the runs in the table. `bucket_ratios`: code of a run → how many of its buckets
    become one; the rows of a cell are then merged. `None`: each cell has one row. A table of histograms (in
    `_VIEW_OF_BINS`) is returned as `_read_lists` does.
    """
    where = f"run IN ({', '.join(map(str, run_codes)) or 'NULL'})"  # `IN (NULL)`: no run
    if bucket_ratios is None:
        query = f"SELECT * FROM store.{table} WHERE {where}"
    else:
        query = _write_merging_query(engine, _VIEW_OF_BINS.get(table, table), bucket_ratios, where)
    if table not in _VIEW_OF_BINS:  # it has no histograms
        return dict(engine.execute(query).fetchnumpy())
    if bucket_ratios is not None:
        # Merged histograms have a row per bin: make lists of them, as in the table.
        query = f"""
            SELECT * EXCLUDE (bin, n), list(bin ORDER BY bin) AS bins, list(n ORDER BY bin) AS counts
            FROM ({query}) GROUP BY ALL"""
    return _read_lists(engine, query)


def _read_lists(engine: Engine, query: str) -> _Columns:
    """Read histograms, a row each with the lists `bins` and `counts`, without a copy of the lists.

    Returns column → array: the other columns, which are keys; `bin` and `n`, the lists of all rows in one array each;
    and `start` and `length`, which entries of these two arrays are those of a row.
    """
    table = engine.sql(query).to_arrow_table().combine_chunks()
    bins, counts = _only_chunk(table["bins"]), _only_chunk(table["counts"])
    keys = [name for name in table.column_names if name not in {"bins", "counts"}]
    columns: _Columns = {key: _as_numpy(_only_chunk(table[key])) for key in keys}
    offsets = _as_numpy(bins.offsets)
    columns |= {"start": offsets[:-1], "length": np.diff(offsets)}
    columns |= {"bin": _as_numpy(bins.values), "n": _as_numpy(counts.values)}
    return columns


def _as_numpy(column: pa.Array) -> npt.NDArray[Any]:
    """View whole numbers without nulls as an array; `to_numpy` would import pandas, which takes a quarter second."""
    return np.from_dlpack(column)


_PER_BIN = frozenset({"bin", "n"})
"""Columns of histograms with an entry per bin, not per row."""


def _only_chunk(column: pa.ChunkedArray) -> pa.ListArray:
    """Return the chunk of a column whose chunks were combined, as an array; empty for a column without rows."""
    return cast("pa.ListArray", column.chunk(0) if column.num_chunks else pa.array([], column.type))


def _spread_bins(histograms: _Columns) -> _Columns:
    """Spread histograms into columns with a row per bin, in the order of bins.

    `histograms`: as from `_read_lists`. Keys have an entry per histogram; `bin` and `n` have an entry per bin, for all
    histograms; `start` and `length` say which of these entries belong to a histogram.
    """
    start, length = histograms["start"].astype(np.int64), histograms["length"]
    keys = [name for name in histograms if name not in {"start", "length", *_PER_BIN}]
    columns: _Columns = {key: np.repeat(histograms[key].astype(np.int64), length) for key in keys}
    columns |= {name: histograms[name].astype(np.int64) for name in _PER_BIN}
    # `bin` and `n` are still in the order of the store. If the histograms have another order (they were sorted), bring
    # the entries of their bins into it.
    ends = np.cumsum(length)
    starts_in_order = ends - length
    if not np.array_equal(start, starts_in_order):
        # For each bin in the new order, the index of its entry in the order of the store.
        stored_indices = np.repeat(start - starts_in_order, length) + np.arange(ends[-1])
        columns |= {name: columns[name][stored_indices] for name in _PER_BIN}
    # Sorted by bin, in linear time; the rows of one bin keep their order.
    order = np.argsort(columns["bin"].astype(np.int16), kind="stable")
    return {name: column[order] for name, column in columns.items()}


def _write_merging_query(engine: Engine, table: str, bucket_ratios: Mapping[int, int], where: str) -> str:
    """Write the query that merges all rows of a cell into one, after several buckets of a run have become one.

    `bucket_ratios`: code of a run → how many of its buckets become one. `where`: condition on rows of `table`.
    """
    columns = [row[0] for row in engine.execute(f"DESCRIBE store.{table}").fetchall()]
    cases = " ".join(f"WHEN {run_code} THEN {ratio}" for run_code, ratio in bucket_ratios.items())
    ratio_sql = f"CASE run {cases} END"
    # Of each column, the template: keys stay, extremes are compared, all other columns are added up.
    templates = [_MERGES.get(column, "sum({column}) AS {column}") for column in columns]
    merged = [
        template.format(column=column, ratio=ratio_sql) for template, column in zip(templates, columns, strict=True)
    ]
    return f"SELECT {', '.join(merged)} FROM store.{table} WHERE {where} GROUP BY ALL"  # by all keys


_MERGES = {
    **dict.fromkeys(("bucket", "block"), "{column} // {ratio} AS {column}"),
    **dict.fromkeys(("run", "arm", "endpoint", "instance", "bin", "status", "exception"), "{column}"),
    **dict.fromkeys(
        ("n", "failures", "statuses", "redirects", "client_errors"), "CAST(sum({column}) AS BIGINT) AS {column}"
    ),
    **dict.fromkeys(("max_time", "users"), "max({column}) AS {column}"),
    "min_time": "min({column}) AS {column}",
}
"""Column → how parts of a cell are merged; others are summed up."""


def _read_names(engine: Engine, tables: Mapping[str, _Columns]) -> tuple[dict[str, tuple[str, ...]], _Columns]:
    """Read the names of arms, endpoints, instances and exceptions that occur in `tables`, the cells.

    Returns two dictionaries by kind (`arm`, …): the names in alphabetical order, the baseline arm first; and an array
    with the position of a name at the index of its id in the store.
    """
    rows = engine.execute("SELECT id, kind, name FROM store.names").fetchall()
    highest_id = max((name_id for name_id, _, _ in rows), default=0)
    names: dict[str, tuple[str, ...]] = {}
    positions_by_id: _Columns = {}
    for kind in ("arm", "endpoint", "instance", "exception"):
        column = tables["failure_kinds" if kind == "exception" else "moments"][kind]
        used_ids = {int(name_id) for name_id in np.unique(column)}
        name_by_id = {name_id: name for name_id, row_kind, name in rows if row_kind == kind and name_id in used_ids}
        # The baseline is an arm even if it has no cells.
        always_first = [BASELINE] if kind == "arm" else []
        names[kind] = (*always_first, *sorted(set(name_by_id.values()) - set(always_first)))
        position_by_name = {name: position for position, name in enumerate(names[kind])}
        positions_by_id[kind] = np.zeros(highest_id + 1, dtype=np.int64)
        for name_id, name in name_by_id.items():
            positions_by_id[kind][name_id] = position_by_name[name]
    return names, positions_by_id


def _sort_rows(columns: _Columns, keys: Sequence[str]) -> _Columns:
    """Sort rows by the columns `keys`, the first most important, so that the order of landing does not matter.

    `columns`: column → array with an entry per row (or of histograms, as from `_read_lists`).
    """
    # Combine the keys of a row into one number, as its digits, so that one comparison compares all keys.
    combined = np.zeros(len(columns["run"]), dtype=np.int64)
    for key in keys:
        values = columns[key].astype(np.int64)
        lowest = int(values.min()) if len(values) else 0
        highest = int(values.max(initial=lowest))
        combined = combined * (highest - lowest + 1) + (values - lowest)
    if np.all(combined[1:] >= combined[:-1]):
        return columns
    order = np.argsort(combined, kind="stable")
    # The bins of histograms stay where they are: `start` of each row refers to their places.
    unsorted = _PER_BIN if "start" in columns else frozenset[str]()
    return {name: column if name in unsorted else column[order] for name, column in columns.items()}


def _to_numbers(columns: _Columns, *, floats: frozenset[str] = frozenset()) -> dict[str, npt.NDArray[Any]]:
    """Convert columns to int64, or to float64 those named in `floats`; a null becomes NaN.

    Only extremes of response times can be null (for a cell without a success), and these are in `floats`.
    """
    numbers = {}
    for name, column in columns.items():
        plain = column
        if isinstance(column, np.ma.MaskedArray):
            plain = np.where(column.mask, np.nan, column.data) if column.mask.any() else column.data
        numbers[name] = plain.astype(np.float64 if name in floats else np.int64, copy=False)
    return numbers
