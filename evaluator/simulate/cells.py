"""Roll requests up to cells in numpy, with the same arithmetic as the store, for tests and simulations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from evaluator.records import (
    BASELINE,
    BLOCK_BUCKETS,
    Bins,
    Cells,
    FailureKinds,
    InstanceBins,
    LoadLevels,
    Moments,
    choose_bucket_s,
)
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.records.cells import BINS_PER_DECADE
from evaluator.simulate.design import Scenario
from evaluator.simulate.requests import Requests, simulate
from evaluator.stats.shaping.cells import add_up
from evaluator.stats.shaping.index import group_rows, number_groups


def simulate_cells(scenario: Scenario, seed: int) -> Cells:
    """Draw one release and roll it up: `to_cells(simulate(scenario, seed))` with the bucket of the scenario.

    >>> cells = simulate_cells(Scenario(duration_s=60), seed=1)
    >>> cells.bucket_s, len(cells.instances)
    (1, 8)
    """
    return to_cells(simulate(scenario, seed), scenario.bucket_s or choose_bucket_s(scenario.duration_s))


def to_cells(requests: Requests, bucket_s: int | None = None) -> Cells:
    """Roll up as the store does: the same request rows give equal cells there and here.

    Sums are exact integers. Names that no request uses are left out. The others are numbered in alphabetical order
    (baseline first). Requests without the name of an instance count as one instance with the name of their arm.
    `bucket_s=None`: chosen from the duration of the longest run.
    """
    if "" in requests.instances:
        arms = len(requests.instances) + requests.arm
        named = np.where(requests.instance == requests.instances.index(""), arms, requests.instance)
        requests = replace(requests, instances=requests.instances + requests.arms, instance=named)
    requests = _sort_names(requests)
    spans = [float(np.ptp(requests.ts_us[requests.run == run])) for run in np.unique(requests.run)]
    width = bucket_s or choose_bucket_s(max(spans, default=0.0) / 1e6)
    bucket = np.floor_divide(requests.ts_us, width * 1_000_000)
    ok = ~requests.failed
    passed_us = requests.response_us[ok]
    run, arm, endpoint, instance, when = (
        column[ok] for column in (requests.run, requests.arm, requests.endpoint, requests.instance, bucket)
    )
    ones = np.ones(passed_us.size, dtype=np.int64)
    bins = np.floor(BINS_PER_DECADE * np.log10(np.maximum(passed_us, 1))).astype(np.int64)
    users: IntArray = np.zeros(0, dtype=np.int64) if requests.users is None else requests.users
    with_users = slice(None, users.size)
    return Cells(
        runs=requests.runs,
        arms=requests.arms,
        endpoints=requests.endpoints,
        instances=requests.instances,
        bucket_s=width,
        grid_us=max(1, int(np.gcd.reduce(passed_us, initial=0))),
        moments=_sum_moments(requests, bucket),
        bins=add_up(Bins(run, arm, endpoint, when, bins, ones)),
        instance_bins=add_up(InstanceBins(run, arm, endpoint, instance, when // BLOCK_BUCKETS, bins, ones)),
        loads=add_up(LoadLevels(requests.run[with_users], requests.arm[with_users], bucket[with_users], users)),
        failure_kinds=_count_failures(requests),
    )


def _sort_names(requests: Requests) -> Requests:
    """Keep only names that occur (and `baseline`), baseline first, the others in alphabetical order; update codes."""
    columns: dict[str, Any] = {}
    for column in ("arm", "endpoint", "instance", "exception"):
        names, codes = getattr(requests, f"{column}s"), getattr(requests, column)
        counts = np.bincount(codes, minlength=len(names))
        used = {name for name, count in zip(names, counts, strict=True) if count or name == BASELINE}
        order = sorted(used, key=lambda name: (name != BASELINE, name))
        if tuple(order) == names:
            continue
        positions = {name: position for position, name in enumerate(order)}
        columns[f"{column}s"] = tuple(order)
        columns[column] = np.array([positions.get(name, -1) for name in names], dtype=np.int64)[codes]
    return replace(requests, **columns)


def _sum_squares(group_of: IntArray, values: IntArray, groups: int) -> FloatArray:
    """Σ values², rounded once: the upper and lower halves of the squares are summed separately, each exactly."""
    squares = values.astype(np.uint64) ** 2
    upper = np.bincount(group_of, weights=squares >> np.uint64(32), minlength=groups)
    lower = np.bincount(group_of, weights=squares & np.uint64(0xFFFFFFFF), minlength=groups)
    return (upper * 2.0**32 + lower).astype(np.float64)


def _sum_moments(requests: Requests, bucket: IntArray) -> Moments:
    columns = np.stack([requests.run, requests.arm, requests.endpoint, requests.instance, bucket])
    order, starts = group_rows(columns)
    keys, group_of = columns[:, order[starts]], number_groups(order, starts)
    groups, ok = starts.size, ~requests.failed
    passed, response_us, size = group_of[ok], requests.response_us[ok], requests.response_bytes[ok]
    low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(low, passed, response_us)
    np.maximum.at(high, passed, response_us)
    low[np.isinf(low)] = high[np.isinf(high)] = np.nan
    run, arm, endpoint, instance, number = keys
    return Moments(
        run,
        arm,
        endpoint,
        instance,
        number,
        n=np.bincount(group_of, minlength=groups),
        failures=np.bincount(group_of[requests.failed], minlength=groups),
        sum_us=np.bincount(passed, weights=response_us, minlength=groups).astype(float),
        sum_sq_us=_sum_squares(passed, response_us, groups),
        min_us=low,
        max_us=high,
        bytes=np.bincount(passed, weights=size, minlength=groups).astype(float),
        bytes_sq=_sum_squares(passed, size, groups),
    )


def _count_failures(requests: Requests) -> FailureKinds:
    bad = requests.failed
    columns = (requests.run, requests.arm, requests.endpoint, requests.status, requests.exception)
    rows = np.stack([column[bad] for column in columns])
    order, starts = group_rows(rows)
    run, arm, endpoint, status, exception = rows[:, order[starts]]
    n = np.diff(np.append(starts, order.size))
    return FailureKinds(run, arm, endpoint, status, tuple(requests.exceptions[code] for code in exception), n)
