"""The expected values of a scenario: each version of the service, and the traffic over one run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evaluator.records.arrays import FloatArray
from evaluator.simulate.design import Change, Scenario

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Version:
    """How one arm's version answers requests. Columns have shape (endpoints,)."""

    shares: FloatArray
    """Share of the arm's traffic; the sum is 1."""
    log_us: FloatArray
    """Log of the median response time, µs."""
    failure: FloatArray
    """Steady probability of failure."""
    bytes: FloatArray
    """Mean size of a response."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Expected requests per second, and the effect of load on latency, on the time grid."""

    at_s: FloatArray
    """Middle of each step, seconds from the start of the run, shape (steps,)."""
    rate: FloatArray
    """Requests per second, shape (arms, steps)."""
    latency_shift: FloatArray
    """Shift of log latency by trend and swing, shape (steps,)."""
    users: FloatArray
    """Users of each arm, shape (arms, steps)."""


def build_version(scenario: Scenario, change: Change) -> Version:
    """Compute what one arm does on average under `change`.

    Each result has an element for each endpoint, from fast and frequent to slow and rare.
    """
    fastest_ms, slowest_ms = scenario.median_ms
    if scenario.endpoints > 1:
        medians_ms = np.geomspace(fastest_ms, slowest_ms, scenario.endpoints)
    else:
        medians_ms = np.array([math.sqrt(fastest_ms * slowest_ms)])
    # Traffic shares fall by Zipf's law.
    shares = np.arange(1, scenario.endpoints + 1, dtype=np.float64) ** -scenario.zipf
    shares /= shares.sum()
    # Slower endpoints fail more; over all requests the failure rate is that of the scenario.
    relative_failure = np.sqrt(medians_ms)
    failure = scenario.failure_rate * relative_failure / (shares @ relative_failure)
    # The change of all endpoints, then that of a single one.
    log_us = np.log(medians_ms * 1000.0) + math.log1p(change.latency)
    log_us[change.endpoint_index] += math.log1p(change.endpoint)
    # A positive `mix` moves traffic from fast to slow endpoints.
    geometric_mean_ms = np.exp(np.mean(np.log(medians_ms)))
    changed_shares = shares * (medians_ms / geometric_mean_ms) ** change.mix
    return Version(
        shares=changed_shares / changed_shares.sum(),
        log_us=log_us,
        failure=np.clip(failure * change.failures + change.failures_added, 0.0, 1.0),
        bytes=(500.0 + 40.0 * medians_ms) * (1.0 + change.bytes),  # larger responses take longer
    )


def build_versions(scenario: Scenario) -> tuple[Version, ...]:
    """Return the versions of all arms, baseline first."""
    return tuple(build_version(scenario, change) for change in (Change(), *scenario.changes))


def build_traffic(scenario: Scenario) -> Traffic:
    """Compute the expected traffic of each arm over one run, on a grid of time steps.

    Requests come at the expected rate whether or not responses are slow (an open loop). So users are only reported, and
    do not follow the load. `rate_per_s` of the scenario is the rate of one arm if the traffic is split evenly.
    """
    longest_step_s = 1.0 if scenario.duration_s <= 900 else 5.0
    steps = max(1, math.ceil(scenario.duration_s / longest_step_s))
    candidates = len(scenario.changes)
    at_s = (np.arange(steps) + 0.5) * scenario.duration_s / steps  # the middle of each step
    # Relative load of all arms together, from trend and daily swing, shape (steps,).
    load = (1 + scenario.load_trend * at_s / scenario.duration_s) * (
        1 + scenario.swing * np.sin(2 * np.pi * at_s / DAY_S)
    )
    # Each phase of the split has the same length. `candidate_share` (steps,): share of each candidate in its own and
    # the baseline's traffic. Weights have a mean of 1 over the arms: the total rate does not depend on the split.
    phases = len(scenario.split)
    phase = np.minimum((at_s / scenario.duration_s * phases).astype(np.int64), phases - 1)
    candidate_share = np.asarray(scenario.split)[phase]
    # Shape (arms, steps).
    arm_weights = np.stack([1 - candidate_share] + [candidate_share] * candidates)
    arm_weights *= (1 + candidates) / arm_weights.sum(axis=0)
    # Share of an arm's traffic that has started: candidates may start late, and users are spawned over some time.
    started = np.ones((1 + candidates, steps))
    started[1:] = at_s >= scenario.start_offset_s
    if scenario.spawn_s > 0:
        started *= np.minimum(1.0, at_s / scenario.spawn_s)
    arm_weights *= started
    return Traffic(
        at_s,
        rate=scenario.rate_per_s * load * arm_weights,
        latency_shift=scenario.load_latency * np.log(load),
        users=(scenario.users or 0) * arm_weights,
    )
