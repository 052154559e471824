"""A verdict in the formats of its readers. One module per format, and the table that names them.

A new format is a module of this package with a function `render(Verdict, Page) -> str`, and one line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from evaluator.extensions import Lazy
from evaluator.records import Verdict
from evaluator.reports.base import VERDICT_WORDS, Page, Render, plain_text
from evaluator.reports.human import to_human
from evaluator.reports.reading import from_json, read_stored
from evaluator.reports.verdict_json import to_json

__all__ = [
    "BESIDE",
    "DRAWN",
    "FORMATS",
    "VERDICT_WORDS",
    "Page",
    "Render",
    "from_json",
    "plain_text",
    "read_stored",
    "to_human",
    "to_json",
]


FORMATS: Mapping[str, Render] = Lazy(
    {
        "human": f"{__name__}.human:render",
        "json": f"{__name__}.verdict_json:render",
        "html": f"{__name__}.html:render",
        "markdown": f"{__name__}.markdown:render",
        "junit": f"{__name__}.junit:render",
        "github": f"{__name__}.github:render",
        "gitlab": f"{__name__}.gitlab:render",
        "gitlab-load": f"{__name__}.gitlab_load:render",
    },
    "format",
    extra="plots",
)

DRAWN: frozenset[str] = frozenset({"html"})
"""Formats that draw figures, where the verdict has what they need."""

BESIDE: Mapping[str, Callable[[Verdict, Mapping[str, str], str], None]] = Lazy(
    {"github": f"{__name__}.github:publish"}, "format"
)
"""What a format does in addition to its text, given the verdict, the environment, and the path of the report."""
