"""Three environments of the sample service for `evaluator demo rollout`, and HAProxy in front of production.

All that a rollout needs is written into one folder: the policy, the program that its hooks call, the configuration of
HAProxy. A user can read and change it.
"""

from __future__ import annotations

import calendar
import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluator.errors import SourceError
from evaluator.sources.access_logs.server_stats import ask_stats
from evaluator.sources.load import free_port
from evaluator.sources.sample import find_loadtests, start_process
from evaluator.sources.sample_etcd import FOLDER
from evaluator.sources.sample_router import SampleRouter, require_haproxy, wait_until_listening

PROGRAM = "environments.py"
"""The program that deploys and tears down; the hooks call it."""
SETTINGS = "environments.json"
"""What it reads."""
ACTS_LOG = "acts.log"
"""What it writes: a line for each act."""

TEST, PRE_PRODUCTION, PRODUCTION = "test", "pre-production", "production"
ENVIRONMENTS = (TEST, PRE_PRODUCTION, PRODUCTION)
ARMS = {"baseline": "b", "canary": "c"}
"""Arm → first letter of its servers in HAProxy."""
INSTANCES = 3
"""Instances of each arm in each environment."""
INSTANCE_LETTER = "s"
"""First letter of the instances of a rolling rollout, which get one version after the other."""

BACKEND = "shop"
COOKIE = "shop_user"
"""By which a visitor of an A/B test keeps an arm, as `loadtests/visitors.py` names it."""

CONFIGURATION = "configuration"
"""Regression that is in no instance, but in what etcd has of the candidate."""
SALES = "sales"
"""Regression that no request shows: fewer visitors buy."""
BUYERS = {"baseline": 0.15, "canary": 0.25}
"""Arm → share of its visitors that buy."""
FEWER_BUYERS = 0.07
"""Of the candidate with the regression `sales`."""
KINDS: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "errors": dict.fromkeys(ENVIRONMENTS, "errors"),
    "latency": dict.fromkeys((PRE_PRODUCTION, PRODUCTION), "slower"),
    "production-errors": {PRODUCTION: "overload"},
    "hang": {PRODUCTION: "hang"},
    "dies": {PRODUCTION: "dies"},
    CONFIGURATION: {},
    SALES: {},
}
"""Regression of the candidate → environment → what its instances do there, as `loadtests/target.py` names it."""

LOG_FORMAT = (
    '{"time":"%tr","method":"%HM","path":%{+Q}HU,"status":%ST,"ms":%Ta,"server":"%s","end":"%tsc","retries":"%rc",'
    '"bytes":%B,"header_bytes":"%[var(txn.header_bytes)]"}'
)
"""Format of the access log: a line of JSON for each request. HAProxy's %B counts the header of the answer, too."""

_CONFIG = """\
# The router of production in `evaluator demo rollout`.
global
  log stdout format raw local0
  stats socket {socket} mode 600 level admin
  # A reload keeps the weights that were set at run time, if they are written to this file before it: ./reload.sh
  server-state-file {folder}/haproxy.state
defaults
  mode http
  log global
  log-format '{log_format}'
  option dontlognull
  option redispatch 1
  retries 2
  load-server-state-from-file global
  timeout connect 2s
  timeout client 30s
  timeout server 30s
frontend front
  bind 127.0.0.1:{port}
  # The size of the answer's header, with its first line: %B without it is its content, within a few bytes.
  http-response set-var(txn.header_bytes) res.hdrs,length,add(16)
{choice}
{backends}"""

_BACKEND = """\
backend {name}
  balance roundrobin
  option httpchk GET /health
  default-server check inter 1s fall 3 rise 1
{servers}
"""

_CHOICE_BY_COOKIE = """\
  # A new visitor gets a cookie. Its hash value, 0 to 9999, has a backend in the map, or belongs to the baseline.
  http-request set-var(txn.user) req.cook({cookie})
  http-request set-var(txn.is_new) bool(true) unless {{ req.cook({cookie}) -m len gt 0 }}
  http-request set-var(txn.user) uuid() if {{ var(txn.is_new) -m bool }}
  http-request set-var(txn.backend) var(txn.user),xxh32(1),mod(10000),map_int({map},{baseline})
  http-after-response add-header Set-Cookie "{cookie}=%[var(txn.user)]; Path=/" if {{ var(txn.is_new) -m bool }}
  use_backend %[var(txn.backend)]"""

_RELOAD = """\
#!/bin/sh
# Reload HAProxy as its service does: the states of its servers are kept.
printf 'show servers state\\n' | {python} -c '
import socket, sys
with socket.socket(socket.AF_UNIX) as haproxy:
    haproxy.connect("{socket}")
    haproxy.sendall(sys.stdin.buffer.read())
    while answer := haproxy.recv(65536):
        sys.stdout.buffer.write(answer)
' > {folder}/haproxy.state && kill -USR2 "$(cat {folder}/haproxy.pid)"
"""


@dataclass(frozen=True, slots=True)
class Environments:
    """The environments of one demo. Nothing runs yet."""

    folder: Path
    ports: Mapping[str, Mapping[str, tuple[int, ...]]]
    """Environment → arm → ports of its instances, on loopback."""
    router_port: int
    socket: Path
    """HAProxy's, with level admin. Its path is short: longer ones are not possible."""
    load_users: int = 70
    """Of each arm, in test and pre-production."""
    etcd: str = ""
    """URL of the etcd from which instances read their configuration; empty: there is none."""
    regression: str = "none"
    """Of the candidate, one of KINDS."""

    @property
    def map(self) -> Path:
        """The file of HAProxy's map in an A/B test: hash values of a cookie → backend."""
        return self.folder / "shop.map"

    @property
    def visits(self) -> Path:
        """The file in which the visitors of an A/B test write what each of them did."""
        return self.folder / "visits.csv"

    @property
    def instances(self) -> dict[str, int]:
        """The instances of production in a rolling rollout: name → port. There are no servers for a second version."""
        ports = [port for of_arm in self.ports[PRODUCTION].values() for port in of_arm]
        return {f"{INSTANCE_LETTER}{number}": port for number, port in enumerate(ports, start=1)}

    @property
    def router(self) -> SampleRouter:
        """The router of production."""
        patterns = tuple(f"{arm}={letter}*" for arm, letter in ARMS.items())
        url = f"http://127.0.0.1:{self.router_port}"
        return SampleRouter(url, self.folder / "haproxy.log", str(self.socket), patterns)

    def list_addresses(self, environment: str, arm: str = "") -> list[str]:
        """List HOST:PORT of the instances of an arm of an environment; of all arms, if `arm` is empty."""
        return [
            f"127.0.0.1:{port}"
            for name, ports in self.ports[environment].items()
            if arm in ("", name)
            for port in ports
        ]

    def run(self, *words: str) -> None:
        """Run the program that the hooks call, too. Raises SourceError."""
        command = [sys.executable, str(self.folder / PROGRAM), *words]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise SourceError(f"{PROGRAM} {' '.join(words)} failed: {(done.stderr or done.stdout).strip()[-300:]}")


@contextlib.contextmanager
def prepare_environments(
    folder: Path, versions: Mapping[str, str], regression: str, *, instances: int = INSTANCES, etcd: str = ""
) -> Iterator[Environments]:
    """Write the files of the environments into a folder; at the end of the block all that was started is ended.

    `versions`: arm → version. `regression`: of the candidate, one of KINDS. `etcd`: the URL of the etcd that has the
    configuration; empty: none does. Raises SourceError.
    """
    if regression == CONFIGURATION and not etcd:
        raise SourceError(
            "the regression configuration needs etcd", hint="on Debian, as root: apt-get install etcd-server"
        )
    folder = folder.resolve()
    shutil.copyfile(find_loadtests() / PROGRAM, folder / PROGRAM)
    ports = _find_ports(len(ENVIRONMENTS) * len(ARMS) * instances + 1)
    by_environment = {
        environment: {arm: tuple(ports.pop() for _ in range(instances)) for arm in ARMS} for environment in ENVIRONMENTS
    }
    settings: dict[str, Any] = {
        "end_with": os.getpid(),
        "target": str(find_loadtests() / "target.py"),
        "versions": dict(versions),
        "etcd": etcd,
        "buyers": BUYERS | ({"canary": FEWER_BUYERS} if regression == SALES else {}),
        "environments": {
            name: {"ports": arms, "regressions": {"canary": KINDS[regression].get(name, "none")}}
            for name, arms in by_environment.items()
        },
    }
    with tempfile.TemporaryDirectory(prefix="evaluator-demo-") as short:
        environments = Environments(folder, by_environment, ports.pop(), Path(short) / "haproxy.sock")
        environments = replace(environments, etcd=etcd, regression=regression)
        settings["environments"][PRODUCTION]["instances"] = environments.instances
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")
        try:
            yield environments
        finally:
            for name in ENVIRONMENTS:
                environments.run("teardown", name)


def _find_ports(count: int) -> list[int]:
    """Find ports of loopback that are free now, all different."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


def name_backend(arm: str) -> str:
    """Name the backend of an arm in an A/B test."""
    return f"{BACKEND}_{arm}"


def start_baseline(environments: Environments, versions: Mapping[str, str], strategy: str) -> None:
    """Let production serve the baseline; in a rolling rollout, all of its instances do. Raises SourceError."""
    if strategy != "rolling":
        environments.run("deploy", PRODUCTION, "baseline")
        return
    for name in environments.instances:
        environments.run("replace", PRODUCTION, name, versions["baseline"])


@contextlib.contextmanager
def start_production_router(environments: Environments, strategy: str = "canary") -> Iterator[None]:
    """Start HAProxy in front of production, all traffic at the baseline; it ends with the block. Raises SourceError."""
    program, folder = require_haproxy(), environments.folder
    config, log, errors = folder / "haproxy.cfg", environments.router.log, folder / "haproxy.errors"
    words = {
        "socket": environments.socket,
        "folder": folder,
        "log_format": LOG_FORMAT,
        "port": environments.router_port,
    }
    by_arm = {
        arm: [
            f"  server {letter}{number} {address}"
            for number, address in enumerate(environments.list_addresses(PRODUCTION, arm), start=1)
        ]
        for arm, letter in ARMS.items()
    }
    choice = f"  default_backend {BACKEND}"
    if strategy == "rolling":
        backends = {BACKEND: [f"  server {name} 127.0.0.1:{port}" for name, port in environments.instances.items()]}
    elif strategy == "ab_test":
        environments.map.write_text("", encoding="utf-8")
        backends = {name_backend(arm): servers for arm, servers in by_arm.items()}
        choice = _CHOICE_BY_COOKIE.format(cookie=COOKIE, map=environments.map, baseline=name_backend("baseline"))
    else:
        weights = {"baseline": 100, "canary": 0}
        backends = {BACKEND: [f"{line} weight {weights[arm]}" for arm, lines in by_arm.items() for line in lines]}
    text = "".join(_BACKEND.format(name=name, servers="\n".join(lines)) for name, lines in backends.items())
    config.write_text(_CONFIG.format(**words, choice=choice, backends=text), encoding="utf-8")
    reload = folder / "reload.sh"
    reload.write_text(_RELOAD.format(python=sys.executable, **words), encoding="utf-8")
    reload.chmod(0o755)
    (folder / "haproxy.state").unlink(missing_ok=True)
    command = [program, "-W", "-f", str(config), "-p", str(folder / "haproxy.pid")]
    in_utc = {**os.environ, "TZ": "UTC"}  # the log has local times, without their time zone
    with (
        log.open("ab") as output,
        errors.open("ab") as problems,
        start_process(command, output, problems, in_utc) as process,
    ):
        wait_until_listening(f"127.0.0.1:{environments.router_port}", process, errors)
        yield


# ------------------------------------------------------------------ what the router did


@dataclass(frozen=True, slots=True)
class RoutedTraffic:
    """Requests of users in a part of the router's log."""

    requests: Mapping[str, int] = field(default_factory=dict)
    """Arm → requests that its servers got."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Arm → those that failed."""
    last_of_candidate: float | None = None
    """When the last request came that a server of the candidate got (epoch s); None: there was none."""

    @property
    def candidate_share(self) -> float | None:
        """Share of the requests that the candidate got; None without requests."""
        total = sum(self.requests.values())
        return self.requests.get("canary", 0) / total if total else None


def count_sessions(socket_path: Path) -> dict[str, int]:
    """Count the requests that HAProxy has sent to the servers of each arm, by its own counters. Raises SourceError.

    Its log does not have a request on a connection that it used before, if the server ends without an answer: such a
    client is expected to send it again.
    """
    rows = csv.DictReader(ask_stats(str(socket_path), "show stat -1 4 -1").removeprefix("# ").splitlines())
    sessions = dict.fromkeys(ARMS, 0)
    for row in rows:
        arm = _ARM_OF_LETTER.get((row["svname"] or "")[:1])
        if arm and row["stot"].isdigit():
            sessions[arm] += int(row["stot"])
    return sessions


_LINE = re.compile(
    r'"time":"(?P<time>[^"]+)".*"status":(?P<status>-?\d+).*"server":"(?P<server>[^"]*)","end":"(?P<end>..)'
)


@dataclass(frozen=True, slots=True)
class Replacements:
    """Which arm an instance of a rolling rollout was of, and when."""

    by_instance: Mapping[str, Sequence[tuple[float, str]]] = field(default_factory=dict)
    """Instance → moments (epoch s) at which it got the version of an arm, in their order."""

    def find_arm(self, server: str, moment: float) -> str | None:
        """Find the arm of a server at a moment; None: it is no server of an arm."""
        if server in self.by_instance:
            arms = [arm for at, arm in self.by_instance[server] if at <= moment]
            return arms[-1] if arms else None
        return _ARM_OF_LETTER.get(server[:1])


_ARM_OF_LETTER = {letter: arm for arm, letter in ARMS.items()}


def read_replacements(folder: Path, versions: Mapping[str, str]) -> Replacements:
    """Read from the log of the program when each instance got which version; none outside a rolling rollout.

    An instance is drained before, and serves again only after the line was written.
    """
    arms = {version: arm for arm, version in versions.items()}
    found: dict[str, list[tuple[float, str]]] = {}
    for line in (folder / ACTS_LOG).read_text(encoding="utf-8").splitlines():
        at, what, *words = line.split(" ")
        if what == "replace":
            _, name, version = words
            found.setdefault(name, []).append((float(at), arms[version]))
    return Replacements(found)


def read_traffic(
    log: Path, start: float = 0.0, end: float = float("inf"), replaced: Replacements | None = None
) -> RoutedTraffic:
    """Count the requests of a log of the router that came from `start` on and before `end` (epoch s)."""
    requests, failures = dict.fromkeys(ARMS, 0), dict.fromkeys(ARMS, 0)
    last: float | None = None
    replaced = replaced or Replacements()
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = _LINE.search(line)
            if match is None:
                continue
            moment = parse_log_time(match["time"])
            arm = replaced.find_arm(match["server"], moment)
            if arm is None or not start <= moment < end:
                continue
            requests[arm] += 1
            failures[arm] += int(match["status"]) >= 500 or match["end"][0] in "SsRI"
            if arm == "canary":
                last = max(moment, last or moment)
    return RoutedTraffic(requests, failures, last)


def parse_log_time(text: str) -> float:
    """Parse a time of HAProxy's log, such as `29/Nov/2026:21:00:00.123`, in UTC (epoch s)."""
    whole, _, fraction = text.partition(".")
    return calendar.timegm(time.strptime(whole, "%d/%b/%Y:%H:%M:%S")) + float(f"0.{fraction or 0}")


# ------------------------------------------------------------------ what is left


def list_traces(environments: Environments, store: Path) -> list[str]:
    """List texts of command lines by which the processes of a demo are recognised, and no others."""
    return [
        f"--end-with {os.getpid()}",
        f"-f {environments.folder / 'haproxy.cfg'}",
        f"--data-dir {environments.folder / FOLDER} ",
        f"--host {environments.router.url} ",
        find_guard(store),
    ]


def find_guard(store: Path) -> str:
    """The text by which the command line of a store's guard is recognised."""
    return f"-m evaluator.guard --store {store.absolute()} "


def find_processes(texts: Sequence[str]) -> dict[int, str]:
    """Find processes whose command line has one of these texts: id → command line. Without this process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
            command = " ".join(words)
            if int(folder.name) != os.getpid() and any(text in command for text in texts):
                found[int(folder.name)] = command.strip()
    return found


def end_processes(texts: Sequence[str], patience_s: float) -> list[str]:
    """Wait until no process has one of these texts in its command line, then end those that have, by their ids.

    Returns the command lines of those that did not end by themselves.
    """
    left = _wait_for_end(texts, patience_s)
    stubborn = sorted(left.values())
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        left = _wait_for_end(texts, patience_s) if left else left
    return stubborn


def _wait_for_end(texts: Sequence[str], patience_s: float) -> dict[int, str]:
    """Wait until no process has one of these texts in its command line; returns those that still have: id → line."""
    until = time.monotonic() + patience_s
    while (left := find_processes(texts)) and time.monotonic() < until:
        time.sleep(0.1)
    return left
