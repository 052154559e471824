"""The report in a real browser: it loads nothing, logs no error, and nothing overflows."""

import re
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from reporting import write_pages

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SHOWN = ["no_go", "three_arms", "replicates", "hostile", "bare", "no_data"]


@pytest.fixture(scope="module")
def folder(build_once):
    return build_once("pages", write_pages)


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    assert path, "the tests of the report need Debian's package chromium"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def show(browser, folder):
    contexts = []

    def call(kind, *, width=1440, scheme="light", scripts=True):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=scripts, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("dialog", lambda dialog: page.complaints.append(dialog.message))
        own = (folder / f"{kind}.html").as_uri()
        page.on(
            "request",
            lambda request: page.complaints.append(request.url) if request.url not in (own, "data:,") else None,
        )
        page.goto(own)
        return page

    yield call
    for context in contexts:
        context.close()


@pytest.mark.parametrize(
    ("kind", "width"),
    [*((kind, width) for kind in SHOWN for width in (1440, 390)), ("three_arms", 1024), ("hostile", 861)],
)
def test_nothing_leaves_the_page_and_nothing_sticks_out(show, kind, width):
    page = show(kind, width=width, scripts=False)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.complaints == []


@pytest.mark.parametrize(
    ("kind", "width", "scheme"),
    [
        ("no_go", 1440, "light"),
        ("no_go", 1440, "dark"),
        ("three_arms", 390, "light"),
        ("hostile", 390, "dark"),
        ("no_data", 390, "light"),
        ("no_data", 1440, "dark"),
    ],
)
def test_axe_finds_no_violation(show, kind, width, scheme):
    page = show(kind, width=width, scheme=scheme)
    if kind == "no_go":  # what is folded is alike in all of them
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [
        (violation["id"], violation["nodes"][0]["html"][:200], violation["nodes"][0]["failureSummary"])
        for violation in violations
    ] == []


def test_the_text_of_figures_can_be_read_on_both_pages(show):
    """Axe passes over SVG: every text in a figure has a contrast of 4.5 with the page and with the band."""
    for scheme in ("light", "dark"):
        page = show("no_go", scheme=scheme)
        low = page.evaluate(
            """() => {
              const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
              const light = ([r, g, b]) => [r, g, b].map(v => { v /= 255;
                return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; })
                .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
              const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
              const page = light(parse(getComputedStyle(document.body).backgroundColor));
              return [...document.querySelectorAll('svg text')]
                .map(t => [t.textContent, ratio(light(parse(getComputedStyle(t).fill)), page)])
                .filter(([text, value]) => text && value < 4.5);
            }"""
        )
        assert low == []


def test_figures_change_with_the_width_and_all_can_be_reached_by_keyboard(show):
    wide, narrow = show("no_go"), show("no_go", width=390)
    assert wide.locator(".wide").first.is_visible()
    assert not wide.locator(".narrow").first.is_visible()
    assert narrow.locator(".narrow").first.is_visible()
    assert not narrow.locator(".wide").first.is_visible()
    wide.keyboard.press("Tab")
    assert wide.evaluate("document.activeElement.textContent") == "Skip to the metrics"
    summary = wide.locator("summary").first
    summary.focus()
    wide.keyboard.press("Enter")
    assert wide.locator("details").first.get_attribute("open") is not None


def test_it_prints_on_a_few_pages_with_everything_that_is_folded(show):
    page = show("no_go")
    assert not page.get_by_text("service: cart").is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": 688, "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") <= 688
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    assert page.get_by_text("service: cart").is_visible()  # the policy, in a part that is folded
    assert not page.locator(".numbers").first.is_visible()
    for paper in ("A4", "Letter"):
        pdf = page.pdf(format=paper, print_background=True)
        assert 1 < len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8
