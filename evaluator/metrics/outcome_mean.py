"""Mean of an outcome per unit: revenue per user. A unit's own value is the sum over its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from evaluator.metrics.outcome_base import MeanMetric


class OutcomeMean(MeanMetric):
    """Mean over units, by Welch's t test; with covariates by regression with slopes of each arm."""

    type: ClassVar[str] = "outcome_mean"
    refused: ClassVar[Mapping[str, str]] = {"per": "is not taken by outcome_mean; use outcome_ratio"}
    method: ClassVar[str] = "mean of units, Welch"

    @property
    def value_unit(self) -> str:
        """`revenue/unit`."""
        return f"{self.outcome}/unit"
