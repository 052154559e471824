"""Promote: whether a release may be promoted now, and what speaks against it."""

from __future__ import annotations

import shlex

import streamlit as st
from markupsafe import Markup

from evaluator.pipeline.judging import service_of
from evaluator.pipeline.reviewing import Condition, check_promotable
from evaluator.policy import with_learnt
from evaluator.records import Verdict
from evaluator.ui.identity import Reader, find_reader, is_fresh
from evaluator.ui.pieces import banner, clean, clock, definitions, empty, link, show, since, with_code
from evaluator.ui.reads import (
    Place,
    ReleaseView,
    find_place,
    now,
    read_learnt,
    read_past_verdict,
    read_policy,
    read_release,
    read_summaries,
)
from evaluator.ui.release import choose_release

__all__ = ["show_promote"]


def show_promote() -> None:
    """The page."""
    st.title("Promote")
    place = find_place()
    release_id = choose_release(read_summaries(place))
    if release_id is None:
        return
    view = read_release(place, release_id)
    verdict = read_past_verdict(view, None)
    if verdict is None:
        show(
            empty(
                f"{clean(release_id)} was not judged yet, so nothing can be promoted.",
                "Judge it:",
                f"evaluator verdict {shlex.quote(release_id)}",
            )
        )
        return
    judged = Markup("judged {} ({})").format(since(verdict.judged_at, now()), clock(verdict.judged_at))
    show(banner(verdict, [judged, link("release", "all of the evidence", release=release_id)]))
    reader = find_reader()
    conditions = (*_find_conditions(place, view, verdict), *_of_reader(reader))
    st.subheader("What has to be so", anchor="conditions")
    show(_list(conditions))
    if not is_fresh(reader):
        st.button("Sign in again", on_click=st.login, key="sign-in-again", type="primary")
    _show_what_changes(view)


def _find_conditions(place: Place, view: ReleaseView, verdict: Verdict) -> tuple[Condition, ...]:
    """Those of data, verdict and policy, the policy with what was learnt of the service as the judge has it."""
    policy = with_learnt(read_policy(place), read_learnt(place, service_of(view.release)))
    return check_promotable(view.runs, verdict, policy.hash)


def _of_reader(reader: Reader) -> tuple[Condition, ...]:
    """That we know who asks: by the account of this machine, or by a login of the last minutes."""
    if reader.signed_in_at is None:
        return (Condition(f"you are {reader.name}, by the account of this machine", met=True),)
    return (
        Condition(f"{reader.name} signed in within the last 15 minutes", met=is_fresh(reader), remedy="sign in again"),
    )


def _list(conditions: tuple[Condition, ...]) -> Markup:
    items = Markup("").join(
        Markup('<li><span class="status {}">{}</span> {}{}</li>').format(
            "ok" if one.met else "fail",
            "✓ yes" if one.met else "✗ no",
            clean(one.says),
            Markup('<span class="reason">{}</span>').format(with_code(one.remedy)) if not one.met else "",
        )
        for one in conditions
    )
    return Markup('<ul class="ev-list">{}</ul>').format(items)


def _show_what_changes(view: ReleaseView) -> None:
    """From what to what each service would go."""
    st.subheader("What would change", anchor="changes")
    services = [(one.name, f"{one.baseline or '?'} → {one.canary or '?'}") for one in view.release.services]
    show(definitions(services) if services else empty("The release names no service.", "Its runs were landed without."))
    show(
        empty(
            "Nothing is set to happen.",
            "This policy has no hooks, so no traffic can be moved from here: promote the release where it is deployed.",
        )
    )
