"""What a server may send instead of an answer: for each, one sentence with the cause, and a remedy."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evaluator.errors import SourceError, UsageError
from evaluator.records import Query, QueryKind
from evaluator.sources.load import free_port
from evaluator.sources.prometheus import PrometheusSource, connect, transport
from evaluator.sources.prometheus.options import Auth, Basic

START = datetime(2026, 10, 1, 12, tzinfo=UTC)
MEMORY = Query("memory_bytes{$selector}", QueryKind.GAUGE)
ARMS = {"baseline": 'version="1"', "canary": 'version="2"'}
TOKEN = Auth(bearer="${TOKEN}")


class Faulty(BaseHTTPRequestHandler):
    """Answers its clock as a good server does, and anything else as the test sets it."""

    answer = (200, "application/json", b"", {})
    clock = None
    date = None
    refused = None
    refuses_get = False
    drip = None
    seen: list[dict[str, str]] = []  # noqa: RUF012 - the server makes a handler of its own for each request
    ahead_s = 0.0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if type(self).refused:
            self._send(*type(self).refused, {})
            return
        self._answer(body)

    def do_GET(self) -> None:
        if type(self).refused and type(self).refuses_get:
            self._send(*type(self).refused, {})
            return
        self._answer(self.path)

    def _answer(self, body: str) -> None:
        type(self).seen.append(dict(self.headers))
        if "time%28%29" in body:
            now = time.time() + type(self).ahead_s
            data = {"resultType": "scalar", "result": [now, str(now)]} if type(self).clock is None else type(self).clock
            self._send(200, "application/json", json.dumps({"status": "success", "data": data}).encode(), {})
            return
        if type(self).drip:
            type(self).drip(self)
            return
        status, kind, content, headers = type(self).answer
        if callable(content):
            content = content()
        self._send(status, kind, content, headers)

    def _send(self, status: int, kind: str, content: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        self.send_header("Date", type(self).date or formatdate(time.time() + type(self).ahead_s, usegmt=True))
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
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield listening
    listening.shutdown()
    listening.server_close()
    thread.join(5)


@pytest.fixture
def options(server) -> PrometheusSource:
    Faulty.ahead_s, Faulty.seen = 0.0, []
    Faulty.clock = Faulty.date = Faulty.refused = Faulty.drip = None
    Faulty.refuses_get = False
    return PrometheusSource(url=f"http://127.0.0.1:{server.server_port}", selectors=ARMS, step=5, timeout=2)


def fetch(options: PrometheusSource):
    with connect(options) as source:
        return source.fetch(MEMORY, "canary", START, START + timedelta(seconds=60))


def as_json(**plain: object) -> bytes:
    return json.dumps(plain).encode()


MATRIX = {"resultType": "matrix", "result": [{"metric": {"instance": "a"}, "values": [[START.timestamp(), "1"]]}]}

FAULTS = [
    pytest.param((401, "text/plain", b"who?", {}), r"refuses us \(401\)", "auth", id="401"),
    pytest.param((403, "text/plain", b"no", {}), r"refuses us \(403\)", "auth", id="403"),
    pytest.param((429, "text/plain", b"slow down", {}), r"received too many requests \(429\)", "later", id="429"),
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
    pytest.param((200, "application/json", b"[" * 30_000, {}), "something else instead of JSON", "", id="nested"),
    pytest.param((405, "application/json", b"[" * 30_000, {}), "something else instead of JSON", "", id="nested-405"),
    pytest.param((200, "application/json", as_json(status="success"), {}), "it has no data", "query API", id="no-data"),
    *(
        pytest.param((200, "application/json", as_json(status="success", data=data), {}), message, "query API", id=name)
        for name, message, data in [
            ("null", "it has no data", None),
            ("text", "it has no data", "soon"),
            ("no-result", "it has no list of series", {"resultType": "matrix"}),
            ("null-result", "it has no list of series", {"resultType": "matrix", "result": None}),
            *(
                (f"series-{n}", "something other than series", {"resultType": "matrix", "result": result})
                for n, result in enumerate(
                    [
                        [None],
                        ["up"],
                        [{"values": [[1.0, "1"]]}],
                        [{"metric": None, "values": [[1.0, "1"]]}],
                        [{"metric": {"a": 1}, "values": [[1.0, "1"]]}],
                        [{"metric": {}, "values": 7}],
                        [{"metric": {}, "values": [["now", "1"]]}],
                        [{"metric": {}, "values": [["NaN", "1"]]}],
                        [{"metric": {}, "values": [[1e300, "1"]]}],
                        [{"metric": {}, "values": [[1.0, {"a": 1}]]}],
                        [{"metric": {}, "values": [[1.0]]}],
                        [{"metric": {}, "histograms": [[1.0, {"count": "1"}]]}],
                        [{"metric": {}, "histograms": [[1.0, None]]}],
                    ]
                )
            ),
        ]
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


def drip_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    drip_for_ever(handler, b"a")


def drip_body(handler):
    handler.send_response_only(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    drip_for_ever(handler, b" ")


def drip_until_closed(handler):
    """Without a length an answer that was cut looks whole."""
    handler.send_response_only(200)
    handler.end_headers()
    drip_for_ever(handler, b" ")


def drip_for_ever(handler, byte):
    with contextlib.suppress(OSError):
        for _ in range(100):
            handler.wfile.write(byte)
            handler.wfile.flush()
            time.sleep(0.2)


@pytest.mark.parametrize("drip", [drip_headers, drip_body, drip_until_closed])
def test_a_server_that_drips_is_cut_off_in_time(options, drip):
    """Each byte comes in time, the whole answer never does."""
    Faulty.drip = drip
    begun = time.monotonic()
    with pytest.raises(SourceError, match="did not answer within 1 s"):
        fetch(options.model_copy(update={"timeout": 1.0}))
    assert time.monotonic() - begun < 4


def send_for_ever(handler):
    handler.send_response_only(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b" " * (1 << 20))


def send_packed(handler):
    """1 MiB that unpacks to 1 GiB."""
    packer = zlib.compressobj(9, wbits=31)
    body = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(32)) + packer.flush()
    handler.send_response_only(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    with contextlib.suppress(OSError):
        handler.wfile.write(body)


@pytest.mark.parametrize("endless", [send_for_ever, send_packed])
def test_an_answer_that_is_too_large_is_cut_off(options, monkeypatch, endless):
    monkeypatch.setattr(transport, "LARGEST_ANSWER", 4 << 20)
    Faulty.drip = endless
    tracemalloc.start()
    with pytest.raises(SourceError, match="sent more than 4 MiB in one answer"):
        fetch(options.model_copy(update={"timeout": 20.0}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_an_answer_that_was_packed_without_a_request_is_unpacked(options):
    body = gzip.compress(as_json(status="success", data=MATRIX))
    Faulty.answer = (200, "application/json", body, {"Content-Encoding": "gzip"})
    assert len(fetch(options).series) == 1
    Faulty.answer = (200, "application/json", body[:20] + b"odd" + body[23:], {"Content-Encoding": "gzip"})
    with pytest.raises(SourceError, match=r"cannot be decompressed|instead of JSON"):
        fetch(options)
    Faulty.answer = (200, "application/json", body, {"Content-Encoding": "br"})
    with pytest.raises(SourceError, match="compresses its answers as br"):
        fetch(options)


@pytest.mark.parametrize("status", [400, 403, 405])
def test_where_a_proxy_refuses_post_the_server_is_queried_by_get(options, status):
    Faulty.refused = (status, "text/html", b"<h1>Method not allowed</h1>")
    Faulty.answer = (200, "application/json", as_json(status="success", data=MATRIX), {})
    answer = fetch(options.model_copy(update={"tenant": "team-a"}))
    assert len(answer.series) == 1
    assert Faulty.seen[-1]["X-Scope-OrgID"] == "team-a"


def test_a_refusal_by_get_as_well_is_an_error(options):
    Faulty.refused, Faulty.refuses_get = (403, "text/plain", b"no"), True
    with pytest.raises(SourceError, match=r"refuses us \(403\)"):
        fetch(options)


@pytest.mark.parametrize(
    "data",
    [
        {"resultType": "vector", "result": []},
        {"resultType": "scalar", "result": [1, "NaN"]},
        {"resultType": "scalar", "result": None},
        {"resultType": "scalar", "result": ["a"]},
        {},
        [],
        "now",
    ],
)
def test_a_server_that_does_not_know_the_time(options, data):
    Faulty.clock = data
    with pytest.raises(SourceError, match=r"has no time|has no data"):
        connect(options)


@pytest.mark.parametrize("date", ["yesterday", "Mon, 99 Foo 2026 99:99:99 GMT"])
def test_a_date_that_cannot_be_read_is_no_fault(options, date):
    Faulty.date = date
    with connect(options) as source:
        assert source.clock_offset_s == 0.0


def test_a_server_that_does_not_list_its_labels_has_not_shown_that_nothing_failed(options):
    """Large installations refuse to list series; the samples are collected all the same."""
    failures = Query('http_requests_total{$selector,code="500"}', QueryKind.COUNTER)

    def refuse_labels(handler):
        empty = as_json(status="success", data={"resultType": "matrix", "result": []})
        if "/series?" in handler.path:
            handler._send(422, "application/json", as_json(status="error", error="too many series"), {})
        else:
            handler._send(200, "application/json", empty, {})

    Faulty.drip = refuse_labels
    with connect(options) as source:
        answer = source.fetch(failures, "canary", START, START + timedelta(seconds=60))
    assert "whether it could find anything on canary is not known" in answer.impossible
    assert "too many series" in answer.impossible


def test_hints_are_notes_and_no_warnings(options):
    note = "PromQL info: metric might not be a counter"
    Faulty.answer = (200, "application/json", as_json(status="success", data=MATRIX, infos=[note], warnings=None), {})
    answer = fetch(options)
    assert (answer.notes, answer.warnings) == ((note,), ())


def test_samples_that_are_infinite_or_of_another_time_are_counted_and_left_out(options):
    at = START.timestamp()
    pairs = [[at - 3600, "1"], *([at + n, text] for n, text in enumerate(["1", "+Inf", "-Inf", "NaN", "2", "Inf"]))]
    data = {"resultType": "matrix", "result": [{"metric": {"instance": "a"}, "values": [*pairs, pairs[1]]}]}
    Faulty.answer = (200, "application/json", as_json(status="success", data=data), {})
    answer = fetch(options)
    assert (answer.read, answer.nan, answer.infinite, answer.repeated, answer.outside) == (8, 1, 3, 1, 1)
    assert answer.series[0].values.tolist() == [1.0, 2.0]


def test_a_server_that_is_down():
    gone = PrometheusSource(url=f"http://127.0.0.1:{free_port()}", selectors=ARMS, step=5)
    with pytest.raises(SourceError, match="cannot be reached: the connection was refused"):
        connect(gone)


def test_a_name_that_is_not_known():
    with pytest.raises(SourceError, match="its name cannot be resolved"):
        connect(PrometheusSource(url="http://prometheus.invalid:9090", selectors=ARMS, step=5))


def test_a_partial_answer_keeps_its_warnings(options):
    warning = "fetch series for {replica=b}: store is not available"
    Faulty.answer = (200, "application/json", as_json(status="success", data=MATRIX, warnings=[warning]), {})
    answer = fetch(options)
    assert answer.warnings == (warning,)
    assert len(answer.series) == 1


def test_warnings_of_another_shape_are_warnings(options):
    Faulty.answer = (200, "application/json", as_json(status="success", data=MATRIX, warnings={"store": "gone"}), {})
    assert fetch(options).warnings == ('{"store": "gone"}',)


def test_an_answer_that_is_cut_short_is_named(options):
    def send_half(handler):
        handler.send_response_only(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b'{"status":')
        handler.close_connection = True

    Faulty.drip = send_half
    with pytest.raises(SourceError, match="it ended the connection before its answer was complete"):
        fetch(options)


@pytest.mark.parametrize(("ahead_s", "says"), [(200_000.0, "56 h ahead of ours"), (-90_000.0, "25 h behind ours")])
def test_a_clock_that_is_days_off_is_no_clock(options, ahead_s, says):
    Faulty.ahead_s = ahead_s
    with pytest.raises(SourceError, match=says) as raised:
        connect(options)
    assert "NTP" in raised.value.hint


def test_a_time_that_is_days_before_the_date_of_the_answer_is_no_time(options):
    Faulty.clock = {"resultType": "scalar", "result": [1.0, "1"]}
    with pytest.raises(SourceError, match=r"answer to time\(\) that cannot be read: its time is .* h before the date"):
        connect(options)


def test_a_head_that_is_read_in_part_shows_no_traceback(options, caplog):
    Faulty.answer = (200, "application/json", as_json(status="success", data=MATRIX), {"Odd\r\nNo colon here": "1"})
    fetch(options)
    assert not caplog.records


@pytest.mark.parametrize("ahead_s", [-90.0, 45.0])
def test_a_clock_that_is_off_is_measured(options, ahead_s):
    Faulty.ahead_s = ahead_s
    with connect(options) as source:
        assert source.clock_offset_s == pytest.approx(ahead_s, abs=1.5)
        assert source.describe()["clock_offset_s"] == source.clock_offset_s
        assert (source.latest() - datetime.now(UTC)).total_seconds() == pytest.approx(ahead_s, abs=1.5)


def test_credentials_come_from_the_environment(options, monkeypatch):
    Faulty.answer = (200, "application/json", as_json(status="success", data=MATRIX), {})
    monkeypatch.setenv("TOKEN", "t0ken")
    monkeypatch.setenv("PASSWORD", "pa55")
    fetch(options.model_copy(update={"auth": TOKEN, "tenant": "team-a", "headers": {"X-Scope": "of ${TOKEN}"}}))
    assert Faulty.seen[-1]["Authorization"] == "Bearer t0ken"
    assert Faulty.seen[-1]["X-Scope-OrgID"] == "team-a"
    assert Faulty.seen[-1]["X-Scope"] == "of t0ken"
    assert Faulty.seen[-1]["Accept-Encoding"] == "identity"
    fetch(options.model_copy(update={"auth": Auth(basic=Basic(username="ann", password="${PASSWORD}"))}))
    assert Faulty.seen[-1]["Authorization"].startswith("Basic ")


def test_a_secret_that_is_not_set_is_named(options, monkeypatch):
    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(UsageError, match="TOKEN is not set") as raised:
        connect(options.model_copy(update={"auth": TOKEN}))
    assert "export TOKEN" in raised.value.hint
