"""Open a store, and bring into it what users recorded by starting Locust themselves.

Such a recorder writes into the folder next to the store, without the store: there may not be any yet. So the first
command makes the store.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from evaluator.errors import SourceError, StoreError
from evaluator.pipeline.base import Say, say_nothing
from evaluator.pipeline.landing import land_release
from evaluator.segments import data_folder
from evaluator.sources.recording import MANIFEST_NAME, RunManifest
from evaluator.store import Store
from evaluator.store.file import WAIT_S

_log = logging.getLogger("evaluator")


def is_store_there(path: Path) -> bool:
    """Whether `open_store` would find a store, or make one because requests were recorded next to it."""
    return path.exists() or any(isinstance(found, RunManifest) for found in _find_recordings(data_folder(path)))


def open_store(path: Path, *, create: bool = False, private: bool = False, wait_s: float = WAIT_S) -> Store:
    """Open the store at `path`, and make it if requests were recorded next to it, or with `create`.

    `private` and `wait_s`: as in `Store.open`. Raises StoreError.
    """
    path = path.absolute()
    if not create and not path.exists():
        folder = data_folder(path)
        findings = list(_find_recordings(folder)) if path != folder else []
        create = any(isinstance(found, RunManifest) for found in findings)
        damaged = next((found for found in findings if isinstance(found, SourceError)), None)
        if not create and damaged is not None:
            raise StoreError(f"there is no store at {path}, and {damaged.message}", hint=damaged.hint)
        if not create and folder.is_dir():
            raise StoreError(
                f"there is no store at {path}, and no recording in the folder {folder}",
                hint="`evaluator load` and `import` make a store; if a recording runs, wait until its users start; or "
                "give another path with --store",
            )
    return Store.open(path, create=create, private=private, wait_s=wait_s)


def adopt_recordings(store: Store, say: Say = say_nothing) -> None:
    """Register and land each recording next to the store that no command has seen yet.

    Those that cannot be read are left out, with a warning in the log. `say` receives a message for each release.
    """
    manifests = []
    for found in _find_recordings(store.file.folder):
        if isinstance(found, SourceError):
            _log.warning("%s; %s", found.message, found.hint)
        else:
            manifests.append(found)
    if not manifests:
        return
    known_runs = store.data.list_runs()
    for release in dict.fromkeys(manifest.release for manifest in manifests if manifest.run not in known_runs):
        try:
            say(f"found a recording of {release}: reading it")
            land_release(store, release)
        except SourceError as error:
            _log.warning("%s; %s", error.message, error.hint)


def _find_recordings(folder: Path) -> Iterator[RunManifest | SourceError]:
    """Read the manifests of all recordings in the folder of a store, in the order of their paths.

    Yields an error in place of one that cannot be read. A folder that is missing, or may not be read, has none.
    """
    for path in sorted(folder.glob(f"*/*/{MANIFEST_NAME}")):
        try:
            yield RunManifest.read(path)
        except SourceError as error:
            yield error
