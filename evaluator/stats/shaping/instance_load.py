"""How much load the instances of the arms get: an instance with more load is slower, whatever its version."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluator.records import Cells
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.shaping.index import distinct

MOST_PARTS = 60
"""Parts of a run of which the median is taken."""
REQUESTS_OF_PART = 30
"""Requests of the arm with fewer requests that a part should have, so that its rate is not chance."""


@dataclass(frozen=True, slots=True)
class InstanceLoad:
    """Load of one instance of each arm in a run."""

    unit: Literal["requests/s", "users"]
    baseline: float
    candidate: float
    instances: tuple[float, float]
    """Instances of baseline and candidate at a time: the median, so a replaced instance does not count twice."""

    @property
    def ratio(self) -> float:
        """Load of a candidate's instance for each unit of that of a baseline's instance."""
        return self.candidate / self.baseline


def measure_instance_loads(
    cells: Cells,
    first_buckets: Mapping[int, int],
    declared: Mapping[str, int],
    unknown: Collection[str] = (),
    users_by_run: Mapping[int, Mapping[str, int]] | None = None,
) -> dict[str, InstanceLoad]:
    """Measure the load of single instances, for each candidate in the run in which it differs most from the baseline.

    Where each arm has users of its own, their number is the load: a slow version gets fewer requests from them, because
    they wait for answers. Where a router sends the requests, a slow version gets as many as before.

    Args:
        cells: The requests.
        first_buckets: Number of a run → its first judged bucket.
        declared: Arm → instances that the policy declares; it counts if requests name fewer.
        unknown: Arms whose number of instances is not known, unless it is declared.
        users_by_run: Number of a run → users of each arm; `None`: requests are counted instead, the median over parts
            of the run. Runs without users are then left out.

    Returns:
        Candidate → its load. A candidate is missing if a number of instances is unknown, or if it and the baseline were
        in no run at the same time.
    """
    moments = cells.moments
    loads: dict[str, InstanceLoad] = {}
    for arm_code, arm in enumerate(cells.arms[1:], start=1):
        if any(name in unknown and name not in declared for name in (cells.arms[0], arm)):
            continue
        for run in distinct(moments.run).tolist():
            of_run = (moments.run == run) & (moments.bucket >= first_buckets.get(run, 0))
            rows_by_role = [np.flatnonzero(of_run & (moments.arm == code)) for code in (0, arm_code)]
            names = cells.arms[0], arm
            users = None
            if users_by_run is not None:
                users = [users_by_run.get(run, {}).get(name, 0) for name in names]
                if not all(users):
                    continue
            load = _measure_run(cells, rows_by_role, [declared.get(name, 0) for name in names], users)
            if load is not None and (arm not in loads or _imbalance(load) > _imbalance(loads[arm])):
                loads[arm] = load
    return loads


def _imbalance(load: InstanceLoad) -> float:
    """How far the ratio of the loads is from 1, whichever arm has more."""
    return abs(float(np.log(load.ratio)))


def _measure_run(
    cells: Cells, rows_by_role: list[IntArray], declared: list[int], users: list[int] | None
) -> InstanceLoad | None:
    """Measure the loads of baseline and candidate in one run; `None`: they have no time in common.

    `rows_by_role`: indices of the rows of the cells' moments of each; `declared`: instances declared of each, or 0;
    `users`: users of each, `None` to count requests.
    """
    if not all(rows.size for rows in rows_by_role):
        return None
    buckets = [cells.moments.bucket[rows] for rows in rows_by_role]
    first, end = max(int(own.min()) for own in buckets), min(int(own.max()) for own in buckets) + 1
    if first >= end:
        return None
    counts, instances = [], []  # of each role: requests, and instances, in each bucket from `first` to before `end`
    for rows, least in zip(rows_by_role, declared, strict=True):
        requests, running = _count_by_bucket(cells, rows, first, end)
        counts.append(requests)
        instances.append(np.maximum(running, least))
    typical = float(np.median(instances[0])), float(np.median(instances[1]))
    if users is not None:
        return InstanceLoad("users", users[0] / max(typical[0], 1.0), users[1] / max(typical[1], 1.0), typical)
    fewest = min(float(requests.sum()) for requests in counts)
    parts = int(np.clip(fewest // REQUESTS_OF_PART, 1, min(MOST_PARTS, end - first)))
    starts = np.arange(parts) * (end - first) // parts
    # Requests per bucket in which an instance ran: shape (2, parts).
    rates = np.array(
        [
            np.add.reduceat(requests, starts) / np.maximum(np.add.reduceat(running, starts), 1.0)
            for requests, running in zip(counts, instances, strict=True)
        ]
    )
    baseline, candidate = (float(np.median(of_role)) / cells.bucket_s for of_role in rates)
    if baseline <= 0 or candidate <= 0:
        return None  # one of them was silent most of the time, which is the subject of another check
    return InstanceLoad("requests/s", baseline, candidate, typical)


def _count_by_bucket(cells: Cells, rows: IntArray, first: int, end: int) -> tuple[FloatArray, FloatArray]:
    """Count requests, and instances that run, in each bucket from `first` to before `end`; both of shape (buckets,).

    An instance runs from its first to its last request among `rows` (indices of rows of the cells' moments).
    """
    bucket, codes, n = cells.moments.bucket[rows], cells.moments.instance[rows], cells.moments.n[rows]
    inside = (bucket >= first) & (bucket < end)
    requests = np.bincount(bucket[inside] - first, weights=n[inside], minlength=end - first)
    starts = np.full(len(cells.instances), end)
    np.minimum.at(starts, codes, bucket)
    ends = np.full(len(cells.instances), first)  # bucket after the last
    np.maximum.at(ends, codes, bucket + 1)
    is_present = np.isin(np.arange(len(cells.instances)), codes)
    steps = np.zeros(end - first + 1)
    np.add.at(steps, np.clip(starts[is_present], first, end) - first, 1.0)
    np.add.at(steps, np.clip(ends[is_present], first, end) - first, -1.0)
    return np.asarray(requests, float), np.cumsum(steps)[:-1]
