"""The sample service "shop": a few endpoints with known latencies, and regressions that can be switched on.

    python loadtests/target.py --port 8801 --instance canary-1 --version 1.5.0 --regression tail

With `--etcd HOST:PORT --configuration-key KEY` it reads a setting from etcd, again and again: `{"page": 20}`, the
number of products on a page. A page of GET /products takes as long as it has products.

It answers after a sleep drawn from a log-normal distribution that is fixed per endpoint, so that the sleep and not the
machine determines how long a request takes: two instances without a regression differ only by chance. With `--metrics`
it counts its requests for Prometheus under /metrics (needs prometheus-client).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import http.client
import json
import math
import os
import random
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

LATENCY_MS = {
    "GET /products": 60.0,
    "GET /products/{id}": 40.0,
    "POST /cart": 80.0,
    "POST /checkout": 150.0,
    "GET /health": 0.0,
}
"""Endpoint → median of the latency."""

SPREAD = 0.25
"""Standard deviation of the logarithm of a latency: the 99th percentile is 1.8 medians."""

TAIL_SHARE = 0.015
"""Share of the requests that the regression `tail` slows down."""
LEAK_GROWTH = 0.4
"""Relative growth of the latency at the end of the regression `leak`."""
HANG_FACTOR = 1e4
"""Factor on the latency of the regression `hang`: nobody waits that long."""
POOL_PER_S = 30
"""Requests per second that an instance with the regression `overload` can answer."""
LIFE_S = 8.0
"""Time (s) from the first request until an instance with the regression `dies` ends."""
PARENT_CHECK_S = 1.0
"""How often (s) it is checked that the process which this one ends with still runs."""


PAGE = 20
"""Products on a page of GET /products, unless the configuration has another number; its latency is that of so many."""
MOST_PRODUCTS = 1000
CONFIGURATION_S = 0.5
"""Time (s) after which the configuration is read again."""


class Configuration:
    """What etcd has of the service. What cannot be read, or cannot be meant, changes nothing."""

    def __init__(self, address: str = "", key: str = "") -> None:
        """Read it now, and again and again in a thread. `address`: HOST:PORT; empty: all is as by default."""
        self.page = PAGE
        self._address, self._key = address, key
        if address:
            self._read()
            threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        """Read it until the process ends."""
        while True:
            time.sleep(CONFIGURATION_S)
            self._read()

    def _read(self) -> None:
        """Read it once, through the JSON gateway of etcd: keys and values are base64, and what is absent is none."""
        question = json.dumps({"key": base64.b64encode(self._key.encode()).decode()})
        with (
            contextlib.suppress(OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError),
            contextlib.closing(http.client.HTTPConnection(self._address, timeout=2)) as connection,
        ):
            connection.request("POST", "/v3/kv/range", question)
            entries = json.load(connection.getresponse()).get("kvs")
            page = int(json.loads(base64.b64decode(entries[0]["value"]))["page"]) if entries else PAGE
            self.page = page if 0 < page <= MOST_PRODUCTS else self.page


@dataclass(frozen=True, slots=True)
class Draw:
    """One answer before it is sent, as input of the regressions. `z` is the latency's standard normal score."""

    endpoint: str
    z: float
    age: float
    """Share of the leak's time that has passed: 0 at the first request, 1 at the end."""


REGRESSIONS: dict[str, Callable[[Draw], float]] = {
    "none": lambda _: 1.0,
    "latency": lambda _: 1.2,
    "tail": lambda draw: 4.0 if draw.z > NormalDist().inv_cdf(1 - TAIL_SHARE) else 1.0,
    "failures": lambda _: 1.0,
    "endpoint": lambda draw: 1.5 if draw.endpoint == "POST /checkout" else 1.0,
    "leak": lambda draw: 1.0 + LEAK_GROWTH * min(draw.age, 1.0),
    "errors": lambda _: 1.0,
    "slower": lambda _: 1.4,
    "overload": lambda _: 1.0,
    "hang": lambda _: HANG_FACTOR,
    "dies": lambda _: 1.0,
}
"""Regression → factor on the latency. Requests of /health are answered at once, whatever the regression."""

FAILURE_SHARE = {"failures": 0.02, "errors": 0.1}
"""Share of the requests that fail."""
OVERLOAD_SHARE = 0.5
"""Share of the requests that fail while an instance with the regression `overload` gets too many."""
OVERLOAD_WINDOW_S = 2.0


BOUNDS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Bounds of the histogram of response times."""


class Metrics:
    """The metrics for Prometheus: requests by endpoint and status, and a histogram of their times."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest

        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        labels = ("method", "handler", "code")
        self._requests = Counter("http_requests", "Requests answered.", labels, registry=self._registry)
        self._seconds = Histogram(
            "http_request_duration_seconds",
            "Time to answer.",
            ("method", "handler"),
            buckets=BOUNDS_S,
            registry=self._registry,
        )
        self._write = generate_latest

    def count(self, endpoint: str, status: int, seconds: float) -> None:
        """Count one request, such as `GET /products`, and the time of its answer."""
        method, handler = endpoint.split(" ", 1)
        self._requests.labels(method, handler, str(status)).inc()
        self._seconds.labels(method, handler).observe(seconds)

    def page(self) -> bytes:
        """Return the page that Prometheus reads."""
        return bytes(self._write(self._registry))


class Shop:
    """The behaviour of the service, without sockets."""

    def __init__(
        self,
        instance: str,
        version: str,
        regression: str,
        seed: int,
        leak_over_s: float,
        metrics: Metrics | None = None,
        configuration: Configuration | None = None,
        buyers: float | None = None,
    ) -> None:
        """Behave with one of REGRESSIONS; instances with the same `seed` and name draw the same latencies.

        `buyers`: share of the visitors that this version leads to buy; None: it does not say.
        """
        self.instance = instance
        self.version = version
        self.regression = regression
        self.leak_over_s = leak_over_s
        """Time (s) in which the leak grows to its full size."""
        self._buyers = "" if buyers is None else f"X-Buyers: {buyers:g}\r\n"
        self._metrics = metrics
        self._configuration = configuration or Configuration()
        self._random = random.Random(f"{seed}/{instance}")
        self._slow_down = REGRESSIONS[regression]
        self._failure_share = FAILURE_SHARE.get(regression, 0.0)
        self._first_request_at: float | None = None
        """Monotonic time (s) of the first request; `None` before it."""
        self._newest: deque[float] = deque()
        """Monotonic times (s) of the requests of the last moments."""

    def answer(self, method: str, path: str) -> tuple[float, bytes]:
        """Draw an answer: returns the seconds to wait, and the HTTP response to send then."""
        endpoint = _name_endpoint(method, path)
        if self._metrics and endpoint == "GET /metrics":
            return 0.0, self._build_response(200, "text/plain; version=0.0.4", self._metrics.page())
        if endpoint not in LATENCY_MS:
            return 0.0, self._build_json_response(404, {"error": "no such page"})
        if endpoint == "GET /health":
            if self._metrics:
                self._metrics.count(endpoint, 200, 0.0)
            return 0.0, self._build_json_response(200, {"endpoint": endpoint, "version": self.version})
        now = time.monotonic()
        if self._first_request_at is None:
            self._first_request_at = now
        draw = Draw(endpoint, z=self._random.gauss(), age=(now - self._first_request_at) / self.leak_over_s)
        seconds = LATENCY_MS[endpoint] / 1000 * math.exp(SPREAD * draw.z) * self._slow_down(draw)
        if endpoint == "GET /products":
            seconds *= self._configuration.page / PAGE
        failed = self._random.random() < self._find_failure_share(now)
        if self.regression == "dies" and now - self._first_request_at > LIFE_S:
            os._exit(1)  # in the middle of all its requests, as a crash does
        if self._metrics:
            self._metrics.count(endpoint, 500 if failed else 200, seconds)
        if failed:
            return seconds, self._build_json_response(500, {"error": "out of luck"})
        return seconds, self._build_json_response(200, {"endpoint": endpoint, "version": self.version})

    def _find_failure_share(self, now: float) -> float:
        """Find the share of requests that fail at this moment (monotonic, s)."""
        if self.regression != "overload":
            return self._failure_share
        self._newest.append(now)
        while self._newest[0] < now - OVERLOAD_WINDOW_S:
            self._newest.popleft()
        return OVERLOAD_SHARE if len(self._newest) > POOL_PER_S * OVERLOAD_WINDOW_S else 0.0

    def _build_json_response(self, status: int, body: dict[str, str]) -> bytes:
        return self._build_response(status, "application/json", json.dumps(body).encode())

    def _build_response(self, status: int, content_type: str, content: bytes) -> bytes:
        """Build an HTTP response, in whose header the instance and its version name themselves."""
        head = (
            f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(content)}\r\nX-Instance: {self.instance}\r\nX-Version: {self.version}\r\n"
            f"{self._buyers}\r\n"
        )
        return head.encode() + content


def _name_endpoint(method: str, path: str) -> str:
    """Return method and route: the path without its query, and with `{id}` in place of the id of a product."""
    route = re.sub("^/products/[^/]+$", "/products/{id}", path.partition("?")[0])
    return f"{method} {route}"


class Connection(asyncio.Protocol):
    """One keep-alive connection: requests are answered one after another. Costs very little CPU."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._received = b""
        """Data that were received and not answered yet."""
        self._is_answering = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport for the answers."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect data, and answer as soon as they are a complete request."""
        self._received += data
        if not self._is_answering:
            self._answer_next()

    def _answer_next(self) -> None:
        """Take a request from the data that were received, and plan its answer; do nothing if it is incomplete."""
        head, separator, after_head = self._received.partition(b"\r\n\r\n")
        length_header = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        body_length = int(length_header[1]) if length_header else 0
        if not separator or len(after_head) < body_length:
            return
        self._received = after_head[body_length:]
        self._is_answering = True
        request_line = head.split(b"\r\n", 1)[0].decode("latin-1")
        method, path, *_ = request_line.split(" ")
        seconds, response = self._shop.answer(method, path)
        asyncio.get_running_loop().call_later(seconds, self._send, response)

    def _send(self, response: bytes) -> None:
        """Send an answer, unless the client has gone, then answer the request that has come meanwhile."""
        self._is_answering = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(response)
            self._answer_next()


async def serve(shop: Shop, port: int, is_needed: Callable[[], bool]) -> None:
    """Serve on loopback until SIGTERM or Ctrl-C, or until it is no longer needed, which is asked each second."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(shop), "127.0.0.1", port, backlog=1024)
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    while not stop.is_set() and is_needed():
        try:
            await asyncio.wait_for(stop.wait(), PARENT_CHECK_S)
        except TimeoutError:
            continue
    server.close()


def is_running(process_id: int) -> bool:
    """Does a process run? Any process, also one of another user, or one that has ended and nobody waited for."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _make_check(options: argparse.Namespace) -> Callable[[], bool]:
    """Make the function that tells whether the processes that were named still run."""

    def is_needed() -> bool:
        # If the parent ends, this process gets another parent.
        if options.parent is not None and os.getppid() != options.parent:
            return False
        return options.end_with is None or is_running(options.end_with)

    return is_needed


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="The sample service 'shop'.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--instance", default="shop-1", help="sent back as X-Instance")
    parser.add_argument("--version", default="1.0.0", help="sent back as X-Version")
    parser.add_argument("--regression", choices=sorted(REGRESSIONS), default="none")
    parser.add_argument(
        "--leak-over", type=float, default=60.0, metavar="S", help="time in which the leak grows to 40 %%"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--metrics", action="store_true", help="count requests for Prometheus under /metrics")
    parser.add_argument("--etcd", default="", metavar="HOST:PORT", help="where its configuration is read from")
    parser.add_argument("--configuration-key", default="", metavar="KEY", help="the key in etcd")
    parser.add_argument("--buyers", type=float, metavar="SHARE", help="share of its visitors that buy, for visitors.py")
    parser.add_argument("--parent", type=int, help="end when this process, the parent, has ended")
    parser.add_argument("--end-with", type=int, help="end when this process, which is not the parent, has ended")
    options = parser.parse_args(arguments)
    metrics = Metrics() if options.metrics else None
    configuration = Configuration(options.etcd, options.configuration_key)
    shop = Shop(
        options.instance,
        options.version,
        options.regression,
        options.seed,
        options.leak_over,
        metrics,
        configuration,
        options.buyers,
    )
    asyncio.run(serve(shop, options.port, _make_check(options)))


if __name__ == "__main__":
    main()
