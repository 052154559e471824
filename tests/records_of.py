"""The records that a package defines."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from types import ModuleType


def list_records(package: ModuleType) -> list[type]:
    """All dataclasses that the modules of a package define."""
    names = [part.name for part in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    kinds = [kind for name in names for kind in vars(importlib.import_module(name)).values()]
    return [
        kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ in names
    ]


def can_change(record: type) -> bool:
    """Can a field be set, or one that it does not have be added? A record is a value: neither."""
    frozen: bool = record.__dataclass_params__.frozen  # type: ignore[attr-defined]
    return not frozen or "__slots__" not in vars(record)
