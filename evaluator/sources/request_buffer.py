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
_NO_CONTEXT: Mapping[str, Any] = {}
_NUMBERS = {float, int}


class RequestBuffer:
    """Columns of requests. `listen()` returns the function that Locust's `request` event calls; `take()` empties them.

    `sensitive`: only the path of a request before `?` is kept, and only the kind of an exception. `arm` is the arm of
    requests whose context names none. The instance is the context's, else the response's header `header`, else the name
    of the arm, as its only instance.

    The listener appends to a list of plain values and nothing else: it leaves no object per request to the garbage
    collector, and keeps no part of the response alive. It accepts any value of a client: values of a wrong type are
    cleaned in `take`, and a request that cannot be a row is counted in `left_out`.
    """

    def __init__(
        self, *, header: str, arm: str = UNASSIGNED, sensitive: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self.header, self.arm, self.sensitive, self.clock = header, arm, sensitive, clock
        self._values: list[Any] = []
        """The values of one request after another, `_COLUMNS` each."""
        self.read: Counter[str] = Counter()
        """Requests of each arm that were taken out or left out."""
        self._left_out: Counter[tuple[str, LeftOutKind, str, bool]] = Counter()

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._values) // _COLUMNS

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Requests that are in no table, by arm and kind."""
        counts = self._left_out
        return tuple(
            LeftOut(arm, kind, counts[arm, kind, detail, False] + failures, failures, detail)
            for arm, kind, detail in sorted({key[:3] for key in counts})
            for failures in [counts[arm, kind, detail, True]]
        )

    def begin(self) -> None:
        """Count from 0: a run begins."""
        self.read.clear()
        self._left_out.clear()

    def leave_out(self, arm: str, kind: LeftOutKind, detail: str, *, failed: bool, rows: int = 1) -> None:
        """Count requests that no table will hold."""
        self.read[arm] += rows
        self._left_out[arm, kind, detail, failed] += rows

    def listen(self) -> Callable[..., None]:
        """Make the listener; everything it needs is bound to local names."""
        keep, header, now, describe = (
            self._values.extend,
            self.header,
            self.clock,
            _name if self.sensitive else _describe,
        )

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
            failure = None if exception is None or exception is False else describe(exception)
            values = request_type, name, response_time, response_length, start, status, failure, context, instance
            keep(values)

        return record

    def clear(self) -> None:
        """Drop the requests that wait."""
        self._values.clear()

    def take(self, constants: Mapping[str, str], users: Mapping[str, int]) -> pa.Table:
        """Take everything out as a table; `constants` are run, service and worker, `users` the users of each arm.

        A failed request without a usable time is a row with the time 0; any other without one is left out.
        """
        columns = [self._values[number::_COLUMNS] for number in range(_COLUMNS)]
        self.clear()
        methods, names, raw_times, sizes, starts, statuses, exceptions, contexts, instances = columns
        if set(map(type, contexts)) != {dict}:
            contexts = [_mapping(context) for context in contexts]
        arms = self._arms(contexts)
        if self.sensitive:
            names, contexts = _paths(names), [_NO_CONTEXT] * len(contexts)
        failures = pa.array(exceptions, pa.string())
        failed = failures.is_valid().to_numpy(zero_copy_only=False)
        times = _numbers(raw_times)
        usable = (times >= 0) & (times <= _LONGEST_MS)  # NaN is neither
        times[~usable] = 0.0
        # A request with an impossible start has ended within the last second: its start follows from that.
        claimed, now = _numbers(starts), self.clock()
        likely = now - times / 1000
        believable = (claimed > likely - EARLIEST_S) & (claimed < now + LATEST_S)
        micros: npt.NDArray[np.int64] = np.rint(np.where(believable, claimed, likely) * 1e6).astype(np.int64)
        table = make_table(
            REQUEST_SCHEMA,
            {
                **constants,
                "arm": arms,
                "instance": _texts(instances, arms.to_pylist),
                "ts": pa.array(micros).cast(pa.timestamp("us", tz="UTC")),
                "endpoint": _endpoints(methods, names),
                "response_time_ms": pa.array(times),
                "response_bytes": pa.array(_integers(sizes, 0, _HIGHEST_SIZE), pa.int64()),
                "status_code": pa.array(_integers(statuses, 1, _HIGHEST_STATUS), pa.int16()),
                "failed": pa.array(failed),
                "exception": failures.dictionary_encode(),
                "user_count": pa.array([users.get(arm) for arm in arms.dictionary.to_pylist()], pa.int32()).take(
                    arms.indices
                ),
                "context": _extras(contexts),
            },
            len(times),
        )
        recorded = usable | failed
        for arm, rows in _count(arms, ~recorded).items():
            self.leave_out(arm, LeftOutKind.BAD_ROW, NO_TIME, failed=False, rows=rows)
        self.read.update(_count(arms, recorded))
        return table if recorded.all() else table.filter(pa.array(recorded))

    def identify(self, method: Any, name: Any, context: Any) -> tuple[str, str, str]:
        """Arm, instance and endpoint of a request without a response, as its row would have them."""
        mapping = _mapping(context)
        arms = self._arms([mapping])
        instances = _texts([mapping.get("instance")], arms.to_pylist)
        endpoints = _endpoints([method], _paths([name]) if self.sensitive else [name])
        return arms[0].as_py(), instances[0].as_py(), endpoints[0].as_py()

    def _arms(self, contexts: list[Mapping[str, Any]]) -> pa.Array:
        return _texts([context.get("arm") for context in contexts], lambda: repeat(self.arm))


def _mapping(context: Any) -> Mapping[str, Any]:
    """The context of a request; empty for a value that is no mapping."""
    if type(context) is dict:
        return context
    try:
        return _NO_CONTEXT if context is None else dict(context)
    except Exception:  # noqa: BLE001 - a client's object may do anything when asked for its keys
        return _NO_CONTEXT


def _count(arms: pa.Array, chosen: npt.NDArray[np.bool_]) -> dict[str, int]:
    """Rows of each arm among the chosen ones, of arms that have any."""
    counts = np.bincount(arms.indices.to_numpy()[chosen], minlength=len(arms.dictionary))
    return {arm: int(rows) for arm, rows in zip(arms.dictionary.to_pylist(), counts, strict=True) if rows}


def _describe(exception: Any) -> str:
    if isinstance(exception, BaseException):
        return _encodable(f"{type(exception).__name__}: {_encodable(exception, '')}")[:EXCEPTION_CHARS]
    return _encodable(exception)[:EXCEPTION_CHARS]


def _name(exception: Any) -> str:
    """The kind of an exception, because its text may quote a request or its answer."""
    return type(exception).__name__ if isinstance(exception, BaseException) else "failure"


def _paths(names: list[Any]) -> list[str]:
    texts = [_encodable(name) for name in names]
    path_of = {name: re.split("[?#;]", name, maxsplit=1)[0] for name in set(texts)}
    return [path_of[name] for name in texts]


def _extras(contexts: list[Mapping[str, Any]]) -> pa.Array | None:
    """Keys of the contexts that have no column of their own; `None` where there are none."""
    if ARM_KEYS.issuperset(set().union(*contexts)):
        return None
    pairs = [
        [(_encodable(key), _encodable(value)) for key, value in context.items() if key not in ARM_KEYS] or None
        for context in contexts
    ]
    return pa.array(pairs, pa.map_(pa.string(), pa.string()))


def _integers(values: list[Any], low: int, high: int) -> list[int | None]:
    """Whole numbers from `low` to `high`, None for anything else; each distinct value is checked once."""

    def clean(value: Any) -> int | None:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return int(value) if is_whole and low <= value <= high else None

    if not set(map(type, values)) <= {int, type(None)}:
        return [clean(value) for value in values]
    cleaned = {value: clean(value) for value in set(values)}
    if all(value is new for value, new in cleaned.items()):
        return values
    return [cleaned[value] for value in values]


def _endpoints(methods: list[Any], names: list[Any]) -> pa.Array:
    try:
        codes, pairs = _enumerate(zip(methods, names, strict=True))
    except TypeError:
        return _endpoints([_encodable(method) for method in methods], [_encodable(name) for name in names])
    texts = [f"{_encodable(method)} {_encodable(name)}" for method, name in pairs]
    return pa.DictionaryArray.from_arrays(codes, pa.array(texts, pa.string()))


def _enumerate(values: Iterable[Any]) -> tuple[pa.Array, list[Any]]:
    """Each value as its number in the order of first appearance, and the values. Raises TypeError for lists."""
    numbers: defaultdict[Any, int] = defaultdict(count().__next__)
    codes = np.fromiter(map(numbers.__getitem__, values), np.int32)
    return pa.array(codes), list(numbers)


def _encodable(value: Any, otherwise: str | None = None) -> str:
    """A value as text that can be stored; its kind where it has no text."""
    try:
        return str(value).encode(errors="replace").decode()
    except Exception:  # noqa: BLE001 - a client's object may do anything when asked for its text
        return type(value).__name__ if otherwise is None else otherwise


def _texts(values: list[Any], otherwise: Callable[[], Iterable[str]]) -> pa.Array:
    """Values as texts; one that is None or empty is replaced by the text of `otherwise` in its place."""
    try:
        codes, distinct = _enumerate(values)
        if set(map(type, distinct)) == {str} and all(distinct):
            return pa.DictionaryArray.from_arrays(codes, pa.array(distinct, pa.string()))
    except (pa.ArrowException, TypeError, UnicodeError):
        pass  # a value is of an odd type: cleaned one by one
    texts = ["" if value is None else _encodable(value) for value in values]
    filled = [text or default for text, default in zip(texts, otherwise(), strict=False)]
    return pa.array(filled, pa.string()).dictionary_encode()


def _numbers(values: list[Any]) -> npt.NDArray[np.float64]:
    """Numbers, with NaN for any other value."""
    if set(map(type, values)) <= _NUMBERS:
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:
            pass  # a whole number beyond all floats: cleaned one by one
    return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: Any) -> float:
    if value is None or isinstance(value, bool | str | bytes):
        return np.nan
    try:
        return float(value)
    except Exception:  # noqa: BLE001 - a client's object may do anything when asked for its number
        return np.nan
