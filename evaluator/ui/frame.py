"""The frame around every page: style, who is reading, and what is shown where a page cannot be shown."""

from __future__ import annotations

import functools
import ipaddress
import logging
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from evaluator.errors import EvaluatorError, StoreBusy, StoreError
from evaluator.serving.login import is_login_configured
from evaluator.serving.worker import start_worker
from evaluator.ui.identity import hide_private_store, show_reader, sign_in_if_asked
from evaluator.ui.pieces import show_empty
from evaluator.ui.reads import find_store_path
from evaluator.wording import quote_command

STYLE = Path(__file__).with_name("style.css")
_log = logging.getLogger(__name__)


def open_frame(show_page: Callable[[], None]) -> None:
    """Show a page inside the frame: its style, a login if one is required, and who is reading.

    An app that the network can reach without a login shows nothing but that, and so does one whose store only its owner
    can read, to all other readers.
    """
    st.html(STYLE)
    if _is_open_to_everyone():
        show_empty(
            "This app can be reached from the network without a login.",
            "It shows nothing until it listens on loopback only, or requires a login: see docs/app.md.",
            "evaluator app --address 127.0.0.1",
        )
        return
    store = find_store_path()
    start_worker(store)  # `evaluator app` has started it; `streamlit run app.py` has not
    if not sign_in_if_asked() or hide_private_store(store):
        return
    show_page()
    show_reader(store)


def _is_open_to_everyone() -> bool:
    """Can other machines reach this server, and does it not require a login?"""
    if is_login_configured():
        return False
    address = st.get_option("server.address")
    if address == "localhost":
        return False
    try:
        return not ipaddress.ip_address(address or "0.0.0.0").is_loopback  # noqa: S104 where Streamlit listens by itself
    except ValueError:
        return True  # the name of a host may be an address that others reach


def guarded(show_part: Callable[[], None]) -> Callable[[], None]:
    """Wrap a function that shows a page, or a part of it, so that its errors are shown as a sentence with a remedy.

    A traceback goes to the log, and the other parts of the page are shown. A part that refreshes itself does so without
    the frame: it is hidden once its store has become private.
    """

    @functools.wraps(show_part)
    def run() -> None:
        """Show the part, or the error that it raises."""
        if hide_private_store(find_store_path()):
            return
        try:
            show_part()
        except EvaluatorError as error:
            show_problem(error)
        except Exception as error:  # noqa: BLE001 whatever it was: no traceback reaches a reader
            _log.exception("a page failed")
            show_problem(error)

    return run


def show_problem(error: Exception) -> None:
    """Show an error as a sentence with its remedy; a store that another process writes also gets a button."""
    if isinstance(error, EvaluatorError):
        problem, hint = error.message, error.hint or ""
    else:
        problem = f"This part could not be shown: unexpected {type(error).__name__}."
        hint = "This is a bug in evaluator; the log of `evaluator app` shows where."
    if isinstance(error, StoreBusy):
        show_empty("The store is being written.", f"{problem} {hint}", alert=True)
        # Any press runs the page again. Several parts of a page may show such a button: each needs a key of its own.
        st.button("Try again", key=f"again-{abs(hash(problem))}")
    else:
        show_empty(problem, hint or "Nothing was changed.", alert=True)
    if isinstance(error, StoreError):
        release = st.query_params.get("release") or "RELEASE"
        command = quote_command("rollback", release, "--reason", "WHY")
        advice = "In a shell on the machine of this app, a rollback (or `evaluator hold`) works all the same:"
        show_empty("Must traffic go back now?", advice, command)
