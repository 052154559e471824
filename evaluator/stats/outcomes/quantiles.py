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
"""Bisections of the search for an end of the interval."""
WIDEST = 2.0**20
"""If changes up to this multiple of the first step are not rejected, the interval has no end."""


@dataclass(frozen=True, slots=True)
class Clustered:
    """Values of one arm in ascending order, and the unit (0…units - 1) of each; `None`: one value for each unit."""

    values: FloatArray
    unit: IntArray | None
    units: int


def cluster(values: FloatArray, unit: IntArray | None = None) -> Clustered:
    """Sort values, and number their units; both have the shape (values,). Values must not be NaN.

    `unit` is the unit of each value, by any numbers; `None`: each value is a unit by itself.
    """
    order = np.argsort(values, kind="stable")
    if unit is None:
        return Clustered(values[order], None, int(values.size))
    distinct_units, codes = np.unique(unit, return_inverse=True)
    return Clustered(values[order], codes[order].astype(np.int64), int(distinct_units.size))


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
    lower, upper = test.find_interval(effect, critical)
    # The margin as a change of the candidate; times `sign`, a statistic is positive beyond the bound.
    z_beyond = sign * test.find_z(sign * (margin.value if margin else 0.0), sign)
    # No density is estimated, so the standard error (of the effect) is derived from the interval.
    se = (upper - lower) / (2 * critical)
    has_no_ratio = relative and q_b <= 0
    # A limit has no error: the variance of the baseline's share is 0. Its sign is 1 for a maximum, -1 for a minimum.
    against_limit = tuple(
        Answers.of(limit_sign * test.find_z_at(limit_value, 0.0, limit_sign))
        for limit_sign, limit_value in (limit or Limit()).bounds
    )
    return OutcomeEstimate(
        baseline=q_b,
        candidate=q_c,
        relative=relative,
        effect=math.nan if has_no_ratio else effect,
        lower=lower,
        upper=upper,
        against_zero=Answers.of(sign * test.find_z(0.0, sign)),
        against_margin=Answers.of(math.nan if has_no_ratio else z_beyond),
        against_limit=against_limit,
        se=se * (q_b if test.relative else 1.0),  # of the difference, in the outcome's unit
        df=math.inf,
        detectable=(critical + Z_OF_POWER) * se,
        # With so many times the units, the same values would give the statistic `critical`.
        needed=(critical / z_beyond) ** 2 if z_beyond < 0 else math.inf,
    )


@dataclass(frozen=True, slots=True)
class _Test:
    """The test of one quantile at any change from the baseline's to the candidate's."""

    baseline: Clustered
    candidate: Clustered
    probability: float
    q_b: float
    """Quantile of the baseline."""
    relative: bool
    """Are changes relative to `q_b`?"""

    def find_z(self, change: float, sign: float) -> float:
        """Return the statistic of "the candidate's quantile is the baseline's with this change".

        It is positive if the candidate's quantile is above. `sign` is -1 if harm is below the point: then values equal
        to it do not count as below (`find_z_at`).
        """
        point = self.q_b * (1 + change) if self.relative else self.q_b + change
        return self.find_z_at(point, _find_share_variance(self.baseline, self.q_b, strict=False), sign)

    def find_z_at(self, point: float, variance: float, sign: float) -> float:
        """Return the statistic of "the candidate's quantile is at `point`"; positive if it is above.

        It is the probability of the quantile minus the candidate's share of values at or below the point, divided by
        its standard error. `variance` is that of the baseline's share, which is added. With a `sign` of -1 (harm is
        below the point), values equal to the point do not count as below.
        """
        strict = sign < 0
        share = _count_up_to(self.candidate, point, strict=strict) / self.candidate.values.size
        # The denominator is never 0, because `share_variance` never is.
        se = math.sqrt(_find_share_variance(self.candidate, point, strict=strict) + variance)
        return (self.probability - share) / se

    def find_interval(self, effect: float, critical: float) -> tuple[float, float]:
        """Return the smallest and the largest change that the test does not reject at ±`critical`.

        Both are searched for from `effect`, the change that was observed.
        """
        # The size of a large change: the search begins with a small part of it.
        scale = 1.0 if self.relative else max(abs(self.q_b), abs(effect), 1e-9)
        # z falls with the change: it is above `critical` for changes that are too small, below it for too large ones.
        lower = _search_end(effect, -scale, lambda change: self.find_z(change, 1.0) > critical)
        upper = _search_end(effect, scale, lambda change: self.find_z(change, -1.0) < -critical)
        return lower, upper


def _search_end(start: float, step: float, rejects: Callable[[float], bool]) -> float:
    """Find the change beyond which a test rejects, in the direction of `step` from `start`.

    The first distance is a small part of `step`. It is doubled until the test rejects, then bisected. The result is
    infinite if the test does not reject up to `WIDEST` steps.
    """
    inside, outside = start, start + step / 64
    while not rejects(outside):
        inside, outside = outside, start + (outside - start) * 2
        if abs(outside - start) > WIDEST * abs(step):
            return math.copysign(math.inf, step)
    for _ in range(STEPS):
        middle = (inside + outside) / 2
        if rejects(middle):
            outside = middle
        else:
            inside = middle
    return (inside + outside) / 2


def _count_up_to(arm: Clustered, point: float, *, strict: bool) -> int:
    """Count the values at or below `point`; with `strict`, only those below."""
    return int(np.searchsorted(arm.values, point, side="left" if strict else "right"))


def _find_share_variance(arm: Clustered, point: float, *, strict: bool) -> float:
    """Return the variance of the share of values at or below `point` (`strict`: below), with units as observations.

    It is never 0: at least the binomial variance of the values, divided by the mean number of values of a unit.
    """
    count, size = _count_up_to(arm, point, strict=strict), max(arm.values.size, 1)
    share = count / size
    binomial = float(share_variance(share, size))
    if arm.unit is None:
        return binomial
    # Of each unit: its values below the point, and all its values. The first `count` values are those below.
    values_below = np.bincount(arm.unit[:count], minlength=arm.units)
    values_of_unit = np.bincount(arm.unit, minlength=arm.units)
    residual = values_below - share * values_of_unit
    # The variance of a ratio of sums over units (delta method).
    clustered = float(residual @ residual) * arm.units / max(arm.units - 1, 1) / size**2
    # It may be smaller than the binomial: the shares of units are similar if each unit has values on both sides.
    return max(clustered, binomial / max(float(values_of_unit.mean()), 1.0))
