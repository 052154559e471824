"""A store, runs in it, and segments for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from evaluator.records import Release, Run, Service
from evaluator.segments import REQUEST_SCHEMA, SegmentWriter, make_table
from evaluator.store import Store

START = datetime(2026, 10, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "evaluator.duckdb", create=True)


@pytest.fixture
def new_run(store):
    """Register a run of `seconds` and return it."""

    def register(run_id="run-1", *, release="cart@2", group=None, replicate=0, seconds=60, into=store) -> Run:
        run = Run(
            run_id,
            release,
            group or run_id,
            "locust",
            replicate=replicate,
            started=START,
            planned_end=START + timedelta(seconds=seconds),
        )
        into.data.register_run(Release(release, (Service("cart", "1", "2"),)), run)
        return run

    return register


def make_rows(count: int, *, seed: int = 0, seconds: float = 60, run: str = "run-1", **columns) -> pa.Table:
    """Random request rows; `columns` replace some of them."""
    rng = np.random.default_rng(seed)
    failed = rng.uniform(size=count) < 0.1
    chosen = {
        "run": run,
        "arm": rng.choice(["baseline", "canary"], count).tolist(),
        "service": "cart",
        "instance": rng.choice(["pod-1", "pod-2", ""], count).tolist(),
        "worker": "w",
        "ts": [START + timedelta(seconds=float(s)) for s in rng.uniform(0, seconds, count)],
        "endpoint": rng.choice(["GET /", "POST /cart"], count).tolist(),
        "response_time_ms": rng.lognormal(3, 1, count),
        "response_bytes": rng.integers(0, 10_000, count),
        "status_code": np.where(failed, 503, 200),
        "failed": failed,
        "exception": [f"boom {k % 3}" if bad else None for k, bad in enumerate(failed)],
        "user_count": rng.integers(1, 50, count),
    }
    return make_table(REQUEST_SCHEMA, chosen | columns, count)


@pytest.fixture
def rows():
    return make_rows


@pytest.fixture
def write():
    """Write tables as segments of one worker into a folder; returns their paths."""

    def write_segments(folder: Path, tables, worker="w") -> list[Path]:
        writer = SegmentWriter(folder, worker)
        paths = [writer.write(table) for table in tables]
        writer.close()
        return paths

    return write_segments
