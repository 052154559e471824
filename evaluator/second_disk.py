"""Where the second copy of an important file is kept: on another file system than the first, where there is one."""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from pathlib import Path


def find_second_path(store: Path, suffix: str) -> Path | None:
    """Find the path of the second copy of a file of a store, which ends with `suffix`; None where there is no place.

    It is in the folder that XDG_STATE_HOME names; without it, in the user's state folder, or in a folder of the system
    that is kept or in memory, whichever is on another file system than the store. Others may write to some of these
    folders: check the owner of what is there.
    """
    # Machines may share the folder of the user, and each have a store at the same path.
    identity = _read_machine_id() + os.fsencode(store.absolute())
    name = f"evaluator-{zlib.crc32(identity):08x}-{os.getuid()}{suffix}"
    if state := os.environ.get("XDG_STATE_HOME"):
        return Path(state) / name
    for folder in (Path.home() / ".local" / "state", Path("/var/tmp"), Path("/dev/shm")):  # noqa: S108 - see above
        with suppress(OSError):
            if os.access(folder, os.W_OK) and folder.stat().st_dev != store.absolute().parent.stat().st_dev:
                return folder / name
    return None


def _read_machine_id() -> bytes:
    """Read the identity of this machine; empty where there is none, as in containers."""
    with suppress(OSError):
        return Path("/etc/machine-id").read_bytes()
    return b""
