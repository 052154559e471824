"""The report of a rollout in a real browser: it loads nothing, nothing overflows, and everyone can read it."""

import shutil
from datetime import timedelta

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from rollout_cases import START, make_cases

from evaluator.reports.rollout import to_html
from evaluator.rollout.reporting import make_report

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    for name, (facts, seconds) in make_cases().items():
        report = make_report(facts, START + timedelta(seconds=seconds))
        (folder / f"{name}.html").write_text(to_html(report), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    assert path, "the tests of the report need Debian's package chromium"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("back", 1440, "light"),
        ("back", 390, "dark"),
        ("running", 820, "light"),
        ("promoted", 820, "dark"),
        ("hostile", 390, "light"),
        ("hostile", 861, "dark"),
    ],
)
def test_it_fits_loads_nothing_and_can_be_read(browser, folder, name, width, scheme):
    viewport = {"width": width, "height": 900}
    with browser.new_context(viewport=viewport, color_scheme=scheme, bypass_csp=True) as context:
        page, complaints = context.new_page(), []
        own = (folder / f"{name}.html").as_uri()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda one: complaints.append(one.url) if one.url not in (own, "data:,") else None)
        page.goto(own)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert complaints == []
        violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [
            (one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"]) for one in violations
        ] == []
