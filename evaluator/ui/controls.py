"""Controls whose choice is in the address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st


def choose(label: str, options: Sequence[str], key: str, default: str, column: Any = st) -> str:
    """Let the reader choose one of `options` in a select box; the address of the page always has the choice as `key`.

    Streamlit's own binding leaves the default out of the address, but a link must show the same after a newer release
    has become the default. `column`: where the box is; the page itself if not given.
    """
    from_address, written_key = st.query_params.get(key), f"{key} in the address"
    # The address wins if it has changed by itself (a link, back, forward), else what the reader chose in the box.
    if from_address in options and from_address != st.session_state.get(written_key):
        st.session_state[key] = from_address
    elif st.session_state.get(key) not in options:
        st.session_state[key] = default
    chosen: str = column.selectbox(label, options, key=key)
    st.session_state[written_key] = chosen
    if from_address != chosen:
        st.query_params[key] = chosen
    return chosen
