"""Draw the requests of a `Scenario` with a seed: first all processes on a fine time grid, then one row per request."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from evaluator.records.arrays import BoolArray, FloatArray, IntArray
from evaluator.simulate.design import AR1, Bursts, Scenario
from evaluator.simulate.layout import Traffic, Version, build_traffic, build_versions
from evaluator.simulate.mixture import find_threshold

EPOCH_US = 1_767_571_200_000_000
"""Start of the first simulated run: 2026-01-05 00:00 UTC, µs. A simulation never reads a clock."""

PAUSE_S = 300
"""Shortest time between the runs of a group."""

RESTART_S = 20.0
"""An instance that restarts is silent for this long."""

WARM_UP_S = 20.0
"""Time constant with which an instance becomes fast again after a restart."""

FAILED = ("", "HTTP 500", "HTTP 503")
"""Exceptions of simulated requests; the first means success."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests as columns of equal length. Codes index the tuples of names. The order of rows has no meaning."""

    runs: tuple[str, ...]
    arms: tuple[str, ...]
    endpoints: tuple[str, ...]
    instances: tuple[str, ...]
    exceptions: tuple[str, ...]
    """Texts of exceptions; the first is empty and means no exception."""
    run: IntArray
    arm: IntArray
    endpoint: IntArray
    instance: IntArray
    ts_us: IntArray
    """Start of the request, µs since the epoch."""
    response_us: IntArray
    failed: BoolArray
    response_bytes: IntArray
    status: IntArray
    """HTTP status; -1 if no response came."""
    exception: IntArray
    users: IntArray | None = None
    """Users of the arm at the start of the request; `None`: not recorded."""

    def __len__(self) -> int:
        return len(self.ts_us)


def simulate(scenario: Scenario, seed: int) -> Requests:
    """Draw one release. The same scenario and seed give the same requests on every machine.

    >>> requests = simulate(Scenario(duration_s=60), seed=1)
    >>> requests.arms
    ('baseline', 'canary')
    """
    rng = np.random.default_rng(seed)
    return merge_requests([_simulate_run(scenario, rng, run) for run in range(scenario.replicates)])


def merge_requests(parts: list[Requests]) -> Requests:
    """Join the rows of parts with the same arms, endpoints and exceptions; runs and instances may differ.

    Users are kept only if all parts have them.
    """
    if len(parts) == 1:
        return parts[0]
    runs = tuple(dict.fromkeys(name for part in parts for name in part.runs))
    instances = tuple(dict.fromkeys(name for part in parts for name in part.instances))
    instance_codes = {name: code for code, name in enumerate(instances)}
    recoded = []  # the parts with codes that index the joined names
    for part in parts:
        new_run = np.array([runs.index(name) for name in part.runs], dtype=np.int64)
        new_instance = np.array([instance_codes[name] for name in part.instances], dtype=np.int64)
        recoded.append(replace(part, run=new_run[part.run], instance=new_instance[part.instance]))
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in recoded])
        for field in fields(Requests)
        if all(isinstance(getattr(part, field.name), np.ndarray) for part in recoded)
    }
    return replace(recoded[0], **{"users": None, "runs": runs, "instances": instances} | columns)


# ------------------------------------------------------------------ processes


@dataclass(frozen=True, slots=True)
class _Slots:
    """Places for instances, all arms in a row. Matrices have shape (slots, steps of the time grid)."""

    arm: IntArray
    """Arm of each slot."""
    instance: IntArray
    """Number of the instance that is in the slot, at each step."""
    names: tuple[str, ...]
    """Name of each instance."""
    log_us: FloatArray
    """Shift of the log of response times."""
    rate: FloatArray
    """Requests per second."""
    burst_failure: FloatArray
    """Probability of failure in addition to the steady one."""


def draw_ar1(rng: np.random.Generator, process: AR1, series: int, steps: int, step_s: float) -> FloatArray:
    """Draw independent stationary AR(1) series, shape (series, steps), with a step of `step_s`.

    The recursion x_t = φ x_{t-1} + e_t is summed by doubling: (1 + φB)(1 + φ²B²)(1 + φ⁴B⁴) … e; B shifts by one step.
    The first value has the variance of the process, so that no series has to settle.
    """
    phi = math.exp(-step_s / process.time_constant_s)
    # First the steps e_t, whose size keeps the variance of x_t the same; each loop applies one factor.
    series_values = rng.standard_normal((series, steps)) * process.sd
    series_values[:, 1:] *= math.sqrt(1 - phi * phi)
    lag = 1
    while lag < steps and phi**lag > 1e-18:  # smaller terms vanish in a sum of floats
        series_values[:, lag:] += phi**lag * series_values[:, :-lag].copy()
        lag *= 2
    return series_values


def draw_bursts(rng: np.random.Generator, bursts: Bursts, series: int, at_s: FloatArray) -> FloatArray:
    """Draw bursts and return the summed strength of those that are active, shape (series, steps).

    `series`: how many independent series. `at_s` (steps,): middles of steps of equal length. A burst that covers a part
    of a step counts with this part.
    """
    strength = np.zeros((series, len(at_s)))
    step_s = 2 * at_s[0]  # the first middle is half a step after the start
    edges_s = np.append(at_s - at_s[0], at_s[-1] + at_s[0])  # starts of the steps, and the end of the last
    duration_s = edges_s[-1]
    for row in range(series):
        for _ in range(rng.poisson(bursts.per_hour * duration_s / 3600.0)):
            start_s, length_s = rng.uniform(0, duration_s), rng.exponential(bursts.mean_s)
            height = rng.uniform(bursts.low, bursts.high)
            covered_s = np.minimum(edges_s[1:], start_s + length_s) - np.maximum(edges_s[:-1], start_s)
            strength[row] += height * np.clip(covered_s, 0.0, step_s) / step_s
    return strength


def _build_slots(
    scenario: Scenario, rng: np.random.Generator, traffic: Traffic, versions: tuple[Version, ...]
) -> _Slots:
    """Draw all processes of one run for each slot: latency, rate and bursts of failures, on the time grid.

    The order of the draws decides the numbers of a seed.
    """
    arms, steps = len(versions), len(traffic.at_s)
    step_s = scenario.duration_s / steps
    slots_of_arm = np.array([scenario.count_instances(arm) for arm in range(arms)])
    arm = np.repeat(np.arange(arms), slots_of_arm)
    instance, names, arm_of_instance = _draw_instances(scenario, rng, arm, traffic.at_s)
    # Latency: the level of the instance, what all arms share, then drifts of the arm and of the instance.
    level = rng.standard_normal(len(arm_of_instance)) * scenario.instance_sd
    shared = draw_ar1(rng, scenario.common, 1, steps, step_s) + draw_bursts(rng, scenario.spikes, 1, traffic.at_s)
    log_us = level[instance] + shared + traffic.latency_shift
    log_us += draw_ar1(rng, scenario.arm_drift, arms, steps, step_s)[arm]
    log_us += draw_ar1(rng, scenario.instance_drift, len(arm), steps, step_s)
    for candidate, change in enumerate(scenario.changes, start=1):
        log_us[arm == candidate] += np.log1p(change.leak * traffic.at_s / scenario.duration_s)
    # Traffic drifts in all arms alike, around a mean of 1; the slots of an arm share its traffic equally.
    pace = np.exp(draw_ar1(rng, scenario.traffic, 1, steps, step_s) - scenario.traffic.sd**2 / 2)
    rate = traffic.rate[arm] * pace / slots_of_arm[arm, None]
    burst_failure = draw_bursts(rng, scenario.shared_failures, 1, traffic.at_s)
    burst_failure = burst_failure + draw_bursts(rng, scenario.instance_failures, len(arm), traffic.at_s)
    _apply_restarts(scenario, rng, traffic.at_s, log_us, rate)
    if scenario.wait_s is not None:
        closed_loop_rate = _pace_by_latency(
            scenario, traffic, versions, arm=arm, log_us=log_us, slots_of_arm=slots_of_arm
        )
        rate = closed_loop_rate * (rate > 0)  # nothing where the instance is silent
    _lose_minutes(scenario, rng, traffic.at_s, arm, rate)
    return _Slots(arm, instance, names, log_us, rate, burst_failure)


def _draw_instances(
    scenario: Scenario, rng: np.random.Generator, arm: IntArray, at_s: FloatArray
) -> tuple[IntArray, tuple[str, ...], list[int]]:
    """Draw which instance is in which slot at each step; with a lifetime, instances follow one another in a slot.

    `arm`: arm of each slot; `at_s`: middles of the steps. Returns the number of the instance, shape (slots, steps), the
    name of each instance, and the arm of each instance.
    """
    instance = np.zeros((len(arm), len(at_s)), dtype=np.int64)
    arm_of_instance: list[int] = []
    for slot, slot_arm in enumerate(arm):
        replaced_s = np.zeros(0)  # times at which an instance is replaced by the next one
        if scenario.lifetime_s is not None:
            shortest_s, longest_s = scenario.lifetime_s
            lifetimes_s = rng.uniform(shortest_s, longest_s, size=math.ceil(scenario.duration_s / shortest_s) + 1)
            lifetimes_s[0] *= rng.uniform()  # the first instance started before the run
            replaced_s = np.cumsum(lifetimes_s)
            replaced_s = replaced_s[replaced_s < scenario.duration_s]
        instance[slot] = len(arm_of_instance) + np.searchsorted(replaced_s, at_s, side="right")
        arm_of_instance += [int(slot_arm)] * (len(replaced_s) + 1)
    instances_of_arm = dict.fromkeys(range(len(scenario.arms)), 0)
    names: list[str] = []
    for instance_arm in arm_of_instance:
        instances_of_arm[instance_arm] += 1
        names.append(f"{scenario.arms[instance_arm]}-{instances_of_arm[instance_arm]}")
    return instance, tuple(names), arm_of_instance


def _apply_restarts(
    scenario: Scenario, rng: np.random.Generator, at_s: FloatArray, log_us: FloatArray, rate: FloatArray
) -> None:
    """Let some slots, chosen at random, restart once: no requests for a time, then slow ones.

    A slot is the place of one instance. After a restart it is twice as slow, which decays over 20 s. Changes the shifts
    of log response times, `log_us`, and the requests per second, `rate`, both of shape (slots, steps). `at_s` (steps,)
    are the middles of the steps.
    """
    slots = rng.permutation(len(rate))[: scenario.restarts]
    for slot, share_of_run in zip(slots, rng.uniform(0.2, 0.8, size=len(slots)), strict=True):
        since_s = at_s - share_of_run * scenario.duration_s
        rate[slot, (since_s >= 0) & (since_s < RESTART_S)] = 0.0
        is_back = since_s >= RESTART_S
        log_us[slot, is_back] += np.log1p(np.exp(-(since_s[is_back] - RESTART_S) / WARM_UP_S))


def _pace_by_latency(
    scenario: Scenario,
    traffic: Traffic,
    versions: tuple[Version, ...],
    *,
    arm: IntArray,
    log_us: FloatArray,
    slots_of_arm: IntArray,
) -> FloatArray:
    """Return the requests per second of each slot in a closed loop, shape (slots, steps).

    Each user sends a request, waits for the response, and then for `wait_s`: so slow responses mean fewer requests. A
    candidate's change of the tail alone is ignored: it hardly changes the pace.

    Args:
        scenario: The scenario.
        traffic: Its expected traffic, with the users of each arm.
        versions: Version of each arm.
        arm: Arm of each slot (the place of one instance), shape (slots,).
        log_us: Shift of the log response times in each slot, shape (slots, steps).
        slots_of_arm: Number of slots of each arm, which share its users equally.
    """
    # Factors of the tail (with the mean of a Pareto distribution) and of the cache on the mean response time.
    mean_in_tail = scenario.tail_share * scenario.tail_factor * scenario.tail_index / (scenario.tail_index - 1)
    tail_effect = 1 - scenario.tail_share + mean_in_tail
    cache_effect = 1 - scenario.cache_hit * (1 - scenario.cache_factor)
    medians_us = [float(version.shares @ np.exp(version.log_us)) for version in versions]
    mean_s = np.array(
        # exp(σ²/2): a lognormal mean divided by its median.
        [median * tail_effect * cache_effect * math.exp(scenario.sigma**2 / 2) / 1e6 for median in medians_us]
    )
    users = traffic.users[arm] / slots_of_arm[arm, None]  # of each slot
    return users / ((scenario.wait_s or 0.0) + mean_s[arm, None] * np.exp(log_us))


def _lose_minutes(
    scenario: Scenario, rng: np.random.Generator, at_s: FloatArray, arm: IntArray, rate: FloatArray
) -> None:
    """Set the rate to 0 in some minutes, each in one arm, both chosen at random. Changes `rate`, shape (slots, steps).

    `arm`: arm of each slot; `at_s`: middles of the steps.
    """
    minutes = max(1, int(scenario.duration_s // 60))
    lost_minutes = rng.permutation(minutes)[: scenario.missing_minutes]
    lost_arms = rng.integers(0, arm.max() + 1, size=len(lost_minutes))
    minute_of_step = (at_s // 60).astype(np.int64)
    for lost_minute, lost_arm in zip(lost_minutes, lost_arms, strict=True):
        rate[np.ix_(arm == lost_arm, minute_of_step == lost_minute)] = 0.0


def _simulate_run(scenario: Scenario, rng: np.random.Generator, run: int) -> Requests:
    """Draw the requests of run number `run`: first the processes on a time grid, then each request of each step.

    The order of the draws decides the numbers of a seed.
    """
    versions, traffic = build_versions(scenario), build_traffic(scenario)
    # A slot is the place of one instance. Its arrays, and `counts`, have the shape (slots, steps of the time grid).
    slots = _build_slots(scenario, rng, traffic, versions)
    steps = len(traffic.at_s)
    counts = rng.poisson(slots.rate * (scenario.duration_s / steps))
    counts_flat = counts.ravel()
    # From here on an item is a request; requests are in the order of slots, and so of arms, then of steps.
    arm = np.repeat(slots.arm, counts.sum(axis=1))
    log_shift = np.repeat(slots.log_us.ravel(), counts_flat)
    burst_failure = np.repeat(slots.burst_failure.ravel(), counts_flat)
    within_step = rng.random(len(arm))  # position within the step, 0 to 1
    step_us = scenario.duration_s * 1e6 / steps
    step_of_request = np.repeat(np.tile(np.arange(steps), len(slots.arm)), counts_flat)
    offset_us = (step_of_request + within_step) * step_us  # from the start of the run
    # Runs start at whole pauses, at least a pause after the end of the run before.
    start_us = EPOCH_US + run * math.ceil((scenario.duration_s + PAUSE_S) / PAUSE_S) * PAUSE_S * 1_000_000
    skew_us = (arm > 0) * round(scenario.clock_skew_s * 1e6)  # the clocks of candidates are ahead
    endpoint = _draw_endpoints(rng, arm, versions)
    log_us = log_shift + np.stack([version.log_us for version in versions])[arm, endpoint]
    _vary_times(scenario, rng, log_us)
    is_given_up = _slow_tails(scenario, arm, log_us)
    response_us = np.rint(np.exp(log_us) / scenario.grid_us).astype(np.int64) * scenario.grid_us
    steady_failure = np.stack([version.failure for version in versions])[arm, endpoint]
    uniform = rng.random(len(arm))
    # Index of FAILED: 1 for steady failures, 2 for bursts and requests that are given up, 0 for successes.
    fails_in_burst = (uniform < steady_failure + burst_failure) | is_given_up
    exception = np.where(uniform < steady_failure, 1, np.where(fails_in_burst, 2, 0))
    mean_bytes = np.stack([version.bytes for version in versions])[arm, endpoint]
    instance = np.zeros(len(arm), dtype=np.int64)  # all without a name
    if scenario.labelled:
        instance = np.repeat(slots.instance.ravel(), counts_flat)
    users = None
    if scenario.users is not None:
        users = np.repeat(np.rint(traffic.users[slots.arm]).astype(np.int64).ravel(), counts_flat)
    return Requests(
        runs=tuple(f"run-{number}" for number in range(scenario.replicates)),
        arms=scenario.arms,
        endpoints=tuple(f"GET /endpoint/{number:03d}" for number in range(scenario.endpoints)),
        instances=slots.names if scenario.labelled else ("",),
        exceptions=FAILED,
        run=np.full(len(arm), run),
        arm=arm,
        endpoint=endpoint,
        instance=instance,
        ts_us=start_us + offset_us.astype(np.int64) + skew_us,
        response_us=response_us,
        failed=exception > 0,
        response_bytes=np.rint(mean_bytes * (0.8 + 0.4 * within_step)).astype(np.int64),  # 80 to 120 % of the mean
        status=np.array([200, 500, 503])[exception],
        exception=exception,
        users=users,
    )


def _draw_endpoints(rng: np.random.Generator, arm: IntArray, versions: tuple[Version, ...]) -> IntArray:
    """Draw the endpoint of each request by the shares of its arm's version; `arm` (of each request) is ascending."""
    uniform = rng.random(len(arm))
    uniform_by_arm = np.split(uniform, np.cumsum(np.bincount(arm, minlength=len(versions)))[:-1])
    endpoints = []
    for version, arm_uniform in zip(versions, uniform_by_arm, strict=True):
        upper_edges = np.cumsum(version.shares)[:-1]
        endpoints.append(np.searchsorted(upper_edges, arm_uniform, side="right"))
    return np.concatenate(endpoints)


def _vary_times(scenario: Scenario, rng: np.random.Generator, log_us: FloatArray) -> None:
    """Vary the response times of single requests: at random, in the tail, and by cache hits. Changes `log_us`.

    `log_us` (requests,) is the log of the median response time (µs) of each request.
    """
    log_us += scenario.sigma * rng.standard_normal(len(log_us))
    in_tail = np.flatnonzero(rng.random(len(log_us)) < scenario.tail_share)
    # The log of a Pareto number is exponential.
    log_us[in_tail] += math.log(scenario.tail_factor) + rng.exponential(1 / scenario.tail_index, size=len(in_tail))
    if scenario.cache_hit > 0:
        log_us[rng.random(len(log_us)) < scenario.cache_hit] += math.log(scenario.cache_factor)


def _slow_tails(scenario: Scenario, arm: IntArray, log_us: FloatArray) -> BoolArray:
    """Make the slowest requests of candidates slower by the factor `tail`; return which requests a candidate gives up.

    Which requests are slow is decided by quantiles of the baseline's response times: a candidate gives up (`shed`)
    those that take longer than a timeout. `arm` and `log_us` (log of the response time, µs; changed in place) are of
    each request.
    """
    is_given_up = np.zeros(len(arm), dtype=np.bool_)
    for candidate, change in enumerate(scenario.changes, start=1):
        rows = np.flatnonzero(arm == candidate)
        if change.shed > 0:
            is_given_up[rows] = log_us[rows] > find_threshold(scenario, 1 - change.shed)
        if change.tail > 1:
            slow = rows[log_us[rows] > find_threshold(scenario, change.tail_quantile)]
            log_us[slow] += math.log(change.tail)
    return is_given_up
