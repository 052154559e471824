"""New decisions for data whose file of decisions is lost, and for which there is no backup."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from evaluator.errors import StoreError
from evaluator.permissions import is_private, private_files
from evaluator.records import Release, Service
from evaluator.store import restarts
from evaluator.store.control import Control
from evaluator.store.control_file import ControlFile, control_path
from evaluator.store.file import WAIT_S, StoreFile
from evaluator.store.migrations import read_version
from evaluator.store.releases import put_release
from evaluator.store.temporary import unfinished_folder


@dataclass(frozen=True, slots=True)
class NewDecisions:
    """What new decisions begin with."""

    releases: tuple[Release, ...]
    """Those of the data. Their versions are lost, and their services unless a run names them."""


def begin_decisions(path: Path, actor: str, reason: str) -> NewDecisions:
    """Make a new file of decisions for the data at `path`, whose audit trail begins with the loss of those before.

    `actor` and `reason`: for that row. Raises StoreError, also if there is such a file: then nothing was lost.
    """
    path = Path(path).absolute()
    target = control_path(path)
    if os.path.lexists(target):
        raise StoreError(
            f"{target} is there: its decisions are not lost",
            hint="if it is damaged and there is no backup, move it to another folder first",
        )
    file = StoreFile(path)
    with file.opened() as engine:
        read_version(engine, path)  # raises StoreError for another database, or a newer one
        rows = engine.execute(
            """SELECT release, list(DISTINCT service) FILTER (service <> ''), min(coalesce(started, ended))
            FROM store.runs GROUP BY release ORDER BY release"""
        ).fetchall()
    releases = tuple(
        Release(release, tuple(Service(name) for name in sorted(services or ())), {}, at and at.astimezone(UTC))
        for release, services, at in rows
    )
    try:
        with private_files(when=is_private(path)), unfinished_folder(path.parent, f".{target.name}.new-") as folder:
            control = Control(ControlFile(folder / path.name, WAIT_S))
            control.file.make()
            with control.file.opened(write=True) as connection:
                for release in releases:
                    put_release(connection, release)
            text = f"new decisions: verdicts, requests and the audit trail before are lost; {reason}"
            restarts.restart(control.file, restarts.BEGUN, actor, text, last_intent=0)
            os.link(control.file.path, target)  # fails if another process was faster
    except OSError as error:
        raise StoreError(f"{target} cannot be made: {error.strerror}", hint="check the permissions") from error
    return NewDecisions(releases)
