"""Roll requests up to cells in numpy: the same arithmetic as the store's roll-up, for tests and simulations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

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
from evaluator.records.cells import BINS_PER_DECADE, order_by_bin
from evaluator.simulate.design import Design
from evaluator.simulate.requests import Requests, simulate

__all__ = ["simulate_cells", "to_cells"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def simulate_cells(design: Design, seed: int) -> Cells:
    """Draw one release and roll it up: `to_cells(simulate(design, seed))` with the design's bucket.

    >>> cells = simulate_cells(Design(duration_s=60), seed=1)
    >>> cells.bucket_s, len(cells.instances)
    (1, 8)
    """
    return to_cells(simulate(design, seed), design.bucket_s or choose_bucket_s(design.duration_s))


def to_cells(requests: Requests, bucket_s: int | None = None) -> Cells:
    """Roll up as the store does: the same request rows give equal cells there and here.

    Sums are exact integers. Names that no request uses are left out, the others are numbered in alphabetical order
    (baseline first); requests that name no instance count as one instance named as their arm. `bucket_s=None`: chosen
    by the span of the longest run.
    """
    requests = _sort_names(_name_instances(requests))
    width = bucket_s or choose_bucket_s(_measure_span_s(requests))
    bucket = np.floor_divide(requests.ts_us, width * 1_000_000)
    ok = ~requests.failed
    passed_us = requests.response_us[ok]
    columns = (requests.run, requests.arm, requests.endpoint, requests.instance, bucket)
    fine = np.stack([*(column[ok] for column in columns), _find_bins(passed_us)])
    return Cells(
        runs=requests.runs,
        arms=requests.arms,
        endpoints=requests.endpoints,
        instances=requests.instances,
        bucket_s=width,
        grid_us=max(1, int(np.gcd.reduce(passed_us, initial=0))),
        moments=_sum_moments(requests, bucket),
        bins=Bins(*_by_bin(_count(fine[[0, 1, 2, 4, 5]]))),
        instance_bins=InstanceBins(*_by_bin(_count(np.stack([*fine[:4], fine[4] // BLOCK_BUCKETS, fine[5]])))),
        loads=_find_loads(requests, bucket),
        failure_kinds=_count_failures(requests),
    )


def _by_bin(columns: IntArray) -> IntArray:
    """Columns of a histogram (the last two: bin, n) in the order of bins."""
    return np.asarray(columns[:, order_by_bin(columns[-2])])


def _name_instances(requests: Requests) -> Requests:
    """Give requests without an instance their arm's name as one."""
    if "" not in requests.instances:
        return requests
    arms = len(requests.instances) + requests.arm
    instance = np.where(requests.instance == requests.instances.index(""), arms, requests.instance)
    return replace(requests, instances=requests.instances + requests.arms, instance=instance)


def _sort_names(requests: Requests) -> Requests:
    arms, arm = _sort_used(requests.arms, requests.arm)
    endpoints, endpoint = _sort_used(requests.endpoints, requests.endpoint)
    instances, instance = _sort_used(requests.instances, requests.instance)
    exceptions, exception = _sort_used(requests.exceptions, requests.exception)
    return replace(
        requests,
        arms=arms,
        arm=arm,
        endpoints=endpoints,
        endpoint=endpoint,
        instances=instances,
        instance=instance,
        exceptions=exceptions,
        exception=exception,
    )


def _sort_used(names: tuple[str, ...], codes: IntArray) -> tuple[tuple[str, ...], IntArray]:
    """Names that occur (and baseline's), baseline first, then by the alphabet; and the codes that point at them."""
    counts = np.bincount(codes, minlength=len(names))
    used = {name for name, count in zip(names, counts, strict=True) if count or name == BASELINE}
    order = sorted(used, key=lambda name: (name != BASELINE, name))
    if tuple(order) == names:
        return names, codes
    places = {name: place for place, name in enumerate(order)}
    return tuple(order), np.array([places.get(name, -1) for name in names], dtype=np.int64)[codes]


def _measure_span_s(requests: Requests) -> float:
    spans = [np.ptp(requests.ts_us[requests.run == run]) for run in np.unique(requests.run)]
    return float(max(spans, default=0)) / 1e6


def _find_bins(response_us: IntArray) -> IntArray:
    bins: IntArray = np.floor(BINS_PER_DECADE * np.log10(np.maximum(response_us, 1))).astype(np.int64)
    return bins


def _encode(columns: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """One number per row that orders rows like their columns; with the least values and the ranges to decode it."""
    least = columns.min(axis=1)
    ranges = columns.max(axis=1) - least + 1
    if float(np.prod(ranges.astype(np.float64))) >= 2.0**62:
        message = "columns range too widely to be grouped"
        raise OverflowError(message)
    code = np.zeros(columns.shape[1], dtype=np.int64)
    for column, low, size in zip(columns, least, ranges, strict=True):
        code *= size
        code += column - low
    return code, least, ranges


def _decode(code: IntArray, least: IntArray, ranges: IntArray) -> IntArray:
    columns = np.empty((len(least), len(code)), dtype=np.int64)
    for place in range(len(least) - 1, -1, -1):
        code, rest = np.divmod(code, ranges[place])
        columns[place] = rest + least[place]
    return columns


def _count(columns: IntArray) -> IntArray:
    """Distinct rows in order, with a last column of how many there are of each."""
    if columns.shape[1] == 0:
        return np.zeros((len(columns) + 1, 0), dtype=np.int64)
    code, least, ranges = _encode(columns)
    code.sort()
    starts = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]]))
    counts = np.diff(np.append(starts, len(code)))
    return np.vstack([_decode(code[starts], least, ranges), counts])


def _group(columns: IntArray) -> tuple[IntArray, IntArray]:
    """Distinct rows in order, and for each row which of them it is."""
    if columns.shape[1] == 0:
        return columns, np.zeros(0, dtype=np.int64)
    code, least, ranges = _encode(columns)
    space = int(np.prod(ranges))
    if space > 4 * len(code) + 1_000_000:
        distinct, place = np.unique(code, return_inverse=True)
        return _decode(distinct, least, ranges), place
    seen = np.bincount(code, minlength=space) > 0
    return _decode(np.flatnonzero(seen), least, ranges), (np.cumsum(seen) - 1)[code]


def _sum_exactly(place: IntArray, values: IntArray, groups: int) -> FloatArray:
    sums: FloatArray = np.bincount(place, weights=values, minlength=groups).astype(np.float64)
    return sums


def _sum_squares(place: IntArray, values: IntArray, groups: int) -> FloatArray:
    """Σ values² rounded once: the upper and lower halves of the squares are summed apart, each exactly."""
    squares = values.astype(np.uint64) ** 2
    upper = np.bincount(place, weights=squares >> np.uint64(32), minlength=groups)
    lower = np.bincount(place, weights=squares & np.uint64(0xFFFFFFFF), minlength=groups)
    return (upper * 2.0**32 + lower).astype(np.float64)


def _sum_moments(requests: Requests, bucket: IntArray) -> Moments:
    keys, place = _group(np.stack([requests.run, requests.arm, requests.endpoint, requests.instance, bucket]))
    groups, ok = keys.shape[1], ~requests.failed
    passed, response_us, size = place[ok], requests.response_us[ok], requests.response_bytes[ok]
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
        n=np.bincount(place, minlength=groups),
        failures=np.bincount(place[requests.failed], minlength=groups),
        sum_us=_sum_exactly(passed, response_us, groups),
        sum_sq_us=_sum_squares(passed, response_us, groups),
        min_us=low,
        max_us=high,
        bytes=_sum_exactly(passed, size, groups),
        bytes_sq=_sum_squares(passed, size, groups),
    )


def _find_loads(requests: Requests, bucket: IntArray) -> LoadLevels:
    if requests.users is None:
        none = np.zeros(0, dtype=np.int64)
        return LoadLevels(none, none, none, none)
    keys, place = _group(np.stack([requests.run, requests.arm, bucket]))
    users = np.zeros(keys.shape[1], dtype=np.int64)
    np.maximum.at(users, place, requests.users)
    run, arm, number = keys
    return LoadLevels(run, arm, number, users)


def _count_failures(requests: Requests) -> FailureKinds:
    bad = requests.failed
    columns = (requests.run, requests.arm, requests.endpoint, requests.status, requests.exception)
    run, arm, endpoint, status, exception, n = _count(np.stack([column[bad] for column in columns]))
    return FailureKinds(run, arm, endpoint, status, tuple(requests.exceptions[code] for code in exception), n)
