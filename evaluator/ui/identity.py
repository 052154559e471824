"""Who is reading: the OS user of the one who started the app, or whoever signed in through OpenID Connect."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from evaluator.errors import UsageError
from evaluator.intents import SYSTEM, system_person
from evaluator.records.intents import GROUP, Person
from evaluator.ui.pieces import plain, show_empty

FRESH_S = 15 * 60
"""A login older than this is asked for again before anything is promoted."""
CLOCK_S = 60
"""How much the provider's clock may be ahead of ours."""


@dataclass(frozen=True, slots=True)
class Reader(Person):
    """Who is reading, by all names that stand for them: name, address, `group:…`."""

    signed_in_at: float | None = None
    """When the provider saw them (epoch seconds); `None`: the OS user, who has no login here."""


def is_login_configured() -> bool:
    """Is there an OpenID provider to sign in with?"""
    try:
        return "auth" in st.secrets
    except FileNotFoundError:
        return False


def sign_in_if_asked() -> bool:
    """Ask for a login where one is configured; false while there is none."""
    if not is_login_configured() or getattr(st.user, "is_logged_in", False):
        return True
    show_empty("Sign in to review releases.", "Who you are decides what you may do: the policy's roles say so.")
    st.button("Sign in", type="primary", on_click=st.login, key="sign-in")
    return False


def find_reader() -> Reader:
    """Tell who is reading."""
    if not is_login_configured():
        person = system_person()
        return Reader(person.name, person.names)
    claims: Mapping[str, Any] = st.user.to_dict()
    prompt = st.secrets["auth"].get("client_kwargs", {}).get("prompt")
    return read_claims(claims, asks_each_time=prompt == "login")


def read_claims(claims: Mapping[str, Any], *, asks_each_time: bool = False) -> Reader:
    """What a provider says of a person.

    An address counts only where the provider says that it verified it: anyone may claim one elsewhere. The time of a
    token counts as that of the login only where the provider is told to ask each time (`prompt = "login"`).
    """
    address = str(claims.get("email") or "") if claims.get("email_verified") is True else ""
    subject = str(claims.get("sub") or "")
    groups = claims.get("groups")
    listed = [groups] if isinstance(groups, str) else groups if isinstance(groups, list | tuple) else []
    # A subject that is written as an address is one that nobody has verified.
    stated = (address, subject if "@" not in subject or subject == address else "")
    # Nobody is taken for a group, or an account of this machine, by what they are called.
    own = [name for name in stated if name and not name.startswith((GROUP, SYSTEM, "*"))]
    # Who has no name cannot be told from others: their groups let them do nothing.
    names = [*own, *(f"{GROUP}{group}" for group in listed if isinstance(group, str))] if own else []
    signed_in_at = claims.get("auth_time") or (claims.get("iat") if asks_each_time else None)
    return Reader(
        next(iter(own), "unknown"), tuple(names), float(signed_in_at) if isinstance(signed_in_at, int | float) else 0.0
    )


def is_fresh(reader: Reader, now: float | None = None) -> bool:
    """Has this person signed in lately enough to promote?"""
    if reader.signed_in_at is None:
        return True
    age = (time.time() if now is None else now) - reader.signed_in_at
    return -CLOCK_S <= age <= FRESH_S


def demand_fresh(reader: Reader) -> None:
    """Ask for a login anew before anything is done: a program may press a button that is shown as disabled.

    Raises UsageError.
    """
    if not is_fresh(reader):
        raise UsageError(f"{reader.name} signed in more than 15 minutes ago", hint="sign in again")


def show_reader(store: Path) -> None:
    """Say below the page who is reading what."""
    reader = find_reader()
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.caption(f"{plain(store)} · read by {plain(reader.name)}")
    if reader.signed_in_at is not None:
        right.button("Sign out", on_click=st.logout, key="sign-out", type="tertiary")
