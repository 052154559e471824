"""Quantile of an outcome over units; with `per: rows` over single rows, clustered by unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from evaluator.metrics.base import no_data
from evaluator.metrics.options import QuantileMetric
from evaluator.metrics.outcome_base import (
    MIN_UNITS,
    ROWS,
    Compared,
    Needs,
    OutcomePair,
    RowsMetric,
    answer_outcome,
)
from evaluator.records import Direction, Outcomes, Rule
from evaluator.records.arrays import FloatArray
from evaluator.stats.outcomes.joint import Errors, trace_share
from evaluator.stats.outcomes.levels import OutcomeEstimate
from evaluator.stats.outcomes.quantiles import Clustered, cluster, compare_quantiles


class OutcomeQuantile(QuantileMetric, RowsMetric):
    """A quantile, decided by the candidate's share below the baseline's quantile, without estimating a density."""

    type: ClassVar[str] = "outcome_quantile"
    refused: ClassVar[Mapping[str, str]] = {"covariates": "are not taken by outcome_quantile"}

    @property
    def value_unit(self) -> str:
        """The name of the outcome."""
        return self.outcome

    @property
    def variables(self) -> tuple[str, ...]:
        """Variables of the outcomes that it compares."""
        return (self.outcome, ROWS) if self.per else (self.outcome,)

    def needs(self, outcomes: Outcomes) -> Needs:
        """Values of units, or of rows."""
        del outcomes
        names = frozenset([self.outcome])
        return Needs(row_values=names) if self.per else Needs(values=names)

    def compare(self, pair: OutcomePair, rule: Rule) -> Compared:
        """Answer a rule."""
        arms = self._take(pair)
        if arms is None:
            return Compared(no_data(rule, pair.name, "it needs the values of single units, which were purged"))
        n = arms[0].units, arms[1].units
        needed = max(MIN_UNITS, self.least)
        if min(n) < needed:
            why = f"only {min(n)} units in the smaller arm, at least {needed} are needed"
            return Compared(no_data(rule, pair.name, why, n=n))
        estimate = compare_quantiles(
            *arms, self.quantile, alpha=pair.alpha, margin=rule.margin, direction=rule.direction, limit=rule.limit
        )
        return answer_outcome(
            pair,
            rule,
            estimate,
            method=f"quantile test on {'rows, clustered by unit' if self.per else 'units'}",
            n=n,
            trace=lambda: self._trace(pair, rule, estimate),
        )

    def _take(self, pair: OutcomePair) -> tuple[Clustered, Clustered] | None:
        """Values of both arms; `None` if they were purged."""
        rows, values = pair.outcomes.row_values.get(self.outcome), pair.outcomes.values.get(self.outcome)
        if self.per and rows is not None:
            baseline, candidate = (cluster(rows[arm][1], rows[arm][0]) for arm in (0, pair.arm))
            return baseline, candidate
        if not self.per and values is not None:
            baseline, candidate = (cluster(values[arm][~np.isnan(values[arm])]) for arm in (0, pair.arm))
            return baseline, candidate
        return None

    def _trace(self, pair: OutcomePair, rule: Rule, estimate: OutcomeEstimate) -> Errors:
        """Errors of the two shares whose difference is tested: below the baseline's quantile, and below it with margin.

        The first share is the baseline's, the second the candidate's.
        """
        sign = 1.0 if rule.direction is Direction.LOWER else -1.0
        moved = sign * (rule.margin.value if rule.margin else 0.0)
        base = estimate.baseline
        point = base * (1 + moved) if estimate.relative else base + moved
        own = self._trace_arm(pair, pair.arm, point, strict=sign < 0)
        return Errors(influence={0: sign * self._trace_arm(pair, 0, base, strict=False), pair.arm: -sign * own})

    def _trace_arm(self, pair: OutcomePair, arm: int, point: float, *, strict: bool) -> FloatArray:
        if not self.per:
            return trace_share(pair.outcomes.values[self.outcome][arm], point, strict=strict)
        unit, values = pair.outcomes.row_values[self.outcome][arm]
        return trace_share(values, point, strict=strict, unit=unit, units=pair.outcomes.moments[arm].n)
