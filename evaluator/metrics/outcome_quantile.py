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
from evaluator.wording import USERS


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
        """Variables that it compares; with `per: rows` also the number of rows."""
        return (self.outcome, ROWS) if self.per else (self.outcome,)

    def needs(self, outcomes: Outcomes) -> Needs:
        """Values of units, or with `per: rows` of rows: a quantile cannot be computed from sums."""
        del outcomes
        names = frozenset([self.outcome])
        return Needs(row_values=names) if self.per else Needs(values=names)

    def compare(self, pair: OutcomePair, rule: Rule) -> Compared:
        """Answer a rule by a test of the candidate's share below the baseline's quantile."""
        values = self._find_values(pair)
        if values is None:
            return Compared(no_data(rule, pair.name, f"it needs the values of single {USERS}, which were purged"))
        baseline, candidate = values
        n = baseline.units, candidate.units
        needed = max(MIN_UNITS, self.least)
        if min(n) < needed:
            why = f"only {min(n)} {USERS} in the smaller arm, at least {needed} are needed"
            return Compared(no_data(rule, pair.name, why, n=n))
        estimate = compare_quantiles(
            baseline,
            candidate,
            self.quantile,
            alpha=pair.alpha,
            margin=rule.margin,
            direction=rule.direction,
            limit=rule.limit,
        )
        return answer_outcome(
            pair,
            rule,
            estimate,
            method=f"quantile test on {'rows, clustered by unit' if self.per else 'units'}",
            n=n,
            trace=lambda: self._trace(pair, rule, estimate),
        )

    def _find_values(self, pair: OutcomePair) -> tuple[Clustered, Clustered] | None:
        """Find the values of baseline and candidate, of units or with `per: rows` of rows; `None`: they were purged.

        Values are clustered by unit: rows of one unit are not independent. Units without a value (NaN) are left out.
        """
        if self.per:
            rows = pair.outcomes.row_values.get(self.outcome)
            if rows is None:
                return None
            baseline_units, baseline_values = rows[0]  # by row: number of its unit, and value
            candidate_units, candidate_values = rows[pair.arm]
            return cluster(baseline_values, baseline_units), cluster(candidate_values, candidate_units)
        values = pair.outcomes.values.get(self.outcome)
        if values is None:
            return None
        baseline_values, candidate_values = values[0], values[pair.arm]
        return (
            cluster(baseline_values[~np.isnan(baseline_values)]),
            cluster(candidate_values[~np.isnan(candidate_values)]),
        )

    def _trace(self, pair: OutcomePair, rule: Rule, estimate: OutcomeEstimate) -> Errors:
        """Trace the error of the tested difference to single units of both arms; positive is harm.

        The difference is that of two shares: of the baseline below its quantile, and of the candidate below that
        quantile plus the margin. What a unit adds to the error (its influence) shows how comparisons are correlated.
        """
        harm_sign = 1.0 if rule.direction is Direction.LOWER else -1.0
        margin = harm_sign * (rule.margin.value if rule.margin else 0.0)
        quantile = estimate.baseline
        bound = quantile * (1 + margin) if estimate.relative else quantile + margin
        # A value equal to the bound is no harm: it counts as below if lower values are better, and not if higher are.
        baseline = self._trace_share(pair, 0, quantile, strict=False)
        candidate = self._trace_share(pair, pair.arm, bound, strict=harm_sign < 0)
        # If lower values are better, more of the candidate's values up to the bound are less harm: minus.
        return Errors(influence={0: harm_sign * baseline, pair.arm: -harm_sign * candidate})

    def _trace_share(self, pair: OutcomePair, arm: int, point: float, *, strict: bool) -> FloatArray:
        """Compute what each unit of an arm adds to the error of its share of values up to `point`, shape (units,).

        `arm`: its position among the arms. `strict`: values equal to `point` do not count.
        """
        if not self.per:
            return trace_share(pair.outcomes.values[self.outcome][arm], point, strict=strict)
        unit, values = pair.outcomes.row_values[self.outcome][arm]
        return trace_share(values, point, strict=strict, unit=unit, units=pair.outcomes.moments[arm].n)
