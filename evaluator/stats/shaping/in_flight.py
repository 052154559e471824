"""Requests that had no answer when a load ended: failures if they had waited too long, else cut off (method B.8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evaluator.records import (
    NO_RESPONSE,
    Cells,
    FailureKinds,
    InFlight,
    LeftOut,
    LeftOutKind,
    Moments,
    Period,
    Run,
    find_bin_edges,
)
from evaluator.stats.shaping.cells import join_rows

LEAST_AGE_S = 10.0
TIMES_SLOWEST = 3.0
"""A request counts as failed if it waited longer than both `LEAST_AGE_S` and this multiple of the slowest quantile."""
SLOWEST = 0.999
USUAL = 0.99
"""Quantiles of the baseline's response times: of the slowest requests, and of usual requests."""
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
    in_flight = [(run.id, request) for run in runs for request in run.facts.in_flight]  # pairs (run, request)
    usual_s = _find_baseline_quantile_s(cells, USUAL)
    patience_s = max(LEAST_AGE_S, TIMES_SLOWEST * _find_baseline_quantile_s(cells, SLOWEST))
    timed_out = [(run, request) for run, request in in_flight if request.age_s > patience_s]
    cut_off = Counter(request.arm for _, request in in_flight if request.age_s <= patience_s)
    return Settled(
        cells=_add_failures(cells, timed_out),
        patience_s=patience_s,
        failed=tuple(request for _, request in timed_out),
        cut_off=tuple(LeftOut(arm, LeftOutKind.CUT_OFF, count) for arm, count in sorted(cut_off.items())),
        usual_s=usual_s,
        late=Counter(request.arm for _, request in in_flight if usual_s < request.age_s <= patience_s),
    )


def cut_in_flight(cells: Cells, runs: Sequence[Run], period: Period) -> tuple[tuple[Run, ...], tuple[LeftOut, ...]]:
    """Remove the requests in flight that are outside a period.

    A request is outside if it began before the period. All requests of a run are outside if the period ends before its
    users were stopped: the requests were in flight at that later time. `cells` must not be cut to the period, because
    the time after which a request counts as failed is found from all requests.

    Returns:
        The runs with the requests in flight of the period only; and for each arm, how many requests were removed, and
        how many of these had waited so long that they count as failures.
    """
    patience_s = settle_in_flight(cells, runs).patience_s
    start_s = period.start.timestamp() if period.start else -float("inf")
    cut_runs = []
    removed, removed_failures = Counter[str](), Counter[str]()
    for run in runs:
        stopped = run.facts.users_stopped
        ends_before_stop = period.end is not None and stopped is not None and stopped > period.end
        in_period = tuple(
            request for request in run.facts.in_flight if not ends_before_stop and request.started_s >= start_s
        )
        for request in run.facts.in_flight:
            if request not in in_period:
                removed[request.arm] += 1
                if request.age_s > patience_s:
                    removed_failures[request.arm] += 1
        facts = replace(run.facts, in_flight=in_period, users_stopped=period.end if ends_before_stop else stopped)
        cut_runs.append(replace(run, facts=facts))
    left_out = tuple(
        LeftOut(arm, LeftOutKind.OUTSIDE_PERIOD, count, removed_failures[arm]) for arm, count in sorted(removed.items())
    )
    return tuple(cut_runs), left_out


def _find_baseline_quantile_s(cells: Cells, share: float) -> float:
    """Find the quantile `share` of the response times of the baseline's successes, in s; 0 without successes.

    It is the upper edge of the histogram bin that contains the quantile.
    """
    of_baseline = cells.bins.arm == 0
    bins, counts = cells.bins.bin[of_baseline], cells.bins.n[of_baseline]
    if not bins.size:
        return 0.0
    order = np.argsort(bins, kind="stable")
    counts_up_to = np.cumsum(counts[order])
    quantile_bin = int(bins[order][np.searchsorted(counts_up_to, share * counts_up_to[-1])])
    return float(find_bin_edges(quantile_bin, quantile_bin)[1]) / (1000 * cells.units_per_ms)


def _add_failures(cells: Cells, timed_out: Sequence[tuple[str, InFlight]]) -> Cells:
    """Add requests, each with the name of its run, as failures; requests of runs without cells are ignored.

    Arms, endpoints and instances that the cells do not know are appended to their names.
    """
    requests = [(run, request) for run, request in timed_out if run in cells.runs]
    if not requests:
        return cells
    arms = tuple(dict.fromkeys((*cells.arms, *(request.arm for _, request in requests))))
    endpoints = tuple(dict.fromkeys((*cells.endpoints, *(request.endpoint for _, request in requests))))
    instances = tuple(dict.fromkeys((*cells.instances, *(request.instance for _, request in requests))))
    # Run, arm, endpoint, instance (codes) and bucket → number of requests.
    counts_by_key = Counter(
        (
            cells.runs.index(run),
            arms.index(request.arm),
            endpoints.index(request.endpoint),
            instances.index(request.instance),
            int(request.started_s // cells.bucket_s),
        )
        for run, request in requests
    )
    run_code, arm, endpoint, instance, bucket = np.array(list(counts_by_key), dtype=np.int64).T
    n = np.array(list(counts_by_key.values()), dtype=np.int64)
    # They have no response times: nothing is added to sums, and there is no minimum and maximum.
    zeros, no_times = np.zeros(n.size), np.full(n.size, np.nan)
    none = np.zeros(n.size, dtype=np.int64)
    added = Moments(
        run=run_code,
        arm=arm,
        endpoint=endpoint,
        instance=instance,
        bucket=bucket,
        n=n,
        failures=n,
        sum_time=zeros,
        sum_sq_time=zeros,
        min_time=no_times,
        max_time=no_times,
        bytes=zeros,
        bytes_sq=zeros,
        statuses=none,
        redirects=none,
        client_errors=none,
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
            instance=np.append(kinds.instance, instance),
            status=np.append(kinds.status, np.full(n.size, NO_RESPONSE)),
            exception=kinds.exception + (NO_ANSWER,) * n.size,
            n=np.append(kinds.n, n),
        ),
    )
