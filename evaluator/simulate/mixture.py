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
"""A run whose level moves is divided into so many parts."""

HEIGHTS = (0.1127016654, 0.5, 0.8872983346)
HEIGHT_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)
"""Three-point Gauss rule for a uniform height of spikes."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """One arm's mixture: arrays of equal length, an item for each part: endpoint × time × spike × cache."""

    log_us: FloatArray
    """Center of the part's response times: log of µs."""
    weight: FloatArray
    """Share of the part; the sum is 1."""
    passing: FloatArray
    """Probability that a request does not fail, if it is not given up for slowness."""
    bytes: FloatArray
    """Mean size of a response."""


@functools.lru_cache(maxsize=256)
def find_threshold(scenario: Scenario, quantile: float) -> float:
    """Find a quantile of baseline's response times, failed or not, as the log of µs; infinite for 1 or more."""
    if quantile >= 1:
        return math.inf
    baseline = build_versions(scenario)[0]
    # Weighted as if the first candidate were a second baseline, so that the threshold does not depend on any change.
    parts = _mix_parts(scenario, baseline, _weigh_strata(scenario, baseline, candidate=baseline, number=0), arm=0)
    return _bisect(lambda log_us: float(parts.weight @ _find_share(scenario, parts, log_us)), quantile, parts)


# ------------------------------------------------------------------ the mixture


def _mix_parts(scenario: Scenario, version: Version, weight: FloatArray, arm: int) -> _Parts:
    """Build the distribution of one arm's response times as a mixture; parts without weight are left out.

    A part of the mixture is an endpoint × a time of the run × a height of spikes (or none) × cached or not; all are in
    one flat list. `version` is that of arm number `arm` (0: the baseline). `weight` is that of each endpoint and time,
    shape (endpoints, times).
    """
    traffic = build_traffic(scenario)
    # A leak makes an arm slower in proportion to the time since the start of the run.
    leak = scenario.changes[arm - 1].leak if arm else 0.0
    shift_in_time = _average_in_time(
        scenario, traffic.latency_shift + np.log1p(leak * traffic.at_s / scenario.duration_s)
    )
    # Probability that any spike is active, as the number of active spikes is a Poisson number.
    spike_probability = 1 - math.exp(-scenario.spikes.share)
    # Their heights are uniform: three heights with weights (Gauss rule) stand for all.
    heights = scenario.spikes.low + (scenario.spikes.high - scenario.spikes.low) * np.array(HEIGHTS)
    spike_shift = np.append(0.0, heights)  # of log times: without a spike, and for each height
    spike_weight = np.append(1 - spike_probability, spike_probability * np.array(HEIGHT_WEIGHTS))
    cache_shift = np.array([0.0, math.log(scenario.cache_factor)])
    cache_weight = np.array([1 - scenario.cache_hit, scenario.cache_hit])
    # Expected failure rate from bursts, in addition to the steady one.
    burst_failure = sum(
        bursts.share * bursts.mean_height for bursts in (scenario.shared_failures, scenario.instance_failures)
    )
    # Axes: endpoint, time, spike, cache.
    log_us, weights, passing, sizes = np.broadcast_arrays(
        version.log_us[:, None, None, None] + shift_in_time[:, None, None] + spike_shift[:, None] + cache_shift,
        weight[:, :, None, None] * spike_weight[:, None] * cache_weight,
        np.clip(1 - version.failure - burst_failure, 0.0, 1.0)[:, None, None, None],
        version.bytes[:, None, None, None],
    )
    is_used = weights.ravel() > 0
    return _Parts(log_us.ravel()[is_used], weights.ravel()[is_used], passing.ravel()[is_used], sizes.ravel()[is_used])


def _weigh_strata(scenario: Scenario, baseline: Version, candidate: Version, number: int) -> FloatArray:
    """Return the weights that the judge gives to endpoint × time, shape (endpoints, times), whose sum is 1.

    The weight of such a stratum is n_b · n_c / (n_b + n_c) (Mantel–Haenszel), with the requests of baseline and of the
    candidate in it. `number`: of the candidate, from 0.
    """
    rate_by_arm = [_average_in_time(scenario, arm_rate) for arm_rate in build_traffic(scenario).rate]
    n_b = np.outer(baseline.shares, rate_by_arm[0])
    n_c = np.outer(candidate.shares, rate_by_arm[number + 1])
    total = n_b + n_c
    weights = np.divide(n_b * n_c, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _average_in_time(scenario: Scenario, values: FloatArray) -> FloatArray:
    """Return the means of a series (steps,) over equal times of the run; a single mean if nothing moves within it.

    The load may move, and so may response times if an arm has a leak.
    """
    is_moving = scenario.load_trend or scenario.swing or any(change.leak for change in scenario.changes)
    parts = min(TIME_PARTS, len(values)) if is_moving else 1
    return np.array([part.mean() for part in np.array_split(values, parts)])


def _find_sd(scenario: Scenario) -> float:
    """Return the standard deviation of log times within a part: of independent variations, whose variances add up."""
    drifts = (scenario.common, scenario.arm_drift, scenario.instance_drift)
    return math.sqrt(scenario.sigma**2 + scenario.instance_sd**2 + sum(process.sd**2 for process in drifts))


def _find_share(scenario: Scenario, parts: _Parts, log_us: float) -> FloatArray:
    """Return the share of each part's requests that are answered within exp(log_us) µs, failed or not: (parts,).

    On the log scale the times of usual requests are normal; those in the tail are a normal plus an exponential with the
    rate `tail_index`.
    """
    if math.isinf(log_us):
        return np.ones_like(parts.log_us)
    sd, rate = _find_sd(scenario), scenario.tail_index
    # In standard deviations, from the centre of usual requests and of those in the tail.
    z_usual = (log_us - parts.log_us) / sd
    z_tail = (log_us - parts.log_us - math.log(scenario.tail_factor)) / sd
    # The distribution function of a normal plus an exponential. (exp of more than 709 overflows.)
    exponent = np.minimum(rate * sd * (rate * sd / 2 - z_tail), 700.0)
    share_of_tail = ndtr(z_tail) - np.exp(exponent) * ndtr(z_tail - rate * sd)
    share_of_usual = ndtr(z_usual)
    return np.asarray(
        (1 - scenario.tail_share) * share_of_usual + scenario.tail_share * share_of_tail, dtype=np.float64
    )


def _bisect(share: Callable[[float], float], target: float, parts: _Parts) -> float:
    """Find by bisection the log time (µs) at which the share of requests answered by then reaches `target`.

    `share` gives this share for a log time.
    """
    # Surely below and above: the parts are within a few units of their centres, the tail reaches higher.
    low, high = float(parts.log_us.min()) - 10.0, float(parts.log_us.max()) + 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if share(middle) < target:
            low = middle
        else:
            high = middle
    return low
