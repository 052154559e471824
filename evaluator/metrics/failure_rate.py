"""Share of requests that failed."""

from __future__ import annotations

from typing import ClassVar, Literal

from evaluator.metrics.base import EndpointMetric, Pair, UnitTotals
from evaluator.records import Rule
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.estimate import Estimate


class FailureRate(EndpointMetric):
    """Failures per request, as a fraction of 1."""

    type: ClassVar[str] = "failure_rate"
    short: ClassVar[str] = "failures"
    amounts: ClassVar[Literal["share"]] = "share"
    value_unit: ClassVar[str] = "fraction"
    is_failure_rate: ClassVar[bool] = True
    of_successes: ClassVar[bool] = False
    method: ClassVar[str] = "score test"

    def estimate(self, pair: Pair, rule: Rule) -> Estimate:
        """Compare the failure rates of all requests, or of each of the pair's groups of endpoints."""
        return pair.compare_failures(rule)

    def of_units(self, units: UnitTotals) -> FloatArray:
        """Failure rate of each instance or run, shape (units,)."""
        return units.failures / units.n
