"""A release is reviewed, promoted by two people, and rolled back, in a real browser with a real load balancer."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from browser import ARGUMENTS, CHROMIUM, Watched, provided, served, started
from playwright.sync_api import Page, expect, sync_playwright

from evaluator.errors import NotReached
from evaluator.guard.client import GuardClient
from evaluator.sources.load import free_port
from evaluator.store import Store

sys.path.insert(0, str(Path(__file__).parent.parent))
from hooks_world import balancing, receiving, split_of

POLICY = """
approvals: {{self_approval: false}}
roles: {{viewer: "*", analyst: ["group:dev"], approver: ["group:sre"]}}
link: http://127.0.0.1:{port}/promote?release=${{release}}&request=${{request}}
hooks:
  promote:
    - haproxy: {{socket: {folder}/s, backend: shop, servers: {{baseline: baseline, canary: canary}}, required: true}}
  announce:
    - http: {{url: "{receiver}/told/${{action}}/${{outcome}}", allow_hosts: [127.0.0.1]}}
  notify:
    - notify: {{to: ["json://{chat}/chat"], allow_hosts: [127.0.0.1]}}
"""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def balanced(tmp_path):
    """The port of a load balancer in front of both versions."""
    with balancing(tmp_path) as names:
        yield names["port"]


def sign_in(watched: Watched, address: str, name: str) -> Page:
    page = watched.open(address)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name=name).click()
    page.get_by_text("read by").wait_for()
    return page


def ask_for(page: Page, button: str, reason: str, release: str = "cart@1.9.0") -> None:
    # Each action has its own form: that of the action before is gone once the page has changed.
    expect(page.get_by_label("Reason, in one sentence")).to_have_count(1)
    page.get_by_label("Reason, in one sentence").fill(reason)
    page.get_by_label("to confirm").fill(release)
    page.get_by_test_id("stFormSubmitButton").get_by_role("button", name=button, exact=True).click()


def wait_until(what, seconds=30):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def list_told(receiver) -> list[str]:
    """The paths of the announcements, without the messages to people."""
    return [request.path for request in receiver.requests if request.path.startswith("/told")]


def test_reviewed_promoted_by_two_people_and_rolled_back(browser, balanced, shop, tmp_path):
    port = free_port()
    with receiving() as receiver:
        chat = receiver.url.removeprefix("http://")
        store = shop(POLICY.format(folder=tmp_path, receiver=receiver.url, chat=chat, port=port))
        folder = tmp_path / "app"
        folder.mkdir()
        with (
            provided(folder, port),
            served(store, folder, port=port, policy=store.parent / "evaluator.yaml") as address,
        ):
            bob, ann = Watched(browser), Watched(browser, 390, "dark")
            page = sign_in(bob, address, "bob")
            bob.open(f"{address}/release?release=cart@1.9.0")
            expect(page.locator(".ev-banner .word")).to_have_text("GO ✓")
            page.get_by_role("link", name="promote, hold or roll back").click()
            expect(page.get_by_text("now: baseline 90, canary 10")).to_be_visible()
            ask_for(page, "Promote", "all gates passed")
            expect(page.get_by_text("one person other than bob@example.org has to approve")).to_be_visible()
            assert split_of(balanced) == {"baseline": 90, "canary": 10}

            approver_page = sign_in(ann, f"{address}/", "ann")
            wait_until(lambda: receiver.requests)
            message = json.loads(receiver.requests[0].body)
            assert "bob@example.org asks to promote cart@1.9.0 to all users" in message["message"]
            ann.open(message["message"].splitlines()[-1])  # the link in the message
            card = approver_page.locator(".st-key-card-i1")
            expect(card).to_be_in_viewport()
            expect(card).to_contain_text("all gates passed")
            assert "${" not in card.inner_text()
            field = card.get_by_label("to approve")
            expect(field).to_have_attribute("type", "email")  # phones begin no capital there, and correct nothing
            field.fill("cart@1.9.1")
            card.get_by_role("button", name="Approve").click()
            expect(card.get_by_text("This is not cart@1.9.0")).to_be_visible()
            field.fill("Cart@1.9.0")
            card.get_by_role("button", name="Approve").click()
            expect(approver_page.get_by_text("approved by ann@example.org").first).to_be_visible()
            expect(approver_page.get_by_text("1 hook done").first).to_be_visible()
            assert split_of(balanced) == {"canary": 100}
            # bob's page, left as it was, has noticed by itself
            expect(page.get_by_text("1 hook done").first).to_be_visible()

            approver_page.get_by_text("Roll back", exact=True).click()
            expect(approver_page.get_by_text("takes back the shares")).to_be_visible()
            expect(approver_page.get_by_text("now: baseline 0, canary 10")).to_be_visible()
            ask_for(approver_page, "Roll back", "carts are odd")
            wait_until(lambda: split_of(balanced) == {"baseline": 90, "canary": 10})
            wait_until(lambda: len(list_told(receiver)) == 2)
            assert list_told(receiver) == ["/told/promote/acknowledged", "/told/rollback/acknowledged"]
            for watched in (bob, ann):
                assert watched.complaints == []
                assert watched.away == []
                assert not watched.overflows()
                watched.context.close()
    trail = Store.open(store).control.audit()
    assert [row.actor for row in trail if row.event in {"requested", "approved"}] == [
        "bob@example.org",
        "ann@example.org",
        "ann@example.org",
    ]
    assert Store.open(store).control.verify_audit() == trail[-1].hash


def test_double_clicks_two_tabs_and_reloads_promote_once(browser, shop, tmp_path):
    with receiving() as receiver:
        hook = f"{{http: {{url: '{receiver.url}/${{action}}', allow_hosts: [127.0.0.1]}}}}"
        store = shop(f"hooks: {{promote: [{hook}]}}\n")
        folder = tmp_path / "app"
        folder.mkdir()
        with started(store, folder, policy=store.parent / "evaluator.yaml") as app:
            tabs = [Watched(browser), Watched(browser)]
            for tab in tabs:
                tab.open(app.entry)
            pages = [tab.open(f"{app.address}/promote?release=cart@1.9.0") for tab in tabs]
            for page in pages:
                page.get_by_label("Reason, in one sentence").fill("all gates passed")
                page.get_by_label("to confirm").fill("cart@1.9.0")
            for page in pages:
                page.get_by_test_id("stFormSubmitButton").get_by_role("button", name="Promote", exact=True).dblclick()
            pages[0].reload()
            tabs[0].settle()
            for page in pages:
                expect(page.get_by_text("1 hook done").first).to_be_visible()
            ask_for(pages[1], "Promote", "once more")
            pages[1].wait_for_timeout(2000)
            assert len(receiver.requests) == 1
            for tab in tabs:
                assert tab.complaints == []
                tab.context.close()
    assert len(Store.open(store).control.intents()) == 1


def test_an_app_that_was_killed_goes_on_where_it_was(browser, shop, tmp_path, monkeypatch):
    """The worker of the app dies between send and acknowledgement; the next one sends again with the same key."""
    monkeypatch.setenv("HOOK_SECRET", "whsec_" + base64.b64encode(os.urandom(32)).decode())
    released = threading.Event()
    folder = tmp_path / "app"
    folder.mkdir()
    with receiving() as receiver:
        receiver.answers = [lambda _handler, _received: released.wait(30), *receiver.answers]
        hook = f"{{webhook: {{url: '{receiver.url}', secret: '${{HOOK_SECRET}}', allow_hosts: [127.0.0.1]}}}}"
        store = shop(f"hooks: {{promote: [{hook}]}}\n")
        with started(store, folder, policy=store.parent / "evaluator.yaml") as app:
            watched = Watched(browser)
            watched.open(app.entry)
            page = watched.open(f"{app.address}/promote?release=cart@1.9.0")
            ask_for(page, "Promote", "all gates passed")
            wait_until(lambda: receiver.requests)
            app.process.kill()
            watched.context.close()
        released.set()
        with served(store, folder, policy=store.parent / "evaluator.yaml") as address:
            watched = Watched(browser)
            page = watched.open(f"{address}/promote?release=cart@1.9.0")
            expect(page.get_by_text("1 hook done").first).to_be_visible()
            watched.context.close()
        first, second = receiver.requests
        assert first.headers["webhook-id"] == second.headers["webhook-id"]


ROLLOUT = """\
service: cart
approvals: {self_approval: true}
sources:
  access_log:
    format: nginx
    log_format: '$msec "$request" $status $upstream_addr $upstream_response_time $request_time'
    arms: {baseline: ['b*'], canary: ['c*']}
rollout:
  strategy: big_bang
  router:
    cart: {command: {set: [sh, -c, 'echo "$1" > shares.json', sh, "${shares}"], get: [cat, shares.json]}}
  live: {access_log: access.log}
  stages: [{name: all, share: 100%, needs: nothing, bake: 10m, agree: 1}]
"""


@contextlib.contextmanager
def rolling_out(folder: Path):
    """A rollout that is driven in a folder; yields the process that drives it. It and its guard are ended."""
    (folder / "evaluator.yaml").write_text(ROLLOUT)
    (folder / "shares.json").write_text('{"baseline": 1, "canary": 0}')
    (folder / "access.log").write_text(f'{time.time():.3f} "GET /cart HTTP/1.1" 200 b1:8000 0.010 0.010\n')
    words = [sys.executable, "-m", "evaluator", "rollout", "start", "cart@1.5.0", "--yes", "--reason", "it is Monday"]
    with (folder / "driver.log").open("w") as log:
        driver = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()
        with contextlib.suppress(NotReached):
            os.kill(GuardClient(folder / "evaluator.duckdb").ping()["pid"], signal.SIGTERM)


def test_a_step_of_a_rollout_is_agreed_to_held_and_turned_back(browser, tmp_path):
    def read_canary() -> float:
        return json.loads((tmp_path / "shares.json").read_text() or "{}").get("canary", -1)

    def act(button: str) -> None:
        watched.settle()
        page.get_by_label("Reason, in one sentence").fill("odd carts")
        page.get_by_label("to confirm").fill("cart@1.5.0")
        page.get_by_test_id("stFormSubmitButton").get_by_role("button", name=button, exact=True).click()

    store = tmp_path / "evaluator.duckdb"
    with rolling_out(tmp_path) as driver, contextlib.ExitStack() as stack:
        wait_until(lambda: store.exists() and Store.open(store).control.intents())
        app = stack.enter_context(started(store, tmp_path, policy=tmp_path / "evaluator.yaml"))
        watched = Watched(browser)
        page = watched.open(app.entry)
        page.get_by_role("link", name="see rollout r1").click()
        word = page.locator(".ev-banner .word")
        expect(word).to_have_text("WAITS FOR A PERSON")
        page.get_by_label("to approve").fill("cart@1.5.0")
        page.get_by_role("button", name="Approve").click()
        # the page has noticed by itself what the driver and the guard have done
        expect(page.get_by_text("the router says baseline 0 %, canary 100 %")).to_be_visible()
        expect(word).to_have_text("RUNNING")
        assert read_canary() == 1
        act("Hold")
        expect(word).to_have_text("HELD")
        act("Continue")
        expect(word).to_have_text("RUNNING")
        act("Roll back")
        expect(word).to_have_text("ROLLED BACK ↩")
        assert read_canary() == 0
        assert driver.wait(30) == 3
        assert watched.complaints == []
        assert not watched.overflows()
        watched.context.close()
