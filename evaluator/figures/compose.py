"""Figures on their own, as in a notebook: with their finding above them, and arms named in their colours."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from evaluator.figures.base import INK, Figure, inline, style
from evaluator.records import BASELINE

if TYPE_CHECKING:
    import altair as alt

    Chart: TypeAlias = alt.LayerChart | alt.FacetChart | alt.VConcatChart


TITLE_SIZE = 13
"""Size of a finding's text, px."""
LINE_HEIGHT = 17
CHARACTER_WIDTH = 6.7
"""Mean width of a character of a finding, px."""
PAPER = "white"
"""Background: the page behind may have any colour."""
STROKE_WIDTH = 22
"""Length of an arm's stroke in the legend, and of the gap after its name, px."""
STROKE_GAP = 6
"""Gap between the stroke of an arm and its name, px."""


def with_finding(figure: Figure) -> alt.LayerChart | alt.FacetChart:
    """Draw a figure on white with its finding (the sentence in `title`) above it, which adds to its height."""
    chart, lines = figure.chart, _wrap(figure.title, float(figure.chart.width))
    height = float(chart.height) + LINE_HEIGHT * len(lines) + LINE_HEIGHT / 2  # half a line as gap
    titled: alt.LayerChart | alt.FacetChart = chart.properties(
        title=_make_title(lines), height=height, background=PAPER
    )
    return titled


def put_below_each_other(figures: Sequence[Figure], colors: Mapping[str, str]) -> alt.VConcatChart:
    """Draw figures, all of the same width, as one chart: a legend of the arms, then each figure under its finding.

    The finding is the sentence in `title`. `colors` are the colours of the arms by name.
    """
    import altair as alt

    width = float(figures[0].chart.width)
    parts = []
    for figure in figures:
        part = figure.chart.copy()
        part.config = part.autosize = alt.Undefined  # only the whole chart may have these
        parts.append(part.properties(title=_make_title(_wrap(figure.title, width))))
    combined = alt.vconcat(_draw_legend(colors), *parts, spacing=14).properties(background=PAPER)
    stacked: alt.VConcatChart = style(combined.resolve_scale(color="independent", strokeDash="independent"))
    return stacked


def _wrap(title: str, width_px: float) -> list[str]:
    """Break a title into lines that fit the width; no line is broken before 20 characters."""
    return textwrap.wrap(title, max(20, int(width_px / CHARACTER_WIDTH)))


def _make_title(lines: Sequence[str]) -> Any:
    """Make the title of a chart, an `alt.TitleParams`, from its lines."""
    import altair as alt

    return alt.TitleParams(
        list(lines),
        anchor="start",
        frame="group",
        fontSize=TITLE_SIZE,
        lineHeight=LINE_HEIGHT,
        fontWeight="normal",
        color=INK,
    )


def _draw_legend(colors: Mapping[str, str]) -> alt.LayerChart | alt.FacetChart:
    """Draw a legend in one line: for each arm a stroke as in the figures (baseline dashed), and its name."""
    import altair as alt

    rows, left = [], 0.0
    for arm, color in colors.items():
        stroke_end = left + STROKE_WIDTH
        rows.append({"from": left, "to": stroke_end, "text": stroke_end + STROKE_GAP, "arm": arm, "color": color})
        left = stroke_end + STROKE_GAP + CHARACTER_WIDTH * len(arm) + STROKE_WIDTH
    base = alt.Chart(inline(rows)).encode(
        x=alt.X("from:Q", axis=None, scale=alt.Scale(domain=[0, left], nice=False)),
        color=alt.Color("color:N", scale=None, legend=None),
    )
    dashes = alt.condition(f"datum.arm == '{BASELINE}'", alt.value([5, 3]), alt.value([1, 0]))
    strokes = base.mark_rule(strokeWidth=2).encode(x2="to:Q", strokeDash=dashes)
    names = base.mark_text(align="left").encode(x="text:Q", text="arm:N")
    return alt.layer(strokes, names).properties(width=left, height=LINE_HEIGHT)
