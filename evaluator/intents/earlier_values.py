"""The value from before a hook was executed, which undo restores."""

from __future__ import annotations

import json
from typing import Any


def combine_earlier(first_value: Any, last_value: Any) -> Any:
    """Return what undo has to restore: the value that the first attempt read, else that of the last attempt.

    None: the attempt read no value. Of mappings, keys that only the last value has are added: some hooks add keys after
    the execution, such as the revision that they wrote.
    """
    if first_value is None:
        return last_value
    if isinstance(first_value, dict) and isinstance(last_value, dict):
        return {**last_value, **first_value}
    return first_value


def write_earlier(value: Any) -> str:
    """Write a value as JSON; None, of a hook without a value, as empty text."""
    return "" if value is None else json.dumps(value, sort_keys=True)
