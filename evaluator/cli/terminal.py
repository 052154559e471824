"""What stdout can display, and how rows and times are written."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO, TypeVar

import click

from evaluator.cli import wants_color
from evaluator.reports import Page

FILE_PAGE = Page(width=120, color=False, unicode=True)
"""A file is wide, plain and UTF-8."""

Command = TypeVar("Command", bound=Callable[..., object])


def rows_option(*, help_subject: str) -> Callable[[Command], Command]:
    """Return the option `--format` of a command that prints rows.

    `help_subject`: a noun and its verb, such as `rows are` for the help "How the rows are written."
    """
    return click.option(
        "--format",
        "format_name",
        type=click.Choice(["table", "csv", "json"]),
        default="table",
        show_default=True,
        help=f"How the {help_subject} written.",
    )


def make_page(command_options: Mapping[str, str] = MappingProxyType({})) -> Page:
    """Describe stdout to a format: its width, whether to colour, whether it takes Unicode.

    `command_options`: options that commands in its text repeat, with their values.
    """
    width = shutil.get_terminal_size((FILE_PAGE.width, 24)).columns
    unicode = _takes_unicode(sys.stdout)
    return Page(width=width, color=wants_color(sys.stdout), unicode=unicode, command_options=command_options)


def write_time(time: datetime) -> str:
    """Write a moment for programs: `2026-11-25T10:00:00Z`."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _takes_unicode(stream: TextIO) -> bool:
    """Can the encoding of a stream express all special characters that reports use?"""
    try:
        "✓✗∅…−–·∞≤≥µ".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
