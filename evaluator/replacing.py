"""Replace a file in one step: readers find all of the old text or all of the new, whatever happens meanwhile."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

_SUFFIX = ".tmp"
_LONGEST_PREFIX = 40
"""Most characters of a file's name in that of its temporary file: names have at most 255 bytes."""


def replace_file(path: Path, text: str, mode: int) -> None:
    """Write a text as UTF-8 into a file with the permissions `mode`, such as 0o644. Raises OSError.

    The text goes to a hidden temporary file in the same folder, which then replaces the file. Temporary files of this
    file that killed processes have left behind are deleted.
    """
    _remove_abandoned(path)
    unfinished, handle = _make_locked(path)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)  # after a power failure, the new name must not lead to an empty file
            unfinished.chmod(mode)
            unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _name_prefix(path: Path) -> str:
    """Return the beginning of the names of a file's temporary files, which are hidden."""
    return f".{path.name[:_LONGEST_PREFIX]}."


def _make_locked(path: Path) -> tuple[Path, int]:
    """Make a temporary file, which only its owner can read. Returns its path and its open handle.

    It is locked as long as it is open: no process deletes it then.
    """
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_name_prefix(path), suffix=_SUFFIX)
        with suppress(OSError):  # a file system without locks: then no process can lock it, and none deletes it
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):  # noqa: PTH110 - else another process took the new file for an abandoned one
            return Path(name), handle
        os.close(handle)


def _remove_abandoned(path: Path) -> None:
    """Delete temporary files of a file that no process has open: the lock of a process that was killed is free."""
    pattern = re.compile(re.escape(_name_prefix(path)) + r"[a-z0-9_]{8}" + re.escape(_SUFFIX))
    with suppress(OSError):
        for found in path.parent.iterdir():
            if pattern.fullmatch(found.name):
                _remove_if_unlocked(found)


def _remove_if_unlocked(path: Path) -> None:
    """Delete a file of this user unless a process has locked it."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if os.fstat(handle).st_uid == os.geteuid():
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if it is locked
                path.unlink()
        finally:
            os.close(handle)
