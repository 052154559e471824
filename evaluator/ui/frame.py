"""The frame around every page: style, who is reading, and what is shown where a page cannot be shown."""

from __future__ import annotations

import functools
import ipaddress
import logging
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from evaluator.errors import EvaluatorError, StoreBusy
from evaluator.ui.acting import start_worker
from evaluator.ui.identity import is_login_configured, show_reader, sign_in_if_asked
from evaluator.ui.pieces import show_empty
from evaluator.ui.reads import find_workspace

STYLE = Path(__file__).with_name("style.css")
_log = logging.getLogger(__name__)


def open_frame(run: Callable[[], None]) -> None:
    """Run a page inside the frame."""
    st.html(STYLE)
    if _is_open_to_everyone():
        show_empty(
            "This app can be reached from the network without a login.",
            "It shows nothing until it listens on loopback only, or requires a login: see docs/app.md.",
            "evaluator app --address 127.0.0.1",
        )
        return
    start_worker()  # before a login: approved requests do not wait for a reader
    if not sign_in_if_asked():
        return
    run()
    show_reader(find_workspace().store)


def _is_open_to_everyone() -> bool:
    """Does the server listen beyond loopback, without a login?"""
    if is_login_configured():
        return False
    address = st.get_option("server.address")
    if address == "localhost":
        return False
    try:
        return not ipaddress.ip_address(address or "0.0.0.0").is_loopback  # noqa: S104 where Streamlit listens by itself
    except ValueError:
        return True


def guarded(body: Callable[[], None]) -> Callable[[], None]:
    """Show what went wrong in a page, or a part of it, as a sentence with its remedy; a traceback goes to the log."""

    @functools.wraps(body)
    def run() -> None:
        try:
            body()
        except EvaluatorError as error:
            show_problem(error)
        except Exception as error:  # noqa: BLE001 whatever it was: no traceback reaches a reader
            _log.exception("a page failed")
            show_problem(error)

    return run


def show_problem(error: Exception) -> None:
    """Show what is wrong and what to do about it."""
    if isinstance(error, EvaluatorError):
        what, hint = error.message, error.hint or ""
    else:
        what = f"This part could not be shown: unexpected {type(error).__name__}."
        hint = "This is a bug in evaluator; the log of `evaluator app` shows where."
    head = "The store is being written." if isinstance(error, StoreBusy) else what
    body = f"{what} {hint}" if isinstance(error, StoreBusy) else hint
    show_empty(head, body or "Nothing was changed.", alert=True)
    if isinstance(error, StoreBusy):
        st.button("Try again", key=f"again-{abs(hash(what))}")
