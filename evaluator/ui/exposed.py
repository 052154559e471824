"""What users meet now: the rollouts that are running."""

from __future__ import annotations

from collections.abc import Collection

import streamlit as st
from markupsafe import Markup

from evaluator.intents.standing import find_shares
from evaluator.records import BASELINE
from evaluator.records.rollouts import Rollout
from evaluator.rollout.status import RolloutStatus, describe_driver, find_next_command
from evaluator.ui.frame import guarded
from evaluator.ui.pieces import clean, link, mark_up_code, show
from evaluator.ui.reads import Workspace, find_workspace, read_rollout_status, read_rollouts
from evaluator.wording import format_number

REFRESH_S = 5


def show_exposed(workspace: Workspace, releases: Collection[str] | None = None) -> None:
    """Show each rollout that is running, and the share of users that meet its candidate; refreshes by itself.

    `releases`: only rollouts of these; None: all.
    """

    def list_running(present: Workspace) -> list[Rollout]:
        """List the rollouts that are shown."""
        running = read_rollouts(present).running
        return [rollout for rollout in running if releases is None or rollout.release in releases]

    if not list_running(workspace):
        return

    @st.fragment(run_every=REFRESH_S)
    @guarded
    def show_fragment() -> None:
        """Show it; called at each refresh."""
        present_workspace = find_workspace()  # its stamp tells the cache what has changed
        for rollout in list_running(present_workspace):
            show(_make_box(read_rollout_status(present_workspace, rollout)))

    show_fragment()


def _make_box(status: RolloutStatus) -> Markup:
    """Make the box of a rollout that is running, with a red edge if its driver is gone."""
    rollout = status.rollout
    shares, next_step = find_exposed(status), Markup("")
    if status.is_driver_gone:
        next_step = Markup('<p class="next"><strong>Next:</strong> {}</p>').format(
            mark_up_code(find_next_command(status))
        )
    if shares is None:
        text = f"It is not known whether users meet {rollout.release}"
    elif exposed := {service: share for service, share in shares.items() if share}:
        meet = (f"{format_number(100 * share)} % of {service}'s users" for service, share in exposed.items())
        text = f"Exposed now: {', '.join(meet)} meet {rollout.release}"
    else:
        text = f"{rollout.release} is being rolled out, and no user meets it now"
    return Markup(
        '<section class="ev-banner ev-exposed is-{}" aria-label="exposed now">'
        "<p><strong>{}</strong> {}</p>{}{}</section>"
    ).format(
        "no_go" if status.is_driver_gone else "inconclusive",
        clean(text),
        link("rollout", f"see rollout {rollout.id}", release=rollout.release, rollout=rollout.id),
        Markup("<p>{}</p>").format(mark_up_driver(status)) if status.is_driver_gone else "",
        next_step,
    )


def find_exposed(status: RolloutStatus) -> dict[str, float] | None:
    """Find the share of each service's users that meet the candidate now; None if it is not known.

    By what the guard reads from the router; without a guard by the shifts that may have been executed.
    """
    guard = status.guard
    if guard is not None and guard.realised:
        return {
            service: sum(share for arm, share in shares.items() if arm != BASELINE)
            for service, shares in guard.realised.items()
        }
    return find_shares(status.plan, status.progress)


def mark_up_driver(status: RolloutStatus) -> Markup:
    """Write who drives a rollout, in red if no process does."""
    css_class = "status fail" if status.is_driver_gone else "muted"
    return Markup('<span class="{} ev-driver">{}</span>').format(css_class, mark_up_code(describe_driver(status)))
