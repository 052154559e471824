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
from evaluator.segments import slug
from evaluator.store.file import StoreFile
from evaluator.store.locks import CLAIM, claimed, exclusive

_log = logging.getLogger("evaluator")


@contextmanager
def landing_in(file: StoreFile, folders: Iterable[Path]) -> Iterator[None]:
    """Make the folders of runs that are about to land; afterwards delete those whose run is not in the store.

    Raises StoreError where they cannot be made.
    """
    claims = [folder / CLAIM for folder in folders]
    with ExitStack() as held:
        for claim in claims:
            try:
                held.enter_context(claimed(claim.parent))
            except OSError as error:
                raise StoreError(f"{claim.parent} cannot be written: {error.strerror}") from error
        try:
            yield
        finally:
            with suppress(StoreError):  # the store is in use: the next import does it
                for claim in claims:
                    _settle(replace(file, wait_s=1.0), claim)


def remove_killed(file: StoreFile) -> None:
    """Delete the files of imports that were killed before they landed, and log it."""
    for claim in sorted(file.folder.glob(f"*/*/{CLAIM}")):
        with exclusive(claim) as dead:
            size = sum(path.stat().st_size for path in claim.parent.glob("*")) if dead else 0
            if dead and _settle(file, claim):
                _log.warning("removed %s (%.1f MB): its import was killed before it landed", claim.parent, size / 1e6)


def _settle(file: StoreFile, claim: Path) -> bool:
    """Release the claim on a folder that landed, or delete the folder; returns whether it was deleted.

    It is not deleted while request rows are being read: the next import does it.
    """
    folder = claim.parent
    with file.opened() as engine:
        landed = {slug(run) for (run,) in engine.execute("SELECT id FROM store.runs").fetchall()}
    if folder.name in landed:
        claim.unlink(missing_ok=True)
        return False
    with exclusive(file.empty_segment) as alone:
        if alone:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # other runs of the release are in it
                folder.parent.rmdir()
        return alone
