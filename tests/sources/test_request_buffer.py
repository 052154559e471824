"""The buffer keeps what Locust says of a request, whatever a locustfile puts into it."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from evaluator.sources.request_buffer import EXCEPTION_CHARS, UNASSIGNED, RequestBuffer

NAMES = {"run": "r1", "service": "shop", "worker": "w0"}


def record(buffer: RequestBuffer, **changes: Any) -> dict[str, Any]:
    event = {
        "request_type": "GET",
        "name": "/products",
        "response_time": 12.3456,
        "response_length": 10,
        "response": SimpleNamespace(status_code=200, headers={"X-Instance": "pod-1"}),
        "context": {"arm": "canary", "release": "shop@2"},
        "exception": None,
        "start_time": 1_795_418_924.25,
        "url": "http://x",
    }
    buffer.listen()(**event | changes)
    rows = buffer.take(NAMES, {"canary": 7}).to_pylist()
    return rows[0] if rows else {}


def test_a_request_becomes_a_row() -> None:
    assert record(RequestBuffer(header="X-Instance")) == {
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
    ],
)
def test_odd_requests_are_kept(changes: dict[str, Any], column: str, value: Any) -> None:
    assert record(RequestBuffer(header="X-Instance"), **changes)[column] == value


def test_long_exceptions_are_cut() -> None:
    row = record(RequestBuffer(header="X-Instance"), exception=OSError("x" * 9999))
    assert len(row["exception"]) == EXCEPTION_CHARS


@pytest.mark.parametrize("time_ms", [float("nan"), float("inf"), -1.0, None])
def test_times_that_are_none_are_counted_and_left_out(time_ms: float | None) -> None:
    buffer = RequestBuffer(header="X-Instance")
    assert record(buffer, response_time=time_ms) == {}
    assert buffer.skipped == 1


def test_a_start_time_that_is_missing_is_worked_out() -> None:
    row = record(RequestBuffer(header=""), start_time=None, response_time=2000.0)
    age_s = (datetime.now(UTC) - row["ts"]).total_seconds()
    assert 2.0 <= age_s < 3.0


def test_taking_empties_the_buffer() -> None:
    buffer = RequestBuffer(header="", arm="canary")
    record(buffer)
    assert len(buffer) == 0
    assert buffer.take(NAMES, {}).num_rows == 0


def test_a_sensitive_buffer_keeps_the_path_the_arm_and_the_kind_of_an_exception() -> None:
    kept = record(
        RequestBuffer(header="X-Instance", sensitive=True),
        name="/login?user=ann&token=t0p;x#there",
        context={"arm": "canary", "customer": "ann"},
        exception=OSError("body was {'password': 'secret'}"),
    )
    shown = [kept[name] for name in ("endpoint", "arm", "instance", "exception")]
    assert shown == ["GET /login", "canary", "pod-1", "OSError"]
    assert kept["failed"]
    assert not kept["context"]
    told = record(RequestBuffer(header="", sensitive=True), exception="answered 'ann'", context=None)
    assert (told["exception"], told["arm"]) == ("failure", UNASSIGNED)
