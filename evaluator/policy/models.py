"""The shape of evaluator.yaml. Every key has a default; an unknown key is an error.

Validation happens field by field, so that an error carries the place of the key that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from evaluator.errors import UnknownName
from evaluator.policy.quantities import Quantity, format_duration, parse_duration_s, parse_quantity, parse_share
from evaluator.records import Direction

__all__ = ["BUILT_IN_METRICS", "LATER", "METRIC_TYPES", "Metric", "MetricType", "PolicyFile"]

LATER = ("sources", "hooks", "approvals", "roles", "rollout", "stages", "strategy")
"""Sections that are planned and not available in this version."""


@dataclass(frozen=True, slots=True)
class MetricType:
    """What the policy must know of a type of metric to read its amounts."""

    unit: Literal["share", "ms", "/s", "abs"]
    """`abs` is the unit of an outcome, whatever it is."""
    direction: Direction
    takes_quantile: bool = False
    of_outcomes: bool = False


METRIC_TYPES: Mapping[str, MetricType] = {
    "failure_rate": MetricType("share", Direction.LOWER),
    "latency_quantile": MetricType("ms", Direction.LOWER, takes_quantile=True),
    "latency_mean": MetricType("ms", Direction.LOWER),
    "response_size": MetricType("abs", Direction.LOWER),
    "throughput": MetricType("/s", Direction.HIGHER),
    "outcome_proportion": MetricType("share", Direction.HIGHER, of_outcomes=True),
    "outcome_mean": MetricType("abs", Direction.HIGHER, of_outcomes=True),
    "outcome_ratio": MetricType("abs", Direction.HIGHER, of_outcomes=True),
    "outcome_quantile": MetricType("abs", Direction.HIGHER, takes_quantile=True, of_outcomes=True),
}
"""What may be asked for. A list beside the tables of `evaluator.metrics`, held equal to them by a test.

Those say how a type is compared and know nothing of amounts as people write them. To take the names from there, each
reading of a policy would import the statistics, which makes it a tenth slower (35 of 300 ms).
"""

BUILT_IN_METRICS: tuple[Mapping[str, Any], ...] = (
    {"name": "failure_rate", "type": "failure_rate", "role": "gate", "margin": "0.1pp", "max": "1%"},
    {"name": "latency_p50", "type": "latency_quantile", "quantile": 0.50, "role": "gate", "margin": "5%"},
    {"name": "latency_p95", "type": "latency_quantile", "quantile": 0.95, "role": "gate", "margin": "10%"},
    {"name": "latency_p99", "type": "latency_quantile", "quantile": 0.99, "role": "gate", "margin": "15%"},
    {"name": "latency_mean", "type": "latency_mean", "role": "watch"},
    {"name": "throughput", "type": "throughput", "role": "watch"},
)


_YEAR_S = 365 * 86400.0


def _amount_schema(*examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": ["string", "number"], "examples": list(examples)})


def _within(low: float, high: float, *, ends: bool = True) -> AfterValidator:
    def check(value: float) -> float:
        if (low <= value <= high) if ends else (low < value < high):
            return value
        raise ValueError(
            f"must be {'from' if ends else 'between'} {low:g} {'to' if ends else 'and'} {high:g}, not {value:g}"
        )

    return AfterValidator(check)


def _parse_auto_or_duration(raw: Any) -> float | None:
    return None if raw in ("auto", None) else parse_duration_s(raw)


def _write_auto_or_duration(seconds: float | None) -> str:
    return "auto" if seconds is None else format_duration(seconds)


def _check_duration(seconds: float | None) -> float | None:
    if seconds is not None and not 0 <= seconds <= _YEAR_S:
        raise ValueError(f"must be from 0s to one year, not {seconds:g}s")
    return seconds


def _check_positive(seconds: float) -> float:
    if seconds == 0:
        raise ValueError("must be more than 0s")
    return seconds


def _parse_ratio(raw: Any) -> Any:
    if raw == "configured":
        return raw
    if not isinstance(raw, dict) or len(raw) < 2:
        raise ValueError("must be configured, or the parts of every arm such as {baseline: 1, canary: 1}")
    parts = {arm: parse_quantity(value) for arm, value in raw.items()}
    if any(part.value <= 0 or part.unit not in ("", "%") for part in parts.values()):
        raise ValueError(f"needs a number above 0 for every arm, not {', '.join(map(str, parts.values()))}")
    return {arm: float(part.value) for arm, part in parts.items()}


def _parse_points(raw: Any) -> float:
    quantity = parse_quantity(raw)
    if quantity.unit == "%":
        raise ValueError(f"is in percentage points: write {Quantity(quantity.value, 'pp')} instead of {quantity}")
    return parse_share(quantity)


def _write_percent(value: float) -> str:
    return str(Quantity(Decimal(str(value)) * 100, "%"))


def _write_points(value: float) -> str:
    return str(Quantity(Decimal(str(value)) * 100, "pp"))


_percent = [BeforeValidator(parse_share), PlainSerializer(_write_percent), _amount_schema("25%", "0.25")]
_points = [BeforeValidator(_parse_points), PlainSerializer(_write_points), _amount_schema("1pp", "0.01")]
_duration = [BeforeValidator(parse_duration_s), PlainSerializer(format_duration), _amount_schema("30s", "5m")]

Probability = Annotated[float, BeforeValidator(parse_share), _amount_schema("0.05", "5%")]
Percent = Annotated[float, *_percent, _within(0, 10)]
Share = Annotated[float, *_percent, _within(0, 1)]
Points = Annotated[float, *_points, _within(0, 1)]
Duration = Annotated[float, *_duration, AfterValidator(_check_duration)]
PositiveDuration = Annotated[float, *_duration, AfterValidator(_check_duration), AfterValidator(_check_positive)]
AutoOrDuration = Annotated[
    float | None,
    BeforeValidator(_parse_auto_or_duration),
    PlainSerializer(_write_auto_or_duration),
    AfterValidator(_check_duration),
    _amount_schema("auto", "30s"),
]
Ratio = Annotated[
    Literal["configured"] | dict[str, float],
    BeforeValidator(_parse_ratio),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "configured"},
                {
                    "type": "object",
                    "additionalProperties": {"type": "number", "exclusiveMinimum": 0},
                    "minProperties": 2,
                },
            ]
        }
    ),
]
Amount = Annotated[
    Quantity, BeforeValidator(parse_quantity), PlainSerializer(str), _amount_schema("5%", "0.1pp", "20ms")
]
_SEEN = r"^[^\x00-\x1f\x7f]+$"
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=_SEEN)]
EndpointName = Annotated[str, Field(min_length=1, max_length=10_000, pattern=_SEEN)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )


class Metric(_Section):
    """One thing that is compared."""

    name: Name = Field(description="Unique name, shown in the verdict.")
    type: str = Field(description="What is compared.", json_schema_extra={"enum": list(METRIC_TYPES)})
    role: Literal["gate", "hold", "watch"] = Field(
        "gate", description="gate: can block. hold: can stop a GO, never causes NO-GO. watch: shown only."
    )
    quantile: float | None = Field(
        None, description="For latency_quantile: between 0 and 1, such as 0.95.", validate_default=True
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
        if value not in METRIC_TYPES:
            raise ValueError(UnknownName("metric type", value, METRIC_TYPES).message)
        return value

    @field_validator("quantile")
    @classmethod
    def _proper_quantile(cls, value: float | None, info: ValidationInfo) -> float | None:
        kind = METRIC_TYPES.get(info.data.get("type", ""))
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
        kind = METRIC_TYPES.get(info.data.get("type", ""))
        if not value or not kind or value is kind.direction:
            return None
        if not kind.of_outcomes:
            raise ValueError(f"of {info.data['type']} is {kind.direction}")
        return value

    @field_validator("outcome")
    @classmethod
    def _named_outcome(cls, value: str | None, info: ValidationInfo) -> str | None:
        kind = METRIC_TYPES.get(info.data.get("type", ""))
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

    @field_validator("endpoint")
    @classmethod
    def _only_of_requests(cls, value: str | None, info: ValidationInfo) -> str | None:
        kind = METRIC_TYPES.get(info.data.get("type", ""))
        if value is not None and kind and kind.of_outcomes:
            raise ValueError(f"is not taken by {info.data['type']}: outcomes have no endpoint")
        return value

    @field_validator("margin")
    @classmethod
    def _proper_margin(cls, value: Quantity | None, info: ValidationInfo) -> Quantity | None:
        kind = METRIC_TYPES.get(info.data.get("type", ""))
        if value is None or kind is None:
            return value
        return _read_margin(value, kind, info.data.get("direction") or kind.direction)

    @field_validator("min", "max")
    @classmethod
    def _proper_limit(cls, value: Quantity | None, info: ValidationInfo) -> Quantity | None:
        kind = METRIC_TYPES.get(info.data.get("type", ""))
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


_T = TypeVar("_T")


def _only_of_outcomes(value: _T | None, info: ValidationInfo) -> _T | None:
    kind = METRIC_TYPES.get(info.data.get("type", ""))
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


class ServiceName(_Section):
    """A service that is released."""

    name: Name


class Monitoring(_Section):
    """When the verdict is allowed to fall."""

    mode: Literal["auto", "fixed", "group_sequential", "anytime"] = Field(
        "auto",
        description="fixed: once, at the planned end. group_sequential: each minute up to the planned end. "
        "anytime: each minute without one. auto: group_sequential for load runs of 5 minutes and more, fixed for "
        "shorter ones, replicates and imported files.",
    )
    max_duration: PositiveDuration = Field(3600.0, description="When all is decided, where no end is planned.")
    burn_in: AutoOrDuration = Field(None, description="No verdict before this; auto: 10 minutes or 40 buckets.")
    early_go: bool = Field(default=False, description="GO may fall before the planned end.")


class EndpointScan(_Section):
    """A veto on single endpoints that are clearly worse."""

    enabled: bool = True
    margin: Percent = Field(0.25, description="Largest rise of an endpoint's mean response time.")
    failure_margin: Points = Field(0.01, description="Largest rise of an endpoint's failure rate.")
    alpha_share: Annotated[Probability, _within(0, 1, ends=False)] = Field(
        0.2, description="Part of alpha for the scan."
    )


class InstanceHistory(_Section):
    """What `evaluator calibrate` learnt from earlier runs; filled in from the store where the file says nothing."""

    comparisons: Annotated[int, Field(ge=0)] = Field(0, description="Comparisons of instances it rests on.")
    wander_latency: Percent = Field(0.0, description="Spread of identical releases that a run does not show itself.")
    wander_failures: Points = Field(0.0, description="The same of the failure rate.")
    wander_comparisons: Annotated[int, Field(ge=0)] = Field(0, description="Identical releases it rests on.")


class Instances(_Section):
    """Who answered, and by how much instances differ where a run cannot tell."""

    header: Annotated[str, Field(min_length=1, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")] = Field(
        "X-Instance", description="Response header that names the instance."
    )
    sd_latency: Percent = Field(0.05, description="Spread of latency between instances of one build.")
    sd_failures: Points = Field(0.0005, description="Spread of the failure rate between instances of one build.")
    baseline: Annotated[int, Field(ge=1)] | None = Field(None, description="Instances behind one baseline address.")
    canary: Annotated[int, Field(ge=1)] | None = Field(None, description="Instances behind one canary address.")
    history: InstanceHistory | None = Field(None, description="What earlier runs say, where there are enough.")


class Health(_Section):
    """What a fair comparison needs."""

    coverage: Share = Field(0.99, description="Least share of the load generator's own count that must have landed.")
    max_clock_offset: Duration = 2.0
    sample_ratio: Ratio = Field(
        "configured", description="Expected users per arm: as the run was configured, or {baseline: 9, canary: 1}."
    )


class PolicyFile(_Section):
    """evaluator.yaml, version 1."""

    version: Literal[1] = 1
    service: Name | None = None
    services: list[ServiceName] | None = Field(None, min_length=1)
    mode: Literal["block", "shadow"] = Field(
        "block", description="shadow: store the verdict, exit 0 where it would be 1 or 3."
    )
    alpha: Annotated[Probability, _within(0, 0.5, ends=False)] = Field(
        0.05, description="False-alarm rate over all gates together."
    )
    monitoring: Monitoring = Field(default_factory=Monitoring)
    warm_up: AutoOrDuration = Field(
        None, description="Cut from the start: auto (until the user count is level) or a duration."
    )
    metrics: list[Metric] = Field(
        default_factory=lambda: [Metric.model_validate(metric) for metric in BUILT_IN_METRICS], min_length=1
    )
    endpoint_scan: EndpointScan = Field(default_factory=EndpointScan)
    instances: Instances = Field(default_factory=Instances)
    health: Health = Field(default_factory=Health)
    sensitive: Literal[False] = Field(False, description="Two approvals; not available in this version.")  # noqa: FBT003

    @field_validator("services")
    @classmethod
    def _one_spelling(cls, value: list[ServiceName] | None, info: ValidationInfo) -> list[ServiceName] | None:
        if value and info.data.get("service"):
            raise ValueError("cannot be given beside service")
        names = [service.name for service in value or ()]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise PydanticCustomError(
                    "same_name", "two services have the name '{name}'", {"name": name, "index": index}
                )
        return value

    @field_validator("metrics")
    @classmethod
    def _distinct_and_deciding(cls, value: list[Metric]) -> list[Metric]:
        names = [metric.name for metric in value]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise PydanticCustomError(
                    "same_name", "two metrics have the name '{name}'", {"name": name, "index": index}
                )
        if not any(metric.role == "gate" for metric in value):
            raise ValueError("no metric has the role gate, so nothing could ever be GO or NO-GO")
        return value
