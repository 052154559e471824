"""Lines of access logs read by a layout, as a reader does it: in Python, and by the patterns in DuckDB."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import duckdb

from evaluator.records.access_logs import LogLayout


def read_line(layout: LogLayout, line: str) -> dict[str, str] | None:
    """Column → its text; `None` if the line is not of the layout."""
    if layout.wrapped_in:
        line = find_value(line, layout.wrapped_in).rstrip("\n")
    match = re.fullmatch(layout.pattern, line) if layout.pattern else None
    if layout.pattern and match is None:
        return None
    if layout.reader == "json":
        text = match[1] if match else line
        return {field.column: find_value(text, field.source) for field in layout.fields}
    groups = dict(zip(layout.groups, match.groups(), strict=True))
    return {field.column: groups[field.source] or "" for field in layout.fields}


def find_value(text: str, pointer: str) -> str:
    """A value of JSON by its pointer; empty if there is none."""
    value = json.loads(text)
    for escaped in pointer.split("/")[1:]:
        key = escaped.replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, ValueError):
            return ""
    return value if isinstance(value, str) else json.dumps(value)


def is_other(layout: LogLayout, line: str) -> bool:
    return re.fullmatch(layout.other_lines, line) is not None


def read_in_duckdb(layout: LogLayout, lines: Sequence[str]) -> list[dict[str, str] | None]:
    """The same in DuckDB, for patterns of text."""
    names = "[" + ",".join(f"'{name}'" for name in layout.groups) + "]"
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"SELECT regexp_full_match(line, $pattern), regexp_extract(line, $pattern, {names})"
            " FROM (SELECT unnest($lines) AS line)",
            {"pattern": layout.pattern, "lines": list(lines)},
        ).fetchall()
    return [{field.column: row[field.source] for field in layout.fields} if matches else None for matches, row in rows]


def others_in_duckdb(layout: LogLayout, lines: Sequence[str]) -> list[bool]:
    with duckdb.connect() as connection:
        return [
            answer
            for (answer,) in connection.execute(
                "SELECT regexp_full_match(line, $pattern) FROM (SELECT unnest($lines) AS line)",
                {"pattern": layout.other_lines, "lines": list(lines)},
            ).fetchall()
        ]
