"""Size of successful responses in bytes: a page that suddenly shrinks is often an error with status 200."""

from __future__ import annotations

from typing import ClassVar

from evaluator.metrics.base import EndpointMetric, Pair, UnitTotals
from evaluator.records import Rule
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.estimate import Estimate

SD_INSTANCE = 0.0
"""Instances of one version send the same bytes, so no difference between them is assumed."""


class ResponseSize(EndpointMetric):
    """Mean size of successful responses, in bytes."""

    type: ClassVar[str] = "response_size"
    value_unit: ClassVar[str] = "bytes"
    method: ClassVar[str] = "paired mean"

    def check(self, pair: Pair) -> str | None:
        """Why it cannot be compared, or `None`."""
        recorded = all(pair.panel.totals["bytes"][arm].sum() > 0 for arm in (0, 1))
        return super().check(pair) or (None if recorded else "response sizes were not recorded")

    def estimate(self, pair: Pair, rule: Rule) -> Estimate:
        """Mean of successes."""
        return pair.compare_means(rule, sd_instance=SD_INSTANCE, of="bytes")

    def of_units(self, units: UnitTotals) -> FloatArray:
        """Mean of successes."""
        return units.sum_bytes / (units.n - units.failures)
