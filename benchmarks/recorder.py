"""CPU time per request of one Locust process with and without the recorder, in interleaved pairs.

python benchmarks/recorder.py [--pairs 40]

The recorder's listener and its watch over the client are switched on and off every half second in one running process,
in alternating order. The recorded rows are written at the end of each "on" phase. So both phases of a pair run under
the same conditions; two processes, minutes apart, would not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import stats

from evaluator.sources.load import free_port

TO_REACH = 1.05

LOCUSTFILE = """
import json, os, time
from pathlib import Path

import gevent
from locust import FastHttpUser, constant, events, task
from locust.contrib.fasthttp import FastHttpSession, ResponseContextManager

from evaluator.segments import SegmentWriter
from evaluator.sources.locust.open_requests import OpenRequests
from evaluator.sources.request_buffer import RequestBuffer


class Web(FastHttpUser):
    wait_time = constant(0)

    def context(self):
        return {"arm": "canary", "instance": "i1"}

    @task
    def products(self):
        self.client.get("/products")


CONSTANTS = {"run": "r", "service": "", "worker": "w"}
buffer, writer = RequestBuffer(header="X-Instance"), SegmentWriter(Path("segments"), "w0")
listener = buffer.listen()
plain = FastHttpSession.request
OpenRequests(buffer).watch(FastHttpSession, ResponseContextManager)
watched = FastHttpSession.request


def flush():
    writer.write(buffer.take(CONSTANTS, {"canary": 10}))


listener("GET", "/", 1.0, 1, context={"arm": "canary"}, start_time=1.0)
flush()  # the first write of a process is slow; the recorder does it before the load starts


def measure(environment, recorded):
    FastHttpSession.request = watched if recorded else plain
    begun, before = time.process_time(), environment.stats.total.num_requests
    if recorded:
        environment.events.request.add_listener(listener)
    gevent.sleep(0.5)
    if recorded:
        environment.events.request.remove_listener(listener)
        flush()
    return (time.process_time() - begun) / (environment.stats.total.num_requests - before) * 1e6


def take_turns(environment):
    gevent.sleep(1.5)
    pairs = []
    for number in range(int(os.environ["PAIRS"])):
        first = bool(number % 2)
        costs = {state: measure(environment, state) for state in (first, not first)}
        pairs.append([costs[True], costs[False]])
    Path("pairs.json").write_text(json.dumps(pairs))
    environment.runner.quit()


@events.test_start.add_listener
def begin(environment, **_):
    gevent.spawn(take_turns, environment)
"""

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\nX-Instance: i1\r\n\r\n" + b"x" * 100


class Answer(asyncio.Protocol):
    """A server that answers at once, so that only Locust is measured."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection for the answers."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request."""
        self.transport.write(RESPONSE * data.count(b"\r\n\r\n"))  # type: ignore[attr-defined]


async def serve(port: int) -> None:
    """Serve until the process is killed."""
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", port)
    await server.serve_forever()


def measure_pairs(pairs: int, port: int) -> np.ndarray:
    """Return the CPU time per request (µs) with and without the recorder, shape (pairs, 2)."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "locustfile.py").write_text(LOCUSTFILE, encoding="utf-8")
        command = [sys.executable, "-m", "locust", "-f", "locustfile.py", "--headless", "--only-summary"]
        command += ["-u", "10", "-r", "10", "--host", f"http://127.0.0.1:{port}"]
        subprocess.run(command, cwd=name, env=os.environ | {"PAIRS": str(pairs)}, check=True, capture_output=True)
        return np.array(json.loads((Path(name) / "pairs.json").read_text()))


def main() -> None:
    """Print the ratio of CPU times with its 95 % interval, and the promise."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return
    port = free_port()
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(port)])
    try:
        time.sleep(1)
        costs = measure_pairs(options.pairs, port)
    finally:
        server.kill()
        server.wait()
    logs = np.log(costs[:, 0] / costs[:, 1])
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    middle, low, high = (float(np.exp(logs.mean() + part)) for part in (0.0, -half, half))
    print(f"{'CPU per request, with / without recorder':<60}  {middle:.3f} ({low:.3f} … {high:.3f})  ≤ {TO_REACH}")
    print(f"  {'without recorder: µs per request (pairs)':<58}  {costs[:, 1].mean():.1f} ({len(logs)})")


if __name__ == "__main__":
    main()
