"""What killed processes leave in the folder of segments, and what a compaction has replaced, is deleted.

A file goes only when no living process is about to land it (`locks.claimed`) and nobody reads (`locks.shared` on the
file that every store has): a reader that began before may still look for it under its old name.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from evaluator.errors import StoreError
from evaluator.segments import slug
from evaluator.store.engine import attach, open_engine
from evaluator.store.locks import CLAIM, claimed, exclusive
from evaluator.store.migrations import data_dir_of, empty_segment

__all__ = ["landing_in", "remove_killed"]

_log = logging.getLogger("evaluator")


@contextmanager
def landing_in(store: Path, folders: Iterable[Path]) -> Iterator[None]:
    """Make the folders of runs that are about to land; afterwards those go whose run is not in the store.

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
            with suppress(StoreError):  # the store is in use: the next import settles it
                for claim in claims:
                    _settle(store, claim)


def remove_killed(store: Path, wait_s: float) -> None:
    """Remove what imports left that were killed before they landed, and say so in the log."""
    for claim in sorted(data_dir_of(store).glob(f"*/*/{CLAIM}")):
        with exclusive(claim) as dead:
            size = sum(path.stat().st_size for path in claim.parent.glob("*")) if dead else 0
            if dead and _settle(store, claim, wait_s):
                _log.warning("removed %s (%.1f MB): its import was killed before it landed", claim.parent, size / 1e6)


def _settle(store: Path, claim: Path, wait_s: float = 1.0) -> bool:
    """Let go of a folder that landed, or remove it; tells whether it was removed."""
    if claim.parent.name in _landed_folders(store, wait_s):
        claim.unlink(missing_ok=True)
        return False
    return _remove(store, claim.parent)


def _landed_folders(store: Path, wait_s: float) -> set[str]:
    with open_engine() as engine, attach(engine, store, write=False, wait_s=wait_s):
        return {slug(run) for (run,) in engine.execute("SELECT id FROM store.runs").fetchall()}


def _remove(store: Path, folder: Path) -> bool:
    """Remove the folder of a run that never landed, unless somebody reads; then the next import does it."""
    with exclusive(empty_segment(store)) as alone:
        if alone:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # other runs of the release are in it
                folder.parent.rmdir()
        return alone
