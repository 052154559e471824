"""Confirming an action by typing the name of its release, and what went wrong next to the field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st

from evaluator.errors import EvaluatorError, Refused, UsageError
from evaluator.ui.pieces import clean, escape_markdown, mark_up_code, show_markup

_PLAIN = re.compile(r"[!-~]+")


def type_name(release: str, purpose: str, key: str) -> str:
    """Show the field in which a person types the name of a release as confirmation, and return what was typed.

    `purpose`: what is confirmed, such as "approve". Phones write no capital at its beginning and correct nothing, as in
    a field for addresses; only there, names with spaces and with characters beyond ASCII cannot be typed.
    """
    wrong = f"This is not {clean(release)}: type the name as it is written above."
    typed: str | None = st.text_input(
        f"Type **{escape_markdown(release)}** to {purpose}",
        key=key,
        max_chars=300,
        type="email" if _PLAIN.fullmatch(release) else "default",
        icon="",
        placeholder="",
        autocomplete="off",
        validate=(rf"^\s*{_match_name(release)}\s*$", wrong),
    )
    return (typed or "").strip()


def _match_name(release: str) -> str:
    """Write the pattern of a name for the browser; its first letter may be a capital, as phones begin a sentence."""
    first, rest = release[:1], release[1:]
    capital = first.upper()
    begin = f"[{first}{capital}]" if first.isalpha() and len(capital) == 1 else _escape(first)
    return begin + _escape(rest)


def _escape(text: str) -> str:
    """Escape a text as a pattern of JavaScript, which knows other escapes than Python."""
    return re.sub(r"[\\^$.*+?()\[\]{}|/]", r"\\\g<0>", text)


def check_name(typed: str, release: str) -> None:
    """Raise UsageError unless the name of the release was typed; its first letter may be a capital."""
    if typed != release and typed != release[:1].upper() + release[1:]:
        raise UsageError(f"{typed or 'nothing'} was typed, not {release}: nothing was done")


@contextmanager
def acting(slot: Any, doing: str) -> Iterator[None]:
    """Say in `slot`, next to a button, what is being done inside the block, or why that was refused.

    `doing`: such as "Approving". Then the whole page is shown again, unless it was refused.
    """
    with slot:
        show_markup('<p role="status"><strong>{} …</strong></p>', doing)
    try:
        yield
    except (UsageError, Refused) as error:
        advice = mark_up_code(error.hint or "")
        with slot:
            show_markup('<p class="fail" role="alert"><strong>{}</strong> {}</p>', clean(error.message), advice)
        return
    except EvaluatorError:
        slot.empty()
        raise
    st.rerun()
