"""Write simulated requests as request segments, as a recorder does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from evaluator.records.arrays import BoolArray, IntArray
from evaluator.segments import REQUEST_SCHEMA, SegmentWriter, make_table
from evaluator.simulate.requests import Requests


def to_parquet(requests: Requests, folder: Path, *, service: str = "", rows: int = 1_000_000) -> tuple[Path, ...]:
    """Write the segments of each run into `folder/<run>/`, in the order of time, each with at most `rows` rows.

    Returns the paths of the segments. Raises OSError if the folder cannot be written.
    """
    paths: list[Path] = []
    for code, run in enumerate(requests.runs):
        chosen = np.flatnonzero(requests.run == code)
        chosen = chosen[np.argsort(requests.ts_us[chosen], kind="stable")]
        writer = SegmentWriter(folder / run, "simulate")
        pieces = [chosen[start : start + rows] for start in range(0, len(chosen), rows)]
        paths += [writer.write(_make_table(requests, piece, service)) for piece in pieces]
        writer.close()
    return tuple(paths)


def _make_table(requests: Requests, rows: IntArray, service: str) -> pa.Table:
    exception, status = requests.exception[rows], requests.status[rows]
    columns = {
        "run": _name(requests.runs, requests.run[rows]),
        "arm": _name(requests.arms, requests.arm[rows]),
        "service": service,
        "instance": _name(requests.instances, requests.instance[rows]),
        "worker": "simulate",
        "ts": pa.array(requests.ts_us[rows]).cast(pa.timestamp("us", tz="UTC")),
        "endpoint": _name(requests.endpoints, requests.endpoint[rows]),
        "response_time_ms": pa.array(requests.response_us[rows] / 1000.0),
        "response_bytes": pa.array(requests.response_bytes[rows]),
        "status_code": pa.array(status, pa.int16(), mask=status < 0),
        "failed": pa.array(requests.failed[rows]),
        "exception": _name(requests.exceptions, exception, missing=exception == 0),
    }
    if requests.users is not None:
        columns["user_count"] = pa.array(requests.users[rows], pa.int32())
    return make_table(REQUEST_SCHEMA, columns, len(rows))


def _name(names: tuple[str, ...], codes: IntArray, missing: BoolArray | None = None) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32(), mask=missing), pa.array(names, pa.string()))
