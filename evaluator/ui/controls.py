"""Controls whose choice is in the address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import streamlit as st
from markupsafe import Markup

from evaluator.errors import UnknownName
from evaluator.ui.pieces import clean

OF_RELEASE = ("verdict", "metric", "arm", "request", "rollout", "action")
"""Keys of the address whose values mean something else, or nothing, for another release."""


def choose(
    label: str,
    options: Sequence[str],
    key: str,
    default: str,
    kind: str,
    column: Any = st,
    *,
    with_label: bool = True,
    own_choices: Sequence[str] = (),
    own_controls: Sequence[str] = (),
) -> str:
    """Let the reader choose one of `options` in a select box; the address of the page always has the choice as `key`.

    Streamlit's own binding leaves the default out of the address, but a link must show the same after a newer release
    has become the default. `kind`: what is chosen, such as "release", for errors. `column`: where the box is; the page
    itself if not given. Without `with_label`, only screen readers get the label. Raises UnknownName if the address
    names none of them, until the reader has chosen another: what a link meant is not replaced by something else.

    What was chosen or typed for one of the options is not used for another that the reader chooses here: the address
    loses the keys in `own_choices`, and the controls with the keys in `own_controls`, whose values Streamlit keeps in
    the address, get their defaults by `start_anew`.
    """
    is_unknown = _set_from_address(options, key, default)
    # The first index has no effect, because the value is set; without one, a reader could leave nothing chosen.
    index = None if is_unknown else 0
    visibility: Literal["visible", "collapsed"] = "visible" if with_label else "collapsed"
    chosen: str | None = column.selectbox(
        label, options, index=index, key=key, placeholder="choose another", label_visibility=visibility
    )
    from_address = st.query_params.get(key)
    if chosen is None:
        st.session_state[_name_written(key)] = from_address
        raise UnknownName(kind, clean(from_address), options, hint="choose another one")
    st.session_state[_name_written(key)] = chosen
    if from_address != chosen:
        if from_address is not None:
            for own in own_choices:
                st.query_params.pop(own, None)
            st.session_state.update({_name_anew(own): True for own in own_controls})
        st.query_params[key] = chosen
    return chosen


def start_anew(key: str, default: Any) -> None:
    """Give a control its default, if the reader has just chosen another of what the control is about.

    Called before the control is shown. See `own_controls` of `choose`.
    """
    if st.session_state.pop(_name_anew(key), False):
        st.session_state[key] = default


def choose_release(page: str, names: Sequence[str], default: str, *, own_controls: Sequence[str] = ()) -> str:
    """Let the reader choose the release that a page shows, next to the name of the page; the address has the choice.

    The page's own heading is what it says of the release. `own_controls` as of `choose`. Raises UnknownName if the
    address names none of `names`.
    """
    left, right = st.columns([3, 2], vertical_alignment="center")
    left.html(Markup('<div class="ev"><p class="ev-page">{}</p></div>').format(page))
    return choose(
        "Release",
        names,
        "release",
        default,
        "release",
        right,
        with_label=False,
        own_choices=OF_RELEASE,
        own_controls=own_controls,
    )


def _set_from_address(options: Sequence[str], key: str, default: str) -> bool:
    """Set a control to what the address names, if it has changed by itself: by a link, back, or forward.

    Otherwise what the reader has chosen in the control stays. Returns whether the address names none of `options`, and
    nothing was chosen instead: then the control has no value.
    """
    from_address, value = st.query_params.get(key), st.session_state.get(key, default)
    # A control that the page before this one did not have has no choice of the reader.
    if key not in st.session_state or from_address != st.session_state.get(_name_written(key)):
        value = default if from_address is None else from_address
    is_unknown = value not in options and from_address is not None and from_address not in options
    if value not in options:
        value = None if is_unknown and value in (None, from_address) else default
    # Set in any case: on another page of the same session it is the value of a control that is gone.
    st.session_state[key] = value
    return value is None


def _name_anew(key: str) -> str:
    """Name the value of the session that keeps whether a control has to get its default."""
    return f"{key} anew"


def _name_written(key: str) -> str:
    """Name the value of the session that keeps which choice was written into the address, or found there."""
    return f"{key} in the address"
