"""Memory and time of hostile or careless inputs: names that differ in each request, lines without an end, bombs.

Each command runs in its own process. Exits with 1 if one takes more memory than is promised.

python benchmarks/bounds.py
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MOST_MB_NAMES = 1000
MOST_MB_LINES = 500
START_US = 1_780_000_000_000_000
OUTCOMES = b"user_id,variant,bought\n"
HEADER = b"ts,endpoint,response_time_ms,failed\n"
MIB = b"a" * (1 << 20)


def main() -> None:
    """Write each input, run the commands on it, and print a table."""
    too_much = False
    print(f"{'input':<34} {'command':<8} {'exit':>4} {'CPU s':>6} {'MB':>6} {'at most':>8}")
    with tempfile.TemporaryDirectory() as place:
        for name, arguments, most_mb in write_inputs(Path(place)):
            store = Path(place) / f"{name.replace(' ', '-')}.duckdb"
            commands = [["import", "x", *arguments]]
            if most_mb == MOST_MB_NAMES:
                report = f"html={Path(place) / 'report.html'}"
                commands += [["verdict", "x"], ["verdict", "x", "--dry-run", "--format", report]]
            for command in commands:
                code, cpu_s, memory_mb = run(["--store", str(store), *command])
                too_much = too_much or memory_mb > most_mb
                shown = "report" if "--dry-run" in command else command[0]
                print(f"{name:<34} {shown:<8} {code:>4} {cpu_s:>6.1f} {memory_mb:>6} {most_mb:>8}", flush=True)
    sys.exit(1 if too_much else 0)


def write_inputs(folder: Path) -> Iterable[tuple[str, list[str], int]]:
    """Write one input after another; yields its name, the arguments of `import`, and the most memory (MB)."""
    yield from write_many_names(folder)
    row, unit = b"1780000000,GET /a,5,false\n", b"u1,control,1\n"
    for name, option, start, ending in (
        ("2 GB as the header", "--baseline", b"", "csv"),
        ("2 GB as a row", "--baseline", HEADER + row, "csv"),
        ("2 GB in a quote", "--baseline", HEADER + row * 200 + b'1780000000,"', "csv"),
        ("2 GB as a number of k6", "--baseline", b'{"metric":"http_req_duration","data":{"value":1', "json"),
        ("2 GB as an attribute of XML", "--baseline", b'<testResults version="1.2"><sample t="5" lb="', "xml"),
        ("2 GB as the header of outcomes", "--outcomes", b"", "csv"),
        ("2 GB as a row of outcomes", "--outcomes", OUTCOMES + unit, "csv"),
        ("2 GB in a quote of outcomes", "--outcomes", OUTCOMES + unit * 50_000 + b'"', "csv"),
    ):
        path = folder / f"line.{ending}.gz"
        with gzip.open(path, "wb", compresslevel=6) as file:
            file.write(start)
            for _ in range(2048):
                file.write(MIB)
        yield name, [option, str(path)], MOST_MB_LINES
    path = folder / "bomb.arrow"
    table = pa.table({"ts": pa.array(np.zeros(1 << 28, np.int64))})
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    del table
    yield "2 GB in a batch of Arrow", ["--baseline", str(path)], MOST_MB_LINES


def write_many_names(folder: Path) -> Iterable[tuple[str, list[str], int]]:
    """Write files with very many names; yields the same as `write_inputs`."""
    for name, rows, endpoints, instances in (
        ("60,000 endpoints", 240_000, 60_000, 3),
        ("60,000 instances", 240_000, 5, 60_000),
        ("60,000 endpoints and instances", 240_000, 60_000, 60_000),
        ("60,000 endpoints, 60 times each", 3_600_000, 60_000, 3),
    ):
        paths = [folder / f"{arm}.parquet" for arm in ("baseline", "canary")]
        for seed, path in enumerate(paths):
            write_requests(path, rows, endpoints, instances, seed)
        yield name, ["--baseline", str(paths[0]), "--canary", str(paths[1])], MOST_MB_NAMES


def write_requests(path: Path, rows: int, endpoints: int, instances: int, seed: int) -> None:
    """Write requests of ten minutes with so many different names of endpoints and instances."""
    numbers = np.arange(rows)
    names = pa.array([f"GET /cart/{k}" for k in range(endpoints)])
    own = pa.array([f"{seed}-{k}" for k in range(instances)])
    columns = {
        "ts": pa.array(START_US + numbers * (600_000_000 // rows), pa.timestamp("us", "UTC")),
        "endpoint": names.take(pa.array(numbers % endpoints)),
        "instance": own.take(pa.array(numbers // 7 % instances)),
        "response_time_ms": pa.array(np.random.default_rng(seed).lognormal(4, 0.5, rows)),
        "failed": pa.array(np.zeros(rows, bool)),
    }
    pq.write_table(pa.table(columns), path)


def run(words: list[str]) -> tuple[int, float, int]:
    """Run a command of the evaluator; returns its exit code, CPU time (s) and peak memory (MB)."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "evaluator", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if time.monotonic() - began > 1800:
        sys.exit(f"{' '.join(words)} took more than half an hour")
    return process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024


if __name__ == "__main__":
    main()
