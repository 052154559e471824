"""Plans to import access logs: which files, and how each is read."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from evaluator.errors import InputError
from evaluator.records import LogFile, LogLayout, LogPlan
from evaluator.sources.access_logs.options import LogSettings
from evaluator.sources.access_logs.recognising import find_layout
from evaluator.sources.access_logs.refusals import describe_line, show_line
from evaluator.sources.files.paths import ACCESS_LOG, find_files
from evaluator.textfiles import open_text

_TOP_LINES = 500
"""Lines by which a format is recognised."""

_LONGEST_TOP_LINE = 1 << 20
"""Characters of a line that are read to recognise its format."""


def plan_access_logs(
    paths: Sequence[str],
    patterns: Sequence[str],
    settings: LogSettings,
    *,
    skip_bad_rows: bool = False,
    start: datetime | None = None,
    end: datetime | None = None,
    step: str = "",
    shares: Mapping[str, float] | None = None,
) -> LogPlan:
    """Plan the import of access logs: those of `paths`, and those that `patterns` match.

    Raises InputError for files that are missing or of no known format.
    """
    files = tuple(
        LogFile(str(path), find_layout_of_file(path, settings)) for path in find_files(paths, patterns, ACCESS_LOG)
    )
    return LogPlan(files, settings.options, skip_bad_rows, start, end, step, shares or {})


def find_layout_of_file(path: Path, settings: LogSettings) -> LogLayout:
    """Find how the lines of a file are read, by the first of them. Raises InputError."""
    try:
        with open_text(path, errors="backslashreplace") as opened:
            reading = iter(lambda: opened.readline(_LONGEST_TOP_LINE).replace("\0", ""), "")
            top_lines = list(itertools.islice(reading, _TOP_LINES))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return find_layout(
        top_lines,
        str(path),
        log_format=settings.log_format,
        format=settings.format,
        columns=settings.columns,
        sensitive=settings.options.sensitive,
    )


def describe_bad_line(line: str, *, sensitive: bool = False) -> tuple[str, str]:
    """Show a line that could not be read, without secrets; returns it with what it looks like, and what helps.

    `sensitive`: of a sensitive service, whose lines are not shown.
    """
    text = line.rstrip("\r\n")
    what, hint = describe_line(text)
    return show_line(text, sensitive=sensitive) + (f" (it looks like {what})" if what else ""), hint
