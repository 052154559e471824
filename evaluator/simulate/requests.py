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
FAILED = ("", "HTTP 500", "HTTP 503")


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
    """Join the rows of parts with the same arms, endpoints and exceptions; runs and instances may differ."""
    if len(parts) == 1:
        return parts[0]
    runs = tuple(dict.fromkeys(name for part in parts for name in part.runs))
    instances = tuple(dict.fromkeys(name for part in parts for name in part.instances))
    positions = {name: position for position, name in enumerate(instances)}
    moved = []
    for part in parts:
        run = np.array([runs.index(name) for name in part.runs], dtype=np.int64)
        instance = np.array([positions[name] for name in part.instances], dtype=np.int64)
        moved.append(replace(part, run=run[part.run], instance=instance[part.instance]))
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in moved])
        for field in fields(Requests)
        if all(isinstance(getattr(part, field.name), np.ndarray) for part in moved)
    }
    return replace(moved[0], **{"users": None, "runs": runs, "instances": instances} | columns)


# ------------------------------------------------------------------ processes


@dataclass(frozen=True, slots=True)
class _Slots:
    """Places for instances, all arms in a row. Matrices have shape (slots, steps)."""

    arm: IntArray
    label: IntArray
    """Number of the instance in the slot."""
    names: tuple[str, ...]
    log_us: FloatArray
    rate: FloatArray
    burst: FloatArray
    """Probability of failure in addition to the steady one."""


def draw_ar1(rng: np.random.Generator, process: AR1, series: int, steps: int, step_s: float) -> FloatArray:
    """Draw independent stationary AR(1) series, shape (series, steps).

    The recursion x_t = φ x_{t-1} + e_t is summed by doubling: (1 + φB)(1 + φ²B²)(1 + φ⁴B⁴) … e; B shifts by one step.
    """
    phi = math.exp(-step_s / process.time_constant_s)
    x = rng.standard_normal((series, steps)) * process.sd
    x[:, 1:] *= math.sqrt(1 - phi * phi)
    lag = 1
    while lag < steps and phi**lag > 1e-18:
        x[:, lag:] += phi**lag * x[:, :-lag].copy()
        lag *= 2
    return x


def burst(rng: np.random.Generator, bursts: Bursts, series: int, at_s: FloatArray) -> FloatArray:
    """Draw bursts and return the summed strength of those active, shape (series, steps).

    `at_s` (steps,) are the middles of the steps. A burst that covers a part of a step counts with this part.
    """
    total = np.zeros((series, len(at_s)))
    step_s = 2 * at_s[0]
    edges = np.append(at_s - at_s[0], at_s[-1] + at_s[0])
    for row in range(series):
        for _ in range(rng.poisson(bursts.per_hour * edges[-1] / 3600.0)):
            start, length = rng.uniform(0, edges[-1]), rng.exponential(bursts.mean_s)
            height = rng.uniform(bursts.low, bursts.high)
            covered = np.minimum(edges[1:], start + length) - np.maximum(edges[:-1], start)
            total[row] += height * np.clip(covered, 0.0, step_s) / step_s
    return total


def _build_slots(
    scenario: Scenario, rng: np.random.Generator, traffic: Traffic, versions: tuple[Version, ...]
) -> _Slots:
    arms, steps = len(versions), len(traffic.at_s)
    step_s = scenario.duration_s / steps
    sizes = [scenario.count_instances(arm) for arm in range(arms)]
    arm = np.repeat(np.arange(arms), sizes)
    label, names, arm_of_name = _draw_lives(scenario, rng, arm, traffic.at_s)
    level = rng.standard_normal(len(arm_of_name)) * scenario.instance_sd
    shared = draw_ar1(rng, scenario.common, 1, steps, step_s) + burst(rng, scenario.spikes, 1, traffic.at_s)
    log_us = level[label] + shared + traffic.log_load
    log_us += draw_ar1(rng, scenario.arm_drift, arms, steps, step_s)[arm]
    log_us += draw_ar1(rng, scenario.instance_drift, len(arm), steps, step_s)
    for number, change in enumerate(scenario.changes, start=1):
        log_us[arm == number] += np.log1p(change.leak * traffic.at_s / scenario.duration_s)
    pace = np.exp(draw_ar1(rng, scenario.traffic, 1, steps, step_s) - scenario.traffic.sd**2 / 2)
    rate = traffic.rate[arm] * pace / np.asarray(sizes)[arm, None]
    failing = burst(rng, scenario.shared_failures, 1, traffic.at_s)
    failing = failing + burst(rng, scenario.instance_failures, len(arm), traffic.at_s)
    _restart(scenario, rng, traffic.at_s, log_us, rate)
    if scenario.wait_s is not None:
        rate = _pace_by_latency(scenario, traffic, versions, arm=arm, log_us=log_us, sizes=np.asarray(sizes)) * (
            rate > 0
        )
    _lose_minutes(scenario, rng, traffic.at_s, arm, rate)
    return _Slots(arm, label, names, log_us, rate, failing)


def _draw_lives(
    scenario: Scenario, rng: np.random.Generator, arm: IntArray, at_s: FloatArray
) -> tuple[IntArray, tuple[str, ...], list[int]]:
    """Draw which instance is in which slot: its number, shape (slots, steps), the names, and the arm of each name."""
    label = np.zeros((len(arm), len(at_s)), dtype=np.int64)
    owners: list[int] = []
    for slot, owner in enumerate(arm):
        changes = np.zeros(0)
        if scenario.lifetime_s is not None:
            low, high = scenario.lifetime_s
            lives = rng.uniform(low, high, size=math.ceil(scenario.duration_s / low) + 1)
            lives[0] *= rng.uniform()
            changes = np.cumsum(lives)
            changes = changes[changes < scenario.duration_s]
        label[slot] = len(owners) + np.searchsorted(changes, at_s, side="right")
        owners += [int(owner)] * (len(changes) + 1)
    arms, born = scenario.arms, dict.fromkeys(range(len(scenario.arms)), 0)
    names: list[str] = []
    for owner in owners:
        born[owner] += 1
        names.append(f"{arms[owner]}-{born[owner]}")
    return label, tuple(names), owners


def _restart(
    scenario: Scenario, rng: np.random.Generator, at_s: FloatArray, log_us: FloatArray, rate: FloatArray
) -> None:
    slots = rng.permutation(len(rate))[: scenario.restarts]
    for slot, share in zip(slots, rng.uniform(0.2, 0.8, size=len(slots)), strict=True):
        since = at_s - share * scenario.duration_s
        rate[slot, (since >= 0) & (since < RESTART_S)] = 0.0
        back = since >= RESTART_S
        log_us[slot, back] += np.log1p(np.exp(-(since[back] - RESTART_S) / 20.0))


def _pace_by_latency(
    scenario: Scenario,
    traffic: Traffic,
    versions: tuple[Version, ...],
    *,
    arm: IntArray,
    log_us: FloatArray,
    sizes: IntArray,
) -> FloatArray:
    """Requests per second of each slot if users wait for their answers (steps are longer than requests).

    A change of the tail alone is ignored: it hardly changes the pace.
    """
    tail = scenario.tail_share * scenario.tail_factor * scenario.tail_index / (scenario.tail_index - 1)
    body, modes = 1 - scenario.tail_share + tail, 1 - scenario.cache_hit * (1 - scenario.cache_factor)
    medians = [float(version.shares @ np.exp(version.log_us)) for version in versions]
    mean_s = np.array([median * body * modes * math.exp(scenario.sigma**2 / 2) / 1e6 for median in medians])
    return traffic.users[arm] / sizes[arm, None] / ((scenario.wait_s or 0.0) + mean_s[arm, None] * np.exp(log_us))


def _lose_minutes(
    scenario: Scenario, rng: np.random.Generator, at_s: FloatArray, arm: IntArray, rate: FloatArray
) -> None:
    minutes = max(1, int(scenario.duration_s // 60))
    lost = rng.permutation(minutes)[: scenario.missing_minutes]
    for minute, owner in zip(lost, rng.integers(0, arm.max() + 1, size=len(lost)), strict=True):
        rate[np.ix_(arm == owner, (at_s // 60).astype(np.int64) == minute)] = 0.0


def _simulate_run(scenario: Scenario, rng: np.random.Generator, run: int) -> Requests:
    versions, traffic = build_versions(scenario), build_traffic(scenario)
    slots = _build_slots(scenario, rng, traffic, versions)
    steps = len(traffic.at_s)
    counts = rng.poisson(slots.rate * (scenario.duration_s / steps))
    per_slot, flat = counts.sum(axis=1), counts.ravel()
    arm = np.repeat(slots.arm, per_slot)
    base = np.repeat(slots.log_us.ravel(), flat)
    burst_p = np.repeat(slots.burst.ravel(), flat)
    within = rng.random(len(arm))
    step_us = scenario.duration_s * 1e6 / steps
    offset_us = (np.repeat(np.tile(np.arange(steps), len(slots.arm)), flat) + within) * step_us
    start_us = EPOCH_US + run * math.ceil((scenario.duration_s + PAUSE_S) / PAUSE_S) * PAUSE_S * 1_000_000
    skew_us = (arm > 0) * round(scenario.clock_skew_s * 1e6)
    # Requests are ordered by arm, and each arm has its own shares of endpoints.
    drawn = np.split(rng.random(len(arm)), np.cumsum(np.bincount(arm, minlength=len(versions)))[:-1])
    edges = [np.cumsum(version.shares)[:-1] for version in versions]
    endpoint = np.concatenate([np.searchsorted(edge, u, side="right") for edge, u in zip(edges, drawn, strict=True)])
    log_us = base + np.stack([version.log_us for version in versions])[arm, endpoint]
    log_us += scenario.sigma * rng.standard_normal(len(log_us))
    tail = np.flatnonzero(rng.random(len(log_us)) < scenario.tail_share)
    log_us[tail] += math.log(scenario.tail_factor) + rng.exponential(1 / scenario.tail_index, size=len(tail))
    if scenario.cache_hit > 0:
        log_us[rng.random(len(log_us)) < scenario.cache_hit] += math.log(scenario.cache_factor)
    given_up = _slow_tails(scenario, arm, log_us)
    response_us = np.rint(np.exp(log_us) / scenario.grid_us).astype(np.int64) * scenario.grid_us
    steady = np.stack([version.failure for version in versions])[arm, endpoint]
    uniform = rng.random(len(arm))
    exception = np.where(uniform < steady, 1, np.where((uniform < steady + burst_p) | given_up, 2, 0))
    sizes = np.stack([version.bytes for version in versions])[arm, endpoint]
    return Requests(
        runs=tuple(f"run-{number}" for number in range(scenario.replicates)),
        arms=scenario.arms,
        endpoints=tuple(f"GET /endpoint/{number:03d}" for number in range(scenario.endpoints)),
        instances=slots.names if scenario.labelled else ("",),
        exceptions=FAILED,
        run=np.full(len(arm), run),
        arm=arm,
        endpoint=endpoint,
        instance=np.repeat(slots.label.ravel(), flat) if scenario.labelled else np.zeros(len(arm), dtype=np.int64),
        ts_us=start_us + offset_us.astype(np.int64) + skew_us,
        response_us=response_us,
        failed=exception > 0,
        response_bytes=np.rint(sizes * (0.8 + 0.4 * within)).astype(np.int64),
        status=np.array([200, 500, 503])[exception],
        exception=exception,
        users=None
        if scenario.users is None
        else np.repeat(np.rint(traffic.users[slots.arm]).astype(np.int64).ravel(), flat),
    )


def _slow_tails(scenario: Scenario, arm: IntArray, log_us: FloatArray) -> BoolArray:
    """Make the slowest requests of candidates slower, in place; return which requests are given up."""
    given_up = np.zeros(len(arm), dtype=np.bool_)
    for number, change in enumerate(scenario.changes, start=1):
        rows = np.flatnonzero(arm == number) if change.tail > 1 or change.shed > 0 else np.zeros(0, dtype=np.int64)
        given_up[rows] = log_us[rows] > find_threshold(scenario, 1 - change.shed)
        slow = rows[log_us[rows] > find_threshold(scenario, change.tail_quantile)] if change.tail > 1 else rows[:0]
        log_us[slow] += math.log(change.tail)
    return given_up
