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
    is_response_size: ClassVar[bool] = True
    method: ClassVar[str] = "paired mean"

    def check(self, pair: Pair) -> str | None:
        """Why it cannot be compared, or `None`."""
        why = super().check(pair)
        if why:
            return why
        recorded = all(bytes_of_arm.sum() > 0 for bytes_of_arm in pair.panel.totals["bytes"])
        return None if recorded else "response sizes were not recorded"

    def estimate(self, pair: Pair, rule: Rule) -> Estimate:
        """Compare the mean sizes of successful responses, of all endpoints or of each of the pair's groups."""
        return pair.compare_means(rule, sd_instance=SD_INSTANCE, of="bytes")

    def of_units(self, units: UnitTotals) -> FloatArray:
        """Mean size of successful responses of each instance or run (bytes), shape (units,)."""
        return units.sum_bytes / (units.n - units.failures)
