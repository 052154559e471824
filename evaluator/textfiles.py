"""Files that may be compressed, opened by their names."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import IO, TextIO, cast


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading; if its name ends in .gz, it is unpacked."""
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def open_text(path: Path, errors: str = "strict") -> TextIO:
    """Open a UTF-8 text for reading, with line ends as they are; if its name ends in .gz, it is unpacked.

    `errors`: what to do with bytes that are not UTF-8, as for `open`.
    """
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", errors=errors, newline="")
