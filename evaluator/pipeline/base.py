"""What several modules of this package share."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import get_native_id

Say = Callable[[str], None]

LOW_PRIORITY = 10
"""Niceness: 0 is usual, 19 the lowest priority."""


def say_nothing(_: str) -> None:
    """Drop a message: the default of `say`."""


def lower_priority() -> None:
    """Lower the CPU priority of the calling thread and of threads that it starts: the load generator goes first."""
    os.setpriority(os.PRIO_PROCESS, get_native_id(), LOW_PRIORITY)
