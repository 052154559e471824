"""Quantile of an outcome over units; `per: rows` asks for that of single rows, clustered by unit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluator.metrics.outcome_base import (
    MIN_UNITS,
    Compared,
    Needs,
    OutcomeMetric,
    OutcomePair,
    answer_outcome,
    name_unit,
    nothing,
)
from evaluator.records import Direction, Outcomes, Rule
from evaluator.stats.outcome_joint import Errors, trace_share
from evaluator.stats.outcome_quantiles import Clustered, cluster, compare_quantiles
from evaluator.stats.outcomes import OutcomeEstimate

__all__ = ["OUTCOME_QUANTILE", "compare_outcome_quantile"]

FloatArray = npt.NDArray[np.float64]

MIN_BEYOND = 5


def _needs(outcomes: Outcomes, rule: Rule) -> Needs:
    del outcomes
    names = frozenset([str(rule.outcome)])
    return Needs(row_values=names) if rule.per == "rows" else Needs(values=names)


def compare_outcome_quantile(pair: OutcomePair, rule: Rule) -> Compared:
    """A quantile, decided without a density: by the share of the candidate below the baseline's quantile."""
    unit = name_unit(rule)
    arms = _take(pair, rule)
    if arms is None:
        return nothing(rule, pair.name, unit, "it needs the values of single units, and those were purged")
    baseline, candidate = arms
    probability = rule.quantile if rule.quantile is not None else 0.5
    n = baseline.units, candidate.units
    needed = max(MIN_UNITS, round(MIN_BEYOND / min(1 - probability, probability)))
    if min(n) < needed:
        return nothing(rule, pair.name, unit, f"only {min(n)} units in the smaller arm, {needed} are needed", n)
    estimate = compare_quantiles(
        baseline,
        candidate,
        probability,
        alpha=pair.alpha,
        margin=rule.margin,
        direction=rule.direction,
        limit=rule.limit,
    )
    of = "rows, clustered by unit" if rule.per == "rows" else "units"
    return answer_outcome(
        pair,
        rule,
        estimate,
        unit=unit,
        method=f"quantile test on {of}",
        n=n,
        trace=lambda: _trace(pair, rule, estimate),
    )


def _trace(pair: OutcomePair, rule: Rule, estimate: OutcomeEstimate) -> Errors:
    """The shares below the baseline's quantile, and below where the margin moves it: their difference is tested."""
    sign = 1.0 if rule.direction is Direction.LOWER else -1.0
    moved = sign * (rule.margin.value if rule.margin else 0.0)
    base = estimate.baseline
    point = base * (1 + moved) if estimate.relative else base + moved
    own = _trace_arm(pair, rule, pair.arm, point, strict=sign < 0)
    return Errors(influence={0: sign * _trace_arm(pair, rule, 0, base, strict=False), pair.arm: -sign * own})


def _trace_arm(pair: OutcomePair, rule: Rule, arm: int, point: float, *, strict: bool) -> FloatArray:
    if rule.per != "rows":
        return trace_share(pair.outcomes.values[str(rule.outcome)][arm], point, strict=strict)
    unit, values = pair.outcomes.row_values[str(rule.outcome)][arm]
    return trace_share(values, point, strict=strict, unit=unit, units=pair.outcomes.moments[arm].n)


def _take(pair: OutcomePair, rule: Rule) -> tuple[Clustered, Clustered] | None:
    name, chosen = str(rule.outcome), (0, pair.arm)
    if rule.per == "rows":
        rows = pair.outcomes.row_values.get(name)
        if rows is None:
            return None
        one, other = (cluster(rows[arm][1], rows[arm][0]) for arm in chosen)
        return one, other
    values = pair.outcomes.values.get(name)
    if values is None:
        return None
    one, other = (cluster(values[arm][~np.isnan(values[arm])]) for arm in chosen)
    return one, other


OUTCOME_QUANTILE = OutcomeMetric(compare_outcome_quantile, _needs)
