"""Roll requests up to cells in numpy, with the same arithmetic as the store, for tests and simulations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from evaluator.records import (
    BASELINE,
    BINS_PER_DECADE,
    BLOCK_BUCKETS,
    MICROSECONDS,
    Bins,
    Cells,
    FailureKinds,
    InstanceBins,
    LoadLevels,
    Moments,
    choose_bucket_s,
)
from evaluator.records.arrays import FloatArray, IntArray
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
    """Roll up requests to cells as the store does: the same request rows give equal cells there and here.

    Sums are exact integers. Names that no request uses are left out. The others are numbered in alphabetical order
    (baseline first). Requests without the name of an instance count as one instance with the name of their arm.
    `bucket_s=None`: chosen from the duration of the longest run.
    """
    requests = _sort_names(_name_instances(requests))
    spans_us = [float(np.ptp(requests.ts_us[requests.run == run])) for run in np.unique(requests.run)]
    bucket_s = bucket_s or choose_bucket_s(max(spans_us, default=0.0) / 1e6)
    bucket = np.floor_divide(requests.ts_us, bucket_s * 1_000_000)
    # Histograms are of successes only. Each of these columns has an item for each success.
    succeeded = ~requests.failed
    success_us = requests.response_us[succeeded]
    run, arm, endpoint = requests.run[succeeded], requests.arm[succeeded], requests.endpoint[succeeded]
    instance, success_bucket = requests.instance[succeeded], bucket[succeeded]
    bins = np.floor(BINS_PER_DECADE * np.log10(np.maximum(success_us, 1))).astype(np.int64)
    ones = np.ones(success_us.size, dtype=np.int64)
    if requests.users is None:
        none = np.zeros(0, dtype=np.int64)
        loads = LoadLevels(none, none, none, none)
    else:
        loads = LoadLevels(requests.run, requests.arm, bucket, requests.users)
    return Cells(
        runs=requests.runs,
        arms=requests.arms,
        endpoints=requests.endpoints,
        instances=requests.instances,
        bucket_s=bucket_s,
        units_per_ms=MICROSECONDS,
        grid=max(1, int(np.gcd.reduce(success_us, initial=0))),  # the step of which all times are multiples
        moments=_sum_moments(requests, bucket),
        bins=add_up(Bins(run, arm, endpoint, success_bucket, bins, ones)),
        instance_bins=add_up(InstanceBins(run, arm, endpoint, instance, success_bucket // BLOCK_BUCKETS, bins, ones)),
        loads=add_up(loads),
        failure_kinds=_count_failures(requests),
    )


def _name_instances(requests: Requests) -> Requests:
    """Give requests without the name of an instance the name of their arm."""
    if "" not in requests.instances:
        return requests
    # The names of the arms follow those of the instances.
    code_of_arm_name = len(requests.instances) + requests.arm
    is_unnamed = requests.instance == requests.instances.index("")
    instance = np.where(is_unnamed, code_of_arm_name, requests.instance)
    return replace(requests, instances=requests.instances + requests.arms, instance=instance)


def _sort_names(requests: Requests) -> Requests:
    """Keep only names that occur (and `baseline`), baseline first, the others in alphabetical order; update codes."""
    changed: dict[str, Any] = {}
    for column in ("arm", "endpoint", "instance", "exception"):
        names, codes = getattr(requests, f"{column}s"), getattr(requests, column)
        counts = np.bincount(codes, minlength=len(names))
        used = {name for name, count in zip(names, counts, strict=True) if count or name == BASELINE}
        ordered = tuple(sorted(used, key=lambda name: (name != BASELINE, name)))
        if ordered == names:
            continue
        new_codes = {name: code for code, name in enumerate(ordered)}
        changed[f"{column}s"] = ordered
        # -1 for a name that no request uses, so no code is -1.
        changed[column] = np.array([new_codes.get(name, -1) for name in names], dtype=np.int64)[codes]
    return replace(requests, **changed)


def _sum_squares(group_of: IntArray, values: IntArray, groups: int) -> FloatArray:
    """Sum the squares of the values in each group, shape (groups,); `group_of` is the group of each value.

    The sums are rounded once: the upper and lower halves of the squares (64 bits) are summed separately, each exactly.
    """
    squares = values.astype(np.uint64) ** 2
    upper = np.bincount(group_of, weights=squares >> np.uint64(32), minlength=groups)
    lower = np.bincount(group_of, weights=squares & np.uint64(0xFFFFFFFF), minlength=groups)
    return (upper * 2.0**32 + lower).astype(np.float64)


def _sum_moments(requests: Requests, bucket: IntArray) -> Moments:
    """Count and sum the requests of each cell: run × arm × endpoint × instance × bucket.

    `bucket`: the bucket of each request. Times and sizes are of successes; extremes are NaN in a cell without any.
    """
    keys = np.stack([requests.run, requests.arm, requests.endpoint, requests.instance, bucket])
    order, starts = group_rows(keys)
    cell_of_request = number_groups(order, starts)
    cells, succeeded = starts.size, ~requests.failed
    cell_of_success = cell_of_request[succeeded]
    response_us, response_bytes = requests.response_us[succeeded], requests.response_bytes[succeeded]
    min_us, max_us = np.full(cells, np.inf), np.full(cells, -np.inf)
    np.minimum.at(min_us, cell_of_success, response_us)
    np.maximum.at(max_us, cell_of_success, response_us)
    min_us[np.isinf(min_us)] = np.nan
    max_us[np.isinf(max_us)] = np.nan
    run, arm, endpoint, instance, bucket_of_cell = keys[:, order[starts]]  # of the first request of each cell
    status = requests.status[succeeded]

    def count_statuses(first: int, last: int) -> IntArray:
        """Count the successes of each cell with a status from `first` to `last`, shape (cells,)."""
        return np.bincount(cell_of_success[(status >= first) & (status <= last)], minlength=cells)

    return Moments(
        run,
        arm,
        endpoint,
        instance,
        bucket_of_cell,
        n=np.bincount(cell_of_request, minlength=cells),
        failures=np.bincount(cell_of_request[requests.failed], minlength=cells),
        sum_time=np.bincount(cell_of_success, weights=response_us, minlength=cells).astype(float),
        sum_sq_time=_sum_squares(cell_of_success, response_us, cells),
        min_time=min_us,
        max_time=max_us,
        bytes=np.bincount(cell_of_success, weights=response_bytes, minlength=cells).astype(float),
        bytes_sq=_sum_squares(cell_of_success, response_bytes, cells),
        statuses=count_statuses(100, 599),
        redirects=count_statuses(300, 399),
        client_errors=count_statuses(400, 499),
    )


def _count_failures(requests: Requests) -> FailureKinds:
    """Count the failures of each run, arm, endpoint, instance, status and text of exception."""
    columns = (
        requests.run, requests.arm, requests.endpoint, requests.instance, requests.status, requests.exception
    )  # fmt: skip
    keys = np.stack([column[requests.failed] for column in columns])
    order, starts = group_rows(keys)
    run, arm, endpoint, instance, status, exception = keys[:, order[starts]]  # of the first failure of each kind
    texts = tuple(requests.exceptions[code] for code in exception)
    return FailureKinds(run, arm, endpoint, instance, status, texts, n=np.diff(np.append(starts, order.size)))
