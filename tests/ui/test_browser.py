"""The app in a real browser: on wide and narrow pages, light and dark, by keyboard, and after a login."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import ARGUMENTS, CHROMIUM, Watched, provided, served, started
from playwright.sync_api import expect, sync_playwright
from rollout_cases import make_cases
from rollouts_stored import add_rollout
from stored import STEADY, judge, land

from evaluator.sources.load import free_port
from evaluator.store import Store

ADDRESSES = (
    "/",
    "/release?release=cart@1.6.0",
    "/release?release=cart@1.8.0",
    "/rollout?release=cart@1.5.0",
    "/compare?a=cart@1.5.0&b=cart@1.6.0",
    "/plan?release=cart@1.9.0",
    "/promote?release=cart@1.9.0",
    "/audit",
)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def app(store_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    shutil.copytree(store_path.parent, folder / "store")
    add_rollout(Store.open(folder / "store" / store_path.name), *make_cases()["asked"])
    with served(folder / "store" / store_path.name, folder) as address:
        yield address


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_every_page_is_quiet_fits_and_stays_on_this_machine(browser, app, width, scheme):
    watched = Watched(browser, width, scheme)
    for address in ADDRESSES:
        page = watched.open(app + address)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert not watched.overflows(), address
        assert page.get_by_text("could not be shown").count() == 0, address
        barriers = Axe().run(page)
        assert barriers.violations_count == 0, barriers.generate_report()
    assert watched.complaints == []
    assert watched.away == []
    watched.context.close()


def test_the_table_of_metrics_can_be_read_on_half_a_screen(browser, app):
    watched = Watched(browser, 820)
    page = watched.open(f"{app}/release?release=cart@1.6.0")
    rows = page.get_by_role("region", name="metrics", exact=True).get_by_role("row")
    assert max(row.bounding_box()["height"] for row in rows.all() if row.is_visible()) <= 140
    assert page.locator(".ev-interval").first.bounding_box()["width"] >= 240
    assert not watched.overflows()
    watched.context.close()


def test_a_rollout_fits_and_can_be_read_at_every_width(browser, app):
    for width, scheme in ((820, "light"), (820, "dark"), (1440, "dark"), (390, "light")):
        watched = Watched(browser, width, scheme)
        page = watched.open(f"{app}/rollout")
        expect(page.locator(".ev-banner .word")).to_have_text("WAITS FOR A PERSON")
        assert not watched.overflows(), width
        barriers = Axe().run(page, ".ev", options={"runOnly": ["wcag2a", "wcag2aa"]})
        assert barriers.violations_count == 0, barriers.generate_report()
        assert watched.complaints == []
        watched.context.close()


def test_choices_are_in_the_address_and_survive_a_reload(browser, app):
    watched = Watched(browser)
    page = watched.open(f"{app}/release?release=cart@1.6.0")
    metric = page.get_by_role("combobox", name="Metric")
    metric.scroll_into_view_if_needed()
    page.wait_for_timeout(700)  # a list that was opened is closed by scrolling
    metric.click()
    page.get_by_role("option", name="latency_p99").click()
    page.wait_for_url("**metric=latency_p99**")
    expect(page.locator(".ev-figure").first).to_contain_text("p99")
    expect(page).to_have_title("✗ cart@1.6.0 · Release")
    page.reload()
    watched.settle()
    expect(page.get_by_role("combobox", name="Metric")).to_have_value("latency_p99")
    expect(page.locator(".ev-figure").first).to_contain_text("p99")
    watched.context.close()


def count_tabs(page, heading):
    """Press Tab until what has the focus is below a heading; returns how often."""
    below = f"document.getElementById({heading!r}).compareDocumentPosition(document.activeElement) & 4"
    for count in range(1, 200):
        page.keyboard.press("Tab")
        if page.evaluate(below):
            return count
    raise AssertionError(f"200 presses of Tab do not reach {heading}")


def test_links_keep_the_connection_and_what_was_chosen(browser, app):
    """A reader goes through the app by keyboard and mouse, back and forward, over the connection of the first page."""

    def expect_page(title, **chosen):
        expect(page).to_have_title(title)
        watched.settle()
        query = parse_qs(urlsplit(page.url).query)
        assert {name: query.get(name, [""])[0] for name in chosen} == chosen

    def expect_at(heading):
        place = f"document.getElementById({heading!r})?.getBoundingClientRect().top"
        page.wait_for_function(f"0 <= {place} && {place} < 200")
        assert page.url.endswith(f"#{heading}")

    watched = Watched(browser)
    page = watched.open(app)
    length = page.evaluate("history.length")
    page.get_by_role("link", name="cart@1.6.0, p95: fail").focus()
    page.keyboard.press("Enter")
    expect_page("✗ cart@1.6.0 · Release", release="cart@1.6.0", metric="latency_p95", arm="canary")
    expect(page.locator(".ev-banner .word")).to_have_text("NO-GO ✗")
    expect(page.get_by_role("combobox", name="Metric")).to_have_value("latency_p95")
    expect_at("metric")
    page.locator("[data-testid=stSkipToContent]").focus()
    assert count_tabs(page, "notes") <= 40
    page.get_by_role("link", name=re.compile("geometric mean of")).first.click()
    expect_at("closer")
    expect_page("✗ cart@1.6.0 · Release", release="cart@1.6.0", arm="canary")
    sections = page.get_by_role("navigation", name="sections of this page")
    expect(sections).to_be_in_viewport()  # it stays at the top
    notes = sections.get_by_role("link", name="Notes")
    for _ in range(20):  # on a busy machine the line of sections is drawn anew meanwhile, and loses the focus
        sections.get_by_role("link", name="Health").focus()
        page.keyboard.press("ArrowRight")
        if notes.evaluate("link => link === document.activeElement"):
            break
        page.wait_for_timeout(500)
    expect(notes).to_be_focused()
    page.keyboard.press("Enter")
    expect_at("notes")
    expect(page.locator("#notes")).to_be_focused()  # the next Tab continues there
    expect(sections.locator("[aria-current]")).to_have_text("Notes")
    expect(sections).to_be_in_viewport()
    page.get_by_role("link", name="Promote", exact=True).click()
    expect_page("✗ cart@1.6.0 · Promote", release="cart@1.6.0", arm="canary")
    page.get_by_role("link", name="Plan", exact=True).click()
    expect_page("Plan · Release evaluator", release="cart@1.6.0", arm="canary")
    assert page.evaluate("history.length") == length + 5  # one for each click
    page.go_back()
    expect_page("✗ cart@1.6.0 · Promote", release="cart@1.6.0")
    for _ in ("#notes", "#closer", "#metric"):
        page.go_back()
        expect_page("✗ cart@1.6.0 · Release", release="cart@1.6.0")
    expect_page("✗ cart@1.6.0 · Release", metric="latency_p95")
    page.go_back()
    expect_page("Releases · Release evaluator")
    page.go_forward()
    expect_page("✗ cart@1.6.0 · Release", release="cart@1.6.0", metric="latency_p95", arm="canary")
    assert len(watched.connections) == 1
    page.goto(f"{app}/release?release=cart@1.7.0#closer")  # of another person, without the page's defaults
    expect_at("closer")
    expect_page("? cart@1.7.0 · Release", release="cart@1.7.0")
    assert "metric=" in page.url
    assert page.evaluate("history.length") == length + 2  # what was ahead is gone
    address = page.url
    page.emulate_media(color_scheme="dark")  # the system switches its theme
    page.wait_for_selector("[data-testid=stVegaLiteChart] text[fill='#a9b4bf']", state="attached", timeout=60_000)
    assert page.url == address
    assert watched.complaints == []
    watched.context.close()


def test_names_that_are_html_run_nothing(browser, hostile, tmp_path):
    with served(hostile, tmp_path) as address:
        watched = Watched(browser)
        requested = []
        watched.page.on("dialog", lambda dialog: (requested.append(dialog.message), dialog.dismiss()))
        for path in ("/", "/release", "/compare", "/plan"):
            page = watched.open(address + path)
            assert page.locator("img[src=x]").count() == 0
        assert requested == []
        assert watched.complaints == []
        watched.context.close()


def test_only_the_browser_that_opened_the_printed_address_may_act(browser, shop, tmp_path):
    store = shop("hooks: {promote: [{command: {run: ['true']}}]}\n")
    folder = tmp_path / "app"
    folder.mkdir()
    with started(store, folder, policy=store.parent / "evaluator.yaml") as app:
        token = app.entry.partition("token=")[2]
        watched = Watched(browser)
        sent = []
        watched.page.on("request", lambda request: sent.append(f"{request.url} {request.headers}"))
        page = watched.open(app.entry)
        assert page.url == f"{app.address}/"
        assert sum(token in words for words in sent) == 1  # the first request; no Referer has it
        assert token not in page.content()
        page.goto(f"{app.address}/promote?release=cart@1.9.0")
        promote = page.get_by_test_id("stFormSubmitButton").get_by_role("button", name="Promote")
        expect(promote).to_be_enabled()
        page.reload()
        expect(promote).to_be_enabled()
        page.get_by_role("link", name="all of the evidence").click()
        expect(page.get_by_role("button", name="Add the note")).to_be_enabled()
        second_tab = watched.context.new_page()
        second_tab.goto(f"{app.address}/promote?release=cart@1.9.0")
        expect(second_tab.get_by_test_id("stFormSubmitButton").get_by_role("button", name="Promote")).to_be_enabled()

        other = Watched(browser, 390, "dark")
        for address in (
            f"{app.address}/promote?release=cart@1.9.0",
            f"{app.address}/promote?token=x&release=cart@1.9.0",
        ):
            page = other.open(address)
            expect(page.get_by_text("This browser may only read.")).to_be_visible()
            assert "token" not in page.url
            assert page.get_by_test_id("stFormSubmitButton").count() == 0
            assert not other.overflows()
        assert watched.complaints + other.complaints == []
        watched.context.close()
        other.context.close()


def test_nothing_is_shown_before_a_login(browser, store_path, tmp_path):
    port = free_port()
    with provided(tmp_path, port), served(store_path, tmp_path, port=port) as address:
        watched = Watched(browser)
        page = watched.open(f"{address}/release?release=cart@1.6.0")
        expect(page.get_by_text("Sign in to review releases.")).to_be_visible()
        assert page.get_by_text("cart@1.6.0").count() == 0
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("link", name="ann").click()
        expect(page.get_by_text("read by ann@example.org")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_text("Sign in to review releases.")).to_be_visible()
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("link", name="eve").click()
        expect(page.get_by_text("read by u-3")).to_be_visible()
        watched.context.close()


def test_a_live_release_refreshes_by_itself_and_leaves_the_reader_where_they_are(browser, own, tmp_path):
    store = Store.open(own)
    land(store, "cart@2.1.0", replace(STEADY, duration_s=120.0), seed=3, live=True)
    with served(own, tmp_path) as address:
        watched = Watched(browser)
        page = watched.open(f"{address}/release?release=cart@2.1.0&metric=latency_p99")
        expect(page.get_by_role("heading", level=1)).to_have_text("RECORDING …cart@2.1.0")
        expect(page.get_by_role("region", name="what is recorded").get_by_role("row")).to_have_count(3)
        judge(store, "cart@2.1.0")
        expect(page.locator(".ev-badge").first).to_have_text("recording")  # by itself
        expect(page.get_by_role("region", name="what is recorded").get_by_role("row")).to_have_count(3)
        page.locator("#method").scroll_into_view_if_needed()
        scroll = "document.querySelector('[data-testid=stMain]').scrollTop"
        before = page.evaluate(scroll)
        assert before > 1000
        judge(store, "cart@2.1.0")
        newer = page.get_by_role("button", name="There is a newer verdict")
        newer.wait_for(state="attached", timeout=20_000)
        assert abs(page.evaluate(scroll) - before) < 200
        newer.click()
        expect(newer).to_have_count(0)
        expect(page.get_by_role("link", name="verdict 2")).to_be_attached()
        assert "metric=latency_p99" in page.url
        assert watched.complaints == []
        watched.context.close()
