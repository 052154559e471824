"""Speed of fetching 1,000 series over one hour at steps of 1 s from Prometheus, compared with prometheus-api-client.

The peer runs with its defaults. Each fetch runs in its own process, in turns, on one server with a history made by
promtool.

python benchmarks/prometheus.py [SERIES]       (default: 1,000)
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from evaluator.sources.load import free_port

ROUNDS = 3
SECONDS = 3600
START = 1_790_000_000 // 7200 * 7200
TO_REACH, MOST_MB = 0.5, 700

OURS = """
import resource, sys, time
from datetime import UTC, datetime
from evaluator.records import Query, QueryKind
from evaluator.sources.prometheus import PrometheusSource, connect
start, end = (datetime.fromtimestamp(int(text), UTC) for text in sys.argv[2:4])
began = time.perf_counter()
arms = {"baseline": 'arm="baseline"', "canary": 'arm="canary"'}
with connect(PrometheusSource(url=sys.argv[1], selectors=arms, step=1)) as source:
    answer = source.fetch(Query("load{$selector}", QueryKind.GAUGE), "canary", start, end)
samples = sum(series.ts_ms.size for series in answer.series)
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, samples)
"""

THEIRS = """
import resource, sys, time
from datetime import UTC, datetime
from prometheus_api_client import PrometheusConnect
start, end = (datetime.fromtimestamp(int(text), UTC) for text in sys.argv[2:4])
began = time.perf_counter()
found = PrometheusConnect(url=sys.argv[1]).custom_query_range('load{arm="canary"}', start, end, "1")
samples = sum(len(series["values"]) for series in found)
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, samples)
"""


def main() -> None:
    """Print a table: seconds, memory, and the ratio of times."""
    series = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as name, serve(Path(name), series) as url:
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(measure(OURS, url, series))
            theirs.append(measure(THEIRS, url, series))
    report("evaluator", ours)
    report("prometheus-api-client, defaults", theirs)
    ratios = [mine[0] / peer[0] for mine, peer in zip(ours, theirs, strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
    print(f"{'ratio of times':60} {ratio}  ≤ {TO_REACH}; peak memory ≤ {MOST_MB} MB")


def measure(code: str, url: str, series: int) -> tuple[float, float]:
    """Return seconds and peak memory (MB) of one fetch; exit if samples are missing."""
    words = [sys.executable, "-c", code, url, str(START), str(START + SECONDS - 1)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    seconds, memory, samples = (float(text) for text in done.stdout.split())
    if samples != series * SECONDS:
        sys.exit(f"{samples:.0f} samples were fetched, not {series * SECONDS}")
    return seconds, memory


def report(who: str, found: list[tuple[float, float]]) -> None:
    """Print one row."""
    seconds = statistics.median(one[0] for one in found)
    print(f"{f'1 h at 1 s of {who}':60} {seconds:6.2f} s, {max(one[1] for one in found):5.0f} MB at most")


@contextlib.contextmanager
def serve(folder: Path, series: int) -> Iterator[str]:
    """Start a Prometheus with the history; yields its URL."""
    history = folder / "history.om"
    with history.open("w") as file:
        file.write("# TYPE load gauge\n")
        for number in range(series):
            labels = f'load{{arm="canary",instance="10.0.{number // 250}.{number % 250}:8000"}}'
            file.writelines(f"{labels} {(number * 7 + k * 13) % 1000 / 7:.4f} {START + k}\n" for k in range(SECONDS))
        file.write("# EOF\n")
    made = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(history), str(folder / "data")]
    subprocess.run(made, check=True, capture_output=True)
    history.unlink()
    (folder / "prometheus.yml").write_text("global: {}\n")
    port = free_port()
    words = [program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", "--storage.tsdb.retention.time=100y"]
    words += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server is ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/-/ready")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        time.sleep(0.1)
    sys.exit("prometheus did not become ready")


def program(name: str) -> str:
    """Return the path of a program; exit if it is not installed."""
    found = shutil.which(name)
    if found is None:
        sys.exit(f"{name} is not installed: run .ci/install-servers")
    return found


if __name__ == "__main__":
    main()
