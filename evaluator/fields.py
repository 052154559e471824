"""Values of the policy file: how each is written, read and described."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from evaluator.quantities import Quantity, format_duration, parse_duration_s, parse_quantity, parse_share

_YEAR_S = 365 * 86400.0


def _amount_schema(*examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": ["string", "number"], "examples": list(examples)})


def within(low: float, high: float, *, ends: bool = True) -> AfterValidator:
    """Make a validator that refuses numbers outside `low` to `high`; with `ends`, these two themselves are allowed."""

    def check(value: float) -> float:
        """Return the value if it is from `low` to `high`, or (without `ends`) between them. Raises ValueError."""
        if (low <= value <= high) if ends else (low < value < high):
            return value
        raise ValueError(
            f"must be {'from' if ends else 'between'} {low:g} {'to' if ends else 'and'} {high:g}, not {value:g}"
        )

    return AfterValidator(check)


def _read_or_auto(parse: Callable[[Any], float], write: Callable[[float], str]) -> list[Any]:
    """Make the reader and the writer of a value that may be `auto` in the policy file; it is None then.

    `parse` reads and `write` writes any other value.
    """
    return [
        BeforeValidator(lambda raw: None if raw in ("auto", None) else parse(raw)),
        PlainSerializer(lambda value: "auto" if value is None else write(value)),
    ]


def _parse_relative(raw: Any) -> float:
    """Read a change relative to baseline as a share: '10%' and 0.1 both give 0.1. Raises ValueError for another unit.

    The caller handles `auto`.
    """
    quantity = parse_quantity(raw)
    if quantity.unit not in ("", "%"):
        raise ValueError(f"must be auto or relative to baseline, such as 10%, not {quantity}")
    return parse_share(quantity)


def _check_duration(seconds: float | None) -> float | None:
    """Refuse a duration that is negative or longer than a year; None (auto) passes."""
    if seconds is not None and not 0 <= seconds <= _YEAR_S:
        raise ValueError(f"must be from 0s to one year, not {seconds:g}s")
    return seconds


def _check_positive(seconds: float) -> float:
    """Refuse a duration of 0; `_check_duration` refuses negative ones."""
    if seconds == 0:
        raise ValueError("must be more than 0s")
    return seconds


def _parse_ratio(raw: Any) -> Any:
    """Read how the traffic is divided: `configured`, or a part for every arm, such as {baseline: 9, canary: 1}.

    Parts are numbers above 0 and need no particular sum. Raises ValueError.
    """
    if raw == "configured":
        return raw
    if not isinstance(raw, dict) or len(raw) < 2:
        raise ValueError("must be configured, or a part for every arm such as {baseline: 1, canary: 1}")
    parts = {arm: parse_quantity(value) for arm, value in raw.items()}
    if any(part.value <= 0 or part.unit not in ("", "%") for part in parts.values()):
        raise ValueError(f"needs a number above 0 for every arm, not {', '.join(map(str, parts.values()))}")
    return {arm: float(part.value) for arm, part in parts.items()}


def _parse_points(raw: Any) -> float:
    """Read percentage points as a difference of shares: '1pp' and 0.01 both give 0.01. Raises ValueError for `%`."""
    quantity = parse_quantity(raw)
    if quantity.unit == "%":
        raise ValueError(f"is in percentage points: write {Quantity(quantity.value, 'pp')} instead of {quantity}")
    return parse_share(quantity)


def _write_percent(share: float) -> str:
    return str(Quantity(Decimal(str(share)) * 100, "%"))


def _write_points(difference: float) -> str:
    return str(Quantity(Decimal(str(difference)) * 100, "pp"))


_percent = [BeforeValidator(parse_share), PlainSerializer(_write_percent), _amount_schema("25%", "0.25")]
_points = [BeforeValidator(_parse_points), PlainSerializer(_write_points), _amount_schema("1pp", "0.01")]
_duration = [BeforeValidator(parse_duration_s), PlainSerializer(format_duration), _amount_schema("30s", "5m")]

Probability = Annotated[float, BeforeValidator(parse_share), _amount_schema("0.05", "5%")]
Percent = Annotated[float, *_percent, within(0, 10)]


def _check_share(share: float) -> float:
    """Return a share of 1. Raises ValueError, which says how the percentage that was meant is written."""
    if 1 < share <= 100:
        raise ValueError(f"must be from 0 to 1, not {share:g}: write {share:g}% if that is meant")
    return share


Share = Annotated[float, *_percent, AfterValidator(_check_share), within(0, 1)]
Points = Annotated[float, *_points, within(0, 1)]
Duration = Annotated[float, *_duration, AfterValidator(_check_duration)]
PositiveDuration = Annotated[float, *_duration, AfterValidator(_check_duration), AfterValidator(_check_positive)]
AutoOrDuration = Annotated[
    float | None,
    *_read_or_auto(parse_duration_s, format_duration),
    AfterValidator(_check_duration),
    _amount_schema("auto", "30s"),
]
AutoOrPercent = Annotated[float | None, *_read_or_auto(_parse_relative, _write_percent), _amount_schema("auto", "10%")]
AutoOrPoints = Annotated[float | None, *_read_or_auto(_parse_points, _write_points), _amount_schema("auto", "0.2pp")]
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
_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=_PRINTABLE)]
QueryText = Annotated[str, Field(min_length=1, max_length=10_000, pattern=_PRINTABLE)]
EndpointName = Annotated[str, Field(min_length=1, max_length=10_000, pattern=_PRINTABLE)]


class Section(BaseModel):
    """A mapping in the policy file; unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )
