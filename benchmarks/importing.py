"""Speed of importing a file of requests, compared with DuckDB's own CSV reader that writes the same file as Parquet.

Each job runs in its own process. The import also hashes the file, checks each row and rolls all rows up.

python benchmarks/importing.py [ROWS]       (default: 10,000,000)
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from evaluator.store.engine import open_engine, quote

ROUNDS = 3
TO_REACH = 0.9
MOST_MB = 800

_ROWS = """
SELECT
    1790000000000 + k * 3600000 // {rows} AS ms, 20 + CAST(floor(exp(3 + random())) AS INTEGER) AS elapsed,
    'GET /api/v1/resource-' || k % 20 || '/items' AS label, random() < 0.01 AS bad, k
FROM range({rows}) AS numbers(k)
"""

FILES: Mapping[str, str] = {
    "requests.jtl": """
        SELECT
            ms AS timeStamp, elapsed, label, CASE WHEN bad THEN 500 ELSE 200 END AS responseCode,
            CASE WHEN bad THEN 'Internal Server Error' ELSE 'OK' END AS responseMessage,
            'Thread Group 1-' || k % 50 + 1 AS threadName, 'text' AS dataType, NOT bad AS success,
            CASE WHEN bad THEN 'Test failed: code expected to match /200/' END AS failureMessage,
            100 + k * 7919 % 5000 AS bytes, 120 + k % 40 AS sentBytes, 50 AS grpThreads, 50 AS allThreads,
            'http://127.0.0.1:8080/api/v1/resource-' || k % 20 || '/items' AS URL, elapsed - k % 7 AS Latency,
            0 AS IdleTime, k % 3 AS Connect""",
    "locust.csv": """
        SELECT
            printf('%.6f', ms / 1000.0) AS timestamp, 'GET' AS request_type, label AS name,
            round(elapsed + random(), 3) AS response_time_ms, 100 + k * 7919 % 5000 AS response_length,
            CASE WHEN bad THEN 500 ELSE 200 END AS status_code,
            CASE WHEN bad THEN 'HTTPError(''500 Server Error'')' END AS exception""",
}
"""File → its columns, as the tool writes them."""

COPY = """
import sys, time, duckdb
engine = duckdb.connect()
started = time.perf_counter()
engine.execute(f"COPY (SELECT * FROM read_csv('{sys.argv[1]}')) TO '{sys.argv[2]}' (FORMAT parquet)")
print(time.perf_counter() - started)
"""

IMPORT = """
import sys, time
from pathlib import Path
from evaluator.pipeline.importing import import_release
from evaluator.records import Release
from evaluator.sources.files import plan_landing
from evaluator.store import Store
store = Store.open(Path(sys.argv[2]), create=True)
started = time.perf_counter()
import_release(store, Release("bench"), plan_landing({"baseline": [sys.argv[1]]}))
print(time.perf_counter() - started)
"""


def main() -> None:
    """Write each file, then time both jobs in turn, and print a table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    print(f"import of {rows:,} requests, median of {ROUNDS} interleaved rounds")
    print(f"{'file':<13} {'duckdb s':>8} {'import s':>8} {'rate':>6} {'to reach':>9} {'MB':>5} {'at most':>8}")
    for name, columns in FILES.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_file(folder / name, columns, rows)
            ours, theirs = measure(folder, folder / name)
        peak_mb = max(memory_mb for _, memory_mb in ours)
        own, copy = (statistics.median(seconds for seconds, _ in times) for times in (ours, theirs))
        row = f"{name:<13} {copy:>8.2f} {own:>8.2f} {copy / own:>6.2f} {TO_REACH:>9} {peak_mb:>5} {MOST_MB:>8}"
        print(row, flush=True)


def write_file(path: Path, columns: str, rows: int) -> None:
    """Write a file with one hour of requests in the format of a tool."""
    with open_engine() as engine:
        engine.execute("SELECT setseed(0.5)")
        engine.execute(f"COPY ({columns} FROM ({_ROWS.format(rows=rows)})) TO {quote(str(path))} (FORMAT csv, HEADER)")


def measure(folder: Path, file: Path) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
    """Return seconds and peak memory (MB) of each import and each copy, after a round that fills the page cache."""
    ours, theirs = [], []
    for number in range(ROUNDS + 1):
        theirs.append(run(COPY, file, folder / "copy.parquet"))
        ours.append(run(IMPORT, file, folder / f"{number}.duckdb"))
    return ours[1:], theirs[1:]


def run(code: str, *arguments: Path | str) -> tuple[float, int]:
    """Run Python code in its own process; return the seconds that it prints, and its peak memory (MB)."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, process.returncode, usage = os.wait4(process.pid, 0)
    if process.returncode:
        sys.exit(f"the job ended with status {process.returncode}")
    # Python counts code given with -c as interactive, so DuckDB draws its progress before the last line.
    return float(output.split()[-1]), usage.ru_maxrss // 1024


if __name__ == "__main__":
    main()
