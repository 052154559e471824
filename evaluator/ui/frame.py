"""The frame around every page: style, who is reading, and what is shown where a page cannot be shown."""

from __future__ import annotations

import functools
import ipaddress
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from evaluator.errors import EvaluatorError, StoreBusy, StoreError
from evaluator.serving.entry import SCRIPT, EntryMiddleware
from evaluator.serving.login import is_login_configured
from evaluator.serving.worker import start_worker
from evaluator.store.control_file import control_path
from evaluator.ui.identity import hide_private_store, show_reader, sign_in_if_asked
from evaluator.ui.pieces import show_empty
from evaluator.ui.reads import find_store_path, find_workspace
from evaluator.wording import quote_command

STYLE = Path(__file__).with_name("style.css")
LOOK_EVERY_S = 2
"""How often a page that has nothing to show looks whether there is something, in seconds."""
EMPTY_ADVICE = (
    "Your next load or import fills this page by itself. To try it with two versions of a sample service, for a minute:"
)
DAMAGED_HINT = "If the store is damaged, restore a backup with `evaluator data restore BACKUP --replace`."
_log = logging.getLogger(__name__)


def open_frame(title: str, show_page: Callable[[], None]) -> None:
    """Show a page inside the frame: its style, a login if one is required, and who is reading. Whatever fails is shown.

    An app that the network can reach without a login shows nothing but that, and so does one whose store only its owner
    can read, to all other readers. `title`: of the page; it names the browser's tab until the page names it better.
    """
    st.html(STYLE)
    if not EntryMiddleware.is_used:
        st.html(f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>", unsafe_allow_javascript=True)
    st.set_page_config(page_title=f"{title} · Release evaluator")
    with _problems_shown(title):
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


def guarded(show_part: Callable[[], None], title: str = "") -> Callable[[], None]:
    """Wrap a function that shows a page, or a part of it, so that its errors are shown as a sentence with a remedy.

    A traceback goes to the log, and the other parts of the page are shown. A part that refreshes itself does so without
    the frame: it is hidden once its store has become private. `title`: of a page whose heading says what it found,
    shown as the heading of an error.
    """

    @functools.wraps(show_part)
    def run() -> None:
        """Show the part, or the error that it raises."""
        with _problems_shown(title):
            if not hide_private_store(find_store_path()):
                show_part()

    return run


@contextmanager
def _problems_shown(title: str) -> Iterator[None]:
    """Show an error of the body on the page, under a heading; what is no error of ours goes to the log as well."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 whatever it was: no traceback reaches a reader
        if not isinstance(error, EvaluatorError):
            _log.exception("a page failed")
        if title:
            st.title(title)
        show_problem(error)


def show_problem(error: Exception) -> None:
    """Show an error as a sentence with its remedy; a store that another process writes also gets a button."""
    if isinstance(error, StoreBusy):
        parts = (f"{part[:1].upper()}{part[1:]}." for part in (error.message, error.hint) if part)
        show_empty("Another process uses the store.", " ".join(parts), alert=True)
        # Any press runs the page again. Several parts of a page may show such a button: each needs a key of its own.
        st.button("Try again", key=f"again-{abs(hash(error.message))}")
    elif isinstance(error, StoreError) and not _is_any_store_there():
        show_missing_store()
        return
    elif isinstance(error, EvaluatorError):
        hint = DAMAGED_HINT if isinstance(error, StoreError) else "Nothing was changed."
        show_empty(error.message, error.hint or hint, alert=True)
    elif isinstance(error, OSError) and error.filename:
        problem = f"{error.filename} cannot be used: {error.strerror}."
        show_empty(problem, "Check the path, its permissions and the disk, and load this page again.", alert=True)
    else:
        problem = f"This part could not be shown: unexpected {type(error).__name__}."
        show_empty(problem, "This is a bug in evaluator; the log of `evaluator app` shows where.", alert=True)
    if isinstance(error, StoreError):
        release = st.query_params.get("release") or "RELEASE"
        command = quote_command("rollback", release, "--reason", "WHY")
        advice = "In a shell on the machine of this app, a rollback (or `evaluator hold`) works all the same:"
        show_empty("Must traffic go back now?", advice, command)


# ------------------------------------------------------------------ nothing to show yet


def show_missing_store() -> None:
    """Show how to make the store that is not there; the page is shown again once it is."""
    show_empty(f"There is no store at {find_store_path()} yet.", EMPTY_ADVICE, "evaluator demo")
    show_again_once_changed()


def show_empty_store() -> None:
    """Show how a store without releases gets some; the page is shown again once it has."""
    show_empty("No release has landed yet.", EMPTY_ADVICE, "evaluator demo")
    show_again_once_changed()


def show_again_once_changed() -> None:
    """Show the page again as soon as the files of the store are others than now."""
    stamp = find_workspace().stamp

    @st.fragment(run_every=LOOK_EVERY_S)
    def look() -> None:
        """Look at the files; called at each refresh."""
        if find_workspace().stamp != stamp:
            st.rerun()

    look()


def _is_any_store_there() -> bool:
    """Is there a file of the store, or something in its place?"""
    path = find_store_path()
    return path.exists() or control_path(path).exists()
