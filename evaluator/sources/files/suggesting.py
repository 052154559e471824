"""The error for columns that a file does not have, with the options that would read it."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence

from evaluator.errors import InputError
from evaluator.records import FileLayout
from evaluator.sources.files.columns import (
    CONSTANT,
    REQUIRED,
    ColumnRequest,
    find_unit_of_name,
    list_sources,
    looks_like_time,
)

MOST_SHOWN = 300
"""Characters of the columns of a file that are shown."""


def explain_missing_columns(
    path: object,
    header: Sequence[str],
    typical: Mapping[str, object],
    column_requests: Sequence[ColumnRequest],
    missing: Sequence[str],
) -> InputError:
    """Make the one error for all columns that a file lacks: those that `--column` names, and required ones.

    `header`, `typical`: columns of the file, and column → a typical value. `missing`: required columns of the request
    row (targets) that no column of the file gives. The hint has all `--column` that would read this file, as far as
    names and values show them; what cannot be known is left to the user, in capitals.
    """
    unknown = list(dict.fromkeys(name for request in column_requests for name in find_unknown(request, header)))
    parts = []
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        parts.append(f"no column{plural} {_join(_quote_with_nearest(name, header) for name in unknown)}")
    if missing:
        parts.append(f"no column {_join(repr(name) for name in missing)}")
    text = f"{path} has " + " and ".join(parts)
    options, notes = _suggest_options(header, typical, column_requests, missing)
    hint = f"its columns are {', '.join(header)[:MOST_SHOWN]}"
    if options:
        hint += f"; to read it: {' '.join(options)}"
    if notes:
        hint += f" ({'; '.join(notes)})"
    return InputError(text, hint=hint)


def find_unknown(request: ColumnRequest, header: Sequence[str]) -> list[str]:
    """Find the columns that a request names and the file does not have."""
    return [source for source in list_sources(request, header) if source not in header]


def _quote_with_nearest(name: str, header: Sequence[str]) -> str:
    """Quote a name that does not exist, with the nearest one that does."""
    nearest = difflib.get_close_matches(name, header, n=1, cutoff=0.6)
    return f"'{name}'" + (f" (did you mean '{nearest[0]}'?)" if nearest else "")


def _join(texts: Iterable[str]) -> str:
    """Join texts as a sentence does: a, b and c."""
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def _suggest_options(
    header: Sequence[str],
    typical: Mapping[str, object],
    column_requests: Sequence[ColumnRequest],
    missing: Sequence[str],
) -> tuple[list[str], list[str]]:
    """Suggest all `--column` options with which the file can be read, those given before included.

    Returns the options, quoted for a shell, and notes on what has to be checked. A required column for which nothing
    in the file fits gets a placeholder in capitals.
    """
    texts, notes = [], []
    targets = [request.target for request in column_requests]
    used = {name for request in column_requests for name in list_sources(request, header)}
    for target in (*targets, *(target for target in missing if target not in targets)):
        request = next((request for request in column_requests if request.target == target), None)
        if request is not None and not find_unknown(request, header):
            if request.text != f"{target}={target}":  # such a column is read without an option
                texts.append(request.text)
            continue
        # Such a long name is no name, but a file that was read wrongly: nobody could use that option.
        free = {name: typical.get(name) for name in header if name not in used and len(name) <= MOST_SHOWN}
        suggestion = _FINDERS[target](free) if target in _FINDERS else ""
        if request is not None and not suggestion:
            nearest = difflib.get_close_matches(request.source, free, n=1, cutoff=0.6)
            suggestion = nearest[0] if nearest else ""
        used |= {name for name in free if name in re.split("[+:]", suggestion) or suggestion.startswith(f"{name}:")}
        if not suggestion and target not in REQUIRED:
            continue  # an optional column may be left out
        if not suggestion:
            suggestion, note = _PLACEHOLDERS[target]
            notes.append(note)
        elif target == "response_time_ms" and ":" in suggestion:
            notes.append(f"check the unit of {suggestion.rpartition(':')[0]}")
        texts.append(f"{target}={suggestion}")
    return [f"--column {shlex.quote(text)}" for text in texts], notes


_PLACEHOLDERS = {
    "ts": ("COLUMN", "no column is clearly the start of the request"),
    "endpoint": (f"{CONSTANT}all", "no column is clearly a name: all requests would be one endpoint"),
    "response_time_ms": ("COLUMN:ms", "no column is clearly a response time"),
    "failed": (f"{CONSTANT}false", "only if every request of the file succeeded: no column shows a failure"),
}
"""Required column → what is suggested if no column of the file fits, and a note."""


def suggest_unread(layout: FileLayout) -> list[str]:
    """Suggest `--column` options for optional columns that a file seems to have under another name, quoted for a shell.

    Without them, the instances and the kinds of failures of the file are not known.
    """
    targets = {column.target for column in layout.columns}
    used = {source for column in layout.columns for source in column.sources}
    options = []
    for target, pattern in _UNREAD.items():
        # The column of failures also tells their kind: it may be read twice.
        free = dict.fromkeys(name for name in layout.header if target != "instance" or name not in used)
        name = "" if target in targets else _find(free, pattern)
        if name:
            options.append(f"--column {shlex.quote(f'{target}={name}')}")
    return options


_UNREAD = {
    "instance": r"^(host|host_?name|server|server_name|pod|pod_name|node|replica|upstream_addr|backend_server)$",
    "status_code": r"^(status|http_status|response_status|response_code|rc)$",
    "exception": r"^(error|exception|failure)(_?(text|message|msg|type|class))?$",
}
"""Optional column of the request row → names that other tools give it."""


# ------------------------------------------------------------------ which column is what


def _find_start(columns: Mapping[str, object]) -> str:
    """Find the column with the start of a request: by its name and its values, else by its values; "" if none fits."""
    times = {name: value for name, value in columns.items() if looks_like_time(value)}
    patterns = (r"^(ts|timestamp|start(ed)?(_?time|_at)?|begin|began|@timestamp)$", "start|begin", "time|date")
    by_name = _find(times, *patterns)
    if by_name and not _DATE.fullmatch(str(times[by_name])):
        return by_name
    # The date may be in one column and the time of the day in another.
    date = next((name for name, value in columns.items() if _DATE.fullmatch(str(value))), "")
    time = next((name for name, value in columns.items() if _TIME_OF_DAY.fullmatch(str(value))), "")
    if date and time:
        form = "" if looks_like_time(columns[date]) else ":%d.%m.%Y %H:%M:%S"
        return f"{date}+{time}{form}"
    return next((name for name in times if name != date), "")


_DATE = re.compile(r"\d{4}-\d\d?-\d\d?|\d\d?\.\d\d?\.\d{4}")
_TIME_OF_DAY = re.compile(r"\d\d?:\d\d:\d\d(\.\d+)?")


def _find_duration(columns: Mapping[str, object]) -> str:
    """Find the column with the response time and its unit, by its name; "" if none fits."""
    numbers = {
        name: value
        for name, value in columns.items()
        if _has_unit(value) or (_is_number(value) and not looks_like_time(value))
    }
    name = _find(
        numbers,
        r"^response_?time",
        r"latency|elapsed|duration|took|time_taken|request_time|total_time|response_time",
        r"(^|_)(rt|ms|time|millis)($|_)",
    )
    if not name:
        others = [name for name, value in numbers.items() if not _is_status(value)]
        name = others[0] if len(others) == 1 else ""
    if not name:
        return ""
    if _has_unit(numbers[name]):
        return name
    snake = _to_snake(name)
    unit = find_unit_of_name(name) or next(
        (unit for unit, pattern in _UNITS_IN_NAMES.items() if re.search(pattern, snake)), ""
    )
    if not unit:  # a quarter of an hour is unusual, and a millisecond is not
        unit = "ns" if float(str(numbers[name])) >= 1e6 else "ms"
    return f"{name}:{unit}"


_UNITS_IN_NAMES = {
    "s": r"^(request|upstream_response)_time$",  # of nginx
}
"""Unit of a duration → names of columns of tools that have it, and do not end in it."""


def _has_unit(value: object) -> bool:
    """Whether the type of a column of Parquet, which stands for its values, is a duration or a time of day."""
    return str(value).startswith(("duration[", "time32[", "time64["))


def _find_failure(columns: Mapping[str, object]) -> str:
    """Find the column that shows a failure, and how; "" if none fits."""
    statuses = {name: value for name, value in columns.items() if _is_status(value)}
    success = _find(columns, r"^(is_)?(success|succeeded|successful|ok|passed)$")
    if success:
        return f"{success}:success"
    failure = _find({name: value for name, value in columns.items() if _is_truth(value)}, r"fail|error")
    if failure:
        return f"{failure}:failure"
    status = _find(statuses, r"status|code|^rc$")
    if status:
        return f"{status}:status"
    text = _find(columns, r"^(error|exception|failure)(_?(text|message|msg))?$")
    return f"{text}:text" if text else ""


def _find_endpoint(columns: Mapping[str, object]) -> str:
    """Find the column with the name of a request, with the method if it has a column of its own; "" if none fits."""
    texts = {name: value for name, value in columns.items() if not _is_number(value) and not looks_like_time(value)}
    methods = {name: value for name, value in texts.items() if str(value).upper() in _METHODS}
    others = {name: value for name, value in texts.items() if name not in methods}
    name = _find(
        others,
        r"^(endpoint|route|path|uri|url|request|name|label|target)$",
        r"endpoint|route|path|uri|url|operation|transaction|request|resource",
        r"name|label|page|action|benchmark|test",
    )
    method = _find(methods, "method|verb|type")
    return f"{method}+{name}" if name and method else name


_FINDERS: dict[str, Callable[[Mapping[str, object]], str]] = {
    "ts": _find_start,
    "endpoint": _find_endpoint,
    "response_time_ms": _find_duration,
    "failed": _find_failure,
}
"""Required column → finds SOURCE[:UNIT] among the columns that are not used yet."""

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT"})


def _find(columns: Mapping[str, object], *patterns: str) -> str:
    """Find the first column whose name matches the first pattern, else the second and so on; "" if none does.

    Of a field inside another (`http.status`) the last part of the name counts, then the whole.
    """
    for pattern in patterns:
        for name in columns:
            if re.search(pattern, _to_snake(name.rpartition(".")[2])) or re.search(pattern, _to_snake(name)):
                return name
    return ""


def _to_snake(name: str) -> str:
    """Write a name in lower case, with underscores between its words: `responseTime` → `response_time`."""
    return re.sub(r"[^a-z0-9@]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")


def _is_number(value: object) -> bool:
    """Whether a value is a number, or the text of one; true and false are not."""
    try:
        float(str(value))
    except ValueError:
        return False
    return not isinstance(value, bool)


def _is_truth(value: object) -> bool:
    """Whether a value is true or false in a spelling that an import reads."""
    return str(value).strip().lower() in {"true", "false", "yes", "no", "t", "f", "y", "n", "0", "1"}


def _is_status(value: object) -> bool:
    """Whether a value is an HTTP status, maybe with its words (`200 OK`), or 0 for no answer."""
    return re.fullmatch(r"(0|[1-5]\d\d)(\.0)?( .*)?", str(value).strip()) is not None
