"""The text of a log format, as a router's configuration has it, becomes a layout: a pattern, or pointers into JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast, get_args

from evaluator.errors import InputError
from evaluator.records.access_logs import LogColumn, LogField, LogLayout
from evaluator.sources.access_logs.json_values import list_values

TIME_OF_CLF = "%d/%b/%Y:%H:%M:%S %z"
"""Format of `29/Nov/2026:21:00:00 +0000`, the time of the Common Log Format."""
VALUE_OF_CLF_TIME = r"([0-9]{2}/[A-Za-z]{3}/[0-9]{4}:[0-9:]{8} [+-][0-9]{4})"
PLAIN_QUOTED = r'[^"]*'
"""What may stand between quotes if a quote in a value is written as `\\x22`."""
ESCAPED_QUOTED = r'(?:[^"\\]|\\.)*'
"""What may stand between quotes if a quote in a value is written as `\\"`."""


@dataclass(frozen=True, slots=True)
class FormatDialect:
    """How one router writes the format of its log."""

    layout: LogLayout
    """What all its logs have in common: the name of the format, statuses and terminations of aborts."""
    variable: re.Pattern[str]
    """A variable in the text of a format; groups: `name`; `quoted`, if it adds quotes; `key`, its key in JSON."""
    columns: Mapping[LogColumn, Sequence[tuple[str, str]]]
    """Column → variables that hold it, each with its unit, the best one first."""
    values: Mapping[str, str]
    """Variable → RE2 of its values, with a plain group for its column; others end where the next literal begins."""
    advice: str
    """Line of the router's configuration that logs all that is needed."""
    with_spaces: re.Pattern[str] = re.compile("(?!)")
    """Names of variables whose values may have spaces, although no quotes stand around them."""
    quoted: str = PLAIN_QUOTED
    """RE2 of a value between quotes."""
    vanishing: frozenset[str] = frozenset()
    """Variables that print nothing if they are empty, not even the space after them."""
    response_times: Mapping[str, str] = field(default_factory=dict)
    """Variable of the response time → what it is, for people."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable in the text of a log format."""

    name: str
    quoted: bool = False
    """Does the router put quotes around the value by itself?"""


def unquote_directive(text: str) -> str:
    r"""Take the format out of a directive, as it is pasted from a configuration.

    `log_format main '$remote_addr' ' $status';`, `LogFormat "%h \"%r\"" timed` and `log-format "%ci %ST"` have it in
    quotes; a text without quotes around it is returned as it is.
    """
    text = re.sub(r"^\s*(?:log_format\s+\S+\s+(?:escape=\w+\s+)?|LogFormat\s+|log-format\s+)", "", text.strip())
    pieces = re.match(
        r"""(?:'[^']*'|"(?:[^"\\]|\\.)*")(?:\s+(?:'[^']*'|"(?:[^"\\]|\\.)*"))*(?=\s*;?\s*[\w-]*\s*$)""", text
    )
    if pieces and not text.startswith('""'):
        parts = re.findall(r"""'([^']*)'|"((?:[^"\\]|\\.)*)\"""", pieces[0])
        text = "".join(single or double.replace('\\"', '"') for single, double in parts)
    return text.replace('\\"', '"').rstrip("\n")


def build_layout(
    dialect: FormatDialect, log_format: str, columns: Mapping[LogColumn, str], where: str, prefix: str = ""
) -> LogLayout:
    """Build the layout of a log from the text of its format.

    `columns`: column → variable that the user wants for it. `where`: what errors name (a file). `prefix`: RE2 of what a
    collector has put before each line. Raises InputError for a format that lacks something, or is ambiguous.
    """
    text = unquote_directive(log_format)
    if text.lstrip().startswith("{") or ("+json" in text and "key" in dialect.variable.groupindex):
        return _build_json_layout(dialect, text, columns, where, prefix)
    parts = split_format(dialect, text)
    names = [part.name for part in parts if isinstance(part, Variable)]
    fields = choose_fields(dialect, names, columns, where)
    pattern, groups = _build_pattern(dialect, parts, fields, where)
    group_of = {log_field.source: log_field.column for log_field in fields}  # two columns may be one variable
    in_groups = [
        replace(log_field, source=group_of[log_field.source]) for log_field in fields if log_field.column != "request"
    ]
    if any(log_field.column == "request" for log_field in fields):
        in_groups += [LogField("method", "method"), LogField("target", "target")]
    layout = _describe_fields(dialect, fields)
    return replace(layout, reader="text", pattern=f"^{prefix}{pattern}$", groups=groups, fields=tuple(in_groups))


def _describe_fields(dialect: FormatDialect, fields: Sequence[LogField]) -> LogLayout:
    """Return the layout of all logs of a router, with what its response time is, and whether it hides retries.

    `fields`: their sources are names of variables.
    """
    time = next(log_field.source for log_field in fields if log_field.column == "time")
    shown = {"retries", "attempt_servers"} & {log_field.column for log_field in fields}
    return replace(dialect.layout, response_time=dialect.response_times.get(time, time), retries_hidden=not shown)


def split_format(dialect: FormatDialect, text: str) -> list[str | Variable]:
    """Split the text of a format into literals and variables, in order."""
    parts: list[str | Variable] = []
    end = 0
    for match in dialect.variable.finditer(text):
        parts.append(text[end : match.start()])
        if match["name"] == "%":
            parts.append("%")  # a doubled per cent sign is itself
        else:
            parts.append(Variable(match["name"], bool(match.groupdict().get("quoted"))))
        end = match.end()
    parts.append(text[end:])
    return [part for part in parts if part != ""]


def choose_fields(
    dialect: FormatDialect, names: Sequence[str], columns: Mapping[LogColumn, str], where: str
) -> list[LogField]:
    """Choose for each column the best variable that a format has; what the user named comes first.

    The sources of the returned fields are names of variables. Raises InputError if what a line must say is missing.
    """
    fields = []
    for column in cast("tuple[LogColumn, ...]", get_args(LogColumn)):
        candidates = [pair for pair in dialect.columns.get(column, ()) if pair[0] in names]
        if column in columns:
            candidates = [_find_named(dialect, columns[column], column, names, where)]
        if candidates:
            source, unit = candidates[0]
            fields.append(LogField(column, source, unit))
    fields = drop_second_choices(fields)
    refuse_missing(fields, where, dialect.advice)
    line = next((each.source for each in fields if each.column in {"request", "target"}), "")
    again = next(
        (each.column for each in fields if each.source == line and each.column not in {"request", "target"}), ""
    )
    if again:
        raise InputError(f"{where}: '{line}' is the path, and cannot be '{again}', too", hint="name another variable")
    return fields


def _find_named(
    dialect: FormatDialect, source: str, column: LogColumn, names: Sequence[str], where: str
) -> tuple[str, str]:
    """Find the variable that the user named for a column, and its unit. Raises InputError."""
    name, unit = split_unit(source)
    whole = dialect.variable.fullmatch(name)
    name = whole["name"] if whole else name
    if name not in names:
        raise InputError(
            f"{where}: the log format has no variable '{name}', which is named for '{column}'",
            hint=f"its variables are {', '.join(dict.fromkeys(names))}",
        )
    return name, unit or dict(dialect.columns.get(column, ())).get(name, "")


def split_unit(source: str) -> tuple[str, str]:
    """Split SOURCE[:UNIT] into the source and its unit, empty if it has none. A unit may be a format of a time."""
    match = re.fullmatch(r"(?P<source>.+?):(?P<unit>s|ms|us|ns|iso|any|attempts|[^:]*%[A-Za-z].*)", source)
    return (match["source"], match["unit"]) if match and not source.startswith("%") else (source, "")


def drop_second_choices(fields: Sequence[LogField]) -> list[LogField]:
    """Leave one time of a request, the end if both are there, and either its line or its two parts."""
    present = {log_field.column for log_field in fields}
    dropped = {"started"} if "ended" in present else set()
    dropped |= (
        {"request"} if {"method", "target"} <= present else {"method", "target"} if "request" in present else set()
    )
    return [log_field for log_field in fields if log_field.column not in dropped]


_NEEDED: Mapping[str, tuple[set[str], ...]] = {
    "the time of a request": ({"started"}, {"ended"}),
    "its path": ({"request"}, {"method", "target"}, {"target"}),
    "its status": ({"status"},),
    "its response time": ({"time"},),
    "the server that answered": ({"attempt_servers"}, {"server"}, {"backend"}, {"arm"}),
}
"""What a line must say → the columns that say it, in alternatives."""


def refuse_missing(fields: Sequence[LogField], where: str, advice: str) -> None:
    """Refuse a format whose lines do not say what is needed. Raises InputError, with the configuration that helps."""
    present = {log_field.column for log_field in fields}
    missing = [what for what, ways in _NEEDED.items() if not any(way <= present for way in ways)]
    if missing:
        raise InputError(
            f"{where}: the lines of this log do not say {_join(missing)}, and without it arms cannot be compared",
            hint=f"log it from now on: {advice}",
        )


def _join(words: Sequence[str]) -> str:
    """Join words for a sentence: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


# ------------------------------------------------------------------ text


def escape_literal(text: str) -> str:
    """Escape a text for RE2."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)


def without_groups(pattern: str) -> str:
    """Make all plain groups of a pattern groups that capture nothing."""
    return re.sub(r"(?<!\\)\((?!\?)", "(?:", pattern)


def build_request_value(stop: str, quoted: str = PLAIN_QUOTED) -> str:
    r"""Build the RE2 of a request line, with groups of its method and its path; a query and a host are not captured.

    `stop`: the character at which the line ends. A line that is no request (`-`, `<BADREQ>`) has its first word as
    method, and an empty path.
    """
    if stop == " ":
        return r"([^ ]*) (?:[a-z]+://[^/ ?]*)?([^ ?]*)[^ ]* HTTP/[0-9.]+"
    if quoted == ESCAPED_QUOTED:
        rest = ESCAPED_QUOTED
        return rf'((?:[^ "\\]|\\.)*)(?: (?:[a-z]+://[^/ ?"]*)?((?:[^ ?"\\]|\\.)*){rest})?'
    end = escape_literal(stop).replace("\\^", "^") if stop else ""
    return rf"([^ {end}]*)(?: (?:[a-z]+://[^/ ?{end}]*)?([^ ?{end}]*)[^{end}]*)?".replace("[^]*", ".*")


def _build_pattern(
    dialect: FormatDialect, parts: Sequence[str | Variable], fields: Sequence[LogField], where: str
) -> tuple[str, tuple[str, ...]]:
    """Build the RE2 of a line, and the names of its groups in order. Raises InputError if two values touch."""
    wanted: dict[str, LogColumn] = {log_field.source: log_field.column for log_field in fields}
    pattern = ""
    after_vanished = False  # is the space that begins the next literal part of the value before it?
    groups: list[str] = []
    for position, part in enumerate(parts):
        if isinstance(part, str):
            pattern += escape_literal(part[1:] if after_vanished else part)
            after_vanished = False
            continue
        following = parts[position + 1] if position + 1 < len(parts) else ""
        before = parts[position - 1] if position else ""
        if isinstance(following, Variable):
            _refuse_touching(dialect, part, following, wanted, where)
        in_quotes = part.quoted or (str(before).endswith('"') and isinstance(following, str) and following[:1] == '"')
        vanishes = part.name in dialect.vanishing and isinstance(following, str) and following.startswith(" ")
        stop = '"' if in_quotes else following[0] if isinstance(following, str) and following else ""
        column = wanted.pop(part.name, None)
        value = _find_value(dialect, part.name, column, stop)
        if column is None:
            value = without_groups(value)
        else:
            groups += ["method", "target"] if column == "request" else [column]
        value = f'"{value}"' if part.quoted else value
        pattern += f"(?:{value} )?" if vanishes else value
        after_vanished = vanishes
    return pattern, tuple(groups)


def _refuse_touching(
    dialect: FormatDialect, first: Variable, second: Variable, wanted: Mapping[str, LogColumn], where: str
) -> None:
    """Refuse two variables with nothing between them, if it cannot be known where the value of a column begins or ends.

    The path may touch what follows it (`$uri$args`), since it ends at a `?`, and a variable whose values are known may
    touch what precedes it (`$host$request_uri`). `wanted`: variable → its column. Raises InputError.
    """
    ends = first.name not in wanted or first.quoted or wanted[first.name] == "target"
    begins = second.name not in wanted or second.quoted or first.name in dialect.values
    if not ends or not begins:
        raise InputError(
            f"{where}: in the log format nothing separates '{first.name}' from '{second.name}'",
            hint="put a space or a quote between them",
        )


def _find_value(dialect: FormatDialect, name: str, column: LogColumn | None, stop: str) -> str:
    """Find the RE2 of a variable's values, with a group for its column (request line: two).

    `stop`: the character after the value; empty: the line ends, or another variable follows.
    """
    if column == "request":
        return build_request_value(stop, dialect.quoted if stop == '"' else PLAIN_QUOTED)
    if column == "target":
        end = escape_literal(stop.strip())
        return rf"(?:[a-z]+://[^/ ?{end}]*)?([^ ?{end}]*)[^ {end}]*"
    if name in dialect.values:
        value = dialect.values[name]
        return value if re.search(r"(?<!\\)\((?!\?)", value) else f"({value})"
    if stop == '"':
        return f"({dialect.quoted})"
    if not stop:
        return "(.*?)"
    if dialect.with_spaces.fullmatch(name) and stop == " ":
        return "(.*?)"
    return f"([^{escape_literal(stop)}]*)"


# ------------------------------------------------------------------ JSON

_PLACEHOLDER = "\ue000{}\ue001"
"""Stands for a variable in the text of a JSON format: characters that no format has."""


def _build_json_layout(
    dialect: FormatDialect, text: str, columns: Mapping[LogColumn, str], where: str, prefix: str
) -> LogLayout:
    """Build the layout of a log whose format is the text of a JSON object. Raises InputError."""
    pointers = _find_pointers(dialect, text, where) if text.lstrip().startswith("{") else _find_keys(dialect, text)
    fields = choose_fields(dialect, list(pointers), columns, where)
    return replace(
        _describe_fields(dialect, fields),
        reader="json",
        pattern=rf"^{prefix}(\{{.*)$" if prefix else "",
        groups=("json",) if prefix else (),
        fields=tuple(replace(log_field, source=pointers[log_field.source]) for log_field in fields),
    )


def _find_pointers(dialect: FormatDialect, text: str, where: str) -> dict[str, str]:
    """Find variable → JSON pointer of its value in a format that is the text of a JSON object. Raises InputError."""

    def write_placeholder(match: re.Match[str]) -> str:
        """Write the placeholder of a variable, in quotes if the format has none around it."""
        placeholder = _PLACEHOLDER.format(match["name"].replace("\\", "\\\\").replace('"', '\\"'))
        in_quotes = text[: match.start()].count('"') % 2 == 1
        return placeholder if in_quotes else f'"{placeholder}"'

    try:
        document = json.loads(dialect.variable.sub(write_placeholder, text))
    except ValueError as problem:
        raise InputError(
            f"{where}: the log format begins like JSON, but is none: {problem}",
            hint="give the format as the router's configuration has it, in one text",
        ) from None
    return {
        value[1:-1]: pointer
        for pointer, value in list_values(document)
        if isinstance(value, str) and re.fullmatch("\ue000[^\ue000\ue001]*\ue001", value)
    }


def _find_keys(dialect: FormatDialect, text: str) -> dict[str, str]:
    """Find variable → JSON pointer in a format of HAProxy that names each key: `%{+json}o %(status)ST`."""
    return {match["name"]: f"/{match['key']}" for match in dialect.variable.finditer(text) if match["key"]}
