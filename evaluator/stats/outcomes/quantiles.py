"""Quantiles of outcomes, clustered by unit, compared without a density.

"The candidate's quantile is above x" means "less than a share p of the candidate is at or below x". The standard error
of this share comes from the units. The interval is the set of changes that this test does not reject (method B.2, with
units instead of blocks of time). Source of the idea: Woodruff (1952), JASA 47, 635-646.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evaluator.records import Direction, Limit, Margin
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.estimators.estimate import Z_OF_POWER, Answers
from evaluator.stats.inference.score import share_variance
from evaluator.stats.inference.student import t_quantile
from evaluator.stats.outcomes.levels import OutcomeEstimate

STEPS = 60
WIDEST = 2.0**20


@dataclass(frozen=True, slots=True)
class Clustered:
    """Values of one arm in ascending order, and the unit (0…units - 1) of each; `None`: one value for each unit."""

    values: FloatArray
    unit: IntArray | None
    units: int


def cluster(values: FloatArray, unit: IntArray | None = None) -> Clustered:
    """Sort values with their units; both have shape (values,). `unit` may have any numbers; values must not be NaN."""
    order = np.argsort(values, kind="stable")
    if unit is None:
        return Clustered(values[order], None, int(values.size))
    names, codes = np.unique(unit, return_inverse=True)
    return Clustered(values[order], codes[order].astype(np.int64), int(names.size))


def find_quantile(values: FloatArray, probability: float) -> float:
    """Return a quantile of ascending values by linear interpolation (type 7 of Hyndman & Fan 1996)."""
    rank = (values.size - 1) * probability
    low = math.floor(rank)
    high = min(low + 1, values.size - 1)
    return float(values[low] + (rank - low) * (values[high] - values[low]))


def compare_quantiles(
    baseline: Clustered,
    candidate: Clustered,
    probability: float,
    *,
    alpha: float,
    margin: Margin | None,
    direction: Direction,
    limit: Limit | None = None,
) -> OutcomeEstimate:
    """Compare a quantile of two arms (Woodruff 1952).

    Args:
        baseline: Values of the baseline.
        candidate: Values of the candidate.
        probability: The quantile, 0 to 1.
        alpha: One-sided level of the interval.
        margin: Largest harm that is tolerated; `None`: the question is whether there is any harm.
        direction: Which way is better.
        limit: Bounds on the candidate's own quantile.

    Returns:
        The estimate; effect and p-values against a relative margin are NaN if the baseline's quantile is not above 0.
    """
    q_b, q_c = find_quantile(baseline.values, probability), find_quantile(candidate.values, probability)
    relative = margin.relative if margin else q_b > 0
    sign = 1.0 if direction is Direction.LOWER else -1.0
    test = _Test(baseline, candidate, probability, q_b, relative=relative and q_b > 0)
    effect = q_c / q_b - 1 if test.relative else q_c - q_b
    critical = float(t_quantile(1 - alpha, np.inf))
    lower, upper = test.interval(effect, critical)
    beyond = sign * test.z(sign * (margin.value if margin else 0.0), sign)
    se = (upper - lower) / (2 * critical)
    spoiled = relative and q_b <= 0
    return OutcomeEstimate(
        baseline=q_b,
        candidate=q_c,
        relative=relative,
        effect=math.nan if spoiled else effect,
        lower=lower,
        upper=upper,
        against_zero=Answers.of(sign * test.z(0.0, sign)),
        against_margin=Answers.of(math.nan if spoiled else beyond),
        against_limit=tuple(
            Answers.of(harm * test.z_at(bound, 0.0, harm)) for harm, bound in (limit or Limit()).bounds
        ),
        se=se * (q_b if test.relative else 1.0),
        df=math.inf,
        detectable=(critical + Z_OF_POWER) * se,
        needed=(critical / beyond) ** 2 if beyond < 0 else math.inf,
    )


@dataclass(frozen=True, slots=True)
class _Test:
    baseline: Clustered
    candidate: Clustered
    probability: float
    q_b: float
    relative: bool

    def z(self, change: float, sign: float) -> float:
        """Standardised difference of `probability` and the candidate's share up to the changed baseline quantile."""
        point = self.q_b * (1 + change) if self.relative else self.q_b + change
        return self.z_at(point, _variance(self.baseline, self.q_b, strict=False), sign)

    def z_at(self, point: float, variance: float, sign: float) -> float:
        """As `z`, at a fixed point. If lower is worse, values equal to the point do not count as below."""
        strict = sign < 0
        share = _count(self.candidate, point, strict=strict) / self.candidate.values.size
        # The denominator is never 0, because `share_variance` never is.
        return (self.probability - share) / math.sqrt(_variance(self.candidate, point, strict=strict) + variance)

    def interval(self, effect: float, critical: float) -> tuple[float, float]:
        """The smallest and the largest change that is not rejected."""
        scale = 1.0 if self.relative else max(abs(self.q_b), abs(effect), 1e-9)
        lower = self._search(effect, -scale, lambda change: self.z(change, 1.0) > critical)
        upper = self._search(effect, scale, lambda change: self.z(change, -1.0) < -critical)
        return lower, upper

    def _search(self, start: float, step: float, rejects: Callable[[float], bool]) -> float:
        """Move away from `start` until the test rejects, then bisect."""
        inside, outside = start, start + step / 64
        while not rejects(outside):
            inside, outside = outside, start + (outside - start) * 2
            if abs(outside - start) > WIDEST * abs(step):
                return math.copysign(math.inf, step)
        for _ in range(STEPS):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if rejects(middle) else (middle, outside)
        return (inside + outside) / 2


def _count(arm: Clustered, point: float, *, strict: bool) -> int:
    return int(np.searchsorted(arm.values, point, side="left" if strict else "right"))


def _variance(arm: Clustered, point: float, *, strict: bool) -> float:
    """Variance of the share at or below `point`, with units as observations; never below that of half a value."""
    count, size = _count(arm, point, strict=strict), max(arm.values.size, 1)
    share = count / size
    plain = float(share_variance(share, size))
    if arm.unit is None:
        return plain
    below = np.bincount(arm.unit[:count], minlength=arm.units)
    rows = np.bincount(arm.unit, minlength=arm.units)
    residual = below - share * rows
    clustered = float(residual @ residual) * arm.units / max(arm.units - 1, 1) / size**2
    return max(clustered, plain / max(float(rows.mean()), 1.0))
