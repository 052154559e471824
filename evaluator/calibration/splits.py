"""Identical releases out of what is stored: one arm's cells taken apart into two (A/A).

- instances: half of the baseline's instances against the other half;
- replicates: the baselines of odd runs against those of even ones, as if they had run together;
- time: neighbouring buckets of one instance, one of each pair an arm;
- both ways: where both arms ran one version there is nothing to split.

Histograms of single instances are kept by blocks only, so a split by instances has buckets as wide as a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluator.calibration.keys import find_groups, sum_counts
from evaluator.records import (
    BASELINE,
    BLOCK_BUCKETS,
    CANDIDATE,
    Bins,
    Cells,
    FailureKinds,
    InstanceBins,
    LoadLevels,
    Moments,
)

__all__ = [
    "balanced_halves",
    "both_ways",
    "only_baseline",
    "only_runs",
    "pair_runs",
    "split_instances",
    "split_time",
]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

ARMS = (BASELINE, CANDIDATE)
ALIGNED = 1024
"""Runs that are laid beside each other keep their place within blocks of any width."""

_SUMS = ("n", "failures", "sum_us", "sum_sq_us", "bytes", "bytes_sq")
_KEYS = ("run", "arm", "endpoint", "instance", "bucket")


def only_baseline(cells: Cells) -> Cells:
    """The cells of the baseline arm."""
    return _choose(cells, lambda rows: rows.arm == 0, arms=cells.arms[:1])


def only_runs(cells: Cells, run: int) -> Cells:
    """The cells of the run with this code; it keeps the code."""
    return _choose(cells, lambda rows: rows.run == run, arms=cells.arms)


def balanced_halves(names: Sequence[str], most: int, random: np.random.Generator) -> tuple[tuple[str, ...], ...]:
    """Halves of `names` that play the candidate, each beside what it leaves; at most `most`, drawn without bias.

    >>> balanced_halves("abcd", 4, np.random.default_rng(1))[0:2]
    (('a', 'b'), ('c', 'd'))
    """
    size = len(names) // 2
    chosen = list(combinations(sorted(names), size))
    if len(names) % 2 == 0:
        chosen = chosen[: len(chosen) // 2]
    pairs = [(half, tuple(name for name in sorted(names) if name not in half)) for half in chosen]
    if len(pairs) * 2 > most:
        keep = sorted(random.choice(len(pairs), max(1, most // 2), replace=False))
        pairs = [pairs[k] for k in keep]
    return tuple(half for pair in pairs for half in pair)


def split_instances(cells: Cells, candidates: Sequence[str]) -> Cells:
    """Baseline's cells with these of its instances as the candidate, the others as baseline."""
    chosen = np.isin(np.arange(len(cells.instances)), [cells.instances.index(name) for name in candidates])
    wide = _widen(only_baseline(cells))
    rows, bins = wide.moments, wide.instance_bins
    loads = wide.loads
    both = LoadLevels(
        np.tile(loads.run, 2),
        np.repeat(np.array([0, 1], dtype=np.int64), loads.run.size),
        np.tile(loads.bucket, 2),
        np.tile(loads.users, 2),
    )
    moved = replace(
        wide,
        arms=ARMS,
        moments=replace(rows, arm=chosen[rows.instance].astype(np.int64)),
        instance_bins=replace(bins, arm=chosen[bins.instance].astype(np.int64)),
        loads=both,
        failure_kinds=_no_kinds(),
    )
    return _finish(moved)


def both_ways(cells: Cells) -> tuple[Cells, Cells]:
    """Baseline and first candidate as they ran, and with their parts exchanged."""
    pair = _choose(cells, lambda rows: rows.arm < 2, arms=ARMS)
    tables = ("moments", "bins", "instance_bins", "loads")
    turned = {table: replace(getattr(pair, table), arm=1 - getattr(pair, table).arm) for table in tables}
    return pair, replace(pair, **turned)


def split_time(cells: Cells, random: np.random.Generator) -> Cells:
    """Baseline's buckets dealt out in pairs: one of each to either arm, by a coin.

    The arms become one instance each, whatever stood behind them: this shows the false alarms of time alone.
    """
    alone = only_baseline(cells)
    rows, bins, loads = alone.moments, alone.bins, alone.loads
    first = int(rows.bucket.min()) // 2 if rows.bucket.size else 0
    last = int(rows.bucket.max()) // 2 if rows.bucket.size else 0
    coin = random.integers(0, 2, last - first + 1)

    def arm_of(bucket: IntArray) -> IntArray:
        return np.asarray((bucket + coin[bucket // 2 - first]) % 2, dtype=np.int64)

    dealt = replace(
        alone,
        arms=ARMS,
        instances=ARMS,
        bucket_s=2 * cells.bucket_s,
        moments=replace(rows, arm=arm_of(rows.bucket), instance=arm_of(rows.bucket), bucket=rows.bucket // 2),
        bins=replace(bins, arm=arm_of(bins.bucket), bucket=bins.bucket // 2),
        loads=replace(loads, arm=arm_of(loads.bucket), bucket=loads.bucket // 2),
        failure_kinds=_no_kinds(),
    )
    return _with_instance_bins(replace(dealt, moments=_sum_moments(dealt.moments)))


def pair_runs(runs: Sequence[tuple[Cells, Cells]], *, together: bool) -> Cells:
    """Baselines of two past runs against each other, each pair a run: the second of a pair is the candidate.

    `together` lays them over each other in time, as if they had run at once; else they stay apart, as they were.
    All cells must have one bucket.
    """
    parts = [_beside(first, second, k, together=together) for k, (first, second) in enumerate(runs)]
    return _join(parts)


def _beside(first: Cells, second: Cells, run: int, *, together: bool) -> Cells:
    """Two baselines as the arms of one run, both counted from a bucket of their own."""
    sides = [only_baseline(cells) for cells in (first, second)]
    length = int(sides[0].moments.bucket.max() - sides[0].moments.bucket.min()) + 1
    offset = 0 if together else -(-length // ALIGNED) * ALIGNED
    names = tuple(dict.fromkeys(name for side in sides for name in side.endpoints))
    moved = [_move(side, arm, run, names, offset * arm) for arm, side in enumerate(sides)]
    return _join(moved)


def _move(cells: Cells, arm: int, run: int, endpoints: tuple[str, ...], offset: int) -> Cells:
    """One baseline as arm `arm` of run `run`, its first block at `offset`."""
    start = int(cells.moments.bucket.min()) // BLOCK_BUCKETS * BLOCK_BUCKETS - offset
    code = np.array([endpoints.index(name) for name in cells.endpoints], dtype=np.int64)

    def place(rows: Moments | Bins | InstanceBins | LoadLevels) -> dict[str, Any]:
        fresh: dict[str, Any] = {"run": np.full_like(rows.run, run), "arm": np.full_like(rows.arm, arm)}
        if not isinstance(rows, LoadLevels):
            fresh["endpoint"] = code[rows.endpoint]
        if isinstance(rows, InstanceBins):
            return fresh | {"block": rows.block - start // BLOCK_BUCKETS}
        return fresh | {"bucket": rows.bucket - start}

    return replace(
        cells,
        runs=tuple(f"pair-{k}" for k in range(run + 1)),
        arms=ARMS,
        endpoints=endpoints,
        instances=tuple(f"{name}#{run}.{arm}" for name in cells.instances),
        moments=replace(cells.moments, **place(cells.moments)),
        bins=replace(cells.bins, **place(cells.bins)),
        instance_bins=replace(cells.instance_bins, **place(cells.instance_bins)),
        loads=replace(cells.loads, **place(cells.loads)),
        failure_kinds=_no_kinds(),
    )


def _join(parts: Sequence[Cells]) -> Cells:
    """Cells with different instances put together; names of endpoints are merged."""
    endpoints = tuple(dict.fromkeys(name for part in parts for name in part.endpoints))
    tables: dict[str, list[dict[str, Any]]] = {}
    first = 0
    for part in parts:
        code = np.array([endpoints.index(name) for name in part.endpoints], dtype=np.int64)
        for table in ("moments", "bins", "instance_bins", "loads"):
            rows = getattr(part, table)
            columns = {name: getattr(rows, name) for name in rows.__dataclass_fields__}
            if "endpoint" in columns:
                columns["endpoint"] = code[columns["endpoint"]]
            if "instance" in columns:
                columns["instance"] = columns["instance"] + first
            tables.setdefault(table, []).append(columns)
        first += len(part.instances)
    joined = {
        table: {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        for table, pieces in tables.items()
    }
    return replace(
        parts[0],
        runs=max((part.runs for part in parts), key=len),
        endpoints=endpoints,
        instances=tuple(name for part in parts for name in part.instances),
        grid_us=int(np.gcd.reduce([part.grid_us for part in parts])),
        moments=Moments(**joined["moments"]),
        bins=Bins(**joined["bins"]),
        instance_bins=InstanceBins(**joined["instance_bins"]),
        loads=LoadLevels(**joined["loads"]),
    )


# ------------------------------------------------------------------ the arithmetic of cells


def _choose(cells: Cells, keep: Callable[[Any], BoolArray], *, arms: tuple[str, ...]) -> Cells:
    """Rows of every table for which `keep(rows)` holds."""
    out = {}
    for table in ("moments", "bins", "instance_bins", "loads"):
        rows = getattr(cells, table)
        chosen = keep(rows)
        out[table] = replace(rows, **{name: getattr(rows, name)[chosen] for name in rows.__dataclass_fields__})
    return replace(cells, arms=arms, failure_kinds=_no_kinds(), **out)


def _widen(cells: Cells) -> Cells:
    """Buckets as wide as a block: what is known of single instances then is known of all buckets."""
    rows, bins, loads = cells.moments, cells.instance_bins, cells.loads
    return replace(
        cells,
        bucket_s=cells.bucket_s * BLOCK_BUCKETS,
        moments=_sum_moments(replace(rows, bucket=rows.bucket // BLOCK_BUCKETS)),
        instance_bins=bins,
        loads=_highest(replace(loads, bucket=loads.bucket // BLOCK_BUCKETS)),
    )


def _finish(cells: Cells) -> Cells:
    """Bins of arms from those of instances, whose blocks are the buckets now; and blocks of the new buckets."""
    rows = cells.instance_bins
    bins = sum_counts(np.stack([rows.run, rows.arm, rows.endpoint, rows.block, rows.bin]), rows.n)
    blocks = np.stack([rows.run, rows.arm, rows.endpoint, rows.instance, rows.block // BLOCK_BUCKETS, rows.bin])
    return replace(cells, bins=Bins(*bins), instance_bins=InstanceBins(*sum_counts(blocks, rows.n)))


def _with_instance_bins(cells: Cells) -> Cells:
    """Bins of arms with one instance each are those of their instances."""
    rows = cells.bins
    bins = sum_counts(np.stack([rows.run, rows.arm, rows.endpoint, rows.bucket, rows.bin]), rows.n)
    blocks = np.stack([rows.run, rows.arm, rows.endpoint, rows.arm, rows.bucket // BLOCK_BUCKETS, rows.bin])
    return replace(cells, bins=Bins(*bins), instance_bins=InstanceBins(*sum_counts(blocks, rows.n)))


def _sum_moments(rows: Moments) -> Moments:
    """Rows with equal keys added up."""
    keys, place = find_groups(np.stack([getattr(rows, name) for name in _KEYS]))
    size = keys.shape[1]
    sums = {name: np.bincount(place, weights=getattr(rows, name), minlength=size) for name in _SUMS}
    low, high = np.full(size, np.nan), np.full(size, np.nan)
    np.fmin.at(low, place, rows.min_us)
    np.fmax.at(high, place, rows.max_us)
    counts = {name: sums[name].astype(np.int64) for name in ("n", "failures")}
    return Moments(**dict(zip(_KEYS, keys, strict=True)), **(sums | counts), min_us=low, max_us=high)  # type: ignore[arg-type]


def _highest(rows: LoadLevels) -> LoadLevels:
    """The highest user count of each run × arm × bucket."""
    keys, place = find_groups(np.stack([rows.run, rows.arm, rows.bucket]))
    users = np.zeros(keys.shape[1], dtype=np.int64)
    np.maximum.at(users, place, rows.users)
    run, arm, bucket = keys
    return LoadLevels(run, arm, bucket, users)


def _no_kinds() -> FailureKinds:
    none = np.zeros(0, dtype=np.int64)
    return FailureKinds(none, none, none, none, (), none)
