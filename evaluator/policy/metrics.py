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

LEADING_KEYS = ("name", "type", "role", "quantile", "endpoint", "direction", "outcome", "per")
"""Keys that come first in the effective policy; further options follow, and then the bounds."""


class MetricSection(Section):
    """One thing that is compared. `type` determines which other keys it takes."""

    name: Name = Field(description="Unique name, shown in the verdict.")
    type: str = Field(description="What is compared.", json_schema_extra={"enum": list(METRICS)})
    role: Literal["gate", "hold", "watch"] = Field(
        "gate",
        description="gate: can block. hold: can stop a GO, never causes NO-GO. watch: shown only; the default "
        "of a metric without margin, min and max, which has nothing to decide by.",
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
    def _separate_options(cls, raw: Any) -> Any:
        """Move the keys that not every metric has into the field `options`, and a copy into the field `metric`.

        `metric` is validated later: then the options become a metric of the section's type. What is no mapping is
        returned as it is, for pydantic to refuse.
        """
        if not isinstance(raw, Mapping):
            return raw
        common = {key: value for key, value in raw.items() if key in _COMMON_KEYS}
        if all(raw.get(key) is None for key in ("role", "margin", "min", "max")):
            common["role"] = "watch"  # nothing says how much harm is tolerated, so it is shown and decides nothing
        options = {key: value for key, value in raw.items() if key not in _COMMON_KEYS}
        return {**common, "options": options, "metric": options}

    @field_validator("type")
    @classmethod
    def _check_type(cls, value: str) -> str:
        """Check that there is a metric of this type. Raises ValueError."""
        if value not in METRICS:
            raise ValueError(UnknownName("metric type", value, METRICS).message)
        return value

    @field_validator("metric", mode="plain")
    @classmethod
    def _build_metric(cls, options: Any, info: ValidationInfo) -> Metric:
        """Build the metric of the section's type from the options. Raises PydanticCustomError with all mistakes.

        If the type does not exist, the field `type` has reported it; then only options that no type has are mistakes.
        Without such options, the result is a Metric without options, which only lets the other checks go on.
        """
        metric_class = METRICS.get(info.data.get("type", ""))
        mistakes: list[Any]  # errors of pydantic
        if metric_class is None:
            keys_of_any_type = {key for each_class in METRICS.values() for key in each_class.model_fields}
            mistakes = [
                {"type": "extra_forbidden", "loc": (key,), "input": option}
                for key, option in options.items()
                if key not in keys_of_any_type
            ]
        else:
            try:
                return metric_class.model_validate(
                    {key: option for key, option in options.items() if option is not None}
                )
            except ValidationError as error:
                mistakes = [*error.errors(include_url=False)]
        if mistakes:
            explained = [_explain_option_mistake(mistake, metric_class) for mistake in mistakes]
            raise PydanticCustomError("metric_options", "options of a metric", {"mistakes": explained})
        return Metric()

    @field_validator("endpoint")
    @classmethod
    def _refuse_endpoint_of_outcomes(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Refuse the key `endpoint` for a metric of outcomes, which belong to users instead of requests."""
        metric = _find_metric(info)
        if value is not None and metric and metric.evidence is EvidenceKind.OUTCOMES:
            raise ValueError(f"is not taken by {metric.type}: outcomes have no endpoint")
        return value

    @field_validator("direction")
    @classmethod
    def _read_direction(cls, value: Direction | None, info: ValidationInfo) -> Direction | None:
        """Return the direction only if it differs from the metric's own. Raises ValueError if it must not differ."""
        metric = _find_metric(info)
        if value and metric and metric.both_directions:
            raise ValueError(f"is not taken by {metric.type}: a change is harm whichever way it goes")
        if not value or not metric or value is metric.direction:
            return None
        if not metric.any_direction:
            raise ValueError(f"must be {metric.direction} for {metric.type}")
        return value

    @field_validator("margin")
    @classmethod
    def _normalise_margin(cls, value: Quantity | None, info: ValidationInfo) -> Quantity | None:
        """Give a margin the unit `%` (relative) or the absolute unit of its metric. Raises ValueError."""
        metric = _find_metric(info)
        if value is None or metric is None:
            return value
        number, unit = value.value, value.unit  # the unit is empty if none is written
        amounts = metric.amounts  # unit of absolute values: ms, /s, `share` for rates, `abs` for any other
        absolute_unit = "pp" if amounts == "share" else amounts
        higher_is_better = (info.data.get("direction") or metric.direction) is Direction.HIGHER
        if number < 0:
            raise ValueError(f"must not be negative, got {value}")
        if unit == "" and number == 0:
            unit = "pp" if metric.both_directions else "%"
        if metric.both_directions and unit == "%":
            raise ValueError(f"must be in percentage points (such as 1pp), not {value}: the share may be 0 on baseline")
        # Without unit, 0.05 means 5 %, unless it could as well be percentage points or a value of the metric.
        if unit == "" and amounts not in ("share", "abs") and number < 1:
            number, unit = number * 100, "%"
        if unit not in ("%", absolute_unit):
            raise ValueError(f"must be relative (5%) or absolute (such as 5{absolute_unit}), not {value}")
        # A value that should be high cannot fall by more than 100 %, and a share cannot rise by more than 100 pp.
        if (unit == "pp" and number > 100) or (unit == "%" and number >= 100 and higher_is_better):
            raise ValueError(f"must be below 100{unit}, got {value}")
        if unit == "%" and number > 1000:
            raise ValueError(f"must be at most 1000%, got {value}")
        return Quantity(number, unit)

    @field_validator("min", "max")
    @classmethod
    def _normalise_limit(cls, value: Quantity | None, info: ValidationInfo) -> Quantity | None:
        """Give `min` or `max` the unit of its metric, or `%` for a metric that is a share. Raises ValueError."""
        metric = _find_metric(info)
        if value is None or metric is None:
            return value
        number, unit = value.value, value.unit  # the unit is empty if none is written
        amounts = metric.amounts  # unit of absolute values: ms, /s, `share` for rates, `abs` for any other
        if number < 0 and amounts != "abs":
            raise ValueError(f"must not be negative, got {value}")
        if amounts == "share":
            number = number if unit else number * 100  # without unit, 0.05 means 5 %
            if unit not in ("", "%", "pp") or number > 100:
                raise ValueError(f"must be a share from 0% to 100%, not {value}")
            return Quantity(number, "%")
        if unit not in ("", amounts):
            raise ValueError(f"must be an amount such as 400{amounts}, not {value}")
        return Quantity(number, amounts)

    @field_validator("max")
    @classmethod
    def _check_bounds(cls, value: Quantity | None, info: ValidationInfo) -> Quantity | None:
        """Check that `max` is not below `min`, and that a gate or hold has a margin, a min or a max."""
        lowest = info.data.get("min")
        if value and lowest and value.value < lowest.value:
            raise ValueError(f"must not be below min ({lowest}), got {value}")
        # Keys that are missing in `info.data` have mistakes of their own; then it is not known what the section sets.
        if not {"type", "role", "margin", "min"} <= info.data.keys():
            return value
        has_bound = value is not None or lowest is not None or info.data["margin"] is not None
        if info.data["role"] != "watch" and not has_bound:
            raise ValueError(f"a {info.data['role']} needs a margin, a min or a max; without role it is shown only")
        return value

    @model_serializer(mode="wrap")
    def _write_with_options(self, write_fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the section as in a policy file: the options among the other keys, the most important keys first."""
        common = write_fields(self)
        options = common.pop("metric")
        merged = common | options
        return {key: merged[key] for key in dict.fromkeys((*LEADING_KEYS, *options, *common)) if key in merged}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Build the schema of the common keys, and of the keys of each type."""
        common = handler.resolve_ref_schema(handler(schema))
        # These two fields are no keys of the file: its options are written among the common keys.
        for key in ("options", "metric"):
            del common["properties"][key]
            common["required"].remove(key)
        # additionalProperties would refuse the options of the types; unevaluatedProperties, set below, refuses only
        # what no part of the schema knows.
        del common["additionalProperties"]
        schemas_by_type = []
        for name, metric_class in METRICS.items():
            options = metric_class.model_json_schema()
            if options["properties"]:
                # If the key `type` has this value, then the section has these keys, too.
                is_type = {"properties": {"type": {"const": name}}, "required": ["type"]}
                then = {key: options[key] for key in ("properties", "required") if key in options}
                schemas_by_type.append({"if": is_type, "then": then})
        return {**common, "allOf": schemas_by_type, "unevaluatedProperties": False}


_COMMON_KEYS = MetricSection.model_fields.keys() - {"options", "metric"}
"""Keys of the policy file that every metric has."""


def to_rule(section: MetricSection) -> Rule:
    """Make a rule of a metric of the policy: amounts in % or pp become shares of 1, others keep the metric's unit."""
    margin, metric = section.margin, section.metric
    return Rule(
        name=section.name,
        metric=metric,
        role=Role(section.role),
        margin=None if margin is None else Margin(_to_metric_unit(margin), relative=margin.unit == "%"),
        direction=section.direction or metric.direction,
        limit=Limit(
            min=None if section.min is None else _to_metric_unit(section.min),
            max=None if section.max is None else _to_metric_unit(section.max),
        ),
        slice=Slice(endpoint=section.endpoint),
    )


def _to_metric_unit(amount: Quantity) -> float:
    """Convert an amount in % or pp to a share of 1 (5 % → 0.05); another amount is in the metric's unit already."""
    return float(amount.value / 100 if amount.unit in ("%", "pp") else amount.value)


def _find_metric(info: ValidationInfo) -> Metric | None:
    """Find the metric that the section has so far, for checks of its later keys; None if its type is wrong.

    If an option is wrong, the metric has only those options that are text: they suffice to know its unit and direction.
    """
    metric_class = METRICS.get(info.data.get("type", ""))
    if metric_class is None:
        return None
    if "metric" in info.data:
        metric: Metric | None = info.data["metric"]
        return metric
    texts: dict[str, Any] = {key: value for key, value in info.data["options"].items() if isinstance(value, str)}
    return metric_class.model_construct(**texts)


def _explain_option_mistake(mistake: Mapping[str, Any], metric_class: type[Metric] | None) -> Mapping[str, Any]:
    """Replace pydantic's message for an option that is missing or unknown by the options that the type takes.

    `mistake`: an error of pydantic; other mistakes are returned unchanged. `metric_class` None: the type is unknown.
    """
    key = str(mistake["loc"][0])
    if mistake["type"] == "missing" and metric_class is not None:
        examples = METRICS[metric_class.type].model_fields[key].examples or []
        message = f"is missing: {metric_class.type} needs one, such as {', or '.join(map(str, examples))}"
    elif mistake["type"] == "extra_forbidden":
        accepted = set() if metric_class is None else METRICS[metric_class.type].model_fields.keys()
        of_any_type = {option for each_class in METRICS.values() for option in each_class.model_fields}
        if metric_class is not None and key in of_any_type:
            # Some types explain what to write instead of an option of another type.
            message = metric_class.refused.get(key, "is not taken by {type}").format(type=metric_class.type)
        else:
            message = UnknownName("key", key, [*_COMMON_KEYS, *(accepted or of_any_type)]).message
    else:
        return mistake
    return {**mistake, "type": "value_error", "msg": message}
