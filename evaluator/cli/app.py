"""`evaluator app`: the analysts' pages in a browser."""

from __future__ import annotations

import ipaddress
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import click

import evaluator as package
from evaluator.cli import Session, emit
from evaluator.errors import EvaluatorError, StoreError
from evaluator.extensions import explain_missing_package


@click.command("app")
@click.option(
    "--address", default="127.0.0.1", show_default=True, help="Address to listen on; loopback needs no login."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8501, show_default=True, help="Port to listen on.")
@click.option("--no-worker", is_flag=True, help="Only record requests: `evaluator hooks worker` executes them.")
@click.pass_obj
def command(session: Session, address: str, port: int, no_worker: bool) -> int:
    """Review releases in a browser: verdicts, figures, comparisons, plans, and promotion.

    Open the address that it prints: its token lets your browser act as your account. All others who reach the app on
    this machine may only read. With another --address users have to sign in: docs/app.md describes how to configure a
    login. Ctrl-C ends it.
    """
    with explain_missing_package("the app needs", "app,plots"):
        version("streamlit")  # fails if it is not installed
        from evaluator.intents import system_person
        from evaluator.serving.access import Access, is_store_private
        from evaluator.serving.login import is_login_configured
        from evaluator.serving.server import configure, listen, serve, write_url
        from evaluator.serving.worker import NO_WORKER, start_worker
    from evaluator.pipeline.adopting import is_store_there

    if is_store_there(session.store_path):
        with suppress(StoreError):  # the pages show it
            session.open_store(adopt=True)  # the pages read only what is in the store
    store_path = session.store_path.absolute()
    os.environ["EVALUATOR_STORE"] = str(store_path)
    if session.policy_path is not None:
        os.environ["EVALUATOR_POLICY"] = str(session.policy_path.absolute())
    if no_worker:
        os.environ[NO_WORKER] = "off"
    with listen(address, port) as listener:
        # As numbers: where `localhost` has a second address, another account may listen there and get the token.
        address, port = listener.getsockname()[:2]
        configure(address, port)
        access = None if is_login_configured() else Access(port, store_path)
        session.say(f"the app shows {session.store_path}; Ctrl-C ends it")
        if not _is_loopback(address):
            session.say("other machines can reach this address: users have to sign in first (docs/app.md)")
        elif access is not None:
            account = system_person().name
            others = "shows nothing of this private store" if is_store_private(store_path) else "can only be read"
            session.say(f"open this address to act as {account}; without its token, the app {others}:")
        emit(write_url(address, port, access if _is_loopback(address) else None))
        sys.stdout.flush()
        begin = None if no_worker else partial(start_worker, store_path)
        signal_number = serve(listener, find_app(), access, session.say, begin)
    if signal_number == signal.SIGINT:
        return 128 + signal_number  # as for any command that Ctrl-C ends, but here that is no error
    signal.raise_signal(signal_number)  # ends the process, with the exit code of that signal
    return 0


def find_app() -> Path:
    """Find app.py: next to the package in a checkout, inside it in an installation. Raises EvaluatorError."""
    in_checkout = Path(package.__file__).parent.parent / "app.py"
    in_installation = Path(str(files("evaluator") / "starter" / "app.py"))
    for path in (in_installation, in_checkout):
        if path.is_file():
            return path
    raise EvaluatorError("app.py is missing from this installation", hint="install release-evaluator again")


def _is_loopback(address: str) -> bool:
    """Can only this machine reach the address, which is written in numbers?"""
    return ipaddress.ip_address(address).is_loopback
