"""Random changes of valid inputs: of bytes, of texts, and of documents (JSON, YAML). A seed gives the same changes."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

ODD_TEXTS = (
    "", " ", "0", "-1", "1e308", "-1e308", "1e-320", "NaN", "nan", "inf", "-Infinity", "9223372036854775808",
    "18446744073709551616", "99999999999999999999999999", "0x1F", "1_000", "1.234,5", "1,5", "true", "FALSE",
    "yes", "null", "None", "N/A", "-", "%s%n", "../../etc/passwd", "'", '"', '""', '"a', 'a"b', "\\", "\\N",
    ";", ",", "\t", "|", "\r\n", "\n", "\n\n", "\0", "\x1b[31m", "\ufeff", "\u202e", "\ud7ff", "Ａ", "é" * 40,
    "x" * 5000, "{}", "[]", "{", "]", "<a>", "</sample>", "&#0;", "&amp", "]]>", "<!DOCTYPE x>", "<![CDATA[",
    "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-02-30T25:61:61Z", "2026-03-02T10:00:00+99:00", "1e10",
    "1772445600000000000000", "-62135596800", "200", "99", "70000", "HTTP/1.1 200 OK", "=1+1", "${canary}",
    "${HOME}", "$selector", "/healthz", "GET /", "baseline", "canary",
)  # fmt: skip
"""Texts that were trouble for some program."""

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, -(2**63), 0.0, -0.0, 1.5, 1e308, 1e-320, float("inf"),
    float("nan"), "", "0", "1%", "100000%", "-5%", "5pp", "1e400", "nan", "1ms", "1d", "∞", "x" * 3000, "\0",
    "\n", "a\tb", "Ａ", "☃", [], {}, [[]], [None], [1, "a", None], {"": None}, {"a": {"b": []}}, [{}],
    ["x"] * 50, "go", "no_go", "baseline", "canary", "gate", "$selector", "2026-03-02T10:00:00Z", "0000-00-00",
    "9999-12-31T23:59:59Z",
)  # fmt: skip
"""Values in the place of a part of a document."""


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Change bytes in one to four places: flip, delete, repeat, insert, or cut the end off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not changed:
            return bytes(changed)
        start = rng.randrange(len(changed))
        length = rng.choice((1, 1, 2, 8, 64, 512))
        match rng.randrange(6):
            case 0:
                changed[start] ^= 1 << rng.randrange(8)
            case 1:
                del changed[start : start + length]
            case 2:
                changed[start:start] = changed[start : start + length] * rng.choice((1, 2, 20))
            case 3:
                changed[start : start + length] = rng.randbytes(length)
            case 4:
                changed[start:start] = rng.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")
            case _:
                del changed[start:]
    return bytes(changed)


def mutate_table(rng: random.Random, text: str, delimiter: str = ",") -> str:
    """Change a text of lines with fields: a field, a column, a line, the order of lines, or the ends of lines."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        number = 0 if rng.random() < 0.2 else rng.randrange(len(lines))
        fields = lines[number].split(delimiter)
        column = rng.randrange(len(fields))
        match rng.randrange(10):
            case 0 | 1 | 2:  # a value
                fields[column] = rng.choice(ODD_TEXTS)
                lines[number] = delimiter.join(fields)
            case 3:  # a value in all lines
                odd = rng.choice(ODD_TEXTS)
                lines = [lines[0], *(_replace_field(line, delimiter, column, odd) for line in lines[1:])]
            case 4:  # a value is missing, or there is one more
                fields = [*fields[:column], *fields[column + rng.randrange(2) * 2 :]]
                lines[number] = delimiter.join([*fields, *["x"] * rng.choice((0, 1, 3))])
            case 5:
                del lines[number]
            case 6:
                lines[number:number] = [rng.choice((lines[number], lines[0], "", rng.choice(ODD_TEXTS)))]
            case 7:  # a value is joined to the next line by a quote
                fields[column] = '"' + fields[column]
                lines[number] = delimiter.join(fields)
            case 8:
                lines = lines[: number + 1] if rng.random() < 0.5 else [lines[0], *reversed(lines[1:])]
            case _:
                return rng.choice(("\r\n", "\r", "\n\n", "\n ")).join(lines)
        if not lines:
            return ""
    return "\n".join(lines)


def _replace_field(line: str, delimiter: str, column: int, text: str) -> str:
    fields = line.split(delimiter)
    if column < len(fields):
        fields[column] = text
    return delimiter.join(fields)


def mutate_document(rng: random.Random, document: Any) -> Any:
    """Change one to three parts of a document: replace, delete, rename or repeat them, or copy another to its place."""
    changed = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = _list_places(changed)
        if not places:
            return rng.choice(ODD_VALUES)
        parent, key = rng.choice(places)
        match rng.randrange(9):
            case 0 | 1 | 2:
                parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))
            case 3 | 4 | 5:
                parent[key] = _change_value(rng, parent[key])
            case 6:
                del parent[key]
            case 7:
                other, other_key = rng.choice(places)
                parent[key] = copy.deepcopy(other[other_key]) if other_key in _keys_of(other) else None
            case _:
                if isinstance(parent, dict):
                    parent[rng.choice((f"{key}x", "", "unknown", str(key).upper()))] = parent.pop(key)
                else:
                    parent[key:key] = [copy.deepcopy(parent[key])] * rng.choice((1, 3))
    return changed


def _change_value(rng: random.Random, value: Any) -> Any:
    """Change a number, also within a text, or a truth; the result is often as valid as the value was."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * rng.choice((0, 0.5, 2, 10, -1)) if rng.random() < 0.5 else type(value)(value + 1)
    if isinstance(value, str) and any(character.isdigit() for character in value):
        return re.sub("[0-9]", lambda _digit: str(rng.randrange(10)), value)
    return value[1:] if isinstance(value, str | list) else value


def _keys_of(parent: Any) -> Any:
    return parent if isinstance(parent, dict) else range(len(parent))


def _list_places(document: Any) -> list[tuple[Any, Any]]:
    """List the places of a document: each as what has it, a mapping or a list, and its key or position there."""
    places: list[tuple[Any, Any]] = []
    unvisited = [document]
    while unvisited:
        parent = unvisited.pop()
        if isinstance(parent, dict | list):
            places += [(parent, key) for key in _keys_of(parent)]
            unvisited += parent.values() if isinstance(parent, dict) else parent
    return places


def mutate_json(rng: random.Random, document: Any) -> bytes:
    """Write a document as JSON with a change: of the document, or of the text."""
    if rng.random() < 0.75:
        return json.dumps(mutate_document(rng, document)).encode()
    return mutate_bytes(rng, json.dumps(document).encode())


Mutator = Callable[[random.Random, bytes], bytes]
