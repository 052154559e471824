"""Quantile of an outcome over units; `per: rows` asks for that of single rows, clustered by unit."""

from __future__ import annotations

import numpy as np

from evaluator.metrics.outcome_base import (
    MIN_UNITS,
    Needs,
    OutcomeMetric,
    OutcomePair,
    answer_outcome,
    name_unit,
    no_outcome_data,
)
from evaluator.records import Comparison, Outcomes, Rule
from evaluator.stats.outcome_quantiles import Clustered, cluster, compare_quantiles

__all__ = ["OUTCOME_QUANTILE", "compare_outcome_quantile"]

MIN_BEYOND = 5


def _needs(outcomes: Outcomes, rule: Rule) -> Needs:
    del outcomes
    names = frozenset([str(rule.outcome)])
    return Needs(row_values=names) if rule.per == "rows" else Needs(values=names)


def compare_outcome_quantile(pair: OutcomePair, rule: Rule) -> Comparison:
    """A quantile, decided without a density: by the share of the candidate below the baseline's quantile."""
    unit = name_unit(rule)
    arms = _take(pair, rule)
    if arms is None:
        return no_outcome_data(rule, pair.name, unit, "it needs the values of single units, and those were purged")
    baseline, candidate = arms
    probability = rule.quantile if rule.quantile is not None else 0.5
    n = baseline.units, candidate.units
    needed = max(MIN_UNITS, round(MIN_BEYOND / min(1 - probability, probability)))
    if min(n) < needed:
        return no_outcome_data(rule, pair.name, unit, f"only {min(n)} units in the smaller arm, {needed} are needed", n)
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
    return answer_outcome(pair, rule, estimate, unit=unit, method=f"quantile test on {of}", n=n)


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
