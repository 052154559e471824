"""A verdict, written out for whoever reads it. One module a format, and the table that names them.

A new format is a function `Verdict, Page -> str` in a module of this room and one line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from evaluator.errors import UsageError
from evaluator.records import Verdict
from evaluator.reports.base import VERDICT_WORDS, Page, Render, plain_text
from evaluator.reports.human import to_human
from evaluator.reports.verdict_json import to_json

__all__ = ["DRAWN", "FORMATS", "VERDICT_WORDS", "Page", "Render", "plain_text", "to_human", "to_json"]


def _human(verdict: Verdict, page: Page) -> str:
    return to_human(verdict, width=page.width, color=page.color, unicode=page.unicode)


def _json(verdict: Verdict, page: Page) -> str:
    del page
    return to_json(verdict)


def _html(verdict: Verdict, page: Page) -> str:
    del page
    try:
        from evaluator.reports.html import to_html
    except ImportError as error:
        raise UsageError(
            f"the HTML report needs the package '{error.name}'", hint="pip install 'release-evaluator[plots]'"
        ) from error
    return to_html(verdict)


FORMATS: Mapping[str, Render] = {
    "human": _human,
    "json": _json,
    "html": _html,
}

DRAWN: frozenset[str] = frozenset({"html"})
"""Formats that draw figures, where the verdict has what they need."""
