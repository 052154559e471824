"""A figure with its finding, its numbers, its downloads, and the Python that draws it again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import streamlit as st

from evaluator.figures import PALETTE, Figure, to_image
from evaluator.records import Comparison, FailureCount
from evaluator.reports.base import NBSP, TIED, escape_formula, format_allowed, format_both, format_effect, name_role
from evaluator.ui.metric_table import SIDES, make_metrics_table
from evaluator.ui.pieces import clean, show, show_markup, show_table
from evaluator.wording import name_comparison

HEAD = ("metric", "arm", "role", "baseline", "candidate", "change", "allowed", "status", "reason")
"""The columns of a comparison in tables and downloads."""


def show_metrics(
    comparisons: Sequence[Comparison],
    release_id: str,
    colors: Mapping[str, str],
    name: str,
    snippet: str,
    *,
    caption: str = "metrics",
    with_arms: bool = False,
    max_rows: int | None = None,
    failures: Sequence[FailureCount] | None = None,
    sides: tuple[str, str] = SIDES,
) -> None:
    """Show a table of the first `max_rows` comparisons (`None`: of all), and offer all of them as a download.

    `colors`: those of the arms, by name; `name`: unique on the page, and the name of the file; `snippet`: Python that
    makes the numbers again; `with_arms` adds the arm to the name of each metric in the table; `failures`: those whose
    kinds are written in it; `sides`: what is compared, if it is not the baseline and a candidate.
    """
    show(
        make_metrics_table(
            comparisons[:max_rows],
            release_id,
            colors,
            with_arms=with_arms,
            caption=caption,
            failures=failures,
            sides=sides,
        )
    )
    offer_metrics(comparisons, name, snippet, sides)


def offer_metrics(comparisons: Sequence[Comparison], name: str, snippet: str, sides: tuple[str, str] = SIDES) -> None:
    """Offer the numbers of comparisons; `name`, `snippet` and `sides` as of `show_metrics`."""
    download_rows = [
        (
            name_comparison(comparison),
            comparison.arm,
            name_role(comparison),
            *format_both(comparison),
            format_effect(comparison),
            format_allowed(comparison),
            comparison.status.value.replace("_", " "),
            comparison.reason or comparison.no_data or "",
        )
        for comparison in comparisons
    ]
    head = [dict(zip(SIDES, sides, strict=True)).get(column, column) for column in HEAD]
    show_numbers(name, head, download_rows, snippet)


def show_figure(figure: Figure, name: str, snippet: str) -> None:
    """Show a figure under its finding, and offer its numbers; `name`: unique on the page, and the name of its files."""
    with st.container(key=f"part-{name}"):  # `navigation.js` makes it one stop of the Tab key
        with st.container(horizontal=True, vertical_alignment="center"):
            show_markup('<p class="ev-figure">{}</p>', TIED.sub(NBSP, clean(figure.title)))
            make_image = partial(to_image, figure)
            show_numbers(name, figure.head, figure.rows, snippet, make_image=make_image, caption=figure.title)
        spec = _use_page_colors(figure.chart.to_dict())
        spec.pop("width", None)  # it takes the width of its column
        st.vega_lite_chart(spec=spec, theme=None, width="stretch", key=f"figure-{name}", alt=figure.alt)


def show_numbers(
    name: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    snippet: str,
    *,
    make_image: Callable[[str], bytes] | None = None,
    caption: str = "",
) -> None:
    """Offer the numbers behind what is shown: as a table, as downloads, and as Python that makes them again.

    `name`: unique on the page, and the name of the files; `make_image`: called with `svg` or `png`, returns the file;
    `None`: there is no image.
    """

    @st.fragment
    def show_fragment() -> None:
        """Show the button, and behind it the numbers: only the table, which may be long, waits until it is pressed."""
        box = st.popover("Numbers", type="tertiary", key=f"numbers-{name}", on_change="rerun")
        with box:
            if box.open:
                show_table(head, rows, caption=caption or name)
            with st.container(horizontal=True):
                _show_download(name, "csv", "text/csv", lambda: _to_csv(head, rows))
                if make_image is not None:
                    _show_download(name, "svg", "image/svg+xml", lambda: make_image("svg"))
                    _show_download(name, "png", "image/png", lambda: make_image("png"))
            st.code(snippet, language="python", wrap_lines=True)

    show_fragment()


def _show_download(name: str, extension: str, mime_type: str, make_content: Callable[[], bytes]) -> None:
    """Show a button that downloads a file; its content is made when it is pressed, and the page is not run again."""
    st.download_button(
        extension.upper(),
        make_content,
        f"{name}.{extension}",
        mime_type,
        key=f"get-{name}-{extension}",
        on_click="ignore",
        type="secondary",
    )


def _to_csv(head: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """Write rows as a CSV file for spreadsheets; a cell that would be taken for a formula becomes text."""
    csv_file = io.StringIO()
    writer = csv.writer(csv_file)
    writer.writerow(head)
    writer.writerows([escape_formula(cell) for cell in row] for row in rows)
    return csv_file.getvalue().encode("utf-8-sig")  # the mark at its start tells Excel that it is UTF-8


def _use_page_colors(spec: dict[str, Any]) -> dict[str, Any]:
    """Replace the colours of a chart by their counterparts if the reader's page is dark."""
    if st.context.theme.type != "dark":
        return spec
    text = json.dumps(spec)
    for light, dark in PALETTE.items():
        text = text.replace(f'"{light}"', f'"{dark}"')
    dark_spec: dict[str, Any] = json.loads(text)
    return dark_spec
