"""Metrics of the policy file: the keys that all of them take. Each type reads its own options (`evaluator.metrics`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from evaluator.errors import UnknownName
from evaluator.fields import Amount, EndpointName, Name, Section
from evaluator.metrics import METRICS
from evaluator.quantities import Quantity
from evaluator.records import Direction, EvidenceKind, Limit, Margin, Metric, Role, Rule, Slice

LEADING = ("name", "type", "role", "quantile", "endpoint", "direction", "outcome", "per")
"""Keys that come first in the effective policy; further options follow, and then the bounds."""


class MetricSection(Section):
    """One thing that is compared. `type` determines which other keys it takes."""

    name: Name = Field(description="Unique name, shown in the verdict.")
    type: str = Field(description="What is compared.", json_schema_extra={"enum": list(METRICS)})
    role: Literal["gate", "hold", "watch"] = Field(
        "gate", description="gate: can block. hold: can stop a GO, never causes NO-GO. watch: shown only."
    )
    options: Annotated[dict[str, Any], WithJsonSchema({})] = Field(exclude=True)
    """Keys of the type as they are written."""
    metric: Annotated[Metric, WithJsonSchema({})]
    endpoint: EndpointName | None = Field(None, description='Only this endpoint, such as "POST /checkout".')
    direction: Direction | None = Field(
        None,
        description="Which way is better; fixed by the type, but outcomes may set lower_is_better.",
        strict=False,
    )
    margin: Amount | None = Field(
        None, description="Largest harm tolerated: 5% (relative), 0.1pp, 20ms.", validate_default=True
    )
    min: Amount | None = Field(None, description="Lowest value allowed for the candidate itself.")
    max: Amount | None = Field(
        None, description="Highest value allowed for the candidate itself.", validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _set_options_apart(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        own = {key: value for key, value in raw.items() if key in _COMMON}
        options = {key: value for key, value in raw.items() if key not in _COMMON}
        return {**own, "options": options, "metric": options}

    @field_validator("type")
    @classmethod
    def _known_type(cls, value: str) -> str:
        if value not in METRICS:
            raise ValueError(UnknownName("metric type", value, METRICS).message)
        return value

    @field_validator("metric", mode="plain")
    @classmethod
    def _read_options(cls, value: Any, info: ValidationInfo) -> Metric:
        kind = METRICS.get(info.data.get("type", ""))
        excused = {key for metric in METRICS.values() for key in metric.model_fields} if kind is None else set()
        mistakes: list[Any] = [{"type": "extra_forbidden", "loc": (key,), "input": value[key]} for key in value]
        if kind is not None:
            try:
                return kind.model_validate({key: option for key, option in value.items() if option is not None})
            except ValidationError as error:
                mistakes = [*error.errors(include_url=False)]
        mistakes = [_explain(mistake, kind) for mistake in mistakes if mistake["loc"][0] not in excused]
        if mistakes:
            raise PydanticCustomError("metric_options", "options of a metric", {"mistakes": mistakes})
        return Metric()

    @field_validator("endpoint")
    @classmethod
    def _not_of_outcomes(cls, value: str | None, info: ValidationInfo) -> str | None:
        metric = _metric_of(info)
        if value is not None and metric and metric.evidence is EvidenceKind.OUTCOMES:
            raise ValueError(f"is not taken by {metric.type}: outcomes have no endpoint")
        return value

    @field_validator("direction")
    @classmethod
    def _own_direction(cls, value: Direction | None, info: ValidationInfo) -> Direction | None:
        metric = _metric_of(info)
        if not value or not metric or value is metric.direction:
            return None
        if not metric.any_direction:
            raise ValueError(f"must be {metric.direction} for {metric.type}")
        return value

    @field_validator("margin")
    @classmethod
    def _proper_margin(cls, value: Quantity | None, info: ValidationInfo) -> Quantity | None:
        """Convert a margin to the units of its metric. Raises ValueError."""
        metric = _metric_of(info)
        if value is None or metric is None:
            return value
        number, unit, amounts = value.value, value.unit, metric.amounts
        absolute = "pp" if amounts == "share" else amounts
        higher = (info.data.get("direction") or metric.direction) is Direction.HIGHER
        if number < 0:
            raise ValueError(f"must not be negative, got {value}")
        if unit == "" and number == 0:
            unit = "%"
        if unit == "" and amounts not in ("share", "abs") and number < 1:
            number, unit = number * 100, "%"
        if unit not in ("%", absolute):
            raise ValueError(f"must be relative (5%) or absolute (such as 5{absolute}), not {value}")
        if (unit == "pp" and number > 100) or (unit == "%" and number >= 100 and higher):
            raise ValueError(f"must be below 100{unit}, got {value}")
        if unit == "%" and number > 1000:
            raise ValueError(f"must be at most 1000%, got {value}")
        return Quantity(number, unit)

    @field_validator("min", "max")
    @classmethod
    def _proper_limit(cls, value: Quantity | None, info: ValidationInfo) -> Quantity | None:
        """Convert an absolute bound to the units of its metric. Raises ValueError."""
        metric = _metric_of(info)
        if value is None or metric is None:
            return value
        number, unit, amounts = value.value, value.unit, metric.amounts
        if number < 0 and amounts != "abs":
            raise ValueError(f"must not be negative, got {value}")
        if amounts == "share":
            number = number if unit else number * 100
            if unit not in ("", "%", "pp") or number > 100:
                raise ValueError(f"must be a share from 0% to 100%, not {value}")
            return Quantity(number, "%")
        if unit not in ("", amounts):
            raise ValueError(f"must be an amount such as 400{amounts}, not {value}")
        return Quantity(number, amounts)

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

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain = write(self)
        options = plain.pop("metric")
        merged = plain | options
        return {key: merged[key] for key in dict.fromkeys((*LEADING, *options, *plain)) if key in merged}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Build the schema of the common keys, and of the keys of each type."""
        plain = handler.resolve_ref_schema(handler(schema))
        for key in ("options", "metric"):
            del plain["properties"][key]
            plain["required"].remove(key)
        del plain["additionalProperties"]
        of_types = []
        for name, kind in METRICS.items():
            own = kind.model_json_schema()
            if own["properties"]:
                then = {key: own[key] for key in ("properties", "required") if key in own}
                of_types.append({"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": then})
        return {**plain, "allOf": of_types, "unevaluatedProperties": False}


_COMMON = MetricSection.model_fields.keys() - {"options", "metric"}


def to_rule(section: MetricSection) -> Rule:
    """Make a rule of a metric of the policy."""
    margin, metric = section.margin, section.metric
    return Rule(
        name=section.name,
        metric=metric,
        role=Role(section.role),
        margin=None if margin is None else Margin(_in_unit(margin), relative=margin.unit == "%"),
        direction=section.direction or metric.direction,
        limit=Limit(
            min=None if section.min is None else _in_unit(section.min),
            max=None if section.max is None else _in_unit(section.max),
        ),
        slice=Slice(endpoint=section.endpoint),
    )


def _in_unit(amount: Quantity) -> float:
    """Shares of 1 for percentages and percentage points, the metric's own unit for the rest."""
    return float(amount.value / 100 if amount.unit in ("%", "pp") else amount.value)


def _metric_of(info: ValidationInfo) -> Metric | None:
    """The metric with its options; where some of them are wrong, with those that are text only."""
    kind = METRICS.get(info.data.get("type", ""))
    if kind is None or "metric" in info.data:
        return info.data.get("metric") if kind else None
    texts: dict[str, Any] = {key: value for key, value in info.data["options"].items() if isinstance(value, str)}
    return kind.model_construct(**texts)


def _explain(mistake: Mapping[str, Any], kind: type[Metric] | None) -> Mapping[str, Any]:
    """Explain an option that is missing or unknown by what its type takes."""
    key = str(mistake["loc"][0])
    if mistake["type"] == "missing" and kind is not None:
        examples = METRICS[kind.type].model_fields[key].examples or []
        text = f"is missing: {kind.type} needs one, such as {', or '.join(map(str, examples))}"
    elif mistake["type"] == "extra_forbidden":
        accepted = set() if kind is None else METRICS[kind.type].model_fields.keys()
        others = {option for metric in METRICS.values() for option in metric.model_fields}
        text = UnknownName("key", key, [*_COMMON, *(accepted or others)]).message
        if kind is not None and key in others:
            text = kind.refused.get(key, "is not taken by {type}").format(type=kind.type)
    else:
        return mistake
    return {**mistake, "type": "value_error", "msg": text}
