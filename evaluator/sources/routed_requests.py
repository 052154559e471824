"""Requests that went through a router: those of the arms become rows, the others are counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evaluator.sources.arm_header import ATTEMPTS_HEADER, RETRIES_HEADER, ArmHeader, Route, RouterCounts

RETRIED = "retried by the router"
"""Column `exception` of attempts that failed before the router tried again."""

ENOUGH_ANSWERS = 200
"""After so many good answers, none of which belongs to an arm, none will."""

_HEADERS = 3
"""Values of headers that are kept of each request."""


class RoutedRequests:
    """The headers of the requests that wait in a buffer, in their order, and what the router did by itself."""

    def __init__(self, header: ArmHeader) -> None:
        self.header = header
        self.counts = RouterCounts()
        self._values: list[Any] = []
        """The values of the headers of one request after another, `_HEADERS` each."""
        self._route_by_values: dict[tuple[str, ...], Route] = {}
        self._instance_by_server: dict[str, str] = {}
        """Server, as the arm's header names it → instance of its answers."""

    def listen(self, record: Callable[..., None]) -> Callable[..., None]:
        """Make a listener of Locust's `request` event that keeps the headers of each request, and calls `record`."""
        keep, names = self._values.extend, (self.header.name, RETRIES_HEADER, ATTEMPTS_HEADER)

        def record_routed(**event: Any) -> None:
            """Keep the headers of the answer, None for those it does not have, and then the request."""
            values = (None, None, None)
            with contextlib.suppress(Exception):  # a client's objects may do anything; the request still counts
                values = _get_values(event.get("response"), names)
            keep(values)
            record(**event)

        return record_routed

    def clear(self) -> None:
        """Drop the headers of the requests that wait."""
        self._values.clear()

    def take(self) -> list[Route]:
        """Take out the routes of all requests that wait, in their order."""
        columns = [self._values[number::_HEADERS] for number in range(_HEADERS)]
        self.clear()
        return [self._read(values) for values in zip(*columns, strict=True)]

    def find_route(self, response: Any) -> Route:
        """Find the route of one answer; that of no server if there is none."""
        values: tuple[Any, ...] = (None, None, None)
        with contextlib.suppress(Exception):
            values = _get_values(response, (self.header.name, RETRIES_HEADER, ATTEMPTS_HEADER))
        return self._read(values)

    def explain_no_arm(self) -> str:
        """Say why no request can belong to an arm, if many were answered and none does; empty if one does, or may yet.

        Failures do not count: a router whose servers are down does not name them.
        """
        facts = self.counts.facts
        of_others = sum(facts.other_servers.values())
        answered = facts.without_server - facts.without_server_failures + of_others
        if facts.answers > facts.without_server + of_others or any(facts.retried.values()) or answered < ENOUGH_ANSWERS:
            return ""
        name = self.header.name
        if of_others:
            values = ", ".join(list(facts.other_servers)[:3])
            return f"the header {name} of the first {answered} answers has values of no arm, such as {values}"
        return f"none of the first {answered} answers has the header {name}, so it is not known which arm answered"

    def _read(self, values: tuple[Any, ...]) -> Route:
        """Read the values of the headers of an answer; each distinct combination is read once."""
        key = tuple(map(repr, values))
        route = self._route_by_values.get(key)
        if route is None:
            route = self.header.read_route(*values)
            self._route_by_values[key] = route
        return route

    def add_attempts(self, table: pa.Table, routes: Sequence[Route], has_arm: npt.NDArray[np.bool_]) -> pa.Table:
        """Return the rows of a table that have an arm, and a failed row for each attempt before its answer.

        Such a row has the start of its request and no response time: the headers do not say how long it took.
        `routes`: of each row. `has_arm`: mask of rows.
        """
        servers = [route.server for route in routes]
        self._instance_by_server |= zip(servers, table["instance"].to_pylist(), strict=True)
        positions = [position for position, route in enumerate(routes) for _ in route.failed]
        if not positions:
            return table if has_arm.all() else table.filter(pa.array(has_arm))
        tried = [attempt for route in routes for attempt in route.failed]
        instances = [self._instance_by_server.get(server, server) for _, server in tried]
        rows = len(tried)
        values: dict[str, Any] = {
            "arm": [arm for arm, _ in tried],
            "instance": instances,
            "response_time_ms": [0.0] * rows,
            "response_bytes": [None] * rows,
            "status_code": [None] * rows,
            "failed": [True] * rows,
            "exception": list(repeat(RETRIED, rows)),
        }
        attempts = table.take(pa.array(positions))
        for name, column in values.items():
            field = table.schema.field(name)
            # Texts of the table are dictionaries, which lists cannot be converted to at once.
            is_dictionary = pa.types.is_dictionary(field.type)
            array = pa.array(column, field.type.value_type if is_dictionary else field.type)
            array = array.dictionary_encode().cast(field.type) if is_dictionary else array
            attempts = attempts.set_column(table.schema.get_field_index(name), field, array)
        joined = pa.concat_tables([table.filter(pa.array(has_arm)), attempts])
        return joined.unify_dictionaries().combine_chunks()


def _get_values(response: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The values of some headers of an answer, None for those it does not have."""
    headers = getattr(response, "headers", None)
    return tuple(map(headers.get, names)) if headers else (None,) * len(names)
