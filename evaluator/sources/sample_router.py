"""HAProxy in front of the instances of the sample service, and users of Locust that know only its address."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluator.errors import LoadError, SourceError
from evaluator.records import Arm
from evaluator.sources.load import free_port
from evaluator.sources.recording import RECORDING_VARIABLE
from evaluator.sources.sample import READY_S, find_loadtests, start_process

# An attempt that failed goes on to another server at once (`redispatch 1`), so users hardly notice a server that is
# dead. There are no health checks, which would take it out of service before it has failed for long.
_CONFIG = """\
# The router of `evaluator demo --live`.
global
  log stdout format raw local0
  stats socket ipv4@{stats} level user
defaults
  mode http
  log global
  option httplog
  option dontlognull
  option redispatch 1
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend front
  bind {address}
  default_backend shop
backend shop
  balance roundrobin
{servers}
"""

_WHOLE_WEIGHT = 200
"""Weight of a server that gets all requests of its number; HAProxy's limit is 256."""


@dataclass(frozen=True, slots=True)
class SampleRouter:
    """A router that runs on loopback."""

    url: str
    log: Path
    stats_address: str
    """HOST:PORT of its statistics."""
    server_patterns: tuple[str, ...]
    """Texts ARM=PATTERN: which servers belong to which arm."""


def require_haproxy() -> str:
    """Return the path of HAProxy. Raises SourceError if it is not installed."""
    program = shutil.which("haproxy")
    if program is None:
        raise SourceError("haproxy is not installed", hint="on Debian, as root: apt-get install haproxy")
    return program


@contextlib.contextmanager
def start_router(arms: Sequence[Arm], shares: Mapping[str, float], folder: Path) -> Iterator[SampleRouter]:
    """Start HAProxy in front of the instances of `arms`; it ends with the `with` block.

    `shares`: arm → share of the requests, which its instances get in equal parts. `folder` receives configuration and
    log; those of an earlier router are replaced. Raises SourceError if HAProxy is not installed or does not start.
    """
    program = require_haproxy()
    folder.mkdir(parents=True, exist_ok=True)
    config, log, errors = folder / "haproxy.cfg", folder / "haproxy.log", folder / "haproxy.errors"
    address, stats = (f"127.0.0.1:{free_port()}" for _ in range(2))
    servers = [
        f"  server {arm.name}-{number} {url.removeprefix('http://')} weight {_find_weight(shares[arm.name])}"
        for arm in arms
        for number, url in enumerate(arm.urls, start=1)
    ]
    config.write_text(_CONFIG.format(address=address, stats=stats, servers="\n".join(servers)), encoding="utf-8")
    with (
        log.open("wb") as log_output,
        errors.open("wb") as error_output,
        start_process([program, "-db", "-f", str(config)], log_output, error_output) as process,
    ):
        wait_until_listening(address, process, errors)
        patterns = tuple(f"{arm.name}={arm.name}-*" for arm in arms)
        yield SampleRouter(f"http://{address}", log, stats, patterns)


def _find_weight(share: float) -> int:
    """Find the weight of each server of an arm that gets this share, if all arms have the same number of servers."""
    return max(1, round(_WHOLE_WEIGHT * share))


def wait_until_listening(address: str, process: subprocess.Popen[bytes], errors: Path) -> None:
    """Wait until HAProxy accepts connections. Raises SourceError with its first error if it does not."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        time.sleep(0.05)
    lines = errors.read_text(encoding="utf-8", errors="replace").splitlines()
    # Such as `[ALERT]    (4711) : config : …`.
    alerts = [line.partition(" : ")[2] for line in lines if line.startswith("[ALERT]")]
    reason = alerts[0] if alerts else f"it accepts no connection after {READY_S:g} s"
    raise SourceError(f"haproxy did not start: {reason}", hint=f"its configuration is {errors.with_suffix('.cfg')}")


@dataclass(frozen=True, slots=True)
class RouterUsers:
    """Users of a router, which send requests while their process runs."""

    process: subprocess.Popen[bytes]
    log: Path
    """What Locust says."""

    def check(self) -> None:
        """Raise LoadError if they have ended."""
        if self.process.poll() is not None:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = f": {lines[-1]}" if lines else ""
            raise LoadError(f"the users of the router ended before their time{reason}", hint=f"see {self.log}")


@contextlib.contextmanager
def start_users(
    router: SampleRouter, users: int, spawn_rate: float, seconds: float, visits: Path | None = None
) -> Iterator[RouterUsers]:
    """Let users of Locust send requests to the router, until the `with` block ends or for `seconds`.

    They record nothing. `visits`: they are visitors with a cookie each, who write here what they did. The block
    begins when the router has logged their first requests. Raises LoadError.
    """
    locustfile = find_loadtests() / ("locustfile.py" if visits is None else "visitors.py")
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless"]
    command += ["--host", router.url, "--only-summary", "-u", str(users), "-r", f"{spawn_rate:g}", "-t", f"{seconds:g}"]
    environment = {name: value for name, value in os.environ.items() if name != RECORDING_VARIABLE}
    environment |= {} if visits is None else {"VISITS_FILE": str(visits)}
    log = router.log.with_name("users.log")
    with (
        log.open("wb") as output,
        start_process(command, subprocess.DEVNULL, output, environment) as process,
    ):
        running = RouterUsers(process, log)
        deadline = time.monotonic() + READY_S
        while not router.log.stat().st_size:
            running.check()
            if time.monotonic() > deadline:
                raise LoadError(f"the router got no request within {READY_S:g} s", hint=f"see {log}")
            time.sleep(0.05)
        yield running
