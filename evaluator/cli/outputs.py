"""`--format F[=PATH]`: checked before anything is judged, and written in one step at the end."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from evaluator.cli import emit
from evaluator.cli.terminal import FILE_PAGE, make_page
from evaluator.errors import UnknownName, UsageError
from evaluator.permissions import choose_file_mode
from evaluator.records import Verdict
from evaluator.replacing import replace_file
from evaluator.reports import BESIDE, DRAWN, FORMATS, Page

FORMAT_HELP = f"{', '.join(FORMATS)}; to stdout, or to a file. May be repeated.  [default: human]"

Output = tuple[str, Path | None]
"""A format, and where it goes; `None` is stdout."""

READABLE = ("html", "markdown", "human")
"""What a person would open first, where there are several files."""


def parse_formats(format_options: Sequence[str]) -> list[Output]:
    """Split texts `F[=PATH]` into format and path; without any, the format `human` goes to stdout.

    Raises UnknownName for an unknown format, and UsageError for a path that cannot be written, or for two formats that
    go to stdout or to one file.
    """
    outputs = [_parse_format(text) for text in format_options or ("human",)]
    if len([name for name, path in outputs if path is None]) > 1:
        raise UsageError("two formats cannot both go to stdout", hint="give all but one a path: --format json=FILE")
    paths = [path.resolve() for _, path in outputs if path is not None]
    for path in paths:
        if paths.count(path) > 1 and not _is_special(path):  # a device such as /dev/null takes several
            raise UsageError(f"two formats cannot both go to '{path}'", hint="give each a file of its own")
    return outputs


def write_outputs(
    verdict: Verdict,
    outputs: Sequence[Output],
    *,
    figures: bool = True,
    private: bool = False,
    command_options: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a verdict in every requested format. A path `None` is stdout.

    `figures`: include the data of its figures in every format. Formats that draw figures receive them in any case.
    `private`: only the owner may read the files. `command_options`: options that commands on stdout repeat.
    """

    def render(name: str, page: Page) -> str:
        """Write the verdict in the format `name`, for a file or a terminal (`page`)."""
        shown = verdict if figures or name in DRAWN else replace(verdict, figures=None)
        return FORMATS[name](shown, page)

    files = [(name, path) for name, path in outputs if path is not None]
    stdout_formats = [name for name, path in outputs if path is None]
    for name, path in files:
        replace_output(path, render(name, FILE_PAGE) + "\n", private=private)
    # After the files: the text on stdout may name them.
    for name in stdout_formats:
        emit(render(name, make_page(command_options)))
    # Some formats do more than to write their text, such as to publish it.
    for name in dict.fromkeys(name for name, _ in outputs if name in BESIDE):
        BESIDE[name](verdict, os.environ, _find_report(files))


def _parse_format(text: str) -> Output:
    """Split `F[=PATH]` into a format and a path; `None` is stdout. Raises UnknownName, UsageError."""
    name, separator, target = text.partition("=")
    if name not in FORMATS:
        raise UnknownName("format", name, FORMATS)
    return (name, find_path(target)) if separator else (name, None)


def find_path(target: str) -> Path:
    """Return the path of a file that is to be written. Raises UsageError if that is not possible."""
    path = Path(target)
    if not target or "\0" in target or path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"'{target}' is not a file that can be written", hint="the folder must exist")
    if not os.access(path if _is_special(path) else path.resolve().parent, os.W_OK):
        raise UsageError(f"this user may not write '{target}'", hint="choose a folder with write permission")
    return path


def _find_report(files: Sequence[tuple[str, Path]]) -> str:
    """Return the path of the written file that a person would open first, or "" if there is none.

    `files`: format and path of each file. Formats that publish their text (`BESIDE`) do not count.
    """
    # Reversed: of several files of one format, the first one counts.
    path_by_format = {name: path for name, path in reversed(files) if name not in BESIDE}
    formats_by_preference = [*READABLE, *(name for name, _ in files)]
    for name in formats_by_preference:
        if name in path_by_format:
            return str(path_by_format[name])
    return ""


def replace_output(path: Path, text: str, *, private: bool) -> None:
    """Write a file so that readers always find all of the old text or all of the new.

    The text goes to a temporary file in the same folder, which replaces the file at the end. `private`: only the owner
    may read it.
    """
    if _is_special(path):
        path.write_text(text, encoding="utf-8", newline="\n")
        return
    path = path.resolve()
    mode = choose_file_mode(private=private)
    if path.exists():  # its mode stays, unless it has to become private
        mode = path.stat().st_mode & (0o700 if private else 0o777)
    replace_file(path, text, mode)


def _is_special(path: Path) -> bool:
    """Is a path a pipe, a terminal or a device, which can be written to but not replaced?"""
    return path.exists() and not path.is_file()
