"""Recordings as users leave them who start Locust themselves: in a folder, without a store."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from evaluator.segments import REQUEST_SCHEMA, SegmentWriter, data_folder, make_table, run_folder
from evaluator.sources.recording import RunManifest, WorkerFacts


def record(store: Path, release: str, *, run: str = "run-1", requests: int = 40) -> Path:
    """Write what a recorder writes for a run of `requests` requests an arm, and return the run's folder."""
    folder = run_folder(data_folder(store), release, run)
    writer = SegmentWriter(folder, "host-1")
    started = time.time() - 60
    for arm in ("baseline", "canary"):
        columns = {
            "run": run, "arm": arm, "service": "", "instance": arm, "worker": "host-1", "endpoint": "GET /",
            "ts": pa.array((1e6 * (started + np.arange(requests) / 10)).astype("int64"), pa.timestamp("us", "UTC")),
            "response_time_ms": np.linspace(9, 11, requests), "failed": np.zeros(requests, bool),
        }  # fmt: skip
        writer.write(make_table(REQUEST_SCHEMA, columns, requests))
    facts = WorkerFacts("host-1", "local", started=started, ended=time.time(), counted=2 * requests, closed=True)
    facts.write(folder)
    RunManifest(run, release, "", started, None, {}).write(folder)
    return folder
