"""One second of requests in memory: plain lists, filled by the load generator's hot path, turned into a table once."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evaluator.segments import request_table

__all__ = ["ARM_KEYS", "UNASSIGNED", "RequestBuffer"]

ARM_KEYS = frozenset({"arm", "instance", "release"})
"""Keys of a request's context that have columns of their own."""

UNASSIGNED = "unassigned"
"""Arm of a request that says nothing of its arm."""

EXCEPTION_CHARS = 500
"""Text of an exception is cut here."""

_HIGHEST_STATUS = 32767

_NO_CONTEXT: Mapping[str, Any] = {}


class RequestBuffer:
    """Columns of requests. `listen()` gives the function that Locust's `request` event calls; `take()` empties them.

    `sensitive`: nothing is kept of a request but its path without what follows `?`, and of an exception its kind.
    `arm` is the arm of requests whose context names none. The instance is the context's, else the response's header
    `header`, else the arm stands for its only instance.

    The listener appends to lists of plain values and nothing else: no object per request is left behind for the
    garbage collector, and nothing that belongs to the response is kept alive.
    """

    def __init__(self, *, header: str, arm: str = UNASSIGNED, sensitive: bool = False) -> None:
        self.header, self.arm, self.sensitive = header, arm, sensitive
        self.columns: tuple[list[Any], ...] = tuple([] for _ in range(9))
        self.skipped = 0

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self.columns[0])

    def listen(self) -> Callable[..., None]:
        """Make the listener; everything it needs is bound to local names."""
        methods, names, times, sizes, starts, statuses, exceptions, contexts, instances = (
            column.append for column in self.columns
        )
        header, now, describe = self.header, time.time, _name if self.sensitive else _describe

        def record(
            request_type: str,
            name: str,
            response_time: float,
            response_length: int | None,
            response: Any = None,
            context: Mapping[str, Any] | None = None,
            exception: Any = None,
            start_time: float | None = None,
            **_: Any,
        ) -> None:
            methods(request_type)
            names(name)
            times(response_time)
            sizes(response_length)
            starts(now() - (response_time or 0.0) / 1000 if start_time is None else start_time)
            statuses(getattr(response, "status_code", None))
            exceptions(describe(exception) if exception else None)
            contexts(context or _NO_CONTEXT)
            if context and "instance" in context:
                instances(context["instance"])
            else:
                headers = getattr(response, "headers", None)
                instances(headers.get(header) if headers else None)

        return record

    def clear(self) -> None:
        """Forget what waits."""
        for column in self.columns:
            column.clear()

    def take(self, constants: Mapping[str, str], users: Mapping[str, int]) -> pa.Table:
        """Take everything out as a table; `constants` are run, service and worker, `users` the users of each arm."""
        columns = [column[:] for column in self.columns]
        self.clear()
        methods, names, times, sizes, starts, statuses, exceptions, contexts, instances = columns
        if self.sensitive:
            names, contexts = _paths(names), [{"arm": context.get("arm", self.arm)} for context in contexts]
        arms = _texts([context.get("arm", self.arm) for context in contexts])
        table = request_table(
            {
                **constants,
                "arm": arms,
                "instance": _instances(instances, arms),
                "ts": _timestamps(starts),
                "endpoint": _endpoints(methods, names),
                "response_time_ms": pa.array(np.array(times, dtype=np.float64)),
                "response_bytes": pa.array(_cleaned(sizes, _size), pa.int64()),
                "status_code": pa.array(_cleaned(statuses, _status), pa.int16()),
                "failed": pa.array([one is not None for one in exceptions], pa.bool_()),
                "exception": _texts(exceptions),
                "user_count": pa.array([users.get(arm) for arm in arms.dictionary.to_pylist()], pa.int32()).take(
                    arms.indices
                ),
                "context": _extras(contexts),
            },
            len(times),
        )
        return self._drop_unusable(table)

    def _drop_unusable(self, table: pa.Table) -> pa.Table:
        times = table.column("response_time_ms").to_numpy()
        usable = np.isfinite(times) & (times >= 0)
        if usable.all():
            return table
        self.skipped += int((~usable).sum())
        return table.filter(pa.array(usable))


def _describe(exception: Any) -> str:
    text = f"{type(exception).__name__}: {exception}" if isinstance(exception, BaseException) else str(exception)
    return text[:EXCEPTION_CHARS]


def _name(exception: Any) -> str:
    """The kind of an exception: its text may quote what was sent or answered."""
    return type(exception).__name__ if isinstance(exception, BaseException) else "failure"


def _paths(names: list[str]) -> list[str]:
    known = {name: re.split("[?#;]", name, maxsplit=1)[0] for name in set(names)}
    return [known[name] for name in names]


def _extras(contexts: list[Mapping[str, Any]]) -> pa.Array | None:
    """What a locustfile put into the contexts beside what has a column; `None` where it put nothing."""
    if ARM_KEYS.issuperset(set().union(*contexts)):
        return None
    return pa.array([_extra(context) for context in contexts], pa.map_(pa.string(), pa.string()))


def _extra(context: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    pairs = [(str(key), _encodable(value)) for key, value in context.items() if key not in ARM_KEYS]
    return pairs or None


def _instances(instances: list[Any], arms: pa.Array) -> pa.Array:
    if None in instances:
        instances = [arm if one is None else one for one, arm in zip(instances, arms.to_pylist(), strict=True)]
    return _texts(instances)


def _cleaned(values: list[Any], clean: Callable[[Any], int | None]) -> list[int | None]:
    """Apply `clean` to each value; the values of one second are few, so each is looked at once."""
    try:
        cleaned = {value: clean(value) for value in set(values)}
    except TypeError:
        return [clean(value) for value in values]
    if all(value is new for value, new in cleaned.items()):
        return values
    return [cleaned[value] for value in values]


def _endpoints(methods: list[str], names: list[str]) -> pa.Array:
    known: dict[tuple[str, str], int] = {}
    codes = [known.setdefault(pair, len(known)) for pair in zip(methods, names, strict=True)]
    texts = [_encodable(f"{method} {name}") for method, name in known]
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(texts, pa.string()))


def _encodable(text: Any) -> str:
    return str(text).encode(errors="replace").decode()


def _texts(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.string()).dictionary_encode()
    except (pa.ArrowException, TypeError, UnicodeError):
        clean = [None if one is None else _encodable(one) for one in values]
        return pa.array(clean, pa.string()).dictionary_encode()


def _status(status: Any) -> int | None:
    return status if isinstance(status, int) and 0 < status <= _HIGHEST_STATUS else None


def _size(size: Any) -> int | None:
    return size if isinstance(size, int) and size >= 0 else None


def _timestamps(starts: list[float]) -> pa.Array:
    micros: npt.NDArray[np.int64] = np.rint(np.array(starts, dtype=np.float64) * 1e6).astype(np.int64)
    return pa.array(micros).cast(pa.timestamp("us", tz="UTC"))
