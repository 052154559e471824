"""Failures of each arm by endpoint and instance, with their kinds (HTTP status and exception)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from evaluator.records import OTHER_KINDS, Cells, FailureCount, FailureKind
from evaluator.records.arrays import IntArray
from evaluator.stats.shaping.index import LARGEST_TABLE

MOST_PLACES = 50
"""Endpoints, instances, and pairs of both that are listed of each arm: those with the most failures."""
MOST_KINDS = 3
"""Kinds that are named at each place."""


@dataclass(frozen=True, slots=True)
class _Places:
    """Requests of an arm by endpoint and instance; arrays of shape (places,), without places that have no request."""

    endpoint: IntArray
    instance: IntArray
    n: IntArray
    failures: IntArray


def list_failures(cells: Cells) -> tuple[FailureCount, ...]:
    """List the failures of each arm: of all its requests, then by endpoint, by instance, and by both.

    Every arm is listed; other places only with a failure, those with the most first, and at most `MOST_PLACES` of each
    sort. Failures whose kind was not recorded there (in a part of the time; by instance in stores of an older
    evaluator) are counted in `not_recorded`.
    """
    counts: list[FailureCount] = []
    for code, arm in enumerate(cells.arms):
        places = _add_up(cells, code)
        of_kind = cells.failure_kinds.arm == code
        for by in ((), ("endpoint",), ("instance",), ("endpoint", "instance")):
            counts += _list_places(cells, arm, places, np.flatnonzero(of_kind), by)
    return tuple(counts)


def count_kinds(
    cells: Cells,
    arm: int,
    *,
    endpoints: Collection[int] | None = None,
    instances: Collection[int] | None = None,
    run: int | None = None,
) -> Counter[tuple[int, str]]:
    """Count the failures of an arm by status and exception: at some endpoints on some instances in a run.

    All are codes; `None`: all endpoints, all instances, all runs.
    """
    kinds = cells.failure_kinds
    chosen = kinds.arm == arm
    if run is not None:
        chosen &= kinds.run == run
    for codes, listed in ((kinds.endpoint, endpoints), (kinds.instance, instances)):
        if listed is not None:
            chosen &= np.isin(codes, list(listed))
    return _count_rows(cells, np.flatnonzero(chosen))


def rank_kinds(counted: Counter[tuple[int, str]], failures: int) -> tuple[tuple[FailureKind, ...], int, int]:
    """Rank the kinds of so many failures: the most frequent kinds, the failures of all others, and those not recorded.

    >>> rank_kinds(Counter({(503, ""): 5, (-1, "refused"): 2}), failures=8)
    ((FailureKind(status=503, exception='', n=5), FailureKind(status=-1, exception='refused', n=2)), 0, 1)
    """
    named = sorted((kind for kind in counted if kind[0] != OTHER_KINDS), key=lambda kind: (-counted[kind], kind))
    chosen = tuple(FailureKind(*kind, counted[kind]) for kind in named[:MOST_KINDS])
    recorded = sum(counted.values())
    return chosen, recorded - sum(kind.n for kind in chosen), max(failures - recorded, 0)


def _add_up(cells: Cells, arm: int) -> _Places:
    """Add up the requests and failures of an arm by endpoint and instance."""
    moments, instances = cells.moments, len(cells.instances)
    rows = np.flatnonzero(moments.arm == arm)
    pair = moments.endpoint[rows] * instances + moments.instance[rows]
    if len(cells.endpoints) * instances > LARGEST_TABLE:
        used, pair = np.unique(pair, return_inverse=True)
    else:
        used = np.arange(len(cells.endpoints) * instances)
    n, failures = (
        np.bincount(pair, weights=values[rows], minlength=used.size) for values in (moments.n, moments.failures)
    )
    present = np.flatnonzero(n)
    endpoint, instance = np.divmod(used[present], max(instances, 1))
    return _Places(endpoint, instance, n[present].astype(np.int64), failures[present].astype(np.int64))


def _list_places(
    cells: Cells, arm: str, places: _Places, kind_rows: IntArray, by: Collection[str]
) -> Iterable[FailureCount]:
    """Yield the failures of an arm by the columns `by`; `kind_rows`: the rows of its kinds."""
    sizes = {"endpoint": len(cells.endpoints), "instance": len(cells.instances)}
    kinds = cells.failure_kinds
    if "instance" in by:
        kind_rows = kind_rows[kinds.instance[kind_rows] >= 0]
    key, kind_key = np.zeros(places.n.size, np.int64), np.zeros(kind_rows.size, np.int64)
    for column in by:
        key = key * sizes[column] + getattr(places, column)
        kind_key = kind_key * sizes[column] + getattr(kinds, column)[kind_rows]
    if not by:
        keys, number = np.zeros(1, np.int64), key
    else:
        keys, number = np.unique(key, return_inverse=True)
    n, failures = (np.bincount(number, weights=values, minlength=keys.size) for values in (places.n, places.failures))
    order = np.argsort(-failures, kind="stable")[:MOST_PLACES]
    for place in order[failures[order] > 0] if by else order:
        instance = int(keys[place]) % sizes["instance"] if "instance" in by else None
        endpoint = int(keys[place]) // (sizes["instance"] if "instance" in by else 1) if "endpoint" in by else None
        counted = _count_rows(cells, kind_rows[kind_key == keys[place]])
        named, other_kinds, not_recorded = rank_kinds(counted, int(failures[place]))
        yield FailureCount(
            arm,
            None if endpoint is None else cells.endpoints[endpoint],
            None if instance is None else cells.instances[instance],
            requests=int(n[place]),
            failures=int(failures[place]),
            kinds=named,
            other_kinds=other_kinds,
            not_recorded=not_recorded,
        )


def _count_rows(cells: Cells, rows: IntArray) -> Counter[tuple[int, str]]:
    """Count the failures in some rows of `Cells.failure_kinds` by status and exception."""
    kinds = cells.failure_kinds
    counted: Counter[tuple[int, str]] = Counter()
    for row in rows.tolist():
        counted[int(kinds.status[row]), kinds.exception[row]] += int(kinds.n[row])
    return counted
