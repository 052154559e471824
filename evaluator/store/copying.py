"""Copies of the DuckDB file and its log, and of other files, while other processes use the store."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from evaluator.errors import StoreError
from evaluator.store.file import StoreFile

_CHUNK_BYTES = 1 << 26


def copy_database(file: StoreFile, copy: Path, limit_s: float | None = None) -> None:
    """Copy the DuckDB file to `copy`, and its log (changes that are not in the file yet) to the name next to it.

    Call it inside of `file.opened()`: then no process writes to them meanwhile. Raises StoreError, also if it takes
    longer than `limit_s` seconds (`None`: it may take any time), because others wait.
    """
    log = file.path.with_name(file.path.name + ".wal")
    targets = {file.path: copy}
    if log.exists():
        targets[log] = copy.with_name(copy.name + ".wal")
    _copy_all(targets, None if limit_s is None else time.monotonic() + limit_s)


def _copy_all(targets: Mapping[Path, Path], deadline: float | None) -> None:
    """Copy files to new files. Raises StoreError, also after `deadline` (of `time.monotonic`)."""
    with ExitStack() as opened:
        try:
            # All are open until the last is copied: when a process closes a file, the operating system takes away the
            # locks that DuckDB holds on it in this process.
            handles = [
                (opened.enter_context(source.open("rb")).fileno(), opened.enter_context(target.open("xb")).fileno())
                for source, target in targets.items()
            ]
            for source_handle, target_handle in handles:
                while _copy_chunk(source_handle, target_handle):
                    if deadline is not None and time.monotonic() > deadline:
                        raise StoreError(
                            "copying the DuckDB file takes too long: nothing can land meanwhile",
                            hint="copy to a faster disk, or allow a longer pause with --pause",
                        )
        except OSError as error:
            names = " and ".join(map(str, targets))
            raise StoreError(
                f"{names} cannot be copied: {error.strerror}", hint="check the permissions, and the space on the disk"
            ) from error


def _copy_chunk(source: int, target: int) -> int:
    """Copy the next bytes from one open file to another; returns how many, 0 at the end. Raises OSError."""
    with suppress(OSError):  # not on this file system, or not between these two
        # A file system that can share blocks between files (XFS, Btrfs) copies nothing here.
        return os.copy_file_range(source, target, _CHUNK_BYTES)
    chunk = os.read(source, 1 << 22)
    remaining = memoryview(chunk)
    while remaining:
        remaining = remaining[os.write(target, remaining) :]
    return len(chunk)
