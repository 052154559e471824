"""Controls whose choice is in the address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st


def choose(label: str, options: Sequence[str], key: str, default: str, at: Any = st) -> str:
    """Let the reader choose; the address always has the choice, also where it is the current default.

    Streamlit's own binding leaves a control's default out of the address; but a link must show the same after a newer
    release has landed. The address wins when it has changed by itself (a link, back, forward), else the control.
    `at`: the column of the control.
    """
    from_address, written = st.query_params.get(key), f"{key} in the address"
    if from_address in options and from_address != st.session_state.get(written):
        st.session_state[key] = from_address
    elif st.session_state.get(key) not in options:
        st.session_state[key] = default
    chosen: str = at.selectbox(label, options, key=key)
    st.session_state[written] = chosen
    if from_address != chosen:
        st.query_params[key] = chosen
    return chosen
