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
    log_load: FloatArray
    """Shift of log latency by trend and swing, shape (steps,)."""
    users: FloatArray
    """Users of each arm, shape (arms, steps)."""


def build_version(scenario: Scenario, change: Change) -> Version:
    """Return the version of one arm under `change`."""
    low, high = scenario.median_ms
    medians = (
        np.geomspace(low, high, scenario.endpoints) if scenario.endpoints > 1 else np.array([math.sqrt(low * high)])
    )
    shares = np.arange(1, scenario.endpoints + 1, dtype=np.float64) ** -scenario.zipf
    shares /= shares.sum()
    weights = np.sqrt(medians)
    failure = scenario.failure_rate * weights / (shares @ weights)
    log_us = np.log(medians * 1000.0) + math.log1p(change.latency)
    log_us[change.endpoint_index] += math.log1p(change.endpoint)
    tilted = shares * (medians / np.exp(np.mean(np.log(medians)))) ** change.mix
    return Version(
        shares=tilted / tilted.sum(),
        log_us=log_us,
        failure=np.clip(failure * change.failures + change.failures_added, 0.0, 1.0),
        bytes=(500.0 + 40.0 * medians) * (1.0 + change.bytes),
    )


def build_versions(scenario: Scenario) -> tuple[Version, ...]:
    """Return the versions of all arms, baseline first."""
    return tuple(build_version(scenario, change) for change in (Change(), *scenario.changes))


def build_traffic(scenario: Scenario) -> Traffic:
    """Return the expected open-loop traffic of each arm over one run."""
    # The time grid: about 1 s in short runs, 5 s in long ones.
    steps = max(1, math.ceil(scenario.duration_s / (1.0 if scenario.duration_s <= 900 else 5.0)))
    candidates = len(scenario.changes)
    at_s = (np.arange(steps) + 0.5) * scenario.duration_s / steps
    load = (1 + scenario.load_trend * at_s / scenario.duration_s) * (
        1 + scenario.swing * np.sin(2 * np.pi * at_s / DAY_S)
    )
    phase = np.minimum((at_s / scenario.duration_s * len(scenario.split)).astype(np.int64), len(scenario.split) - 1)
    share = np.asarray(scenario.split)[phase]
    weights = np.stack([1 - share] + [share] * candidates)
    weights *= (1 + candidates) / weights.sum(axis=0)
    present = np.ones((1 + candidates, steps))
    present[1:] = at_s >= scenario.start_offset_s
    if scenario.spawn_s > 0:
        present *= np.minimum(1.0, at_s / scenario.spawn_s)
    weights *= present
    return Traffic(
        at_s,
        scenario.rate_per_s * load * weights,
        scenario.load_latency * np.log(load),
        (scenario.users or 0) * weights,
    )
