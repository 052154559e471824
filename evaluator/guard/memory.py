"""What the guard has seen of the router's counters, kept each second for a guard that is started again.

Without it, a guard that was killed would begin to count again, and see a candidate that hangs seconds later. Losing the
file costs only that: so it is not flushed, and what cannot be read is not used. Times are those of the clock that runs
since the system was started, which all processes share; so the file names that start.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SUFFIX = ".seen"
LONGEST_GAP_S = 30.0
"""After a longer time without a guard, the router may be another one: what was seen before says nothing."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Memory:
    """The file of one rollout."""

    def __init__(self, path: Path, key: str) -> None:
        """`path`: of the rollout's own file. `key`: of the rollout; another one of the same name has another."""
        self._path, self._key = path.with_suffix(SUFFIX), key

    def keep(self, at: float, seen: Mapping[str, Any]) -> None:
        """Keep what was seen until `at` (monotonic, s); a disk that fails does not stop the watch."""
        body = json.dumps({"key": self._key, "boot": _read_boot(), "at": at, "seen": seen}, separators=(",", ":"))
        draft = self._path.with_suffix(".draft")
        with contextlib.suppress(OSError):
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(body)
            draft.replace(self._path)

    def read(self, now: float) -> Mapping[str, Any]:
        """Read what was seen; empty if it is of another rollout or start of the system, or too old, or damaged."""
        try:
            plain = json.loads(self._path.read_bytes())
            is_own = plain["key"] == self._key and plain["boot"] == _read_boot() != ""
            seen = plain["seen"] if is_own and 0 <= now - float(plain["at"]) <= LONGEST_GAP_S else {}
        except (OSError, ValueError, TypeError, KeyError):
            return {}
        return seen if isinstance(seen, dict) else {}

    def forget(self) -> None:
        """Delete the file."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def _read_boot() -> str:
    """Read what identifies this start of the system; empty where it does not say."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
