"""Speed of the roll-up of request rows to cells, compared with a raw scan of the same files in the same process.

python benchmarks/rollup.py [ROWS]       (default: 10,000,000)
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.records import MICROSECONDS
from evaluator.segments import REQUEST_SCHEMA, segment_name
from evaluator.store.engine import Engine, open_engine
from evaluator.store.rollup import MOMENTS_STEPS, roll_up

ROUNDS = 3
FILE_ROWS = 1_000_000
SPAN_S = 3600
BUCKET_S = 15
TO_REACH = {"moments": 1.3, "everything": 3.5}

RAW_SCAN = """
SELECT
    max(run), max(arm), max(service), max(instance), max(worker), max(ts), max(endpoint), max(exception),
    sum(response_time_ms), sum(response_bytes), sum(status_code), sum(user_count)
FROM read_parquet(?)
"""


def main() -> None:
    """Write the rows, then time the three jobs in turn, and print a table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory() as folder:
        paths = write_requests(Path(folder), rows)
        with open_engine() as engine:
            times = measure(engine, paths)
    scan = statistics.median(times["raw scan"])
    print(f"roll-up of {rows:,} requests, median of {ROUNDS} interleaved rounds")
    print(f"{'job':<12} {'seconds':>8} {'ratio':>7} {'to reach':>9}")
    for job, seconds in times.items():
        middle = statistics.median(seconds)
        goal = f"{TO_REACH[job]:.1f}" if job in TO_REACH else ""
        print(f"{job:<12} {middle:>8.2f} {middle / scan:>7.2f} {goal:>9}")


def measure(engine: Engine, paths: Sequence[Path]) -> dict[str, list[float]]:
    """Return the seconds of each job in each round, after one more round that fills the page cache."""
    listed = [str(path) for path in paths]
    jobs: dict[str, Callable[[], object]] = {
        "raw scan": lambda: engine.execute(RAW_SCAN, [listed]).fetchall(),
        "moments": lambda: roll_up(engine, paths, BUCKET_S, MICROSECONDS, steps=MOMENTS_STEPS),
        "everything": lambda: roll_up(engine, paths, BUCKET_S, MICROSECONDS),
    }
    times: dict[str, list[float]] = {job: [] for job in jobs}
    for round_number in range(ROUNDS + 1):
        for job, run in jobs.items():
            started = time.perf_counter()
            run()
            if round_number:
                times[job].append(time.perf_counter() - started)
    return times


def write_requests(folder: Path, rows: int) -> list[Path]:
    """Write one hour of requests of two arms, with four instances each and twenty endpoints."""
    random = np.random.default_rng(1)
    paths = []
    for number, first in enumerate(range(0, rows, FILE_ROWS)):
        count = min(FILE_ROWS, rows - first)
        begin, end = (1_790_000_000 + SPAN_S * edge / rows for edge in (first, first + count))
        path = folder / segment_name("bench", number)
        pq.write_table(make_requests(random, count, begin, end), path, compression="zstd", row_group_size=500_000)
        paths.append(path)
    return paths


def make_requests(random: np.random.Generator, count: int, begin_s: float, end_s: float) -> pa.Table:
    """Make request rows between two instants, in the order of time."""
    arm, endpoint = random.integers(0, 2, count), random.integers(0, 20, count)
    failed = random.uniform(size=count) < 0.01
    columns = {
        "run": name_rows(np.zeros(count), ["run-1"]),
        "arm": name_rows(arm, ["baseline", "canary"]),
        "service": name_rows(np.zeros(count), ["cart"]),
        "instance": name_rows(arm * 4 + random.integers(0, 4, count), [f"pod-{k}" for k in range(8)]),
        "worker": name_rows(random.integers(0, 2, count), ["w0", "w1"]),
        "ts": pa.array(np.sort(random.uniform(begin_s, end_s, count) * 1e6).astype(np.int64)).cast(
            REQUEST_SCHEMA.field("ts").type
        ),
        "endpoint": name_rows(endpoint, [f"GET /api/v1/resource-{k}/items" for k in range(20)]),
        "response_time_ms": pa.array(np.exp(random.normal(3 + endpoint * 0.05, 0.6))),
        "response_bytes": pa.array(random.integers(100, 5000, count)),
        "status_code": pa.array(np.where(failed, 500, 200).astype(np.int16)),
        "failed": pa.array(failed),
        "exception": name_rows(random.integers(0, 5, count), [f"HTTPError('50{k}')" for k in range(5)], where=failed),
        "user_count": pa.array(np.full(count, 50, np.int32)),
        "context": pa.nulls(count, REQUEST_SCHEMA.field("context").type),
    }
    return pa.table(columns, schema=REQUEST_SCHEMA)


def name_rows(codes: np.ndarray, names: Sequence[str], where: np.ndarray | None = None) -> pa.DictionaryArray:
    """Give each row the name with its code; no name where `where` is false."""
    indices = pa.array(codes.astype(np.int32), mask=None if where is None else ~where)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names))


if __name__ == "__main__":
    main()
