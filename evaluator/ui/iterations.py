"""The card of what became of the harms of the candidate that was rejected before."""

from __future__ import annotations

from markupsafe import Markup

from evaluator.records import HarmChange, Verdict
from evaluator.reports.iterations import GROUP_NAMES, describe_harm
from evaluator.ui.pieces import clean, link
from evaluator.wording import name_metric

MOST_SHOWN = 4
"""Harms of one state that are shown at first; the others are folded."""


def make_iteration_card(verdict: Verdict) -> Markup | None:
    """Make the card; `None` if no candidate was rejected before. Each harm links to its metric or endpoint."""
    iteration = verdict.iteration
    if iteration is None:
        return None
    items = []
    for state, name in GROUP_NAMES.items():
        harms = [_make_harm(verdict, harm) for harm in iteration.harms if harm.state == state]
        if not harms:
            continue
        shown = Markup(", ").join(harms[:MOST_SHOWN])
        if rest := harms[MOST_SHOWN:]:
            shown += Markup("<details><summary>and {} more</summary>{}</details>").format(
                len(rest), Markup(", ").join(rest)
            )
        items.append(Markup('<li class="is-{}"><strong>{}:</strong> {}</li>').format(state, name, shown))
    note = Markup("")
    if iteration.other_baseline:
        note = Markup('<p class="muted">The two were compared with different versions of the baseline.</p>')
    return Markup(
        '<section class="ev-fault is-{}" aria-label="since the rejected candidate"><h2>Since {} (NO-GO)</h2>'
        "<ul>{}</ul>{}</section>"
    ).format(
        verdict.word.value,
        link("release", iteration.release, release=iteration.release),
        Markup("").join(items) or Markup("<li>nothing was shown to be worse in either</li>"),
        note,
    )


def _make_harm(verdict: Verdict, harm: HarmChange) -> Markup:
    """Make the text of a harm: a link to the metric or the endpoints, with both changes."""
    text, release = clean(describe_harm(harm)), verdict.release.id
    if harm.endpoint is not None:
        return link("release", text, at="endpoints", release=release)
    names = [
        row.rule.name
        for row in verdict.evidence.comparisons
        if row.arm == harm.arm and row.rule.slice.endpoint is None and name_metric(row.rule) == harm.metric
    ]
    return link("release", text, at="metric", release=release, metric=names[0] if names else None, arm=harm.arm)
