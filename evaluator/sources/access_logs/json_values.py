"""Lines that are JSON objects, and the values in them."""

from __future__ import annotations

import json


def parse_object(line: str) -> dict[str, object] | None:
    """Parse a line that is a JSON object; `None` if it is something else."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def list_values(document: object, pointer: str = "") -> list[tuple[str, object]]:
    """List all values of a JSON document that are no object or list, each with its JSON pointer."""
    if isinstance(document, dict):
        keyed = [(str(key), value) for key, value in document.items()]
    elif isinstance(document, list):
        keyed = [(str(position), value) for position, value in enumerate(document)]
    else:
        return [(pointer, document)]
    pairs: list[tuple[str, object]] = []
    for key, value in keyed:
        pairs += list_values(value, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}")
    return pairs
