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


TITLE = 13
"""Size of a finding's text, px."""
LINE = 17
CHARACTER = 6.7
"""Mean width of a character of a finding, px."""
PAPER = "white"
"""Background: the page behind may have any colour."""
NAME = 22
"""Room of an arm's mark and of the gap behind its name, px."""


def with_finding(figure: Figure) -> alt.LayerChart | alt.FacetChart:
    """Draw a figure with its finding above it. The room for that is added to its height."""
    chart, lines = figure.chart, _wrap(figure.title, float(figure.chart.width))
    height = float(chart.height) + LINE * len(lines) + LINE / 2
    titled: alt.LayerChart | alt.FacetChart = chart.properties(title=_entitle(lines), height=height, background=PAPER)
    return titled


def put_below_each_other(figures: Sequence[Figure], colors: Mapping[str, str]) -> alt.VConcatChart:
    """Draw figures of one width as one chart, each under its finding; the arms in their `colors` are at the top."""
    import altair as alt

    width = float(figures[0].chart.width)
    parts = []
    for figure in figures:
        part = figure.chart.copy()
        part.config = part.autosize = alt.Undefined  # only the whole chart may have these
        parts.append(part.properties(title=_entitle(_wrap(figure.title, width))))
    combined = alt.vconcat(_name_arms(colors), *parts, spacing=14).properties(background=PAPER)
    stacked: alt.VConcatChart = style(combined.resolve_scale(color="independent", strokeDash="independent"))
    return stacked


def _wrap(title: str, width: float) -> list[str]:
    return textwrap.wrap(title, max(20, int(width / CHARACTER)))


def _entitle(lines: Sequence[str]) -> Any:
    import altair as alt

    return alt.TitleParams(
        list(lines), anchor="start", frame="group", fontSize=TITLE, lineHeight=LINE, fontWeight="normal", color=INK
    )


def _name_arms(colors: Mapping[str, str]) -> alt.LayerChart | alt.FacetChart:
    """One line: a stroke of each arm as it is drawn (baseline dashed), and its name."""
    import altair as alt

    rows, at = [], 0.0
    for arm, color in colors.items():
        rows.append({"from": at, "to": at + NAME, "text": at + NAME + 6, "arm": arm, "color": color})
        at += 2 * NAME + 6 + CHARACTER * len(arm)
    base = alt.Chart(inline(rows)).encode(
        x=alt.X("from:Q", axis=None, scale=alt.Scale(domain=[0, at], nice=False)),
        color=alt.Color("color:N", scale=None, legend=None),
    )
    dashes = alt.condition(f"datum.arm == '{BASELINE}'", alt.value([5, 3]), alt.value([1, 0]))
    strokes = base.mark_rule(strokeWidth=2).encode(x2="to:Q", strokeDash=dashes)
    names = base.mark_text(align="left").encode(x="text:Q", text="arm:N")
    return alt.layer(strokes, names).properties(width=at, height=LINE)
