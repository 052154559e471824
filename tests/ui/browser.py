"""The app as it is served, and a real browser that watches what it does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from playwright.sync_api import Browser, Page, expect
from provider import CLIENT, SECRET, make_provider
from served_app import ServedApp, run_app

from evaluator.sources.load import free_port

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
expect.set_options(timeout=60_000)  # on a busy machine an answer takes many seconds


@contextlib.contextmanager
def served(store: Path, folder: Path, *, port: int = 0, policy: Path | None = None) -> Iterator[str]:
    """Serve the app over a store from a folder of its own; yields its address, without the token."""
    with started(store, folder, port=port, policy=policy) as app:
        yield app.address


def started(
    store: Path, folder: Path, *, port: int = 0, policy: Path | None = None
) -> contextlib.AbstractContextManager[ServedApp]:
    """Serve the app over a store from a folder of its own."""
    options = ["--store", str(store)]
    options += ["--policy", str(policy)] if policy else []
    return run_app(folder, "--port", str(port), options=options)


@contextlib.contextmanager
def provided(folder: Path, app_port: int) -> Iterator[str]:
    """Serve the OpenID provider, and configure the app of `folder` to sign in with it."""
    port = free_port()
    issuer = f"http://127.0.0.1:{port}"
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit" / "secrets.toml").write_text(
        f"""[auth]
redirect_uri = "http://127.0.0.1:{app_port}/oauth2callback"
cookie_secret = "{"c" * 40}"
client_id = "{CLIENT}"
client_secret = "{SECRET}"
server_metadata_url = "{issuer}/.well-known/openid-configuration"
client_kwargs = {{ prompt = "login" }}
"""
    )
    server = uvicorn.Server(uvicorn.Config(make_provider(issuer), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.should_exit = True
        thread.join(10)


class Watched:
    """A page whose complaints and requests are kept."""

    def __init__(self, browser: Browser, width: int = 1440, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.away: list[str] = []
        self.connections: list[str] = []
        self.page.on("console", lambda m: self._note(m.text) if m.type in {"error", "warning"} else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda r: self._see(r.url))
        self.page.on("websocket", lambda socket: self.connections.append(socket.url))
        self.page.on("response", lambda r: self._answered(r.status, r.url))

    def _note(self, text: str) -> None:
        # What failed to load is judged by its address, below.
        if not text.startswith("Failed to load resource"):
            self.complaints.append(text)

    def _see(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
            self.away.append(url)

    def _answered(self, status: int, url: str) -> None:
        if status >= 400:
            self.complaints.append(f"{status} {url}")

    def open(self, address: str) -> Page:
        """Go there and wait until nothing is computed any more."""
        self.page.goto(address)
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until the page is done."""
        self.page.wait_for_selector(".ev", timeout=30_000)
        self.page.wait_for_function(
            "document.querySelector('[data-testid=stApp]')?.getAttribute('data-test-script-state') === 'notRunning'",
            timeout=30_000,
        )

    def overflows(self) -> bool:
        """Can the page be scrolled sideways?"""
        main = "document.querySelector('[data-testid=stMain]')"
        return bool(self.page.evaluate(f"{main}.scrollWidth > {main}.clientWidth + 1"))
