"""Who is reading: the OS user that started the app, or the person who signed in through OpenID Connect."""

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
"""A login older than this has to be repeated before anything is promoted."""
CLOCK_S = 60
"""How much the provider's clock may be ahead of ours."""


@dataclass(frozen=True, slots=True)
class Reader(Person):
    """Who is reading, with all names of this person: name, address, `group:…`."""

    signed_in_at: float | None = None
    """When this person signed in (epoch seconds); `None`: the OS user, who has no login here."""


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
    show_empty("Sign in to review releases.", "The policy's roles decide what you may do.")
    st.button("Sign in", type="primary", on_click=st.login, key="sign-in")
    return False


def find_reader() -> Reader:
    """Find out who is reading."""
    if not is_login_configured():
        person = system_person()
        return Reader(person.name, person.names)
    claims: Mapping[str, Any] = st.user.to_dict()
    prompt = st.secrets["auth"].get("client_kwargs", {}).get("prompt")
    return read_claims(claims, asks_each_time=prompt == "login")


def read_claims(claims: Mapping[str, Any], *, asks_each_time: bool = False) -> Reader:
    """The person that a provider's claims describe.

    An address counts only where the provider states that it verified it: otherwise anyone could claim it. The time of
    a token counts as that of the login only where the provider has to ask each time (`prompt = "login"`).
    """
    address = str(claims.get("email") or "") if claims.get("email_verified") is True else ""
    subject = str(claims.get("sub") or "")
    groups = claims.get("groups")
    listed = [groups] if isinstance(groups, str) else groups if isinstance(groups, list | tuple) else []
    # A subject that is written as an address is an address that was not verified.
    stated = (address, subject if "@" not in subject or subject == address else "")
    # A name must not pass for a group, or for an account of this machine.
    own = [name for name in stated if name and not name.startswith((GROUP, SYSTEM, "*"))]
    # A person without a name cannot be distinguished from others: their groups give them no rights.
    names = [*own, *(f"{GROUP}{group}" for group in listed if isinstance(group, str))] if own else []
    signed_in_at = claims.get("auth_time") or (claims.get("iat") if asks_each_time else None)
    return Reader(
        next(iter(own), "unknown"), tuple(names), float(signed_in_at) if isinstance(signed_in_at, int | float) else 0.0
    )


def is_fresh(reader: Reader, now: float | None = None) -> bool:
    """Has this person signed in recently enough to promote?"""
    if reader.signed_in_at is None:
        return True
    age = (time.time() if now is None else now) - reader.signed_in_at
    return -CLOCK_S <= age <= FRESH_S


def demand_fresh(reader: Reader) -> None:
    """Require a recent login before anything is done: a program may press a button that is shown as disabled.

    Raises UsageError.
    """
    if not is_fresh(reader):
        raise UsageError(f"{reader.name} signed in more than 15 minutes ago", hint="sign in again")


def show_reader(store: Path) -> None:
    """Show below the page who reads which store."""
    reader = find_reader()
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.caption(f"{plain(store)} · read by {plain(reader.name)}")
    if reader.signed_in_at is not None:
        right.button("Sign out", on_click=st.logout, key="sign-out", type="tertiary")
