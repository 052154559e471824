"""Instances that programs replace, behind a real HAProxy: what a rolling rollout meets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guard_world import QuietHandler, QuietServer, Users, users
from routers import Router, haproxy_router

from evaluator.errors import NotReached
from evaluator.guard.client import GuardClient

OLD, NEW = "1.4.1", "1.5.0"
REPLACE = """\
import pathlib, sys
instance, version = sys.argv[1:]
with open("replaced.log", "a") as log:
    log.write(f"{instance} {version}\\n")
refused = pathlib.Path("refuses")
if refused.exists() and f"{instance} {version}" in refused.read_text().splitlines():
    pathlib.Path("versions", instance).write_text("broken")
    sys.exit(f"no room for {version} on {instance}")
pathlib.Path("versions", instance).write_text(version)
"""
HEALTH = """\
import json, sys, urllib.request
instance, version = sys.argv[1:]
port = json.load(open("ports.json"))[instance]
with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
    found = answer.headers["X-Version"]
sys.exit(f"{instance} has {found}, not {version}" if found != version else 0)
"""


PATIENT = "timeout server 60s\n  timeout connect 10s\n  timeout queue 30s"
"""Of HAProxy's backend: on a busy machine an answer takes seconds, and that is no failure of the rollout."""


@dataclass
class RollingWorld:
    """A service of several instances, its users, and the folder of its policy."""

    folder: Path
    router: Router
    names: Sequence[str]
    bad: set[str] = field(default_factory=set)
    """Versions of which half of the requests fail."""

    def versions(self) -> dict[str, str]:
        return {name: (self.folder / "versions" / name).read_text() for name in self.names}

    def states(self) -> dict[str, str]:
        """Instance → UP, DRAIN, MAINT …, as HAProxy says."""
        rows = [line.split(",") for line in self.command("show stat shop 4 -1").splitlines()]
        name, status = rows[0].index("svname"), rows[0].index("status")
        return {row[name]: row[status].split()[0] for row in rows[1:] if len(row) > status}

    def command(self, line: str) -> str:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.connect(str(self.router.stats_socket))
            connection.sendall(line.encode() + b"\n")
            with connection.makefile("rb") as answer:
                return answer.read().decode()

    def replaced(self) -> list[str]:
        """Instance and version, in the order of the replacements."""
        path = self.folder / "replaced.log"
        return path.read_text().splitlines() if path.exists() else []

    def refuse(self, *what: str) -> None:
        """Let the program fail that gives an instance a version: `s2 1.5.0`."""
        (self.folder / "refuses").write_text("\n".join(what))

    def write_policy(self, stages: Sequence[Mapping], **instances) -> None:
        how = {
            "least_serving": 1,
            "drain": "5s",
            "healthy_within": "5s",
            "replace": [
                {
                    "command": {
                        "run": [sys.executable, "replace.py", "${instance}", "${version}"],
                        "undo": [sys.executable, "replace.py", "${instance}", "${baseline}"],
                        "idempotent": True,  # a driver that is killed while it runs asks nobody
                    }
                }
            ],
            "health": [{"command": {"run": [sys.executable, "health.py", "${instance}", "${version}"]}}],
        }
        router = {"socket": str(self.router.stats_socket), "backend": "shop", "instances": list(self.names)}
        policy = {
            "service": "cart",
            "sources": {"access_log": {"format": "haproxy"}},
            "rollout": {
                "strategy": "rolling",
                "lease": "20s",
                "router": {"cart": {"haproxy": router}},
                "instances": how | instances,
                "live": {"access_log": str(self.router.log), "lateness": "1s"},
                "guard": {"over": "3s", "least": 20, "health": "500ms"},
                "stages": list(stages),
            },
        }
        (self.folder / "evaluator.yaml").write_text(json.dumps(policy))


@contextlib.contextmanager
def instance(name: str, folder: Path, bad: set[str]) -> Iterator[int]:
    """One instance, whose version is in a file; yields its port."""
    count = 0

    class Handler(QuietHandler):
        def do_GET(self):  # noqa: N802 - the name that the server calls
            nonlocal count
            count += 1
            version = (folder / "versions" / name).read_text()
            if self.path == "/long":
                time.sleep(3)
            fails = version == "broken" or (version in bad and self.path != "/health" and count % 2)
            self.send_response(503 if fails else 200)
            self.send_header("X-Version", version)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

    server = QuietServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextlib.contextmanager
def rolling_world(folder: Path, count: int = 4, per_s: float = 40) -> Iterator[tuple[RollingWorld, Users]]:
    """Instances s1, s2 … behind HAProxy, with users; the guard of the folder's store is ended afterwards."""
    names, bad = [f"s{number + 1}" for number in range(count)], set[str]()
    (folder / "versions").mkdir()
    for name in names:
        (folder / "versions" / name).write_text(OLD)
    (folder / "replace.py").write_text(REPLACE)
    (folder / "health.py").write_text(HEALTH)
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(instance(name, folder, bad)) for name in names}
        (folder / "ports.json").write_text(json.dumps(ports))
        options = "check inter 200ms rise 1 fall 2"
        router = stack.enter_context(haproxy_router(folder, ports, server_options=options, backend=PATIENT))
        made = RollingWorld(folder, router, names, bad)
        served = stack.enter_context(users(router.port, per_s))
        try:
            yield made, served
        finally:
            with contextlib.suppress(NotReached):
                os.kill(GuardClient(folder / "evaluator.duckdb").ping()["pid"], signal.SIGTERM)
