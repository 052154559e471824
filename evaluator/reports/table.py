"""Plain tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from evaluator.reports.base import Page, plain_text
from evaluator.reports.human import ASCII

__all__ = ["lay_out", "write_line"]


def write_line(text: str, page: Page) -> str:
    """Text as the page can show it."""
    text = plain_text(text)
    return text if page.unicode else text.translate(ASCII).encode("ascii", "backslashreplace").decode()


def lay_out(rows: Sequence[Sequence[str]], page: Page, *, indent: str = "  ") -> list[str]:
    """Columns of equal width, the first row as their heads; numbers are never wrapped."""
    safe = [[write_line(cell, page) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in safe) for column in range(len(safe[0]))]
    return [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in safe
    ]
