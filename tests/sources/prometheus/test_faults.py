"""What a server may say instead of an answer: one sentence with a cause and a remedy each."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import metrics_servers
import pytest

from evaluator.errors import SourceError, UsageError
from evaluator.records import Query, QueryKind
from evaluator.sources.prometheus import PrometheusOptions, connect

START = datetime(2026, 10, 1, 12, tzinfo=UTC)
MEMORY = Query("memory_bytes{$selector}", QueryKind.GAUGE)
ARMS = {"baseline": 'version="1"', "canary": 'version="2"'}


class Faulty(BaseHTTPRequestHandler):
    """Answers its clock as a good server does, and anything else as the test says."""

    answer = (200, "application/json", b"", {})
    seen: list[dict[str, str]] = []  # noqa: RUF012 - the server makes a handler of its own for each request
    ahead_s = 0.0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        type(self).seen.append(dict(self.headers))
        if "time%28%29" in body:
            now = time.time() + type(self).ahead_s
            told = {"status": "success", "data": {"resultType": "scalar", "result": [now, str(now)]}}
            self._send(200, "application/json", json.dumps(told).encode(), {})
            return
        status, kind, content, headers = type(self).answer
        if callable(content):
            content = content()
        self._send(status, kind, content, headers)

    def _send(self, status: int, kind: str, content: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        self.send_header("Date", formatdate(time.time() + type(self).ahead_s, usegmt=True))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join(5)


@pytest.fixture
def options(server) -> PrometheusOptions:
    Faulty.ahead_s, Faulty.seen = 0.0, []
    return PrometheusOptions(f"http://127.0.0.1:{server.server_port}", ARMS, 5, timeout_s=2)


def fetch(options: PrometheusOptions):
    with connect(options) as source:
        return source.fetch(MEMORY, "canary", START, START + timedelta(seconds=60))


def as_json(**plain: object) -> bytes:
    return json.dumps(plain).encode()


MATRIX = {"resultType": "matrix", "result": [{"metric": {"instance": "a"}, "values": [[START.timestamp(), "1"]]}]}

FAULTS = [
    pytest.param((401, "text/plain", b"who?", {}), r"refuses us \(401\)", "auth", id="401"),
    pytest.param((403, "text/plain", b"no", {}), r"refuses us \(403\)", "auth", id="403"),
    pytest.param((404, "text/plain", b"404 page not found", {}), r"has no query API \(404\)", "path prefix", id="404"),
    pytest.param(
        (422, "application/json", as_json(status="error", error="too many points for the given step=1"), {}),
        r"refused a query \(422\): too many points",
        "memory_bytes",
        id="422",
    ),
    pytest.param(
        (400, "application/json", as_json(status="error", error="1:5: parse error: unexpected end"), {}),
        r"refused a query \(400\): 1:5: parse error",
        "memory_bytes",
        id="400",
    ),
    pytest.param(
        (302, "text/html", b"", {"Location": "https://login.example.org/?next=/api"}),
        "redirects to https://login.example.org",
        "address of the API",
        id="redirect",
    ),
    pytest.param((200, "text/html", b"<!doctype html><p>Sign in", {}), "an HTML page instead", "login", id="html"),
    pytest.param((500, "text/html", b"<h1>oops", {}), "an HTML page instead of JSON", "login", id="500"),
    pytest.param((200, "application/json", b'{"status": "succ', {}), "something else instead of JSON", "", id="half"),
    pytest.param(
        (200, "application/json", b'{"status":"success","odd":{"values":[[1,"2"]]}}', {}),
        "something else instead of JSON",
        "",
        id="odd",
    ),
    pytest.param((200, "application/json", b"[1, 2]", {}), "something else instead of JSON", "", id="list"),
    pytest.param(
        (200, "application/json", as_json(status="success"), {}), r"refused a query \(200\)", "", id="no-data"
    ),
    pytest.param(
        (200, "application/json", as_json(status="success", data={"resultType": "vector", "result": []}), {}),
        "gives a vector, not series over time",
        "series",
        id="vector",
    ),
]


@pytest.mark.parametrize(("answer", "message", "hint"), FAULTS)
def test_each_fault_is_one_sentence(options, answer, message, hint):
    Faulty.answer = answer
    with pytest.raises(SourceError, match=message) as raised:
        fetch(options)
    assert hint in (raised.value.hint or "")
    assert "\n" not in raised.value.message


def test_a_server_that_is_slow(options):
    Faulty.answer = (200, "application/json", lambda: time.sleep(3) or b"{}", {})
    with pytest.raises(SourceError, match="did not answer within 2 s"):
        fetch(options)


def test_a_server_that_is_down():
    gone = PrometheusOptions(f"http://127.0.0.1:{metrics_servers.free_port()}", ARMS, 5)
    with pytest.raises(SourceError, match="cannot be reached: the connection was refused"):
        connect(gone)


def test_a_name_that_nobody_knows():
    with pytest.raises(SourceError, match="its name is not known"):
        connect(PrometheusOptions("http://prometheus.invalid:9090", ARMS, 5))


def test_a_partial_answer_keeps_its_warnings(options):
    warning = "fetch series for {replica=b}: store is not available"
    Faulty.answer = (200, "application/json", as_json(status="success", data=MATRIX, warnings=[warning]), {})
    answer = fetch(options)
    assert answer.warnings == (warning,)
    assert len(answer.series) == 1


@pytest.mark.parametrize("ahead_s", [-90.0, 45.0])
def test_a_clock_that_is_off_is_measured(options, ahead_s):
    Faulty.ahead_s = ahead_s
    with connect(options) as source:
        assert source.clock_offset_s == pytest.approx(ahead_s, abs=1.5)
        assert source.describe()["clock_offset_s"] == source.clock_offset_s
        assert (source.latest() - datetime.now(UTC)).total_seconds() == pytest.approx(ahead_s, abs=1.5)


def test_who_asks_is_told_from_the_environment(options, monkeypatch):
    Faulty.answer = (200, "application/json", as_json(status="success", data=MATRIX), {})
    monkeypatch.setenv("TOKEN", "t0ken")
    monkeypatch.setenv("PASSWORD", "pa55")
    fetch(replace(options, bearer="${TOKEN}", tenant="team-a", headers={"X-Scope": "of ${TOKEN}"}))
    assert Faulty.seen[-1]["Authorization"] == "Bearer t0ken"
    assert Faulty.seen[-1]["X-Scope-OrgID"] == "team-a"
    assert Faulty.seen[-1]["X-Scope"] == "of t0ken"
    assert Faulty.seen[-1]["Accept-Encoding"] == "identity"
    fetch(replace(options, username="ann", password="${PASSWORD}"))
    assert Faulty.seen[-1]["Authorization"].startswith("Basic ")


def test_a_secret_that_is_not_set_is_named(options, monkeypatch):
    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(UsageError, match="TOKEN is not set") as raised:
        connect(replace(options, bearer="${TOKEN}"))
    assert "export TOKEN" in raised.value.hint
