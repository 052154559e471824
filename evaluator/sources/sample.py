"""The sample service "shop": where its files are, and how its instances are started."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from evaluator.errors import SourceError
from evaluator.records import Arm

__all__ = ["REGRESSIONS", "find_loadtests", "start_arms"]

REGRESSIONS = ("none", "latency", "tail", "failures", "endpoint", "leak")
STOP_S = 5.0


def find_loadtests() -> Path:
    """Find the load tests: inside an installed package, or beside it in a working tree. Raises SourceError."""
    package = Path(str(files("evaluator")))
    for folder in (package / "loadtests", package.parent / "loadtests"):
        if (folder / "target.py").is_file():
            return folder
    raise SourceError("the sample service is not installed", hint="reinstall release-evaluator")


@contextlib.contextmanager
def start_arms(
    versions: Sequence[tuple[str, str, str]], *, instances: int, leak_over_s: float
) -> Iterator[tuple[Arm, ...]]:
    """Start `instances` of each (arm, version, regression) on loopback; they end with the block, or with us."""
    with contextlib.ExitStack() as stack:
        arms = []
        for name, version, regression in versions:
            ports = [stack.enter_context(_instance(f"{name}-{number + 1}", version, regression, leak_over_s))
                     for number in range(instances)]  # fmt: skip
            arms.append(Arm(name, tuple(f"http://127.0.0.1:{port}" for port in ports), version))
        yield tuple(arms)


@contextlib.contextmanager
def _instance(instance: str, version: str, regression: str, leak_over_s: float) -> Iterator[int]:
    port = _free_port()
    command = [sys.executable, str(find_loadtests() / "target.py"), "--port", str(port), "--instance", instance]
    command += ["--version", version, "--regression", regression, "--leak-over", str(leak_over_s)]
    command += ["--parent", str(os.getpid())]
    # A session of its own: Ctrl-C ends the load first and the service after it.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield port
    finally:
        process.terminate()
        try:
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
