"""Deletes the files that killed processes leave in the folder of segments.

A folder is deleted only when no living process is about to land it (`locks.claimed`) and no process reads request rows
(`locks.shared` on the file that every store has): a reader that began before may still open its files.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from evaluator.errors import StoreError
from evaluator.segments import to_folder_name
from evaluator.store.file import StoreFile
from evaluator.store.locks import CLAIM, claimed, exclusive

_log = logging.getLogger("evaluator")


@contextmanager
def landing_in(file: StoreFile, folders: Iterable[Path]) -> Iterator[None]:
    """Make the `folders` of runs that land in the body of the `with` statement; delete those whose run did not land.

    Raises StoreError if a folder cannot be made.
    """
    claims = [folder / CLAIM for folder in folders]
    with ExitStack() as held_claims:
        for claim in claims:
            try:
                held_claims.enter_context(claimed(claim.parent))
            except OSError as error:
                raise StoreError(f"{claim.parent} cannot be written: {error.strerror}") from error
        try:
            yield
        finally:
            with suppress(StoreError):  # the store is in use: the next import deletes them
                for claim in claims:
                    _resolve_claim(replace(file, wait_s=1.0), claim)


def remove_killed(file: StoreFile) -> None:
    """Delete the files of imports that were killed before they landed, and log a warning for each."""
    for claim in sorted(file.folder.glob(f"*/*/{CLAIM}")):
        # A living import holds the lock on its claim; the lock of a killed one is free.
        with exclusive(claim) as was_killed:
            if not was_killed:
                continue
            size = sum(path.stat().st_size for path in claim.parent.glob("*"))
            if _resolve_claim(file, claim):
                _log.warning("removed %s (%.1f MB): its import was killed before it landed", claim.parent, size / 1e6)


def remove_unfinished(folder: Path) -> None:
    """Delete the files in the folder of a run that were being written when their process was killed.

    Call it only when no process writes into the folder any more.
    """
    for path in folder.glob("*.tmp"):
        with suppress(OSError):  # of another user: it takes space, but no command reads it
            path.unlink()


def _resolve_claim(file: StoreFile, claim: Path) -> bool:
    """Delete the folder of a `claim` (a file) if its run did not land; else only the claim.

    Returns whether the folder is deleted. It also stays while request rows are read, because a reader may have its
    files open: the next import deletes it.
    """
    folder = claim.parent
    with file.opened() as engine:
        landed_folders = {to_folder_name(run) for (run,) in engine.execute("SELECT id FROM store.runs").fetchall()}
    if folder.name in landed_folders:
        claim.unlink(missing_ok=True)
        return False
    # Readers of request rows hold a shared lock on this file.
    with exclusive(file.empty_segment) as no_readers:
        if no_readers:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # the folder of the release has other runs
                folder.parent.rmdir()
        return no_readers
