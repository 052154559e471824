"""Time of a write to the decisions while 20 processes write, compared with a bare write of SQLite under the same load.

Both flush each commit to the disk. Meanwhile a DuckDB shell has the data open, which must not matter.

python benchmarks/control.py [WRITES]       (each process; default: 100)
"""

from __future__ import annotations

import multiprocessing
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import duckdb

from evaluator.records import Release
from evaluator.store import Store

PROCESSES = 20
TO_REACH = 5.0
_ROW = "x" * 200


def main() -> None:
    """Measure both in turn, and print the 50th and 99th percentiles with their ratio."""
    writes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "evaluator.duckdb", create=True)
        store.control.add_release(Release("cart@1"))
        bare = Path(folder) / "bare.sqlite"
        with sqlite3.connect(bare) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE notes (number INTEGER PRIMARY KEY, text TEXT)")
        with duckdb.connect(store.path, read_only=True):
            ours = measure(partial(write_note, store.path), writes)
            theirs = measure(partial(write_bare, bare), writes)
        store.control.verify_audit()
    print(f"a write, ms, {PROCESSES} processes, {writes} writes each, while a shell reads the data")
    print(f"{'':<12} {'median':>7} {'p99':>7}")
    for name, times in (("bare SQLite", theirs), ("decisions", ours)):
        print(f"{name:<12} {statistics.median(times):>7.1f} {find_p99(times):>7.1f}")
    print(f"ratio at the 99th percentile: {find_p99(ours) / find_p99(theirs):.2f} (to reach: at most {TO_REACH})")


def find_p99(times: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(times, n=100)[98]


def measure(write: Callable[[], None], writes: int) -> list[float]:
    """Return the milliseconds of each write of all processes."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        return [
            ms for times in pool.map(partial(time_writes, write), [writes] * PROCESSES, chunksize=1) for ms in times
        ]


def time_writes(write: Callable[[], None], writes: int) -> list[float]:
    """Write, and return the milliseconds of each write."""
    write()  # what is imported at the first use does not count
    times = []
    for _ in range(writes):
        started = time.perf_counter()
        write()
        times.append((time.perf_counter() - started) * 1000)
    return times


def write_note(path: Path) -> None:
    """Write a note with its row in the audit trail."""
    Store.open(path, decisions_only=True).control.note("ann", "note", "cart@1", _ROW)


def write_bare(path: Path) -> None:
    """Write the same text into a table."""
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO notes (text) VALUES (?)", [_ROW])
        connection.execute("COMMIT")
    finally:
        connection.close()


if __name__ == "__main__":
    main()
