"""How long a reader waits for the report of a release with 100 M requests in Chromium, cold and warm.

The store holds cells, whose number does not grow with the requests. So ten million requests are simulated and landed,
and the counts in their cells are multiplied by ten.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
from playwright.sync_api import Browser, Page, sync_playwright

from evaluator.pipeline.judging import judge_release
from evaluator.policy import load_policy
from evaluator.records import Release, Run, RunFacts, RunState, Service
from evaluator.simulate import Scenario, simulate, to_parquet
from evaluator.simulate.requests import EPOCH_US
from evaluator.store import Store

LARGE = Scenario(duration_s=3600.0, endpoints=20, instances=(4,), users=300, rate_per_s=1400.0)
SMALL = replace(LARGE, duration_s=300.0, rate_per_s=20.0)
TIMES_TEN = (
    """UPDATE moments SET n = n * 10, failures = failures * 10, sum_time = sum_time * 10,
    sum_sq_time = sum_sq_time * 10, bytes = bytes * 10, bytes_sq = bytes_sq * 10""",
    "UPDATE bin_lists SET counts = list_transform(counts, lambda n: n * 10)",
    "UPDATE instance_bin_lists SET counts = list_transform(counts, lambda n: n * 10)",
    "UPDATE failure_kinds SET n = n * 10",
)
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ANSWER, LAST = 2.0, 5.0
"""Promised seconds until the verdict is shown, and until the last figure is."""
FIGURES = """() => {
  const app = document.querySelector('[data-testid=stApp]');
  const charts = [...document.querySelectorAll('[data-testid=stVegaLiteChart]')];
  return app?.getAttribute('data-test-script-state') === 'notRunning' && charts.length > 6
    && charts.every(chart => chart.querySelector('canvas, svg'));
}"""
READING = "?release=shop@large"


def main() -> None:
    """Print a table: case, seconds until the verdict, seconds until the last figure, promise."""
    with tempfile.TemporaryDirectory() as name:
        store = Path(name) / "evaluator.duckdb"
        make_store(store)
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            cold: list[tuple[float, float]] = []
            first, again = cold.copy(), cold.copy()
            for _ in range(3):
                with served(store, Path(name)) as address:
                    cold = [*cold, read_once(browser, address)]
                with served(store, Path(name)) as address:
                    found = read_warm(browser, address, 2)
                    first, again = [*first, found[0]], [*again, found[1]]
            browser.close()
        report("first report, warm server and browser", first, promised=True)
        report("  the same report again", again, promised=True)
        report("  cold: server and browser just started", cold)


def make_store(path: Path) -> None:
    """Make a store with a release of 100 M requests, and a small release to warm up with."""
    store = Store.open(path, create=True)
    land(store, "shop@large", LARGE)
    with duckdb.connect(str(path)) as connection:
        for statement in TIMES_TEN:
            connection.execute(statement)
        requests = int(connection.execute("SELECT sum(n) FROM moments").fetchall()[0][0])
    sys.stdout.write(f"release of {requests / 1e6:.0f} M requests\n")
    land(store, "shop@small", SMALL)
    for release in ("shop@large", "shop@small"):
        judge_release(store, release, load_policy(), judged_at=datetime.now(UTC))


def land(store: Store, name: str, design: Scenario) -> None:
    """Land a simulated release."""
    requests = replace(simulate(design, seed=1), runs=(f"{name}-run",))
    started = datetime.fromtimestamp(EPOCH_US / 1e6, UTC)
    ended = started + timedelta(seconds=design.duration_s)
    run = Run(requests.runs[0], name, f"{name}-group", "import", started=started, planned_end=ended)
    store.data.register_run(Release(name, (Service("shop", "1", name),)), run)
    to_parquet(requests, store.data.segment_folder(run).parent)
    store.data.land_segments(run.id)
    store.data.finish_run(run.id, state=RunState.COMPLETE, ended=ended, facts=RunFacts())


@contextlib.contextmanager
def served(store: Path, folder: Path) -> Iterator[str]:
    """Serve the app in its own process; yields its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    words = [sys.executable, "-m", "evaluator", "-q", "--store", str(store), "app", "--port", str(port)]
    server = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/_stcore/health", timeout=1):
                break
            time.sleep(0.05)
        yield address
    finally:
        server.send_signal(2)
        server.wait()


def read_once(browser: Browser, address: str) -> tuple[float, float]:
    """Read the report once in a browser without a cache."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    try:
        return read(context.new_page(), address)
    finally:
        context.close()


def read_warm(browser: Browser, address: str, times: int) -> list[tuple[float, float]]:
    """Read the report several times, after the report of another release."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(f"{address}/release?release=shop@small")
    page.wait_for_function(FIGURES, timeout=60_000)
    found = [read(page, address) for _ in range(times)]
    context.close()
    return found


def read(page: Page, address: str) -> tuple[float, float]:
    """Return the seconds until the verdict is shown, and until the last figure is."""
    start = time.perf_counter()
    page.goto(f"{address}/release{READING}", wait_until="commit")
    page.wait_for_selector(".ev-banner .word", timeout=60_000)
    answer = time.perf_counter() - start
    page.wait_for_function(FIGURES, timeout=60_000)
    return answer, time.perf_counter() - start


def report(what: str, found: list[tuple[float, float]], *, promised: bool = False) -> None:
    """Print one row."""
    answer, last = (statistics.median(column) for column in zip(*found, strict=True))
    kept = f"{ANSWER:.0f} and {LAST:.0f} s promised" if promised else "no promise"
    verdict = "" if not promised else "  ok" if answer < ANSWER and last < LAST else "  MISSED"
    print(f"{what:<55} verdict {answer:5.2f} s, last figure {last:5.2f} s   ({kept}){verdict}")


if __name__ == "__main__":
    main()
