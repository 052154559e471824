"""Files of requests as another tool would leave them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START_S = 1_780_000_000
RESTART_S = 10
"""Between the runs of a repeated test."""


def write_requests(path, *, slower=1.0, seed=0, rate=40, seconds=90, repeat=0):
    """Write the requests of one run to a Parquet file; `repeat`: so many runs of the test were before it."""
    random = np.random.default_rng(seed)
    n = rate * seconds
    start_us = (START_S + repeat * (seconds + RESTART_S)) * 1_000_000
    times = {
        "ts": pa.array(start_us + np.sort(random.integers(0, seconds * 1_000_000, n)), pa.timestamp("us", "UTC")),
        "endpoint": pa.array(np.where(random.random(n) < 0.7, "GET /a", "POST /b")),
        "response_time_ms": pa.array(slower * random.lognormal(3.0, 0.3, n)),
        "failed": pa.array(np.zeros(n, bool)),
    }
    pq.write_table(pa.table(times), path)
