"""CPU per request of one Locust process with and without the recorder, in interleaved pairs.

python benchmarks/recorder.py [--pairs 10] [--seconds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import stats

TO_REACH = 1.05

LOCUSTFILE = """
import json, time
from locust import FastHttpUser, constant, events, task

class Web(FastHttpUser):
    wait_time = constant(0)

    def context(self):
        return {"arm": "canary"}

    @task
    def products(self):
        self.client.get("/products")

@events.test_start.add_listener
def begin(environment, **_):
    environment.cpu_s = time.process_time()

@events.test_stop.add_listener
def end(environment, **_):
    used_s = time.process_time() - environment.cpu_s
    with open("used.json", "w") as file:
        json.dump({"cpu_s": used_s, "requests": environment.stats.total.num_requests}, file)
"""

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\nX-Instance: i1\r\n\r\n" + b"x" * 100


class Answer(asyncio.Protocol):
    """Answers at once: what is measured is Locust."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember whom to answer."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request."""
        self.transport.write(RESPONSE * data.count(b"\r\n\r\n"))  # type: ignore[attr-defined]


async def serve(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", port)
    await server.serve_forever()


def measure(module: str, folder: Path, port: int, seconds: float) -> float:
    """Run Locust once; return its CPU per request (µs)."""
    command = [sys.executable, "-m", module, "-f", "locustfile.py", "--headless", "--only-summary"]
    command += ["-u", "10", "-r", "10", "-t", f"{seconds:g}s", "--host", f"http://127.0.0.1:{port}"]
    environment = os.environ | {"EVALUATOR_RELEASE": "bench", "EVALUATOR_ARM": "canary"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    used = json.loads((folder / "used.json").read_text())
    return float(used["cpu_s"] / used["requests"] * 1e6)


def main() -> None:
    """Measure pairs, alternating which comes first, and print the ratio with its 95 % interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve))
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(port)])
    try:
        time.sleep(1)
        ratios, plain = run_pairs(port, given.pairs, given.seconds)
    finally:
        server.terminate()
        server.wait()
    logs = np.log(ratios)
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    low, middle, high = np.exp([logs.mean() - half, logs.mean(), logs.mean() + half])
    print(f"{'CPU per request with recorder / without':60} {middle:6.3f} ({low:.3f} … {high:.3f})  ≤ {TO_REACH}")
    print(f"{'  without: µs a request, pairs':60} {np.mean(plain):6.1f} ({len(ratios)})")


def run_pairs(port: int, pairs: int, seconds: float) -> tuple[list[float], list[float]]:
    """Measure both sides of each pair in one folder; return the ratios and the plain side's µs a request."""
    ratios, plain = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "locustfile.py").write_text(LOCUSTFILE)
        for pair in range(pairs):
            order = ["locust", "evaluator.sources.locust"]
            used = {module: measure(module, folder, port, seconds) for module in (order if pair % 2 else order[::-1])}
            ratios.append(used["evaluator.sources.locust"] / used["locust"])
            plain.append(used["locust"])
    return ratios, plain


if __name__ == "__main__":
    main()
