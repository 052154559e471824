"""Outcomes of an A/B test: each arm with its number of units, its lift, and its chance to be the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st
from markupsafe import Markup

from evaluator.figures.base import join_words
from evaluator.records import BASELINE, Comparison, EvidenceKind, Role, Verdict
from evaluator.reports.base import format_both, format_effect
from evaluator.reports.outcomes import describe_outcome, find_chances, format_chance, is_better
from evaluator.ui.pieces import clean, make_table, show, show_markup, to_css_color
from evaluator.wording import USERS, format_count, name_metric

WORDS = {True: ("better", "pass"), False: ("worse", "fail"), None: ("not known", "inconclusive")}
"""What is shown of an arm → word, and the CSS class of its colour."""


def show_arms(verdict: Verdict, colors: Mapping[str, str]) -> None:
    """Show a table of the arms for each metric of outcomes, gates first; nothing if there are none with a result.

    `colors`: those of the arms, by name.
    """
    rows = [
        row
        for row in verdict.evidence.comparisons
        if row.kind is EvidenceKind.OUTCOMES and not row.scan and row.effect is not None
    ]
    if not rows:
        return
    st.header("Arms", anchor="arms")
    names = list(dict.fromkeys(row.rule.name for row in sorted(rows, key=lambda row: row.rule.role is Role.WATCH)))
    for name in names:
        of_metric = [row for row in rows if row.rule.name == name]
        show_markup('<p class="ev-figure">{}</p>', clean(_write_finding(of_metric, verdict.alpha)))
        show(_make_arms_table(of_metric, verdict.alpha, colors))


def _write_finding(rows: Sequence[Comparison], alpha: float) -> str:
    """Write what is found of a metric: `conversion: blue_button is better, one_page is worse than baseline`."""
    arms_by_word: dict[str, list[str]] = {}
    for row in rows:
        arms_by_word.setdefault(WORDS[is_better(row, alpha)][0], []).append(row.arm)
    parts = [
        f"{join_words(arms)} {'is' if len(arms) == 1 else 'are'} "
        + (f"{word} than baseline" if word in ("better", "worse") else "not known to be better or worse")
        for word, arms in arms_by_word.items()
    ]
    return f"{name_metric(rows[0].rule)}: {'; '.join(parts)}"


def _make_arms_table(rows: Sequence[Comparison], alpha: float, colors: Mapping[str, str]) -> Markup:
    """Make the table of a metric: the baseline first, then the candidates, the one with the largest chance first."""
    chances = find_chances(rows)

    def name_arm(arm: str) -> Markup:
        """Name an arm after the stroke of its colour."""
        return Markup('<span class="ev-key" style="color:{}"></span>{}').format(to_css_color(colors[arm]), clean(arm))

    first = rows[0]
    baseline_cells = ("–", "–", "")
    table_rows: list[tuple[object, ...]] = [
        (
            name_arm(BASELINE),
            format_count(first.baseline.n),
            format_both(first)[0],
            *baseline_cells,
            format_chance(chances.get(BASELINE)),
        )
    ]
    for row in sorted(rows, key=lambda row: -(chances.get(row.arm) or 0.0)):
        word, css_class = WORDS[is_better(row, alpha)]
        table_rows.append(
            (
                name_arm(row.arm),
                format_count(row.candidate.n),
                format_both(row)[1],
                format_effect(row),
                Markup('<span class="status {}">{}</span>').format(css_class, word),
                describe_outcome(row, alpha),
                format_chance(chances.get(row.arm)),
            )
        )
    head = ("arm", USERS, "value", "lift", "against baseline", "in words", "chance to be best")
    return make_table(head, table_rows, caption=f"arms by {clean(name_metric(first.rule))}")
