"""Restoring a store from a backup.

All files are first copied next to the store, and compared with the manifest. Then they get their names, the file of
decisions last: a store without it is refused by every command. So an interrupted restore leaves a store that nothing
reads, and the next restore begins again. Files that were there before are moved to another folder, never deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from evaluator.errors import EvaluatorError, StoreError
from evaluator.permissions import private_files
from evaluator.records.intents import Intent
from evaluator.store import restarts
from evaluator.store.backup import DATA, DECISIONS, FORMAT, JOURNAL, MANIFEST, ROWS, Manifest, copy_and_hash
from evaluator.store.base import check_path
from evaluator.store.control import Control
from evaluator.store.control_file import VERSION, ControlFile, control_path
from evaluator.store.file import WAIT_S, StoreFile
from evaluator.store.journal import default_paths
from evaluator.store.locks import CLAIM, exclusive
from evaluator.store.migrations import SCHEMA_VERSION, bring_up_to_date, make_views
from evaluator.store.temporary import MARK, unfinished_folder

_LOGS = ("-wal", "-shm")
"""Suffixes of the files of SQLite next to its database."""
_RECORDER_SILENT_S = 15.0
"""A process that records writes its facts every few seconds."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored."""

    manifest: Manifest
    releases: int
    suspended: tuple[Intent, ...]
    """Requests that waited, or were being executed, when the backup was made: they are unknown now."""
    aside: Path | None
    """Folder with the files that were there before; `None`: there were none."""
    kept_journal: Path | None
    """The journal that was there: it may know more than that of the backup. `None`: there was none."""


def read_manifest(backup: Path) -> Manifest:
    """Read the manifest of a backup. Raises StoreError for what is no backup, or one of a newer evaluator."""
    try:
        values = json.loads((backup / MANIFEST).read_text(encoding="utf-8"))
        if values["format"] > FORMAT:
            raise _refuse_newer(backup, values, f"format {values['format']}, this one knows {FORMAT}")
        for what, known in (("data", SCHEMA_VERSION), ("decisions", VERSION)):
            if values["schemas"][what] > known:
                version = values["schemas"][what]
                raise _refuse_newer(backup, values, f"schema {version} of the {what}, this one knows {known}")
        _check_types(values)
        files = {name: (int(size), str(sha256)) for name, (size, sha256) in values["files"].items()}
        manifest = Manifest(**{part.name: values[part.name] for part in fields(Manifest)} | {"files": files})
    except FileNotFoundError:
        raise StoreError(
            f"{backup} is not a backup: it has no {MANIFEST}",
            hint="give the folder that `evaluator data backup` has made",
        ) from None
    except OSError as error:
        raise StoreError(f"the backup {backup} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"the manifest of the backup {backup} is damaged ({type(error).__name__})") from error
    for name in files:
        parts = PurePosixPath(name).parts
        is_of_store = name in (DATA, f"{DATA}.wal", DECISIONS, JOURNAL) or (len(parts) > 1 and parts[0] == ROWS)
        if not is_of_store or ".." in parts:
            raise StoreError(f"the manifest of the backup {backup} is damaged: it names '{name}'")
    if not {DATA, DECISIONS} <= set(files):
        raise StoreError(f"the manifest of the backup {backup} is damaged: it names no data, or no decisions")
    return manifest


def _check_types(values: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError if what is to be shown of a manifest has another type than it was written with."""
    datetime.fromisoformat(values["made_at"])
    texts = [values[name] for name in ("evaluator", "store", "audit_head", "changed_by_hand")]
    if not all(isinstance(text, str) for text in texts) or not isinstance(values["private"], bool):
        raise TypeError


def _refuse_newer(backup: Path, values: Mapping[str, Any], what: str) -> StoreError:
    """Make the error for a backup of a newer evaluator."""
    return StoreError(
        f"the backup {backup} was made by the newer evaluator {values.get('evaluator', '?')} ({what})",
        hint="upgrade the evaluator; nothing was written",
    )


def restore_backup(backup: Path, path: Path, actor: str, *, replace: bool = False, private: bool = False) -> Restored:
    """Restore the store at `path` from a backup.

    `actor`: who does it, for the audit trail. `replace`: move a store that is there to another folder, after which
    nothing uses it. `private`: let only the owner read it, as if the backup is of such a store. Requests that waited
    when the backup was made become unknown. Raises StoreError; nothing was changed then, or a second restore is
    possible.
    """
    path = Path(path).absolute()
    check_path(path)
    manifest = read_manifest(backup)
    prefix = f".{path.name[:40]}.restoring-"
    was_interrupted = any(path.parent.glob(f"{prefix}*/{MARK}")) and not control_path(path).exists()
    existing = _list_existing(path)
    if existing and not (replace or was_interrupted):
        raise StoreError(
            f"{existing[0]} exists already; nothing was restored",
            hint="with --replace, what is there is moved to another folder; or give another path with --store",
        )
    if not path.parent.is_dir():
        raise StoreError(f"there is no folder {path.parent}; nothing was restored", hint="make it first")
    check_unused(path)
    try:
        with private_files(when=private or manifest.private), unfinished_folder(path.parent, prefix) as folder:
            staged = folder / path.name
            _copy_verified(backup, manifest, staged)
            suspended, releases = _prepare(manifest, staged, actor, _find_last_intent(path))
            os.sync()  # one call for many files
            check_unused(path)
            aside, kept_journal = _put_in_place(staged, path)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise StoreError(
            f"the store {path} cannot be restored: {error.strerror or error}{where}",
            hint="check the permissions, and the space on the disk, then run the same command again",
        ) from error
    return Restored(manifest, releases, suspended, aside, kept_journal)


def _list_existing(path: Path) -> list[Path]:
    """List what is there of a store; a folder of request rows without any file does not count."""
    control, folder = control_path(path), StoreFile(path).folder
    existing = [file for file in (path, path.with_name(path.name + ".wal"), control) if os.path.lexists(file)]
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        existing.append(folder)
    return existing


# ------------------------------------------------------------------ whether the store is in use


def check_unused(path: Path) -> None:
    """Raise StoreError if a process uses the store at `path`: it would go on with files that are no longer its own."""
    user = next(_find_users(StoreFile(path)), "")
    if user:
        raise StoreError(f"the store {path} is in use: {user}", hint="end that first, then run the same command again")


def _find_users(file: StoreFile) -> Iterator[str]:
    """Yield a sentence for each process that uses the files of a store."""
    if _is_locked_by_other(file.path):
        yield "another process has it open"
    try:
        with closing(sqlite3.connect(f"{control_path(file.path).as_uri()}?mode=rw", uri=True, timeout=1.0)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except sqlite3.Error as error:  # a file that is damaged, or missing, is used by no process
        if "locked" in str(error):
            yield f"another process writes to {control_path(file.path)}"
    for lock in ControlFile(file.path, 0.0).locks_folder.glob("*.lock"):
        with exclusive(lock) as is_free:
            if not is_free:
                yield "an action is being executed"
    for lock in (*file.folder.glob("*/tail*.lock"), *file.folder.glob(f"*/*/{CLAIM}")):
        with exclusive(lock) as is_free:
            if not is_free:
                yield f"data are being read into {lock.parent}"
    for facts in file.folder.glob("*/*/facts-*.json"):
        with suppress(OSError, ValueError, AttributeError):
            is_open = not json.loads(facts.read_text(encoding="utf-8")).get("closed")
            if is_open and time.time() - facts.stat().st_mtime < _RECORDER_SILENT_S:
                yield f"requests are being recorded into {facts.parent}"


def _is_locked_by_other(path: Path) -> bool:
    """Whether another process has locked a DuckDB file, as DuckDB does it for readers and writers."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)  # this gives up the lock
    return False


# ------------------------------------------------------------------ copying and preparing


def _copy_verified(backup: Path, manifest: Manifest, staged: Path) -> None:
    """Copy the files of a backup to those of the store `staged`. Raises StoreError if one is not what was written."""
    file = StoreFile(staged)
    file.folder.mkdir()
    names = {
        DATA: file.path,
        f"{DATA}.wal": staged.with_name(staged.name + ".wal"),
        DECISIONS: control_path(staged),
        JOURNAL: default_paths(staged)[0],
    }
    for name, expected in manifest.files.items():
        target = names.get(name) or file.folder / PurePosixPath(name).relative_to(ROWS)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source = os.open(backup / name, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise StoreError(
                f"{name} of the backup {backup} cannot be read: {error.strerror}; nothing was restored",
                hint="restore another backup",
            ) from error
        with os.fdopen(source, "rb") as reader, target.open("xb") as writer:
            if copy_and_hash(reader, writer) != expected:
                raise StoreError(
                    f"{name} of the backup {backup} is not what was written; nothing was restored",
                    hint="restore another backup",
                )


def _prepare(manifest: Manifest, staged: Path, actor: str, last_intent: int) -> tuple[tuple[Intent, ...], int]:
    """Check the audit trail of a copied store, bring its schemas up to date, and record in it that it was restored.

    `last_intent`: highest number of a request that is known of. Returns the requests that are unknown now, and how many
    releases there are.
    """
    file = StoreFile(staged)
    control = Control(ControlFile(staged, WAIT_S))
    control.file.make()
    rows = control.audit()
    head = rows[-1].hash if rows else ""
    if (head, len(rows)) != (manifest.audit_head, manifest.audit_rows):
        raise StoreError("the audit trail of the backup does not end as its manifest says; nothing was restored")
    if not manifest.changed_by_hand:
        control.verify_audit()
    with closing(sqlite3.connect(control.file.path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    bring_up_to_date(file, control.file)
    if staged.name != manifest.store:
        make_views(file)
    last_intent = max([last_intent, *(int(intent.id.removeprefix("i")) for intent in control.intents())])
    made_at = f"{datetime.fromisoformat(manifest.made_at):%Y-%m-%d %H:%M} UTC"
    text = f"restored from a backup of {made_at}"
    suspended = restarts.restart(control.file, restarts.RESTORED, actor, text, last_intent)
    return suspended, len(control.releases())


def _find_last_intent(path: Path) -> int:
    """Find the highest number of a request that the files at `path` know of; 0: none."""
    numbers = [0]
    with suppress(EvaluatorError):
        control = ControlFile(path, 1.0)
        with control.opened() as connection:
            numbers += [row[0] for row in connection.execute("SELECT number FROM intents").fetchall()]
    return max(numbers)


# ------------------------------------------------------------------ the last step


def _put_in_place(staged: Path, path: Path) -> tuple[Path | None, Path | None]:
    """Give the files of the store `staged` their names, and move away what has these names. Raises OSError.

    Returns the folder with what was there, and the journal that was there and stays. The order makes an interrupted
    restore harmless: from the first step to the last, there is no file of decisions.
    """
    folder, control = StoreFile(path).folder, control_path(path)
    journal = default_paths(path)[0]
    aside = None
    if _list_existing(path):
        aside = _make_aside(path)
        for name in (control.name, *(control.name + suffix for suffix in _LOGS), path.name + ".wal"):
            with suppress(FileNotFoundError):
                (path.parent / name).rename(aside / name)
        if os.path.lexists(path):
            _keep_aside(path, aside / path.name)
    staged.replace(path)
    if os.path.lexists(folder):
        if aside is None:
            folder.rmdir()  # it is empty
        else:
            folder.rename(aside / folder.name)
    StoreFile(staged).folder.rename(folder)
    kept_journal = journal if os.path.lexists(journal) else None
    if kept_journal is None and default_paths(staged)[0].exists():
        default_paths(staged)[0].rename(journal)
    control_path(staged).rename(control)
    os.sync()  # the new names, too
    return aside, kept_journal


def _keep_aside(path: Path, copy: Path) -> None:
    """Give a file, which is about to be replaced, one more name. Raises OSError."""
    try:
        os.link(path, copy, follow_symlinks=False)
    except OSError:  # a file system without such links
        shutil.copy2(path, copy, follow_symlinks=False)


def _make_aside(path: Path) -> Path:
    """Make the folder that the files of a store are moved to, with a name that no other has."""
    name = f"{path.stem}.before-restore-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for number in range(1, 1000):
        aside = path.with_name(name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            aside.mkdir(mode=0o700)
            return aside
    raise StoreError(f"{name} and many other folders exist already", hint="delete some of them")
