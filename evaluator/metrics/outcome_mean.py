"""Mean of an outcome per unit: revenue per user. A unit's own value is the sum over its rows."""

from __future__ import annotations

from evaluator.metrics.outcome_base import (
    Compared,
    Needs,
    OutcomeMetric,
    OutcomePair,
    answer_levels,
    find_needed_values,
    name_unit,
    nothing,
    prepare,
)
from evaluator.records import Outcomes, Rule
from evaluator.stats.outcomes import adjust_levels, linear_mean

__all__ = ["OUTCOME_MEAN", "compare_outcome_mean"]


def compare_outcome_mean(pair: OutcomePair, rule: Rule) -> Compared:
    """Mean over units, by Welch's t; with covariates by regression with slopes of each arm."""
    unit = name_unit(rule)
    prepared = prepare(pair.outcomes, rule, [str(rule.outcome)])
    if prepared.problem:
        return nothing(rule, pair.name, unit, prepared.problem)
    moments = prepared.moments
    levels = adjust_levels([linear_mean(part, 0) for part in moments], moments, prepared.covariates)
    return answer_levels(pair, rule, prepared, levels, unit=unit, method="mean of units, Welch")


def _needs(outcomes: Outcomes, rule: Rule) -> Needs:
    return find_needed_values(outcomes, rule, [str(rule.outcome)])


OUTCOME_MEAN = OutcomeMetric(compare_outcome_mean, _needs)
