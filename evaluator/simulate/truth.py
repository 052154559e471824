"""What is true of a simulated release, computed from its design without drawing anything.

An arm's response times are a mixture over endpoints, moments of the run, shared spikes, cache hits and the heavy tail.
Each part is lognormal, or lognormal times Pareto, whose distribution function is that of a normal plus an exponential
on the log scale. All wandering processes are normal on that scale and independent of the traffic, so that they only
widen it. Parts are weighted as the judge standardises (n_c·n_b / (n_c + n_b) over endpoint and time), so that a mere
change of mix is no effect. The truth is that of the kind of release, not of the instances one release happened to draw.

Left out, because they hit both arms alike on average: restarts, missing minutes, clock skew. A grid is ignored: the
quantiles are those of the times before rounding. Closed loops change neither distribution nor weights here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from evaluator.simulate.design import Change, Design
from evaluator.simulate.layout import Version, lay_traffic, lay_versions

__all__ = ["Truth", "derive_truth", "find_threshold"]

FloatArray = npt.NDArray[np.float64]

QUANTILES = (0.5, 0.9, 0.95, 0.99)
TIME_PARTS = 48
HEIGHTS = (0.1127016654, 0.5, 0.8872983346)
HEIGHT_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)
"""Three-point Gauss rule for a uniform height of spikes."""


@dataclass(frozen=True, slots=True)
class Truth:
    """A candidate against baseline: relative changes are candidate / baseline - 1, failures a difference of rates."""

    mean: float
    """Relative change of the mean time of successes."""
    quantiles: Mapping[float, float]
    """Relative change of quantiles of the time to success (a failure is infinitely slow); NaN: baseline has none."""
    failures: float
    bytes: float
    """Relative change of the mean response size."""
    mean_ms: tuple[float, float]
    """Baseline's and the candidate's own values, standardised alike."""
    quantiles_ms: Mapping[float, tuple[float, float]]
    failure_rate: tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Parts:
    """One arm's mixture: rows of equal length, one per endpoint × moment × spike × cache."""

    log_us: FloatArray
    weight: FloatArray
    passing: FloatArray
    """Probability not to fail for reasons other than slowness."""
    bytes: FloatArray


@dataclass(frozen=True, slots=True)
class _Side:
    """One arm: its mixture, and what its version does to slow requests."""

    design: Design
    parts: _Parts
    tail: float
    tail_from: float
    """Log µs from which on requests are `tail` times slower."""
    give_up: float
    """Log µs from which on requests fail."""


def derive_truth(design: Design, candidate: int = 0, quantiles: tuple[float, ...] = QUANTILES) -> Truth:
    """The true comparison of a candidate arm (0: `canary`) with baseline.

    >>> from evaluator.simulate import Change, Design
    >>> round(derive_truth(Design(changes=(Change(latency=0.05),))).quantiles[0.99], 6)
    0.05
    """
    baseline, changed = _lay_side(design, candidate, 0), _lay_side(design, candidate, candidate + 1)
    means, failures = (_find_mean(baseline), _find_mean(changed)), (_find_failures(baseline), _find_failures(changed))
    points = {q: (_find_quantile(baseline, q), _find_quantile(changed, q)) for q in quantiles}
    sizes = [float(side.parts.weight @ side.parts.bytes) for side in (baseline, changed)]
    return Truth(
        mean=means[1] / means[0] - 1,
        quantiles={q: math.nan if math.isinf(old) else new / old - 1 for q, (old, new) in points.items()},
        failures=failures[1] - failures[0],
        bytes=sizes[1] / sizes[0] - 1,
        mean_ms=means,
        quantiles_ms=points,
        failure_rate=failures,
    )


@functools.lru_cache(maxsize=256)
def find_threshold(design: Design, quantile: float) -> float:
    """Log of the time (µs) within which this share of baseline's requests is answered, failed or not."""
    if quantile >= 1:
        return math.inf
    baseline = lay_versions(design)[0]
    parts = _lay_parts(design, baseline, _weigh_strata(design, baseline, baseline, 0), 0)
    return _bisect(lambda log_us: float(parts.weight @ _find_share(design, parts, log_us)), quantile, parts)


# ------------------------------------------------------------------ the mixture


def _lay_side(design: Design, candidate: int, arm: int) -> _Side:
    versions = lay_versions(design)
    weight = _weigh_strata(design, versions[0], versions[candidate + 1], candidate)
    change = design.changes[arm - 1] if arm else Change()
    tail_from = find_threshold(design, change.tail_quantile if change.tail > 1 else 1.0)
    give_up = find_threshold(design, 1 - change.shed)
    return _Side(design, _lay_parts(design, versions[arm], weight, arm), change.tail, tail_from, give_up)


def _lay_parts(design: Design, version: Version, weight: FloatArray, arm: int) -> _Parts:
    """Endpoint × moment × spike × cache, flattened; `weight` has shape (endpoints, moments)."""
    spike, spike_weight = _lay_spikes(design)
    cache = np.array([0.0, math.log(design.cache_factor)])
    cache_weight = np.array([1 - design.cache_hit, design.cache_hit])
    extra = sum(bursts.share * bursts.mean_height for bursts in (design.shared_failures, design.instance_failures))
    grids = np.broadcast_arrays(
        version.log_us[:, None, None, None] + _shift_by_time(design, arm)[:, None, None] + spike[:, None] + cache,
        weight[:, :, None, None] * spike_weight[:, None] * cache_weight,
        np.clip(1 - version.failure - extra, 0.0, 1.0)[:, None, None, None],
        version.bytes[:, None, None, None],
    )
    used = grids[1].ravel() > 0
    log_us, weights, passing, sizes = (grid.ravel()[used] for grid in grids)
    return _Parts(log_us, weights, passing, sizes)


def _weigh_strata(design: Design, baseline: Version, candidate: Version, number: int) -> FloatArray:
    """Mantel–Haenszel weights of endpoint × time, shape (endpoints, moments), Σ = 1."""
    rate = np.stack([_average_in_time(design, row) for row in lay_traffic(design).rate])
    n_b = np.outer(baseline.shares, rate[0])
    n_c = np.outer(candidate.shares, rate[number + 1])
    total = n_b + n_c
    v = np.divide(n_b * n_c, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(v / v.sum(), dtype=np.float64)


def _shift_by_time(design: Design, arm: int) -> FloatArray:
    """Shift of log times at each moment: trends of load, and the arm's leak."""
    traffic = lay_traffic(design)
    leak = design.changes[arm - 1].leak if arm else 0.0
    return _average_in_time(design, traffic.log_load + np.log1p(leak * traffic.at_s / design.duration_s))


def _average_in_time(design: Design, steps: FloatArray) -> FloatArray:
    moving = design.load_trend or design.swing or any(change.leak for change in design.changes)
    return np.array([part.mean() for part in np.array_split(steps, min(TIME_PARTS, len(steps)) if moving else 1)])


def _lay_spikes(design: Design) -> tuple[FloatArray, FloatArray]:
    low, high = design.spikes.low, design.spikes.high
    share = 1 - math.exp(-design.spikes.share)
    heights = low + (high - low) * np.array(HEIGHTS)
    return np.append(0.0, heights), np.append(1 - share, share * np.array(HEIGHT_WEIGHTS))


def _find_sd(design: Design) -> float:
    """Standard deviation of log times within a part."""
    wanders = (design.common, design.arm_wander, design.instance_wander)
    return math.sqrt(design.sigma**2 + design.instance_sd**2 + sum(process.sd**2 for process in wanders))


# ------------------------------------------------------------------ its functionals


def _find_share(design: Design, parts: _Parts, log_us: float) -> FloatArray:
    """Share of each part's requests that are answered within exp(log_us) µs, by whatever answer."""
    if math.isinf(log_us):
        return np.ones_like(parts.log_us)
    sd, rate = _find_sd(design), design.tail_index
    apart = (log_us - parts.log_us - math.log(design.tail_factor)) / sd
    exponent = np.minimum(rate * sd * (rate * sd / 2 - apart), 700.0)
    stretched = ndtr(apart) - np.exp(exponent) * ndtr(apart - rate * sd)
    plain = ndtr((log_us - parts.log_us) / sd)
    return np.asarray((1 - design.tail_share) * plain + design.tail_share * stretched, dtype=np.float64)


def _find_partial(design: Design, parts: _Parts, above: float) -> FloatArray:
    """E[t; t > exp(above)] of each part, µs."""
    sd, rate = _find_sd(design), design.tail_index
    stretch, mean = rate / (rate - 1), np.exp(parts.log_us + sd * sd / 2)
    if math.isinf(above):
        return np.zeros_like(mean) if above > 0 else mean * (1 + design.tail_share * (design.tail_factor * stretch - 1))
    centre = parts.log_us + math.log(design.tail_factor)
    plain = mean * ndtr((parts.log_us + sd * sd - above) / sd)
    far = mean * design.tail_factor * ndtr((centre + sd * sd - above) / sd)
    exponent = rate * centre + (rate * sd) ** 2 / 2 - (rate - 1) * above
    near = np.exp(exponent) * ndtr((above - centre - rate * sd * sd) / sd)
    total = (1 - design.tail_share) * plain + design.tail_share * stretch * (far + near)
    return np.asarray(total, dtype=np.float64)


def _find_mean(side: _Side) -> float:
    """Standardised mean of successes, ms: strata are weighted by traffic, not by successes."""
    design, parts = side.design, side.parts
    lost = _find_partial(design, parts, side.give_up)
    kept = _find_partial(design, parts, -math.inf) - lost
    slow = np.maximum(_find_partial(design, parts, side.tail_from) - lost, 0.0)
    per_part = (kept + (side.tail - 1) * slow) / _find_share(design, parts, side.give_up)
    return float(parts.weight @ per_part) / 1000.0


def _find_failures(side: _Side) -> float:
    answered = side.parts.passing * _find_share(side.design, side.parts, side.give_up)
    return float(1 - side.parts.weight @ answered)


def _find_quantile(side: _Side, quantile: float) -> float:
    """Time (ms) within which the share `quantile` of requests succeeds; infinite when fewer ever do."""
    weight = side.parts.weight * side.parts.passing

    def share(log_us: float) -> float:
        # Nothing ends between the threshold and its stretched image.
        before = log_us if log_us < side.tail_from else max(side.tail_from, log_us - math.log(side.tail))
        return float(weight @ _find_share(side.design, side.parts, min(before, side.give_up)))

    if share(math.inf) <= quantile:
        return math.inf
    return math.exp(_bisect(share, quantile, side.parts)) / 1000.0


def _bisect(share: Callable[[float], float], target: float, parts: _Parts) -> float:
    low, high = float(parts.log_us.min()) - 10.0, float(parts.log_us.max()) + 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < target else (low, middle)
    return low
