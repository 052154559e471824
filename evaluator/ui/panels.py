"""A figure with its finding, its numbers, its downloads, and the Python that draws it again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from evaluator.figures import PALETTE, Figure, to_image
from evaluator.records import Comparison
from evaluator.reports.base import format_allowed, format_both, format_effect, harmless_cell, name_role
from evaluator.ui.pieces import clean, metrics_table, show, show_markup, show_table
from evaluator.wording import name_comparison

HEAD = ("metric", "arm", "role", "baseline", "candidate", "change", "allowed", "status", "reason")
"""The columns of a comparison in tables and downloads."""


def show_metrics(
    rows: Sequence[Comparison],
    release_id: str,
    name: str,
    snippet: str,
    *,
    caption: str = "metrics",
    several: bool = False,
    most: int | None = None,
) -> None:
    """Show metrics in the given order, at most the first `most` of them, and offer all as a download."""
    show(metrics_table(rows[:most], release_id, several=several, caption=caption))
    plain = [
        (
            name_comparison(row),
            row.arm,
            name_role(row),
            *format_both(row),
            format_effect(row),
            format_allowed(row),
            row.status.value.replace("_", " "),
            row.reason or row.no_data or "",
        )
        for row in rows
    ]
    hand_out(name, HEAD, plain, snippet)


def show_figure(figure: Figure, name: str, snippet: str) -> None:
    """Show a figure under the finding it states."""
    show_markup('<p class="ev-figure">{}</p>', clean(figure.title))
    spec = _paint(figure.chart.to_dict())
    spec.pop("width", None)
    st.vega_lite_chart(spec=spec, theme=None, width="stretch", key=f"figure-{name}", alt=figure.alt)
    hand_out(name, figure.head, figure.rows, snippet, image=lambda kind: to_image(figure, kind), caption=figure.title)


def hand_out(
    name: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    snippet: str,
    *,
    image: Callable[[str], bytes] | None = None,
    caption: str = "",
) -> None:
    """The numbers behind what is shown: as a table, as downloads, and as Python that makes them again."""
    with st.expander("Numbers, downloads, notebook", key=f"numbers-{name}"):
        show_table(head, rows, caption=caption or name)
        with st.container(horizontal=True):
            _offer(name, "csv", "text/csv", lambda: _to_csv(head, rows))
            if image is not None:
                _offer(name, "svg", "image/svg+xml", lambda: image("svg"))
                _offer(name, "png", "image/png", lambda: image("png"))
        st.code(snippet, language="python", wrap_lines=True)


def _offer(name: str, kind: str, mime: str, make: Callable[[], bytes]) -> None:
    st.download_button(
        kind.upper(), make, f"{name}.{kind}", mime, key=f"get-{name}-{kind}", on_click="ignore", type="secondary"
    )


def _to_csv(head: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """Rows as CSV; what a spreadsheet would compute is marked as text."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(head)
    writer.writerows([harmless_cell(cell) for cell in row] for row in rows)
    return out.getvalue().encode("utf-8-sig")


def _paint(spec: dict[str, Any]) -> dict[str, Any]:
    """A chart in the colours of the reader's page."""
    if st.context.theme.type != "dark":
        return spec
    text = json.dumps(spec)
    for light, dark in PALETTE.items():
        text = text.replace(f'"{light}"', f'"{dark}"')
    painted: dict[str, Any] = json.loads(text)
    return painted
