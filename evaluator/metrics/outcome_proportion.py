"""Share of units for which a binary outcome happened at all: conversion. With `per: rows` the share of rows."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from evaluator.metrics.base import no_data
from evaluator.metrics.outcome_base import (
    RATIO_METHOD,
    ROWS,
    AdjustedMetric,
    Compared,
    OutcomePair,
    RowsMetric,
    answer_levels,
    answer_outcome,
    trace_levels,
)
from evaluator.records import Rule
from evaluator.stats.outcomes.levels import compare_proportions
from evaluator.wording import USERS


class OutcomeProportion(AdjustedMetric, RowsMetric):
    """Share of units, by a score test; with covariates by regression; share of rows by the delta method."""

    type: ClassVar[str] = "outcome_proportion"
    amounts: ClassVar[Literal["share"]] = "share"
    value_unit: ClassVar[str] = "fraction"

    @property
    def variables(self) -> tuple[str, ...]:
        """Variables that it compares: with `per: rows` two sums, else whether the outcome happened (`x?`)."""
        return (self.outcome, ROWS) if self.per else (f"{self.outcome}?",)

    def compare(self, pair: OutcomePair, rule: Rule) -> Compared:
        """Answer a rule: units by a score test, or with covariates by regression; rows by the delta method."""
        is_binary = next(column.binary for column in pair.outcomes.columns if column.name == self.outcome)
        if not is_binary:
            return Compared(no_data(rule, pair.name, f"'{self.outcome}' has values other than 0 and 1"))
        prepared = self.prepare(pair.outcomes)
        # A share of rows is a ratio of sums over units. A problem becomes a comparison without data.
        if self.per or prepared.problem:
            return answer_levels(pair, rule, prepared, RATIO_METHOD)
        n = prepared.count(pair.arm)
        if min(n) == 0:
            return Compared(no_data(rule, pair.name, f"an arm has no {USERS}", n=n))
        if self.covariates:
            return answer_levels(pair, rule, prepared, "share of units, Welch")
        levels = prepared.find_levels()  # of all arms: the share of units for which the outcome happened
        # The score test takes counts: units of baseline and candidate for which the outcome happened.
        counts = np.rint(levels.values[[0, pair.arm]] * np.array(n))
        estimate = compare_proportions(
            (float(counts[0]), float(counts[1])),
            n,
            alpha=pair.alpha,
            margin=rule.margin,
            direction=rule.direction,
            limit=rule.limit,
        )
        return answer_outcome(
            pair,
            rule,
            estimate,
            method="share of units, score",
            n=n,
            trace=lambda: trace_levels(pair, rule, prepared, levels),
            levels=levels,
        )
