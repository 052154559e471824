"""DuckDB's library, imported whole: Ctrl-C in the midst of that would abort the process instead of interrupting it."""

from __future__ import annotations

import signal
import threading

__all__: list[str] = []


def _import_whole() -> None:
    """Import it, and let Ctrl-C be heard afterwards: by the main thread, which alone hears it."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        import duckdb

        return
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: heard.append(number))
    try:
        import duckdb  # noqa: F401 - that it is there is all that is wanted
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        signal.raise_signal(signal.SIGINT)


_import_whole()
