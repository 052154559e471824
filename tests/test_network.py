"""The limits of one exchange over HTTP hold for every sender: a session, a session through a proxy, or the adapter."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import tracemalloc
import zlib

import pytest
import requests
from hooks_world import receiving, reply

from evaluator.hooks.network import TlsOptions, send
from evaluator.network import Adapter, ExchangeError
from evaluator.sources.load import free_port
from evaluator.sources.prometheus import PrometheusSource
from evaluator.sources.prometheus.client import Prometheus

LARGEST = 1000
ARMS = {"baseline": 'version="1"', "canary": 'version="2"'}


@pytest.fixture
def receiver():
    with receiving() as found:
        yield found


def get(url: str, timeout_s: float = 5.0, **options: object) -> requests.Response:
    adapter = Adapter(LARGEST, **options)
    try:
        return adapter.send(requests.Request("GET", url).prepare(), timeout=timeout_s)
    finally:
        adapter.close()


def drip(handler, _seen):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b".")
        time.sleep(0.05)


def test_one_byte_more_than_allowed_shows_that_there_was_more(receiver):
    for size, read in ((LARGEST - 1, LARGEST - 1), (LARGEST, LARGEST), (LARGEST + 500, LARGEST + 1)):
        receiver.answers = [reply(200, b"x" * size)]
        assert len(get(receiver.url).content) == read


def test_an_answer_takes_its_size_of_memory_once(receiver):
    size = 16 << 20
    receiver.answers = [reply(200, b"x" * size)]
    adapter = Adapter(size // 2)
    request = requests.Request("GET", receiver.url).prepare()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    try:
        assert len(adapter.send(request, timeout=20.0).content) == size // 2 + 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        adapter.close()
    assert peak - before < 0.75 * size


def test_what_is_packed_is_unpacked_up_to_the_limit(receiver):
    receiver.answers = [reply(200, zlib.compress(b"x" * 1_000_000), **{"Content-Encoding": "deflate"})]
    assert get(receiver.url).content == b"x" * (LARGEST + 1)
    receiver.answers = [reply(200, b"no zlib", **{"Content-Encoding": "deflate"})]
    with pytest.raises(ExchangeError) as raised:
        get(receiver.url)
    assert isinstance(raised.value.__cause__, zlib.error)


def test_an_answer_that_is_refused_for_its_head_is_closed(receiver):
    """Its connection must not wait for the garbage collector."""
    ended = threading.Event()

    def answer(handler, seen):
        reply(200, b"{}", **{"Content-Length": "1"})(handler, seen)  # and a second one, 2
        with contextlib.suppress(ConnectionError):  # what was not read is refused
            handler.rfile.read()
        ended.set()

    receiver.answers = [answer]
    with pytest.raises(ExchangeError, match="Content-Length") as raised:
        get(receiver.url)
    assert ended.wait(10)
    assert raised.value.reached  # the error keeps all objects of the exchange until here


@pytest.mark.parametrize("sent", [b"HTTP/1.1 200 OK\r\nDate: x\r\n", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r\nCon"])
def test_a_head_that_breaks_off_is_no_answer(receiver, sent):
    """Nothing shows whether a body would have followed."""
    receiver.answers = [lambda handler, _seen: handler.wfile.write(sent)]
    with pytest.raises(ExchangeError) as raised:
        get(receiver.url)
    assert (raised.value.why, raised.value.reached) == ("IncompleteRead", True)


def test_an_address_that_refuses_gives_way_to_the_next(receiver, monkeypatch):
    asked = []
    real = socket.create_connection
    monkeypatch.setattr(
        "urllib3.util.connection.create_connection", lambda at, *a, **k: asked.append(at[0]) or real(at, a[0])
    )
    assert get(f"http://name.example:{receiver.port}/", addresses=["127.0.0.77", "127.0.0.1"]).ok
    assert asked == ["127.0.0.77", "127.0.0.1"]
    assert receiver.requests[0].headers["host"] == f"name.example:{receiver.port}"


def test_nothing_was_sent_to_a_closed_port():
    with pytest.raises(ExchangeError, match="refused") as raised:
        get(f"http://127.0.0.1:{free_port()}/")
    assert not raised.value.reached
    with pytest.raises(ExchangeError) as raised:
        get("http://127.0.0.1:9/", timeout_s=-1)
    assert (raised.value.reached, raised.value.why) == (False, "no time was left")


def test_the_time_holds_through_a_proxy(receiver, monkeypatch):
    """The receiver is the proxy: it is sent the whole address."""
    monkeypatch.setenv("HTTP_PROXY", receiver.url)
    source = Prometheus(PrometheusSource(url="http://prometheus.invalid:9090", selectors=ARMS, timeout=0.5))
    receiver.answers = [drip]
    began = time.monotonic()
    with source, pytest.raises(Exception, match=r"did not answer within 0\.5 s"):
        source.learn_clock()
    assert time.monotonic() - began < 2
    assert receiver.requests[0].path == "http://prometheus.invalid:9090/api/v1/query"


def test_hooks_use_no_proxy_of_the_environment(receiver, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    assert send("GET", receiver.url, TlsOptions(allow_hosts=["127.0.0.1"])).ok


def test_prometheus_connect_cannot_send_without_limits():
    with Prometheus(PrometheusSource(url="http://127.0.0.1:9090/prefix", selectors=ARMS)) as source:
        assert isinstance(source._session.get_adapter("http://127.0.0.1:9090/prefix/api/v1/query"), Adapter)
        assert isinstance(source._session.get_adapter("https://elsewhere/"), Adapter)
