"""A section of the policy file becomes the record that the packages below work with."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


Record = TypeVar("Record", bound="DataclassInstance")


def build(record: type[Record], section: BaseModel, **explicit: Any) -> Record:
    """Build a record from a section of the policy.

    Each field takes the section's value of the same name; a field in seconds (`timeout_s`) also takes a duration that
    the section names without unit (`timeout`). Values without such a field are left out. `explicit`: further fields by
    name; they replace values of the section.
    """
    field_names = {field.name for field in dataclasses.fields(record)}
    values = {key if key in field_names else f"{key}_s": value for key, value in section}
    of_fields = {name: value for name, value in values.items() if name in field_names}
    return record(**of_fields | explicit)
