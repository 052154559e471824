"""A server whose answers are changed, and the changed answers of a metrics server."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import struct
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any, Literal
from unittest import mock
from urllib.parse import parse_qs

from fuzz.checking import Case
from fuzz.mutators import mutate_bytes, mutate_document

Protocol = Literal["http", "line", "dns"]
"""How the end of a request is recognised: HTTP; a line (HAProxy); a length before the message (DNS over TCP)."""


class Server:
    """Listens on loopback and answers each connection with the bytes that `answer` makes of the request."""

    def __init__(self) -> None:
        self.answer: Callable[[bytes], bytes] = lambda _request: b""
        self.protocol: Protocol = "http"
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            threading.Thread(target=self._answer_one, args=(connection,), daemon=True).start()

    def _answer_one(self, connection: socket.socket) -> None:
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.settimeout(2)
            request = b""
            while not _is_complete(request, self.protocol):
                part = connection.recv(65536)
                if not part:
                    break
                request += part
            connection.sendall(self.answer(request))


def _is_complete(request: bytes, protocol: Protocol) -> bool:
    if protocol == "line":
        return request.endswith(b"\n")
    if protocol == "dns":
        return len(request) > 2 and len(request) >= 2 + struct.unpack("!H", request[:2])[0]
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return bool(end) and len(body) >= int(length[1] if length else 0)


_SERVER: list[Server] = []


def find_server() -> Server:
    """The server of this process."""
    if not _SERVER:
        _SERVER.append(Server())
    return _SERVER[0]


def write_answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """Write an answer of HTTP after which the connection ends."""
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


_STATUSES = (
    "200 OK", "204 No Content", "302 Found", "400 Bad", "401 No", "404 None", "409 Other", "422 No", "429 Slow",
    "500 Oops", "503 Later", "100 Continue", "999 X", "200", "abc def",
)  # fmt: skip
_BODIES = (
    b"", b"<!doctype html><title>Sign in</title>", b"null", b"[]", b"{}", b'"ok"', b"1e400", b"[" * 20_000,
    b"\xff\xfe", b'{"status":"success","data":null}', b'{"status":"error"}',
)  # fmt: skip
_HEADERS = (
    {"Content_Encoding": "gzip"}, {"Content_Encoding": "br"}, {"Content_Encoding": "deflate"},
    {"Date": "yesterday"}, {"Content_Type": "text/html; charset=klingon"}, {"Transfer_Encoding": "chunked"},
    {"Location": "/login"}, {"Retry_After": "never"}, {"Retry_After": "-1"},
    {"Set_Cookie": "a=b; Max-Age=9e99"}, {"Date": "Mon, 99 Foo 99999 25:61:61"}, {"Content_Length": "-1"},
    {"Content_Length": "1e9"}, {"X": "\x01\x02"},
)  # fmt: skip


def change_answer(rng: random.Random, document: Any) -> bytes:
    """Write a document as the JSON answer of a server, changed in its document, its text, its head, or its bytes."""
    match rng.randrange(8):
        case 0 | 1 | 2 | 3:
            return write_answer(json.dumps(mutate_document(rng, document)).encode(), Date=formatdate(usegmt=True))
        case 4:
            return write_answer(mutate_bytes(rng, json.dumps(document).encode()))
        case 5:
            return write_answer(rng.choice(_BODIES), rng.choice(_STATUSES), **rng.choice(_HEADERS))
        case 6:
            return write_answer(json.dumps(document).encode(), rng.choice(_STATUSES), **rng.choice(_HEADERS))
        case _:
            return mutate_bytes(rng, write_answer(json.dumps(document).encode()))


# ------------------------------------------------------------------ Prometheus

_START = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
_STEP_S = 15
_STEPS = 40
_PROMETHEUS_POLICY = """
metrics:
  - {{name: memory, type: gauge_mean, query: "memory_bytes{{$selector}}", role: gate, margin: 50%}}
  - name: failures
    type: counter_ratio
    failures: 'a_total{{$selector,code="500"}}'
    requests: "a_total{{$selector}}"
    margin: 20pp
  - {{name: fast, type: histogram_share, query: "s{{$selector}}", below: 250ms, margin: 20pp}}
  - {{name: used, type: gauge_mean, query: "memory_bytes{{$selector}} / 2", role: watch}}
sources:
  prometheus:
    url: http://127.0.0.1:{port}
    selectors: {{baseline: 'version="1"', canary: 'version="2"'}}
    step: {step}s
    timeout: 1s
"""


def _answer_query(path: str, form: dict[str, str]) -> Any:
    """Answer a query as a server with two instances an arm does."""
    query = form.get("query", "")
    if query == "time()":
        now = datetime.now(UTC).timestamp()
        return {"status": "success", "data": {"resultType": "scalar", "result": [now, str(now)]}}
    series = []
    for number in range(2):
        labels = {"__name__": query.partition("{")[0], "instance": f"{query.count('2')}-{number}", "version": "1"}
        for extra in ({"le": "0.25"}, {"le": "+Inf"}) if "_bucket" in query else ({"code": "500"},):
            grows = "_total" in query or "s_" in query
            values = [
                [_START.timestamp() + _STEP_S * step, str((step + number if grows else 0) + 100.0)]
                for step in range(_STEPS)
            ]
            series.append({"metric": {**labels, **extra}, "values": values})
    if path.endswith("/series"):
        return {"status": "success", "data": [one["metric"] for one in series]}
    return {"status": "success", "data": {"resultType": "matrix", "result": series}}


def fuzz_prometheus(rng: random.Random, case: Case) -> None:
    """Change one answer of a metrics server, or all of them, while readings are collected; then judge them."""
    server = find_server()
    asked = 0
    odd = rng.choice((0, 1, 2, 3, 4, 5, 6, 8, 10, None))  # which answer is changed; None: each

    def answer(request: bytes) -> bytes:
        nonlocal asked
        head, _, body = request.partition(b"\r\n\r\n")
        words = head.split(b" ", 2)
        path, _, query = (words[1] if len(words) > 1 else b"").decode().partition("?")
        form = {key: values[0] for key, values in parse_qs(body.decode() or query).items()}
        plain = _answer_query(path, form)
        asked += 1
        if odd is None or asked - 1 == odd:
            return change_answer(rng, plain)
        return write_answer(json.dumps(plain).encode(), Date=formatdate(usegmt=True))

    server.answer, server.protocol = answer, "http"
    (case.folder / "evaluator.yaml").write_text(_PROMETHEUS_POLICY.format(port=server.port, step=_STEP_S))
    words = ["collect", "fuzz", "--from", _START.isoformat(), "--to", (_START + timedelta(minutes=10)).isoformat()]
    with mock.patch("urllib3.util.retry.time.sleep"):  # a server that fails is asked again after a pause
        ended = case.run(words, {0, 4})
    if ended.code == 0:
        case.judge("fuzz")
