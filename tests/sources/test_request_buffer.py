"""The buffer keeps each request that Locust reports, whatever values a locustfile puts into it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.records import LeftOut, LeftOutKind
from evaluator.sources.request_buffer import EXCEPTION_CHARS, NO_TIME, UNASSIGNED, RequestBuffer

NAMES = {"run": "r1", "service": "shop", "worker": "w0"}
START = 1_795_418_924.25
"""When the requests of these tests began; they ended just after, and the clock stands a second later."""


class Trap:
    """Raises on any access."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __str__(self) -> str:
        raise RuntimeError("str")

    def __float__(self) -> float:
        raise RuntimeError("float")


class MuteError(Exception):
    """An exception without a text."""

    def __str__(self) -> str:
        raise RuntimeError("str")


def str_or_kind(value: Any) -> str:
    return "Trap" if type(value) is Trap else str(value)[:20]


def make(**options: Any) -> RequestBuffer:
    return RequestBuffer(**{"header": "X-Instance", "clock": lambda: START + 1} | options)


def record(buffer: RequestBuffer, **changes: Any) -> dict[str, Any]:
    event = {
        "request_type": "GET",
        "name": "/products",
        "response_time": 12.3456,
        "response_length": 10,
        "response": SimpleNamespace(status_code=200, headers={"X-Instance": "pod-1"}),
        "context": {"arm": "canary", "release": "shop@2"},
        "exception": None,
        "start_time": START,
        "url": "http://x",
    }
    buffer.listen()(**event | changes)
    rows = buffer.take(NAMES, {"canary": 7}).to_pylist()
    assert buffer.read.total() == len(rows) + sum(part.rows for part in buffer.left_out)
    return rows[0] if rows else {}


def test_a_request_becomes_a_row() -> None:
    assert record(make()) == {
        "run": "r1",
        "arm": "canary",
        "service": "shop",
        "instance": "pod-1",
        "worker": "w0",
        "ts": datetime.fromtimestamp(1_795_418_924.25, tz=UTC),
        "endpoint": "GET /products",
        "response_time_ms": 12.3456,
        "response_bytes": 10,
        "status_code": 200,
        "failed": False,
        "exception": None,
        "user_count": 7,
        "context": None,
    }


@pytest.mark.parametrize(
    ("changes", "column", "value"),
    [
        pytest.param({"context": {"arm": "b", "instance": "i9"}}, "instance", "i9", id="instance-of-the-context"),
        pytest.param({"response": None}, "instance", "canary", id="no-instance-is-the-arm"),
        pytest.param({"context": None}, "arm", UNASSIGNED, id="no-context"),
        pytest.param({"context": {}}, "user_count", None, id="users-of-an-unknown-arm"),
        pytest.param({"context": {"arm": "a", "tenant": 5}}, "context", [("tenant", "5")], id="own-context-kept"),
        pytest.param({"exception": OSError("no")}, "exception", "OSError: no", id="exception"),
        pytest.param({"exception": "text"}, "exception", "text", id="exception-as-text"),
        pytest.param({"exception": OSError("x" * 9999)}, "failed", True, id="failed"),
        pytest.param({"response": SimpleNamespace(status_code=0)}, "status_code", None, id="no-status"),
        pytest.param({"response": SimpleNamespace(status_code=70000)}, "status_code", None, id="odd-status"),
        pytest.param({"response_length": None}, "response_bytes", None, id="no-length"),
        pytest.param({"response_length": 1.5}, "response_bytes", None, id="odd-length"),
        pytest.param({"name": "/caf\udce9"}, "endpoint", "GET /caf?", id="undecodable-name"),
        pytest.param({"context": {"arm": 3}}, "arm", "3", id="arm-is-a-number"),
        pytest.param({"exception": OSError("caf\udce9")}, "exception", "OSError: caf?", id="undecodable-exception"),
        pytest.param({"request_type": None, "name": 7}, "endpoint", "None 7", id="odd-name"),
        pytest.param({"name": ["/a"]}, "endpoint", "GET ['/a']", id="name-is-a-list"),
        pytest.param({"name": Trap()}, "endpoint", "GET Trap", id="name-without-a-text"),
        pytest.param({"response_length": 2**70}, "response_bytes", None, id="length-beyond-all"),
        pytest.param({"response_length": True}, "response_bytes", None, id="length-is-a-truth"),
        pytest.param({"response_length": {}}, "response_bytes", None, id="length-is-a-dict"),
        pytest.param({"response": SimpleNamespace(status_code=HTTPStatus.OK)}, "status_code", 200, id="status-enum"),
        pytest.param({"response": SimpleNamespace(status_code="200")}, "status_code", None, id="status-is-a-text"),
        pytest.param({"response": SimpleNamespace(status_code=503, headers=[1])}, "status_code", 503, id="odd-headers"),
        pytest.param({"response": Trap()}, "arm", "canary", id="odd-response"),
        pytest.param({"context": {"arm": "b", "instance": ""}}, "instance", "b", id="instance-without-a-text"),
        pytest.param({"context": {"arm": "b", "instance": Trap()}}, "instance", "Trap", id="odd-instance"),
        pytest.param({"context": {"arm": None}}, "arm", UNASSIGNED, id="arm-is-none"),
        pytest.param({"context": {"arm": ""}}, "arm", UNASSIGNED, id="arm-without-a-text"),
        pytest.param({"context": {"arm": b"b"}}, "arm", "b'b'", id="arm-is-bytes"),
        pytest.param({"context": {"arm": "caf\udce9"}}, "arm", "caf?", id="undecodable-arm"),
        pytest.param({"context": {"arm": "b", 7: Trap()}}, "context", [("7", "Trap")], id="odd-context"),
        pytest.param({"context": "my instance"}, "arm", UNASSIGNED, id="context-is-a-text"),
        pytest.param({"context": [1]}, "arm", UNASSIGNED, id="context-is-a-list"),
        pytest.param({"context": Trap()}, "arm", UNASSIGNED, id="context-without-keys"),
        pytest.param({"exception": MuteError()}, "exception", "MuteError: ", id="exception-without-a-text"),
        pytest.param({"exception": ""}, "failed", True, id="no-text-is-no-success"),
        pytest.param({"exception": False}, "failed", False, id="exception-denied"),
        pytest.param({"start_time": Trap(), "response_time": 1000}, "response_time_ms", 1000.0, id="odd-start"),
    ],
)
def test_odd_requests_are_kept(changes: dict[str, Any], column: str, value: Any) -> None:
    assert record(make(), **changes)[column] == value


def test_an_event_without_anything_is_read_and_left_out() -> None:
    buffer = make(arm="canary")
    buffer.listen()()
    assert buffer.take(NAMES, {}).num_rows == 0
    assert buffer.read == {"canary": 1}
    assert buffer.left_out == (LeftOut("canary", LeftOutKind.BAD_ROW, 1, 0, NO_TIME),)


def test_long_exceptions_are_cut() -> None:
    row = record(make(), exception=OSError("x" * 9999))
    assert len(row["exception"]) == EXCEPTION_CHARS


NO_TIMES = [float("nan"), float("inf"), -1.0, None, "12.5", "soon", True, 2e12, 10**400, Trap()]


@pytest.mark.parametrize("time_ms", NO_TIMES, ids=str_or_kind)
def test_an_answer_without_a_time_is_left_out_of_its_arm(time_ms: Any) -> None:
    buffer = make()
    assert record(buffer, response_time=time_ms) == {}
    assert record(buffer)["arm"] == "canary"
    assert buffer.read == {"canary": 2}
    assert buffer.left_out == (LeftOut("canary", LeftOutKind.BAD_ROW, 1, 0, NO_TIME),)


@pytest.mark.parametrize("time_ms", NO_TIMES, ids=str_or_kind)
def test_a_failed_call_without_a_time_is_a_failed_request(time_ms: Any) -> None:
    buffer = make()
    row = record(buffer, response_time=time_ms, exception=OSError("no"))
    assert (row["failed"], row["response_time_ms"], row["exception"]) == (True, 0.0, "OSError: no")
    assert buffer.left_out == ()


def test_requests_are_counted_by_arm_until_a_run_begins() -> None:
    buffer = make()
    listen = buffer.listen()
    for number in range(9):
        context = {"arm": "ab"[number % 2]}
        listen("GET", "/", None if number % 3 else 1.0, 0, context=context, exception=None if number % 4 else "no")
    assert buffer.take(NAMES, {}).num_rows == 5
    assert buffer.read == {"a": 5, "b": 4}
    buffer.leave_out("b", LeftOutKind.OTHER_KIND, "odd", failed=True)
    assert buffer.read == {"a": 5, "b": 5}
    assert buffer.left_out == (
        LeftOut("a", LeftOutKind.BAD_ROW, 1, 0, NO_TIME),
        LeftOut("b", LeftOutKind.BAD_ROW, 3, 0, NO_TIME),
        LeftOut("b", LeftOutKind.OTHER_KIND, 1, 1, "odd"),
    )
    buffer.begin()
    assert (buffer.read, buffer.left_out) == ({}, ())


@pytest.mark.parametrize(
    "start",
    [
        None,
        float("nan"),
        float("inf"),
        "now",
        12_345.6,
        0.0,
        -5.0,
        START * 1000,
        1e300,
        START - 7300,
        START + 90,
        Trap(),
    ],
    ids=str_or_kind,
)
def test_a_start_that_cannot_be_follows_from_the_end(start: Any) -> None:
    row = record(make(), start_time=start, response_time=2000.0)
    assert row["ts"] == datetime.fromtimestamp(START + 1 - 2, tz=UTC)


@pytest.mark.parametrize("time_ms", [2000.0, 3 * 3600e3])
def test_a_start_that_can_be_is_kept(time_ms: float) -> None:
    start = START - time_ms / 1000
    assert record(make(), start_time=start, response_time=time_ms)["ts"] == datetime.fromtimestamp(start, tz=UTC)


def test_taking_empties_the_buffer() -> None:
    buffer = make(header="", arm="canary")
    record(buffer)
    assert len(buffer) == 0
    assert buffer.take(NAMES, {}).num_rows == 0


def test_a_sensitive_buffer_keeps_the_path_the_arm_and_the_kind_of_an_exception() -> None:
    recorded = record(
        make(sensitive=True),
        name="/login?user=ann&token=t0p;x#there",
        context={"arm": "canary", "customer": "ann"},
        exception=OSError("body was {'password': 'secret'}"),
    )
    shown = [recorded[name] for name in ("endpoint", "arm", "instance", "exception")]
    assert shown == ["GET /login", "canary", "pod-1", "OSError"]
    assert recorded["failed"]
    assert not recorded["context"]
    row_of_text = record(make(header="", sensitive=True), exception="answered 'ann'", context=None)
    assert (row_of_text["exception"], row_of_text["arm"]) == ("failure", UNASSIGNED)


def test_a_sensitive_buffer_takes_names_that_are_no_texts() -> None:
    assert record(make(sensitive=True), name=7, context={"arm": 3, "customer": "ann"})["endpoint"] == "GET 7"


def test_a_request_without_a_row_is_placed_as_its_row_would_be() -> None:
    context = {"arm": "b", "instance": "i9", "customer": "ann"}
    row = record(make(), response=None, context=context, name="/a?b=1")
    assert make().identify("GET", "/a?b=1", context) == (row["arm"], row["instance"], row["endpoint"])
    assert make(arm="own").identify("GET", "/a?b=1", None) == ("own", "own", "GET /a?b=1")
    assert make(sensitive=True).identify("GET", "/a?b=1", context) == ("b", "i9", "GET /a")


ODD_VALUES = (
    None, True, False, 0, -1, 2**70, float("nan"), float("-inf"), "", "a", "\udce9", "12", b"", b"\xff", [1], {"k": 1},
    {}, (), Decimal("NaN"), HTTPStatus.OK, Trap(), MuteError(), OSError("no"),
)  # fmt: skip
ODD = st.sampled_from(ODD_VALUES) | st.integers() | st.floats()
CONTEXTS = ODD | st.fixed_dictionaries({"arm": ODD | st.sampled_from(["a", "b"])}, optional={"instance": ODD, "k": ODD})
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "request_type": ODD, "name": ODD, "response_time": ODD | st.floats(0, 1e5), "response_length": ODD,
        "response": st.builds(SimpleNamespace, status_code=ODD, headers=ODD) | ODD, "context": CONTEXTS,
        "exception": ODD, "start_time": ODD | st.just(START), "url": ODD,
    },
)  # fmt: skip


@given(st.lists(EVENTS, max_size=8), st.booleans())
def test_anything_a_client_sends_is_a_row_or_named(events: list[dict[str, Any]], sensitive: bool) -> None:
    buffer = make(sensitive=sensitive)
    listen = buffer.listen()
    for event in events:
        listen(**event)
    rows = buffer.take(NAMES, {})
    rows.validate(full=True)
    assert rows.num_rows + sum(part.rows for part in buffer.left_out) == buffer.read.total() == len(events)
    failed = [not any(event.get("exception") is absent for absent in (None, False)) for event in events]
    assert sum(rows["failed"].to_pylist()) == sum(failed)
    assert all(0 <= time_ms <= 1e12 for time_ms in rows["response_time_ms"].to_pylist())
