"""Access logs of JSON lines: those of Caddy, Traefik, nginx and Envoy by their keys, others by named columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from evaluator.errors import InputError
from evaluator.records.access_logs import LogColumn, LogField, LogLayout
from evaluator.sources.access_logs.envoy import ENVOY
from evaluator.sources.access_logs.json_values import list_values, show_pointers
from evaluator.sources.access_logs.log_formats import (
    TIME_OF_CLF,
    VALUE_OF_CLF_TIME,
    FormatDialect,
    choose_fields,
    drop_second_choices,
    refuse_missing,
    split_unit,
)
from evaluator.sources.access_logs.nginx import NGINX
from evaluator.sources.access_logs.traefik import OTHER_LINES as NOTICES_OF_TRAEFIK

_ADVICE_OF_CADDY = "in the site, with `log`: log_append upstream {http.reverse_proxy.upstream.hostport}"
_ADVICE = "name the keys: --column time=KEY:ms --column server=KEY, and so on"


@dataclass(frozen=True, slots=True)
class KnownJson:
    """A JSON log whose keys are known."""

    layout: LogLayout
    """With all fields that its lines may have."""
    needed: tuple[str, ...]
    """Pointers by which it is recognised."""
    advice: str


CADDY = KnownJson(
    LogLayout(
        "caddy",
        "json",
        (
            LogField("ended", "/ts", "s"),
            LogField("method", "/request/method"),
            LogField("target", "/request/uri"),
            LogField("status", "/status"),
            LogField("time", "/duration", "s"),
            LogField("bytes", "/size"),
            LogField("server", "/upstream"),
            LogField("upgrade", "/resp_headers/Upgrade/0"),
            LogField("grpc_status", "/resp_headers/Grpc-Status/0"),
        ),
        other_lines=r'[ \t]*|\{"level":"[a-z]+","ts":.*"msg":.*',
        abort_statuses=(499, 0),
        response_time="duration, from the request's header to the answer's last byte",
        retries_hidden=True,
    ),
    ("/request/uri", "/duration", "/status"),
    _ADVICE_OF_CADDY,
)
TRAEFIK_JSON = KnownJson(
    LogLayout(
        "traefik",
        "json",
        (
            LogField("started", "/StartUTC", "iso"),
            LogField("method", "/RequestMethod"),
            LogField("target", "/RequestPath"),
            LogField("status", "/DownstreamStatus"),
            LogField("time", "/Duration", "ns"),
            LogField("bytes", "/DownstreamContentSize"),
            LogField("server", "/ServiceAddr"),
            LogField("backend", "/ServiceName"),
            LogField("retries", "/RetryAttempts", "any"),
            LogField("upgrade", "/downstream_Upgrade"),
            LogField("grpc_status", "/downstream_Grpc-Status"),
        ),
        other_lines=NOTICES_OF_TRAEFIK,
        abort_statuses=(499,),
        response_time="Duration, from the request's first byte to the answer's last",
    ),
    ("/RequestPath", "/DownstreamStatus", "/Duration"),
    "accessLog: {format: json}",
)
_KNOWN = {"caddy": CADDY, "traefik": TRAEFIK_JSON}
_KEYS = {"nginx": {"request_time", "status"}, "envoy": {"response_code", "duration"}}
"""Kind of log whose keys are names of variables → those by which it is recognised."""

_OTHER_NAMES_OF_NGINX = {
    **dict.fromkeys(("time", "timestamp", "@timestamp", "ts", "datetime", "date"), "msec"),
    "method": "request_method",
    "path": "request_uri",
    "url": "request_uri",
    "upstream": "upstream_addr",
    "bytes": "body_bytes_sent",
}
"""Key that JSON logs of nginx often have in place of a variable's name → the variable."""

_NAMES_OF_ENVOY = {
    "start_time": "START_TIME",
    "method": "REQ(:METHOD)",
    **dict.fromkeys(("path", "x-envoy-origin-path", "x-envoy-original-path"), "REQ(:PATH)"),
    "response_code": "RESPONSE_CODE",
    "duration": "DURATION",
    "bytes_sent": "BYTES_SENT",
    "upstream_host": "UPSTREAM_HOST",
    "upstream_cluster": "UPSTREAM_CLUSTER",
    "upstream_request_attempt_count": "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "response_flags": "RESPONSE_FLAGS",
    "grpc_status": "GRPC_STATUS",
    "grpc_status_number": "GRPC_STATUS_NUMBER",
}
"""Key of Envoy's and Istio's JSON logs, as their documentation shows it → the variable that it holds."""


def list_json_layouts(
    objects: Sequence[Mapping[str, object]], columns: Mapping[LogColumn, str], where: str, prefix: str = ""
) -> list[LogLayout]:
    """List the layouts by which some lines of JSON may be read, the likeliest first.

    `objects`: the first lines. `columns`: column → JSON pointer, or key, with a unit after a colon. Raises InputError
    if the keys are those of a known log that lacks something, or if named keys do not exist.
    """
    values_of: dict[str, dict[str, object]] = {}
    for document in objects:
        values = dict(list_values(document))
        # Lines of one log may differ in their keys: that of the server is only there if a server answered.
        kind = _name_kind(values)
        values_of[kind] = values | values_of.get(kind, {})
    layouts = [_build_layout(kind, values, columns, where) for kind, values in values_of.items()]
    head = rf"^{prefix}(\{{.*)$" if prefix else ""
    groups = ("json",) if prefix else ()
    return [replace(layout, pattern=head, groups=groups) for layout in layouts if layout is not None]


def _name_kind(values: Mapping[str, object]) -> str:
    """Name the kind of log that a line of JSON is of, by its pointers: caddy, traefik, nginx, envoy; else empty."""
    keys = {pointer.rpartition("/")[2].lstrip("$") for pointer in values}
    known = next((name for name, each in _KNOWN.items() if set(each.needed) <= set(values)), "")
    by_keys = next((name for name, needed in _KEYS.items() if needed <= keys), "")
    return known or by_keys


def _build_layout(
    kind: str, values: Mapping[str, object], columns: Mapping[LogColumn, str], where: str
) -> LogLayout | None:
    """Build the layout of a kind of JSON lines; `None` if it is not known, and `columns` do not name what is needed.

    `values`: pointer → a value of it in the first lines. Raises InputError.
    """
    if kind in _KNOWN:
        known = _KNOWN[kind]
        named = [_find_named(column, source, values, where) for column, source in columns.items()]
        fields = [*named, *(each for each in known.layout.fields if each.column not in columns)]
        fields = drop_second_choices([_set_unit(each, values) for each in fields])
        _refuse_without_server(fields, values, where, known.advice)
        return replace(known.layout, fields=tuple(fields))
    keys = {pointer.rpartition("/")[2].lstrip("$"): pointer for pointer in values}
    if kind == "nginx":
        by_variable = {_OTHER_NAMES_OF_NGINX.get(key, key): pointer for key, pointer in keys.items()}
        return _find_by_variables(NGINX, {**by_variable, **keys}, columns, values, where)
    if kind == "envoy":
        by_variable = {_NAMES_OF_ENVOY[key]: pointer for key, pointer in keys.items() if key in _NAMES_OF_ENVOY}
        return _find_by_variables(ENVOY, by_variable, columns, values, where)
    if not {"status", "time"} <= set(columns):
        return None
    fields = [_find_named(column, source, values, where) for column, source in columns.items()]
    refuse_missing(fields, where, _ADVICE)
    response_time = columns["time"]
    return LogLayout("json", "json", tuple(fields), other_lines=r"[ \t]*|#.*", response_time=response_time)


def _find_by_variables(
    dialect: FormatDialect,
    pointers: Mapping[str, str],
    columns: Mapping[LogColumn, str],
    values: Mapping[str, object],
    where: str,
) -> LogLayout:
    """Build the layout of JSON whose keys are variables of a router. Raises InputError.

    `pointers`: variable → pointer of its value. `values`: pointer → value of a line.
    """
    named = [_find_named(column, source, values, where) for column, source in columns.items()]
    all_pointers = {**{each.source: each.source for each in named}, **pointers}
    requests: dict[LogColumn, str] = {each.column: each.source for each in named}
    fields = choose_fields(dialect, list(all_pointers), requests, where)
    units = {each.source: each.unit for each in named}
    fields = [
        replace(each, source=all_pointers[each.source], unit=units.get(each.source, each.unit)) for each in fields
    ]
    time = next(each.source for each in fields if each.column == "time")
    shown = {"retries", "attempt_servers"} & {each.column for each in fields}
    return replace(
        dialect.layout,
        reader="json",
        fields=tuple(_set_unit(each, values) for each in fields),
        response_time=next(iter(dialect.response_times.values()), time),
        retries_hidden=not shown,
    )


def _find_named(column: LogColumn, source: str, values: Mapping[str, object], where: str) -> LogField:
    """Find the value that the user named for a column: by a pointer, a key, or keys joined by dots.

    Raises InputError if there is none, or if the unit of a response time is not known.
    """
    name, unit = split_unit(source)
    in_dots = "/" + name.replace("~", "~0").replace("/", "~1")
    pointers = [name, in_dots, in_dots.replace(".", "/")]
    pointer = next((each for each in pointers if each in values), None)
    if pointer is None:
        raise InputError(
            f"{where}: no value '{name}', which is named for '{column}'",
            hint=f"the values of a line are {show_pointers(values)}",
        )
    if column == "time" and not unit:
        raise InputError(
            f"{where}: the unit of '{name}' is not known", hint=f"write it behind: time={name}:ms (or s, us, ns)"
        )
    return _set_unit(LogField(column, pointer, unit), values)


def _set_unit(log_field: LogField, values: Mapping[str, object]) -> LogField:
    """Set the unit of a time of day as its value shows it: a number by its size, a text by its form."""
    if log_field.column not in {"started", "ended"} or log_field.unit not in {"", "s", "iso", TIME_OF_CLF}:
        return log_field
    value = values.get(log_field.source)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ].*", value):
        return replace(log_field, unit="iso")
    if isinstance(value, str) and re.fullmatch(VALUE_OF_CLF_TIME, value):
        return replace(log_field, unit=TIME_OF_CLF)
    try:
        number = float(cast("str", value))
    except (TypeError, ValueError):
        return log_field
    return replace(log_field, unit=next((unit for unit, most in _SIZES.items() if number < most), "ns"))


_SIZES = {"s": 1e11, "ms": 1e14, "us": 1e17}
"""Unit → numbers above it are no seconds (milliseconds …) since 1970 of our times."""


def _refuse_without_server(fields: Sequence[LogField], values: Mapping[str, object], where: str, advice: str) -> None:
    """Refuse a log none of whose values names a server. Raises InputError."""
    servers = [each for each in fields if each.column in {"server", "backend", "arm"}]
    if not any(each.source in values for each in servers):
        raise InputError(
            f"{where}: the lines of this log do not say the server that answered, "
            "and without it arms cannot be compared",
            hint=f"log it from now on: {advice}; or name another value of the line with --column arm=KEY",
        )
