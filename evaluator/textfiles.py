"""Files that may be compressed, opened by their names."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import IO, TextIO, cast


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file, unpacked where its name ends in .gz."""
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def open_text(path: Path, errors: str = "strict") -> TextIO:
    """Open a UTF-8 text with line ends as they are, unpacked where its name ends in .gz."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", errors=errors, newline="")
