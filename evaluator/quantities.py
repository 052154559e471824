"""Amounts as people write them: `0.1pp`, `5%`, `20ms`, `0.5s`, `100/s`, `1m30s`.

`%` is a relative change in a margin and a share elsewhere; `pp` means percentage points.
Values are decimals: `0.1pp` is exactly 0.001, and all spellings of one amount have one canonical text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_QUANTITY = re.compile(rf"\s*([+-]?{_NUMBER}(?:[eE][+-]?\d{{1,2}})?)\s*(%|pp|abs|ns|us|µs|ms|s|m|min|h|/s|)\s*")
_DURATION_PART = re.compile(rf"\s*({_NUMBER})\s*(ms|s|min|m|h|d)")
_SECONDS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_MILLISECONDS = {
    "ns": Decimal("0.000001"),
    "us": Decimal("0.001"),
    "µs": Decimal("0.001"),
    "ms": Decimal(1),
    "s": Decimal(1000),
    **{unit: 1000 * _SECONDS[unit] for unit in ("m", "min", "h")},
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit: `%`, `pp`, `ms`, `/s`, or none."""

    value: Decimal
    unit: str

    def __str__(self) -> str:
        """Canonical text, such as `0.1pp`: `parse_quantity` reads it as an equal quantity."""
        number = "0" if self.value == 0 else format(self.value.normalize(), "f")  # without exponent and trailing zeros
        return f"{number}{self.unit}"


def parse_quantity(raw: Any) -> Quantity:
    """Read an amount, a text or a number without unit; times become milliseconds.

    Raises ValueError, which quotes the input.
    """
    if isinstance(raw, Quantity):
        return raw
    is_text_or_number = isinstance(raw, int | float | str) and not isinstance(raw, bool)
    match = _QUANTITY.fullmatch(str(raw)) if is_text_or_number else None
    if match is None:
        raise ValueError(f"must be an amount such as 5%, 0.1pp or 20ms, not {_quote(raw)}")
    value, unit = Decimal(match[1]), match[2]
    if unit in _MILLISECONDS:
        return Quantity(value * _MILLISECONDS[unit], "ms")
    return Quantity(value, unit)


def parse_share(raw: Any) -> float:
    """Read a share of 1: `5%`, `5pp` and the plain number `0.05` all give 0.05. Raises ValueError."""
    quantity = parse_quantity(raw)
    if quantity.unit not in ("", "%", "pp"):
        raise ValueError(f"must be a share such as 5% or 0.05, not {_quote(raw)}")
    return float(quantity.value / (100 if quantity.unit else 1))


def parse_duration_s(raw: Any) -> float:
    """Read a duration such as `30s`, `5m`, `1m30s` or a plain number of seconds. Raises ValueError."""
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        quantity = parse_quantity(raw)
        return float(quantity.value)
    text = raw if isinstance(raw, str) else ""
    parts = list(_DURATION_PART.finditer(text))  # number and unit of each
    is_complete = "".join(part[0] for part in parts).strip() == text.strip()  # nothing between the parts
    if not parts or not is_complete:
        raise ValueError(f"must be a duration such as 30s, 5m or 1m30s, not {_quote(raw)}")
    return float(sum(Decimal(part[1]) * _SECONDS[part[2]] for part in parts))


def format_duration(seconds: float) -> str:
    """Write a duration so that `parse_duration_s` reads it unchanged: whole minutes as `5m`, all others in seconds."""
    if seconds and seconds % 60 == 0:
        return f"{seconds / 60:.0f}m"
    return str(Quantity(Decimal(str(seconds)), "s"))


def _quote(raw: Any) -> str:
    """Quote an input in an error message."""
    return "nothing" if raw is None else f"'{raw}'"
