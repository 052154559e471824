"""A section of the policy file becomes the record that the packages below work with."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


Record = TypeVar("Record", bound="DataclassInstance")


def build(record: type[Record], section: BaseModel, **explicit: Any) -> Record:
    """Build a record of a section's values; `explicit` are those that the section has in another shape, or not at all.

    A field takes the value of its name, and a field in seconds (`timeout_s`) the duration that the file names without
    its unit (`timeout`). What the record has no field for is left out.
    """
    names = {field.name for field in dataclasses.fields(record)}
    values = {name if name in names else f"{name}_s": value for name, value in section}
    return record(**{name: value for name, value in values.items() if name in names} | explicit)
