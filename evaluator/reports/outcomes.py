"""Words for the outcomes of an A/B test, which know the direction in which a metric is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evaluator.records import BASELINE, Comparison, Direction
from evaluator.wording import format_change, format_interval, format_margin

SURE = 0.9995
"""A chance beyond this is not written as 100 %."""


def is_better(row: Comparison, alpha: float) -> bool | None:
    """Is the candidate shown to be better than the baseline, or (False) worse? `None`: neither is shown.

    Its interval has to exclude no change; of several candidates, also the p-value that is adjusted for all of them.
    """
    effect = row.effect
    if effect is None or math.isnan(effect.lower) or math.isnan(effect.upper):
        return None
    adjusted = row.view.p_dunnett if row.view else None
    if adjusted is not None and not adjusted < 2 * alpha:  # two-sided, as the interval of 1 - 2·alpha
        return None
    if effect.lower > 0:
        return row.rule.direction is Direction.HIGHER
    if effect.upper < 0:
        return row.rule.direction is Direction.LOWER
    return None


def describe_outcome(row: Comparison, alpha: float) -> str:
    """Describe a change by its direction: `improved by 1.37 pp; a drop of up to 0.5 pp was allowed`."""
    margin, is_rise_harm = row.rule.margin, row.rule.direction is Direction.LOWER
    harm = "rise" if is_rise_harm else "drop"
    allowed = ""
    if margin is not None:
        text = format_margin(margin, row.unit)
        allowed = f"; a {harm} of up to {text} was allowed" if margin.value else f"; no {harm} was allowed"
    found = is_better(row, alpha)
    if found is None:
        unit = format_change(row).rsplit(" ", 1)[-1]
        return f"could be better or worse: {format_interval(row)} {unit}{allowed}"
    size = format_change(row).lstrip("+−±")
    return f"{'improved by' if found else 'worse by'} {size}{allowed}"


def find_chances(rows: Sequence[Comparison]) -> Mapping[str, float]:
    """Find the chance of each arm to be the best by a metric; `rows`: the comparisons of its candidates.

    The baseline has what the candidates leave. An arm whose chance is not known is left out, and then the baseline too.
    """
    chances: dict[str, float] = {}
    for row in rows:
        chance = None
        if row.view is not None:
            chance = row.view.p_better if len(rows) == 1 else row.view.p_best
        if chance is not None and math.isfinite(chance):
            chances[row.arm] = chance
    if rows and len(chances) == len(rows):
        chances[BASELINE] = min(max(1.0 - sum(chances.values()), 0.0), 1.0)
    return chances


def format_chance(chance: float | None) -> str:
    """Write a chance as percent, never as certain: `97.3 %`, `> 99.9 %`, `< 0.1 %`; a dash if it is not known."""
    if chance is None or math.isnan(chance):
        return "–"
    if chance > SURE:
        return "> 99.9 %"
    if chance < 1 - SURE:
        return "< 0.1 %"
    return f"{100 * chance:.1f} %"
