"""`--format F[=PATH]`: checked before anything is judged, and written in one step at the end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluator.cli import emit
from evaluator.cli.terminal import FILE_PAGE, make_page
from evaluator.errors import UnknownName, UsageError
from evaluator.records import Verdict
from evaluator.reports import BESIDE, DRAWN, FORMATS

FORMAT_HELP = f"{', '.join(FORMATS)}; to stdout, or to a file. May be repeated.  [default: human]"

Output = tuple[str, Path | None]
"""A format, and where it goes; `None` is stdout."""

READABLE = ("html", "markdown", "human")
"""What a person would open first, where there are several files."""


def parse_formats(format_options: Sequence[str]) -> list[Output]:
    """Split `F[=PATH]` into outputs. Raises UsageError for one that cannot be written."""
    outputs = [_parse_format(text) for text in format_options or ("human",)]
    if len([name for name, path in outputs if path is None]) > 1:
        raise UsageError("two formats cannot both go to stdout", hint="give all but one a path: --format json=FILE")
    paths = [path.resolve() for _, path in outputs if path is not None]
    for path in paths:
        if paths.count(path) > 1 and not _is_special(path):
            raise UsageError(f"two formats cannot both go to '{path}'", hint="give each a file of its own")
    return outputs


def write_outputs(verdict: Verdict, outputs: Sequence[Output], *, figures: bool = True) -> None:
    """Write a verdict in every requested format, files first: those that stdout names exist then.

    Without `figures` only formats that draw figures receive their data.
    """
    bare = verdict if figures else replace(verdict, figures=None)
    for name, path in sorted(outputs, key=lambda output: output[1] is None):
        shown = verdict if name in DRAWN else bare
        text = FORMATS[name](shown, make_page() if path is None else FILE_PAGE)
        if path is None:
            emit(text)
        else:
            _write(path, text + "\n")
    for name in dict.fromkeys(name for name, _ in outputs if name in BESIDE):
        BESIDE[name](verdict, os.environ, _report(outputs))


def _parse_format(text: str) -> Output:
    name, separator, target = text.partition("=")
    if name not in FORMATS:
        raise UnknownName("format", name, FORMATS)
    if not separator:
        return name, None
    path = Path(target)
    if not target or "\0" in target or path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"'{target}' is not a file that can be written", hint="the folder must exist")
    if not os.access(path if _is_special(path) else path.resolve().parent, os.W_OK):
        raise UsageError(f"this user may not write '{target}'", hint="choose a folder with write permission")
    return name, path


def _report(outputs: Sequence[Output]) -> str:
    files = [(name, path) for name, path in outputs if path is not None and name not in BESIDE]
    files.sort(key=lambda output: READABLE.index(output[0]) if output[0] in READABLE else len(READABLE))
    return str(files[0][1]) if files else ""


def _write(path: Path, text: str) -> None:
    """Write next to the file and replace it at the end: a reader finds all of the old text or all of the new."""
    if _is_special(path):
        path.write_text(text, encoding="utf-8", newline="\n")
        return
    path = path.resolve()
    # Closing keeps the file; it is removed below unless it has replaced the target.
    file = tempfile.NamedTemporaryFile(  # noqa: SIM115
        "w", encoding="utf-8", newline="\n", prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent, delete=False
    )
    unfinished = Path(file.name)
    try:
        with file:
            file.write(text)
        unfinished.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _is_special(path: Path) -> bool:
    """Is a path a pipe, a terminal or a device, which can be written to but not replaced?"""
    return path.exists() and not path.is_file()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
