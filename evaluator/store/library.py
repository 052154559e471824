"""Import of DuckDB that Ctrl-C cannot interrupt: a Ctrl-C during it would abort the process."""

from __future__ import annotations

import signal
import threading

__all__: list[str] = []


def _import_duckdb() -> None:
    """Import DuckDB while a Ctrl-C is held back, because it would abort the process; deliver the Ctrl-C afterwards."""
    handler = signal.getsignal(signal.SIGINT)
    # Only the main thread receives signals. A handler that was not set in Python (`None`) could not be restored.
    if threading.current_thread() is not threading.main_thread() or handler is None:
        import duckdb

        return
    received_signals: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: received_signals.append(number))
    try:
        import duckdb  # noqa: F401 - only the import matters
    finally:
        signal.signal(signal.SIGINT, handler)
    if received_signals:
        signal.raise_signal(signal.SIGINT)


_import_duckdb()
