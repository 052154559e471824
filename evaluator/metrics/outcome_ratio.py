"""Ratio of the sums of two outcomes, with users as units: orders per session."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from evaluator.fields import Name
from evaluator.metrics.outcome_base import RATIO_METHOD, ROWS, MeanMetric


class OutcomeRatio(MeanMetric):
    """Ratio of sums by the delta method; with covariates by regression of its influences."""

    type: ClassVar[str] = "outcome_ratio"
    method: ClassVar[str] = RATIO_METHOD

    per: Name = Field(
        description="The outcome to divide by. rows: compare rows, clustered by unit.", examples=["orders", ROWS]
    )

    @property
    def value_unit(self) -> str:
        """`orders/sessions`."""
        return f"{self.outcome}/{self.per}"

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Outcomes that it reads, as they were imported."""
        return (self.outcome,) if self.per == ROWS else (self.outcome, self.per)

    @property
    def variables(self) -> tuple[str, ...]:
        """Variables of the outcomes that it compares."""
        return (self.outcome, self.per)
