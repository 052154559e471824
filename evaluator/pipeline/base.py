"""What the stations of the corridor share."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import get_native_id

Say = Callable[[str], None]


def say_nothing(_: str) -> None:
    """Tell nobody."""


def lower_priority() -> None:
    """Let the load generator go first: this thread, and those that it starts, get what is left."""
    os.setpriority(os.PRIO_PROCESS, get_native_id(), 10)
