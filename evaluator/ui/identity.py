"""Who is reading: the person who signed in through OpenID Connect, or without a login the account of the app.

Without a login only the browser that opened the address of `evaluator app` acts as that account; all others may read.
"""

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
from evaluator.serving.access import (
    EXPLANATIONS,
    Refusal,
    explain_hidden_store,
    find_page_refusal,
    is_store_private,
)
from evaluator.serving.login import is_login_configured
from evaluator.ui.pieces import escape_markdown, show_empty

FRESH_S = 15 * 60
"""A login older than this (seconds) has to be repeated before anything is promoted."""
CLOCK_S = 60
"""How much the provider's clock may be ahead of ours, in seconds."""


@dataclass(frozen=True, slots=True)
class Reader(Person):
    """Who is reading, with all names of this person: name, address, `group:…`."""

    signed_in_at: float | None = None
    """When this person signed in (epoch seconds); `None`: without a login."""
    refusal: Refusal | None = None
    """Why this reader may do nothing but read; `None`: may do what the policy's roles say."""


def sign_in_if_asked() -> bool:
    """Show a button to sign in if a login is required and missing; returns whether the page may be shown."""
    if not is_login_configured() or getattr(st.user, "is_logged_in", False):
        return True
    show_empty("Sign in to review releases.", "The policy's roles decide what you may do.")
    st.button("Sign in", type="primary", on_click=st.login, key="sign-in")
    return False


def hide_private_store(store: Path) -> bool:
    """Show in the place of a page why it shows nothing of a private store; returns whether that was shown.

    A store that only its owner can read is shown to the owner's browser only, or after a login.
    """
    if is_login_configured() or not is_store_private(store):
        return False
    refusal = find_page_refusal(st.context.headers)
    if refusal is None:
        return False
    show_empty(*explain_hidden_store(refusal))
    return True


def find_reader() -> Reader:
    """Find out who is reading: the person who signed in, or the account of the app if no login is configured.

    Without a login, a reader whose connection may only read has no name.
    """
    if not is_login_configured():
        refusal = find_page_refusal(st.context.headers)
        if refusal is not None:
            return Reader("a reader", (), refusal=refusal)
        person = system_person()
        return Reader(person.name, person.names)
    claims: Mapping[str, Any] = st.user.to_dict()
    prompt = st.secrets["auth"].get("client_kwargs", {}).get("prompt")
    return read_claims(claims, asks_each_time=prompt == "login")


def read_claims(claims: Mapping[str, Any], *, asks_each_time: bool = False) -> Reader:
    """Read who signed in, and when, from the claims of an OpenID provider.

    An email address counts only if the provider states that it verified it: otherwise anyone could claim it.
    `asks_each_time`: must the provider ask for the login each time (`prompt = "login"`)? Only then the time of the
    token counts as that of the login. A login without a time counts as too old.
    """
    address = str(claims.get("email") or "") if claims.get("email_verified") is True else ""
    subject = str(claims.get("sub") or "")
    # A subject that is written as an address is an address that was not verified.
    if "@" in subject and subject != address:
        subject = ""
    # A name must not pass for a group, for an account of this machine, or for everybody (`*`).
    own_names = [name for name in (address, subject) if name and not name.startswith((GROUP, SYSTEM, "*"))]
    groups = claims.get("groups")
    if isinstance(groups, str):
        groups = [groups]
    elif not isinstance(groups, list | tuple):
        groups = []
    group_names = [f"{GROUP}{group}" for group in groups if isinstance(group, str)]
    # A person without a name cannot be distinguished from others: their groups give them no rights.
    all_names = (*own_names, *group_names) if own_names else ()
    # `auth_time` is the time of the login, `iat` that of the token; both in seconds since 1970.
    signed_in_at = claims.get("auth_time") or (claims.get("iat") if asks_each_time else None)
    return Reader(
        name=own_names[0] if own_names else "unknown",
        names=all_names,
        signed_in_at=float(signed_in_at) if isinstance(signed_in_at, int | float) else 0.0,  # 0: too old
    )


def has_recent_login(reader: Reader, now: float | None = None) -> bool:
    """Has this person signed in recently enough to promote? `now` in epoch seconds; `None`: the present time."""
    if reader.signed_in_at is None:
        return True  # the OS user has no login
    age_s = (time.time() if now is None else now) - reader.signed_in_at
    # A little below 0 is possible: the clock of the login provider may be ahead of ours.
    return -CLOCK_S <= age_s <= FRESH_S


def demand_access(reader: Reader) -> None:
    """Raise UsageError if this reader may only read.

    Called before anything is done, because a program may press a button that is not shown.
    """
    if reader.refusal is not None:
        problem, advice = EXPLANATIONS[reader.refusal]
        raise UsageError(problem.rstrip("."), hint=advice)


def demand_recent_login(reader: Reader) -> None:
    """Raise UsageError if this reader may only read, or the login of this person is too old.

    Called before anything is done, because a program may press a button that is shown as disabled.
    """
    demand_access(reader)
    if not has_recent_login(reader):
        raise UsageError(f"{reader.name} signed in more than 15 minutes ago", hint="sign in again")


def show_refusal(reader: Reader) -> bool:
    """Show in the place of a form why this reader may only read, and what to do; returns whether that was shown."""
    if reader.refusal is None:
        return False
    show_empty(*EXPLANATIONS[reader.refusal])
    return True


def show_reader(store: Path) -> None:
    """Show below a page which store it reads and who is reading, with a button to sign out after a login."""
    reader = find_reader()
    left, right = st.columns([4, 1], vertical_alignment="center")
    who = f"read by {escape_markdown(reader.name)}"
    if reader.refusal is not None:
        advice = EXPLANATIONS[reader.refusal][1].replace("`", "")
        who = f"read only. {escape_markdown(advice)}"
    left.caption(f"{escape_markdown(store)} · {who}")
    if reader.signed_in_at is not None:
        right.button("Sign out", on_click=st.logout, key="sign-out", type="tertiary")
