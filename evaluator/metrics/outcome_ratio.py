"""Ratio of two outcomes, with users as units: orders per session. Σ of the one over Σ of the other."""

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
from evaluator.stats.outcomes import adjust_levels, linear_ratio

__all__ = ["OUTCOME_RATIO", "compare_outcome_ratio", "needs_of_ratio"]


def compare_outcome_ratio(pair: OutcomePair, rule: Rule) -> Compared:
    """Ratio of sums by the delta method; with covariates by regression of its influence."""
    unit = name_unit(rule, proportion=rule.type == "outcome_proportion")
    prepared = prepare(pair.outcomes, rule, [str(rule.outcome), str(rule.per)])
    if prepared.problem:
        return nothing(rule, pair.name, unit, prepared.problem)
    moments = prepared.moments
    levels = adjust_levels([linear_ratio(part, 0, 1) for part in moments], moments, prepared.covariates)
    return answer_levels(
        pair, rule, prepared, levels, unit=unit, method="ratio of sums, delta method, clustered by unit"
    )


def needs_of_ratio(outcomes: Outcomes, rule: Rule) -> Needs:
    """Sums of both outcomes, or the values of units."""
    return find_needed_values(outcomes, rule, [str(rule.outcome), str(rule.per)])


OUTCOME_RATIO = OutcomeMetric(compare_outcome_ratio, needs_of_ratio)
