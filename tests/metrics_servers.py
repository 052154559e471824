"""Metrics servers as a user has them, on loopback: Prometheus and VictoriaMetrics of Debian's packages."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluator.sources.load import free_port

READY_S = 30.0


@dataclass(frozen=True)
class Line:
    """One sample of a history: a metric with labels, its value, and when (s)."""

    name: str
    labels: dict[str, str]
    value: float
    ts: float


def openmetrics(lines: Iterable[Line], types: dict[str, str]) -> str:
    """A history as text; samples of one series must be in the order of time."""
    families = {name: [] for name in types}
    for line in lines:
        family = next(name for name in sorted(types, key=len, reverse=True) if line.name.startswith(name))
        labels = ",".join(f'{key}="{value}"' for key, value in line.labels.items())
        families[family].append(f"{line.name}{{{labels}}} {line.value!r} {line.ts:.3f}")
    text = [f"# TYPE {name} {types[name]}\n" + "\n".join(rows) for name, rows in families.items() if rows]
    return "\n".join([*text, "# EOF", ""])


@contextlib.contextmanager
def running(
    command: Sequence[str], port: int, path: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers on a port until the block ends."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )
    try:
        deadline = time.monotonic() + READY_S
        while not _answers(port, path):
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=10)


def _answers(port: int, path: str) -> bool:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=2)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except OSError:
            return False


def wait_for(true: Callable[[], bool], what: str) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + READY_S
    while not true():
        assert time.monotonic() < deadline, f"{what} took longer than {READY_S} s"
        time.sleep(0.1)


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not installed: .ci/install-servers"
    return found


def backfill(folder: Path, text: str) -> Path:
    """Blocks of a history for Prometheus."""
    source, data = folder / "history.om", folder / "data"
    source.write_text(text)
    command = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(source), str(data)]
    subprocess.run(command, check=True, capture_output=True)
    return data


@contextlib.contextmanager
def prometheus(
    folder: Path, data: Path, config: str = "global: {}\n", *options: str, port: int | None = None
) -> Iterator[str]:
    """A Prometheus over `data`; yields its URL."""
    (folder / "prometheus.yml").write_text(config)
    port = port or free_port()
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
        *options,
    ]
    with running(command, port, "/-/ready"):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def victoria_metrics(folder: Path, text: str) -> Iterator[str]:
    """A VictoriaMetrics that was given a history; yields its URL."""
    port = free_port()
    command = [
        program("victoria-metrics"),
        f"-storageDataPath={folder / 'vm'}",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-retentionPeriod=100y",
    ]
    with running(command, port, "/health"):
        _post(port, "/api/v1/import/prometheus", _in_ms(text))
        _post(port, "/internal/force_flush", "")
        yield f"http://127.0.0.1:{port}"


def _in_ms(text: str) -> str:
    """OpenMetrics has seconds, the older text format milliseconds."""
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return "\n".join(f"{head} {math.floor(float(ts) * 1000)}" for head, ts in lines) + "\n"


def _post(port: int, path: str, body: str) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", path, body.encode())
        answer = connection.getresponse()
        assert answer.status in (200, 204), answer.read()
