"""The sample service "shop": where its files are, how its instances are started, and a Prometheus that reads them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import IO

import yaml

from evaluator.errors import SourceError
from evaluator.records import Arm
from evaluator.sources.load import free_port

REGRESSIONS = ("none", "latency", "tail", "failures", "endpoint", "leak")
DEAD = "dead"
"""Regression of an arm whose instances accept no connections."""
STOP_S = 5.0
READY_S = 30.0
SCRAPE_S = 1


def find_loadtests() -> Path:
    """Find the load tests: inside an installed package, or next to it in a working tree. Raises SourceError."""
    package = Path(str(files("evaluator")))
    for folder in (package / "loadtests", package.parent / "loadtests"):
        if (folder / "target.py").is_file():
            return folder
    raise SourceError("the sample service is not installed", hint="reinstall release-evaluator")


@contextlib.contextmanager
def start_arms(
    versions: Sequence[tuple[str, str, str]], *, instances: int, leak_over_s: float, metrics: bool = False
) -> Iterator[tuple[Arm, ...]]:
    """Start instances of the sample service on loopback; they end with the `with` block, or with this process.

    `versions`: (arm, version, regression) of each arm; with the regression DEAD nothing is started, and the arm's
    addresses refuse connections. `instances`: number of them in each arm. `leak_over_s`: time over which the
    regression `leak` grows. With `metrics` they count their requests for Prometheus.
    """
    with contextlib.ExitStack() as stack:
        arms = []
        for arm_name, version, regression in versions:
            if regression == DEAD:
                ports = [stack.enter_context(_refusing_connections()) for _ in range(instances)]
                arms.append(_make_arm(arm_name, ports, version))
                continue
            options = ["--version", version, "--regression", regression, "--leak-over", str(leak_over_s)]
            if metrics:
                options.append("--metrics")
            ports = [free_port() for _ in range(instances)]
            for number, port in enumerate(ports, start=1):
                program = [sys.executable, str(find_loadtests() / "target.py"), "--port", str(port)]
                instance = ["--instance", f"{arm_name}-{number}", *options, "--parent", str(os.getpid())]
                stack.enter_context(start_process([*program, *instance]))
            arms.append(_make_arm(arm_name, ports, version))
        yield tuple(arms)


def _make_arm(name: str, ports: Sequence[int], version: str) -> Arm:
    """Describe an arm whose instances have these ports of loopback."""
    return Arm(name, tuple(f"http://127.0.0.1:{port}" for port in ports), version)


@contextlib.contextmanager
def _refusing_connections() -> Iterator[int]:
    """Keep a port of loopback from other programs during the `with` block; connections to it are refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # without `listen`, nothing is accepted
        yield int(bound.getsockname()[1])


@contextlib.contextmanager
def start_process(
    command: Sequence[str],
    stdout: IO[bytes] | int = subprocess.DEVNULL,
    stderr: IO[bytes] | int = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that ends with the `with` block, or is killed if it does not end in time.

    On Linux it also ends if this process is killed. `environment`: `None`: that of this process.
    """
    # Of util-linux: the kernel then sends the signal when the parent has ended, whatever ended it.
    setpriv = shutil.which("setpriv")
    if setpriv:
        command = [setpriv, "--pdeathsig", "TERM", *command]
    # A session of its own: Ctrl-C ends the load first and the services after it.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def start_prometheus(arms: Sequence[Arm], folder: Path) -> Iterator[str]:
    """Start a Prometheus on loopback that scrapes the instances of `arms` each second; yields its URL.

    Its series carry the label `arm`. It keeps its data in `folder` and ends with the block. Raises SourceError.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise SourceError("prometheus is not installed", hint="on Debian, as root: apt-get install prometheus")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = folder / "prometheus.yml"
    timing = {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S}s"}
    targets = [
        {"targets": [url.removeprefix("http://") for url in arm.urls], "labels": {"arm": arm.name}} for arm in arms
    ]
    settings = {"global": timing, "scrape_configs": [{"job_name": "shop", "static_configs": targets}]}
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with start_process([program, *options]) as process:
        _wait_until_ready(f"http://{address}", process)
        yield f"http://{address}"


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until Prometheus answers. Raises SourceError if it takes too long, or its process has ended."""
    import requests
    from prometheus_api_client import PrometheusConnect

    client = PrometheusConnect(url=url, retry=0, timeout=1)
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if client.check_prometheus_connection():
                return
        time.sleep(0.05)
    raise SourceError(f"prometheus did not become ready within {READY_S:g} s", hint="start it by hand to see why")
