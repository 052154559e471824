"""`evaluator app`: the analysts' pages in a browser."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import click

import evaluator as package
from evaluator.cli import Session
from evaluator.errors import EvaluatorError, StoreError
from evaluator.extensions import explain_missing_package

OPTIONS: Mapping[str, str] = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "theme.light.primaryColor": "#0b5cad",
    "theme.light.linkColor": "#0b5cad",
    "theme.dark.primaryColor": "#7db7f0",
    "theme.dark.linkColor": "#7db7f0",
}
"""Streamlit's options besides address and port; `.streamlit/config.toml` sets the same for `streamlit run app.py`."""


@click.command("app")
@click.option(
    "--address", default="127.0.0.1", show_default=True, help="Address to listen on; loopback needs no login."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8501, show_default=True, help="Port to listen on.")
@click.option("--no-worker", is_flag=True, help="Only record requests: `evaluator hooks worker` executes them.")
@click.pass_obj
def command(session: Session, address: str, port: int, no_worker: bool) -> int:
    """Review releases in a browser: verdicts, figures, comparisons, plans, and promotion.

    By default only this machine can reach it. With another --address users have to sign in: docs/app.md describes how
    to configure a login. Ctrl-C ends it.
    """
    with explain_missing_package("the app needs", "app,plots"):
        version("streamlit")  # fails if it is not installed
    from evaluator.pipeline.adopting import is_store_there

    if is_store_there(session.store_path):
        with suppress(StoreError):  # the pages show it
            session.open_store(adopt=True)  # the pages read only what is in the store
    session.say(f"http://{address}:{port} shows {session.store_path}; Ctrl-C ends it")
    if not _is_loopback(address):
        session.say("other machines can reach this address: users have to sign in first (docs/app.md)")
    options = {**OPTIONS, "server.address": address, "server.port": str(port)}
    flags = [f"--{option}={value}" for option, value in options.items()]
    environment = {**os.environ, "EVALUATOR_STORE": str(session.store_path.absolute())}
    if session.policy_path is not None:
        environment["EVALUATOR_POLICY"] = str(session.policy_path.absolute())
    if no_worker:
        environment["EVALUATOR_APP_WORKER"] = "off"
    return _run_server([sys.executable, "-m", "streamlit", "run", str(find_app()), *flags], environment)


def find_app() -> Path:
    """Find app.py: next to the package in a checkout, inside it in an installation. Raises EvaluatorError."""
    in_checkout = Path(package.__file__).parent.parent / "app.py"
    in_installation = Path(str(files("evaluator") / "starter" / "app.py"))
    for path in (in_installation, in_checkout):
        if path.is_file():
            return path
    raise EvaluatorError("app.py is missing from this installation", hint="install release-evaluator again")


def _is_loopback(address: str) -> bool:
    """Can only this machine reach the address? Any name except `localhost` counts as reachable by others."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _run_server(words: list[str], environment: Mapping[str, str]) -> int:
    """Run the command `words` until it ends; returns 0. Ctrl-C ends it, too. Raises EvaluatorError if it fails."""
    with subprocess.Popen(words, env=environment) as server:
        try:
            exit_code = server.wait()
        except KeyboardInterrupt:
            server.terminate()
            raise
    if exit_code:
        raise EvaluatorError(
            f"the app ended with exit code {exit_code}",
            hint="its own message is above; if the port is in use, give another --port",
        )
    return 0
