"""Requests that had no answer when a load ended: failures if they had waited too long, else cut off (method B.8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evaluator.records import Cells, FailureKinds, InFlight, LeftOut, LeftOutKind, Moments, Period, Run, bin_edges_us
from evaluator.stats.shaping.cells import join_rows

LEAST_AGE_S = 10.0
TIMES_SLOWEST = 3.0
SLOWEST = 0.999
USUAL = 0.99
NO_ANSWER = "no answer when the load ended"
"""Name of these failures among the kinds of failures."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Cells that include the requests counted as failed, and the result for all requests in flight."""

    cells: Cells
    patience_s: float
    """A request that waited longer counts as failed."""
    failed: tuple[InFlight, ...] = ()
    cut_off: tuple[LeftOut, ...] = ()
    """Requests that waited no longer than `patience_s`, by arm: they are not judged."""
    usual_s: float = 0.0
    """The p99 of the baseline's response times."""
    late: Mapping[str, int] = field(default_factory=dict)
    """Arm → number of requests in `cut_off` that had waited for longer than `usual_s`."""


def settle_in_flight(cells: Cells, runs: Sequence[Run]) -> Settled:
    """Count requests without an answer as failed if they waited longer than max(10 s, 3 × the baseline's p99.9).

    Each failure counts in the bucket in which its request began. The other requests in flight are left out.
    """
    waiting = [(run.id, request) for run in runs for request in run.facts.in_flight]
    usual_s, slowest_s = (_baseline_quantile_s(cells, share) for share in (USUAL, SLOWEST))
    patience_s = max(LEAST_AGE_S, TIMES_SLOWEST * slowest_s)
    old = [(run, request) for run, request in waiting if request.age_s > patience_s]
    young = Counter(request.arm for _, request in waiting if request.age_s <= patience_s)
    return Settled(
        cells=_add_failures(cells, old),
        patience_s=patience_s,
        failed=tuple(request for _, request in old),
        cut_off=tuple(LeftOut(arm, LeftOutKind.CUT_OFF, count) for arm, count in sorted(young.items())),
        usual_s=usual_s,
        late=Counter(request.arm for _, request in waiting if usual_s < request.age_s <= patience_s),
    )


def cut_in_flight(cells: Cells, runs: Sequence[Run], period: Period) -> tuple[tuple[Run, ...], tuple[LeftOut, ...]]:
    """Cut the requests in flight of runs to a period.

    A request is outside the period if it began before the period. All requests are outside if the period ends before
    the users were stopped. `cells` must be those of all the time, so that a request outside the period that had waited
    too long is counted as a failure, as it is for all the time.

    Returns:
        The runs with the requests in flight of the period only, and the requests outside it, by arm.
    """
    patience_s = settle_in_flight(cells, runs).patience_s
    start_s = period.start.timestamp() if period.start else -float("inf")
    cut, rows, failures = [], Counter[str](), Counter[str]()
    for run in runs:
        stopped = run.facts.users_stopped
        early = period.end is not None and stopped is not None and stopped > period.end
        in_flight = tuple(request for request in run.facts.in_flight if not early and request.started_s >= start_s)
        for request in run.facts.in_flight:
            if request not in in_flight:
                rows[request.arm] += 1
                failures[request.arm] += request.age_s > patience_s
        facts = replace(run.facts, in_flight=in_flight, users_stopped=period.end if early else stopped)
        cut.append(replace(run, facts=facts))
    kind = LeftOutKind.OUTSIDE_PERIOD
    return tuple(cut), tuple(LeftOut(arm, kind, n, failures[arm]) for arm, n in sorted(rows.items()))


def _baseline_quantile_s(cells: Cells, share: float) -> float:
    """A quantile of the baseline's successes, s: the upper edge of its bin; 0 without successes."""
    of_baseline = cells.bins.arm == 0
    bins, counts = cells.bins.bin[of_baseline], cells.bins.n[of_baseline]
    if not bins.size:
        return 0.0
    order = np.argsort(bins, kind="stable")
    reached = np.cumsum(counts[order])
    quantile_bin = int(bins[order][np.searchsorted(reached, share * reached[-1])])
    return float(bin_edges_us(quantile_bin, quantile_bin)[1]) / 1e6


def _add_failures(cells: Cells, old: Sequence[tuple[str, InFlight]]) -> Cells:
    """Add each of these requests as a failure; new names are appended to the known ones."""
    requests = [(run, request) for run, request in old if run in cells.runs]
    if not requests:
        return cells
    arms, endpoints, instances = (
        tuple(dict.fromkeys((*names, *(getattr(request, kind) for _, request in requests))))
        for names, kind in ((cells.arms, "arm"), (cells.endpoints, "endpoint"), (cells.instances, "instance"))
    )
    keys = Counter(
        (
            cells.runs.index(run),
            arms.index(request.arm),
            endpoints.index(request.endpoint),
            instances.index(request.instance),
            int(request.started_s // cells.bucket_s),
        )
        for run, request in requests
    )
    run_code, arm, endpoint, instance, bucket = np.array(list(keys), dtype=np.int64).T
    n = np.array(list(keys.values()), dtype=np.int64)
    nothing, unknown = np.zeros(n.size), np.full(n.size, np.nan)
    added = Moments(
        run=run_code,
        arm=arm,
        endpoint=endpoint,
        instance=instance,
        bucket=bucket,
        n=n,
        failures=n,
        sum_us=nothing,
        sum_sq_us=nothing,
        min_us=unknown,
        max_us=unknown,
        bytes=nothing,
        bytes_sq=nothing,
    )
    kinds = cells.failure_kinds
    return replace(
        cells,
        arms=arms,
        endpoints=endpoints,
        instances=instances,
        moments=join_rows([cells.moments, added]),
        failure_kinds=FailureKinds(
            run=np.append(kinds.run, run_code),
            arm=np.append(kinds.arm, arm),
            endpoint=np.append(kinds.endpoint, endpoint),
            status=np.append(kinds.status, np.full(n.size, -1)),
            exception=kinds.exception + (NO_ANSWER,) * n.size,
            n=np.append(kinds.n, n),
        ),
    )
