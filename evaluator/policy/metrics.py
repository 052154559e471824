"""Metrics of the policy file: what may be compared, and what each type of metric takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationInfo, field_validator

from evaluator.errors import UnknownName
from evaluator.metrics import METRICS, MetricType
from evaluator.policy.fields import Amount, EndpointName, Name, QueryText, Section, Share
from evaluator.quantities import Quantity
from evaluator.records import Direction, QueryKind
from evaluator.sources.prometheus.queries import is_plain, metric_name

__all__ = ["BUILT_IN_METRICS", "Metric", "unit_of"]


BUILT_IN_METRICS: tuple[Mapping[str, Any], ...] = (
    {"name": "failure_rate", "type": "failure_rate", "role": "gate", "margin": "0.1pp"},
    {"name": "latency_p50", "type": "latency_quantile", "quantile": 0.50, "role": "gate", "margin": "5%"},
    {"name": "latency_p95", "type": "latency_quantile", "quantile": 0.95, "role": "gate", "margin": "10%"},
    {"name": "latency_p99", "type": "latency_quantile", "quantile": 0.99, "role": "gate", "margin": "15%"},
    {"name": "latency_mean", "type": "latency_mean", "role": "watch"},
    {"name": "throughput", "type": "throughput", "role": "watch"},
)


class Metric(Section):
    """One thing that is compared."""

    name: Name = Field(description="Unique name, shown in the verdict.")
    type: str = Field(description="What is compared.", json_schema_extra={"enum": list(METRICS)})
    role: Literal["gate", "hold", "watch"] = Field(
        "gate", description="gate: can block. hold: can stop a GO, never causes NO-GO. watch: shown only."
    )
    quantile: float | None = Field(
        None,
        description="For latency_quantile and histogram_quantile: between 0 and 1, such as 0.95.",
        validate_default=True,
    )
    endpoint: EndpointName | None = Field(None, description='Only this endpoint, such as "POST /checkout".')
    direction: Direction | None = Field(
        None,
        description="Which way is better; each type knows its own, outcomes may say lower_is_better.",
        strict=False,
    )
    outcome: Name | None = Field(
        None, description="For outcome_…: the column of the imported outcomes.", validate_default=True
    )
    per: Name | None = Field(
        None,
        description="For outcome_ratio: the outcome to divide by. rows: compare rows, clustered by unit.",
        validate_default=True,
    )
    covariates: list[Name] | None = Field(
        None, description="For outcome_…: columns known before the test; they narrow the interval.", min_length=1
    )
    winsorise: Share | None = Field(
        None, description="For outcome_mean and outcome_ratio: values above this quantile of all units are cut to it."
    )
    query: QueryText | None = Field(
        None,
        description="For counter_rate, gauge_… and histogram_…: what Prometheus is asked, with $selector for the arm. "
        "A histogram without _bucket, _sum or _count.",
        validate_default=True,
    )
    failures: QueryText | None = Field(
        None, description="For counter_ratio: the counter of failures.", validate_default=True
    )
    requests: QueryText | None = Field(
        None, description="For counter_ratio: the counter of all requests.", validate_default=True
    )
    unit: Annotated[str, Field(pattern=r"^[^\s\x00-\x1f]{1,20}$")] | None = Field(
        None,
        description="Unit of the query's numbers: s, ms, us, ratio, bytes or any word. Histograms: s.",
    )
    below: Amount | None = Field(
        None, description="For histogram_share: the bound that observations keep, such as 250ms.", validate_default=True
    )
    margin: Amount | None = Field(
        None, description="Largest harm tolerated: 5% (relative), 0.1pp, 20ms.", validate_default=True
    )
    min: Amount | None = Field(None, description="Lowest value allowed for the candidate itself.")
    max: Amount | None = Field(
        None, description="Highest value allowed for the candidate itself.", validate_default=True
    )

    @field_validator("type")
    @classmethod
    def _known_type(cls, value: str) -> str:
        if value not in METRICS:
            raise ValueError(UnknownName("metric type", value, METRICS).message)
        return value

    @field_validator("quantile")
    @classmethod
    def _proper_quantile(cls, value: float | None, info: ValidationInfo) -> float | None:
        kind = METRICS.get(info.data.get("type", ""))
        if kind is None or (value is None and not kind.takes_quantile):
            return value
        if value is None:
            raise ValueError(f"is missing: {info.data['type']} needs one, such as 0.95")
        if not kind.takes_quantile:
            raise ValueError(f"is not taken by {info.data['type']}")
        if not 0 < value < 1:
            near = f"; did you mean {value / 100:g}?" if 1 <= value < 100 else ""
            raise ValueError(f"must be between 0 and 1, not {value:g}{near}")
        return value

    @field_validator("direction")
    @classmethod
    def _own_direction(cls, value: Direction | None, info: ValidationInfo) -> Direction | None:
        kind = METRICS.get(info.data.get("type", ""))
        if not value or not kind or value is kind.direction:
            return None
        if not kind.any_direction:
            raise ValueError(f"of {info.data['type']} is {kind.direction}")
        return value

    @field_validator("outcome")
    @classmethod
    def _named_outcome(cls, value: str | None, info: ValidationInfo) -> str | None:
        kind = METRICS.get(info.data.get("type", ""))
        if kind is None:
            return value
        if value is None and kind.of_outcomes:
            raise ValueError(f"is missing: {info.data['type']} needs one, such as revenue")
        return _only_of_outcomes(value, info)

    @field_validator("per")
    @classmethod
    def _proper_per(cls, value: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("type", "")
        if value is None and kind == "outcome_ratio":
            raise ValueError("is missing: outcome_ratio needs one, such as orders, or rows")
        if value is not None and value != "rows" and kind in ("outcome_proportion", "outcome_quantile"):
            raise ValueError(f"of {kind} can only be rows, not '{value}'")
        if value is not None and kind == "outcome_mean":
            raise ValueError("is not taken by outcome_mean; use outcome_ratio")
        return _only_of_outcomes(value, info)

    @field_validator("covariates")
    @classmethod
    def _proper_covariates(cls, value: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if value and info.data.get("type") == "outcome_quantile":
            raise ValueError("are not taken by outcome_quantile")
        return _only_of_outcomes(value, info)

    @field_validator("winsorise")
    @classmethod
    def _proper_winsorise(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("type") not in ("outcome_mean", "outcome_ratio"):
            raise ValueError(f"is not taken by {info.data.get('type')}")
        if value is not None and not 0.5 <= value < 1:
            raise ValueError(f"must be from 50% to below 100%, such as 99.9%, not {value * 100:g}%")
        return value

    @field_validator("query", "failures", "requests")
    @classmethod
    def _proper_query(cls, value: str | None, info: ValidationInfo) -> str | None:
        name, kind = info.data.get("type", ""), METRICS.get(info.data.get("type", ""))
        if kind is None:
            return value
        wanted = () if kind.asks is None else ("failures", "requests") if name == "counter_ratio" else ("query",)
        if info.field_name not in wanted:
            if value is not None:
                raise ValueError(f"is not taken by {name}" + (f"; give {' and '.join(wanted)}" if wanted else ""))
            return None
        if value is None:
            raise ValueError(
                f"is missing: {name} needs one, such as {_EXAMPLES.get(info.field_name, _EXAMPLES[kind.asks])}"
            )
        return _read_query(value, name, kind)

    @field_validator("unit")
    @classmethod
    def _unit_of_readings(cls, value: str | None, info: ValidationInfo) -> str | None:
        kind = METRICS.get(info.data.get("type", ""))
        if value is not None and kind and (kind.asks is None or info.data["type"] == "counter_ratio"):
            raise ValueError(f"is not taken by {info.data['type']}")
        return value

    @field_validator("below")
    @classmethod
    def _proper_bound(cls, value: Quantity | None, info: ValidationInfo) -> Quantity | None:
        name = info.data.get("type", "")
        if name == "histogram_share" and value is None:
            raise ValueError("is missing: histogram_share needs one, such as 250ms")
        if name != "histogram_share" and value is not None and name in METRICS:
            raise ValueError(f"is not taken by {name}")
        if value is not None and value.unit not in ("", "ms"):
            raise ValueError(f"must be an amount such as 250ms, not {value}")
        return value

    @field_validator("endpoint")
    @classmethod
    def _only_of_requests(cls, value: str | None, info: ValidationInfo) -> str | None:
        kind = METRICS.get(info.data.get("type", ""))
        if value is not None and kind and kind.of_outcomes:
            raise ValueError(f"is not taken by {info.data['type']}: outcomes have no endpoint")
        return value

    @field_validator("margin")
    @classmethod
    def _proper_margin(cls, value: Quantity | None, info: ValidationInfo) -> Quantity | None:
        kind = _kind_of(info)
        if value is None or kind is None:
            return value
        return _read_margin(value, kind, info.data.get("direction") or kind.direction)

    @field_validator("min", "max")
    @classmethod
    def _proper_limit(cls, value: Quantity | None, info: ValidationInfo) -> Quantity | None:
        kind = _kind_of(info)
        return value if value is None or kind is None else _read_limit(value, kind)

    @field_validator("max")
    @classmethod
    def _something_to_decide_by(cls, value: Quantity | None, info: ValidationInfo) -> Quantity | None:
        low = info.data.get("min")
        if value and low and value.value < low.value:
            raise ValueError(f"must not be below min ({low}), got {value}")
        judged = info.data.get("role") != "watch" and {"type", "role", "margin", "min"} <= info.data.keys()
        if judged and value is None and low is None and info.data["margin"] is None:
            raise ValueError(f"a {info.data['role']} needs a margin, a min or a max; or give it role: watch")
        return value


_EXAMPLES: Mapping[object, str] = {
    "failures": 'http_requests_total{$selector,code=~"5.."}',
    "requests": "http_requests_total{$selector}",
    QueryKind.COUNTER: "process_cpu_seconds_total{$selector}",
    QueryKind.HISTOGRAM: "http_request_duration_seconds{$selector}",
    QueryKind.GAUGE: "process_resident_memory_bytes{$selector}",
}
"""What might be asked, by the key of the policy, else by what the metric asks for."""

TIMES = {"s": 1000.0, "ms": 1.0, "us": 0.001, "µs": 0.001}
"""Unit of time → how many ms it is."""


def unit_of(metric: str, unit: str | None) -> tuple[str, float]:
    """Unit in which a metric of readings is shown, and by what the query's numbers are multiplied for that."""
    kind = METRICS[metric]
    if unit is None and kind.asks is QueryKind.HISTOGRAM:
        unit = "s"
    if unit in TIMES and (kind.unit != "share" or metric == "histogram_share"):
        return "ms", TIMES[unit]
    if unit == "ratio":
        return "fraction", 1.0
    return unit or "", 1.0


def _kind_of(info: ValidationInfo) -> MetricType | None:
    """The type of a metric, with the unit that its readings have."""
    name = info.data.get("type", "")
    kind = METRICS.get(name)
    if kind is None or kind.asks is None or kind.unit == "share":
        return kind
    unit, _ = unit_of(name, info.data.get("unit"))
    if unit == "ms":
        return replace(kind, unit="ms")
    return replace(kind, unit="share") if unit == "fraction" else kind


def _read_query(text: str, name: str, kind: MetricType) -> str:
    """Refuse what could not be compared by increases, and a query that is the same for all arms."""
    if "$selector" not in text:
        raise ValueError(f"needs $selector where the labels of an arm go: {_example(text)}")
    if kind.asks is not QueryKind.GAUGE and not is_plain(text):
        what = "the counter itself" if kind.asks is QueryKind.COUNTER else "the histogram itself"
        raise ValueError(f"must be {what}, without rate(), sum() or other functions: {name} takes increases by itself")
    suffix = re.search(r"_(bucket|sum|count)$", metric_name(text))
    if kind.asks is QueryKind.HISTOGRAM and suffix:
        raise ValueError(f"must be the histogram's name without {suffix[0]}")
    return text


def _example(text: str) -> str:
    plain = text.partition("{")[0]
    return f"{plain}{{$selector}}" if is_plain(text) else "name{$selector}"


_T = TypeVar("_T")


def _only_of_outcomes(value: _T | None, info: ValidationInfo) -> _T | None:
    kind = METRICS.get(info.data.get("type", ""))
    if value is not None and kind and not kind.of_outcomes:
        raise ValueError(f"is not taken by {info.data['type']}")
    return value


def _read_margin(margin: Quantity, kind: MetricType, direction: Direction) -> Quantity:
    """Bring a margin to the units of its metric, or say what it should have been."""
    value, unit = margin.value, margin.unit
    absolute = "pp" if kind.unit == "share" else kind.unit
    if value < 0:
        raise ValueError(f"must not be negative, got {margin}")
    if unit == "" and value == 0:
        unit = "%"
    if unit == "" and kind.unit not in ("share", "abs") and value < 1:
        value, unit = value * 100, "%"
    if unit not in ("%", absolute):
        raise ValueError(f"must be relative (5%) or absolute (such as 5{absolute}), not {margin}")
    if unit == "pp" and value > 100 or unit == "%" and value >= 100 and direction is Direction.HIGHER:  # noqa: RUF021
        raise ValueError(f"must be below 100{unit}, got {margin}")
    if unit == "%" and value > 1000:
        raise ValueError(f"must be at most 1000%, got {margin}")
    return Quantity(value, unit)


def _read_limit(limit: Quantity, kind: MetricType) -> Quantity:
    """Bring an absolute bound to the units of its metric."""
    value, unit = limit.value, limit.unit
    if value < 0 and kind.unit != "abs":
        raise ValueError(f"must not be negative, got {limit}")
    if kind.unit == "share":
        value = value if unit else value * 100
        if unit not in ("", "%", "pp") or value > 100:
            raise ValueError(f"must be a share from 0% to 100%, not {limit}")
        return Quantity(value, "%")
    if unit not in ("", kind.unit):
        raise ValueError(f"must be an amount such as 400{kind.unit}, not {limit}")
    return Quantity(value, kind.unit)
