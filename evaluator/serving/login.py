"""Whether people sign in."""

from __future__ import annotations

import streamlit as st


def is_login_configured() -> bool:
    """Is there an OpenID provider to sign in with?"""
    try:
        return "auth" in st.secrets
    except FileNotFoundError:
        return False
