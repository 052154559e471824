"""A figure with all that belongs to it: its finding, its numbers, its downloads, and how to make it again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st
from markupsafe import Markup

from evaluator.figures import PALETTE, Figure, to_image
from evaluator.records import Comparison
from evaluator.reports.base import format_allowed, format_both, format_effect, harmless_cell
from evaluator.ui.pieces import clean, show, table
from evaluator.wording import name_comparison

__all__ = ["HEAD", "describe", "hand_out", "is_dark", "show_figure", "to_csv"]

HEAD = ("metric", "arm", "role", "baseline", "candidate", "change", "allowed", "status", "reason")
"""What `describe` says of a comparison."""


def show_figure(figure: Figure, name: str, snippet: str) -> None:
    """Show a figure under the finding it states."""
    show(Markup('<p class="ev-figure">{}</p>').format(clean(figure.title)))
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
    """The numbers behind what is shown: to read, to take away, and to make again."""
    with st.expander("Numbers, downloads, notebook", key=f"numbers-{name}"):
        show(table(head, rows, caption=caption or name))
        with st.container(horizontal=True):
            _offer(name, "csv", "text/csv", lambda: to_csv(head, rows))
            if image is not None:
                _offer(name, "svg", "image/svg+xml", lambda: image("svg"))
                _offer(name, "png", "image/png", lambda: image("png"))
        st.code(snippet, language="python", wrap_lines=True)


def _offer(name: str, kind: str, mime: str, make: Callable[[], bytes]) -> None:
    st.download_button(
        kind.upper(), make, f"{name}.{kind}", mime, key=f"get-{name}-{kind}", on_click="ignore", type="secondary"
    )


def describe(row: Comparison) -> tuple[str, ...]:
    """A comparison as a row of text."""
    role = "scan" if row.scan else row.rule.role.value
    said = row.reason or row.no_data or ""
    status = row.status.value.replace("_", " ")
    both = format_both(row)
    return (name_comparison(row), row.arm, role, *both, format_effect(row), format_allowed(row), status, said)


def to_csv(head: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """Rows as CSV; what a spreadsheet would compute is marked as text."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(head)
    writer.writerows([harmless_cell(cell) for cell in row] for row in rows)
    return out.getvalue().encode("utf-8-sig")


def is_dark() -> bool:
    """Does the reader's page have a dark background?"""
    return st.context.theme.type == "dark"


def _paint(spec: dict[str, Any]) -> dict[str, Any]:
    """A chart in the colours of the reader's page."""
    if not is_dark():
        return spec
    text = json.dumps(spec)
    for light, dark in PALETTE.items():
        text = text.replace(f'"{light}"', f'"{dark}"')
    painted: dict[str, Any] = json.loads(text)
    return painted
