"""Figures, the only package that draws: the same for report, app and notebook. One module a figure.

They are drawn from a verdict's comparisons, and from the plain JSON of `evaluator.figure_data`. Every figure comes with
a title that states its finding, a description for people who cannot see it, and a table of its numbers.
"""

from __future__ import annotations

from evaluator.figures.base import PALETTE, Figure, check_charts_as_a_whole, color_arms, color_judged_arms
from evaluator.figures.compose import put_below_each_other, with_finding
from evaluator.figures.distribution import draw_distribution
from evaluator.figures.export import save_figure, to_image, to_svg
from evaluator.figures.forest import count_results, draw_forest, pick_decisive, rank_by_margin
from evaluator.figures.over_time import draw_over_time
from evaluator.figures.plan import draw_exposure, draw_plan, draw_precision
from evaluator.figures.shift import draw_shift
from evaluator.figures.timeline import TimeOfDay, draw_timeline, explain_timeline
from evaluator.figures.units import draw_units
from evaluator.figures.windows import draw_windows

__all__ = [
    "PALETTE",
    "Figure",
    "TimeOfDay",
    "check_charts_as_a_whole",
    "color_arms",
    "color_judged_arms",
    "count_results",
    "draw_distribution",
    "draw_exposure",
    "draw_forest",
    "draw_over_time",
    "draw_plan",
    "draw_precision",
    "draw_shift",
    "draw_timeline",
    "draw_units",
    "draw_windows",
    "explain_timeline",
    "pick_decisive",
    "put_below_each_other",
    "rank_by_margin",
    "save_figure",
    "to_image",
    "to_svg",
    "with_finding",
]
