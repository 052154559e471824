"""What the guard meets: a real HAProxy, versions that break in many ways, users, and the guard as a process."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from metrics_servers import program, wait_for
from routers import Router, ask_haproxy, haproxy_router, service

from evaluator.errors import HookError, NotReached
from evaluator.guard.client import GuardClient
from evaluator.guard.setup import GuardedService, GuardSetup, GuardStatus
from evaluator.records.rollouts import GuardLimits

ARMS = {"baseline": ["b1"], "canary": ["c1"]}
HALF = {"baseline": 0.5, "canary": 0.5}
BASELINE = {"baseline": 1.0, "canary": 0.0}
QUICK = GuardLimits(failures=0.05, over_s=3, least=20, health_s=0.5)
"""Limits of tests: all is seen in a few seconds."""


# ------------------------------------------------------------------ a version that breaks


@dataclass
class Version:
    """A version of a service whose behaviour can be changed."""

    port: int
    mode: str = "healthy"
    """healthy, failing (each request), half (every second fails), hanging, resetting, slow (300 ms)."""
    requests: int = 0
    stop: Callable[[], None] = lambda: None


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps its connections, and writes no log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


class QuietServer(ThreadingHTTPServer):
    """Takes the connections of many users at once."""

    daemon_threads = True
    request_queue_size = 200

    def handle_error(self, *_):
        pass


@contextlib.contextmanager
def version() -> Iterator[Version]:
    """A version that answers 200 until its `mode` is changed."""
    hanging = threading.Event()

    class Handler(QuietHandler):
        def do_GET(self):
            made.requests += 1
            mode = made.mode
            if mode == "hanging":
                hanging.wait(120)
            if mode == "slow":
                time.sleep(0.3)
            if mode == "resetting":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            fails = mode == "failing" or (mode == "half" and made.requests % 2)
            self.send_response(503 if fails else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

    server = QuietServer(("127.0.0.1", 0), Handler)
    made = Version(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stopped = threading.Event()

    def stop():
        """Kill it: connections are refused from now on."""
        if not stopped.is_set():
            stopped.set()
            server.shutdown()
            server.server_close()

    made.stop = stop
    try:
        yield made
    finally:
        hanging.set()
        stop()
        thread.join(5)


# ------------------------------------------------------------------ users


@dataclass
class Users:
    """Users who send requests at a rate, whether earlier ones were answered or not."""

    sent: int = 0
    statuses: list[int] = field(default_factory=list)


@contextlib.contextmanager
def users(port: int, per_s: float, timeout: float = 70) -> Iterator[Users]:
    """Send `per_s` requests a second to a router, until the block ends."""
    made, ended = Users(), threading.Event()

    def ask():
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
            with contextlib.closing(connection):
                connection.request("GET", "/")
                made.statuses.append(connection.getresponse().status)

    def send():
        at = time.monotonic()
        while not ended.is_set():
            made.sent += 1
            threading.Thread(target=ask, daemon=True).start()
            at += random.expovariate(per_s)
            ended.wait(max(at - time.monotonic(), 0))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        ended.set()
        thread.join(5)


# ------------------------------------------------------------------ the guard


@dataclass
class World:
    """HAProxy in front of a baseline and a canary, and the guard of a store."""

    folder: Path
    router: Router
    canary: Version
    guard: subprocess.Popen[bytes] | None = None
    arms: Mapping[str, list[str]] = field(default_factory=lambda: ARMS)
    key: str = ""
    """Of its rollout: tests that share a world each have their own."""

    @property
    def store(self) -> Path:
        return self.folder / "evaluator.duckdb"

    @property
    def client(self) -> GuardClient:
        return GuardClient(self.store)

    def setup(self, limits: GuardLimits = QUICK, lease_s: float = 60, **changed) -> GuardSetup:
        fields = {
            "service": "cart",
            "kind": "haproxy",
            "options": {"socket": str(self.router.stats_socket), "backend": "shop", "servers": self.arms},
            "access_log": self.router.log,
            "log": {"arms": {"baseline": ["b*"], "canary": ["c*"]}},
        }
        return GuardSetup("r1", "cart@1.5.0", (GuardedService(**(fields | changed)),), limits, lease_s, self.key)

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the guard, and wait until it answers."""
        with (self.folder / "guard.out").open("ab") as output:
            self.guard = subprocess.Popen(
                [sys.executable, "-m", "evaluator.guard", "--store", str(self.store)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )
        wait_for(self.answers, "the guard")

    def begin(self, **changed) -> None:
        """Open the rollout, and give the canary half of the traffic."""
        self.client.open(self.setup(**changed))
        realised = self.client.set_shares("r1", "cart", HALF, {"step": "50 %"})
        for shares in (realised.shares, self.shares()):
            assert all(abs(shares[arm] - share) < 0.01 for arm, share in HALF.items()), shares

    def end_rollout(self) -> None:
        """End the rollout of a test, so that the next one finds the world as it was made."""
        self.canary.mode = "healthy"
        with contextlib.suppress(HookError):
            self.client.back("r1", "the test has ended", "test")
            wait_for(lambda: self.client.look("r1").is_returned, "the traffic is back")
            self.client.close("r1")
        for line in ("set weight shop/b1 100", "set weight shop/c1 0", "set server shop/b1 state ready"):
            self.command(line)

    def answers(self) -> bool:
        try:
            return bool(self.guard) and self.client.ping()["pid"] == self.guard.pid
        except (NotReached, HookError):
            assert self.guard is None or self.guard.poll() is None, (self.folder / "guard.out").read_text()
            return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.guard is not None:
            self.guard.send_signal(number)
            self.guard.wait(40)
            self.guard = None

    def output(self) -> str:
        return (self.folder / "guard.out").read_text()

    def shares(self) -> dict[str, float]:
        """Weights as HAProxy has them, not as the guard says."""
        answer = self.command("show servers state shop")
        rows = [line.split() for line in answer.splitlines() if line[:1].isdigit() and " " in line]
        weights = {row[3]: int(row[7]) for row in rows}
        return {arm: sum(weights[name] for name in names) / sum(weights.values()) for arm, names in self.arms.items()}

    def command(self, line: str) -> str:
        return ask_haproxy(self.router.stats_socket, line)

    def wait_for_back(self, limit_s: float) -> tuple[float, GuardStatus]:
        """Wait until HAProxy itself gives the canary nothing; returns the time and the status."""
        began = time.monotonic()
        while self.shares()["canary"] > 0:
            assert time.monotonic() < began + limit_s, self.output() + str(self.client.look("r1"))
            time.sleep(0.05)
        took_s = time.monotonic() - began
        wait_for(lambda: self.client.look("r1").is_returned, "the guard reads the router back")
        return took_s, self.client.look("r1")


def reload_haproxy(
    made: World, *, keep: bool = False, pause_s: float = 0.0, wait: bool = True
) -> subprocess.Popen[bytes]:
    """Replace the process of HAProxy, as a reload does, or as a restart does that takes some time; returns the old one.

    `keep`: with the state of its servers, as `server-state-file` keeps it. `wait`: for the end of the old process,
    which comes when all its requests have been answered.
    """
    config = made.folder / "haproxy.cfg"
    if keep and "server-state-file" not in config.read_text():
        lines = config.read_text().replace("global\n", f"global\n  server-state-file {made.folder}/state\n", 1)
        config.write_text(lines.replace("defaults\n", "defaults\n  load-server-state-from-file global\n", 1))
    (made.folder / "state").write_text(made.command("show servers state") + "\n")
    old = made.router.process
    finish = ["-sf", str(old.pid)]
    if pause_s:
        old.terminate()
        old.wait(5)
        time.sleep(pause_s)
        finish = []
    with made.router.log.open("ab") as log:
        command = [program("haproxy"), "-db", "-f", str(config), *finish]
        made.router.process = subprocess.Popen(command, stdout=log, stderr=subprocess.DEVNULL)
    if wait:
        old.wait(10)
    return old


@contextlib.contextmanager
def world(folder: Path, others: Sequence[str] = (), canary_weight: int = 0, **options) -> Iterator[World]:
    """HAProxy in front of a baseline and a canary that has no weight yet.

    `others`: names of further servers of the baseline. `canary_weight`: in the configuration. `options`: of
    `haproxy_router`.
    """
    with service("b1") as baseline, version() as canary:
        ports = {"b1": baseline.port, **dict.fromkeys(others, baseline.port), "c1": canary.port}
        weights = {**dict.fromkeys(ports, 100), "c1": canary_weight}
        options = {"backend": "timeout server 60s"} | options
        with haproxy_router(folder, ports, weights=weights, **options) as router:
            made = World(folder, router, canary, arms={**ARMS, "baseline": ["b1", *others]})
            try:
                yield made
            finally:
                made.kill()
