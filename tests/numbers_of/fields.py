"""A result as named numbers, and the differences of two of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

LONGEST = 6
"""An array of more numbers is kept as its size and two sums."""
DIGITS = 8
RELATIVE, ABSOLUTE = 1e-7, 1e-12


def list_fields(value: Any, name: str = "") -> dict[str, Any]:
    """Every number of a result by the path to it; records, mappings and tuples are walked through."""
    if is_dataclass(value) and not isinstance(value, type):
        return _list_parts({field.name: getattr(value, field.name) for field in fields(value)}, name)
    if isinstance(value, Mapping):
        return _list_parts({str(key): part for key, part in value.items()}, name)
    if isinstance(value, list | tuple) and not all(isinstance(part, bool | int | float | np.generic) for part in value):
        return _list_parts({str(index): part for index, part in enumerate(value)}, name)
    if isinstance(value, np.ndarray | list | tuple):
        return {name: _shorten(np.asarray(value))}
    if isinstance(value, bool | np.bool_):
        return {name: bool(value)}
    if isinstance(value, int | float | np.generic):
        return {name: _round(float(value))}
    return {name: value.value if isinstance(value, Enum) else None if value is None else str(value)}


def _list_parts(parts: Mapping[str, Any], name: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, part in parts.items():
        out |= list_fields(part, f"{name}/{key}" if name else key)
    return out


def _shorten(values: np.ndarray) -> Any:
    """A few numbers as they are; of many the shape, how many are no numbers, Σ|x| and Σ w·x with uneven weights."""
    flat = values.astype(float).ravel()
    if flat.size <= LONGEST:
        rounded = [_round(float(number)) for number in flat]
        return rounded[0] if len(rounded) == 1 else rounded
    finite = np.isfinite(flat)
    numbers = np.where(finite, flat, 0.0)
    weights = np.cos(np.arange(flat.size) * math.sqrt(2)) + 0.5 * np.cos(np.arange(flat.size) * math.pi / 7)
    odd = float((np.where(finite, 0.0, np.where(np.isnan(flat), 1.0, np.sign(flat) * 2)) * weights).sum())
    sums = [float(np.abs(numbers).sum()), float((numbers * weights).sum()), *([] if finite.all() else [odd])]
    return {"×".join(str(size) for size in values.shape): [_round(number) for number in sums]}


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def pack(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Cases as a file holds them: what a row (the part of a path up to its first slash) has for fields stands once."""
    kinds: dict[tuple[str, ...], int] = {}
    packed: dict[str, dict[str, list[Any]]] = {}
    for name, fields_of_case in cases.items():
        rows: dict[str, dict[str, Any]] = {}
        for path, value in fields_of_case.items():
            row, _, field = path.partition("/")
            rows.setdefault(row, {})[field] = value
        packed[name] = {
            row: [kinds.setdefault(tuple(values), len(kinds)), *values.values()] for row, values in rows.items()
        }
    return {"fields": [list(kind) for kind in kinds], "cases": packed}


def unpack(file: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields of one case by the path to each, as `list_fields` gives them."""
    return {
        f"{row}/{field}" if field else row: value
        for row, (kind, *values) in file["cases"][name].items()
        for field, value in zip(file["fields"][kind], values, strict=True)
    }


def list_differences(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    """One line for each field that is not as expected: its name, what was expected and what was found."""
    names = dict.fromkeys((*expected, *actual))
    nothing = "no such field"
    pairs = {name: (expected.get(name, nothing), actual.get(name, nothing)) for name in names}
    return [
        f"{name}: expected {number}, found {reached}"
        for name, (number, reached) in pairs.items()
        if not _alike(number, reached)
    ]


def _alike(value: Any, reference: Any) -> bool:
    if isinstance(value, dict) and isinstance(reference, dict):
        if value.keys() != reference.keys():
            return False
        (sums,), (own,) = value.values(), reference.values()
        reach = max(ABSOLUTE, RELATIVE * sums[0])
        return len(sums) == len(own) and all(math.isclose(a, b, abs_tol=reach) for a, b in zip(sums, own, strict=True))
    if isinstance(value, list) and isinstance(reference, list):
        return len(value) == len(reference) and all(_alike(a, b) for a, b in zip(value, reference, strict=True))
    if (
        isinstance(value, float | int) and type(reference) is float and not isinstance(value, bool)
    ):  # JSON has 1 for 1.0
        return (math.isnan(value) and math.isnan(reference)) or math.isclose(
            value, reference, rel_tol=RELATIVE, abs_tol=ABSOLUTE
        )
    return type(value) is type(reference) and bool(value == reference)
