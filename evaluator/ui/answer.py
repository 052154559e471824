"""The answer about a release: its verdict, what was done with it, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from evaluator.records import Verdict
from evaluator.reports.life import choose_next
from evaluator.ui.pieces import make_banner, mark_up_life
from evaluator.ui.reads import Workspace, now, read_lives

LATER_VERDICT = "look at the latest verdict: this is an earlier one"


def make_answer(workspace: Workspace, verdict: Verdict, notes: Sequence[Markup], *, is_newest: bool = True) -> Markup:
    """Make the banner of a release. `is_newest`: is it the newest verdict? An earlier one asks for nothing."""
    release = verdict.release.id
    life = read_lives(workspace).releases.get(release)
    if life is None:  # it was removed from the decisions meanwhile
        return make_banner(verdict, notes, Markup(""), verdict.next_action)
    next_action = choose_next(life, verdict.word, verdict.next_action, workspace.command(release))
    return make_banner(verdict, notes, mark_up_life(life, now()), next_action if is_newest else LATER_VERDICT)
