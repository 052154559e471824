"""What became of the harms of the candidate that was rejected before, as sentences and as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

from evaluator.records import HarmChange, HarmState, Iteration

GROUP_NAMES: dict[HarmState, str] = {
    "still": "still there",
    "new": "new",
    "shown_first": "shown for the first time",
    "not_known": "not known",
    "fixed": "fixed",
}
"""State of a harm → what stands before the harms in that state."""
MOST_NAMED = 5
"""Harms of one state that are named in a sentence."""


def describe_iteration(iteration: Iteration | None) -> list[str]:
    """List a sentence for each state that some harm has; the first names the rejected candidate.

    `since shop@1.4.1 (NO-GO): still there: p95 (+12 %, before +18 %)`. Empty without a rejected candidate.
    """
    if iteration is None:
        return []
    head = f"since {iteration.release} (NO-GO)"
    if iteration.other_baseline:
        head += ", which was compared with another version of the baseline"
    groups = [(state, [harm for harm in iteration.harms if harm.state == state]) for state in GROUP_NAMES]
    sentences = [f"{GROUP_NAMES[state]}: {_name_harms(harms)}" for state, harms in groups if harms]
    return [f"{head}: {sentence}" if number == 0 else sentence for number, sentence in enumerate(sentences)]


def _name_harms(harms: Sequence[HarmChange]) -> str:
    """Name the first harms, and count the others."""
    named = ", ".join(map(describe_harm, harms[:MOST_NAMED]))
    rest = len(harms) - MOST_NAMED
    return f"{named} and {rest} more" if rest > 0 else named


def describe_harm(harm: HarmChange) -> str:
    """Describe a harm with both changes: `p95 of POST /cart (+12 %, before +18 %; it was not compared)`."""
    why = f"; {harm.why}" if harm.why else ""
    return f"{name_harm(harm)} ({harm.now}, before {harm.before}{why})"


def name_harm(harm: HarmChange) -> str:
    """Name the metric of a harm, and its endpoint if it has one."""
    return f"{harm.metric} of {harm.endpoint}" if harm.endpoint is not None else harm.metric
