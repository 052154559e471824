"""The distribution of a simulated arm's response times, computed from the scenario without random draws.

An arm's response times are a mixture over endpoints, times of the run, shared spikes, cache hits and the heavy tail.
Each part is lognormal, or lognormal times Pareto; on the log scale, the latter is a normal plus an exponential. All
drift processes are normal on that scale and independent of the traffic, so they only widen the distribution. Parts
have the judge's weights (n_c·n_b / (n_c + n_b) over endpoint and time), so that a change of the mix of endpoints alone
is no effect. The distribution is that of all releases of the scenario, not of the instances that one release drew.

Restarts, missing minutes and clock skew are ignored, because on average they affect both arms equally. The grid is
ignored too: times are those before rounding. Closed loops change neither the distribution nor the weights here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from evaluator.records.arrays import FloatArray
from evaluator.simulate.design import Scenario
from evaluator.simulate.layout import Version, build_traffic, build_versions

TIME_PARTS = 48
HEIGHTS = (0.1127016654, 0.5, 0.8872983346)
HEIGHT_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)
"""Three-point Gauss rule for a uniform height of spikes."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """One arm's mixture: rows of equal length, one per endpoint × time × spike × cache."""

    log_us: FloatArray
    weight: FloatArray
    passing: FloatArray
    """Probability that a request does not fail, if it is not given up for slowness."""
    bytes: FloatArray


@functools.lru_cache(maxsize=256)
def find_threshold(scenario: Scenario, quantile: float) -> float:
    """Return the log of the time (µs) within which this share of baseline's requests is answered, failed or not.

    Infinite for a quantile of 1 or more.
    """
    if quantile >= 1:
        return math.inf
    baseline = build_versions(scenario)[0]
    parts = _mix_parts(scenario, baseline, _weigh_strata(scenario, baseline, baseline, 0), 0)
    return _bisect(lambda log_us: float(parts.weight @ _find_share(scenario, parts, log_us)), quantile, parts)


# ------------------------------------------------------------------ the mixture


def _mix_parts(scenario: Scenario, version: Version, weight: FloatArray, arm: int) -> _Parts:
    """Endpoint × time × spike × cache, flattened; `weight` has shape (endpoints, times)."""
    traffic, share = build_traffic(scenario), 1 - math.exp(-scenario.spikes.share)
    leak = scenario.changes[arm - 1].leak if arm else 0.0
    moving = _average_in_time(scenario, traffic.log_load + np.log1p(leak * traffic.at_s / scenario.duration_s))
    heights = scenario.spikes.low + (scenario.spikes.high - scenario.spikes.low) * np.array(HEIGHTS)
    spike, spike_weight = np.append(0.0, heights), np.append(1 - share, share * np.array(HEIGHT_WEIGHTS))
    cache = np.array([0.0, math.log(scenario.cache_factor)])
    cache_weight = np.array([1 - scenario.cache_hit, scenario.cache_hit])
    extra = sum(bursts.share * bursts.mean_height for bursts in (scenario.shared_failures, scenario.instance_failures))
    grids = np.broadcast_arrays(
        version.log_us[:, None, None, None] + moving[:, None, None] + spike[:, None] + cache,
        weight[:, :, None, None] * spike_weight[:, None] * cache_weight,
        np.clip(1 - version.failure - extra, 0.0, 1.0)[:, None, None, None],
        version.bytes[:, None, None, None],
    )
    used = grids[1].ravel() > 0
    log_us, weights, passing, sizes = (grid.ravel()[used] for grid in grids)
    return _Parts(log_us, weights, passing, sizes)


def _weigh_strata(scenario: Scenario, baseline: Version, candidate: Version, number: int) -> FloatArray:
    """Mantel–Haenszel weights of endpoint × time, shape (endpoints, times), Σ = 1."""
    rate = np.stack([_average_in_time(scenario, row) for row in build_traffic(scenario).rate])
    n_b = np.outer(baseline.shares, rate[0])
    n_c = np.outer(candidate.shares, rate[number + 1])
    total = n_b + n_c
    v = np.divide(n_b * n_c, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(v / v.sum(), dtype=np.float64)


def _average_in_time(scenario: Scenario, steps: FloatArray) -> FloatArray:
    moving = scenario.load_trend or scenario.swing or any(change.leak for change in scenario.changes)
    return np.array([part.mean() for part in np.array_split(steps, min(TIME_PARTS, len(steps)) if moving else 1)])


def _find_sd(scenario: Scenario) -> float:
    """Standard deviation of log times within a part."""
    drifts = (scenario.common, scenario.arm_drift, scenario.instance_drift)
    return math.sqrt(scenario.sigma**2 + scenario.instance_sd**2 + sum(process.sd**2 for process in drifts))


def _find_share(scenario: Scenario, parts: _Parts, log_us: float) -> FloatArray:
    """Share of each part's requests that are answered within exp(log_us) µs, failed or not."""
    if math.isinf(log_us):
        return np.ones_like(parts.log_us)
    sd, rate = _find_sd(scenario), scenario.tail_index
    apart = (log_us - parts.log_us - math.log(scenario.tail_factor)) / sd
    exponent = np.minimum(rate * sd * (rate * sd / 2 - apart), 700.0)
    stretched = ndtr(apart) - np.exp(exponent) * ndtr(apart - rate * sd)
    plain = ndtr((log_us - parts.log_us) / sd)
    return np.asarray((1 - scenario.tail_share) * plain + scenario.tail_share * stretched, dtype=np.float64)


def _bisect(share: Callable[[float], float], target: float, parts: _Parts) -> float:
    low, high = float(parts.log_us.min()) - 10.0, float(parts.log_us.max()) + 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < target else (low, middle)
    return low
