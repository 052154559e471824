"""Controls whose choice is in the address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

__all__ = ["choose"]


def choose(label: str, options: Sequence[str], key: str, default: str, at: Any = st) -> str:
    """Let the reader choose; the address always says what, also where it is the default of today.

    Streamlit leaves out of the address what is a control's default, so these have none: a link must show the same
    when a newer release has landed. `at`: the column that the control stands in.
    """
    if key not in st.session_state and st.query_params.get(key) not in options:
        st.query_params[key] = default
    chosen: str | None = at.selectbox(label, options, index=None, key=key, bind="query-params", required=True)
    return default if chosen is None else chosen
