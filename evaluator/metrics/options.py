"""The base of every type of metric, a model of its options; and options of several types. Unknown keys are errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from evaluator.fields import Name, Share
from evaluator.records import Metric, Rule


class MetricModel(Metric, BaseModel):
    """A type of metric whose fields are its options."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )

    @classmethod
    def among(cls, rules: Iterable[Rule]) -> list[tuple[Self, Rule]]:
        """Pairs of metric and rule, of those rules whose metric is of this class."""
        return [(rule.metric, rule) for rule in rules if isinstance(rule.metric, cls)]


# ------------------------------------------------------------------ options of several types


MIN_BEYOND = 5
"""Least number of requests (observations, units) beyond a quantile."""


class QuantileMetric(MetricModel):
    """A metric that is a quantile."""

    quantile: float = Field(description="Between 0 and 1, such as 0.95.", examples=[0.95])

    @field_validator("quantile")
    @classmethod
    def _check_quantile(cls, value: float) -> float:
        """Refuse a value that is no quantile, such as a percentage."""
        if not 0 < value < 1:
            hint = f"; did you mean {value / 100:g}?" if 1 <= value < 100 else ""
            raise ValueError(f"must be between 0 and 1, not {value:g}{hint}")
        return value

    @property
    def share_above(self) -> float:
        """Share of requests above the quantile."""
        return 1 - self.quantile

    @property
    def tail(self) -> float:
        """Share on the smaller side of the quantile."""
        return min(1 - self.quantile, self.quantile)

    @property
    def least(self) -> int:
        """How many requests (observations, units) are needed, so that enough are expected beyond the quantile."""
        return round(MIN_BEYOND / self.tail)


def _check_winsorise(value: float) -> float:
    """Refuse a quantile, at which large values are cut, that is not an upper one."""
    if not 0.5 <= value < 1:
        raise ValueError(f"must be from 50% to below 100%, such as 99.9%, not {value * 100:g}%")
    return value


Covariates = Annotated[
    Annotated[tuple[Name, ...], Field(min_length=1, strict=False)] | None,
    Field(description="Columns known before the test; they narrow the interval."),
]
Winsorise = Annotated[
    Annotated[Share, AfterValidator(_check_winsorise)] | None,
    Field(description="Values above this quantile of all units are cut to it."),
]
