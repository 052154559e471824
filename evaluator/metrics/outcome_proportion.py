"""Share of units for which a binary outcome happened at all: conversion. `per: rows` asks for the share of rows."""

from __future__ import annotations

import numpy as np

from evaluator.metrics.outcome_base import (
    Compared,
    Needs,
    OutcomeMetric,
    OutcomePair,
    answer_levels,
    answer_outcome,
    find_needed_values,
    nothing,
    prepare,
    trace_levels,
)
from evaluator.metrics.outcome_ratio import compare_outcome_ratio, needs_of_ratio
from evaluator.records import Outcomes, Rule
from evaluator.stats.outcomes import ArmLevels, adjust_levels, compare_proportions, linear_mean

__all__ = ["OUTCOME_PROPORTION", "compare_outcome_proportion"]


def compare_outcome_proportion(pair: OutcomePair, rule: Rule) -> Compared:
    """Share of units, by score; with covariates by regression; of rows by the delta method."""
    name = str(rule.outcome)
    if not pair.column(name).binary:
        return nothing(rule, pair.name, "fraction", f"'{name}' has values other than 0 and 1")
    if rule.per:
        return compare_outcome_ratio(pair, rule)
    prepared = prepare(pair.outcomes, rule, [f"{name}?"])
    if prepared.problem:
        return nothing(rule, pair.name, "fraction", prepared.problem)
    moments = prepared.moments
    levels = adjust_levels([linear_mean(part, 0) for part in moments], moments, prepared.covariates)
    n = moments[0].n, moments[pair.arm].n
    if min(n) == 0:
        return nothing(rule, pair.name, "fraction", "an arm has no units", n)
    if rule.covariates:
        return answer_levels(pair, rule, prepared, levels, unit="fraction", method="share of units, Welch")
    estimate = compare_proportions(
        _count(levels, n, pair.arm), n, alpha=pair.alpha, margin=rule.margin, direction=rule.direction, limit=rule.limit
    )
    return answer_outcome(
        pair,
        rule,
        estimate,
        unit="fraction",
        method="share of units, score",
        n=n,
        trace=lambda: trace_levels(pair, rule, prepared, levels),
        levels=levels,
    )


def _count(levels: ArmLevels, n: tuple[int, int], arm: int) -> tuple[float, float]:
    chosen = np.rint(levels.values[[0, arm]] * np.array(n))
    return float(chosen[0]), float(chosen[1])


def _needs(outcomes: Outcomes, rule: Rule) -> Needs:
    if rule.per:
        return needs_of_ratio(outcomes, rule)
    known = f"{rule.outcome}?" in outcomes.variables
    return find_needed_values(outcomes, rule, [f"{rule.outcome}?"]) if known else Needs()


OUTCOME_PROPORTION = OutcomeMetric(compare_outcome_proportion, _needs)
