"""Lines that are JSON objects, and the values in them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable

MOST_LEVELS = 20
"""Levels of objects and lists that are looked into: logs have a few."""


def parse_object(line: str) -> dict[str, object] | None:
    """Parse a line that is a JSON object; `None` if it is something else."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def make_printable(text: str) -> str:
    """Escape the characters of a text that a terminal would not print."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def show_pointers(pointers: Iterable[str]) -> str:
    """Show JSON pointers in an error: at most 40, which come from a file."""
    return make_printable(", ".join(itertools.islice(pointers, 40)))


def list_values(document: object, pointer: str = "") -> list[tuple[str, object]]:
    """List the values of a JSON document that are no object or list, each with its JSON pointer.

    What is deeper than MOST_LEVELS is left out.
    """
    if pointer.count("/") > MOST_LEVELS:
        return []
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
