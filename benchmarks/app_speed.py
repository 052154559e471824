"""How long a reader waits in the app: for the answer after a click, for its last figure, for another metric.

Each time is the median of twelve in Chromium, over a release with 200 endpoints, on a server and in a browser that have
shown both releases before; the first page of a fresh server is measured apart.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser, Page, sync_playwright

from app import ARGUMENTS, CHROMIUM, land, served
from evaluator.pipeline.judging import judge_release
from evaluator.policy import load_policy
from evaluator.simulate import Change, Scenario
from evaluator.store import Store

TIMES = 12
DESIGN = Scenario(duration_s=300.0, endpoints=200, instances=(4,), users=100, rate_per_s=400.0)
DESIGNS = {
    "shop@same": DESIGN,
    "shop@slower": replace(DESIGN, changes=(Change(latency=0.6, endpoint=0.9),)),
}
FRESH_TIMES = 3
"""How often a fresh server is started: it takes long."""

IS_DONE = """() => {
  const app = document.querySelector('[data-testid=stApp]');
  const charts = [...document.querySelectorAll('[data-testid=stVegaLiteChart]')];
  return app?.getAttribute('data-test-script-state') === 'notRunning' && charts.length > 6
    && charts.every(chart => chart.querySelector('canvas, svg')) && !document.querySelector('[data-stale=true]');
}"""
NAMES = "name => document.querySelector('.ev-banner h1 .name')?.textContent === name"
TITLES = "() => document.querySelector('.ev-figure')?.textContent"
HAS_OTHER_TITLE = f"title => ({TITLES})() !== title"


def main() -> None:
    """Print a table: what is waited for, the median of the seconds, and the promise; ends with 1 if one is missed."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        store = folder / "evaluator.duckdb"
        make_store(store)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        fresh = []
        for _ in range(FRESH_TIMES):
            with served(store, folder) as address:
                fresh.append(open_first_page(browser, address))
        with served(store, folder) as address:
            page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
            page.goto(address)
            verdicts, figures = click_releases(page)
            metrics = choose_metrics(page)
        browser.close()
    missed = [
        report("click on a release: verdict", verdicts, 1.0),
        report("click on a release: last figure", figures, 2.5),
        report("another metric: its figure", metrics, 0.5),
        report("first page of a fresh server: verdict", fresh, 4.0),
    ]
    sys.exit(any(missed))


def make_store(path: Path) -> None:
    """Make a store with two judged releases of 200 endpoints."""
    store = Store.open(path, create=True)
    for name, design in DESIGNS.items():
        land(store, name, design)
        judge_release(store, name, load_policy(), judged_at=datetime.now(UTC))


def open_first_page(browser: Browser, address: str) -> float:
    """Open the page Release of a server that has shown nothing yet, without a cache; returns the seconds."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    seconds = measure(lambda: page.goto(f"{address}/release", wait_until="commit"), is_named(page))
    context.close()
    return seconds


def click_releases(page: Page) -> tuple[list[float], list[float]]:
    """Open both releases in turn from the page Releases; returns the seconds until verdict and last figure, warm."""
    verdicts, figures = [], []
    for index in range(TIMES + len(DESIGNS)):  # the first of each makes both warm
        name = list(DESIGNS)[index % len(DESIGNS)]
        page.get_by_role("link", name="Releases", exact=True).click()
        link = page.locator(f'a[href^="./release?release={quote(name)}"]').first
        link.wait_for()
        page.wait_for_function("() => document.querySelector('[data-test-script-state=notRunning]')")
        start = time.perf_counter()
        verdict = measure(link.click, is_named(page, name))
        page.wait_for_function(IS_DONE, timeout=120_000)
        if index >= len(DESIGNS):
            verdicts.append(verdict)
            figures.append(time.perf_counter() - start)
    return verdicts, figures


def choose_metrics(page: Page) -> list[float]:
    """Choose one metric after the other; returns the seconds until the figure is that of the metric."""
    seconds = []
    for index in range(TIMES):
        box = page.get_by_role("combobox", name="Metric")
        box.scroll_into_view_if_needed()
        page.wait_for_timeout(700)  # a list that was opened is closed by scrolling
        box.click()
        page.get_by_role("option").first.wait_for()
        names = page.get_by_role("option").all_inner_texts()
        name = next(name for name in names[index % 2 :] if name != box.input_value())
        title = page.evaluate(TITLES)

        def wait(title: str = title) -> None:
            page.wait_for_function(HAS_OTHER_TITLE, arg=title, timeout=120_000)

        option = page.get_by_role("option", name=name, exact=True)
        seconds.append(measure(option.click, wait))
        page.wait_for_function(IS_DONE, timeout=120_000)
    return seconds


def is_named(page: Page, name: str | None = None) -> Callable[[], object]:
    """Return a function that waits for the verdict of a release; None: of any."""
    if name is None:
        return lambda: page.wait_for_selector(".ev-banner h1 .name", timeout=120_000)
    return lambda: page.wait_for_function(NAMES, arg=name, timeout=120_000)


def measure(act: Callable[[], object], wait: Callable[[], object]) -> float:
    """Return the seconds from an action to what is waited for."""
    start = time.perf_counter()
    act()
    wait()
    return time.perf_counter() - start


def report(what: str, seconds: list[float], promised: float) -> bool:
    """Print one row; returns whether the promise was missed."""
    median = statistics.median(seconds)
    missed = median > promised
    print(f"{what:<40} {median:5.2f} s   ({promised:.1f} s promised)  {'MISSED' if missed else 'ok'}")
    return missed


if __name__ == "__main__":
    main()
