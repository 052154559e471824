"""What ends a command that executes hooks: a first signal lets it complete them, a second one does not wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from evaluator.cli import Session

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, `kill` or a service manager, and a terminal that is closed."""


@contextmanager
def completing_hooks(session: Session, stop: threading.Event) -> Iterator[list[int]]:
    """Let hooks that are executed inside the `with` block be completed when a signal asks the process to end.

    A program that a hook has started would live on otherwise, and what it changes could overtake a rollback. The first
    signal sets `stop`; from then on, signals act as before the block. Yields the received signals: at most one.
    Outside of the main thread, where Python allows no handlers, signals are not changed.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    # A signal that is ignored stays ignored: `nohup` lets the command live on after its terminal.
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    earlier = {number: signal.getsignal(number) for number in heard}

    def restore() -> None:
        """Let signals act as before."""
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def complete(number: int, _frame: FrameType | None) -> None:
        """Note the first signal, and let the next one end the process."""
        received.append(number)
        restore()
        stop.set()
        with suppress(OSError):  # the terminal may be closed
            session.say("it ends after the hooks that are being executed; a second signal does not wait for them")

    for number in heard:
        signal.signal(number, complete)
    try:
        yield received
    finally:
        restore()
