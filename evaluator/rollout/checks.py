"""What a step of a rollout needs besides the metrics: what each health check means for it, and checks of its own.

A check that fails forbids a GO, as in every verdict. For `no_harm` it matters whether the requests that were compared
are all that there were: a check without a class here forbids it, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from evaluator.assess import ReleaseData
from evaluator.health.base import fail, name_some, ok
from evaluator.records import BASELINE, Cells, Finding, Level, Run
from evaluator.records.rollouts import Observe, Rollout
from evaluator.stats.inference.score import wilson_interval
from evaluator.stats.inference.student import t_quantile
from evaluator.stats.shaping.silence import measure_clusters
from evaluator.wording import format_number

FORBIDS_NO_HARM = frozenset(
    {
        # Are these all requests, and of the right arm?
        *("coverage", "complete", "left_out", "in_flight", "unread_lines", "log_holes", "late", "clock", "overlap"),
        *("phases", "sample_ratio", "other_servers", "load_generator", "comparability", "selectors", "source_clock"),
        *("step_window", "step_share", "step_servers", "step_endpoints"),
        # Did failures hide?
        *("silence", "turnover", "without_server", "retries", "grpc_status", "client_aborts", "status_mix"),
        *("answer_size", "endpoint_silent", "targets", "traffic"),
        # The same of readings and outcomes.
        *("series", "partial_answer", "scrapes", "reading_overlap", "counter_drops", "not_a_number", "infinite"),
        *("samples", "assignment", "missing_outcomes"),
    }
)
"""Checks that can fail, and then forbid `no_harm` as well as GO: requests are missing, or failures may hide."""

FORBIDS_ONLY_GO = frozenset({"single_instance", "resolution", "outcome_looks"})
"""Checks that can fail, and then forbid GO only: something cannot be shown, although no data are missing."""

FORBIDS_NOTHING = frozenset(
    {
        *("per_instance_load", "early_warning", "history", "instance_age", "replication", "warm_up", "pacing"),
        *("router", "pooled_endpoints", "duplicates", "heavy_tail", "outcomes", "endpoints", "restarts", "instances"),
        *("late_start", "shared_instances", "histogram_form", "other_times", "server_notes", "duplicate_series"),
        *("bucket_bounds", "disagreement", "readings"),
    }
)
"""Checks that only warn."""

LEAST_GAP_S = 90.0
"""Time without requests, at the begin or end of a step, that the parts in which requests are summed up explain."""

MOST_GAP = 0.05
"""The same for longer steps, as a share of their time."""

SHARE_TOLERANCE = 0.03
"""Difference of the share that a router was given from that of the step, which whole weights of servers explain."""

EXPECTED = 10
"""Requests of an endpoint that an arm should have had, from which none is no chance (1 in 20,000)."""

MOST_UNSEEN = 0.05
"""Largest share of an arm's requests on endpoints that the other arm never got."""


def forbids_no_harm(finding: Finding) -> bool:
    """Does a finding of a health check forbid `no_harm`? One that is void does, and one of an unknown check."""
    return finding.level is Level.FAIL and (finding.void or finding.check not in FORBIDS_ONLY_GO)


@dataclass(frozen=True, slots=True)
class StepTime:
    """The time of a step that is judged."""

    step: Observe
    started: float
    """Begin of its requests (epoch s)."""
    ends: float
    """Until when they are judged."""
    servers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Arm → its servers at the router; empty: not known."""

    @property
    def gap_s(self) -> float:
        """How long an arm may have no requests at the begin and at the end."""
        return max(LEAST_GAP_S, MOST_GAP * (self.ends - self.started))


def check_step(data: ReleaseData, time: StepTime) -> Iterator[Finding]:
    """Check that the requests of users are those of the whole step, of every arm, server and endpoint.

    Readings alone have health checks of their own, but no single requests.
    """
    cells = data.live_cells
    if cells is None and data.readings is not None:
        return
    if cells is None or not cells.moments.n.sum():
        yield fail("step_window", "no request of users was recorded in this step", "look at the router's access log")
        return
    yield from _check_window(cells, time)
    yield from _check_share(data.live_runs, time.step)
    yield from _check_servers(cells, time.servers)
    yield from _check_endpoints(cells)


def _check_window(cells: Cells, time: StepTime) -> Iterator[Finding]:
    """Every arm has requests from the begin to the end."""
    moments, problems = cells.moments, []
    for code, arm in enumerate(cells.arms):
        buckets = moments.bucket[(moments.arm == code) & (moments.n > 0)]
        if not buckets.size:
            problems.append(f"{arm} has no requests")
            continue
        first_s, last_s = int(buckets.min()) * cells.bucket_s, (int(buckets.max()) + 1) * cells.bucket_s
        if first_s - time.started > time.gap_s:
            problems.append(f"{arm} has no requests before {_clock(first_s)}")
        if time.ends - last_s > time.gap_s:
            problems.append(f"{arm} has no requests after {_clock(last_s)}")
    if len(cells.arms) < 2:
        problems.append("only one arm has requests")
    period = f"{_clock(time.started)} to {_clock(time.ends)} UTC"
    if problems:
        remedy = "look at the servers of this arm, and whether the log was followed all the time"
        yield fail("step_window", f"the step is judged from {period}, but {'; '.join(problems)}", remedy)
    else:
        yield ok("step_window", f"every arm has requests from {period}")


def _clock(seconds: float) -> str:
    """Write a moment (epoch s) as the time of its day, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S}"


def _check_share(runs: Sequence[Run], step: Observe) -> Iterator[Finding]:
    """The requests were recorded with the share that the step gave to the candidate."""
    for run in runs:
        candidate = sum(share for arm, share in run.shares.items() if arm != BASELINE)
        if not run.shares:
            yield fail("step_share", "it is not known which share of the requests the router gave to each arm")
        elif abs(candidate - step.share) > SHARE_TOLERANCE:
            got, wanted = (format_number(100 * share) for share in (candidate, step.share))
            yield fail("step_share", f"the router was set to {got} % for the candidate, the step is {wanted} %")


def _check_servers(cells: Cells, servers: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Every server of the router has answered, each for its own arm."""
    moments = cells.moments
    known = {server: arm for arm, names in servers.items() for server in names}
    problems = []
    for code, arm in enumerate(cells.arms):
        codes = np.unique(moments.instance[(moments.arm == code) & (moments.n > 0)])
        seen = [cells.instances[instance] for instance in codes]
        foreign = [name for name in seen if known.get(name, arm) != arm]
        if foreign:
            problems.append(
                f"requests of {name_some(foreign)} count for {arm}, but the router has it as {known[foreign[0]]}"
            )
        expected = servers.get(arm, ())
        if len(seen) < len(expected):
            missing = [name for name in expected if name not in seen]
            problems.append(f"{len(seen)} of {len(expected)} servers of {arm} answered (none of {name_some(missing)})")
    if problems:
        yield fail("step_servers", "; ".join(problems), "look at these servers, and at the arms of the log")


def _check_endpoints(cells: Cells) -> Iterator[Finding]:
    """Every endpoint that one arm gets often reaches the other arm, too."""
    moments = cells.moments
    counts = np.zeros((len(cells.arms), len(cells.endpoints)))  # requests, shape (arms, endpoints)
    np.add.at(counts, (moments.arm, moments.endpoint), moments.n)
    problems = []
    for code, arm in enumerate(cells.arms[1:], start=1):
        pair, names = counts[[0, code]], (BASELINE, arm)
        totals = pair.sum(axis=1)
        if not totals.all():
            continue  # an arm without requests fails by itself
        for with_requests, without in ((0, 1), (1, 0)):
            expected = pair[with_requests] * totals[without] / totals[with_requests]
            unseen = (pair[without] == 0) & (expected >= EXPECTED)
            share = pair[with_requests][unseen].sum() / totals[with_requests]
            if share > MOST_UNSEEN:
                endpoints = name_some([cells.endpoints[n] for n in np.flatnonzero(unseen)])
                percent = format_number(100 * share)
                of_arm = f"{percent} % of the requests of {names[with_requests]}"
                problems.append(f"{names[without]} never got {endpoints}: {of_arm}")
    if problems:
        yield fail("step_endpoints", "; ".join(problems), "let the router choose the arm of every request by chance")


def bound_failures(cells: Cells, arm: str, level: float) -> float:
    """Find the highest share of failures that an arm's requests do not exclude: Wilson's one-sided bound at `level`.

    Failures come in bursts, so the requests count as fewer: divided by the mean size of a burst. 1 without requests.
    """
    moments, code = cells.moments, cells.arms.index(arm)
    of_arm = moments.arm == code
    requests = int(moments.n[of_arm].sum())
    if not requests:
        return 1.0
    buckets = moments.bucket[of_arm] - moments.bucket[of_arm].min()
    failures = np.bincount(buckets, weights=moments.failures[of_arm]).astype(float)
    burst, _ = measure_clusters(failures[None, :])
    effective = max(requests / max(float(burst[0]), 1.0), 1.0)
    critical = float(t_quantile(1 - level, math.inf))
    return wilson_interval(float(failures.sum()) / requests, effective, critical)[1]


def list_servers(rollout: Rollout, service: str) -> Mapping[str, tuple[str, ...]]:
    """List the servers of each arm of a service, as its router in the policy of a rollout names them.

    Empty: it does not name them.
    """
    router = rollout.policy.get("rollout", {}).get("router", {}).get(service, {})
    for options in router.values():  # the kind of the hook → its options
        # With `map` or `split`, these are names of backends or upstreams: which servers they have is not known here.
        by_server = isinstance(options, Mapping) and not options.get("map") and not options.get("split")
        if by_server and isinstance(options.get("servers"), Mapping):
            return name_servers(options["servers"])
    return {}


def name_servers(servers: Mapping[str, object]) -> Mapping[str, tuple[str, ...]]:
    """Name the servers of each arm of a router: one server may be given without a list."""
    return {
        arm: tuple(str(name) for name in names) if isinstance(names, list | tuple) else (str(names),)
        for arm, names in servers.items()
    }
