"""Threads of the app that end with its server, after what they have begun."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

_PATIENCE_S = 1.0
"""How long the end of a thread is awaited in silence, in seconds."""
_stop = threading.Event()
_threads: list[threading.Thread] = []


def start_thread(run: Callable[[threading.Event], object], name: str) -> threading.Thread:
    """Start a thread that calls `run` with an event: once that is set, the thread has to end.

    A process that is killed does not wait for the thread.
    """
    thread = threading.Thread(target=run, args=(_stop,), daemon=True, name=name)
    _threads.append(thread)
    thread.start()
    return thread


def stop_threads() -> None:
    """Let threads begin nothing else. Returns at once; not for a handler of a signal, which may interrupt this."""
    _stop.set()


def end_threads(say: Callable[[str], None]) -> None:
    """Let all threads end after what they have begun; `say` is called with a sentence if that takes a while."""
    stop_threads()
    for thread in _threads:
        thread.join(_PATIENCE_S)
        if thread.is_alive():
            with contextlib.suppress(OSError):  # a terminal that was closed
                say(f"the {thread.name} completes the hooks that it executes; Ctrl-C again does not wait for that")
            thread.join()
