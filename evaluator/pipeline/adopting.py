"""Open a store, and bring into it what users recorded by starting Locust themselves.

Such a recorder writes into the folder next to the store, without the store: there may not be any yet. So the first
command makes the store.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from evaluator.errors import SourceError, StoreError
from evaluator.permissions import is_private
from evaluator.pipeline.base import Say, say_nothing
from evaluator.pipeline.landing import land_release
from evaluator.segments import data_folder, to_folder_name
from evaluator.sources.recording import MANIFEST_NAME, RunManifest
from evaluator.store import Store
from evaluator.store.base import check_data_are_there
from evaluator.store.control_file import control_path
from evaluator.store.file import WAIT_S

_log = logging.getLogger("evaluator")


def is_store_there(path: Path) -> bool:
    """Whether `open_store` would find a store, or make one because requests were recorded next to it."""
    return path.exists() or any(isinstance(found, RunManifest) for found in _find_recordings(data_folder(path)))


def open_store(
    path: Path,
    *,
    create: bool = False,
    private: bool = False,
    decisions_only: bool = False,
    wait_s: float = WAIT_S,
) -> Store:
    """Open the store at `path`, and make it if requests were recorded next to it, or with `create`.

    `private`, `decisions_only` and `wait_s`: as in `Store.open`; a store is private, too, if the folder next to it is:
    a recording that was to be private has made it so. Raises StoreError.
    """
    path = path.absolute()
    if decisions_only and control_path(path).exists():
        return Store.open(path, decisions_only=True, wait_s=wait_s)
    check_data_are_there(path)
    private = private or is_private(data_folder(path))
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

    Those that cannot be read are left out, with a warning in the log; so are all if the store may only be read. `say`
    receives a message for each release.
    """
    releases: dict[str, None] = {}  # an ordered set
    for found in _find_recordings(store.file.folder, except_runs=store.data.list_runs()):
        if isinstance(found, SourceError):
            _log.warning("%s; %s", found.message, found.hint)
        else:
            releases[found.release] = None
    for release in releases:
        say(f"found a recording of {release}: reading it")
        try:
            land_release(store, release)
        except (SourceError, StoreError) as error:
            _log.warning("the recording of %s was not read: %s; %s", release, error.message, error.hint)


def _find_recordings(folder: Path, *, except_runs: Iterable[str] = ()) -> Iterator[RunManifest | SourceError]:
    """Read the manifests of all recordings in the folder of a store, in the order of their paths.

    `except_runs`: ids of runs whose manifests are not read. Yields an error in place of a manifest that cannot be read.
    A folder that is missing, or may not be read, has none.
    """
    known_folders = {to_folder_name(run) for run in except_runs}
    for path in sorted(folder.glob(f"*/*/{MANIFEST_NAME}")):
        if path.parent.name in known_folders:
            continue
        try:
            yield RunManifest.read(path)
        except SourceError as error:
            yield error
