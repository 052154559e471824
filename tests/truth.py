"""What is true of a simulated release, computed from its design without drawing anything (see `simulate.mixture`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from evaluator.simulate import Change, Scenario
from evaluator.simulate.layout import build_versions
from evaluator.simulate.mixture import (
    _bisect,
    _find_sd,
    _find_share,
    _mix_parts,
    _Parts,
    _weigh_strata,
    find_threshold,
)

FloatArray = npt.NDArray[np.float64]

QUANTILES = (0.5, 0.9, 0.95, 0.99)


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
class _Side:
    """One arm: its mixture, and what its version does to slow requests."""

    design: Scenario
    parts: _Parts
    tail: float
    tail_from: float
    """Log µs from which on requests are `tail` times slower."""
    give_up: float
    """Log µs from which on requests fail."""


def derive_truth(design: Scenario, candidate: int = 0, quantiles: tuple[float, ...] = QUANTILES) -> Truth:
    """The true comparison of a candidate arm (0: `canary`) with baseline."""
    baseline, changed = _build_side(design, candidate, 0), _build_side(design, candidate, candidate + 1)
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


def _build_side(design: Scenario, candidate: int, arm: int) -> _Side:
    versions = build_versions(design)
    weight = _weigh_strata(design, versions[0], versions[candidate + 1], candidate)
    change = design.changes[arm - 1] if arm else Change()
    tail_from = find_threshold(design, change.tail_quantile if change.tail > 1 else 1.0)
    give_up = find_threshold(design, 1 - change.shed)
    return _Side(design, _mix_parts(design, versions[arm], weight, arm), change.tail, tail_from, give_up)


def _find_partial(design: Scenario, parts: _Parts, above: float) -> FloatArray:
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
