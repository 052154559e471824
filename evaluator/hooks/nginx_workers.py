"""Whether a running nginx took a new configuration: its master process then starts new workers.

`nginx -s reload` only sends a signal. A master that cannot use the configuration, such as for a port that is in use,
writes that to its error log and keeps the old workers. https://nginx.org/en/docs/control.html#reconfiguration
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_PID_FILE = re.compile(r"^\s*pid\s+\"?(/[^;\s\"]+)\"?\s*;", re.MULTILINE)
_LOCAL_PROGRAMS = ("nginx", "openresty", "sudo", "doas")
"""Programs that call the nginx of this machine; others, such as `docker`, may call one elsewhere."""
_POLL_S = 0.02


def find_workers(command: Sequence[str], configuration: str) -> frozenset[int] | None:
    """Find the process ids of the workers of a running nginx; None if they cannot be known here.

    `command`: calls nginx. `configuration`: what `nginx -T` wrote, which names the file with the id of the master
    process. Only Linux lists the children of a process.
    """
    pid_file = _PID_FILE.search(configuration)
    if not pid_file or Path(command[0]).name not in _LOCAL_PROGRAMS:
        return None
    try:
        master = int(Path(pid_file[1]).read_text(encoding="ascii"))
        name = Path(f"/proc/{master}/comm").read_text(encoding="utf-8").strip()
        children = Path(f"/proc/{master}/task/{master}/children").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    # Without children, it serves by itself (master_process off). Another program may have the id of an ended one.
    return frozenset(map(int, children)) if children and name in _LOCAL_PROGRAMS else None


def wait_for_new(earlier: frozenset[int], find: Callable[[], frozenset[int] | None], limit_s: float) -> bool:
    """Wait until nginx has a worker that is not among the `earlier` ones, at most `limit_s` seconds; has it one?

    `find` returns the workers of now. If they cannot be known any more, it has none.
    """
    deadline = time.monotonic() + limit_s
    while not (find() or frozenset()) - earlier:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True
