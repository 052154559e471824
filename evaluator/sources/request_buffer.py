"""One second of requests in memory: plain lists, filled by the load generator's hot path, turned into a table once."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import count, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evaluator.records import LeftOut, LeftOutKind
from evaluator.segments import REQUEST_SCHEMA, make_table
from evaluator.sources.arm_header import ArmHeader, Route
from evaluator.sources.routed_requests import RoutedRequests

ARM_KEYS = frozenset({"arm", "instance", "release"})
"""Keys of a request's context that have columns of their own."""

UNASSIGNED = "unassigned"
"""Arm of a request that names none."""

EXCEPTION_CHARS = 500
"""Text of an exception is cut here."""

NO_TIME = "no usable response time"

EARLIEST_S, LATEST_S = 3600.0, 60.0
"""A start this much (s) before or after the end of its request is wrong: the end minus the time takes its place."""

_LONGEST_MS = 1e12
"""31 years: the store accepts no longer response time."""

_HIGHEST_STATUS = 32767
_HIGHEST_SIZE = 2**63 - 1

_COLUMNS = 9
"""Values that the listener keeps of each request."""

_NO_CONTEXT: Mapping[str, Any] = {}
_NUMBERS = {float, int}


class RequestBuffer:
    """Columns of requests. `listen()` returns the function that Locust's `request` event calls; `take()` empties them.

    `sensitive`: only the path of a request before `?` is kept, and only the kind of an exception. `arm` is the arm of
    requests whose context names none. The instance is the context's, else the response's header `header`, else the name
    of the arm, as its only instance.

    `arm_header`: requests go through a router, and only this header of their answers names their arm. Requests without
    it are no rows, but counted in `routed`. Their instance is that of the context or of `header`, else the server.

    The listener appends to a list of plain values and nothing else: it leaves no object per request to the garbage
    collector, and keeps no part of the response alive. It accepts any value of a client: values of a wrong type are
    cleaned in `take`, and a request that cannot be a row is counted in `left_out`.
    """

    def __init__(
        self,
        *,
        header: str,
        arm: str = UNASSIGNED,
        sensitive: bool = False,
        clock: Callable[[], float] = time.time,
        arm_header: ArmHeader | None = None,
    ) -> None:
        self.header, self.arm, self.sensitive, self.clock = header, arm, sensitive, clock
        self.routed = RoutedRequests(arm_header) if arm_header else None
        """Of a router; None without one."""
        self._values: list[Any] = []
        """The values of one request after another, `_COLUMNS` each."""
        self.read: Counter[str] = Counter()
        """Requests of each arm that were taken out or left out."""
        self._left_out: Counter[tuple[str, LeftOutKind, str, bool]] = Counter()
        """(arm, kind, detail, whether it failed) → number of requests left out."""

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._values) // _COLUMNS

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Requests that are in no table: how many of each arm, kind and detail, and how many of these failed."""
        left_out = []
        for arm, kind, detail in sorted({(arm, kind, detail) for arm, kind, detail, _ in self._left_out}):
            failures = self._left_out[arm, kind, detail, True]
            successes = self._left_out[arm, kind, detail, False]
            left_out.append(LeftOut(arm, kind, rows=successes + failures, failures=failures, detail=detail))
        return tuple(left_out)

    def begin(self) -> None:
        """Count from 0, because a run begins."""
        self.read.clear()
        self._left_out.clear()
        if self.routed:
            self.routed.counts.begin()

    def leave_out(self, arm: str, kind: LeftOutKind, detail: str, *, failed: bool, rows: int = 1) -> None:
        """Count `rows` requests of an arm as left out: no table will hold them.

        Without an arm they are the router's: Locust did not report them, so they are counted like the others here.
        """
        if self.routed and not arm:
            self.routed.counts.count([Route()] * rows, [failed] * rows)
            return
        self.read[arm] += rows
        self._left_out[arm, kind, detail, failed] += rows

    def listen(self) -> Callable[..., None]:
        """Make the listener of Locust's `request` event, which keeps the values of each request.

        It is called for every request, so everything it needs is bound to local names.
        """
        # `_values` is one flat list: the values of each request follow those of the request before.
        keep, header, now = self._values.extend, self.header, self.clock
        describe_failure = _name_exception if self.sensitive else _describe_exception

        def record(
            request_type: Any = None,
            name: Any = None,
            response_time: Any = None,
            response_length: Any = None,
            response: Any = None,
            context: Any = None,
            exception: Any = None,
            start_time: Any = None,
            url: Any = None,  # noqa: ARG001 - Locust's clients pass it, and a dict for it would cost as much as the rest
            **_: Any,
        ) -> None:
            """Keep the values of one request; the instance is the context's, else that in the response's `header`.

            `now` is the clock; `keep` appends all values to one flat list.
            """
            status, instance, start = None, None, start_time
            try:
                if start_time is None:
                    start = now() - (response_time or 0.0) / 1000
                status = getattr(response, "status_code", None)
                if context and "instance" in context:
                    instance = context["instance"]
                else:
                    headers = getattr(response, "headers", None)
                    instance = headers.get(header) if headers else None
            except Exception:  # noqa: BLE001 - a client's objects may do anything; the request still counts
                instance = None
            # Any exception means that the request failed, even an empty text; only None and False do not.
            failure = None if exception is None or exception is False else describe_failure(exception)
            values = request_type, name, response_time, response_length, start, status, failure, context, instance
            keep(values)

        return self.routed.listen(record) if self.routed else record

    def clear(self) -> None:
        """Drop the requests that wait."""
        self._values.clear()
        if self.routed:
            self.routed.clear()

    def take(self, constants: Mapping[str, str], users: Mapping[str, int]) -> pa.Table:
        """Take all requests out, as a table with a row a request.

        `constants`: values that all rows share: run, service and worker. `users`: users of each arm, now. A failed
        request without a usable response time is a row with the time 0; a success without a usable time is left out.
        Behind a router there are more rows: attempts that failed before it tried again.
        """
        # The values of one request follow those of another, so every ninth value is of the same column.
        columns = [self._values[number::_COLUMNS] for number in range(_COLUMNS)]
        routes = self.routed.take() if self.routed else None
        self.clear()
        methods, names, raw_times, sizes, raw_starts, statuses, exceptions, contexts, instances = columns
        if set(map(type, contexts)) != {dict}:  # usually all are dictionaries
            contexts = [_to_mapping(context) for context in contexts]
        arms = self._read_arms(contexts) if routes is None else _to_texts([r.arm for r in routes], lambda: repeat(""))
        if self.sensitive:
            names, contexts = _cut_to_paths(names), [_NO_CONTEXT] * len(contexts)
        failures = pa.array(exceptions, pa.string())
        failed = failures.is_valid().to_numpy(zero_copy_only=False)  # a text of failure is set, even if empty
        times_ms = _to_numbers(raw_times)
        has_time = (times_ms >= 0) & (times_ms <= _LONGEST_MS)  # false for NaN, so for what is no number
        times_ms[~has_time] = 0.0
        starts_us = _find_starts_us(raw_starts, times_ms, self.clock())
        # Users are counted by arm; each row gets the count of its arm, null for an arm without users.
        users_of_arms = pa.array([users.get(arm) for arm in arms.dictionary.to_pylist()], pa.int32())
        table = make_table(
            REQUEST_SCHEMA,
            {
                **constants,
                "arm": arms,
                # Else the arm is its only instance; behind a router the server is.
                "instance": _to_texts(instances, lambda: arms.to_pylist() if routes is None else _list_servers(routes)),
                "ts": pa.array(starts_us).cast(pa.timestamp("us", tz="UTC")),
                "endpoint": _join_endpoints(methods, names),
                "response_time_ms": pa.array(times_ms),
                "response_bytes": pa.array(_keep_integers(sizes, 0, _HIGHEST_SIZE), pa.int64()),
                "status_code": pa.array(_keep_integers(statuses, 1, _HIGHEST_STATUS), pa.int16()),
                "failed": pa.array(failed),
                "exception": failures.dictionary_encode(),
                "user_count": users_of_arms.take(arms.indices),
                "context": _keep_further_keys(contexts),
            },
            len(times_ms),
        )
        is_row = has_time | failed  # all except successes without a usable time
        if self.routed and routes is not None:
            return self._take_routed(self.routed, table, arms, routes, is_row)
        for arm, rows in _count_by_arm(arms, ~is_row).items():
            self.leave_out(arm, LeftOutKind.BAD_ROW, NO_TIME, failed=False, rows=rows)
        self.read.update(_count_by_arm(arms, is_row))
        return table if is_row.all() else table.filter(pa.array(is_row))

    def _take_routed(
        self,
        routed: RoutedRequests,
        table: pa.Table,
        arms: pa.Array,
        routes: list[Route],
        is_row: npt.NDArray[np.bool_],
    ) -> pa.Table:
        """Return the rows of the arms, with those of attempts before, and count what the router did by itself.

        `arms`, `routes`: of each row of the table. `is_row`: mask of rows, without successes that have no usable time.
        """
        routed.counts.count(routes, table["failed"].to_pylist())
        has_arm = np.array([bool(route.arm) for route in routes], dtype=bool)
        for arm, rows in _count_by_arm(arms, has_arm & ~is_row).items():
            self.leave_out(arm, LeftOutKind.BAD_ROW, NO_TIME, failed=False, rows=rows)
        rows_of_arms = routed.add_attempts(table, routes, has_arm & is_row)
        self.read.update(rows_of_arms["arm"].to_pylist())
        return rows_of_arms

    def identify(self, method: Any, name: Any, context: Any, response: Any = None) -> tuple[str, str, str]:
        """Find arm, instance and endpoint of a request that Locust did not report, as its row would have them.

        `response`: its answer, which names the arm behind a router; None without one: the arm is then empty.
        """
        mapping = _to_mapping(context)
        if self.routed:
            mapping = {**mapping, "arm": self.routed.find_route(response).arm}
            if not mapping["arm"]:
                return "", "", _join_endpoints([method], _cut_to_paths([name]) if self.sensitive else [name])[0].as_py()
        arms = self._read_arms([mapping])
        instances = _to_texts([mapping.get("instance")], arms.to_pylist)  # else the arm is its only instance
        endpoints = _join_endpoints([method], _cut_to_paths([name]) if self.sensitive else [name])
        return arms[0].as_py(), instances[0].as_py(), endpoints[0].as_py()

    def _read_arms(self, contexts: list[Mapping[str, Any]]) -> pa.Array:
        """The arm that each context names, else the buffer's own; as a dictionary array."""
        return _to_texts([context.get("arm") for context in contexts], lambda: repeat(self.arm))


def _list_servers(routes: list[Route]) -> list[str]:
    """The server of each route; `router` where none answered."""
    return [route.server or "router" for route in routes]


def _find_starts_us(raw_starts: list[Any], times_ms: npt.NDArray[np.float64], now_s: float) -> npt.NDArray[np.int64]:
    """Find the starts of requests (epoch, us) that have ended within the last second.

    `raw_starts`: starts as the clients gave them (epoch, s). A start that is impossible, or no number, is replaced by
    now minus the response time. `now_s`: epoch, s.
    """
    starts_s = _to_numbers(raw_starts)
    likely_starts_s = now_s - times_ms / 1000
    is_believable = (starts_s > likely_starts_s - EARLIEST_S) & (starts_s < now_s + LATEST_S)  # false for NaN
    starts_s = np.where(is_believable, starts_s, likely_starts_s)
    starts_us: npt.NDArray[np.int64] = np.rint(starts_s * 1e6).astype(np.int64)
    return starts_us


def _to_mapping(context: Any) -> Mapping[str, Any]:
    """The context of a request; empty for a value that is no mapping."""
    if type(context) is dict:
        return context
    try:
        return _NO_CONTEXT if context is None else dict(context)
    except Exception:  # noqa: BLE001 - a client's object may do anything when asked for its keys
        return _NO_CONTEXT


def _count_by_arm(arms: pa.Array, chosen: npt.NDArray[np.bool_]) -> dict[str, int]:
    """Count the chosen rows of each arm; an arm without any is left out.

    `arms`: arm of each row, as a dictionary array. `chosen`: mask of rows.
    """
    counts = np.bincount(arms.indices.to_numpy()[chosen], minlength=len(arms.dictionary))
    return {arm: int(rows) for arm, rows in zip(arms.dictionary.to_pylist(), counts, strict=True) if rows}


def _describe_exception(exception: Any) -> str:
    """Class and text of an exception, or any other value as text, cut to the length that is stored."""
    if isinstance(exception, BaseException):
        return _to_text(f"{type(exception).__name__}: {_to_text(exception, '')}")[:EXCEPTION_CHARS]
    return _to_text(exception)[:EXCEPTION_CHARS]


def _name_exception(exception: Any) -> str:
    """The class of an exception only, because its text may quote a request or its answer."""
    return type(exception).__name__ if isinstance(exception, BaseException) else "failure"


def _cut_to_paths(names: list[Any]) -> list[str]:
    """Names of requests as texts, without anything after the path; each distinct name is cut once."""
    texts = [_to_text(name) for name in names]
    path_by_name = {text: re.split("[?#;]", text, maxsplit=1)[0] for text in set(texts)}
    return [path_by_name[text] for text in texts]


def _keep_further_keys(contexts: list[Mapping[str, Any]]) -> pa.Array | None:
    """The part of each context that has no column of its own, as maps of texts; None if no context has such keys."""
    if ARM_KEYS.issuperset(set().union(*contexts)):
        return None
    further_pairs = [
        [(_to_text(key), _to_text(value)) for key, value in context.items() if key not in ARM_KEYS] or None
        for context in contexts
    ]
    return pa.array(further_pairs, pa.map_(pa.string(), pa.string()))


def _keep_integers(values: list[Any], low: int, high: int) -> list[int | None]:
    """Keep whole numbers from `low` to `high`; anything else becomes None."""

    def clean(value: Any) -> int | None:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return int(value) if is_whole and low <= value <= high else None

    if not set(map(type, values)) <= {int, type(None)}:
        return [clean(value) for value in values]
    # The usual case, made fast: few distinct values, all of them good. `is`: cleaning has changed nothing.
    cleaned_by_value = {value: clean(value) for value in set(values)}
    if all(value is cleaned for value, cleaned in cleaned_by_value.items()):
        return values
    return [cleaned_by_value[value] for value in values]


def _join_endpoints(methods: list[Any], names: list[Any]) -> pa.Array:
    """Join the method and the name of each request to its endpoint; returns a dictionary array of texts."""
    try:
        codes, pairs = _number_values(zip(methods, names, strict=True))
    except TypeError:  # a value that cannot be a key: as text it can
        return _join_endpoints([_to_text(method) for method in methods], [_to_text(name) for name in names])
    endpoints = [f"{_to_text(method)} {_to_text(name)}" for method, name in pairs]
    return pa.DictionaryArray.from_arrays(codes, pa.array(endpoints, pa.string()))


def _number_values(values: Iterable[Any]) -> tuple[pa.Array, list[Any]]:
    """Number the distinct values in the order of first appearance.

    Returns the number of each value, and the distinct values. Raises TypeError for a value that cannot be a key.
    """
    # A key that is not known gets the next number.
    number_by_value: defaultdict[Any, int] = defaultdict(count().__next__)
    codes = np.fromiter(map(number_by_value.__getitem__, values), np.int32)
    return pa.array(codes), list(number_by_value)


def _to_text(value: Any, fallback: str | None = None) -> str:
    """A value as text that can be stored; if it has none, `fallback`, or else the name of its class."""
    try:
        return str(value).encode(errors="replace").decode()
    except Exception:  # noqa: BLE001 - a client's object may do anything when asked for its text
        return type(value).__name__ if fallback is None else fallback


def _to_texts(values: list[Any], make_defaults: Callable[[], Iterable[str]]) -> pa.Array:
    """Values as a dictionary array of texts; None and an empty text are replaced by the default at the same position.

    `make_defaults` returns a default for each value, and is called only if one is needed.
    """
    try:
        codes, distinct = _number_values(values)
        if set(map(type, distinct)) == {str} and all(distinct):  # only texts, and none of them is empty
            return pa.DictionaryArray.from_arrays(codes, pa.array(distinct, pa.string()))
    except (pa.ArrowException, TypeError, UnicodeError):
        pass  # a value is of an odd type: cleaned one by one
    texts = ["" if value is None else _to_text(value) for value in values]
    filled = [text or default for text, default in zip(texts, make_defaults(), strict=False)]
    return pa.array(filled, pa.string()).dictionary_encode()


def _to_numbers(values: list[Any]) -> npt.NDArray[np.float64]:
    """Values as numbers, NaN for anything that is not a number; the usual types are converted all at once."""
    if set(map(type, values)) <= _NUMBERS:
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:
            pass  # a whole number beyond all floats: converted one by one
    return np.array([_to_number(value) for value in values], dtype=np.float64)


def _to_number(value: Any) -> float:
    """A value as a number; NaN if it cannot be converted.

    NaN also for booleans and texts: float() would accept some of them, but they are no measured times.
    """
    if value is None or isinstance(value, bool | str | bytes):
        return np.nan
    try:
        return float(value)
    except Exception:  # noqa: BLE001 - a client's object may do anything when asked for its number
        return np.nan
