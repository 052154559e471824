"""Import of DuckDB that Ctrl-C cannot interrupt: a Ctrl-C during it would abort the process."""

from __future__ import annotations

import signal
import threading

__all__: list[str] = []


def _import_whole() -> None:
    """Import it, and deliver a Ctrl-C afterwards; only the main thread receives signals."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        import duckdb

        return
    received: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: received.append(number))
    try:
        import duckdb  # noqa: F401 - only the import matters
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        signal.raise_signal(signal.SIGINT)


_import_whole()
