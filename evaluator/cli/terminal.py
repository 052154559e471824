"""What stdout can show."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

from evaluator.cli import wants_color
from evaluator.reports import Page

__all__ = ["FILE_PAGE", "make_page"]

FILE_PAGE = Page(width=120, color=False, unicode=True)
"""A file is wide, plain and UTF-8."""


def make_page(stream: TextIO | None = None) -> Page:
    """Describe a stream (default: stdout) to a format: its width, whether to colour, whether it takes Unicode."""
    stream = stream or sys.stdout
    width = shutil.get_terminal_size((FILE_PAGE.width, 24)).columns
    return Page(width=width, color=wants_color(stream), unicode=_takes_unicode(stream))


def _takes_unicode(stream: TextIO) -> bool:
    try:
        "✓✗∅…−–·∞≤≥µ".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
