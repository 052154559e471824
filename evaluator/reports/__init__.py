"""A verdict, written out for whoever reads it. One module a format, and the table that names them.

A new format is a module of this room with a function `render(Verdict, Page) -> str`, and one line in `FORMATS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

from evaluator.errors import UsageError
from evaluator.records import Verdict
from evaluator.reports.base import VERDICT_WORDS, Page, Render, plain_text
from evaluator.reports.human import to_human
from evaluator.reports.reading import from_json
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
    "to_human",
    "to_json",
]


def _human(verdict: Verdict, page: Page) -> str:
    return to_human(verdict, width=page.width, color=page.color, unicode=page.unicode)


def _json(verdict: Verdict, page: Page) -> str:
    del page
    return to_json(verdict)


def _html(verdict: Verdict, page: Page) -> str:
    del page
    try:
        from evaluator.reports.html import to_html

        return to_html(verdict)
    except ImportError as error:
        raise UsageError(
            f"the HTML report needs the package '{error.name}'", hint="pip install 'release-evaluator[plots]'"
        ) from error


def _later(module: str) -> Render:
    """Find a format only when it is asked for."""

    def render(verdict: Verdict, page: Page) -> str:
        found: Render = importlib.import_module(f"{__name__}.{module}").render
        return found(verdict, page)

    return render


def _publish_on_github(verdict: Verdict, environ: Mapping[str, str], report: str) -> None:
    from evaluator.reports.github import publish

    publish(verdict, environ, report)


FORMATS: Mapping[str, Render] = {
    "human": _human,
    "json": _json,
    "html": _html,
    "markdown": _later("markdown"),
    "junit": _later("junit"),
    "github": _later("github"),
    "gitlab": _later("gitlab"),
    "gitlab-load": _later("gitlab_load"),
}

DRAWN: frozenset[str] = frozenset({"html"})
"""Formats that draw figures, where the verdict has what they need."""

BESIDE: Mapping[str, Callable[[Verdict, Mapping[str, str], str], None]] = {
    "github": _publish_on_github,
}
"""What a format does beside its text: given the environment, and the path of the report for people."""
